"""Which loss a method is, with which parameter: from its config, else from its name."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from mmengine.config import Config

from ..engine.config_checks import kind_of
from .runs import Method
from .training_config import loss_config

#: The parameter of the losses that have one to tune, in Figures 2 and 3.
PARAMETERS = {"BEQL": "log_base", "FixedDropLoss": "drop_ratio"}
#: What a name tells of the loss, where there is no config; the first that fits.
_NAMES = (
    (r"beql|background equali[sz]ation", "BEQL"),
    (r"fixed", "FixedDropLoss"),
    (r"drop ?loss", "DropLoss"),
    (r"eql ?v2", "EQLV2BBoxLoss"),
    (r"eql|equali[sz]ation", "EQL"),
    (r"softmax", "CrossEntropyLoss"),
    (r"bce|sigmoid", "SigmoidBCELoss"),
)


@dataclass(frozen=True)
class Setting:
    """What distinguishes a method's training.

    Args:
        loss: The registered name of its classification loss; ``'unknown'`` if nothing tells.
        parameter: The base of BEQL's logarithm, or the fixed drop ratio; None of other losses.
        rfs: Whether images are repeated by the frequency of their categories.
        cascade: Whether the detector is a cascade; None if there is no config.
        depth: Of the backbone; None if there is no config, or it has none.
    """

    loss: str
    parameter: float | None = None
    rfs: bool = False
    cascade: bool | None = None
    depth: int | None = None

    @property
    def parameter_text(self) -> str:
        """For a label beside a point."""
        if self.parameter is None:
            return ""
        return f"{'b = ' if self.loss == 'BEQL' else ''}{self.parameter:g}"


def setting_of(method: Method) -> Setting:
    """The setting of a method: of the first of its runs that has a config, else by its name."""
    for run in method.runs:
        if run.config is not None and loss_config(run.config):
            return from_config(run.config)
    return from_name(method.name)


def from_config(config: Config) -> Setting:
    """Read the config of a training."""
    loss = loss_config(config)
    name = kind_of(loss) or "unknown"
    if name == "CrossEntropyLoss" and loss.get("use_sigmoid"):
        name = "SigmoidBCELoss"
    model = config.get("model") or {}
    return Setting(
        name,
        parameter_of(name, loss),
        repeats_images(config.get("train_dataloader") or {}),
        "Cascade" in kind_of(model.get("roi_head") or {}),
        (model.get("backbone") or {}).get("depth"),
    )


def parameter_of(name: str, loss: dict) -> float | None:
    """The parameter of a loss's entry; the loss's own default where the entry has none."""
    if name not in PARAMETERS:
        return None
    key = PARAMETERS[name]
    if key not in loss:
        from ..models import losses  # slow to import, and most configs name their parameter

        return float(inspect.signature(getattr(losses, name)).parameters[key].default)
    return float(loss[key])


def repeats_images(dataloader: dict) -> bool:
    """Whether a data loader does repeat factor sampling, by its sampler or by its data set."""
    sampler, dataset = (kind_of(dataloader.get(part) or {}) for part in ("sampler", "dataset"))
    return "RepeatFactor" in sampler or dataset == "ClassBalancedDataset"


def from_name(name: str) -> Setting:
    """Read what a user calls a method, such as "BEQL, b = 4" or "fixed drop 0.5 + RFS"."""
    text = re.sub(r"(?<!\de)-", " ", name.lower().replace("_", " "))  # but 1e-3 stays as it is
    loss = next((loss for pattern, loss in _NAMES if re.search(pattern, text)), "unknown")
    parameter = None
    if loss in PARAMETERS:
        symbol = r"(?<![a-z])b(?:ase)?" if loss == "BEQL" else r"(?:fixed|ratio|drop)[a-z ]*"
        found = re.search(symbol + r"[\s=,:(]*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
        parameter = float(found[1]) if found else None
    rfs = re.search(r"\brfs\b|repeat factor", text) is not None
    return Setting(loss, parameter, rfs)
