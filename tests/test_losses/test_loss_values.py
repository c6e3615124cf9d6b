"""Value and gradient of every loss against the loops of loss_oracle.py."""

from __future__ import annotations

import loss_oracle as oracle
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmdet_droploss.models.losses import BEQL, EQL, DropLoss, FixedDropLoss, SigmoidBCELoss
from mmdet_droploss.models.losses.weighted_bce import Draws

CLASSES = {cls.__name__: cls for cls in (SigmoidBCELoss, EQL, BEQL, FixedDropLoss, DropLoss)}
#: Image counts at and around the border of the tail.
COUNTS = (0, 1, 10, 11, 99, 100, 101, 5000)

pytestmark = pytest.mark.filterwarnings(
    # Random counts are often all tail or all frequent, and random logits often high.
    "ignore:.*category is of low frequency",
    "ignore:the classifier starts by claiming",
)


@st.composite
def cases(draw):
    """A loss, its arguments and a batch."""
    kind = draw(st.sampled_from(oracle.KINDS))
    num_classes = draw(st.integers(1, 9))
    num_proposals = draw(st.integers(0, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = rng.choice(COUNTS, num_classes).tolist()
    arguments = {}
    if kind == "BEQL":
        arguments["log_base"] = draw(st.sampled_from([1.01, 2, 4, 10.0, 1e6]))
    if kind == "FixedDropLoss":
        arguments["drop_ratio"] = draw(st.sampled_from([0, 0.3, 0.7, 1]))
    if kind == "DropLoss":
        arguments["drop_frequent"] = draw(st.booleans())
    labels = {
        "mixed": rng.integers(0, num_classes + 1, num_proposals),
        "mostly background": np.where(
            rng.random(num_proposals) < 0.75,
            num_classes,
            rng.integers(0, num_classes, num_proposals),
        ),
        "all background": np.full(num_proposals, num_classes),
        "all foreground": rng.integers(0, num_classes, num_proposals),
    }[draw(st.sampled_from(["mixed", "mostly background", "all background", "all foreground"]))]
    scale = draw(st.sampled_from([0.0, 1.0, 50.0, 1000.0]))
    logits = rng.uniform(-scale, scale, (num_proposals, num_classes))
    if scale >= 50:  # the ends themselves, too
        logits = np.where(rng.random(logits.shape) < 0.3, np.sign(logits) * scale, logits)
    reduction = draw(st.sampled_from(["none", "mean", "sum"]))
    avg_factor = None
    if reduction == "mean":
        avg_factor = draw(st.sampled_from([None, 1, 7.5, 512, torch.tensor(3.0)]))
    return dict(
        kind=kind,
        counts=counts,
        arguments=arguments,
        labels=labels,
        logits=logits,
        dtype=draw(st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16])),
        label_weights=draw(
            st.sampled_from([None, rng.choice([0.0, 0.25, 1.0, 3.0], num_proposals)])
        ),
        reduction=reduction,
        override=draw(st.booleans()),
        avg_factor=avg_factor,
        loss_weight=draw(st.sampled_from([0, 1.0, 2.5])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def run(case):
    """Value and gradient by the package."""
    other = {"none": "sum", "mean": "none", "sum": "mean"}[case["reduction"]]
    loss = CLASSES[case["kind"]](
        num_classes=len(case["counts"]),
        class_freq=case["counts"],
        reduction=other if case["override"] else case["reduction"],
        loss_weight=case["loss_weight"],
        **case["arguments"],
    )
    x = torch.from_numpy(case["logits"]).to(case["dtype"]).requires_grad_()
    label_weights = case["label_weights"]
    if label_weights is not None:
        label_weights = torch.from_numpy(label_weights).to(
            torch.float64 if case["dtype"] == torch.float64 else torch.float32
        )
    torch.manual_seed(case["seed"])
    value = loss(
        x,
        torch.from_numpy(case["labels"]),
        label_weights,
        avg_factor=case["avg_factor"],
        reduction_override=case["reduction"] if case["override"] else None,
    )
    value.sum().backward()
    return x.detach(), value.detach(), x.grad


@settings(max_examples=max(300, settings().max_examples))
@given(cases())
def test_value_and_gradient_are_those_of_the_equations(case):
    x, value, grad = run(case)
    torch.manual_seed(case["seed"])
    draw = (Draws(x.device)(x.shape).double().numpy() + 2**15) / 2**16  # uniform in [0, 1)
    tail = np.array(case["counts"]) <= 100
    logits = x.double().numpy()  # as rounded to the dtype
    w = oracle.weights(case["kind"], logits, case["labels"], tail, draw=draw, **case["arguments"])
    losses = oracle.per_proposal(logits, case["labels"], w)
    avg_factor = None if case["avg_factor"] is None else float(case["avg_factor"])
    how = dict(label_weights=case["label_weights"], loss_weight=case["loss_weight"])
    expected = oracle.reduce(losses, case["reduction"], avg_factor=avg_factor, **how)
    divisor = 1.0
    if case["reduction"] == "mean":
        divisor = avg_factor or max(len(logits), 1)
    expected_grad = oracle.gradient(logits, case["labels"], w, divisor=divisor, **how)

    assert value.dtype == (torch.float64 if case["dtype"] == torch.float64 else torch.float32)
    assert grad.dtype == case["dtype"]
    # mmdet adds float32's epsilon to avg_factor: a part in 1e7.
    rtol = 2e-7 if case["dtype"] == torch.float64 else 2e-6
    # A term near 0 is a difference of numbers as large as the logit, so that is what is rounded.
    epsilon = torch.finfo(value.dtype).eps
    atol = 8 * epsilon * (np.abs(logits).sum() + logits.size) * 8
    np.testing.assert_allclose(value.double().numpy(), expected, rtol=rtol, atol=atol)
    rtol, atol = {
        torch.float64: (2e-7, 1e-14),
        torch.float32: (3e-6, 3e-6),
        torch.float16: (2e-3, 1e-5),
        torch.bfloat16: (1e-2, 1e-5),
    }[case["dtype"]]
    np.testing.assert_allclose(grad.double().numpy(), expected_grad, rtol=rtol, atol=atol)


def small_case():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4)) * 2
    labels = np.array([0, 4, 2, 4, 4, 3])
    tail = np.array([True, False, True, False])
    return logits, labels, tail, rng.random((6, 4))


@pytest.mark.parametrize("kind", oracle.KINDS)
def test_the_oracles_gradient_is_the_derivative_of_its_value(kind):
    """With w held: the weights of the paper carry no gradient."""
    logits, labels, tail, draw = small_case()
    drop = dict(drop_ratio=0.5) if kind == "FixedDropLoss" else {}
    w = oracle.weights(kind, logits, labels, tail, draw=draw, **drop)
    step = 1e-6
    numerical = np.zeros_like(logits)
    for r, j in np.ndindex(*logits.shape):
        moved = [logits.copy(), logits.copy()]
        moved[0][r, j] -= step
        moved[1][r, j] += step
        low, high = (oracle.per_proposal(m, labels, w).sum() for m in moved)
        numerical[r, j] = (high - low) / (2 * step)
    np.testing.assert_allclose(oracle.gradient(logits, labels, w), numerical, atol=1e-8)


def test_beqls_weight_carries_no_gradient():
    """It depends on p, so differentiating through it would give another gradient."""
    logits, labels, tail, _ = small_case()
    w = oracle.weights("BEQL", logits, labels, tail)
    assert ((w > 0) & (w < 1)).any(), "the case must have weights that depend on p"
    x = torch.from_numpy(logits).requires_grad_()
    BEQL(4, class_freq=[1, 999, 1, 999], reduction="sum")(x, torch.from_numpy(labels)).backward()
    np.testing.assert_allclose(x.grad, oracle.gradient(logits, labels, w), rtol=1e-9)


@pytest.mark.parametrize("kind", ["SigmoidBCELoss", "EQL", "FixedDropLoss", "DropLoss"])
def test_gradcheck(kind):
    """Autograd's own check; BEQL is left out, since its weight is held by design."""
    logits, labels, _, _ = small_case()
    drop = dict(drop_ratio=0.5) if kind == "FixedDropLoss" else {}
    loss = CLASSES[kind](4, class_freq=[1, 999, 1, 999], **drop)

    def of_logits(x):
        torch.manual_seed(3)
        return loss(x, torch.from_numpy(labels))

    assert torch.autograd.gradcheck(of_logits, torch.from_numpy(logits).requires_grad_())


@given(
    num_proposals=st.integers(0, 10),
    num_classes=st.integers(1, 8),
    seed=st.integers(0, 2**31),
)
@example(num_proposals=0, num_classes=3, seed=0)
def test_special_cases_meet(num_proposals, num_classes, seed):
    """drop_ratio=0 and a large log_base are EQL; drop_ratio=1 drops the background's whole tail."""
    rng = np.random.default_rng(seed)
    counts = rng.choice(COUNTS, num_classes).tolist()
    x = torch.from_numpy(rng.normal(size=(num_proposals, num_classes)) * 3)
    labels = torch.from_numpy(rng.integers(0, num_classes + 1, num_proposals))
    arguments = dict(num_classes=num_classes, class_freq=counts, reduction="none")
    eql = EQL(**arguments)(x, labels)
    torch.testing.assert_close(FixedDropLoss(drop_ratio=0, **arguments)(x, labels), eql)
    # w differs from 1 by at most -log(p) / log(b), which log(1e300) = 690 makes small, not 0.
    near = BEQL(log_base=1e300, **arguments)(x, labels)
    assert ((near <= eql) & (near >= eql * 0.97)).all()
    everything_dropped = FixedDropLoss(drop_ratio=1, **arguments)(x, labels)
    is_tail = torch.tensor(counts) <= 100
    background = labels == num_classes
    kept = torch.nn.functional.softplus(x)[:, ~is_tail].sum(dim=1)
    torch.testing.assert_close(everything_dropped[background], kept[background])
    torch.testing.assert_close(everything_dropped[~background], eql[~background])


@pytest.mark.parametrize("kind", oracle.KINDS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_an_empty_batch_gives_zero_with_a_gradient(kind, reduction):
    drop = dict(drop_ratio=0.5) if kind == "FixedDropLoss" else {}
    loss = CLASSES[kind](3, class_freq=[1, 50, 500], reduction=reduction, **drop)
    features = torch.randn(0, 5)
    classifier = torch.nn.Linear(5, 3)
    value = loss(classifier(features), torch.zeros(0, dtype=torch.int64))
    assert value.shape == ((0,) if reduction == "none" else ())
    assert value.sum() == 0
    value.sum().backward()
    assert torch.equal(classifier.weight.grad, torch.zeros(3, 5))


def test_avg_factor_zero_stays_finite():
    """A batch whose proposals all have weight 0."""
    loss = EQL(3, class_freq=[1, 50, 500])
    value = loss(torch.randn(4, 3), torch.tensor([0, 1, 3, 3]), torch.zeros(4), avg_factor=0)
    assert value == 0
