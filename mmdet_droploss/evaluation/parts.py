"""A file that several processes write: a part each, which the first process joins in the end."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from mmengine.dist import get_rank
from mmengine.logging import print_log

from ..utils import open_atomically

#: From so many bytes on, joining takes long enough to be said.
_LARGE = 1 << 28


class Part:
    """What this process writes, a file beside the whole that grows.

    Args:
        path: The whole file. Nothing is written before the first :meth:`write`.
    """

    def __init__(self, path: str) -> None:
        self.path = part_path(path, get_rank())
        self.size = 0
        self._file: BinaryIO | None = None

    def write(self, content: bytes) -> int:
        """Append; the number of bytes."""
        if self._file is None:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            self._file = open(self.path, "wb")  # noqa: SIM115 - it lives as long as the evaluation
        self._file.write(content)
        self.size += len(content)
        return len(content)

    def flush(self) -> None:
        """Bring everything to the file."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """End writing."""
        if self._file is not None:
            self._file.close()


def part_path(path: str, rank: int) -> str:
    """Where a process writes its part of a file."""
    return f"{path}.part{rank}"


@contextlib.contextmanager
def joined(path: str, sizes: Sequence[int]) -> Iterator[tuple[BinaryIO, list[BinaryIO]]]:
    """Make a file of the parts of all processes; afterwards they are deleted.

    Args:
        path: The file to make. It appears when it is whole.
        sizes: The bytes that each process has written.

    Yields:
        The file to write to, and the parts to read, without those of processes that wrote nothing.

    Raises:
        OSError: If a part is not there, or not as long as its writer says.
    """
    paths = [part_path(path, rank) for rank in range(len(sizes))]
    for part, size in zip(paths, sizes, strict=True):
        found = os.path.getsize(part) if os.path.exists(part) else None
        if size and found != size:
            raise OSError(
                f"{part} cannot be collected: {size} bytes were written, but "
                f"{'it is not there' if found is None else f'it has {found}'}. "
                f"{path} must be in a folder that all machines share"
            )
    if sum(sizes) >= _LARGE:
        print_log(
            f"joining what {len(sizes)} processes wrote, {sum(sizes) / 1e9:.1f} GB, into {path}",
            "current",
            logging.INFO,
        )
    with contextlib.ExitStack() as stack:
        parts: list[BinaryIO] = [
            stack.enter_context(open(part, "rb"))
            for part, size in zip(paths, sizes, strict=True)
            if size
        ]
        yield stack.enter_context(open_atomically(path)), parts
    for part in paths:  # also one of an evaluation that was broken off
        if os.path.exists(part):
            os.unlink(part)
