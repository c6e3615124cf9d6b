"""What is drawn: keep frequencies by eq. (7), independence, and statistics over processes.

These look at the gradient only: a background term's gradient is not 0 if and only if it was kept.
So they hold for any order of drawing.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp

from mmdet_droploss.models.losses import EQL, DropLoss, FixedDropLoss, SigmoidBCELoss

#: 3 tail and 2 frequent categories; 5 is background.
COUNTS = [3, 50, 100, 101, 9000]
TAIL = torch.tensor([True, True, True, False, False])
BACKGROUND = 5


def kept_terms(loss, labels):
    """(number of background proposals, C) bool: which background terms were kept."""
    x = torch.zeros(len(labels), len(TAIL), requires_grad=True)
    loss(x, labels, reduction_override="sum").backward()
    return x.grad[labels == BACKGROUND] != 0


def sample(loss, labels, times):
    return torch.stack([kept_terms(loss, labels) for _ in range(times)])


def batch(num_tail, num_frequent, num_background):
    return torch.cat(
        [
            torch.arange(num_tail) % 3,
            3 + torch.arange(num_frequent) % 2,
            torch.full((num_background,), BACKGROUND),
        ]
    )


def assert_frequency(kept, probability):
    """Within 5 standard deviations: a false alarm in two million runs."""
    bound = 5 * math.sqrt(probability * (1 - probability) / kept.numel())
    assert abs(kept.double().mean().item() - probability) <= bound + 1e-12


@pytest.mark.parametrize("num_tail, num_frequent", [(1, 9), (3, 5), (8, 2), (1, 1), (30, 1)])
@pytest.mark.parametrize("drop_frequent", [True, False])
def test_keep_frequencies_follow_eq_7(num_tail, num_frequent, drop_frequent):
    labels = batch(num_tail, num_frequent, 60)
    loss = DropLoss(5, class_freq=COUNTS, drop_frequent=drop_frequent)
    kept = sample(loss, labels, 200)
    share = num_tail / (num_tail + num_frequent)
    for category in range(5):
        of_frequent = 1 - share if drop_frequent else 1.0
        assert_frequency(kept[..., category], share if TAIL[category] else of_frequent)


@pytest.mark.parametrize("drop_ratio", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_keep_frequencies_of_a_fixed_ratio(drop_ratio):
    loss = FixedDropLoss(5, class_freq=COUNTS, drop_ratio=drop_ratio)
    kept = sample(loss, batch(2, 3, 60), 200)
    assert_frequency(kept[..., TAIL], 1 - drop_ratio)
    assert kept[..., ~TAIL].all()


@pytest.mark.parametrize(
    "loss",
    [
        DropLoss(5, class_freq=COUNTS),
        FixedDropLoss(5, class_freq=COUNTS, drop_ratio=0.5),
    ],
    ids=["DropLoss", "FixedDropLoss"],
)
def test_terms_are_drawn_one_by_one(loss):
    """No draw is shared: not by the categories of a proposal, nor by proposals, nor by steps."""
    steps = 6_000
    kept = sample(loss, batch(4, 4, 3), steps).flatten(1).double()  # 3 proposals x 5 categories
    varies = kept.std(dim=0) > 0
    assert varies.reshape(3, 5)[:, TAIL].all()
    correlation = torch.corrcoef(kept[:, varies].T)
    correlation.fill_diagonal_(0)
    assert correlation.abs().max() < 5.5 / math.sqrt(steps)
    successive = torch.corrcoef(torch.stack([kept[:-1, 0], kept[1:, 0]]))[0, 1]
    assert abs(successive) < 5 / math.sqrt(steps)


def test_all_foreground_in_the_tail_drops_every_frequent_term():
    kept = sample(DropLoss(5, class_freq=COUNTS), batch(4, 0, 50), 50)
    assert kept[..., TAIL].all()
    assert not kept[..., ~TAIL].any()


def test_all_foreground_frequent_drops_every_tail_term():
    kept = sample(DropLoss(5, class_freq=COUNTS), batch(0, 4, 50), 50)
    assert not kept[..., TAIL].any()
    assert kept[..., ~TAIL].all()


@pytest.mark.parametrize("drop_frequent", [True, False])
def test_without_foreground_every_term_is_kept(drop_frequent):
    """0/0 in eq. (7); never NaN, but plain BCE."""
    labels = batch(0, 0, 40)
    x = torch.randn(40, 5)
    loss = DropLoss(5, class_freq=COUNTS, drop_frequent=drop_frequent)
    torch.testing.assert_close(loss(x, labels), SigmoidBCELoss(5)(x, labels))
    assert sample(loss, labels, 20).all()


def test_foreground_terms_are_never_drawn():
    """E(r) = 1: eq. (2) holds, in every draw."""
    labels = torch.tensor([0, 2, 3, 4, 1])
    x = torch.randn(5, 5)
    expected = EQL(5, class_freq=COUNTS)(x, labels)
    loss = DropLoss(5, class_freq=COUNTS)
    for _ in range(20):
        assert torch.equal(loss(x, labels), expected)


def test_weights_of_proposals_do_not_count_in_the_statistics():
    """The n of eq. (7) are numbers of proposals, whatever their label_weights."""
    labels = batch(4, 0, 50)
    x = torch.zeros(len(labels), 5, requires_grad=True)
    label_weights = torch.ones(len(labels))
    label_weights[:4] = 0
    DropLoss(5, class_freq=COUNTS)(x, labels, label_weights).backward()
    assert (x.grad[4:, TAIL] != 0).all()
    assert (x.grad[4:, ~TAIL] == 0).all()


def _sync_worker(rank, rendezvous, results):
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    # Process 0 alone would drop every frequent term, process 1 every tail term; together mu of
    # the tail is 1/4.
    labels = batch(2, 0, 100) if rank == 0 else batch(0, 6, 100)
    kept = {
        sync: sample(DropLoss(5, class_freq=COUNTS, sync_statistics=sync), labels, 100)
        for sync in (True, False)
    }
    # An empty batch has to take part, too: else the other process would wait forever.
    empty_on_0 = batch(0, 0, 0) if rank == 0 else batch(3, 1, 100)
    kept["empty"] = sample(DropLoss(5, class_freq=COUNTS, sync_statistics=True), empty_on_0, 100)
    torch.save(kept, f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_sync_statistics_pools_the_proposals_of_all_processes(tmp_path):
    mp.spawn(_sync_worker, args=(str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2)
    of = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for kept in of:
        assert_frequency(kept[True][..., TAIL], 2 / 8)
        assert_frequency(kept[True][..., ~TAIL], 6 / 8)
    assert of[0][False][..., TAIL].all() and not of[0][False][..., ~TAIL].any()
    assert of[1][False][..., ~TAIL].all() and not of[1][False][..., TAIL].any()
    assert_frequency(of[1]["empty"][..., TAIL], 3 / 4)
    # The processes draw for themselves.
    assert not torch.equal(of[0][True], of[1][True])


def test_sync_statistics_without_processes_is_the_batch_itself():
    labels = batch(4, 0, 50)
    kept = sample(DropLoss(5, class_freq=COUNTS, sync_statistics=True), labels, 10)
    assert kept[..., TAIL].all() and not kept[..., ~TAIL].any()
