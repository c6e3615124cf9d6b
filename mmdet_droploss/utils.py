"""Helpers that several modules share: files that appear whole or not at all, and their digests."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import xxhash


@contextlib.contextmanager
def open_atomically(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Write a file beside its place and rename it, so that no half-written file is ever seen."""
    path = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(path)}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o666 & ~current_umask())  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def current_umask() -> int:
    """The permissions that new files are not to have."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a whole file by :func:`open_atomically`."""
    with open_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def file_digest(path: str | os.PathLike) -> str:
    """A digest of a file's content: at the speed of memory, so it can be taken at every start."""
    digest = xxhash.xxh3_128()
    # Read, not mapped: mapped pages would count as memory of this process.
    with open(path, "rb", buffering=0) as file:
        chunk = bytearray(1 << 22)
        while size := file.readinto(chunk):
            digest.update(memoryview(chunk)[:size])
    return digest.hexdigest()
