"""A function in several processes that know each other."""

from __future__ import annotations

import os
import time

import torch
from torch import distributed as dist
from torch import multiprocessing as mp


def in_processes(count, folder, function, *arguments, method="fork"):
    """Call a function in some processes, in a folder, and wait until all are at its end.

    With ``"spawn"``, Python starts anew in each, which takes seconds. A fork hangs where it needs
    threads that this process has started before, as those of the LVIS evaluation's matching or, on
    a machine with GPUs, of gradients.
    """
    meeting = folder / f"meet{time.monotonic_ns()}"
    arguments = (count, meeting, function, arguments)
    started = mp.start_processes(_process, arguments, count, join=False, start_method=method)
    end = time.monotonic() + 240
    try:
        while not started.join(timeout=1):
            assert time.monotonic() < end, "the processes wait for each other"
    finally:
        for process in started.processes:
            process.kill()


def _process(rank, count, meeting, function, arguments):
    os.chdir(meeting.parent)  # MMEngine leaves a folder .dist_test where it gathers results
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    function(*arguments)
    dist.destroy_process_group()
