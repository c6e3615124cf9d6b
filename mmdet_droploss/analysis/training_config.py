"""What the config of a training says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

#: The parts that two seeds of one training have in common.
_TRAINING = ("model", "train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg")
#: What is in these parts but changes no step of a training, or is the seed.
_FREE = {
    *("num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "seed"),
    *("val_interval", "val_begin", "test_cfg", "_scope_"),
}


def loss_config(config: Config) -> dict:
    """The classification loss's entry, of a detector with RoI head or without; may be empty."""
    model = config.get("model") or {}
    head = (model.get("roi_head") or {}).get("bbox_head") or model.get("bbox_head") or {}
    head = head[0] if isinstance(head, list) else head  # a cascade has one for each stage
    return head.get("loss_cls") or {}


def loss_of(config: Config) -> str:
    """The type of the classification loss."""
    return str(loss_config(config).get("type", "unknown"))


def seed_of(config: Config) -> int | None:
    """The seed; None if it is drawn at each start."""
    return (config.get("randomness") or {}).get("seed")


def other_settings(config: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Where two configs are more than two seeds of one training.

    Returns:
        By dotted key, what each has; the loss first. None where it has nothing.
    """
    one, two = (dict(_settings({key: c.get(key) for key in _TRAINING})) for c in (config, other))
    keys = sorted(dict.fromkeys([*one, *two]), key=lambda key: "loss_cls" not in key)
    return {key: (one.get(key), two.get(key)) for key in keys if one.get(key) != two.get(key)}


def _settings(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values in nested dicts and lists, with their dotted keys."""
    if isinstance(value, dict):
        parts = [(key, part) for key, part in value.items() if key not in _FREE]
    elif isinstance(value, (list, tuple)):
        parts = list(enumerate(value))
    else:
        yield path, value
        return
    for key, part in parts:
        yield from _settings(part, f"{path}.{key}" if path else str(key))
