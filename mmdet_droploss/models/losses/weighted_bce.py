"""Evaluates the weights of equations.py: the loss of each proposal and its gradient, in one pass.

The gradient of a term is w (p - y), so value and gradient share their arithmetic. Neither dense
targets nor dense weights outlive a block of rows; the gradient is the only array of the logits'
size that does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import is_compiling
from .equations import Background, DiscountByScore, KeepWithProbability, TermWeights

#: Logits in a block of rows on a CPU: what is made of them stays in the cores' caches.
BLOCK_SIZE = 2**18

#: Less this, a logit has p = 0 exactly.
LARGER_THAN_LOGITS = 1e30


def weighted_bce(x: Tensor, labels: Tensor, weights: TermWeights | None = None) -> Tensor:
    """Eq. (1), (3), (5): L(r) = - sum_j w_j log p^_j, p^_j = p_j if y_j = 1 else 1 - p_j.

    Computed from logits, so that nothing is lost where p saturates. It can be differentiated once.

    Args:
        x: (N, C) logits, float32 or float64.
        labels: (N,) int64 in [0, C], C for background.
        weights: The weights w of all terms but the ground-truth categories'; None means w = 1.

    Returns:
        (N,), the dtype of ``x``.
    """
    return _WeightedBCE.apply(x, labels, *(weights or (None, None)))


class _WeightedBCE(torch.autograd.Function):
    """See :func:`weighted_bce`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        labels: Tensor,
        foreground: Tensor | None,
        background: Background | None,
    ) -> Tensor:
        """Value, and gradient for the backward pass."""
        num_classes = x.shape[1]
        is_fg = (labels < num_classes)[:, None]
        gt = labels[:, None].clamp(max=num_classes - 1)  # for background, any category
        # The ground-truth term is -log(p), with the gradient p - 1 = -sigmoid(-x).
        minus_x_gt = -x.gather(1, gt)
        gt_term = _softplus(minus_x_gt)

        grad, loss = torch.empty_like(x), x.new_empty(len(x))
        rows, ways = _rows_in_block(x), _ways_to_compute(x)
        draws = Draws(x.device) if isinstance(background, KeepWithProbability) else None
        scratch = None if x.device.type != "cpu" else x.new_empty(min(rows, len(x)), num_classes)
        by_row = (x, is_fg, gt, gt_term, grad, loss)
        for x_, is_fg_, gt_, gt_term_, grad_, loss_ in zip(
            *(values.split(rows) for values in by_row), strict=True
        ):
            numbers = draws(x_.shape) if draws else None
            for compute in ways:
                dropped = _dropped_terms(foreground, background, is_fg_, numbers, out=grad_)
                terms = compute(x_, dropped, scratch, grad_)
                if foreground is not None and isinstance(background, DiscountByScore):
                    discount = _discount(foreground, background, is_fg_, x_, terms)
                    terms.mul_(discount)
                    grad_.mul_(discount)
                terms.scatter_(1, gt_, torch.where(is_fg_, gt_term_, terms.gather(1, gt_)))
                torch.sum(terms, 1, out=loss_)
                if compute is ways[-1] or loss_.isfinite().all():
                    break
        gt_grad = torch.where(is_fg, -torch.sigmoid(minus_x_gt), grad.gather(1, gt))
        ctx.save_for_backward(grad.scatter_(1, gt, gt_grad))
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of forward, times what arrives."""
        (grad,) = ctx.saved_tensors
        if is_compiling():
            return grad * grad_loss[:, None], None, None, None
        if torch.is_grad_enabled():  # a constant in its place would be a silent error
            raise RuntimeError(
                "the classification losses of mmdet_droploss can be differentiated once only, but "
                "create_graph=True asks for a graph of their gradient"
            )
        out = None if _graph_is_kept() else grad
        return torch.mul(grad, grad_loss[:, None], out=out), None, None, None


def _rows_in_block(x: Tensor) -> int:
    """The rows of a block. A GPU and a compiler get all at once."""
    num_proposals, num_classes = x.shape
    if x.device.type != "cpu" or is_compiling():
        return max(num_proposals, 1)
    # Draws come in fours, so with a multiple of four they do not depend on the block's size.
    return max(BLOCK_SIZE // num_classes // 4, 1) * 4


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)); from 40 on that is x, to the last bit of a float64 (torch's default: 20)."""
    return F.softplus(x, threshold=40)


def _ways_to_compute(x: Tensor) -> tuple[Callable, ...]:
    """What to try, one after another, until the losses are finite."""
    if x.device.type != "cpu" or is_compiling():
        return (_from_logits,)
    return (_from_odds, _from_logits)


def _from_odds(x: Tensor, dropped: Tensor | None, scratch: Tensor, grad: Tensor) -> Tensor:
    """The terms -log(1 - p) = log(1 + odds), and their gradients p = odds / (1 + odds).

    Both of one exponential, which on a CPU is what takes the time. Not finite where exp(x) is not.

    Args:
        x: (n, C) logits.
        dropped: (n, C), 1 for the terms that are dropped, else 0; None drops none. It may be the
            memory of ``grad``.
        scratch: At least (n, C), for the terms.
        grad: (n, C), for the gradients.

    Returns:
        The terms, (n, C).
    """
    odds = torch.exp(x, out=scratch[: len(x)])
    if dropped is not None:
        odds.addcmul_(odds, dropped, value=-1)
    torch.div(odds, torch.add(odds, 1, out=grad), out=grad)
    return odds.log1p_()


def _from_logits(x: Tensor, dropped: Tensor | None, scratch: Tensor | None, grad: Tensor) -> Tensor:
    """The same for any logits, in fewer operations."""
    if dropped is not None:  # to where p is 0, and NaN still NaN
        x = torch.add(x, dropped, alpha=-LARGER_THAN_LOGITS)
    torch.sigmoid(x, out=grad)
    return _softplus(x)


# In the following lerp selects: with the weight 0 it is exactly its first argument, with 1 its
# second. On a CPU torch.where and products with booleans take several times as long.


def _dropped_terms(
    foreground: Tensor | None,
    background: Background | None,
    is_fg: Tensor,
    numbers: Tensor | None,
    out: Tensor,
) -> Tensor | None:
    """Which terms of a block are dropped, 1 or 0, but for the ground-truth categories.

    Args:
        foreground: That of :class:`TermWeights`.
        background: The same.
        is_fg: (n, 1) bool, E(r).
        numbers: (n, C) int16 draws, for :class:`KeepWithProbability`.
        out: (n, C), for the result.

    Returns:
        ``out``; None if none is dropped, or all are discounted.
    """
    if foreground is None or background is None or isinstance(background, DiscountByScore):
        return None
    dropped_on_fg, is_fg = 1 - foreground.to(out.dtype), is_fg.to(out.dtype)
    if isinstance(background, Tensor):
        return torch.lerp(1 - background.to(out.dtype), dropped_on_fg, is_fg, out=out)
    assert numbers is not None  # drawn for KeepWithProbability
    # ge() of the integers themselves would convert them into new memory first.
    out.copy_(numbers).ge_(draw_threshold(background.probability))
    return out.lerp_(dropped_on_fg, is_fg)


def _discount(
    foreground: Tensor, background: DiscountByScore, is_fg: Tensor, x: Tensor, softplus: Tensor
) -> Tensor:
    """The weights of a block whose background terms are discounted by their scores.

    Args:
        foreground: That of :class:`TermWeights`.
        background: The same.
        is_fg: (n, 1) bool, E(r).
        x: (n, C) logits.
        softplus: (n, C), log(1 + exp(x)).

    Returns:
        (n, C).
    """
    tail = background.tail.to(x.dtype)
    # 1 - T min(-log_b(p), 1) = max(1 - T (-log_b(p)), 1 - T), and -log(p) = -log(1 - p) - x.
    weight, slope = softplus - x, tail / -math.log(background.log_base)
    torch.addcmul(x.new_ones(()), weight, slope, out=weight)
    torch.maximum(weight, 1 - tail, out=weight)
    return weight.lerp_(foreground.to(x.dtype), is_fg.to(x.dtype))


class Draws:
    """Whole numbers, uniform in [-32768, 32767], that torch's global generator decides.

    With 16 bits a probability is off by less than the 2^16th part.

    On a CPU they are the bits of NumPy's SFC64, which torch's generator seeds, and four numbers
    come from each 64 bits. With 64 bits of torch's own generator in their place, DropLoss's forward
    and backward pass took 1.11 and 1.17 times as long (two runs of 20 turns, 1024 x 1203, one
    thread), and it does not get faster with more threads.

    Args:
        device: Where the numbers are needed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.generator = None
        if device.type == "cpu" and not is_compiling():
            self.generator = np.random.SFC64(int(torch.randint(2**63 - 1, ())))

    def __call__(self, shape: tuple[int, int]) -> Tensor:
        """The next numbers, (N, C) int16."""
        if self.generator is None:
            return torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, device=self.device)
        size = math.prod(shape)
        bits = self.generator.random_raw((size + 3) // 4)
        return torch.from_numpy(bits.view(np.int16))[:size].view(shape)


def draw_threshold(probability: Tensor) -> Tensor:
    """What a draw is below with this probability; exactly never for 0, exactly always for 1."""
    return probability * 2**16 - 2**15


def _graph_is_kept() -> bool:
    """Whether this backward pass has ``retain_graph=True``; True if this torch does not tell.

    The function is private to torch, and there is no public one. Without it the backward pass would
    need a second array of the logits' size, and with the new memory for it took 1.2 times as long.
    """
    tell = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return tell is None or tell()
