"""Every config of the repository builds, and says no more than what differs."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest
import torch
from mmcv.transforms import Compose
from mmdet.registry import HOOKS, METRICS, MODELS, VISUALIZERS
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS, PARAM_SCHEDULERS, init_default_scope

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ALL = sorted(CONFIGS.rglob("*.py"))
LEAVES = [path for path in ALL if "_base_" not in path.parts]
each_leaf = pytest.mark.parametrize("path", LEAVES, ids=lambda path: str(path.relative_to(CONFIGS)))


def test_there_are_configs():
    names = {path.stem for path in LEAVES}
    assert {"mask_rcnn_r50_fpn_lvis", "cascade_mask_rcnn_r50_fpn_lvis"} <= names


def test_file_names_are_unique():
    """mim finds a config by its file name alone."""
    names = [path.name for path in ALL]
    assert len(names) == len(set(names))


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
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
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
        # Softmax has an output for background, Seesaw two for object and background.
        more = {"CrossEntropyLoss": 1, "SeesawLoss": 2}.get(loss.type, 0)
        assert head.fc_cls.out_features == num_classes + more
    masks = model.roi_head.mask_head
    for mask in masks if isinstance(masks, torch.nn.ModuleList) else [masks]:
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


@pytest.mark.parametrize(
    "loss, folder",
    [
        ("SigmoidBCELoss", "sigmoid"),
        ("CrossEntropyLoss", "softmax"),
        ("EQL", "eql"),
        ("BEQL", "beql"),
        ("FixedDropLoss", "fixed_drop"),
        ("DropLoss", "droploss"),
        ("SeesawLoss", "seesaw"),
    ],
)
@pytest.mark.parametrize("model", ["mask_rcnn", "cascade_mask_rcnn"])
def test_folders_are_named_after_the_loss(loss, folder, model):
    for path in (CONFIGS / folder).glob(f"{model}*.py"):
        assert Config.fromfile(path).model.roi_head.bbox_head.loss_cls.type == loss


GRID = [
    (detector, depth, rfs, data)
    for detector in ("mask_rcnn", "cascade_mask_rcnn")
    for depth in (50, 101)
    for rfs in ("", "rfs_")
    for data in ("lvis", "lvis_v1")
]


@pytest.mark.parametrize("detector, depth, rfs, data", GRID)
def test_the_grid_of_droploss_is_what_its_names_say(detector, depth, rfs, data):
    cfg = Config.fromfile(CONFIGS / "droploss" / f"{detector}_r{depth}_fpn_{rfs}{data}.py")
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


def test_the_papers_recipe():
    cfg = Config.fromfile(CONFIGS / "droploss" / "mask_rcnn_r50_fpn_lvis.py")
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
