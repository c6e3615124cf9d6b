"""The losses of equations.py in one pass over the logits: value and gradient together.

What they have in common makes that possible. The weight of a proposal's own category is 1; the
other weights do not depend on the labels, but for whether the proposal is foreground. So neither
dense targets nor dense weights outlive a block of rows, and the gradient, w (p - y), is the only
array of the logits' size that does.

A term of weight 0 is one whose logit is far below 0, or whose odds p / (1 - p) are 0: both the term
and its gradient are 0 then. Arithmetic with zeros and ones does that; on a CPU, ``where`` and
products with booleans take many times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

#: Logits in a block of rows on a CPU: what is made of them stays in the cores' caches.
BLOCK = 2**18

#: Larger than any draw, and than any logit that is not as good as infinite.
BEYOND = 1e30


class Draws:
    """Whole numbers, uniform in [-32768, 32767], that torch's global generator decides.

    Four of them come from each 64 random bits, for the generator is what takes the time; with 16
    bits a probability is off by less than the 2^16th part. On a CPU the bits are those of NumPy's
    SFC64, seeded by torch's generator, which itself takes twice as long.

    Args:
        device: Where the numbers are needed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cpu":
            self.seed = int(torch.randint(2**63 - 1, ()))
            self.restart()

    def __call__(self, shape: tuple[int, int]) -> Tensor:
        """The next numbers, (N, C) int16."""
        size = math.prod(shape)
        count = (size + 3) // 4
        if self.device.type == "cpu":
            numbers = torch.from_numpy(self.generator.random_raw(count).view(np.int16))
        else:
            bits = torch.empty(count, dtype=torch.int64, device=self.device)
            numbers = bits.random_(-(2**63), None).view(torch.int16)
        return numbers[:size].view(shape)

    def restart(self) -> None:
        """Give the same numbers once more. On a CPU only."""
        self.generator = np.random.SFC64(self.seed)


def draw_threshold(probability: Tensor) -> Tensor:
    """What a draw is below with this probability; exactly never for 0, exactly always for 1."""
    return probability * 2**16 - 2**15


class WeightedBCE(torch.autograd.Function):
    """Eq. (1), (3) or (5) per proposal, with the weights of eq. (2), (4) or (6).

    See :func:`weighted_bce`, which calls it.
    """

    @staticmethod
    def forward(ctx, x, labels, tail, log_base, keep_probability) -> Tensor:
        """Value, and gradient for the backward pass."""
        num_classes = x.shape[1]
        fg = (labels < num_classes)[:, None]
        own = labels[:, None].clamp(max=num_classes - 1)  # for background, any category
        # The own term is -log(p), with the gradient p - 1 = -sigmoid(-x), and has the weight 1.
        minus_x_own = -x.gather(1, own)
        own_term = softplus(minus_x_own)

        grad, loss = torch.empty_like(x), x.new_empty(len(x))
        weights = _Weights(x.dtype, tail, log_base, keep_probability)
        draws = None if keep_probability is None else Draws(x.device)
        by_row = (x, fg, fg.to(x.dtype), own, own_term, grad, loss)
        blocks = list(zip(*(values.split(_rows_at_once(x)) for values in by_row), strict=True))
        if x.device.type != "cpu":
            _fill(_from_logits, weights, draws, blocks)
        else:
            _fill(_from_odds, weights, draws, blocks)
            if not loss.isfinite().all():  # too large a logit for exp()
                if draws is not None:
                    draws.restart()
                _fill(_from_logits, weights, draws, blocks)
        grad_own = torch.where(fg, -torch.sigmoid(minus_x_own), grad.gather(1, own))
        ctx.save_for_backward(grad.scatter_(1, own, grad_own))
        return loss

    @staticmethod
    def backward(ctx, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of forward, times what arrives."""
        if torch.is_grad_enabled():  # a constant in its place would be a silent error
            raise RuntimeError(
                "the classification losses of mmdet_droploss can be differentiated once only, but "
                "create_graph=True asks for a graph of their gradient"
            )
        (grad,) = ctx.saved_tensors
        # Where nobody can ask again it need not be kept, which saves an array of its size.
        in_place = not _graph_is_kept()
        grad = torch.mul(grad, grad_loss[:, None], out=grad if in_place else None)
        return grad, None, None, None, None


def weighted_bce(
    x: Tensor,
    labels: Tensor,
    tail: Tensor | None = None,
    log_base: float | None = None,
    keep_probability: Tensor | None = None,
) -> Tensor:
    """Sum over the categories of the weighted binary cross-entropy, for each proposal.

    Without options, w = 1. It can be differentiated once.

    Args:
        x: (N, C) logits, float32 or float64.
        labels: (N,) int64 in [0, C], C for background.
        tail: (C,) bool, T(f_j): foreground is weighted by eq. (2).
        log_base: b: background is weighted by eq. (4).
        keep_probability: (C,) float, mu: background is weighted by eq. (6).

    Returns:
        (N,), the dtype of ``x``.
    """
    return WeightedBCE.apply(x, labels, tail, log_base, keep_probability)


def softplus(x: Tensor, out: Tensor | None = None) -> Tensor:
    """log(1 + exp(x)); from 40 on that is x, to the last bit of a float64 (torch's default: 20)."""
    return torch._C._nn.softplus(x, 1, 40, out=out)


def _rows_at_once(x: Tensor) -> int:
    """The rows of a block. A GPU gets all at once: there each operation costs a launch."""
    num_proposals, num_classes = x.shape
    if x.device.type != "cpu":
        return max(num_proposals, 1)
    # Draws come in fours, so with a multiple of four they do not depend on the block's size.
    return max(BLOCK // num_classes // 4, 1) * 4


def _fill(
    terms_and_gradients: Callable,
    weights: _Weights,
    draws: Draws | None,
    blocks: Iterable[tuple[Tensor, ...]],
) -> None:
    """Fill in the losses, and the gradients but for the proposals' own categories.

    Args:
        terms_and_gradients: :func:`_from_odds` or :func:`_from_logits`.
        weights: Those of the other categories.
        draws: The draws of eq. (6).
        blocks: Of rows: logits, whether they are foreground (as bool, and as 0 or 1), the own
            category, the own term, and the gradients and losses to fill.
    """
    terms_of_block = None
    for x, is_fg, fg, own, own_term, grad, loss in blocks:
        if terms_of_block is None:
            terms_of_block = torch.empty_like(x)
        terms = terms_of_block[: len(x)]
        numbers = None if draws is None else draws(x.shape)
        dropped = weights.dropped(fg, numbers, out=grad)
        terms_and_gradients(x, dropped, terms, grad)
        weights.discount(fg, x, terms, grad)
        terms.scatter_(1, own, torch.where(is_fg, own_term, terms.gather(1, own)))
        torch.sum(terms, 1, out=loss)


def _from_odds(x: Tensor, dropped: Tensor | None, terms: Tensor, grad: Tensor) -> None:
    """Fill ``terms`` with -log(1 - p) = log(1 + odds) and ``grad`` with p = odds / (1 + odds).

    Fast on a CPU, and not finite if exp(x) is not.

    Args:
        x: (n, C) logits.
        dropped: (n, C), 1 for the terms that are dropped, else 0; may be ``grad``'s memory.
        terms: (n, C).
        grad: (n, C).
    """
    odds = torch.exp(x, out=terms)
    if dropped is not None:
        odds.addcmul_(odds, dropped, value=-1)
    torch.div(odds, torch.add(odds, 1, out=grad), out=grad)
    odds.log1p_()


def _from_logits(x: Tensor, dropped: Tensor | None, terms: Tensor, grad: Tensor) -> None:
    """The same for all logits, in fewer operations."""
    if dropped is not None:
        x = torch.add(x, dropped, alpha=-BEYOND)
    softplus(x, out=terms)
    torch.sigmoid(x, out=grad)


class _Weights:
    """The weights of all terms but the proposals' own, block by block."""

    def __init__(
        self,
        dtype: torch.dtype,
        tail: Tensor | None,
        log_base: float | None,
        keep_probability: Tensor | None,
    ) -> None:
        self.tail = None if tail is None else tail.to(dtype)
        self.log_base = log_base
        if keep_probability is not None:
            self.threshold = draw_threshold(keep_probability.to(dtype))
            # Added to the draws of foreground: no tail term is kept, and every frequent one.
            self.shift = torch.where(tail, BEYOND, -BEYOND).to(dtype)
        elif log_base is not None:
            self.slope = self.tail / -math.log(log_base)
            self.least = 1 - self.tail

    def dropped(self, fg: Tensor, numbers: Tensor | None, out: Tensor) -> Tensor | None:
        """Which terms have the weight 0 by eq. (2) or (6).

        Args:
            fg: (n, 1), 1 for foreground, else 0.
            numbers: (n, C) draws for eq. (6); None for eq. (2).
            out: (n, C), for the result.

        Returns:
            (n, C), 1 where it is 0, else 0. None if no weight is 0, or all are eq. (4)'s.
        """
        if self.tail is None or self.log_base is not None:
            return None
        if numbers is None:
            return torch.mul(fg, self.tail, out=out)
        return out.copy_(numbers).addcmul_(fg, self.shift).ge_(self.threshold)

    def discount(self, fg: Tensor, x: Tensor, terms: Tensor, grad: Tensor) -> None:
        """Multiply with the weights of eq. (4), if they are wanted."""
        if self.log_base is None:
            return
        # 1 - T min(-log_b(p), 1) = max(1 - T (-log(p)) / log(b), 1 - T), of which foreground gets
        # the second; -log(p) = -log(1 - p) - x.
        weight = (terms - x).clamp_(max=BEYOND)  # an infinite one times T = 0 would be NaN
        torch.addcmul(1 - BEYOND * fg, weight, self.slope, out=weight)
        torch.maximum(weight, self.least, out=weight)
        terms.mul_(weight)
        grad.mul_(weight)


def _graph_is_kept() -> bool:
    """Whether this backward pass has ``retain_graph=True``; True if this torch does not tell."""
    tell = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return tell is None or tell()
