"""Distributed training where there is no GPU: the same launcher, gloo in place of NCCL."""

from __future__ import annotations

import os

import torch
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

    def __init__(self, module: nn.Module, device_ids: list[int] | None = None, **kwargs) -> None:
        kwargs.setdefault("broadcast_buffers", False)
        super().__init__(module=module, **kwargs)


def init_cpu_process_group(launcher: str) -> None:
    """Join the processes of a launcher over gloo.

    MMEngine's own ``init_dist`` selects a CUDA device whatever the backend. It leaves a process
    group alone that is there already, so this one is made first.

    Args:
        launcher: ``'pytorch'``, the launcher whose environment variables are used.

    Raises:
        ValueError: If the launcher is another.
        RuntimeError: If the launcher's environment variables are missing.
    """
    if launcher != "pytorch":
        raise ValueError(
            f"without a GPU, --launcher must be 'none' or 'pytorch', but it is {launcher!r}"
        )
    missing = [
        name
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        if name not in os.environ
    ]
    if missing:
        raise RuntimeError(
            f"--launcher pytorch needs to be started by torchrun, which sets "
            f"{', '.join(missing)}; use tools/dist_train.sh, or --launcher none"
        )
    dist.init_process_group("gloo")


def check_gpu_count() -> None:
    """Say it in a sentence if a launcher starts more processes than there are GPUs."""
    local_rank, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local_rank >= count:
        raise RuntimeError(
            f"process {local_rank} of this machine has no GPU of its own: there are {count}. Start "
            f"at most {count} processes (dist_train.sh CONFIG {count}), or hide the GPUs with "
            f"CUDA_VISIBLE_DEVICES= to run on the CPU"
        )
