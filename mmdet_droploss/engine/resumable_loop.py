"""An iteration-based training loop that resumes in seconds and exactly."""

from __future__ import annotations

import bisect
import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.dist import (
    all_gather_object,
    broadcast_object_list,
    get_rank,
    get_world_size,
    is_main_process,
)
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader

from ..utils import write_atomically
from .batches import EndlessBatchSampler, check_has_batches, loader_of
from .random_states import RandomStates, random_states, set_random_states

#: Key of what :meth:`ResumableIterBasedTrainLoop.keep_states` keeps in MMEngine's message hub.
STATES = "resume_states"


class _NotStarted:
    """Stands for a data loader where MMEngine's loop would start to load already."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        return iter(())


@LOOPS.register_module()
class ResumableIterBasedTrainLoop(IterBasedTrainLoop):
    """MMEngine's loop, but resuming draws the indices of the images seen, and loads none of them.

    The next image after a resume is the one that would have come without the stop, whatever the
    batch sampler and the number of workers, if the sampler's sequence follows from its ``seed``, as
    with all of MMEngine, MMDetection and this package. Random transforms are seeded by (seed,
    process, batch, position in it), so they draw the same as well. With
    :class:`ResumableCheckpointHook`, which has :meth:`keep_states` called, the random states come
    back too. A validation leaves them as they were. If a validation was cut off, it is done again
    at the start.

    Args:
        runner: The runner.
        dataloader: The training's data loader, or its config.
        *args: Those of :class:`mmengine.runner.IterBasedTrainLoop`.
        **kwargs: The same.

    Raises:
        TypeError: If the data loader has no batch sampler.
    """

    dataloader: DataLoader

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict, *args: Any, **kwargs: Any
    ) -> None:
        BaseLoop.__init__(self, runner, dataloader)
        loader = self.dataloader
        check_has_batches(loader)
        super().__init__(runner, _NotStarted(loader.dataset), *args, **kwargs)
        self.dataloader = loader
        batch_sampler = cast(BatchSampler, loader.batch_sampler)  # or one of its form
        seed = getattr(batch_sampler.sampler, "seed", None)
        self._runner_seed = runner.seed
        self._before_validation: RandomStates | None = None
        self._batches = EndlessBatchSampler(batch_sampler, runner.seed if seed is None else seed)

    def run(self) -> nn.Module:
        """Train, from the iteration that a checkpoint has set."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        kept = self._kept_states()
        states = self._go_to_next_batch(kept) if self._iter else None
        if self._iter < self._max_iters:
            self.dataloader_iterator = iter(loader_of(self.dataloader, self._batches))
        if states is not None:  # after all other draws of the start
            self._set_states(states)
        is_validated = kept is not None and kept.get("validated", False)
        work_dir = self.runner.work_dir
        if self._iter and not is_validated and self._iter == _unfinished_validation(work_dir):
            self._validate()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if self.validates_after(self._iter):
                self._validate()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def validates_after(self, iteration: int) -> bool:
        """Whether a validation follows this many iterations."""
        if self.runner.val_loop is None or iteration < self.val_begin:
            return False
        step = bisect.bisect(self.dynamic_milestones, iteration + 1)
        is_regular = iteration % self.dynamic_intervals[step - 1] == 0
        return is_regular or iteration == self._max_iters

    def keep_states(self, iteration: int) -> None:
        """Gather what a resume needs of all processes, for the checkpoint that follows.

        To be called in all processes.

        Args:
            iteration: How many iterations are done.
        """
        buffers: list[Any] = [_float_buffers(self.runner.model) if is_main_process() else None]
        broadcast_object_list(buffers)
        own = {
            "random": self._before_validation or random_states(),
            # Those that only this process has, as the category counts of mmdet's Seesaw loss.
            "buffers": {
                name: buffer
                for name, buffer in _float_buffers(self.runner.model).items()
                if not torch.equal(buffer, buffers[0][name])
            },
        }
        states = {
            "iteration": iteration,
            "batch_size": self._batch_size,
            "seed": self._batches.seed,
            # A checkpoint that is written again at the end of the validation after it.
            "validated": self._before_validation is not None,
            "processes": all_gather_object(own),
        }
        self.runner.message_hub.update_info(STATES, states)
        if self.validates_after(iteration) and is_main_process():
            write_atomically(_unfinished_validation_file(self.runner.work_dir), str(iteration))

    @property
    def _batch_size(self) -> int | None:
        return getattr(self.dataloader.batch_sampler, "batch_size", None)

    def _kept_states(self) -> dict | None:
        """What :meth:`keep_states` has put into the checkpoint that the training goes on from."""
        states = self.runner.message_hub.runtime_info.get(STATES)
        return states if states is not None and states["iteration"] == self._iter else None

    def _go_to_next_batch(self, states: dict | None) -> dict | None:
        """Skip what was seen, and return this process's states if they can be set."""
        sampler = self._batches.sampler
        # MMEngine has built the sampler before it read the checkpoint's seed. A seed that is the
        # sampler's own stays.
        if states is not None or getattr(sampler, "seed", None) in (None, self._runner_seed):
            seed = states["seed"] if states is not None else self.runner.seed
            self._batches.seed = seed
            if hasattr(sampler, "seed"):
                sampler.seed = seed
        if getattr(self, "fast_forward_on_resume", False):  # of newer versions of MMEngine
            print_log(
                "fast_forward_on_resume: the training goes on with the first image of the sequence",
                logger="current",
                level=logging.WARNING,
            )
        elif self._iter < self._max_iters:
            start = time.perf_counter()
            self._batches.skip(self._iter)
            print_log(
                f"went to batch {self._iter + 1} in {time.perf_counter() - start:.1f} s, without "
                f"loading those before it",
                logger="current",
            )
        return self._states_of_this_process(states)

    def _states_of_this_process(self, states: dict | None) -> dict | None:
        if states is None:
            print_log(
                f"the checkpoint holds no random states of iteration {self._iter}, so the training "
                f"goes on with other draws than without a stop. default_hooks=dict(checkpoint=dict("
                f"type='ResumableCheckpointHook', ...)) writes checkpoints that hold them",
                logger="current",
                level=logging.WARNING,
            )
            return None
        before = len(states["processes"]), states["batch_size"]
        now = get_world_size(), self._batch_size
        if before != now:
            print_log(
                f"the checkpoint was written by {before[0]} processes with batch_size={before[1]}, "
                f"and now there are {now[0]} with batch_size={now[1]}. Each of them leaves out the "
                f"first {self._iter} batches of its own sequence, so some images come sooner and "
                f"others later than without the stop. Random states are not taken over",
                logger="current",
                level=logging.WARNING,
            )
            return None
        return states["processes"][get_rank()]

    def _set_states(self, states: dict) -> None:
        own = dict(_bare(self.runner.model).named_buffers())
        for name, buffer in states["buffers"].items():
            own[name].copy_(buffer)
        set_random_states(states["random"])

    def _validate(self) -> None:
        """Validate, and leave the random states as they were: a resumed run does not repeat it.

        A checkpoint that is written meanwhile (``save_best``) is to hold these, too.
        """
        self._before_validation = random_states()
        self.runner.val_loop.run()
        set_random_states(self._before_validation)
        self._before_validation = None
        if is_main_process():
            _unfinished_validation_file(self.runner.work_dir).unlink(missing_ok=True)


def _bare(model: nn.Module) -> nn.Module:
    return cast(nn.Module, model.module) if is_model_wrapper(model) else model


def _float_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that a training can change, of those that a checkpoint holds."""
    model = _bare(model)
    kept = model.state_dict().keys()
    return {
        name: buffer.cpu()
        for name, buffer in model.named_buffers()
        if name in kept and buffer.is_floating_point()
    }


def _unfinished_validation_file(work_dir: str) -> Path:
    return Path(work_dir, "unfinished_validation")


def _unfinished_validation(work_dir: str) -> int | None:
    """The iteration of the validation that was cut off, if there is one, in all processes."""
    found: list[int | None] = [None]
    if is_main_process():
        with contextlib.suppress(OSError, ValueError):
            found = [int(_unfinished_validation_file(work_dir).read_text())]
    broadcast_object_list(found)
    return found[0]
