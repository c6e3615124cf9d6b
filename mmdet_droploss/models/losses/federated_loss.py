"""The federated loss, which Detectron2's LVIS configs use: another baseline."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.registry import MODELS
from torch import Tensor

from . import equations as eq
from .long_tail_loss import ClassFreq, LongTailLoss


@MODELS.register_module()
class FederatedLoss(LongTailLoss):
    """Sigmoid binary cross-entropy over some categories a batch: those it has, and a sample.

    Zhou et al., "Probabilistic two-stage detection", arXiv:2103.07461. The terms of a category that
    is not among them are 0 for all proposals of the batch, foreground and background. Each process
    draws for itself, from torch's generator of the device.

    Detectron2's names are ``FED_LOSS_NUM_CLASSES`` and ``FED_LOSS_FREQ_WEIGHT_POWER``. There
    background is one of the 50 categories, so that 49 count in nearly all batches; here 50 do.

    Args:
        num_classes: The number of categories C, without background.
        class_freq: As in :class:`LongTailLoss`; the probabilities of the draws follow from it.
        num_sampled: How many categories count; in [1, C). All categories of a batch do if there are
            more.
        power: A category is drawn in proportion to its number of training images to this power.
        **kwargs: More arguments of :class:`LongTailLoss`.

    Raises:
        ValueError: If an argument is out of range.
    """

    needs_tail = False
    sampling_weight: Tensor

    def __init__(
        self,
        num_classes: int,
        class_freq: ClassFreq,
        num_sampled: int = 50,
        power: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, class_freq, **kwargs)
        if (
            isinstance(num_sampled, bool)
            or not isinstance(num_sampled, int)
            or not 1 <= num_sampled < num_classes
        ):
            raise ValueError(
                f"num_sampled must be a whole number in [1, {num_classes}), below "
                f"num_classes={num_classes}, but it is {num_sampled!r}: with all categories it "
                f"would be SigmoidBCELoss"
            )
        if not isinstance(power, (int, float)) or not 0 <= power < float("inf"):
            raise ValueError(f"power must be a number >= 0, but it is {power!r}")
        self.num_sampled = num_sampled
        self.power = power
        weight = torch.zeros(num_classes)
        if self.class_frequency is not None:
            count = torch.from_numpy(self.class_frequency.image_count)
            weight = count.double().pow(power).where(count > 0, 0).float()
        self.register_buffer("sampling_weight", weight, persistent=False)

    def term_weights(self, labels: Tensor) -> eq.TermWeights:
        """The categories that count in this batch.

        Raises:
            ValueError: If the frequencies are not known.
        """
        if self.class_frequency is None:
            raise ValueError(
                "FederatedLoss with class_freq=None does not know how often to draw which "
                "category, and a checkpoint does not tell: give class_freq"
            )
        return eq.federated(labels, self.sampling_weight, self.num_sampled)
