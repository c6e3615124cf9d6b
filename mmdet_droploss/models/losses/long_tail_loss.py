"""The contract of the losses with MMDetection's bbox heads, and with checkpoints."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

from ...annotations import ClassFrequency, load_class_frequency
from .checks import check_finite, check_inputs, is_compiling, warn_of_unset_bias
from .equations import TermWeights
from .running_accuracy import RunningAccuracy
from .weighted_bce import weighted_bce

ClassFreq = str | os.PathLike | Sequence[int] | ClassFrequency | None


class LongTailLoss(nn.Module):
    """What the losses of this package share: the contract with MMDetection's bbox heads.

    All of them are a binary cross-entropy over C sigmoid outputs, without a background output,
    weighted term by term, summed over the categories and averaged over the proposals::

        L(r) = - sum_j w_j log p^_j,    p^_j = p_j if y_j = 1 else 1 - p_j

    The weight of the ground-truth category is 1. A subclass gives the others in
    :meth:`term_weights`, by its equation.

    Args:
        num_classes: The number of categories C, without background.
        class_freq: How often each category occurs in the training set: ``'lvis_v0.5'``,
            ``'lvis_v1'``, the path of an LVIS- or COCO-format annotation file or of the small JSON
            that ``tools/analysis_tools/class_frequency.py`` writes, or a sequence of image counts
            in label order. An explicit None suffices for inference, where the checkpoint holds the
            tail.
        lambda_: Threshold of the low-frequency indicator T: ``f_j = image_count / num_images <
            lambda_``. By default the tail is LVIS's rare and common categories, at most 100 images.
        num_images: The number of training images behind f_j; only needed with ``lambda_``, and
            only if ``class_freq`` does not tell it.
        reduction: ``'none'`` (a value per proposal), ``'mean'`` or ``'sum'``.
        loss_weight: Factor on the loss.
        use_sigmoid: True, nothing else. Dense and query heads ask for it, by the config or the
            module, before they decide on the number of their outputs.

    Attributes:
        tail: (C,) bool buffer, T(f_j). A checkpoint carries it.
        class_frequency: The :class:`ClassFrequency` of ``class_freq``, with the names of its
            categories where it knows them; None if there is none. A checkpoint does not carry it.

    Raises:
        ValueError: If an argument is out of range, or ``class_freq`` has not ``num_classes``
            entries.
        FileNotFoundError: If ``class_freq`` is the path of a missing file.
    """

    tail: Tensor

    # What MMDetection's bbox heads ask a loss that brings its own outputs.
    custom_cls_channels = True
    custom_activation = True
    custom_accuracy = True

    #: Whether the loss weights terms by T(f_j), and so cannot train without frequencies.
    needs_tail = True

    def __init__(
        self,
        num_classes: int,
        class_freq: ClassFreq,
        lambda_: float | None = None,
        num_images: int | None = None,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        use_sigmoid: bool = True,
    ) -> None:
        super().__init__()
        if use_sigmoid is not True:
            raise ValueError(
                f"{type(self).__name__} is a sum over sigmoid outputs: use_sigmoid can only be "
                f"True, but it is {use_sigmoid!r}"
            )
        self.use_sigmoid = True
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes must be a whole number >= 1, but it is {num_classes!r}")
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"reduction must be 'none', 'mean' or 'sum', but it is {reduction!r}")
        if not isinstance(loss_weight, (int, float)) or not 0 <= loss_weight < math.inf:
            raise ValueError(f"loss_weight must be a number >= 0, but it is {loss_weight!r}")
        self.num_classes = num_classes
        self.reduction = reduction
        self.loss_weight = loss_weight

        frequency, self._missing = None, None
        if class_freq is not None:
            try:
                frequency = load_class_frequency(class_freq)
            except FileNotFoundError as error:
                # An inferencer builds the model, too, in any directory, and needs no training data.
                self._missing = str(error)
                warnings.warn(f"{error}. Training will stop at its first loss", stacklevel=2)
        elif lambda_ is not None:
            raise ValueError(f"lambda_={lambda_!r} needs class_freq, but that is None")
        groups = None
        tail = torch.zeros(num_classes, dtype=torch.bool)
        if frequency is not None:
            if frequency.num_classes != num_classes:
                raise ValueError(
                    f"num_classes={num_classes} does not agree with class_freq, which has "
                    f"{frequency.num_classes} categories (from {frequency.source})"
                )
            tail = torch.from_numpy(frequency.tail(lambda_, num_images))
            groups = torch.from_numpy(frequency.groups)
            counts = frequency.image_count
            known = tail[torch.from_numpy(counts > 0)]  # the others are never shown
            if self.needs_tail and known.all() | ~known.any():
                warnings.warn(
                    f"{type(self).__name__}: with "
                    f"{'at most 100 images' if lambda_ is None else f'lambda_={lambda_}'} "
                    f"{'every' if known.all() else 'no'} category is of low frequency (image "
                    f"counts from {counts.min()} to {counts.max()} in {frequency.source}); set "
                    f"lambda_ so that it parts the long tail from the rest",
                    stacklevel=2,
                )
        self.class_frequency = frequency
        self.lambda_ = lambda_
        self.register_buffer("tail", tail)
        self._tail_is_known = frequency is not None
        self._is_first_step = True
        self._accuracy = RunningAccuracy(num_classes, groups)

    def term_weights(self, labels: Tensor) -> TermWeights | None:
        """The weights w of the terms, by the loss's equation.

        Args:
            labels: (N,) int64 in [0, C].

        Returns:
            All weights but those of the ground-truth categories; None for w = 1.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define term_weights()")

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss of a batch of proposals.

        The arithmetic is float32 for float16 and bfloat16 logits, so it is safe under AMP. Nothing
        waits for a GPU, except a check of the starting scores in the very first call.

        Args:
            cls_score: (N, C) logits; N may be 0.
            labels: (N,) int64, the category in [0, C), or C for background.
            label_weights: (N,) weights of the proposals.
            avg_factor: What ``'mean'`` divides by; by default N.
            reduction_override: Takes the place of ``reduction`` for this call.

        Returns:
            A scalar, or (N,) for ``'none'``; float32 (float64 for float64 logits). An empty batch
            gives 0 with a gradient, so that distributed training keeps step.

        Raises:
            FileNotFoundError: If the file that ``class_freq`` names does not exist.
            ValueError: If a shape does not fit, or, on CPU, if a label is outside [0, C] or a logit
                is NaN. On CUDA the latter two are device-side assertions with the same message.
        """
        if reduction_override not in (None, "none", "mean", "sum"):
            raise ValueError(
                f"reduction_override must be None, 'none', 'mean' or 'sum', but it is "
                f"{reduction_override!r}"
            )
        reduction = reduction_override or self.reduction
        check_inputs(cls_score, labels, label_weights, self.num_classes)
        if self._missing is not None:
            raise FileNotFoundError(self._missing)
        if self.needs_tail and not self._tail_is_known:
            raise ValueError(
                f"{type(self).__name__} with class_freq=None and no checkpoint loaded does not "
                f"know which categories are of low frequency: give class_freq"
            )
        if cls_score.dtype in (torch.float16, torch.bfloat16):
            cls_score = cls_score.float()
        if self._is_first_step and not is_compiling():
            warn_of_unset_bias(cls_score)
            self._is_first_step = False

        loss = weighted_bce(cls_score, labels, self.term_weights(labels))
        check_finite(loss, cls_score)
        if reduction == "mean" and avg_factor is None:
            avg_factor = max(len(labels), 1)  # the mean of nothing is 0 here, not NaN
        return self.loss_weight * weight_reduce_loss(loss, label_weights, reduction, avg_factor)

    def get_cls_channels(self, num_classes: int) -> int:
        """The outputs that the classifier needs: C, no background channel.

        Raises:
            ValueError: If the head's number of classes is not the loss's.
        """
        if num_classes != self.num_classes:
            raise ValueError(
                f"the bbox head has num_classes={num_classes}, but its "
                f"{type(self).__name__} has num_classes={self.num_classes}"
            )
        return num_classes

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Scores for the head's post-processing.

        Args:
            cls_score: (N, C) logits.

        Returns:
            (N, C + 1): sigmoid scores and a last column of zeros, where MMDetection expects the
            background.
        """
        if cls_score.dtype in (torch.float16, torch.bfloat16):
            cls_score = cls_score.float()
        return torch.cat([cls_score.sigmoid(), cls_score.new_zeros(len(cls_score), 1)], dim=1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Top-1 accuracy on foreground proposals in percent, over about the last 50 calls.

        Rare categories come by in few batches only, so each batch's own accuracy would be mostly
        undefined; a running one is a curve that one can read. Nothing waits for a GPU.

        Args:
            cls_score: (N, C) logits.
            labels: (N,) int64 in [0, C].

        Returns:
            ``acc_fg`` over all categories and, if the frequencies are known, ``acc_r``, ``acc_c``
            and ``acc_f`` over the rare, common and frequent ones; 0 before one was seen.
        """
        return self._accuracy.update(cls_score, labels)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the tail from the checkpoint only if the config does not tell it."""
        saved = state_dict.get(f"{prefix}tail")
        if saved is not None and saved.shape == self.tail.shape:
            if self._tail_is_known and self.needs_tail and not saved.equal(self.tail.to(saved)):
                warnings.warn(
                    f"{type(self).__name__}: the checkpoint counts {int(saved.sum())} categories "
                    f"as low-frequency, class_freq of the config {int(self.tail.sum())}, and they "
                    f"are not the same ones; the config holds",
                    stacklevel=2,
                )
            if self._tail_is_known:
                state_dict = {**state_dict, f"{prefix}tail": self.tail}
            self._tail_is_known = True
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return (
            f"num_classes={self.num_classes}, low_frequency={int(self.tail.sum())}, "
            f"reduction={self.reduction!r}, loss_weight={self.loss_weight}"
        )
