"""Several processes give the losses and gradients of one with the same batch."""

from __future__ import annotations

import copy

import pytest
import torch
from processes import in_processes
from torch import distributed as dist
from torch import nn

from mmdet_droploss.engine import CPUDistributedDataParallel
from mmdet_droploss.models.losses import BEQL, EQL, DropLoss, SigmoidBCELoss

COUNTS = [3, 50, 100, 101, 9000, 20]
PROPOSALS, FEATURES = 64, 5
#: Of a loss that draws, means over so many draws are compared.
TIMES = 400


class Classifier(nn.Module):
    """Features to a loss, as in a bbox head."""

    def __init__(self, loss):
        super().__init__()
        self.fc_cls = nn.Linear(FEATURES, len(COUNTS))
        self.loss_cls = loss

    def forward(self, features, labels):
        logits = self.fc_cls(features)
        return self.loss_cls(logits, labels, features.new_ones(len(labels)), len(labels))


def build(kind):
    options = dict(sync_statistics=True) if kind is DropLoss else {}
    torch.manual_seed(0)
    return Classifier(kind(len(COUNTS), class_freq=COUNTS, **options))


def batch():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(PROPOSALS, FEATURES, generator=generator)
    # The shares of the tail differ between the processes' parts.
    labels = torch.arange(PROPOSALS) * 2 * len(COUNTS) // PROPOSALS
    return features, labels.clamp(max=len(COUNTS))


def losses_and_gradients(model, features, labels, times):
    """Means over the draws."""
    total = 0.0
    model.zero_grad()
    for _ in range(times):
        loss = model(features, labels)
        (loss / times).backward()
        total += loss.item() / times
    return total, {name: p.grad.clone() for name, p in model.named_parameters()}


def work(kind, times):
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model = CPUDistributedDataParallel(build(kind), device_ids=None)
    features, labels = (part.chunk(world_size)[rank] for part in batch())
    torch.manual_seed(100 + rank)
    loss, gradients = losses_and_gradients(model, features, labels, times)
    loss = torch.tensor(loss)
    dist.all_reduce(loss)
    if rank == 0:
        torch.save((loss.item() / world_size, gradients), "result.pth")


def of_one_and_of_several(kind, world_size, times, folder):
    one = losses_and_gradients(build(kind), *batch(), times)
    in_processes(world_size, folder, work, kind, times, method="spawn")
    loss, gradients = torch.load(folder / "result.pth")
    gradients = {name.removeprefix("module."): grad for name, grad in gradients.items()}
    return one, (loss, gradients)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("kind", [SigmoidBCELoss, EQL, BEQL])
def test_losses_without_draws_are_equal(kind, world_size, tmp_path):
    one, several = of_one_and_of_several(kind, world_size, 1, tmp_path)
    torch.testing.assert_close(several, one)


def test_droploss_with_synchronised_statistics_is_equal_in_expectation(tmp_path):
    one, several = of_one_and_of_several(DropLoss, 2, TIMES, tmp_path)
    torch.testing.assert_close(several, one, rtol=0.02, atol=0.01)
    # With each process's own statistics it is another expectation: the test can tell.
    model = copy.deepcopy(build(DropLoss))
    torch.manual_seed(0)
    own = [
        losses_and_gradients(model, *(part.chunk(2)[rank] for part in batch()), TIMES)[0]
        for rank in range(2)
    ]
    assert abs(sum(own) / 2 - one[0]) > 0.05
