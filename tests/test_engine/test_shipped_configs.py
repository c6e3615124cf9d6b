"""Every config of the repository builds, and says no more than what differs."""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import json
import os
import re
from pathlib import Path

import mmdet
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.registry import HOOKS, METRICS, MODELS, VISUALIZERS
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS, PARAM_SCHEDULERS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEAVES = [path for path in sorted(CONFIGS.rglob("*.py")) if "_base_" not in path.parts]
NAMES = {path.stem: path for path in LEAVES}
each_leaf = pytest.mark.parametrize("path", LEAVES, ids=lambda path: str(path.relative_to(CONFIGS)))


@functools.cache
def read(path: Path) -> Config:
    """A config, read once for all tests; who changes it takes a copy."""
    return Config.fromfile(path)


def test_there_are_configs():
    assert {"mask_rcnn_r50_fpn_lvis", "cascade_mask_rcnn_r50_fpn_lvis"} <= set(NAMES)


def test_no_two_configs_are_the_same():
    # What the loss takes anyway is no difference.
    defaults = {"BEQL": {"log_base": 4}, "DropLoss": {"drop_frequent": True}}
    seen: dict[str, Path] = {}
    for path in LEAVES:
        content = read(path).to_dict()
        loss = content["model"]["roi_head"]["bbox_head"]["loss_cls"]
        loss.update({**defaults.get(loss["type"], {}), **loss})
        key = json.dumps(content, sort_keys=True, default=str)
        assert key not in seen, (path, seen[key])
        seen[key] = path


@each_leaf
def test_a_leaf_says_only_what_differs(path):
    text = path.read_text()
    code = [line for line in text.splitlines() if line.split("#")[0].strip()]
    base = next(
        node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "_base_"
    )
    # A leaf that gathers the _base_ files itself is a base of others.
    assert len(code) <= (20 if isinstance(base, ast.List) else 10)


@each_leaf
def test_a_config_builds(path, mini_lvis_dir):
    cfg = copy.deepcopy(read(path))
    assert cfg.default_scope == "mmdet"
    loss = cfg.model.roi_head.bbox_head.loss_cls
    num_classes = cfg.num_classes
    if loss.get("class_freq", "").endswith(".json") and not os.path.isfile(loss.class_freq):
        # Generated data: a frequency file of the right size stands in.
        stand_in = mini_lvis_dir.parent / f"{num_classes}.json"
        counts = [1 + 7 * i for i in range(num_classes)]
        stand_in.write_text(json.dumps({"image_count": counts, "num_images": 2000}))
        loss.class_freq = str(stand_in)

    with torch.device("meta"):
        # frequencies are values; the loss needs them
        model = build_on_meta(cfg)
    heads = model.roi_head.bbox_head
    heads = list(heads) if isinstance(heads, torch.nn.ModuleList) else [heads]
    assert len(heads) == (3 if "cascade" in path.name else 1)
    for head in heads:
        assert head.num_classes == getattr(head.loss_cls, "num_classes", num_classes) == num_classes
        # Softmax and EQLv2 have an output for background, Seesaw two for object and background.
        more = {"CrossEntropyLoss": 1, "EQLV2BBoxLoss": 1, "SeesawLoss": 2}.get(loss.type, 0)
        assert head.fc_cls.out_features == num_classes + more
    masks = model.roi_head.mask_head
    masks = list(masks) if isinstance(masks, torch.nn.ModuleList) else [masks]
    assert len(masks) == (3 if "_mmdet_" in path.name else 1)
    for mask in masks:
        assert mask.num_classes == num_classes
    assert type(heads[0]).__name__ == "LargeVocabBBoxHead"

    for name in ("train", "val", "test"):
        dataset = cfg[f"{name}_dataloader"].dataset
        while "dataset" in dataset:
            dataset = dataset.dataset
        Compose(dataset.pipeline)
    assert METRICS.get(cfg.val_evaluator.type) is not None
    # The visualization hook asks for the visualizer that the runner has built before it.
    if not DetLocalVisualizer.check_instance_created("visualizer"):
        VISUALIZERS.build({**cfg.visualizer, "vis_backends": None})
    for hook in [*cfg.default_hooks.values(), *cfg.custom_hooks]:
        HOOKS.build(hook)
    layer = torch.nn.Linear(1, 1)
    assert OPTIM_WRAPPERS.get(cfg.optim_wrapper.type) is not None  # AMP's builds on a GPU only
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type="OptimWrapper",
            optimizer=torch.optim.SGD(layer.parameters(), lr=cfg.optim_wrapper.optimizer.lr),
        )
    )
    for scheduler in cfg.param_scheduler:
        PARAM_SCHEDULERS.build(scheduler, default_args=dict(optimizer=wrapper))


def build_on_meta(cfg):
    """Large models without their memory. Losses compute with their frequencies: on the CPU."""
    from mmdet_droploss.models.losses import LongTailLoss

    original = LongTailLoss.__init__

    def on_cpu(self, *args, **kwargs):
        with torch.device("cpu"):
            original(self, *args, **kwargs)

    LongTailLoss.__init__ = on_cpu
    try:
        return MODELS.build(cfg.model)
    finally:
        LongTailLoss.__init__ = original


GRID = [
    (detector, depth, rfs, data)
    for detector in ("mask_rcnn", "cascade_mask_rcnn")
    for depth in (50, 101)
    for rfs in ("", "rfs_")
    for data in ("lvis", "lvis_v1")
]


@pytest.mark.parametrize("detector, depth, rfs, data", GRID)
def test_the_grid_of_droploss_is_what_its_names_say(detector, depth, rfs, data):
    cfg = read(CONFIGS / "droploss" / f"{detector}_r{depth}_fpn_{rfs}{data}.py")
    model = cfg.model
    assert model.type == {"mask_rcnn": "MaskRCNN", "cascade_mask_rcnn": "CascadeRCNN"}[detector]
    assert model.backbone.depth == depth
    assert model.backbone.init_cfg.checkpoint.endswith(f"detectron2/resnet{depth}_caffe")
    loss = model.roi_head.bbox_head.loss_cls
    number, name = {"lvis": (1230, "lvis_v0.5"), "lvis_v1": (1203, "lvis_v1")}[data]
    assert (loss.type, loss.num_classes, loss.class_freq) == ("DropLoss", number, name)
    assert model.roi_head.mask_head.num_classes == number
    for part in ("train", "val", "test"):
        dataset = cfg[f"{part}_dataloader"].dataset
        assert name in dataset.data_root and name in dataset.ann_file
    assert name in cfg.val_evaluator.ann_file
    sampler = cfg.train_dataloader.sampler
    if rfs:
        assert (sampler.type, sampler.threshold) == ("RepeatFactorSampler", 5e-4)
    else:
        assert sampler.type == "InfiniteSampler"


# ---- a name says all that differs ---------------------------------------------------------------

#: Variables of the _base_ files that a runner does not read.
VARIABLES = {
    "class_freq",
    "data_root",
    "dataset_type",
    "epoch_sampler",
    "max_epochs",
    "mmdet_cascade",
    "num_classes",
    "vocabulary",
}


def flatten(value, prefix: str = "") -> dict[str, object]:
    """The values of nested dicts by their paths."""
    if not isinstance(value, dict):
        return {prefix.rstrip("."): value}
    flat: dict[str, object] = {}
    for key, inner in value.items():
        flat |= flatten(inner, f"{prefix}{key}.")
    return flat


def differences(one: Path, other: Path) -> set[str]:
    """The paths at which two configs have something else."""
    a, b = (
        flatten({key: value for key, value in read(path).items() if key not in VARIABLES})
        for path in (one, other)
    )
    return {path for path in a.keys() | b.keys() if a.get(path, ...) != b.get(path, ...)}


def data_paths() -> set[str]:
    """What depends on the data set."""
    head = "model.roi_head.bbox_head"
    dataset = {
        f"{part}_dataloader.dataset.{key}"
        for part in ("train", "val", "test")
        for key in ("type", "ann_file", "data_root", "data_prefix.img")
    }
    return dataset | {
        f"{head}.num_classes",
        f"{head}.loss_cls.num_classes",
        f"{head}.loss_cls.class_freq",
        "model.roi_head.mask_head.num_classes",
        "val_evaluator.ann_file",
        "test_evaluator.ann_file",
    }


SAMPLER = {f"train_dataloader.sampler.{key}" for key in ("type", "threshold", "infinite")}
EPOCHS = {
    "train_cfg.type",
    "train_cfg.max_iters",
    "train_cfg.max_epochs",
    "train_cfg.val_interval",
    "param_scheduler",
    "default_hooks.logger.log_metric_by_epoch",
    "default_hooks.checkpoint.by_epoch",
    "default_hooks.checkpoint.interval",
    "log_processor.by_epoch",
    "train_dataloader.sampler.type",
}
RCNN_ASSIGNER = {
    *("type", "pos_iou_thr", "neg_iou_thr", "min_pos_iou", "match_low_quality", "ignore_iof_thr")
}
RCNN_SAMPLER = {"type", "num", "pos_fraction", "neg_pos_ub", "add_gt_as_proposals"}
#: A part of a name, what its sibling has there instead, and what differs: all of it, and no more.
PARTS = {
    "r101": ("r50", {"model.backbone.depth", "model.backbone.init_cfg.checkpoint"}),
    "_rfs": ("", SAMPLER),
    "lvis_v1": ("lvis", data_paths()),
    "_1x": ("", EPOCHS),
    "_2x": ("_1x", {"train_cfg.max_epochs", "train_cfg.val_interval", "param_scheduler"}),
    "_mmdet": (
        "",
        {
            "model.roi_head.type",
            "model.roi_head.stage_loss_weights",
            "model.roi_head.bbox_head.loss_bbox.type",
            "model.roi_head.bbox_head.loss_bbox.beta",
            "model.train_cfg.rcnn",
            *(f"model.train_cfg.rcnn.{key}" for key in ("mask_size", "pos_weight", "debug")),
            *(f"model.train_cfg.rcnn.assigner.{key}" for key in RCNN_ASSIGNER),
            *(f"model.train_cfg.rcnn.sampler.{key}" for key in RCNN_SAMPLER),
        },
    ),
    "_amp": ("", {"optim_wrapper.type"}),
    "_keep_frequent": ("", {"model.roi_head.bbox_head.loss_cls.drop_frequent"}),
    "_torchvision": (
        "",
        {f"model.data_preprocessor.{key}" for key in ("mean", "std", "bgr_to_rgb")}
        | {"model.backbone.style", "model.backbone.init_cfg.checkpoint"},
    ),
}
SIBLINGS = [
    (name, part, sibling)
    for name in NAMES
    for part, (other, _) in PARTS.items()
    if part in name and (sibling := name.replace(part, other)) in NAMES
]


@pytest.mark.parametrize("name, part, sibling", SIBLINGS)
def test_a_part_of_a_name_says_what_differs(name, part, sibling):
    expected = PARTS[part][1]
    loss = read(NAMES[name]).model.roi_head.bbox_head.loss_cls
    if loss.type in ("SeesawLoss", "EQLV2BBoxLoss"):  # they count the frequencies themselves
        expected = expected - {"model.roi_head.bbox_head.loss_cls.class_freq"}
    assert differences(NAMES[name], NAMES[sibling]) == expected


def test_every_variant_was_compared():
    """Only the plain configs and the sweeps have no part of a name to be compared by."""
    rest = {name for name in NAMES if not any(part in name for part in PARTS)}
    assert {name for name, _, _ in SIBLINGS} | rest == set(NAMES)


#: A loss, with its value in a sweep, as it stands in names.
LOSS = re.compile(
    r"_(sigmoid|softmax|eql|beql(_b\d+)?|fixed_drop_[\d.]+|seesaw|eqlv2|federated|keep_frequent)(?=_)"
)


@pytest.mark.parametrize(
    "name",
    # These two were compared with the plain DropLoss config.
    [name for name in NAMES if not re.search("_(amp|torchvision)_", name)],
)
def test_only_the_loss_differs_from_the_sigmoid_config(name):
    """The losses are compared on equal terms."""
    sigmoid = LOSS.sub("", name).replace("_droploss", "").replace("_fpn_", "_fpn_sigmoid_")
    changed = differences(NAMES[name], NAMES[sigmoid])
    assert all(key.startswith("model.roi_head.bbox_head.loss_cls.") for key in changed)
    assert bool(changed) == (name != sigmoid)


def test_a_cascade_differs_in_its_head_and_the_number_of_proposals_only():
    head = {f"model.roi_head.{key}" for key in ("type", "num_stages", "stage_loss_weights")}
    head |= {"model.roi_head.bbox_head.reg_class_agnostic"}
    for name, path in NAMES.items():
        if name.startswith("cascade_") and "_mmdet_" not in name:
            found = differences(path, NAMES[name.removeprefix("cascade_")])
            assert found == {"model.type", "model.train_cfg.rpn_proposal.max_per_img", *head}


def test_the_papers_cascade():
    """Detectron2's: three stages of equal weight, one mask head, 2000 proposals in training."""
    cfg = copy.deepcopy(read(CONFIGS / "droploss" / "cascade_mask_rcnn_r50_fpn_lvis.py"))
    with torch.device("meta"):
        model = build_on_meta(cfg)
    roi_head = model.roi_head
    assert type(roi_head).__name__ == "Detectron2CascadeRoIHead"
    assert len(roi_head.bbox_head) == roi_head.num_stages == 3
    assert type(roi_head.mask_head).__name__ == "LargeVocabMaskHead"
    assert type(roi_head.mask_roi_extractor).__name__ == "FastRoIExtractor"
    assert roi_head.stage_loss_weights == [1, 1, 1]
    assert [assigner.pos_iou_thr for assigner in roi_head.bbox_assigner] == [0.5, 0.6, 0.7]
    samplers = [type(sampler).__name__ for sampler in roi_head.bbox_sampler]
    assert samplers == ["RandomSampler", "PseudoSampler", "PseudoSampler"]
    for head, weight in zip(roi_head.bbox_head, (10, 20, 30), strict=True):
        weights = [1 / std for std in head.bbox_coder.stds]
        assert weights == pytest.approx([weight, weight, weight / 2, weight / 2])
        assert head.reg_class_agnostic and type(head.loss_bbox).__name__ == "L1Loss"
    assert cfg.model.train_cfg.rpn_proposal.max_per_img == 2000
    assert read(NAMES["mask_rcnn_r50_fpn_lvis"]).model.train_cfg.rpn_proposal.max_per_img == 1000
    assert cfg.model.test_cfg.rpn.max_per_img == 1000


@pytest.mark.parametrize("name", [name for name in NAMES if re.search("beql_b|fixed_drop", name)])
def test_a_swept_value_is_the_one_in_the_name(name):
    loss = read(NAMES[name]).model.roi_head.bbox_head.loss_cls
    value = re.search(r"_(?:beql_b|fixed_drop_)([\d.]+)_(?:mini_)?lvis$", name)[1]
    assert str(loss.log_base if loss.type == "BEQL" else loss.drop_ratio) == value


def test_beql_without_a_base_is_the_papers_b4():
    """The metafile has the paper's row for both."""
    from mmdet_droploss.models import BEQL

    assert inspect.signature(BEQL).parameters["log_base"].default == 4


PAPER_ROWS = [
    # Table 1: detectors and backbones, LVIS v0.5
    "sigmoid/mask_rcnn_r50_fpn_sigmoid_lvis",
    "eql/mask_rcnn_r50_fpn_eql_lvis",
    "droploss/mask_rcnn_r50_fpn_lvis",
    "sigmoid/mask_rcnn_r101_fpn_sigmoid_lvis",
    "eql/mask_rcnn_r101_fpn_eql_lvis",
    "droploss/mask_rcnn_r101_fpn_lvis",
    "sigmoid/cascade_mask_rcnn_r50_fpn_sigmoid_lvis",
    "eql/cascade_mask_rcnn_r50_fpn_eql_lvis",
    "droploss/cascade_mask_rcnn_r50_fpn_lvis",
    "sigmoid/cascade_mask_rcnn_r101_fpn_sigmoid_lvis",
    "eql/cascade_mask_rcnn_r101_fpn_eql_lvis",
    "droploss/cascade_mask_rcnn_r101_fpn_lvis",
    # Table 2: softmax, repeat factor sampling, LVIS v1.0
    "softmax/mask_rcnn_r50_fpn_softmax_lvis",
    "sigmoid/mask_rcnn_r50_fpn_sigmoid_rfs_lvis",
    "softmax/mask_rcnn_r50_fpn_softmax_rfs_lvis",
    "eql/mask_rcnn_r50_fpn_eql_rfs_lvis",
    "droploss/mask_rcnn_r50_fpn_rfs_lvis",
    "sigmoid/mask_rcnn_r50_fpn_sigmoid_lvis_v1",
    "eql/mask_rcnn_r50_fpn_eql_lvis_v1",
    "droploss/mask_rcnn_r50_fpn_lvis_v1",
    "sigmoid/mask_rcnn_r50_fpn_sigmoid_rfs_lvis_v1",
    "eql/mask_rcnn_r50_fpn_eql_rfs_lvis_v1",
    "droploss/mask_rcnn_r50_fpn_rfs_lvis_v1",
    # Table 3: BEQL
    "beql/mask_rcnn_r50_fpn_beql_b5_lvis",
]


@pytest.mark.parametrize("row", PAPER_ROWS)
def test_every_row_of_the_paper_has_its_config(row):
    cfg = read(CONFIGS / f"{row}.py")
    # The paper's one schedule.
    assert cfg.train_cfg == dict(
        type="ResumableIterBasedTrainLoop", max_iters=90_000, val_interval=30_000
    )


# ---- schedules ----------------------------------------------------------------------------------


@each_leaf
def test_all_parts_of_a_config_count_alike(path):
    """An epoch-based loop with an infinite sampler would never end its first epoch."""
    cfg = read(path)
    by_epoch = cfg.train_cfg.type == "EpochBasedTrainLoop"
    assert by_epoch == bool(re.search(r"_\dx_", path.stem))
    sampler = cfg.train_dataloader.sampler
    assert by_epoch == (sampler.type == "DefaultSampler")
    assert by_epoch == (not sampler.get("infinite", sampler.type == "InfiniteSampler"))
    assert cfg.default_hooks.logger.log_metric_by_epoch == by_epoch
    assert cfg.default_hooks.checkpoint.by_epoch == by_epoch
    assert cfg.log_processor.by_epoch == by_epoch
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.by_epoch, steps.by_epoch) == (False, by_epoch)
    last = cfg.train_cfg.max_epochs if by_epoch else cfg.train_cfg.max_iters
    assert warm_up.begin == steps.begin == 0 and steps.end == last
    assert max(steps.milestones) < last
    # The last validation is of the last checkpoint.
    assert last % cfg.train_cfg.val_interval == 0


@pytest.mark.parametrize("number", [1, 2])
def test_schedules_in_epochs_are_mmdets(number):
    cfg = read(NAMES[f"mask_rcnn_r50_fpn_{number}x_lvis_v1"])
    mmdets = Config.fromfile(
        Path(inspect.getfile(mmdet)).parent / f".mim/configs/_base_/schedules/schedule_{number}x.py"
    )
    assert cfg.train_cfg.max_epochs == mmdets.train_cfg.max_epochs
    assert cfg.param_scheduler == mmdets.param_scheduler
    assert cfg.optim_wrapper == mmdets.optim_wrapper
    assert cfg.auto_scale_lr == mmdets.auto_scale_lr


def test_repeat_factor_sampling_with_epochs(tmp_path):
    """The line that docs/configs.md has for it."""
    page = (CONFIGS.parent / "docs" / "configs.md").read_text(encoding="utf-8")
    line = "train_dataloader = dict(sampler=dict(_base_.rfs_sampler, infinite=False))"
    assert f"`{line}`" in page
    leaf = tmp_path / "leaf.py"
    leaf.write_text(f'_base_ = "{NAMES["mask_rcnn_r50_fpn_1x_lvis_v1"].as_posix()}"\n{line}\n')
    assert Config.fromfile(leaf).train_dataloader.sampler == dict(
        type="RepeatFactorSampler", threshold=5e-4, infinite=False, shuffle=True
    )


def test_the_papers_recipe():
    cfg = read(CONFIGS / "droploss" / "mask_rcnn_r50_fpn_lvis.py")
    assert cfg.train_cfg.max_iters == 90_000
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum) == ("SGD", 0.02, 0.9)
    assert optimizer.weight_decay == 1e-4
    warm_up, steps = cfg.param_scheduler
    assert warm_up.end == 1000
    assert (steps.milestones, steps.gamma) == ([60_000, 80_000], 0.1)
    assert cfg.auto_scale_lr.base_batch_size == 16
    resize = next(t for t in cfg.train_pipeline if t.type == "RandomChoiceResize")
    assert sorted(scale[1] for scale in resize.scales) == [640, 672, 704, 736, 768, 800]
    assert {scale[0] for scale in resize.scales} == {1333}
    model = cfg.model
    assert (model.train_cfg.rpn.sampler.num, model.train_cfg.rpn.sampler.pos_fraction) == (256, 0.5)
    assert model.train_cfg.rcnn.sampler.num == 512
    assert model.train_cfg.rcnn.sampler.pos_fraction == 0.25
    assert model.test_cfg.rcnn.max_per_img == 300
    assert model.test_cfg.rcnn.score_thr == 1e-4
    assert model.roi_head.bbox_head.loss_cls.class_freq == "lvis_v0.5"
    assert model.roi_head.bbox_head.num_classes == 1230
