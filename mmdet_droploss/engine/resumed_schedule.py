"""The learning rate and the schedule of a training that is resumed: the checkpoint's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler
from mmengine.runner import Runner

from ..models.losses.arguments import accepted_arguments
from .settings_difference import first_of


def schedulers_of(runner: Runner) -> dict[str, list[_ParamScheduler]]:
    """The built schedulers by their optimizer's name, which is empty if there is only one."""
    return _by_name(runner.param_schedulers)


def check_resumable(runner: Runner, checkpoint: dict) -> None:
    """Refuse a checkpoint that a training cannot go on from.

    MMEngine goes on without the optimizer's and the schedulers' states if there are none. The
    learning rate then is what a warm-up has left at its first step, a thousandth, and stays it.

    Args:
        runner: A runner that has built its training.
        checkpoint: What it resumes from.

    Raises:
        RuntimeError: If the checkpoint lacks something, or its optimizer is of another kind.
    """
    if not isinstance(runner.optim_wrapper, OptimWrapper):  # it does not train
        return
    path = runner._load_from or "the checkpoint"
    instead = f"To start a new training from its weights: load_from={path}, without resume"
    wanted = ["meta", "message_hub", "optimizer"]
    if any(schedulers_of(runner).values()):
        wanted.append("param_schedulers")
    lacking = [key for key in wanted if key not in checkpoint]
    lacking += [f"meta.{key}" for key in ("epoch", "iter") if key not in checkpoint.get("meta", {})]
    if lacking:
        raise RuntimeError(
            f"cannot resume: {path} has no {', no '.join(lacking)}, so a training cannot go on "
            f"from it. {instead}. To be able to resume, a training needs save_optimizer=True and "
            f"save_param_scheduler=True, the checkpoint hook's defaults; best_*.pth and published "
            f"files are weights only"
        )
    for name, now, before in _groups(runner, checkpoint):
        keys, saved = ({key for key in group if key[:8] != "initial_"} for group in (now, before))
        # Another version of torch has some more or some less, never both.
        if keys - saved and saved - keys:
            raise RuntimeError(
                f"cannot resume: the optimizer in {path} is of another kind than optim_wrapper"
                f"{'.' * bool(name)}{name}: it has {', '.join(sorted(saved - keys))}, but not "
                f"{', '.join(sorted(keys - saved))}. Take the optimizer that it was trained with. "
                f"{instead}"
            )


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


def _groups(runner: Runner, checkpoint: dict) -> Iterator[tuple[str, dict, dict]]:
    """The optimizer's name, which is empty if there is only one; its group now; the same before."""
    wrapper, saved = runner.optim_wrapper, checkpoint["optimizer"]
    if not isinstance(wrapper, OptimWrapperDict):
        wrapper, saved = {"": wrapper}, {"": saved}
    for name, one in wrapper.items():
        groups = saved.get(name, {}).get("param_groups", [])
        for now, before in zip(one.optimizer.param_groups, groups, strict=False):
            yield name, now, before


def _of_optimizers(runner: Runner, checkpoint: dict) -> Iterator[str]:
    for name, now, before in _groups(runner, checkpoint):
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
