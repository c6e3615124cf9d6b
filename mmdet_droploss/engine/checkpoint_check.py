"""Compares a checkpoint with the model and the settings of the run that takes it."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from .settings_difference import first_of, other_than_before


@HOOKS.register_module()
class CheckpointShapeHook(Hook):
    """Refuse to test or resume from a checkpoint of another number of classes, or another model.

    MMEngine logs a warning about parameters that are missing or whose shapes differ, and goes on
    with random ones. That is right for fine-tuning (``load_from``), where a new classifier is
    wanted, and only there.

    Where shapes agree but the checkpoint's training had another model, or, in a resume, other data
    or another optimizer, a warning names the settings.

    Args:
        allow_missing: Whether a checkpoint may lack parameters of the model.
    """

    def __init__(self, allow_missing: bool = False) -> None:
        self.allow_missing = allow_missing
        self._differences: list[str] = []
        self._missing: list[str] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names and shapes, and the settings with those that the checkpoint holds."""
        _warn_of_other_settings(runner, checkpoint)
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
        if runner._resume:
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


def _warn_of_other_settings(runner: Runner, checkpoint: dict) -> None:
    if not runner._resume and isinstance(runner._train_loop, BaseLoop):
        return  # fine-tuning
    path = runner._load_from or "the checkpoint"
    try:
        differences = other_than_before(runner.cfg, checkpoint, resumes=runner._resume)
    except ValueError as error:
        runner.logger.info(f"the settings that {path} was trained with are not compared: {error}")
        return
    if differences:
        runner.logger.warning(
            f"{path} was trained with other settings than the config has, and the config's are "
            f"taken: {first_of(differences)}. If that is not meant, take the config that it was "
            f"trained with, or that one's checkpoint"
        )
