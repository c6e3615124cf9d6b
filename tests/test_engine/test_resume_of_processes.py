"""Two processes: each gets its own state back, and what is validated is what is saved."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from processes import in_processes
from test_resume import (
    DrawingModel,
    assert_equal,
    assert_equal_ends,
    config,
    end,
    train,
    validations,
)
from torch import distributed as dist
from torch import nn

from mmdet_droploss.engine.norm_statistics import average_norm_statistics


@MODELS.register_module()
class CountingModel(DrawingModel):
    """Keeps a sum over this process's images, as mmdet's Seesaw loss keeps counts."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, inputs, mode="tensor"):
        if mode != "loss":
            return super().forward(inputs, mode)
        self.seen += torch.stack(list(inputs)).sum(0)
        losses = super().forward(inputs, mode)
        return {"loss": losses["loss"] * (2 + self.seen.sum().cos())}


CHANGES = {
    "model.type": "CountingModel",
    "model_wrapper_cfg": dict(type="CPUDistributedDataParallel"),
    "launcher": "pytorch",
    "val_dataloader.batch_size": 1,
}


def train_in_processes(folder, name, count=2, **options):
    in_processes(count, folder, lambda: train(folder / name, **options, **CHANGES))


def test_two_processes_end_as_without_a_stop(tmp_path):
    train_in_processes(tmp_path, "whole")
    train_in_processes(tmp_path, "stopped", stop=7)
    train_in_processes(tmp_path, "stopped", stop=12, in_validation=True, resume=True)
    train_in_processes(tmp_path, "stopped", resume=True)
    assert_equal_ends(tmp_path / "whole", tmp_path / "stopped")
    assert validations(tmp_path / "whole") == validations(tmp_path / "stopped")
    states = end(tmp_path / "whole")["message_hub"]["runtime_info"]["resume_states"]
    first, second = states["processes"]
    assert first["buffers"] == {} and list(second["buffers"]) == ["seen"]


def test_another_number_of_processes_is_explained(tmp_path):
    train_in_processes(tmp_path, "run", stop=7)
    log = train(tmp_path / "run", resume=True, **{"model.type": "CountingModel"})[1]
    assert "was written by 2 processes with batch_size=2, and now there are 1 with" in log


def test_a_validation_of_two_processes_is_that_of_the_checkpoint(tmp_path):
    not_random = {"val_dataloader.dataset.pipeline": [dict(type="DrawThreeWays", draws=False)]}
    in_processes(2, tmp_path, lambda: train(tmp_path / "run", **CHANGES, **not_random))
    inside = validations(tmp_path / "run")
    assert len(inside) == 4
    assert len(set(inside.values())) == 4
    for iteration, total in inside.items():
        path = str(tmp_path / "run" / f"iter_{iteration}.pth")
        changes = {"model.type": "CountingModel", "val_dataloader.batch_size": 1}
        cfg = config(tmp_path / f"test{iteration}", load_from=path, **changes, **not_random)
        assert Runner.from_cfg(cfg).val()["sum"] == total


def _average(folder):
    rank = dist.get_rank()
    model = nn.Sequential(nn.BatchNorm2d(5), nn.GroupNorm(1, 5), nn.BatchNorm1d(3))
    generator = torch.Generator().manual_seed(rank)
    for layer in (model[0], model[2]):
        layer.running_mean.copy_(torch.randn(layer.num_features, generator=generator))
        layer.running_var.copy_(torch.rand(layer.num_features, generator=generator))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average_norm_statistics([model])
    once = {name: value.clone() for name, value in model.state_dict().items()}
    average_norm_statistics([model])
    torch.save((before, once, model.state_dict()), folder / f"{rank}.pth")


@pytest.mark.parametrize("count", [1, 3])
def test_norm_statistics_become_their_mean_and_stay_it(tmp_path, count):
    in_processes(count, tmp_path, _average, tmp_path)
    results = [torch.load(tmp_path / f"{rank}.pth") for rank in range(count)]
    for name in ("0.running_mean", "0.running_var", "2.running_mean", "2.running_var"):
        mean = torch.stack([before[name].double() for before, _, _ in results]).mean(0).float()
        for _, once, twice in results:
            assert_equal(once[name], mean)
            assert_equal(twice[name], mean)
