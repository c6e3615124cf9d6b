"""Where two configs are of two trainings, or of two models."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Set
from typing import Any

from mmengine.config import Config

from .config_checks import kind_of

#: The parts that two seeds of one training have in common.
TRAINING = ("model", "train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg")
#: What is in these parts but changes no step of a training, or is the seed.
FREE = {
    *("num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "seed"),
    *("val_interval", "val_begin", "test_cfg", "_scope_", "with_cp"),
    *("backend_args", "cache", "check_picture_size", "lazy_init", "serialize_data"),
}
#: What changes nothing once a checkpoint's weights are loaded, or is lengthened on purpose.
_FREE_IN_RESUME = {"init_cfg", "pretrained", "max_iters", "max_epochs"}
_FREE_IN_RESUME |= {"dynamic_intervals", "param_scheduler", "paramwise_cfg"}
#: What a test does not look at.
_FREE_IN_TEST = {"init_cfg", "pretrained", "train_cfg", "frozen_stages", "norm_eval"}
#: The optimizer's values are the checkpoint's, see ``resumed_schedule``.
_TOLD_OF_RESUME = re.compile(r"optim_wrapper\.(.+\.)?optimizer\.(?!type$)")
#: Of a loss, a test only has what makes scores of the outputs.
_LOSS_IN_TEST = re.compile(r"\.loss_(?!cls\.(type|use_sigmoid)$)\w+(\.|$)")


def difference(one: Mapping, other: Mapping, free: Set[str] = FREE) -> dict[str, tuple[Any, Any]]:
    """Where two configs, or the same parts of them, differ.

    Args:
        one: The parts of a config.
        other: Those of the other one.
        free: Keys that may differ, wherever they are.

    Returns:
        By dotted key, what each has; the loss first. None where it has nothing.
    """
    now, then = (dict(_settings(parts, free)) for parts in (one, other))
    keys = sorted(dict.fromkeys([*now, *then]), key=lambda key: "loss_cls" not in key)
    return {key: (now.get(key), then.get(key)) for key in keys if now.get(key) != then.get(key)}


def other_than_before(config: Config, checkpoint: dict, resumes: bool) -> list[str]:
    """Where a checkpoint was trained with other settings than a config has.

    What :func:`~.resumed_schedule.warn_of_other_schedule` tells is left out.

    Args:
        config: The config.
        checkpoint: The checkpoint, whose ``meta`` has the text of its training's config.
        resumes: Whether its training goes on; otherwise it is tested.

    Returns:
        A phrase for each difference; none if the checkpoint has no config.

    Raises:
        ValueError: If one of the configs has values that cannot be read from its text.
    """
    text = (checkpoint.get("meta") or {}).get("cfg")
    if not isinstance(text, str) or text == config.pretty_text:
        return []
    now, before = _read(config.pretty_text), _read(text)
    for settings in (now, before):
        while "module" in (settings.get("model") or {}):  # of test-time augmentation
            settings["model"] = settings["model"]["module"]
    parts = set(TRAINING if resumes else ("model",)) & now.keys() & before.keys()
    left_out = _TOLD_OF_RESUME if resumes else _LOSS_IN_TEST
    found = difference(
        {part: before[part] for part in parts},
        {part: now[part] for part in parts},
        FREE | (_FREE_IN_RESUME if resumes else _FREE_IN_TEST),
    )
    # Another class has arguments of its own, which say no more than its name.
    kinds = {key.removesuffix(".type") for key in found if key.endswith(".type")}
    return [
        f"{key} is {was!r}, not {is_!r}"
        for key, (was, is_) in found.items()
        if not left_out.search(key) and not (None in (was, is_) and key.rpartition(".")[0] in kinds)
    ]


def first_of(differences: list[str]) -> str:
    """The first four, and how many there are besides."""
    more = len(differences) - 4
    return "; ".join(differences[:4]) + (f" (and {more} more)" if more > 0 else "")


def _settings(value: Any, free: Set[str], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values in nested dicts and lists, with their dotted keys."""
    if isinstance(value, dict):
        parts = [(key, part) for key, part in value.items() if key not in free]
        if kind := kind_of(value):  # a config may have the class itself, and its dump the path
            parts = [(key, kind if key == "type" else part) for key, part in parts]
    elif isinstance(value, (list, tuple)):
        parts = list(enumerate(value))
    else:
        yield path, value
        return
    for key, part in parts:
        yield from _settings(part, free, f"{path}.{key}" if path else str(key))


def _read(text: str) -> dict[str, Any]:
    """The settings in a config's text. MMEngine would run it, and a checkpoint may be anybody's."""
    try:
        return {
            line.targets[0].id: _value(line.value)
            for line in ast.parse(text).body
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
        }
    except (SyntaxError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from error


def _value(node: ast.expr) -> Any:
    """As :func:`ast.literal_eval`, but MMEngine writes dict(key=value), too."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        pairs = {key: value for part in node.args for key, value in _value(part).items()}
        return pairs | {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        keys = [ast.literal_eval(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_value, node.values), strict=True))
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(part) for part in node.elts]
    return ast.literal_eval(node)
