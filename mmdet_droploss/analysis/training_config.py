"""What the config of a training says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..engine.config_checks import kind_of
from ..engine.settings_difference import TRAINING, difference

#: Custom hooks that only look at a training: a seed may have them and another not.
_ONLOOKERS = {
    *("CategoryGradientHook", "CategoryCheckHook", "CheckpointShapeHook", "BoxesOnlyHook"),
    *("CheckInvalidLossHook", "EmptyCacheHook", "MemoryProfilerHook", "NumClassCheckHook"),
}


def loss_config(config: Config) -> dict:
    """The classification loss's entry, of a detector with RoI head or without; may be empty."""
    model = config.get("model") or {}
    head = (model.get("roi_head") or {}).get("bbox_head") or model.get("bbox_head") or {}
    head = head[0] if isinstance(head, list) else head  # a cascade has one for each stage
    return head.get("loss_cls") or {}


def seed_of(config: Config) -> int | None:
    """The seed; None if it is drawn at each start."""
    return (config.get("randomness") or {}).get("seed")


def picture_root(config: Config) -> Path | None:
    """The folder from which its test takes pictures; None if the config does not tell."""
    dataset = (config.get("test_dataloader") or {}).get("dataset") or {}
    while "dataset" in dataset:  # a wrapper
        dataset = dataset["dataset"]
    prefix = (dataset.get("data_prefix") or {}).get("img")
    return None if prefix is None else Path(dataset.get("data_root") or "") / prefix


def other_settings(config: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Where two configs are more than two seeds of one training.

    Returns:
        By dotted key, what each has; the loss first. None where it has nothing.
    """
    one, two = _training(config), _training(other)
    if not any(c.get("resume") for c in (config, other)):
        # A resumed training has there what it went on from, no longer what it began with.
        one["load_from"], two["load_from"] = config.get("load_from"), other.get("load_from")
    return difference(one, two)


def _training(config: Config) -> dict[str, Any]:
    """What decides the steps of a training, but for its seed and what it begins with."""
    hooks, scaling = config.get("custom_hooks") or [], config.get("auto_scale_lr") or {}
    return {
        **{key: config.get(key) for key in TRAINING},
        "custom_hooks": [hook for hook in hooks if kind_of(hook) not in _ONLOOKERS],
        "auto_scale_lr": scaling if scaling.get("enable") else None,
    }
