"""Test-time augmentation: several views of an image, whose boxes are merged."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from typing import Any

from mmdet.registry import METRICS
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from .config_checks import kind_of, metrics_of, resolved, walk

#: Metrics of masks that have no argument ``metric`` to say so.
MASK_METRICS = ("CityScapesMetric", "CocoPanopticMetric", "SemSegMetric")
#: What MMDetection's model needs to know about a view.
META_KEYS = (
    "img_id",
    "img_path",
    "ori_shape",
    "img_shape",
    "scale_factor",
    "flip",
    "flip_direction",
)


def use_test_time_augmentation(cfg: Config) -> None:
    """Wrap the model and replace the test pipeline, as MMDetection's ``tools/test.py --tta`` does.

    The config's ``tta_model`` and ``tta_pipeline`` are taken. Without them, the test pipeline gets
    a mirrored view, and boxes are merged by the model's own NMS. MMDetection's model merges boxes
    only, so masks are not computed.

    Args:
        cfg: The config; changed in place.

    Raises:
        ValueError: If a metric wants masks, or the test pipeline cannot be augmented.
    """
    _refuse_masks(cfg)
    datasets = [
        node
        for _, node in walk(cfg.test_dataloader.dataset)
        if "pipeline" in node and "type" in node
    ]
    if not datasets:
        raise ValueError("--tta: test_dataloader.dataset has no pipeline to replace")
    if cfg.get("tta_pipeline") is None:
        cfg.tta_pipeline = _mirrored(datasets[0]["pipeline"])
    else:
        _compare(datasets[0]["pipeline"], cfg.tta_pipeline)
    if cfg.get("tta_model") is None:
        cfg.tta_model = dict(type="DetTTAModel", tta_cfg=_merging(cfg.model))
    note = _note(cfg)
    for dataset in datasets:
        dataset["pipeline"] = copy.deepcopy(cfg.tta_pipeline)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.custom_hooks = [
        *(cfg.get("custom_hooks") or []),
        dict(type="BoxesOnlyHook", note=note),
    ]


def _refuse_masks(cfg: Config) -> None:
    for path, metric in metrics_of(cfg.test_evaluator, "test_evaluator").items():
        if not isinstance(metric, dict):
            continue
        cls = resolved(METRICS, metric["type"])
        parameter = inspect.signature(cls).parameters.get("metric") if cls else None
        wanted = metric.get("metric", parameter.default if parameter else ())
        if "segm" in ([wanted] if isinstance(wanted, str) else wanted):
            raise ValueError(
                f"--tta: {path}.metric asks for masks (segm), and MMDetection's test-time "
                f"augmentation merges boxes only. For the boxes: --cfg-options {path}.metric=bbox"
            )
        if kind_of(metric) in MASK_METRICS:
            raise ValueError(
                f"--tta: {path} is {kind_of(metric)}, which asks for masks, and MMDetection's "
                f"test-time augmentation merges boxes only. Take a metric of boxes"
            )


def _mirrored(pipeline: list) -> list:
    """A test pipeline with a second, mirrored view; the first is the image as it is."""
    *before, pack = copy.deepcopy(list(pipeline))
    if not kind_of(pack).startswith("Pack"):
        raise ValueError(
            f"--tta: the test pipeline ends with {kind_of(pack)}, not with PackDetInputs, so "
            f"there is no telling where to put the views: write a tta_pipeline in the config"
        )
    keys = [*pack.get("meta_keys", META_KEYS)]
    pack["meta_keys"] = tuple(keys + [key for key in META_KEYS if key not in keys])
    flips = [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)]
    # Ground truth stays as it is in every view: the merged boxes are those of the image.
    loads = [step for step in before if kind_of(step) == "LoadAnnotations"]
    before = [step for step in before if kind_of(step) != "LoadAnnotations"]
    return [*before, dict(type="TestTimeAug", transforms=[flips, *([s] for s in loads), [pack]])]


def _merging(model: ConfigDict) -> dict:
    """How the model itself suppresses boxes and how many it keeps; MMDetection's own otherwise."""
    own = model.get("test_cfg") or {}
    own = own.get("rcnn") or own
    own = own[-1] if isinstance(own, (list, tuple)) else own
    return dict(
        nms=own.get("nms") or dict(type="nms", iou_threshold=0.5),
        max_per_img=own.get("max_per_img") or 100,
    )


def _steps(pipeline: list, kind: str) -> list[dict]:
    return [node for _, node in walk(pipeline) if kind_of(node) == kind]


def _compare(test: list, tta: list) -> None:
    """Warn if the views have nothing of the test pipeline: a base config's were inherited."""
    scales = [_scale(step) for step in _steps(test, "Resize")]
    views = [_scale(step) for step in _steps(tta, "Resize")]
    missing = [scale for scale in scales if scale not in views]
    if missing and views:
        warnings.warn(
            f"--tta: the test pipeline resizes to {missing[0]}, but none of tta_pipeline's views "
            f"does ({', '.join(map(str, views))}); it may be another data set's: set tta_pipeline, "
            f"or tta_pipeline=None for the test pipeline and its mirrored view",
            stacklevel=2,
        )
    kinds = {kind_of(node) for _, node in walk(tta)}
    left_out = [kind_of(step) for step in test if kind_of(step) not in kinds]
    if left_out:
        warnings.warn(
            f"--tta: tta_pipeline leaves out {', '.join(left_out)} of the test pipeline",
            stacklevel=2,
        )


def _scale(step: dict) -> Any:
    scale = step.get("scale", step.get("scale_factor"))
    return tuple(scale) if isinstance(scale, (list, tuple)) else scale


def _note(cfg: Config) -> str:
    views = [
        math.prod(len(choices) for choices in node["transforms"])
        for node in _steps(cfg.tta_pipeline, "TestTimeAug")
    ]
    merging = cfg.tta_model.get("tta_cfg") or {}
    return (
        f"Test-time augmentation: {math.prod(views)} views of each image, merged by "
        f"{merging.get('nms')}, at most {merging.get('max_per_img')} boxes; no masks."
    )


@HOOKS.register_module()
class BoxesOnlyHook(Hook):
    """Lets a detector predict boxes without their masks, after its weights are loaded.

    Args:
        note: A line for the log.
    """

    def __init__(self, note: str = "Boxes only; no masks.") -> None:
        self.note = note

    def before_test(self, runner: Runner) -> None:
        """Take the mask head off; a detector without RoI head loses the masks that it predicted."""
        runner.logger.info(self.note)
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        roi_head = getattr(model, "roi_head", None)
        if roi_head is not None and getattr(roi_head, "with_mask", False):
            roi_head.mask_head = None
        model.register_forward_hook(_drop_masks)


def _drop_masks(_model: nn.Module, _inputs: tuple, samples: Any) -> None:
    for sample in samples:
        if "masks" in sample.get("pred_instances", ()):
            del sample.pred_instances.masks
