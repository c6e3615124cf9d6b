"""The equations of the paper, one function each.

"DropLoss for Long-Tail Instance Segmentation", AAAI 2021. Numbers in parentheses are the paper's.

Symbols, the same in every function:

=====================  ==========  ============  ===================================================
paper                  name        shape         meaning
=====================  ==========  ============  ===================================================
x                      ``x``       (N, C)        logits of N proposals, C categories, no background
r                      ``labels``  (N,) int64    category in [0, C); C is background
y                      ``y``       (N, C) bool   ``y[r, j]``: category j is the label of proposal r
E(r)                   ``fg``      (N,) bool     the proposal is foreground
T_lambda(f_j)          ``tail``    (C,) bool     category j is of low frequency (rare or common)
w                      return      (N, C)        weights of the terms; they carry no gradient
=====================  ==========  ============  ===================================================

All functions work on any device, never wait for it, and draw from torch's global generator.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def targets(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """y and E(r) of the labels; a background proposal has y = 0 everywhere.

    Returns:
        ``y`` (N, C) bool and ``fg`` (N,) bool.
    """
    categories = torch.arange(num_classes, device=labels.device)
    return labels[:, None] == categories, labels < num_classes


def weighted_bce(x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Eq. (1), (3), (5): L(r) = - sum_j w_j log(p^_j), p^_j = p_j if y_j = 1 else 1 - p_j.

    Computed from logits, so that nothing is lost where p saturates. ``weight`` None means w = 1.

    Returns:
        (N,), the dtype of ``x``.
    """
    loss = -F.logsigmoid(torch.where(y, x, -x))
    if weight is not None:
        loss = loss * weight
    return loss.sum(dim=1)


def eql_weight(y: Tensor, fg: Tensor, tail: Tensor) -> Tensor:
    """Eq. (2): w_j = 1 - E(r) T(f_j) (1 - y_j).

    Returns:
        (N, C) bool: the weights are 0 or 1.
    """
    return ~(fg[:, None] & tail & ~y)


def beql_weight(x: Tensor, y: Tensor, fg: Tensor, tail: Tensor, log_base: float) -> Tensor:
    """Eq. (4): eq. (2) for foreground, 1 - T(f_j) min(-log_b(p_j), 1) for background.

    p is the current prediction, ``sigmoid(x)``.

    Returns:
        (N, C), the dtype of ``x``.
    """
    x = x.detach()
    discount = (-F.logsigmoid(x) / math.log(log_base)).clamp(max=1)
    return torch.where(fg[:, None], eql_weight(y, fg, tail).to(x.dtype), 1 - tail * discount)


def drop_weight(y: Tensor, fg: Tensor, tail: Tensor, keep_probability: Tensor) -> Tensor:
    """Eq. (6): eq. (2) for foreground; for background w_j is drawn from Ber(mu_j).

    One draw per (proposal, category). The fixed drop ratio of Figure 3 is the same with a mu that
    does not depend on the batch.

    Args:
        keep_probability: mu, (C,) float, the probability that a background term is kept.

    Returns:
        (N, C) bool: the weights are 0 or 1.
    """
    # torch.rand lies in [0, 1), so mu = 1 always keeps and mu = 0 always drops.
    draw = torch.rand(y.shape, device=y.device) < keep_probability
    return torch.where(fg[:, None], eql_weight(y, fg, tail), draw)


def batch_statistics(labels: Tensor, tail: Tensor) -> Tensor:
    """The n of eq. (7): how many of the batch's foreground proposals are of each group.

    Returns:
        (2,) int64: n_frequent, and n_rare + n_common.
    """
    is_member = F.pad(torch.stack([~tail, tail]), (0, 1))  # background belongs to neither
    return is_member[:, labels].sum(dim=1)


def drop_keep_probability(statistics: Tensor, tail: Tensor, drop_frequent: bool = True) -> Tensor:
    """Eq. (7): mu_j = (n_rare + n_common) / n_all if T(f_j) = 1, else n_frequent / n_all.

    With no foreground proposal in the batch, where eq. (7) is 0/0, mu is 1: every background term
    is kept, as in plain BCE. That is what the authors' released code comes to.

    Args:
        statistics: What :func:`batch_statistics` returns.
        drop_frequent: False gives the authors' released code, which keeps every background term of
            the frequent categories (mu = 1).

    Returns:
        mu, (C,) float32.
    """
    mu = (statistics / statistics.sum()).nan_to_num(nan=1.0)  # of either group
    if not drop_frequent:
        mu = F.pad(mu[1:], (1, 0), value=1.0)
    return mu[tail.long()]


def fixed_keep_probability(tail: Tensor, drop_ratio: float) -> Tensor:
    """The fixed drop ratio of Figure 3: mu_j = 1 - ratio if T(f_j) = 1, else 1.

    Returns:
        mu, (C,) float32.
    """
    return 1 - drop_ratio * tail.float()
