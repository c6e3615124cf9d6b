"""The learning rate and the schedule of a training that is resumed: the checkpoint's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler
from mmengine.runner import Runner

from ..models.losses.arguments import accepted_arguments
from .hooks import first_of


def schedulers_of(runner: Runner) -> dict[str, list[_ParamScheduler]]:
    """The built schedulers by their optimizer's name, which is empty if there is only one."""
    return _by_name(runner.param_schedulers)


def warn_of_other_schedule(runner: Runner, checkpoint: dict) -> None:
    """Say where a checkpoint has another learning rate or schedule than the config.

    MMEngine builds both from the config, has ``auto_scale_lr`` say that it scales the learning
    rate, and then puts the checkpoint's in their place without a word.

    Args:
        runner: A runner that has built its training, and has not loaded the checkpoint's states.
        checkpoint: What it resumes from.
    """
    if not isinstance(runner.optim_wrapper, OptimWrapper):  # it does not train
        return
    differences = list(
        dict.fromkeys((*_of_optimizers(runner, checkpoint), *_of_schedulers(runner, checkpoint)))
    )
    if not differences:
        return
    is_scaled = (runner.auto_scale_lr or {}).get("enable", False)
    path = runner._load_from or "the checkpoint"
    runner.logger.warning(
        f"{path} holds another learning rate or schedule than the config, and the checkpoint's "
        f"goes on: {first_of(differences)}. "
        + ("auto_scale_lr, logged above, scales nothing in a resume. " if is_scaled else "")
        + f"To train with the config's, start a new training from these weights, which begins "
        f"with iteration 1: without resume, with load_from={path} and another work_dir"
    )


def _by_name(one_or_more: Any) -> dict[str, Any]:
    return one_or_more if isinstance(one_or_more, dict) else {"": one_or_more or []}


def _of_optimizers(runner: Runner, checkpoint: dict) -> Iterator[str]:
    if "optimizer" not in checkpoint:
        return
    wrapper, saved = runner.optim_wrapper, checkpoint["optimizer"]
    if not isinstance(wrapper, OptimWrapperDict):
        wrapper, saved = {"": wrapper}, {"": saved}
    for name, one in wrapper.items():
        groups = saved.get(name, {}).get("param_groups", [])
        for now, before in zip(one.optimizer.param_groups, groups, strict=False):
            common = now.keys() & before.keys() - {"params"}
            # What is scheduled has another value by now; where it began is kept beside it.
            moving = {key.removeprefix("initial_") for key in common if key.startswith("initial_")}
            if "momentum" in moving:
                moving.add("betas")
            for key in sorted(common - moving):
                if now[key] != before[key]:
                    yield f"{name}{'.' * bool(name)}{key} is {before[key]}, not {now[key]}"


def _of_schedulers(runner: Runner, checkpoint: dict) -> Iterator[str]:
    saved = _by_name(checkpoint.get("param_schedulers"))
    for name, schedulers in schedulers_of(runner).items():
        path = f"param_scheduler{'.' * bool(name)}{name}"
        states = saved.get(name, [])
        if len(states) != len(schedulers):
            yield (
                f"{path} has {len(states)} schedulers, not {len(schedulers)}, and the config's "
                f"further ones begin now"
                if len(states) < len(schedulers)
                else f"{path} has {len(states)} schedulers, not {len(schedulers)}, and the "
                f"checkpoint's further ones end now"
            )
        for i, (scheduler, before) in enumerate(zip(schedulers, states, strict=False)):
            where = f"{path}.{i} ({type(scheduler).__name__})"
            now = scheduler.state_dict()
            if {key for key in now.keys() ^ before.keys() if not key.startswith("_")}:
                yield f"{where} is of another kind, so it goes on as neither of them"
                continue
            settings = accepted_arguments(type(scheduler)) or set()
            for key in sorted(settings & now.keys() - {"last_step", "verbose"}):
                if now[key] != before[key]:
                    yield f"{where}: {key} is {_short(before[key])}, not {_short(now[key])}"


def _short(value: Any) -> Any:
    """Milestones as a config has them."""
    return sorted(value.elements()) if isinstance(value, Counter) else value
