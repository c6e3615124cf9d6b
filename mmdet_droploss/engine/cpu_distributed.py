"""Distributed training where there is no GPU, which MMEngine's own preparation does not provide."""

from __future__ import annotations

import atexit
import contextlib
import gc
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import distributed as dist
from torch import nn


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """:class:`MMDistributedDataParallel` for modules on the CPU.

    MMEngine passes ``device_ids`` to every wrapper, and torch refuses them for CPU modules.

    Args:
        module: The model.
        device_ids: Ignored.
        **kwargs: Those of :class:`MMDistributedDataParallel`.
    """

    def __init__(
        self, module: nn.Module, device_ids: list[int] | None = None, **kwargs: Any
    ) -> None:
        kwargs.setdefault("broadcast_buffers", False)
        super().__init__(module=module, **kwargs)


def start_cpu_process_group(cfg: Config) -> None:
    """Join the other processes over gloo, and have the runner take a wrapper for the CPU.

    MMEngine's own ``init_dist`` selects a CUDA device whatever the backend. It leaves a process
    group alone that is there already, so this one is made first.

    Args:
        cfg: The config; changed in place.
    """
    dist.init_process_group("gloo")
    wrapper = cfg.get("model_wrapper_cfg") or {}
    cfg.model_wrapper_cfg = {
        "find_unused_parameters": cfg.get("find_unused_parameters", False),
        **wrapper,
        "type": "CPUDistributedDataParallel",
    }


@contextlib.contextmanager
def cpu_process_group_ended() -> Iterator[None]:
    """Destroy the group of :func:`start_cpu_process_group` after a block, however it ends.

    The model holds the group as well, so its threads are waited for when Python exits. Otherwise
    one may still be dropping the last collective's tensors while Python shuts down: it waits for
    Python's lock, is stopped there, and aborts the process.
    """
    try:
        yield
    finally:
        if dist.is_initialized() and dist.get_backend() == "gloo":
            atexit.register(_wait_for_threads, [dist.group.WORLD])
            dist.destroy_process_group()


def _wait_for_threads(groups: list) -> None:
    """Drop the last holders of a group, which waits for the group's threads.

    That of the list is the very last: torch gives Python's lock away before it waits, and a thread
    may need it.
    """
    gc.collect()  # the runner, with the model, is in a circle of references
    groups.clear()
