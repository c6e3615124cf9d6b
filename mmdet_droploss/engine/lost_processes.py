"""What has happened if another process of a distributed run is gone."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch

#: What gloo and NCCL say if a process that they talk with is gone.
_LOST = re.compile(
    r"connection (closed|reset|refused)|broken pipe|no route to host|remote process exited|"
    r"timed out waiting",
    re.IGNORECASE,
)


@contextlib.contextmanager
def lost_processes_explained(remedy: str) -> Iterator[None]:
    """Say in a sentence what has happened if another process of a distributed run is gone.

    Args:
        remedy: A sentence on what to do then.

    Raises:
        RuntimeError: In place of the one of torch's communication library.
    """
    try:
        yield
    except RuntimeError as error:
        if not (torch.distributed.is_initialized() and _LOST.search(str(error))):
            raise
        raise RuntimeError(
            f"another process of this run is gone or hangs: it was killed, ran out of memory, or "
            f"its machine or the network failed. Its own output says more. {remedy} (The "
            f"communication library says: {str(error).strip()})"
        ) from error
