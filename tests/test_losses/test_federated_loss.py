"""FederatedLoss: which categories count, how often, and the values against the oracle's loops."""

from __future__ import annotations

import itertools

import loss_oracle as oracle
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS

from mmdet_droploss.models.losses import FederatedLoss

pytestmark = pytest.mark.filterwarnings("ignore:the classifier starts by claiming")

COUNTS = [1, 4, 9, 25, 100, 400, 2500, 0]
NUM_CLASSES = len(COUNTS)


def federated(counts=COUNTS, num_sampled=3, power=0.5):
    return FederatedLoss(len(counts), counts, num_sampled=num_sampled, power=power)


def counted(labels, loss):
    """(C,) bool: the categories that count in one batch."""
    weights = loss.term_weights(torch.tensor(labels))
    assert torch.equal(weights.foreground, weights.background)
    return weights.foreground


@given(
    labels=st.lists(st.integers(0, NUM_CLASSES), max_size=20),
    num_sampled=st.integers(1, NUM_CLASSES - 1),
    power=st.sampled_from([0, 0.5]),
    seed=st.integers(0, 2**31),
)
def test_the_number_of_categories_is_exact(labels, num_sampled, power, seed):
    torch.manual_seed(seed)
    found = counted(labels or [NUM_CLASSES], federated(num_sampled=num_sampled, power=power))
    present = {label for label in labels if label < NUM_CLASSES}
    assert present <= set(found.nonzero().flatten().tolist())
    assert found[7] == (7 in present), "a category without images is never drawn"
    without_images = len(present & {7})
    drawable = NUM_CLASSES - 1 + without_images
    assert found.sum() == min(max(num_sampled, len(present)), drawable)


def inclusion_probabilities(weights, number):
    """P(j is among the first), by all orders of drawing without replacement."""
    probability = np.zeros(len(weights))
    for order in itertools.permutations(range(len(weights)), number):
        left, of_order = sum(weights), 1.0
        for j in order:
            of_order *= weights[j] / left
            left -= weights[j]
        probability[list(order)] += of_order
    return probability


@pytest.mark.parametrize("power", [0, 0.5, 1])
def test_categories_are_drawn_by_the_power_of_their_frequency(power):
    torch.manual_seed(0)
    times = 4000
    labels = [3, 3, NUM_CLASSES, 3]
    loss = federated([*COUNTS[:7], 16], power=power)
    found = torch.stack([counted(labels, loss) for _ in range(times)])
    share = found.double().mean(dim=0).numpy()
    others = [0, 1, 2, 4, 5, 6, 7]
    weights = [([*COUNTS[:7], 16][j]) ** power for j in others]
    expected = inclusion_probabilities(weights, 2)
    assert share[3] == 1
    bound = 5 * np.sqrt(expected * (1 - expected) / times) + 1e-9
    assert (np.abs(share[others] - expected) <= bound).all()


@given(
    num_proposals=st.integers(0, 10),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1.0, 50.0, 1000.0]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16]),
    background=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_value_and_gradient_are_those_of_the_loops(num_proposals, seed, scale, dtype, background):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, NUM_CLASSES, num_proposals)
    labels[rng.random(num_proposals) < background] = NUM_CLASSES
    x = torch.from_numpy(rng.uniform(-scale, scale, (num_proposals, NUM_CLASSES))).to(dtype)
    loss = FederatedLoss(NUM_CLASSES, COUNTS, num_sampled=3, reduction="sum")
    torch.manual_seed(seed)
    counts = loss.term_weights(torch.from_numpy(labels)).foreground.double().numpy()
    torch.manual_seed(seed)
    leaf = x.clone().requires_grad_()
    value = loss(leaf, torch.from_numpy(labels))
    value.backward()
    logits = x.double().numpy()
    w = np.tile(counts, (num_proposals, 1))
    expected = oracle.per_proposal(logits, labels, w).sum()
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(
        float(value.detach()), expected, rtol=tolerance, atol=tolerance * (1 + np.abs(logits).sum())
    )
    np.testing.assert_allclose(
        leaf.grad.double().numpy(),
        oracle.gradient(logits, labels, w),
        rtol=2e-3 if dtype == torch.float16 else 1e-5,
        atol=1e-5,
    )


def test_the_draws_are_decided_by_torchs_seed_and_differ_between_batches():
    def several():
        torch.manual_seed(3)
        return torch.stack([counted([0], federated()) for _ in range(20)])

    assert torch.equal(several(), several())
    assert len(several().unique(dim=0)) > 1


def test_nothing_waits_for_a_gpu():
    loss = FederatedLoss(NUM_CLASSES, COUNTS, num_sampled=3).to("meta")
    loss._is_first_step = False
    x = torch.empty(16, NUM_CLASSES, device="meta", requires_grad=True)
    loss(x, torch.empty(16, device="meta", dtype=torch.int64)).backward()


def test_a_checkpoint_holds_no_more_than_that_of_the_other_losses():
    assert list(FederatedLoss(NUM_CLASSES, COUNTS, num_sampled=3).state_dict()) == ["tail"]


def test_it_is_built_by_its_name_with_detectron2s_numbers():
    loss = MODELS.build(dict(type="FederatedLoss", num_classes=1203, class_freq="lvis_v1"))
    assert (loss.num_sampled, loss.power) == (50, 0.5)
    assert loss.term_weights(torch.tensor([3, 5, 1203])).foreground.sum() == 50


@pytest.mark.parametrize("number", [0, -1, 8, 50, 2.5, True])
def test_a_number_of_categories_out_of_range(number):
    with pytest.raises(ValueError, match=rf"num_sampled must be .*\[1, 8\).*{number}"):
        FederatedLoss(NUM_CLASSES, COUNTS, num_sampled=number)


@pytest.mark.parametrize("power", [-1, "0.5", float("nan"), float("inf")])
def test_a_power_out_of_range(power):
    with pytest.raises(ValueError, match="power must be a number >= 0"):
        FederatedLoss(NUM_CLASSES, COUNTS, num_sampled=3, power=power)


def test_training_without_frequencies_is_refused_inference_is_not():
    loss = FederatedLoss(NUM_CLASSES, None, num_sampled=3)
    assert loss.get_activation(torch.zeros(2, NUM_CLASSES)).shape == (2, NUM_CLASSES + 1)
    with pytest.raises(ValueError, match="FederatedLoss with class_freq=None.*give class_freq"):
        loss(torch.zeros(2, NUM_CLASSES), torch.tensor([0, 1]))
