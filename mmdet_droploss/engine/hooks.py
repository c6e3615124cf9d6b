"""Hooks."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class CheckpointShapeHook(Hook):
    """Refuse to test or resume from a checkpoint of another number of classes, or another model.

    MMEngine logs a warning about parameters that are missing or whose shapes differ, and goes on
    with random ones. That is right for fine-tuning (``load_from``), where a new classifier is
    wanted, and only there.

    Args:
        allow_missing: Whether a checkpoint may lack parameters of the model.
    """

    def __init__(self, allow_missing: bool = False) -> None:
        self.allow_missing = allow_missing
        self._differences: list[str] = []
        self._missing: list[str] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names and shapes."""
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        own = model.state_dict()
        saved = {  # MMEngine leaves out this prefix, too
            name.removeprefix("module."): value
            for name, value in checkpoint.get("state_dict", checkpoint).items()
        }
        self._differences = [
            f"{name} is {tuple(value.shape)} in the checkpoint and {tuple(own[name].shape)} in "
            f"the model"
            for name, value in saved.items()
            if name in own and hasattr(value, "shape") and value.shape != own[name].shape
        ]
        self._missing = [name for name, _ in model.named_parameters() if name not in saved]

    def before_train(self, runner: Runner) -> None:
        """Check a run that resumes; fine-tuning may replace the classifier."""
        if runner.cfg.get("resume", False):
            self._check("resume from")

    def before_test(self, runner: Runner) -> None:
        """Check a test."""
        self._check("test")

    def _check(self, action: str) -> None:
        if self._differences:
            raise ValueError(
                f"cannot {action} this checkpoint: it was trained with another number of classes "
                f"or another kind of loss than the config says: {first_of(self._differences)}"
            )
        if self._missing and not self.allow_missing:
            raise ValueError(
                f"cannot {action} this checkpoint: it is of another model than the config's, which "
                f"would keep random values for what it lacks: {first_of(self._missing)}. "
                f"CheckpointShapeHook(allow_missing=True) takes it all the same"
            )


def first_of(items: list[str]) -> str:
    """The first four, and how many there are besides."""
    more = len(items) - 4
    return "; ".join(items[:4]) + (f" (and {more} more)" if more > 0 else "")
