"""Checks of what reaches a loss: shapes always, values without waiting for a GPU.

``torch._assert_async`` has no public name yet (pytorch/pytorch#53284). All else makes a GPU wait.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

#: Categories that an untrained classifier may claim per proposal before it is worth a warning. The
#: usual prior of 0.001 gives about 1 on LVIS, a zero bias gives 600.
MAX_CLAIMED_AT_START = 50


def check_inputs(
    cls_score: Tensor, labels: Tensor, label_weights: Tensor | None, num_classes: int
) -> None:
    """Check shapes, dtypes and the range of the labels.

    Raises:
        ValueError: As :meth:`LongTailLoss.forward` says.
    """
    if cls_score.dim() != 2 or cls_score.shape[1] != num_classes:
        hint = ""
        if cls_score.dim() == 2 and cls_score.shape[1] == num_classes + 1:
            hint = (
                ". It has one column too many: these losses have no background channel. A bbox "
                "head must ask the loss for its channels (custom_cls_channels), as "
                "LargeVocabBBoxHead and MMDetection's Shared2FCBBoxHead do; a dense head like "
                "RetinaNet's takes their number from use_sigmoid=True in the config of loss_cls"
            )
        raise ValueError(
            f"cls_score must have shape (N, num_classes) = (N, {num_classes}), but it has "
            f"{tuple(cls_score.shape)}{hint}"
        )
    if not cls_score.is_floating_point():
        raise ValueError(f"cls_score must be floating point, but it is {cls_score.dtype}")
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        what = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(
            f"labels must be an int64 tensor, but they are a {what}: heads that learn a quality "
            f"together with the category (GFL, VFNet, TOOD) need the losses made for them"
        )
    num_proposals = len(cls_score)
    if labels.shape != (num_proposals,) or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64 of shape ({num_proposals},), one a row of cls_score, but they "
            f"are {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if label_weights is not None and label_weights.shape != (num_proposals,):
        raise ValueError(
            f"label_weights must have shape ({num_proposals},), one a row of cls_score, but they "
            f"have {tuple(label_weights.shape)}"
        )
    if num_proposals == 0:
        return
    message = f"labels must lie in [0, {num_classes}], where {num_classes} is background"
    in_range = ((labels >= 0) & (labels <= num_classes)).all()
    if _must_not_wait(labels):
        torch._assert_async(in_range, message)
    elif labels.device.type == "cpu" and not in_range:
        raise ValueError(f"{message}, but they reach from {labels.min()} to {labels.max()}")


def check_finite(loss: Tensor, cls_score: Tensor) -> None:
    """Stop at a NaN instead of training on.

    A NaN among a proposal's logits makes its loss NaN, so looking at the (N,) losses is enough.

    Raises:
        ValueError: As :meth:`LongTailLoss.forward` says.
    """
    message = (
        "the classification loss is NaN or infinite, because cls_score contains NaN or infinite "
        "values: training has diverged. Lower the learning rate, lengthen the warm-up, or start "
        "the classifier from a low prior (LargeVocabBBoxHead does)"
    )
    finite = loss.isfinite()
    if _must_not_wait(loss):
        torch._assert_async(finite.all(), message)
    elif loss.device.type == "cpu" and not finite.all():
        rows = len(loss) - finite.sum()
        raise ValueError(
            f"{message}. {rows} of {len(loss)} proposals are affected; cls_score has "
            f"{cls_score.isnan().sum()} NaN and {cls_score.isinf().sum()} infinite values"
        )


def _must_not_wait(values: Tensor) -> bool:
    """Whether looking at values would stop the program: on a GPU, and what is being compiled."""
    return values.device.type == "cuda" or is_compiling()


def is_compiling() -> bool:
    """Whether this is traced by torch.compile."""
    return getattr(torch.compiler, "is_compiling", lambda: False)()  # torch 2.1 does not tell


def warn_of_unset_bias(cls_score: Tensor) -> None:
    """Warn if the classifier starts with a high score for everything (a zero bias does that).

    This looks at values, so it is only meant for the very first step.
    """
    if len(cls_score) == 0:
        return
    claimed = float(cls_score.detach().sigmoid().sum(dim=1).mean())
    if claimed > MAX_CLAIMED_AT_START:
        warnings.warn(
            f"the classifier starts by claiming {claimed:.0f} of {cls_score.shape[1]} categories "
            f"for every proposal, most likely because its bias starts at 0: the first steps will "
            f"be rough and may end in NaN. LargeVocabBBoxHead, in place of Shared2FCBBoxHead, "
            f"starts it low; for other heads see 'Use it in your own config' in the documentation",
            stacklevel=3,
        )
