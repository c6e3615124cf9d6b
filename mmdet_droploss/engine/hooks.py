"""Hooks."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class CheckpointShapeHook(Hook):
    """Refuse to test or resume from a checkpoint of another number of classes.

    MMEngine logs a warning about parameters whose shapes differ and goes on with random ones. That
    is right for fine-tuning (``load_from``), where a new classifier is wanted, and only there.
    """

    def __init__(self) -> None:
        self._differences: list[str] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the shapes."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        own = model.state_dict()
        self._differences = [
            f"{name} is {tuple(value.shape)} in the checkpoint and {tuple(own[name].shape)} in "
            f"the model"
            for name, value in checkpoint.get("state_dict", checkpoint).items()
            if name in own and hasattr(value, "shape") and value.shape != own[name].shape
        ]

    def before_train(self, runner: Runner) -> None:
        """Check a run that resumes; fine-tuning may replace the classifier."""
        if runner.cfg.get("resume", False):
            self._check("resume from")

    def before_test(self, runner: Runner) -> None:
        """Check a test."""
        self._check("test")

    def _check(self, action: str) -> None:
        if self._differences:
            shown = "; ".join(self._differences[:4])
            more = len(self._differences) - 4
            raise ValueError(
                f"cannot {action} this checkpoint: it was trained with another number of classes "
                f"or another kind of loss than the config says: {shown}"
                f"{f' (and {more} more)' if more > 0 else ''}"
            )
