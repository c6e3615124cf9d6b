"""Says how far long work is, in lines that a log file can hold as well as a terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from mmengine.logging import print_log

T = TypeVar("T")

#: Seconds until the first line, and between lines. Work that is done before says nothing.
INTERVAL = 10.0


def track(items: Sequence[T], what: str, note: str | os.PathLike | None = None) -> Iterator[T]:
    """Go through items, and say at times how many are done and what remains.

    Args:
        items: What to go through.
        what: Begins each line.
        note: A file that holds the newest line, for processes that wait for this one.

    Yields:
        The items.
    """
    begin = last = time.monotonic()
    for index, item in enumerate(items):
        now = time.monotonic()
        if now - last >= INTERVAL:
            last = now
            line = progress_line(index, len(items), now - begin)
            print_log(f"{what}: {line}", logger="current")
            if note is not None:
                with open(note, "w") as file:
                    file.write(line)
        yield item


def progress_line(done: int, total: int, seconds: float) -> str:
    """``40 % of 1,270,141 done, about 15 s remain``."""
    remain = seconds * (total - done) / max(done, 1)
    return f"{done / total:.0%} of {total:,} done, about {remain:.0f} s remain"
