"""The directory of a data set: whether it may be written, and how it comes into place."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmdet_droploss.utils import current_umask

from .options import STAMP_NAME, Options, UserError


def read_stamp(directory: Path) -> dict[str, Any] | None:
    """The options that a data set was made with; None if this program did not make it."""
    try:
        stamp = json.loads((directory / STAMP_NAME).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(stamp, dict):
        return None
    # Stamps of before there was a choice do not name it.
    val = "federated" if stamp.get("like_lvis") else "exhaustive"
    return {"val": val, "hidden": 1.0, **stamp}


def check_target(target: Path, options: Options, overwrite: bool) -> bool:
    """True if the target already is the requested data set; raises if it must not be touched."""
    if not target.exists():
        return False
    if not target.is_dir():
        raise UserError(f"OUT_DIR {target} is a file; give a directory")
    if not any(target.iterdir()):
        return False
    stamp = read_stamp(target)
    if stamp is None:
        # Deleting what another program wrote (the real LVIS, say) is never what one means.
        raise UserError(
            f"OUT_DIR {target} is not empty and was not written by this program (no "
            f"{STAMP_NAME} in it): give another directory, or remove it yourself; --overwrite "
            f"replaces only what this program wrote"
        )
    wanted = options.stamp()
    if stamp == wanted:
        return not overwrite
    if not overwrite:
        keys = [k for k in {**wanted, **stamp} if stamp.get(k) != wanted.get(k)]
        changes = ", ".join(f"{k} {stamp.get(k)} there, {wanted.get(k)} asked" for k in keys)
        raise UserError(
            f"OUT_DIR {target} holds a data set made with other options ({changes}): "
            f"give --overwrite to replace it, or another directory"
        )
    return False


def move_into_place(made: Path, target: Path) -> None:
    """Rename ``made`` to ``target``; an old data set goes only once the new one is complete."""
    old: Path | None = None
    if target.exists() and any(target.iterdir()):
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
        os.replace(target, old)
    try:
        os.replace(made, target)
    except OSError:
        if old is not None:
            os.replace(old, target)
        raise
    if old is not None:
        shutil.rmtree(old)


@contextlib.contextmanager
def made_beside(target: Path) -> Iterator[Path]:
    """An empty directory that becomes ``target`` in the end, and is deleted if that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    try:
        made.chmod(0o777 & ~current_umask())  # mkdtemp makes it private
        yield made
        move_into_place(made, target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
