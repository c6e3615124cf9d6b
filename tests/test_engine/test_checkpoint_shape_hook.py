"""Another number of classes in the checkpoint: an error, unless it is fine-tuning."""

from __future__ import annotations

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmdet_droploss.engine import CheckpointShapeHook


class Classifier(BaseModel):
    def __init__(self, num_classes):
        super().__init__()
        self.body = torch.nn.Linear(2, 3)
        self.fc_cls = torch.nn.Linear(3, num_classes)

    def forward(self, inputs, mode="tensor"):
        y = self.fc_cls(self.body(torch.stack(list(inputs)).float()))
        return {"loss": y.square().mean()} if mode == "loss" else [y]


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {"x": 0.0}


def run(work_dir, num_classes, **changes):
    data = [dict(inputs=torch.ones(2))] * 4
    return Runner(
        model=Classifier(num_classes),
        work_dir=str(work_dir),
        train_dataloader=DataLoader(data, batch_size=2),
        train_cfg=dict(by_epoch=False, max_iters=changes.pop("iterations", 2)),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
        test_dataloader=DataLoader(data, batch_size=2),
        test_cfg=dict(),
        test_evaluator=Nothing(),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2)),
        custom_hooks=changes.pop("custom_hooks", [dict(type="CheckpointShapeHook")]),
        default_scope="mmengine",
        experiment_name=f"{work_dir.name}_{num_classes}_{len(changes)}",
        **changes,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("five_classes")
    run(work_dir, 5).train()
    return str(work_dir / "iter_2.pth")


MESSAGE = r"another number of classes.*fc_cls.weight is \(5, 3\).*\(7, 3\) in the model"


def test_testing_is_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=f"cannot test this checkpoint.*{MESSAGE}"):
        run(tmp_path, 7, load_from=checkpoint).test()


def test_resuming_is_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=f"cannot resume from this checkpoint.*{MESSAGE}"):
        run(tmp_path, 7, load_from=checkpoint, resume=True, iterations=4).train()


def test_fine_tuning_takes_a_new_classifier(checkpoint, tmp_path):
    runner = run(tmp_path, 7, load_from=checkpoint)
    runner.train()
    assert runner.iter == 2


def test_the_same_number_of_classes_passes(checkpoint, tmp_path):
    run(tmp_path / "test", 5, load_from=checkpoint).test()
    runner = run(tmp_path / "resume", 5, load_from=checkpoint, resume=True, iterations=4)
    runner.train()
    assert runner.iter == 4


def test_bare_state_dicts_are_compared_too(tmp_path):
    path = tmp_path / "bare.pth"
    torch.save(Classifier(5).state_dict(), path)
    with pytest.raises(ValueError, match=MESSAGE):
        run(tmp_path, 7, load_from=str(path)).test()


def test_a_checkpoint_of_another_model_is_refused(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=False)
    del content["state_dict"]["body.bias"]
    torch.save(content, tmp_path / "changed.pth")
    path = str(tmp_path / "changed.pth")
    with pytest.raises(ValueError, match="cannot test this checkpoint: .*lacks: body.bias"):
        run(tmp_path, 5, load_from=path).test()
    hook = dict(type="CheckpointShapeHook", allow_missing=True)
    run(tmp_path / "allowed", 5, load_from=path, custom_hooks=[hook]).test()


def test_what_only_the_checkpoint_has_is_not_its_business(checkpoint, tmp_path):
    """MMEngine tells it."""
    content = torch.load(checkpoint, weights_only=False)
    content["state_dict"]["other"] = torch.zeros(9)
    state = content["state_dict"]
    content["state_dict"] = {f"module.{name}": value for name, value in state.items()}
    torch.save(content, tmp_path / "changed.pth")
    run(tmp_path, 5, load_from=str(tmp_path / "changed.pth")).test()


def test_many_differences_are_cut_short():
    hook = HOOKS.build(dict(type="CheckpointShapeHook"))
    assert isinstance(hook, CheckpointShapeHook)
    hook._differences = [f"parameter {i}" for i in range(10)]
    with pytest.raises(ValueError, match=r"parameter 3 \(and 6 more\)") as caught:
        hook.before_test(None)
    assert "parameter 4" not in str(caught.value)
