"""The losses of equations.py in one pass over the logits: value and gradient together.

What they have in common makes that possible. The weight of a proposal's own category is 1; the
other weights do not depend on the labels, but for whether the proposal is foreground. So neither
dense targets nor dense weights outlive a block of rows, and the gradient, w (p - y), is the only
array of the logits' size that does.

Weights of 0 are applied to the logits, in their dtype: a term whose logit is far below 0 is 0, and
so is its gradient. On a CPU, ``where`` and products with booleans take several times as long.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Logits in a block of rows on a CPU: what is made of them stays in a core's cache.
BLOCK = 2**17

#: Larger than any draw, and than any logit that is not as good as infinite.
BEYOND = 1e30


def draws(shape: tuple[int, int], device: torch.device) -> Tensor:
    """Whole numbers, uniform in [-32768, 32767], from torch's global generator.

    Four of them from each 64 random bits: on a CPU the generator is what takes the time, and with
    16 bits a probability is off by less than the 2^16th part.

    Returns:
        (N, C) int16.
    """
    size = math.prod(shape)
    bits = torch.empty((size + 3) // 4, dtype=torch.int64, device=device).random_(-(2**63), None)
    return bits.view(torch.int16)[:size].view(shape)


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
        num_proposals, num_classes = x.shape
        fg = (labels < num_classes)[:, None]
        own = labels[:, None]  # the proposal's own category; for background one beyond the last
        own_or_any = own.clamp(max=num_classes - 1)
        # The own term is -log(p), with the gradient p - 1 = -sigmoid(-x), and has the weight 1.
        x_own = x.gather(1, own_or_any)
        own_term = torch.where(fg, softplus(-x_own), 0.0)

        grad = torch.empty_like(x)
        loss = x.new_empty(num_proposals)
        others = _OtherTerms(x.dtype, fg, tail, log_base, keep_probability)
        step = _rows_at_once(x)
        terms = x.new_empty(min(step, num_proposals), num_classes + 1)
        for start in range(0, num_proposals, step):
            rows = slice(start, start + step)
            term = terms[: num_proposals - start]
            others(x[rows], rows, term[:, :-1], grad[rows])
            term[:, -1] = 0
            term.scatter_(1, own[rows], own_term[rows])
            torch.sum(term, 1, out=loss[rows])
        grad_own = torch.where(fg, -torch.sigmoid(-x_own), grad.gather(1, own_or_any))
        ctx.save_for_backward(grad.scatter_(1, own_or_any, grad_own))
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


class _OtherTerms:
    """The weighted terms and their gradients, but for the proposals' own, block by block."""

    def __init__(
        self,
        dtype: torch.dtype,
        fg: Tensor,
        tail: Tensor | None,
        log_base: float | None,
        keep_probability: Tensor | None,
    ) -> None:
        self.tail = None if tail is None else tail.to(dtype)
        self.fg = fg.to(dtype)
        self.log_base = log_base
        self.threshold = None
        if keep_probability is not None:
            self.threshold = draw_threshold(keep_probability.to(dtype))
            # Added to the draws of foreground: no tail term is kept, and every frequent one.
            self.shift = torch.where(tail, BEYOND, -BEYOND).to(dtype)
        elif log_base is not None:
            self.start = torch.where(fg, -BEYOND, 1.0).to(dtype)
            self.slope = self.tail / -math.log(log_base)
            self.least = 1 - self.tail

    def __call__(self, x: Tensor, rows: slice, terms: Tensor, grad: Tensor) -> None:
        """Fill ``terms`` with - w log(1 - p) and ``grad`` with w p.

        A term of weight 0 is one whose logit is far below 0: both become 0 then.

        Args:
            x: (n, C) logits.
            rows: Which rows of all.
            terms: (n, C).
            grad: (n, C).
        """
        if self.threshold is not None:  # eq. (6)
            dropped = draws(x.shape, x.device).to(x.dtype)
            dropped.addcmul_(self.fg[rows], self.shift).ge_(self.threshold)
            x = torch.add(x, dropped, alpha=-BEYOND, out=dropped)
        elif self.tail is not None and self.log_base is None:  # eq. (2)
            x = torch.addcmul(x, self.fg[rows], self.tail, value=-BEYOND)
        softplus(x, out=terms)
        torch.sigmoid(x, out=grad)
        if self.log_base is not None:  # eq. (4)
            # 1 - T min(-log_b(p), 1) = max(1 - T (-log(p)) / log(b), 1 - T), of which foreground
            # gets the second; -log(p) = -log(1 - p) - x.
            weight = terms - x
            torch.addcmul(self.start[rows], weight, self.slope, out=weight)
            torch.maximum(weight, self.least, out=weight)
            terms.mul_(weight)
            grad.mul_(weight)


def _graph_is_kept() -> bool:
    """Whether this backward pass has ``retain_graph=True``; True if this torch does not tell."""
    tell = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return tell is None or tell()
