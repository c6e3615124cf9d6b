"""An epoch that would never end is refused before the training starts."""

from __future__ import annotations

import itertools

import pytest
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler

from mmdet_droploss.engine import prepare_run

EPOCHS = [
    dict(type="EpochBasedTrainLoop", max_epochs=2),
    dict(type="mmdet.EpochBasedTrainLoop", max_epochs=2),
    dict(by_epoch=True, max_epochs=2),
]
ITERATIONS = [
    dict(type="ResumableIterBasedTrainLoop", max_iters=2),
    dict(type="IterBasedTrainLoop", max_iters=2),
    dict(by_epoch=False, max_iters=2),
]
ENDLESS = [
    dict(type="RepeatFactorSampler", threshold=0.5, infinite=True),
    dict(type="mmdet_droploss.RepeatFactorSampler", threshold=0.5, infinite=True),
    dict(type="InfiniteSampler"),
    dict(type=InfiniteSampler),
    dict(type="mmdet.GroupMultiSourceSampler"),
]
ENDING = [
    dict(type="RepeatFactorSampler", threshold=0.5),
    dict(type="RepeatFactorSampler", threshold=0.5, infinite=False),
    dict(type="DefaultSampler"),
    None,
]


def prepare(loop, sampler):
    train = dict(batch_size=2) if sampler is None else dict(batch_size=2, sampler=sampler)
    cfg = Config(dict(train_cfg=loop, train_dataloader=train))
    prepare_run(cfg, "none")
    return cfg


@pytest.mark.parametrize("loop", EPOCHS)
@pytest.mark.parametrize("sampler", ENDLESS)
def test_an_endless_sampler_in_a_loop_of_epochs_is_refused(loop, sampler):
    with pytest.raises(ValueError, match="counts epochs.*never end.*train_dataloader = dict") as e:
        prepare(loop, sampler)
    infinite = "infinite=False" in str(e.value)
    assert infinite == bool(sampler.get("infinite")), "the line to change is right"


PASSING = [*itertools.product(EPOCHS, ENDING), *itertools.product(ITERATIONS, ENDLESS + ENDING)]


@pytest.mark.parametrize("loop, sampler", PASSING)
def test_others_pass(loop, sampler):
    assert prepare(loop, sampler).launcher == "none"


def test_a_config_without_a_training_passes():
    prepare_run(Config(dict(model=dict(type="MaskRCNN"))), "none")
