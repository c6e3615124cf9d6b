"""The equations of the paper: what weight each term of the classification loss has.

"DropLoss for Long-Tail Instance Segmentation", AAAI 2021. Numbers in parentheses are the paper's.

All losses are one weighted binary cross-entropy, eq. (1), (3), (5)::

    L(r) = - sum_j w_j log p^_j,    p^_j = p_j if y_j = 1 else 1 - p_j

The weight of a proposal's ground-truth category is 1 in all of them. The other weights depend on
the category, and on whether the proposal is foreground or background. So an equation is a function
that returns :class:`TermWeights`: a weight of each category on foreground, and a rule for
background. :func:`weighted_bce` evaluates them. Weights carry no gradient.

Symbols, the same in every function:

=====================  ==============  ============  ===============================================
paper                  name            shape         meaning
=====================  ==============  ============  ===============================================
r                      ``labels``      (N,) int64    category in [0, C); C is background
T_lambda(f_j)          ``tail``        (C,) bool     category j is of low frequency (rare or common)
mu                     ``probability`` (C,) float    probability that a background term is kept
b                      ``log_base``    float         base of the logarithm in eq. (4)
=====================  ==============  ============  ===============================================

All functions work on any device and never wait for it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class KeepWithProbability(NamedTuple):
    """Eq. (6) on background: w_j is drawn from Ber(mu_j), one draw a proposal and category.

    Attributes:
        probability: mu, (C,) float32. 0 never keeps a term and 1 always does.
    """

    probability: Tensor


class DiscountByScore(NamedTuple):
    """Eq. (4) on background: w_j = 1 - T(f_j) min(-log_b(p_j), 1), p the current prediction.

    Attributes:
        tail: T, (C,) bool.
        log_base: b.
    """

    tail: Tensor
    log_base: float


#: What a background proposal weights terms with: (C,) bool, or one of the rules above.
Background = Tensor | KeepWithProbability | DiscountByScore


class TermWeights(NamedTuple):
    """The weights of all terms but those of the proposals' ground-truth categories.

    Attributes:
        foreground: (C,) bool, the weights 1 or 0 on a foreground proposal.
        background: Those on a background proposal.
    """

    foreground: Tensor
    background: Background


def eql(tail: Tensor) -> TermWeights:
    """Eq. (2): w_j = 1 - E(r) T(f_j) (1 - y_j)."""
    return TermWeights(foreground=~tail, background=torch.ones_like(tail))


def beql(tail: Tensor, log_base: float) -> TermWeights:
    """Eq. (4): eq. (2) on foreground, 1 - T(f_j) min(-log_b(p_j), 1) on background."""
    return eql(tail)._replace(background=DiscountByScore(tail, log_base))


def fixed_drop(tail: Tensor, drop_ratio: float) -> TermWeights:
    """The fixed drop ratio of Figure 3: eq. (6) with mu_j = 1 - ratio if T(f_j) = 1, else 1."""
    return droploss(tail, 1 - drop_ratio * tail.float())


def droploss(tail: Tensor, probability: Tensor) -> TermWeights:
    """Eq. (6): eq. (2) on foreground; on background w_j is drawn from Ber(mu_j)."""
    return eql(tail)._replace(background=KeepWithProbability(probability))


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
        tail: T, (C,) bool.
        drop_frequent: False gives the authors' released code, which keeps every background term of
            the frequent categories (mu = 1).

    Returns:
        mu, (C,) float32.
    """
    mu = (statistics / statistics.sum()).nan_to_num(nan=1.0)  # of either group
    if not drop_frequent:
        mu = F.pad(mu[1:], (1, 0), value=1.0)
    return mu[tail.long()]


def federated(labels: Tensor, sampling_weight: Tensor, num_sampled: int) -> TermWeights:
    """The federated loss: the same categories count for all proposals of the batch, others do not.

    They are the categories of the batch's foreground proposals, filled up to ``num_sampled`` with
    others, drawn one after another without replacement. Zhou et al., "Probabilistic two-stage
    detection", arXiv:2103.07461.

    Args:
        labels: (N,) int64 in [0, C].
        sampling_weight: (C,) float32 >= 0, what the probability of a draw is proportional to.
        num_sampled: How many categories count. If the batch has more, they all do; if fewer have a
            weight above 0, those.
    """
    num_classes = len(sampling_weight)
    is_present = labels.new_zeros(num_classes + 1, dtype=torch.bool)
    is_present = is_present.index_fill(0, labels, True)[:num_classes]
    # The first of waiting times with the rates sampling_weight is category j with a probability in
    # proportion to its weight, and so on: a draw without replacement, in an order without loops.
    waiting = torch.empty_like(sampling_weight).exponential_() / sampling_weight
    first = torch.where(is_present, -1, waiting).topk(num_sampled, largest=False).indices
    is_sampled = torch.zeros_like(is_present).index_fill(0, first, True) & (sampling_weight > 0)
    counts = is_present | is_sampled
    # A copy, because torch.compile does not take one tensor as two arguments.
    return TermWeights(foreground=counts, background=counts.clone())
