"""What one pass over the logits must keep, besides the values (test_loss_values.py)."""

from __future__ import annotations

import pytest
import torch

from mmdet_droploss.models.losses import (
    BEQL,
    EQL,
    DropLoss,
    FederatedLoss,
    FixedDropLoss,
    SigmoidBCELoss,
    weighted_bce,
)

COUNTS = [3, 50, 100, 101, 9000, 20, 7]
KINDS = {
    SigmoidBCELoss: {},
    EQL: {},
    BEQL: {},
    FixedDropLoss: dict(drop_ratio=0.4),
    DropLoss: {},
    FederatedLoss: dict(num_sampled=5),
}
each_loss = pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.__name__)


def build(cls):
    return cls(len(COUNTS), class_freq=COUNTS, reduction="sum", **KINDS[cls])


def batch(proposals=50):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(proposals, len(COUNTS), generator=generator) - 5
    labels = torch.randint(0, 2 * len(COUNTS), (proposals,), generator=generator)
    return x, labels.clamp(max=len(COUNTS))


def value_and_gradient(loss, x, labels):
    torch.manual_seed(2)
    x = x.detach().clone().requires_grad_()
    value = loss(x, labels)
    value.backward()
    return value.detach(), x.grad


@each_loss
def test_nothing_depends_on_the_size_of_a_block(cls, monkeypatch):
    x, labels = batch()
    whole = value_and_gradient(build(cls), x, labels)
    assert weighted_bce._rows_in_block(x) >= len(x)
    monkeypatch.setattr(weighted_bce, "BLOCK_SIZE", 1)
    assert weighted_bce._rows_in_block(x) == 4
    torch.testing.assert_close(value_and_gradient(build(cls), x, labels), whole, rtol=0, atol=1e-5)


@each_loss
@pytest.mark.parametrize("largest", [80.0, 90.0, 1e4])
def test_a_logit_too_large_for_exp_changes_nothing_else(cls, largest, monkeypatch):
    """On a CPU all is made of exp(x), and made again, with the same draws, where that overflows."""
    monkeypatch.setattr(weighted_bce, "BLOCK_SIZE", 1)
    x, labels = batch()
    x[17, 4], x[30, 0] = largest, -largest
    found = value_and_gradient(build(cls), x, labels)
    monkeypatch.setattr(weighted_bce, "_from_odds", weighted_bce._from_logits)
    expected = value_and_gradient(build(cls), x, labels)
    assert expected[0].isfinite()
    torch.testing.assert_close(found, expected)


@each_loss
def test_logits_may_lie_anyhow_in_memory(cls):
    x, labels = batch()
    expected = value_and_gradient(build(cls), x, labels)
    wide = torch.zeros(len(x), 2 * len(COUNTS))
    wide[:, ::2] = x
    for view in (x.t().contiguous().t(), wide[:, ::2]):
        torch.manual_seed(2)
        view.requires_grad_()
        value = build(cls)(view, labels)
        (grad,) = torch.autograd.grad(value, view)
        torch.testing.assert_close((value.detach(), grad), expected)


@each_loss
def test_a_graph_that_is_kept_can_be_gone_through_again(cls):
    x, labels = batch()
    x.requires_grad_()
    value = build(cls)(x, labels)
    gradients = [torch.autograd.grad(value * k, x, retain_graph=True)[0] for k in (1.0, 3.0, 1.0)]
    torch.testing.assert_close(gradients[1], 3 * gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0], rtol=0, atol=0)
    last = torch.autograd.grad(value, x)[0]
    torch.testing.assert_close(last, gradients[0], rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(value, x)


@each_loss
def test_a_second_derivative_is_an_error_not_a_zero(cls):
    x, labels = batch()
    x.requires_grad_()
    with pytest.raises(RuntimeError, match="differentiated once only.*create_graph=True"):
        torch.autograd.grad(build(cls)(x, labels), x, create_graph=True)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_compiling"), reason="torch.compile too old")
@each_loss
def test_torch_compile_takes_the_whole_loss(cls):
    """Without a graph break, here without making kernels."""
    torch.compiler.reset()
    x, labels = batch(proposals=500)
    loss = build(cls)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    value, gradient = value_and_gradient(compiled, x, labels)
    expected, expected_gradient = value_and_gradient(loss, x, labels)
    if cls in (FixedDropLoss, DropLoss):  # other draws
        assert 0.8 < value / expected < 1.25
        is_tail = loss.tail[labels.clamp(max=len(COUNTS) - 1)] & (labels < len(COUNTS))
        torch.testing.assert_close(gradient[is_tail], expected_gradient[is_tail])
    else:
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, expected_gradient)
    with pytest.raises(RuntimeError, match="labels must lie in"):
        compiled(x, labels + 1)
    x[7, 3] = torch.nan
    with pytest.raises(RuntimeError, match="training has diverged"):
        compiled(x, labels)


@pytest.mark.parametrize("probability", [0.0, 1e-3, 1 / 3, 0.5, 0.97, 1.0])
def test_draws_fall_below_the_threshold_as_often_as_they_should(probability):
    numbers = weighted_bce.Draws(torch.device("cpu"))((1000, 1203))
    assert numbers.dtype == torch.int16 and numbers.shape == (1000, 1203)
    below = numbers.float() < weighted_bce.draw_threshold(torch.tensor(probability))
    share = below.double().mean().item()
    bound = 5 * (probability * (1 - probability) / numbers.numel()) ** 0.5
    assert abs(share - probability) <= bound + (2**-16 if 0 < probability < 1 else 0)


def test_every_number_can_be_drawn_and_0_and_1_are_exact():
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16)
    drawn = weighted_bce.Draws(torch.device("cpu"))((4000, 1203))
    assert (drawn.min(), drawn.max()) == (-(2**15), 2**15 - 1)
    for probability, expected in ((0.0, 0), (1.0, 2**16), (0.25, 2**14), (2**-16, 1)):
        below = numbers.float() < weighted_bce.draw_threshold(torch.tensor(probability))
        assert below.sum() == expected


def test_the_four_numbers_of_64_bits_are_independent():
    numbers = weighted_bce.Draws(torch.device("cpu"))((250_000, 4)).double()
    correlation = torch.corrcoef(numbers.t()) - torch.eye(4)
    assert correlation.abs().max() < 5 / 250_000**0.5
