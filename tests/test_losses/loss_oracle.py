"""The losses as the paper writes them, in float64 and in loops: slow, and plain to see.

Nothing here is taken from the package. What the tests compare is this file with the package.
"""

from __future__ import annotations

import math

import numpy as np

KINDS = ("SigmoidBCELoss", "EQL", "BEQL", "FixedDropLoss", "DropLoss")


def softplus(x: float) -> float:
    """log(1 + exp(x)), for any x."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def keep_probability(kind, labels, tail, drop_ratio=None, drop_frequent=True) -> np.ndarray:
    """mu_j: eq. (7) for DropLoss, 1 - ratio on the tail for a fixed ratio."""
    num_classes = len(tail)
    mu = np.ones(num_classes)
    foreground = [label for label in labels if label < num_classes]
    n_all = len(foreground)
    n_tail = sum(bool(tail[label]) for label in foreground)
    n_frequent = n_all - n_tail
    for j in range(num_classes):
        if kind == "FixedDropLoss":
            mu[j] = 1 - drop_ratio if tail[j] else 1.0
        elif n_all == 0:
            mu[j] = 1.0  # 0/0 in the paper; defined as "keep every term"
        elif tail[j]:
            mu[j] = n_tail / n_all
        else:
            mu[j] = n_frequent / n_all if drop_frequent else 1.0
    return mu


def weights(kind, x, labels, tail, log_base=4.0, draw=None, **how_to_drop) -> np.ndarray:
    """w of every term, (N, C); ``draw`` (N, C) uniform numbers, a term is kept where draw < mu."""
    num_proposals, num_classes = x.shape
    w = np.ones((num_proposals, num_classes))
    if kind in ("FixedDropLoss", "DropLoss"):
        mu = keep_probability(kind, labels, tail, **how_to_drop)
    for r in range(num_proposals):
        foreground = labels[r] < num_classes
        for j in range(num_classes):
            y = 1 if labels[r] == j else 0
            t = 1 if tail[j] else 0
            if kind == "SigmoidBCELoss":
                w[r, j] = 1
            elif foreground:
                w[r, j] = 1 - t * (1 - y)
            elif kind == "EQL":
                w[r, j] = 1
            elif kind == "BEQL":
                minus_log_p = softplus(-x[r, j])
                w[r, j] = 1 - t * min(minus_log_p / math.log(log_base), 1)
            else:
                w[r, j] = 1 if draw[r, j] < mu[j] else 0
    return w


def per_proposal(x, labels, w) -> np.ndarray:
    """L(r) = - sum_j w_j log p^_j, (N,)."""
    losses = np.zeros(len(x))
    for r in range(x.shape[0]):
        for j in range(x.shape[1]):
            y = 1 if labels[r] == j else 0
            minus_log_p_hat = softplus(-x[r, j]) if y else softplus(x[r, j])
            losses[r] += w[r, j] * minus_log_p_hat
    return losses


def reduce(losses, reduction, label_weights=None, avg_factor=None, loss_weight=1.0):
    if label_weights is not None:
        losses = losses * label_weights
    if reduction == "none":
        return loss_weight * losses
    if reduction == "sum":
        return loss_weight * losses.sum()
    if avg_factor is None:
        avg_factor = max(len(losses), 1)
    return loss_weight * losses.sum() / avg_factor


def gradient(x, labels, w, label_weights=None, divisor=1.0, loss_weight=1.0) -> np.ndarray:
    """d loss / d x = w (p - y), times what the reduction gives every proposal."""
    grad = np.zeros_like(x)
    for r in range(x.shape[0]):
        factor = loss_weight / divisor * (1 if label_weights is None else label_weights[r])
        for j in range(x.shape[1]):
            y = 1 if labels[r] == j else 0
            grad[r, j] = factor * w[r, j] * (sigmoid(x[r, j]) - y)
    return grad
