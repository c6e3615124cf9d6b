"""Checkpoints that survive a kill at any moment, and the choice of the one to resume from."""

from __future__ import annotations

import itertools
import os
import os.path as osp
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import get_file_backend, register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from ..utils import open_atomically, write_atomically
from .config_checks import resolved
from .norm_statistics import average_norm_statistics
from .resumable_loop import ResumableIterBasedTrainLoop
from .resumed_schedule import check_resumable, schedulers_of, warn_of_other_schedule
from .work_dir_lock import lock_work_dir, unlock_work_dir


class AtomicLocalBackend(LocalBackend):
    """Local files that are never half-written, not even when the machine goes down."""

    def put(self, obj: bytes | memoryview, filepath: str | os.PathLike) -> None:
        """Write a file beside its place, have it on the disk, and rename it."""
        with open_atomically(filepath) as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())


register_backend("atomic_local", AtomicLocalBackend)

#: What ``open_atomically`` calls the files of this hook and of the loop until they are complete.
_TEMPORARY = r"\.(.+\.pth|last_checkpoint|unfinished_validation|no_checkpoint_yet)\.[a-z0-9_]{8}"
#: Lies in a work dir while all its checkpoints are of an earlier training than the last one there.
_NONE_YET = "no_checkpoint_yet"


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """MMEngine's hook, but nothing is lost if the training is killed at any moment.

    - A checkpoint is written beside its place and renamed, and only then an older one is deleted.
      What a killed process left beside is removed at the next start.
    - A resume without a path takes the newest checkpoint that is whole, and warns of those that are
      not. Where it has another learning rate or schedule than the config, a warning says so. One
      that holds no optimizer or no schedule is refused.
    - Checkpoints of an earlier training in the work dir are not resumed from, once a training has
      begun there without a resume.
    - A work dir is that of one training at a time; a second one is refused.
    - What a validation changes, the best score and ``ReduceOnPlateauLR``, is in the checkpoint that
      was written before it.
    - The statistics of norm layers of all processes are brought together before a checkpoint is
      written and before a validation, so that the model validated is the model saved.
    - With :class:`ResumableIterBasedTrainLoop`, a checkpoint holds the random states of all
      processes.

    Args:
        *args: Those of :class:`mmengine.hooks.CheckpointHook`.
        **kwargs: The same.
    """

    backend_args: dict | None
    last_ckpt: str | None

    def before_run(self, runner: Runner) -> None:
        """Take the work dir, and choose the checkpoint to resume from, before MMEngine loads it.

        Raises:
            RuntimeError: If another training runs in the work dir, or a checkpoint is damaged.
        """
        trains = isinstance(runner._train_loop, BaseLoop)  # for others it is not built
        is_remote = "://" in (runner._load_from or self.out_dir or "")
        chooses = runner._resume and not is_remote
        if not trains and not chooses:
            return
        # Process 0 reads the files, and all do as it does.
        chosen: list = [runner._load_from, None]
        if is_main_process():
            try:
                if trains:
                    _lock(runner)
                if chooses and runner._load_from is None:
                    chosen[0] = self._newest_whole(runner)
                elif chooses:
                    self._check(runner.work_dir, runner._load_from)
            except (RuntimeError, OSError) as error:
                chosen[1] = str(error)
        broadcast_object_list(chosen)
        if chosen[1] is not None:
            raise RuntimeError(chosen[1])
        runner._load_from = chosen[0]

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder of the checkpoints, and what a later resume finds there."""
        folder = self._folder(runner.work_dir)
        if self.backend_args is None and type(get_file_backend(folder)) is LocalBackend:
            self.backend_args = {"backend": "atomic_local"}
            if is_main_process():
                _remove_temporaries({folder, runner.work_dir})
        resumed = runner._load_from if runner._resume else None
        if is_main_process():
            if not runner._resume:
                self._begin_anew(runner)
            elif resumed and osp.isfile(resumed):
                _note_last(runner.work_dir, osp.abspath(resumed))
        super().before_train(runner)
        if resumed and any(isinstance(hook, EarlyStoppingHook) for hook in runner.hooks):
            runner.logger.warning(
                "EarlyStoppingHook keeps its best score and its count of validations in no "
                "checkpoint: it begins anew with this resume, so the training may stop later than "
                "without the interruption"
            )
        if resumed and osp.abspath(osp.dirname(resumed)) == osp.abspath(self.out_dir):
            # MMEngine writes it again after a validation with a new best score only if it knows it.
            self.last_ckpt = resumed

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Say what of the config a resume leaves out; MMEngine loads the states after this.

        Raises:
            RuntimeError: If the checkpoint is none that the training can go on from.
        """
        if runner._resume:
            check_resumable(runner, checkpoint)
            warn_of_other_schedule(runner, checkpoint)

    def after_run(self, runner: Runner) -> None:
        """Give the work dir back."""
        if is_main_process():
            unlock_work_dir(runner.work_dir)

    def before_val_epoch(self, runner: Runner) -> None:
        """Have all processes validate the same model."""
        _average_statistics(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Save the best; write the checkpoint again if the validation has changed the schedule."""
        super().after_val_epoch(runner, metrics)
        step = runner.epoch if self.by_epoch else runner.iter
        if osp.basename(self.last_ckpt or "") != self.filename_tmpl.format(step):
            return  # a resume goes on from before the validation, and does it again
        schedulers = itertools.chain.from_iterable(schedulers_of(runner).values())
        if any(getattr(scheduler, "need_val_args", False) for scheduler in schedulers):
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            self._save_checkpoint_with_step(runner, step, meta)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """In all processes: save, then delete what is too old. MMEngine deletes first."""
        _average_statistics(runner)
        if isinstance(runner.train_loop, ResumableIterBasedTrainLoop):
            runner.train_loop.keep_states(meta["iter"])
        outdated = []
        if self.max_keep_ckpts > 0:
            ids = list(self.keep_ckpt_ids)
            if step not in ids[-1:]:
                ids.append(step)
            # The checkpoint names what is deleted after it is written: if that does not happen, a
            # resume does it.
            runner.message_hub.update_info("keep_ckpt_ids", ids)
            outdated, ids = ids[: -self.max_keep_ckpts], ids[-self.max_keep_ckpts :]
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(ids)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            _note_last(runner.work_dir, self.last_ckpt)
            for old in outdated:
                path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
                if self.file_backend.isfile(path):
                    self.file_backend.remove(path)

    def in_order(self, work_dir: str) -> list[str]:
        """The checkpoints of the last training in a work dir that has any, the newest first.

        Args:
            work_dir: The work dir; the checkpoints are there, or in the hook's ``out_dir``.
        """
        folder = self._folder(work_dir)
        pattern = re.compile(re.escape(self.filename_tmpl).replace(r"\{\}", r"(\d+)"))
        steps = {}
        for name in os.listdir(folder) if osp.isdir(folder) else []:
            if match := pattern.fullmatch(name):
                steps[osp.join(folder, name)] = int(match[1])
        paths = sorted(steps, key=steps.__getitem__, reverse=True)
        last = _read(osp.join(work_dir, "last_checkpoint"))
        if last:  # files with higher numbers are of an earlier training in the same folder
            if not osp.isfile(last):  # the folder was moved
                last = osp.join(folder, osp.basename(last))
            match = pattern.fullmatch(osp.basename(last))
            step = int(match[1]) if match else float("inf")
            paths = [last, *(path for path in paths if steps[path] < step)]
        return paths

    def _folder(self, work_dir: str) -> str:
        """Where the checkpoints are; MMEngine finds out in ``before_train`` only."""
        if self.out_dir is None or self.out_dir == work_dir:
            return work_dir
        return osp.join(self.out_dir, osp.basename(work_dir.rstrip(osp.sep)))

    def _begin_anew(self, runner: Runner) -> None:
        """Have a later resume not go on from an earlier training's checkpoints in the work dir."""
        earlier = [path for path in self.in_order(runner.work_dir) if osp.isfile(path)]
        if earlier:
            write_atomically(osp.join(runner.work_dir, _NONE_YET), "")
            runner.logger.warning(
                f"{runner.work_dir} has checkpoints of an earlier training, the newest "
                f"{earlier[0]}. This one begins with iteration 1 and overwrites those whose names "
                f"it comes to; --resume goes on from them no more. To go on from the newest: "
                f"--resume {earlier[0]}; to keep them, another --work-dir"
            )
        for name in ("last_checkpoint", "unfinished_validation"):
            Path(runner.work_dir, name).unlink(missing_ok=True)

    def _newest_whole(self, runner: Runner) -> str | None:
        """The newest checkpoint that is not damaged; None if there is no checkpoint at all."""
        paths = self.in_order(runner.work_dir)
        if paths and osp.exists(osp.join(runner.work_dir, _NONE_YET)):
            runner.logger.warning(
                f"the last training in {runner.work_dir} has ended before its first checkpoint, so "
                f"this one begins with iteration 1. The checkpoints there are of an earlier "
                f"training; to go on from one of them, name it: --resume {paths[0]}"
            )
            return None
        reasons: list[str] = []
        for path in paths:
            reason = damage(path)
            if reason is None:
                if reasons:
                    runner.logger.warning(f"{'; '.join(reasons)}. The training goes on from {path}")
                return path
            reasons.append(f"{path} is damaged ({reason})")
        if reasons:
            raise RuntimeError(
                f"cannot resume: {'; '.join(reasons)}, and there is no other checkpoint. Without "
                f"--resume, the training starts from the beginning"
            )
        return None

    def _check(self, work_dir: str, path: str) -> None:
        """Refuse a checkpoint that is damaged, and name the newest that is not."""
        if not osp.isfile(path) or (reason := damage(path)) is None:
            return
        others = [
            other
            for other in self.in_order(work_dir)
            if not (osp.exists(other) and osp.samefile(other, path)) and damage(other) is None
        ]
        remedy = f"The newest whole one is {others[0]}" if others else "There is no other one"
        raise RuntimeError(f"cannot resume: {path} is damaged ({reason}). {remedy}")


def has_checkpoint(cfg: Config) -> bool:
    """Whether a training of this config that resumes without a path would find a checkpoint.

    Args:
        cfg: The config, with its work dir.
    """
    hook = dict((cfg.get("default_hooks") or {}).get("checkpoint") or {})
    hook.pop("priority", None)
    cls = resolved(HOOKS, hook.pop("type", None))
    if not (isinstance(cls, type) and issubclass(cls, ResumableCheckpointHook)):
        return osp.isfile(osp.join(cfg.work_dir, "last_checkpoint"))  # all that MMEngine reads
    if osp.exists(osp.join(cfg.work_dir, _NONE_YET)):
        return False
    return bool(cls(**hook).in_order(osp.abspath(cfg.work_dir)))


def damage(path: str) -> str | None:
    """What is wrong with a checkpoint file; None if it is whole.

    torch.load notices a file that is cut off, but not one with other bytes. Here the file's own
    checksums are compared.
    """
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"\x80\x02":  # as torch wrote before 1.6, without checksums
                return None
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
        return None if part is None else f"the checksum of {part} in it is wrong"
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        return str(error)


def _average_statistics(runner: Runner) -> None:
    averaged = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
    average_norm_statistics([runner.model, *averaged])


def _lock(runner: Runner) -> None:
    reason = lock_work_dir(runner.work_dir)
    if reason is not None:
        runner.logger.warning(
            f"{runner.work_dir} cannot be locked ({reason}): see to it that no second training "
            f"is started there, since the two would overwrite each other's checkpoints"
        )


def _note_last(work_dir: str, path: str) -> None:
    """Have a resume go on from this checkpoint."""
    write_atomically(osp.join(work_dir, "last_checkpoint"), path)
    Path(work_dir, _NONE_YET).unlink(missing_ok=True)


def _read(path: str) -> str:
    if not osp.isfile(path):
        return ""
    with open(path) as file:
        return file.read().strip()


def _remove_temporaries(folders: Iterable[str]) -> None:
    """Remove what a killed process left where ``open_atomically`` writes."""
    for folder in folders:
        for name in os.listdir(folder) if osp.isdir(folder) else []:
            if re.fullmatch(_TEMPORARY, name):
                os.unlink(osp.join(folder, name))
