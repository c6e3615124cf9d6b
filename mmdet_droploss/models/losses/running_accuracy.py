"""Accuracy per frequency group, as a running figure."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Keys of the accuracies, in the order of ClassFrequency.groups; the last is over all categories.
KEYS = ("acc_r", "acc_c", "acc_f", "acc_fg")

#: How much of the past a step keeps: 0.98 looks back over some 50 steps.
DECAY = 0.98


class RunningAccuracy(nn.Module):
    """Top-1 accuracy on foreground proposals, per frequency group, over the recent batches.

    Args:
        num_classes: The number of categories C.
        groups: (C,) int64, 0, 1, 2 for rare, common, frequent; None if not known.
    """

    counts_for: Tensor
    seen: Tensor
    hits: Tensor

    def __init__(self, num_classes: int, groups: Tensor | None) -> None:
        super().__init__()
        self.keys = KEYS if groups is not None else KEYS[-1:]
        # counts_for[label] says which of the figures a proposal with that label counts for; the
        # background label counts for none.
        counts_for = torch.zeros(num_classes + 1, len(self.keys))
        counts_for[:-1, -1] = 1
        if groups is not None:
            counts_for[torch.arange(num_classes), groups] = 1
        # None of this belongs into a checkpoint: it is about the last minute of training.
        self.register_buffer("counts_for", counts_for, persistent=False)
        self.register_buffer("seen", torch.zeros(len(self.keys)), persistent=False)
        self.register_buffer("hits", torch.zeros(len(self.keys)), persistent=False)

    @torch.no_grad()
    def update(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Add a batch, (N, C) logits and (N,) labels, and return the accuracies in percent."""
        counts_for = self.counts_for[labels]
        hit = cls_score.argmax(dim=1) == labels
        self.seen.mul_(DECAY).add_(counts_for.sum(dim=0))
        self.hits.mul_(DECAY).add_((counts_for * hit[:, None]).sum(dim=0))
        accuracy = 100 * self.hits / self.seen.clamp(min=1e-6)
        return dict(zip(self.keys, accuracy, strict=True))
