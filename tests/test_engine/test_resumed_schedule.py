"""A resume goes on with the checkpoint's learning rate and schedule, and says where it does."""

from __future__ import annotations

import json

import pytest
from test_resume import end, train

LOG_ALL = {"default_hooks.logger.interval": 1}
MULTI_STEP = dict(type="MultiStepLR", by_epoch=False, milestones=[8, 12], gamma=0.1, end=14)
WARM_UP = dict(type="LinearLR", by_epoch=False, start_factor=0.1, end=3)
COSINE = dict(type="CosineAnnealingLR", by_epoch=False, T_max=10)
WARNING = "holds another learning rate or schedule than the config"


def rates(work_dir):
    """The learning rates logged, by iteration."""
    lines = []
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        lines += [json.loads(line) for line in file.read_text().splitlines()]
    return {line["step"]: line["lr"] for line in lines if "lr" in line}


def resumed(work_dir, first, then):
    """Train with one config, stop after 4 iterations, and resume with another; what is logged."""
    train(work_dir, stop=4, **LOG_ALL, **first)
    return train(work_dir, resume=True, **LOG_ALL, **then)[1]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"param_scheduler": [WARM_UP, MULTI_STEP]},
        {"param_scheduler": COSINE, "auto_scale_lr": dict(enable=True, base_batch_size=16)},
        {"param_scheduler": dict(type="ReduceOnPlateauLR", monitor="sum", patience=0)},
        {"param_scheduler": dict(type="CosineAnnealingMomentum", by_epoch=False, T_max=9)},
        {
            "optim_wrapper.optimizer": dict(_delete_=True, type="Adam", lr=0.01),
            "param_scheduler": dict(type="LinearMomentum", by_epoch=False, end=9),
        },
    ],
)
def test_the_same_config_is_no_other_schedule(tmp_path, settings):
    assert WARNING not in resumed(tmp_path, settings, settings)


def test_another_schedule_is_said_and_the_checkpoints_goes_on(tmp_path):
    """The longer schedule that a user writes who wants to train on."""
    longer = dict(MULTI_STEP, milestones=[16, 22], end=24)
    first = {"param_scheduler": [WARM_UP, MULTI_STEP]}
    log = resumed(tmp_path, first, {"param_scheduler": [WARM_UP, longer]})
    assert f"{tmp_path}/iter_3.pth {WARNING}, and the checkpoint's goes on" in log
    where = "param_scheduler.1 (MultiStepLR): "
    assert f"{where}end is 14, not 24; {where}milestones is [8, 12], not [16, 22]." in log
    assert "param_scheduler.0" not in log and "auto_scale_lr" not in log.split(WARNING)[1]
    found = rates(tmp_path)
    assert [round(found[step], 6) for step in (8, 9, 13, 24)] == [0.01, 0.001, 0.0001, 0.0001]


def test_the_remedy_trains_with_the_configs(tmp_path):
    """Also: load_from alone warns of nothing."""
    train(tmp_path / "first", stop=4, **{"param_scheduler": MULTI_STEP})
    remedy = {
        "param_scheduler": dict(MULTI_STEP, milestones=[16, 22], end=24),
        "optim_wrapper.optimizer.lr": 0.5,
        "load_from": str(tmp_path / "first" / "iter_3.pth"),
    }
    _, log = train(tmp_path / "then", **LOG_ALL, **remedy)
    assert "Load checkpoint from" in log and WARNING not in log
    found = rates(tmp_path / "then")
    assert [round(found[step], 6) for step in (1, 16, 17, 23)] == [0.5, 0.5, 0.05, 0.005]
    saved = end(tmp_path / "then", 3)["param_schedulers"][0]
    assert (saved["_global_step"], sorted(saved["milestones"])) == (3, [16, 22])


def test_a_scaling_that_takes_no_effect_is_said(tmp_path):
    """--auto-scale-lr with another batch size: MMEngine says that it scales."""
    scaled = {
        "param_scheduler": MULTI_STEP,
        "auto_scale_lr": dict(enable=True, base_batch_size=2),
    }
    log = resumed(tmp_path, scaled, {**scaled, "train_dataloader.batch_size": 4})
    assert "Scaling the original LR by 2.0" in log
    assert f"{WARNING}, and the checkpoint's goes on: initial_lr is 0.01, not 0.02. " in log
    assert "auto_scale_lr, logged above, scales nothing in a resume." in log
    assert rates(tmp_path)[7] == 0.01


def test_other_settings_of_the_optimizer_are_said(tmp_path):
    changed = {"optim_wrapper.optimizer.lr": 0.5, "optim_wrapper.optimizer.momentum": 0.5}
    log = resumed(tmp_path, {}, changed)
    assert "goes on: lr is 0.01, not 0.5; momentum is 0.9, not 0.5. To train with" in log
    assert rates(tmp_path)[7] == 0.01


def test_of_many_groups_each_difference_is_said_once(tmp_path):
    """MMEngine makes a group of each parameter."""
    groups = {"optim_wrapper.paramwise_cfg": dict(bias_decay_mult=0.5, norm_decay_mult=0.1)}
    decay = "optim_wrapper.optimizer.weight_decay"
    log = resumed(tmp_path, {**groups, decay: 1.0}, {**groups, decay: 2.0})
    assert (
        "goes on: weight_decay is 1.0, not 2.0; weight_decay is 0.5, not 1.0; "
        "weight_decay is 0.1, not 0.2. To" in log
    )


@pytest.mark.parametrize(
    "first, then, said",
    [
        ([MULTI_STEP], [WARM_UP, MULTI_STEP], "0 (LinearLR) is of another kind"),
        ([MULTI_STEP], [MULTI_STEP, COSINE], "has 1 schedulers, not 2, and the config's further"),
        ([MULTI_STEP, COSINE], [MULTI_STEP], "has 2 schedulers, not 1, and the checkpoint's furth"),
        ([MULTI_STEP], None, "has 1 schedulers, not 0, and the checkpoint's further ones end now"),
    ],
)
def test_schedulers_that_are_no_pairs_are_said(tmp_path, first, then, said):
    log = resumed(tmp_path, {"param_scheduler": first}, {"param_scheduler": then})
    assert WARNING in log and said in log.split(WARNING)[1]
