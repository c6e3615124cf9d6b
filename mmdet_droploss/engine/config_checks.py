"""What a config lacks or has too much of, said before anything is built."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from mmdet.datasets.samplers import MultiSourceSampler
from mmdet.registry import DATA_SAMPLERS, LOOPS, METRICS, PARAM_SCHEDULERS
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop

from ..models.losses.arguments import accepted_arguments, check_loss_arguments

MIGRATION_PAGE = "https://mmdetection.readthedocs.io/en/latest/migration/config_migration.html"

#: What MMDetection 2.x called the parts of a config, and where they are now.
OLD_KEYS = {
    "data": "train_dataloader, val_dataloader and test_dataloader",
    "evaluation": "val_evaluator and train_cfg.val_interval",
    "runner": "train_cfg",
    "total_epochs": "train_cfg.max_epochs",
    "optimizer": "optim_wrapper.optimizer",
    "optimizer_config": "optim_wrapper.clip_grad",
    "fp16": "optim_wrapper.type='AmpOptimWrapper'",
    "lr_config": "param_scheduler",
    "momentum_config": "param_scheduler",
    "checkpoint_config": "default_hooks.checkpoint",
    "log_config": "default_hooks.logger and visualizer.vis_backends",
    "dist_params": "env_cfg.dist_cfg",
    "resume_from": "resume=True and load_from",
    "workflow": "nothing: train_cfg and val_cfg say it",
}
#: Parts of an old ``data``; a config of today may have a variable of that name.
OLD_DATA = {"train", "val", "test", "samples_per_gpu", "workers_per_gpu", "imgs_per_gpu"}
#: Transforms of old pipelines, and what does their work.
OLD_TRANSFORMS = {
    "DefaultFormatBundle": "PackDetInputs",
    "Collect": "PackDetInputs",
    "ImageToTensor": "PackDetInputs",
    "MultiScaleFlipAug": "Resize and, with --tta, tta_pipeline",
}

#: What the runner wants all of, or none.
PARTS = {
    "train": ("train_dataloader", "train_cfg", "optim_wrapper"),
    "val": ("val_dataloader", "val_cfg", "val_evaluator"),
    "test": ("test_dataloader", "test_cfg", "test_evaluator"),
}


def walk(node: object, path: str = "") -> Iterator[tuple[str, dict]]:
    """All dicts in a nested config, each with its path."""
    if isinstance(node, dict):
        yield path, node
        children: Iterable[tuple[Any, object]] = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from walk(child, f"{path}.{key}" if path else str(key))


def kind_of(node: dict) -> str:
    """The name of a dict's class; a config has the name, a scope before it, or the class itself."""
    kind = node.get("type", "")
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")


def add_hook(cfg: Config, name: str) -> None:
    """Give a config a hook, if it has none of that name; the config is changed in place."""
    hooks = list(cfg.get("custom_hooks") or [])
    if name not in map(kind_of, hooks):
        cfg.custom_hooks = [*hooks, {"type": name}]


def resolved(registry: Registry, kind: object) -> Any:
    """The class that a config names; a scope before its name is left out."""
    return registry.get(kind.rpartition(".")[2]) if isinstance(kind, str) else kind


def metrics_of(evaluator: Any, name: str) -> dict[str, Any]:
    """The metrics of an evaluator: one, a list, or an ``Evaluator`` of some; by their paths.

    Args:
        evaluator: What the config has.
        name: What the config calls it.
    """
    if isinstance(evaluator, dict) and "metrics" in evaluator:
        return metrics_of(evaluator["metrics"], f"{name}.metrics")
    if isinstance(evaluator, (list, tuple)):
        return {f"{name}.{i}": metric for i, metric in enumerate(evaluator)}
    return {} if evaluator is None else {name: evaluator}


def check_complete(cfg: Config, task: str) -> None:
    """Refuse a config that has not all that a training or a test needs.

    Args:
        cfg: The config.
        task: ``'train'`` or ``'test'``.

    Raises:
        ValueError: With what is missing, and what to write; for configs of MMDetection 2.x with
            their keys and the page about them.
    """
    file = cfg.filename or "the config"
    lacking = [name for name in PARTS[task] if cfg.get(name) is None]
    _check_old(cfg, file, bool(lacking))
    if not isinstance(cfg.get("model"), dict) or "type" not in cfg.model:
        raise ValueError(f"{file} has no model: write model = dict(type=..., ...), or name a base")
    if len(lacking) == 3 and task == "test":
        raise ValueError(
            f"{file} has no {_and(lacking)}, so there is nothing to test on"
            + (
                ": write test_dataloader = val_dataloader, test_evaluator = val_evaluator and "
                "test_cfg = dict(type='TestLoop') to test on the validation set"
                if all(cfg.get(name) is not None for name in PARTS["val"])
                else f": write all three, see {MIGRATION_PAGE}"
            )
        )
    for name, parts in PARTS.items():
        missing = [part for part in parts if cfg.get(part) is None]
        if missing and (name == task or len(missing) < 3):
            purpose = {"train": "training", "val": "validation", "test": "test"}[name]
            without = "" if name == task else f", or set all three to None for a run without {name}"
            raise ValueError(
                f"{file} has no {_and(missing)}: a {purpose} needs {_and(list(parts))}. Write "
                f"{'; '.join(_example(part, cfg) for part in missing)}{without}"
            )
        if not missing:
            _check_dataloader(f"{name}_dataloader", cfg[f"{name}_dataloader"], file)
            for path, metric in metrics_of(
                cfg.get(f"{name}_evaluator"), f"{name}_evaluator"
            ).items():
                if isinstance(metric, dict) and "type" not in metric:
                    raise ValueError(f"{path} of {file} has no type, e.g. type='FastLVISMetric'")


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1])] * bool(names[:-1]) + names[-1:])


def _example(part: str, cfg: Config) -> str:
    """A line that gives a config what it lacks."""
    of_validation = part.replace("test_", "val_")
    if part in ("test_dataloader", "test_evaluator") and cfg.get(of_validation) is not None:
        return f"{part} = {of_validation}"
    return {
        "train_dataloader": "train_dataloader = dict(batch_size=2, sampler=..., dataset=...)",
        "train_cfg": "train_cfg = dict(type='IterBasedTrainLoop', max_iters=..., val_interval=...)",
        "optim_wrapper": "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', "
        "lr=0.02, momentum=0.9, weight_decay=1e-4))",
        "val_cfg": "val_cfg = dict(type='ValLoop')",
        "test_cfg": "test_cfg = dict(type='TestLoop')",
    }.get(
        part,
        f"{part} = dict(type='FastLVISMetric', ann_file=...)"
        if part.endswith("evaluator")
        else f"{part} = dict(batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False), "
        f"dataset=...)",
    )


def _check_dataloader(name: str, loader: object, file: str) -> None:
    """Its parts, and an old pipeline's transforms."""
    if not isinstance(loader, dict):
        return
    for part in ("dataset", "sampler"):
        if loader.get(part) is None:
            raise ValueError(
                f"{name} of {file} has no {part}: write {name} = dict({part}=dict(...))"
            )
    for path, node in walk(loader, name):
        kind = node.get("type")
        if isinstance(kind, str) and kind in OLD_TRANSFORMS and ".pipeline." in path:
            raise ValueError(
                f"{path} of {file} is {kind}, which MMDetection 3.x does not have: "
                f"{OLD_TRANSFORMS[kind]} does its work; see {MIGRATION_PAGE}"
            )
        if "img_prefix" in node:
            raise ValueError(
                f"{path} of {file} has img_prefix, which MMDetection 3.x calls "
                f"data_prefix=dict(img=...); see {MIGRATION_PAGE}"
            )


def _check_old(cfg: Config, file: str, lacks_parts: bool) -> None:
    """Refuse a config of MMDetection 2.x; warn of single keys that nothing reads any more."""
    old = [key for key in OLD_KEYS if cfg.get(key) is not None and _is_old(cfg, key)]
    if not old:
        return
    became = "; ".join(f"{key} is now {OLD_KEYS[key]}" for key in old)
    if lacks_parts:
        raise ValueError(
            f"{file} is a config of MMDetection 2.x: MMDetection 3.x does not read its "
            f"{_and(old)} ({became}). {MIGRATION_PAGE} says how to migrate it"
        )
    warnings.warn(
        f"{file}: {_and(old)} of MMDetection 2.x {'has' if len(old) == 1 else 'have'} no effect in "
        f"MMDetection 3.x ({became}); see {MIGRATION_PAGE}",
        stacklevel=2,
    )


def _is_old(cfg: Config, key: str) -> bool:
    """Whether a name stands for what it stood for in 2.x, and not for a variable."""
    value = cfg[key]
    if key == "data":
        return isinstance(value, dict) and bool(OLD_DATA & value.keys())
    if key == "optimizer":
        wrapper = cfg.get("optim_wrapper")
        return not (isinstance(wrapper, dict) and wrapper.get("optimizer") == value)
    return True


def set_in_metrics(
    cfg: Config, argument: str, value: object, option: str, only_one: bool = False
) -> None:
    """Give the metrics of ``test_evaluator`` an argument, those that have it.

    Args:
        cfg: The config; changed in place.
        argument: The argument's name.
        value: Its value.
        option: What the user gave, for the message.
        only_one: Whether two metrics with the same value would overwrite each other's files.

    Raises:
        ValueError: If no metric has the argument, or two have it and only one may.
    """
    metrics = metrics_of(cfg.test_evaluator, "test_evaluator")
    having = []
    for path, metric in metrics.items():
        cls = resolved(METRICS, metric["type"])
        accepted = accepted_arguments(cls) if inspect.isclass(cls) else None
        if accepted is None or argument in accepted:
            having.append(path)
    if not having:
        kinds = ", ".join(map(kind_of, metrics.values()))
        raise ValueError(f"{option}: test_evaluator ({kinds}) has no argument {argument}")
    if only_one and len(having) > 1:
        instead = " ".join(f"{path}.{argument}={value}_{i}" for i, path in enumerate(having))
        raise ValueError(
            f"{option}: {_and(having)} would write the same files; give each its own: "
            f"--cfg-options {instead}"
        )
    for path in having:
        metrics[path][argument] = value


def visualization_hook(cfg: Config) -> dict:
    """The hook of a config that draws predictions.

    Args:
        cfg: The config.

    Raises:
        ValueError: If it has none, or no visualizer that draws boxes, with the line to add.
    """
    hooks = [*(cfg.get("default_hooks") or {}).values(), *(cfg.get("custom_hooks") or [])]
    for hook in hooks:
        if isinstance(hook, dict) and kind_of(hook).endswith("VisualizationHook"):
            break
    else:
        raise ValueError(
            "--show and --show-dir need the hook that draws, and the config has none: write "
            "default_hooks = dict(visualization=dict(type='DetVisualizationHook'))"
        )
    if cfg.get("visualizer") is None:
        raise ValueError(
            "--show and --show-dir need a visualizer that draws boxes, and the config has none: "
            "write visualizer = dict(type='DetLocalVisualizer', name='visualizer')"
        )
    return hook


def check_config(cfg: Config) -> None:
    """Refuse parts of a config that do not go together.

    Args:
        cfg: The config. What it does not have is not looked at.

    Raises:
        ValueError: If a loop would wait for the end of a sampler that has none.
        TypeError: If a loss is given what it does not take.
    """
    for path, node in walk(cfg.get("model"), "model"):
        if path.rsplit(".", 1)[-1].startswith("loss"):
            check_loss_arguments(node, path)
    _check_samplers(cfg)
    _warn_of_units(cfg)
    _warn_of_accumulation(cfg)
    _warn_of_few_detections(cfg)


def _counts_epochs(train_cfg: object) -> bool | None:
    """Whether a training loop counts epochs; None if it cannot be told."""
    if not isinstance(train_cfg, dict):
        return None
    if "type" not in train_cfg:
        return train_cfg.get("by_epoch")
    loop = resolved(LOOPS, train_cfg["type"])
    return issubclass(loop, EpochBasedTrainLoop) if inspect.isclass(loop) else None


def _endless(sampler: object) -> bool:
    """Whether a sampler of a config never ends."""
    if not isinstance(sampler, dict):
        return False
    cls = resolved(DATA_SAMPLERS, sampler.get("type"))
    if not inspect.isclass(cls):
        return False
    if issubclass(cls, (InfiniteSampler, MultiSourceSampler)):
        return True
    parameter = inspect.signature(cls).parameters.get("infinite")
    return parameter is not None and bool(sampler.get("infinite", parameter.default))


def _check_samplers(cfg: Config) -> None:
    for name in ("train", "val", "test"):
        loader = cfg.get(f"{name}_dataloader")
        sampler = loader.get("sampler") if isinstance(loader, dict) else None
        if sampler is None or not _endless(sampler):
            continue
        kind = kind_of(sampler)
        if "infinite" in sampler or kind == "RepeatFactorSampler":
            is_, change = f"{kind} with infinite=True", "sampler=dict(infinite=False)"
        else:
            shuffle = name == "train"
            is_ = kind
            change = f"sampler=dict(_delete_=True, type='DefaultSampler', shuffle={shuffle})"
        if name != "train":
            raise ValueError(
                f"{name}_dataloader.sampler is {is_}, which never ends, and neither would the "
                f"{'validation' if name == 'val' else 'test'}: write {name}_dataloader = "
                f"dict({change})"
            )
        if _counts_epochs(cfg.get("train_cfg")):
            raise ValueError(
                f"train_dataloader.sampler is {is_}, which never ends, but train_cfg counts "
                f"epochs: the first one would never end. Write train_dataloader = dict({change}), "
                f"or count iterations: train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', "
                f"max_iters=..., val_interval=...)"
            )


def _warn_of_accumulation(cfg: Config) -> None:
    """MMEngine scales the learning rate by the images of an iteration, not of a step."""
    wrapper, scaling = cfg.get("optim_wrapper"), cfg.get("auto_scale_lr") or {}
    counts = wrapper.get("accumulative_counts", 1) if isinstance(wrapper, dict) else 1
    if counts > 1 and scaling.get("enable"):
        warnings.warn(
            f"auto_scale_lr (--auto-scale-lr) does not count "
            f"optim_wrapper.accumulative_counts={counts}: it scales the learning rate by the "
            f"images of an iteration, and a step is {counts} iterations. To count them, divide "
            f"auto_scale_lr.base_batch_size={scaling.get('base_batch_size')} by {counts}",
            stacklevel=2,
        )


def warn_of_batch_size(cfg: Config, processes: int) -> None:
    """Say where a step has another number of images than the learning rate is meant for.

    Args:
        cfg: The config of a training.
        processes: Their number in all.
    """
    scaling, wrapper = cfg.get("auto_scale_lr") or {}, cfg.get("optim_wrapper")
    recipe, of_process = scaling.get("base_batch_size"), cfg.train_dataloader.get("batch_size")
    if scaling.get("enable") or recipe is None or of_process is None:
        return
    counts = wrapper.get("accumulative_counts", 1) if isinstance(wrapper, dict) else 1
    images = processes * of_process * counts
    if images != recipe:
        warnings.warn(
            f"a step has {images} images, and the config's learning rate is meant for {recipe} "
            f"(auto_scale_lr.base_batch_size). --auto-scale-lr, or auto_scale_lr.enable=True, "
            f"scales it. If the learning rate is meant for {images}, set base_batch_size={images}",
            stacklevel=2,
        )


def _warn_of_few_detections(cfg: Config) -> None:
    """MMDetection's test settings are COCO's; LVIS's AP takes 300 detections an image."""
    rcnn = ((cfg.get("model") or {}).get("test_cfg") or {}).get("rcnn")
    if not isinstance(rcnn, dict):
        return
    score_thr = rcnn.get("score_thr") or 0
    kinds = [kind_of(node) for _, node in walk(cfg.get("val_evaluator"))]
    if score_thr >= 0.05 and any("LVISMetric" in kind for kind in kinds):
        warnings.warn(
            f"model.test_cfg.rcnn has score_thr={score_thr} and max_per_img="
            f"{rcnn.get('max_per_img')}: LVIS's AP takes 300 detections an image, whatever their "
            f"scores, and rare categories have low ones. Set score_thr=1e-4 and max_per_img=300",
            stacklevel=2,
        )


def _warn_of_units(cfg: Config) -> None:
    """What counts epochs never happens in a loop that counts iterations: it is one long epoch."""
    counts_epochs = _counts_epochs(cfg.get("train_cfg"))
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint")
    if counts_epochs and isinstance(checkpoint, dict) and not checkpoint.get("by_epoch", True):
        warnings.warn(
            "default_hooks.checkpoint counts iterations (by_epoch=False), but train_cfg counts "
            "epochs: MMEngine resumes inside an epoch by training the whole epoch again, while "
            "iterations, and schedules in iterations, count on. Set default_hooks = "
            "dict(checkpoint=dict(by_epoch=True, interval=1)), or count iterations in train_cfg",
            stacklevel=2,
        )
    if counts_epochs is not False:
        return
    for path, scheduler in walk(cfg.get("param_scheduler"), "param_scheduler"):
        if "type" not in scheduler or not scheduler.get("by_epoch", True):
            continue
        # ReduceOnPlateauLR counts validations, and MMEngine takes it with by_epoch=True only.
        if not getattr(resolved(PARAM_SCHEDULERS, scheduler["type"]), "need_val_args", False):
            warnings.warn(
                f"{path}, {kind_of(scheduler)}, counts epochs (by_epoch=True is MMEngine's "
                f"default), but train_cfg counts iterations: it would have no effect. Set "
                f"by_epoch=False, and begin, end and milestones in iterations",
                stacklevel=2,
            )
    if isinstance(checkpoint, dict) and checkpoint.get("by_epoch", True):
        warnings.warn(
            "default_hooks.checkpoint counts epochs (by_epoch=True is MMEngine's default), but "
            "train_cfg counts iterations: nothing would be saved before the end. Set "
            "default_hooks = dict(checkpoint=dict(by_epoch=False, interval=...))",
            stacklevel=2,
        )
