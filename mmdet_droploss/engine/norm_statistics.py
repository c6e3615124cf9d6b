"""Running statistics of norm layers, brought together from all processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn


def average_norm_statistics(models: Iterable[nn.Module]) -> None:
    """Give all processes the mean of their running means and variances.

    Each process's norm layers see other images, and MMEngine's wrapper does not broadcast buffers.
    So what process 0 saves would not be what the others validate with. Training itself is not
    changed: in training mode, norm layers take the statistics of the batch.

    The mean is taken in float64: of equal float32 numbers it is that number exactly, so doing it
    twice changes nothing.

    Args:
        models: Models with layers that have ``running_mean`` and ``running_var``.
    """
    statistics = [buffer for model in models for buffer in _statistics(model)]
    if get_world_size() == 1 or not statistics:
        return
    together = torch.cat([buffer.flatten().double() for buffer in statistics])
    all_reduce(together, op="sum")
    together /= get_world_size()
    parts = together.split([buffer.numel() for buffer in statistics])
    for buffer, part in zip(statistics, parts, strict=True):
        buffer.copy_(part.view_as(buffer))


def _statistics(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        for name in ("running_mean", "running_var"):
            if isinstance(buffer := getattr(module, name, None), Tensor):
                yield buffer
