"""A checkpoint of a training with other settings: a warning names them."""

from __future__ import annotations

import pytest
from logs import logged
from mmdet.models.detectors import CascadeRCNN, MaskRCNN
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from small_run import CONFIG
from test_resume import DrawingModel, config, train

from mmdet_droploss.engine.settings_difference import _read, difference, other_than_before

SAID = "was trained with other settings than the config has, and the config's are taken: "
HEAD = "model.roi_head.bbox_head"
CHANGES_NO_STEP = {
    "train_dataloader.dataset.cache": False,
    "train_dataloader.dataset.backend_args": "of another storage",
    "train_dataloader.dataset.check_picture_size": False,
    "train_dataloader.dataset.lazy_init": True,
    "train_dataloader.dataset.serialize_data": False,
    "train_dataloader.dataset.pipeline.0.backend_args": "of another storage",
    "model.backbone.with_cp": True,
}


def differences(resumes, **changes):
    """Between the small config, as a checkpoint has it, and the same with changes."""
    cfg = Config.fromfile(CONFIG)
    checkpoint = {"meta": {"cfg": cfg.pretty_text}}
    cfg.merge_from_dict(changes)
    return other_than_before(cfg, checkpoint, resumes)


@pytest.mark.parametrize("resumes", [True, False])
def test_another_model_is_said(resumes):
    changes = {
        f"{HEAD}.loss_cls": dict(_delete_=True, type="SigmoidBCELoss", num_classes=88),
        "model.data_preprocessor.mean": [1.0, 2.0, 3.0],
    }
    found = differences(resumes, **changes)
    assert f"{HEAD}.loss_cls.type is 'DropLoss', not 'SigmoidBCELoss'" in found
    assert any(phrase.startswith("model.data_preprocessor.mean.2 is ") for phrase in found)
    assert not any("class_freq" in phrase for phrase in found), "it is DropLoss's own"


def test_the_tail_is_said_of_a_resume():
    """A test does not look at it."""
    changes = {f"{HEAD}.loss_cls.class_freq": "other.json"}
    (phrase,) = differences(True, **changes)
    assert phrase.endswith("lvis_v1_train.json', not 'other.json'")
    assert differences(False, **changes) == []


def test_another_training_is_said_of_a_resume():
    changes = {
        "train_dataloader.dataset.ann_file": "other.json",
        "optim_wrapper.clip_grad": dict(max_norm=1),
        "optim_wrapper.optimizer.type": "Adagrad",
    }
    assert {phrase.split(" is ")[0] for phrase in differences(True, **changes)} == {
        "train_dataloader.dataset.ann_file",
        "optim_wrapper.clip_grad.max_norm",
        "optim_wrapper.optimizer.type",
    }
    assert differences(False, **changes) == []


@pytest.mark.parametrize("resumes", [True, False])
def test_what_changes_nothing_is_not_said(resumes):
    changes = {
        "work_dir": "elsewhere",
        "train_dataloader.num_workers": 7,
        "train_cfg.val_interval": 3,
        "train_cfg.max_iters": 77,
        "model.backbone.init_cfg": dict(_delete_=True, type="Pretrained", checkpoint="x.pth"),
        "model.test_cfg.rcnn.score_thr": 0.3,
        "optim_wrapper.optimizer.lr": 0.5,  # of these resumed_schedule tells
        "param_scheduler": [],
        **CHANGES_NO_STEP,
    }
    assert differences(resumes, **changes) == []


def test_seeds_of_one_training_may_differ_in_what_changes_no_step():
    cfg, other = Config.fromfile(CONFIG), Config.fromfile(CONFIG)
    other.merge_from_dict(CHANGES_NO_STEP)
    assert difference(cfg.to_dict(), other.to_dict()) == {}
    other.merge_from_dict({"train_dataloader.dataset.ann_file": "other.json"})
    found = difference(cfg.to_dict(), other.to_dict())
    assert list(found) == ["train_dataloader.dataset.ann_file"]


@pytest.mark.parametrize("name", ["MaskRCNN", "mmdet.MaskRCNN", "mmdet.models.detectors.MaskRCNN"])
def test_a_class_is_the_same_however_a_config_names_it(name):
    """A config in pure Python has the class, and what MMEngine dumps of it has a path."""
    model = dict(type=name, neck=[dict(type="FPN")])
    assert difference({"model": model}, {"model": {**model, "type": MaskRCNN}}) == {}
    found = difference({"model": model}, {"model": {**model, "type": CascadeRCNN}})
    assert found == {"model.type": ("MaskRCNN", "CascadeRCNN")}


def test_a_view_of_the_model_is_the_model():
    cfg = Config.fromfile(CONFIG)
    checkpoint = {"meta": {"cfg": cfg.pretty_text}}
    cfg.model = dict(type="DetTTAModel", module=cfg.model)
    assert other_than_before(cfg, checkpoint, resumes=False) == []


def test_a_config_is_read_as_mmengine_wrote_it():
    cfg = Config(dict(a=dict(b=[1, (2.5, None)], c={"not a name": [dict(d=True)]}), e="x", f={}))
    assert _read(cfg.pretty_text) == {
        "a": {"b": [1, [2.5, None]], "c": {"not a name": [{"d": True}]}},
        "e": "x",
        "f": {},
    }
    shipped = Config.fromfile(CONFIG)
    assert difference(_read(shipped.pretty_text), shipped.to_dict()) == {}


@pytest.mark.parametrize(
    "text", ["model = open('ran', 'w')", "model = dict(a=<class 'B'>)", "model = dict([(1, 2)])"]
)
def test_the_text_of_a_checkpoint_is_not_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError):
        other_than_before(Config.fromfile(CONFIG), {"meta": {"cfg": text}}, resumes=True)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_without_a_config_is_not_compared():
    for checkpoint in ({}, {"meta": None}, {"meta": {"cfg": Config()}}):
        assert other_than_before(Config.fromfile(CONFIG), checkpoint, resumes=True) == []


CHECK = {"custom_hooks": [dict(type="CheckpointShapeHook")]}


@MODELS.register_module()
class OtherDrawingModel(DrawingModel):
    """Has the same parameters."""


def test_resumes_and_tests_say_it_and_fine_tuning_does_not(tmp_path):
    train(tmp_path, stop=4)
    path = str(tmp_path / "iter_3.pth")
    fewer = {"train_dataloader.dataset.indices": 11}
    assert SAID not in train(tmp_path / "same", resume=True, load_from=path, **CHECK)[1]
    _, log = train(tmp_path / "data", resume=True, load_from=path, **CHECK, **fewer)
    assert f"{path} {SAID}train_dataloader.dataset.indices is None, not 11. If" in log
    assert SAID not in train(tmp_path / "tuned", load_from=path, **CHECK, **fewer)[1]
    for model, said in (("mmengine.DrawingModel", False), ("OtherDrawingModel", True)):
        cfg = config(tmp_path / f"test{said}", load_from=path, **CHECK, **{"model.type": model})
        runner = Runner.from_cfg(cfg)
        with logged() as log:
            runner.val()
        assert (f"{SAID}model.type is 'DrawingModel', not" in log.getvalue()) is said
