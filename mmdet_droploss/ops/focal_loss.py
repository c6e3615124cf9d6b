"""Focal loss of one sigmoid per category (Lin et al., ICCV 2017)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import precise


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of one sigmoid per category (Lin et al., ICCV 2017).

    With p the sigmoid, -alpha (1 - p)^gamma log(p) where the category is the target, and
    -(1 - alpha) p^gamma log(1 - p) elsewhere. The logarithms are taken from the logits: mmcv's, of
    p in float32, saturate where p rounds to 0 or 1.

    Args:
        input: (N, C) logits.
        target: (N,) int64, a category, or another number for background.
        weight: (C,), of each target's terms, or empty.
        output: Out, (N, C).
        gamma: As above.
        alpha: As above.
    """
    (logits,) = precise(input)
    p = logits.sigmoid()
    positive = -alpha * (1 - p) ** gamma * F.logsigmoid(logits)
    negative = -(1 - alpha) * p**gamma * F.logsigmoid(-logits)
    output.copy_(_by_target(positive, negative, target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of :func:`sigmoid_focal_loss_forward`, each term's own.

    Args:
        input: As for :func:`sigmoid_focal_loss_forward`, and so are all that are not named here.
        target: As there.
        weight: As there.
        grad_input: Out, (N, C).
        gamma: As there.
        alpha: As there.
    """
    (logits,) = precise(input)
    p = logits.sigmoid()
    positive = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * F.logsigmoid(logits))
    negative = -(1 - alpha) * p**gamma * (gamma * (1 - p) * F.logsigmoid(-logits) - p)
    grad_input.copy_(_by_target(positive, negative, target, weight))


def _by_target(positive: Tensor, negative: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """(N, C): ``positive`` at the target's category, ``negative`` elsewhere, weighted."""
    is_target = target[:, None] == torch.arange(positive.shape[1], device=target.device)
    terms = torch.where(is_target, positive, negative)
    return terms * weight[target][:, None] if weight.numel() else terms
