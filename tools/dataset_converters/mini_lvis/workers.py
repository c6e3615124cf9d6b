"""Processes that draw, and the bar that shows how far they are."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
from rich.console import Console
from rich.progress import track


def start_worker() -> None:
    """Leave interrupts to the parent, and the other cores to the other workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(1)


@contextlib.contextmanager
def worker_map(workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """An order-keeping map over ``workers`` processes (or in this one).

    The processes are spawned: OpenCV deadlocks in a forked one if its threads ran before the fork.
    """
    if workers <= 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(workers, start_worker) as pool:
        yield functools.partial(pool.imap, chunksize=8)


def progress(items: Iterable[Any], title: str, total: int, quiet: bool) -> Iterable[Any]:
    """The items, with a progress bar on stderr while they come."""
    return track(items, title, total, console=Console(stderr=True), disable=quiet)
