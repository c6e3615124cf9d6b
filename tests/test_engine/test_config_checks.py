"""What a config lacks, or has of two things that do not go together: a sentence at the start."""

from __future__ import annotations

import re
import warnings

import pytest
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import ReduceOnPlateauMomentum
from small_run import CONFIG, ROOT

from mmdet_droploss.engine import check_complete, check_config, prepare_run
from mmdet_droploss.engine.config_checks import (
    set_in_metrics,
    visualization_hook,
    warn_of_batch_size,
)
from mmdet_droploss.models.losses.arguments import accepted_arguments


def shipped(**changes):
    """A config of the repository, with other values."""
    cfg = Config.fromfile(CONFIG)
    for key, value in changes.items():
        cfg[key] = value
    return cfg


@pytest.mark.parametrize("task", ["train", "test"])
def test_a_complete_config_passes_without_a_word(task):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_complete(shipped(), task)
        check_config(shipped())


# ---- MMDetection 2.x ----------------------------------------------------------------------------

OLD = dict(
    data=dict(samples_per_gpu=2, train=dict(type="CocoDataset", ann_file="a.json")),
    runner=dict(type="EpochBasedRunner", max_epochs=12),
    optimizer=dict(type="SGD", lr=0.02),
    dist_params=dict(backend="nccl"),
    log_config=dict(interval=50),
    fp16=dict(loss_scale=512.0),
)


@pytest.mark.parametrize("task", ["train", "test"])
@pytest.mark.parametrize("key", OLD)
def test_a_config_of_mmdetection_2_is_named_with_its_keys(task, key, tmp_path):
    file = tmp_path / "old.py"
    file.write_text(f"model = dict(type='MaskRCNN')\n{key} = {OLD[key]!r}\n")
    message = f"old.py is a config of MMDetection 2.x.* {key} .*migrat"
    with pytest.raises(ValueError, match=message):
        check_complete(Config.fromfile(file), task)


def test_an_old_key_among_new_ones_is_said():
    """Nothing reads it: the run would go on with the base's value."""
    cfg = shipped(evaluation=dict(interval=1), data=dict(samples_per_gpu=4))
    with pytest.warns(UserWarning, match="data and evaluation .*have no effect.*val_interval"):
        check_complete(cfg, "train")


def test_variables_of_such_names_are_no_old_config():
    """docs/own_dataset.md has a `data` of its own."""
    cfg = shipped(data=dict(data_root="", metainfo=dict(classes=("ant",))))
    cfg.optimizer = cfg.optim_wrapper.optimizer
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_complete(cfg, "train")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(img_prefix="images/"), r"img_prefix.*data_prefix=dict\(img=...\)"),
        (dict(pipeline=[dict(type="Collect", keys=["img"])]), "Collect.*PackDetInputs"),
    ],
)
def test_old_parts_of_a_data_loader(change, message):
    cfg = shipped()
    cfg.test_dataloader.dataset.update(change)
    with pytest.raises(ValueError, match=message):
        check_complete(cfg, "test")


# ---- what is missing ----------------------------------------------------------------------------

TRAIN = ("train_dataloader", "train_cfg", "optim_wrapper")
VAL = ("val_dataloader", "val_cfg", "val_evaluator")
TEST = ("test_dataloader", "test_cfg", "test_evaluator")


@pytest.mark.parametrize(
    "task, without",
    [
        *(("train", (name,)) for name in (*TRAIN, *VAL, *TEST)),
        *(("test", (name,)) for name in (*TRAIN, *VAL, *TEST)),
        ("train", TRAIN),
        ("train", TEST[:2]),
        ("test", TEST[1:]),
    ],
)
def test_what_is_missing_is_named(task, without):
    cfg = shipped(**dict.fromkeys(without))
    with pytest.raises(ValueError, match=r"has no .*Write ") as error:
        check_complete(cfg, task)
    missing = re.search("has no (.*?):", str(error.value))[1]
    assert set(re.split(", | and ", missing)) == set(without)


@pytest.mark.parametrize("task, without", [("train", VAL), ("train", TEST), ("test", TRAIN)])
def test_what_the_task_does_not_need_may_be_missing(task, without):
    check_complete(shipped(**dict.fromkeys(without)), task)


def test_nothing_to_test_on():
    with pytest.raises(ValueError, match="test_dataloader = val_dataloader, test_evaluator = val_"):
        check_complete(shipped(**dict.fromkeys(TEST)), "test")
    with pytest.raises(ValueError, match="nothing to test on: write all three"):
        check_complete(shipped(**dict.fromkeys((*TEST, *VAL))), "test")


def test_parts_of_parts():
    with pytest.raises(ValueError, match="has no model"):
        check_complete(shipped(model=None), "test")
    cfg = shipped()
    cfg.train_dataloader.sampler = None
    with pytest.raises(ValueError, match="train_dataloader of .* has no sampler"):
        check_complete(cfg, "train")
    with pytest.raises(ValueError, match="test_evaluator.1 of .* has no type"):
        check_complete(shipped(test_evaluator=[dict(type="CocoMetric"), dict(a=1)]), "test")


# ---- options of tools/test.py -------------------------------------------------------------------


def test_options_go_to_the_metrics_that_have_them():
    evaluators = [dict(type="FastLVISMetric"), dict(type="DumpDetResults", out_file_path="a.pkl")]
    cfg = shipped(test_evaluator=evaluators)
    set_in_metrics(cfg, "classwise", True, "--classwise")
    assert cfg.test_evaluator[0].classwise and "classwise" not in cfg.test_evaluator[1]
    cfg = shipped(test_evaluator=dict(type="Evaluator", metrics=evaluators[:1]))
    set_in_metrics(cfg, "outfile_prefix", "a/b", "--results", only_one=True)
    assert cfg.test_evaluator.metrics[0].outfile_prefix == "a/b"
    with pytest.raises(ValueError, match="--classwise.*DumpDetResults.*no argument classwise"):
        set_in_metrics(shipped(test_evaluator=evaluators[1]), "classwise", True, "--classwise")


def test_two_metrics_do_not_overwrite_each_others_files():
    cfg = shipped(test_evaluator=[dict(type="FastLVISMetric"), dict(type="CocoMetric")])
    with pytest.raises(ValueError, match="same files.*test_evaluator.1.outfile_prefix=val_1"):
        set_in_metrics(cfg, "outfile_prefix", "val", "--results", only_one=True)


@pytest.mark.parametrize("hooks", [None, {}, dict(visualization=None), dict(timer=dict(type="T"))])
def test_pictures_need_the_hook(hooks):
    message = r"visualization=dict\(type='DetVisualizationHook'\)"
    with pytest.raises(ValueError, match=message):
        visualization_hook(shipped(default_hooks=hooks))


@pytest.mark.parametrize("kind", ["mmdet.DetVisualizationHook", DetVisualizationHook])
def test_the_hook_is_found_where_it_is(kind):
    hook = dict(type=kind)
    cfg = shipped(default_hooks=None, custom_hooks=[hook])
    assert visualization_hook(cfg) is cfg.custom_hooks[0]
    with pytest.raises(ValueError, match="visualizer = dict"):
        visualization_hook(shipped(visualizer=None))


# ---- losses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base, unknown",
    [
        ("softmax/mask_rcnn_r50_fpn_softmax_lvis", "CrossEntropyLoss takes no num_classes, class_"),
        ("seesaw/mask_rcnn_r50_fpn_seesaw_lvis", "SeesawLoss takes no class_freq"),
        ("eqlv2/mask_rcnn_r50_fpn_eqlv2_lvis_v1", "EQLV2BBoxLoss takes no class_freq"),
        ("sigmoid/mask_rcnn_r50_fpn_sigmoid_lvis", None),
        ("droploss/cascade_mask_rcnn_r50_fpn_lvis", None),
    ],
)
def test_the_own_data_pages_loss_on_other_bases(base, unknown):
    """`loss_cls=dict(num_classes=n, class_freq=train)`, merged with what the base has."""
    cfg = Config.fromfile(ROOT / "configs" / f"{base}.py")
    loss = dict(num_classes=3, class_freq=[1, 20, 300])
    cfg.merge_from_dict(dict(model=dict(roi_head=dict(bbox_head=dict(loss_cls=loss)))))
    if unknown is None:
        return check_config(cfg)
    remedy = r".*loss_cls=dict\(_delete_=True, type=.*class_freq is for DropLoss"
    with pytest.raises(TypeError, match=f"^model.roi_head.bbox_head.loss_cls: {unknown}{remedy}"):
        prepare_run(cfg, "none")
    # Whoever builds the model without the tools reads the same.
    with pytest.raises(TypeError, match=f"loss_cls: {unknown}"):
        MODELS.build(dict(cfg.model.roi_head.bbox_head, num_classes=3, _scope_="mmdet"))


@pytest.mark.parametrize(
    "merged, culprit",
    [
        (dict(loss_bbox=dict(type="GIoULoss", beta=1.0)), "GIoULoss takes no beta"),
        (dict(loss_cls=dict(type="FocalLoss", ignore_index=0)), "FocalLoss takes no ignore_index"),
        (dict(loss_cls=dict(type="DropLoss", log_base=4)), "DropLoss takes no log_base"),
    ],
)
def test_arguments_of_two_losses_come_together(merged, culprit):
    """Of any loss, in any head."""
    cfg = Config(
        dict(model=dict(type="CascadeRCNN", roi_head=dict(bbox_head=[dict(**merged)] * 3)))
    )
    with pytest.raises(TypeError, match=rf"^model.roi_head.bbox_head.0.loss_\w+: {culprit}"):
        check_config(cfg)


def test_shipped_losses_pass():
    """One config of each folder, that is of each loss."""
    for folder in (ROOT / "configs").glob("[!_]*"):
        check_config(Config.fromfile(next(folder.glob("*.py"))))


def test_arguments_that_a_class_passes_on_count():
    class Base:
        def __init__(self, a, b=1):
            pass

    class PassesOn(Base):
        def __init__(self, *args, c=2, **kwargs):
            super().__init__(*args, **kwargs)

    class TakesAll:
        def __init__(self, **kwargs):
            self.options = kwargs

    assert accepted_arguments(PassesOn) == {"a", "b", "c"}
    assert accepted_arguments(TakesAll) is None


# ---- samplers and loops -------------------------------------------------------------------------

EPOCHS = dict(type="EpochBasedTrainLoop", max_epochs=2)
ITERATIONS = dict(type="IterBasedTrainLoop", max_iters=2)


@pytest.mark.parametrize("loop", [EPOCHS, dict(by_epoch=True, max_epochs=2)])
@pytest.mark.parametrize(
    "sampler, change",
    [
        (dict(type="InfiniteSampler"), "type='DefaultSampler', shuffle=True"),
        (dict(type="mmengine.InfiniteSampler"), "type='DefaultSampler', shuffle=True"),
        (dict(type="MultiSourceSampler", batch_size=2, source_ratio=[1]), "type='DefaultSampler'"),
        (dict(type="RepeatFactorSampler", threshold=0.1, infinite=True), r"dict\(infinite=False"),
    ],
)
def test_an_epoch_that_would_never_end_is_refused(loop, sampler, change):
    cfg = shipped(train_cfg=loop)
    cfg.train_dataloader.sampler = sampler
    with pytest.raises(
        ValueError, match=f"never ends, but train_cfg counts epochs.*{change}.*max_"
    ):
        prepare_run(cfg, "none")


@pytest.mark.parametrize(
    "loop, sampler",
    [
        (EPOCHS, dict(type="DefaultSampler")),
        (EPOCHS, dict(type="RepeatFactorSampler", threshold=0.1)),
        (ITERATIONS, dict(type="InfiniteSampler")),
        # A loop that counts iterations starts the sampler again.
        (ITERATIONS, dict(type="DefaultSampler")),
        (ITERATIONS, dict(type="RepeatFactorSampler", threshold=0.1, infinite=False)),
    ],
)
def test_what_goes_together_passes(loop, sampler):
    cfg = shipped(train_cfg=loop)
    cfg.train_dataloader.sampler = sampler
    check_config(cfg)


def test_a_validation_that_would_never_end_is_refused():
    cfg = shipped()
    cfg.val_dataloader.sampler = dict(type="InfiniteSampler", shuffle=False)
    with pytest.raises(ValueError, match="val_dataloader.sampler.*shuffle=False"):
        check_config(cfg)


def test_what_counts_epochs_in_a_loop_that_counts_iterations_is_said():
    cfg = shipped()
    cfg.param_scheduler = [dict(type="MultiStepLR", milestones=[8, 11])]
    with pytest.warns(UserWarning, match=r"param_scheduler.0, MultiStepLR, counts epochs"):
        check_config(cfg)
    # Of several optimizers.
    cfg.param_scheduler = dict(
        body=[dict(type="LinearLR", by_epoch=False, start_factor=0.1)],
        head=dict(type="mmengine.MultiStepLR", milestones=[8, 11]),
    )
    with pytest.warns(UserWarning, match="param_scheduler.head, MultiStepLR, counts") as said:
        check_config(cfg)
    assert len(said) == 1
    cfg = shipped(default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)))
    with pytest.warns(UserWarning, match="checkpoint counts epochs.*nothing would be saved"):
        check_config(cfg)


@pytest.mark.parametrize("kind", ["ReduceOnPlateauLR", ReduceOnPlateauMomentum])
def test_a_schedule_that_follows_the_validations_counts_no_epochs(kind):
    """MMEngine refuses it with by_epoch=False."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_config(shipped(param_scheduler=[dict(type=kind, monitor="lvis/bbox_AP")]))


def test_test_settings_of_coco_are_said():
    cfg = shipped(model=dict(test_cfg=dict(rcnn=dict(score_thr=0.05, max_per_img=100))))
    with pytest.warns(UserWarning, match="score_thr=0.05 and max_per_img=100: LVIS's AP takes 300"):
        check_config(cfg)
    cfg.val_evaluator = [dict(type="CocoMetric")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_config(cfg)
        check_config(shipped())


def test_checkpoints_inside_an_epoch_are_said():
    """MMEngine resumes from them with the whole epoch."""
    cfg = shipped(train_cfg=EPOCHS, param_scheduler=[])
    cfg.train_dataloader.sampler = dict(type="DefaultSampler")
    with pytest.warns(UserWarning, match="checkpoint counts iterations.*whole epoch again"):
        check_config(cfg)
    cfg.default_hooks.checkpoint.by_epoch = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_config(cfg)


@pytest.mark.parametrize(
    "counts, enable, is_said", [(4, True, True), (4, False, False), (1, True, False)]
)
def test_a_scaling_that_does_not_count_accumulation_is_said(counts, enable, is_said):
    cfg = shipped(auto_scale_lr=dict(enable=enable, base_batch_size=16))
    cfg.optim_wrapper.accumulative_counts = counts
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_config(cfg)
    assert len(said) == is_said
    if is_said:
        assert re.search(
            "accumulative_counts=4.*divide .*base_batch_size=16 by 4", str(said[0].message)
        )


@pytest.mark.parametrize(
    "changes, processes, images",
    [
        (dict(), 8, None),
        (dict(), 1, 2),
        (dict(), 16, 32),
        ({"train_dataloader.batch_size": 4}, 4, None),
        ({"optim_wrapper.accumulative_counts": 8}, 1, None),
        ({"optim_wrapper.accumulative_counts": 2}, 2, 8),
        ({"auto_scale_lr.enable": True}, 1, None),
        ({"auto_scale_lr.base_batch_size": 2}, 1, None),
        ({"auto_scale_lr": None}, 1, None),
    ],
)
def test_another_number_of_images_than_the_learning_rate_is_for_is_said(changes, processes, images):
    cfg = Config.fromfile(ROOT / "configs" / "droploss" / "mask_rcnn_r50_fpn_lvis.py")
    cfg.merge_from_dict(changes)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_of_batch_size(cfg, processes)
    assert len(said) == (images is not None)
    if images is not None:
        assert f"a step has {images} images, and" in str(said[0].message)
        assert "meant for 16 (auto" in str(said[0].message)
