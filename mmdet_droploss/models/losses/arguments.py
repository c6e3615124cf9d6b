"""What a loss in a config is given, against what it takes."""

from __future__ import annotations

import inspect

from mmdet.registry import MODELS
from torch import nn

#: The losses of this package that take the image counts.
TAKE_CLASS_FREQ = ("DropLoss", "EQL", "BEQL", "FixedDropLoss", "SigmoidBCELoss", "FederatedLoss")


def accepted_arguments(cls: type) -> set[str] | None:
    """The names that a class can be built with; None if it takes any.

    Args:
        cls: The class. Where its constructor has ``**kwargs``, those of the next class count, too.
    """
    names: set[str] = set()
    passes_on = False
    for owner in cls.__mro__:
        if owner in (nn.Module, object):
            return None if passes_on else names
        if "__init__" not in vars(owner):
            continue
        parameters = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if not passes_on:
            return names
    return names


def check_loss_arguments(loss: object, where: str = "loss_cls") -> None:
    """Refuse arguments that a loss does not have; MMEngine merges them with a base config's.

    Args:
        loss: The dict of a config; anything else is left to MMEngine.
        where: What the config calls it.

    Raises:
        TypeError: With what the loss takes, and the line to change.
    """
    if not isinstance(loss, dict) or "type" not in loss:
        return
    cls = MODELS.get(loss["type"]) if isinstance(loss["type"], str) else loss["type"]
    accepted = accepted_arguments(cls) if inspect.isclass(cls) else None
    if accepted is None:
        return
    unknown = [name for name in loss if name not in accepted | {"type", "_scope_"}]
    if not unknown:
        return
    key = where.rsplit(".", 1)[-1]
    takers = f"; class_freq is for {', '.join(TAKE_CLASS_FREQ)}" if "class_freq" in unknown else ""
    raise TypeError(
        f"{where}: {cls.__name__} takes no {', '.join(unknown)}. Leave that out, or replace the "
        f"loss as a whole: {key}=dict(_delete_=True, type=..., ...), because a dict is merged with "
        f"its base config's. It takes {', '.join(sorted(accepted)) or 'nothing'}{takers}"
    )
