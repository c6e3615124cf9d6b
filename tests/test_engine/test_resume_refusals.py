"""A checkpoint that a training cannot go on from is refused, and what begins anew is said."""

from __future__ import annotations

import pytest
import torch
from test_resume import train

WARM_UP = {
    "param_scheduler": dict(type="LinearLR", by_epoch=False, start_factor=0.001, end=3),
    "default_hooks.logger.interval": 1,
}
REMEDY = "load_from=.*without resume.*save_optimizer=True"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of a training that was stopped after its warm-up."""
    work_dir = tmp_path_factory.mktemp("stopped")
    train(work_dir, stop=4, **WARM_UP)
    return work_dir / "iter_3.pth"


def resume(work_dir, path, **changes):
    return train(work_dir, resume=True, load_from=str(path), **{**WARM_UP, **changes})[1]


def test_a_checkpoint_without_the_optimizer_is_refused(tmp_path):
    weights_only = {**WARM_UP, "default_hooks.checkpoint.save_optimizer": False}
    train(tmp_path, stop=4, **weights_only)
    with pytest.raises(RuntimeError, match=f"iter_3.pth has no optimizer, so a.*{REMEDY}"):
        train(tmp_path, resume=True, **weights_only)


def test_the_best_checkpoint_is_refused(tmp_path):
    """MMEngine writes its weights only."""
    best = {"default_hooks.checkpoint.save_best": "sum", "default_hooks.checkpoint.rule": "less"}
    train(tmp_path, stop=7, **WARM_UP, **best)
    path = tmp_path / "best_sum_iter_6.pth"
    with pytest.raises(RuntimeError, match=f"{path} has no optimizer, no param_sch.*{REMEDY}"):
        resume(tmp_path, path)


@pytest.mark.parametrize(
    "left_out, lacking",
    [
        (["param_schedulers"], "param_schedulers"),
        (["meta"], "meta, no meta.epoch, no meta.iter"),
        (["message_hub"], "message_hub"),
        (["meta", "message_hub", "optimizer", "param_schedulers"], "meta, no message_hub, no opt"),
    ],
)
def test_a_published_checkpoint_is_refused(checkpoint, tmp_path, left_out, lacking):
    content = torch.load(checkpoint, weights_only=False)
    for key in left_out:
        del content[key]
    torch.save(content, tmp_path / "published.pth")
    with pytest.raises(RuntimeError, match=f"published.pth has no {lacking}.*{REMEDY}"):
        resume(tmp_path / "work", tmp_path / "published.pth")


def test_without_schedulers_none_are_wanted(tmp_path):
    train(tmp_path, stop=4)
    assert "param_schedulers" not in torch.load(tmp_path / "iter_3.pth", weights_only=False)
    assert "went to batch 4" in train(tmp_path, resume=True)[1]


@pytest.mark.parametrize(
    "optimizer, culprit",
    [
        ("AdamW", "it has .*momentum, nesterov, but not .*betas"),
        ("RMSprop", "it has dampening.*, but not alpha"),
    ],
)
def test_an_optimizer_of_another_kind_is_refused(checkpoint, tmp_path, optimizer, culprit):
    other = {"optim_wrapper.optimizer": dict(_delete_=True, type=optimizer, lr=0.01)}
    message = f"optimizer in .*iter_3.pth is of another kind than optim_wrapper: {culprit}"
    with pytest.raises(RuntimeError, match=f"{message}.*load_from="):
        resume(tmp_path, checkpoint, **other)


def test_the_same_optimizer_of_an_older_torch_is_not(checkpoint, tmp_path):
    """Its groups lack what newer versions have."""
    content = torch.load(checkpoint, weights_only=False)
    for group in content["optimizer"]["param_groups"]:
        del group["maximize"], group["foreach"]
    torch.save(content, tmp_path / "older.pth")
    assert "went to batch 4" in resume(tmp_path / "work", tmp_path / "older.pth")


def test_early_stopping_that_begins_anew_is_said(checkpoint, tmp_path):
    settings = dict(type="EarlyStoppingHook", monitor="sum", rule="less")
    early = {"custom_hooks": [settings]}
    said = "EarlyStoppingHook keeps its best score and its count of validations in no checkpoint"
    assert said in resume(tmp_path / "resumed", checkpoint, **early)
    assert said not in train(tmp_path / "new", **WARM_UP, **early)[1]
