"""Parsed annotations, stored once per machine and mapped into memory by all its processes.

An entry is a folder under :func:`cache_root`, named after a digest of its key. It is written beside
its place and renamed when complete, by one process while the others wait. It is believed only if
its files have the digests that were noted when it was written.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
import platformdirs
import xxhash
from mmengine.logging import print_log

from ..annotations.progress import INTERVAL
from ..utils import current_umask, file_digest

#: Part of every key. Raise it whenever the same key would give other bytes.
FORMAT = 4

#: Environment variable that says where the cache is.
CACHE_VARIABLE = "MMDET_DROPLOSS_CACHE"

_INDEX = "entry.json"
_RECORDS = "records.bin"
_FACTS = "facts.json"
_ARRAYS = ("record_ends", "labels", "label_ends", "category_ids")


@dataclass(frozen=True)
class PackedAnnotations:
    """Annotations of M images in arrays, which processes can share, unlike lists of objects.

    Args:
        records: (bytes,) uint8, the records one after another.
        record_ends: (M,) int64, where each record ends.
        labels: (instances,) int32, the labels of the images one after another.
        label_ends: (M,) int64, where those of each image end.
        category_ids: (C,) int64, the category id of each label.
        facts: What else a later start has to know; JSON values.
    """

    records: np.ndarray
    record_ends: np.ndarray
    labels: np.ndarray
    label_ends: np.ndarray
    category_ids: np.ndarray
    facts: dict[str, Any]


#: What is packed: the category ids; for each image its record and the labels of its instances; and
#: the facts, which are complete when the images have been gone through.
Parsed = tuple[Sequence[int], Iterable[tuple[bytes, Sequence[int]]], dict[str, Any]]


def cache_root() -> Path:
    """The cache's folder: ``$MMDET_DROPLOSS_CACHE``, or the user's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("mmdet_droploss"))


def pack(parsed: Parsed) -> PackedAnnotations:
    """Pack annotations in the memory of this process."""
    buffer = BytesIO()
    arrays = _pack_into(buffer, parsed)
    return PackedAnnotations(np.frombuffer(buffer.getbuffer(), np.uint8), *arrays, parsed[2])


def load_or_pack(
    key: dict[str, Any], parse: Callable[[os.PathLike | None], Parsed]
) -> PackedAnnotations:
    """Take an entry from the cache, or make it.

    Args:
        key: All that decides the content; JSON values.
        parse: Called if the entry is missing, damaged or of another version, with the file that
            shall tell waiting processes how far it is.

    Returns:
        The entry's arrays, mapped read-only. If the cache cannot be written (no permission, disk
        full) a warning says so, and the arrays are in this process's memory.
    """
    key = {"format": FORMAT, **key}
    root = cache_root()
    folder = root / _name(key)
    packed = _open(folder, key)
    if packed is not None:
        return packed
    # Not told yet: another process may be replacing what was found damaged.
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            packed = _open(folder, key)  # made by another process meanwhile?
            if packed is None:
                if folder.exists():
                    print_log(
                        f"{folder} in the annotation cache is damaged; it is made anew",
                        logger="current",
                        level=logging.WARNING,
                    )
                _write(folder, key, parse)
                packed = _open(folder, key)
    except (OSError, NotImplementedError) as error:  # the latter: no file locks (filelock < 3.21)
        print_log(
            f"the annotation cache {root} cannot be written ({error}), so every process keeps the "
            f"annotations in its own memory; {CACHE_VARIABLE} names another folder",
            logger="current",
            level=logging.WARNING,
        )
    return pack(parse(None)) if packed is None else packed


@dataclass(frozen=True)
class Entry:
    """What :func:`list_entries` tells about an entry; ``key`` is None if it is damaged."""

    folder: Path
    size: int
    key: dict[str, Any] | None


def list_entries() -> list[Entry]:
    """The entries of the cache, also what interrupted processes left there."""
    root = cache_root()
    entries = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        with contextlib.suppress(FileNotFoundError):  # another process has just renamed it
            if _is_ours(folder):
                size = sum(file.stat().st_size for file in folder.iterdir())
                index = _read_index(folder)
                entries.append(Entry(folder, size, index and index["key"]))
    return entries


def remove_entry(entry: Entry) -> None:
    """Delete an entry. Processes that have it mapped are not disturbed."""
    shutil.rmtree(entry.folder)
    _lock_file(entry.folder).unlink(missing_ok=True)
    _progress_file(entry.folder).unlink(missing_ok=True)


def _is_ours(folder: Path) -> bool:
    """Whether a folder is an entry: no other folder may ever be deleted."""
    if not re.fullmatch(r"[0-9a-f]{32}(\.tmp-\w+)?", folder.name) or not folder.is_dir():
        return False
    names = {file.name for file in folder.iterdir()}
    return _INDEX in names or _RECORDS in names


def _pack_into(
    file: BinaryIO, parsed: Parsed
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    category_ids, images, _ = parsed
    sizes, labels, counts = [], array("i"), []
    for record, labels_of_image in images:
        file.write(record)
        sizes.append(len(record))
        labels.extend(labels_of_image)
        counts.append(len(labels_of_image))
    return (
        np.cumsum(sizes, dtype=np.int64),
        np.array(labels, np.int32),
        np.cumsum(counts, dtype=np.int64),
        np.asarray(category_ids, np.int64),
    )


def _write(folder: Path, key: dict, parse: Callable[[os.PathLike | None], Parsed]) -> None:
    """Make an entry, wholly or not at all. The caller holds its lock."""
    for left in folder.parent.glob(f"{folder.name}.tmp-*"):  # of a killed process
        shutil.rmtree(left, ignore_errors=True)
    beside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        beside.chmod(0o777 & ~current_umask())  # mkdtemp makes it private, others may share it
        parsed = parse(_progress_file(folder))
        with open(beside / _RECORDS, "wb") as file:
            arrays = _pack_into(file, parsed)
        for name, array in zip(_ARRAYS, arrays, strict=True):
            np.save(beside / f"{name}.npy", array)
        (beside / _FACTS).write_text(json.dumps(parsed[2], indent=1))
        files = {file.name: file_digest(file) for file in sorted(beside.iterdir())}
        (beside / _INDEX).write_text(json.dumps({"key": key, "files": files}, indent=1))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    finally:
        _progress_file(folder).unlink(missing_ok=True)


def _open(folder: Path, key: dict) -> PackedAnnotations | None:
    """Map an entry, or None if there is none that can be believed."""
    if not folder.is_dir():
        return None
    index = _read_index(folder)
    with contextlib.suppress(OSError, ValueError):
        if (
            index is not None
            and _canonical(index["key"]) == _canonical(key)
            and all(file_digest(folder / name) == d for name, d in index["files"].items())
        ):
            size = (folder / _RECORDS).stat().st_size
            records = np.memmap(folder / _RECORDS, mode="r") if size else np.empty(0, np.uint8)
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
            facts = json.loads((folder / _FACTS).read_text())
            return PackedAnnotations(records, **arrays, facts=facts)
    return None


def _read_index(folder: Path) -> dict[str, Any] | None:
    """The content of an entry's index, or None if it is damaged."""
    try:
        index = json.loads((folder / _INDEX).read_text())
        expected = {_RECORDS, _FACTS, *(f"{name}.npy" for name in _ARRAYS)}
        is_whole = index["files"].keys() == expected and _name(index["key"]) == folder.name
        return index if is_whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _canonical(key: dict) -> str:
    return json.dumps(key, sort_keys=True)


def _name(key: dict) -> str:
    return xxhash.xxh3_128_hexdigest(_canonical(key).encode())


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _progress_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.progress")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an entry's lock, which a killed process loses."""
    lock = filelock.FileLock(_lock_file(folder))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print_log("waiting for another process that parses the same annotations", logger="current")
        _wait(lock, _progress_file(folder))
    try:
        yield
    finally:
        lock.release()


def _wait(lock: filelock.BaseFileLock, progress: Path) -> None:
    """Acquire a lock, and say at times how far its holder is."""
    while True:
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=INTERVAL)
            return
        with contextlib.suppress(OSError):  # it may be gone, or not there yet
            print_log(f"waiting: the other process has {progress.read_text()}", logger="current")
