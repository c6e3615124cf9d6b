"""Kill a training at random moments, resume it, and compare the end with that of a whole run.

    python tests/kill_and_resume.py --kills 20 --processes 1 2

The training is a small one of tools/train.py, on one or two CPU processes, with random transforms
and a data loader worker. kill -9 goes to all its processes at once, as when a machine goes down:
while it starts, in an iteration, while a checkpoint is written, and in a validation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from scripts import load_script
from small_run import CONFIG, changes, descendants, free_port, make_data, steps_in

import mmdet_droploss  # noqa: F401  (imported once, here: the trainings are forks of this process)
from mmdet_droploss.engine.checkpoint_hook import damage

FORK = multiprocessing.get_context("fork")
MOMENTS = ("start", "iteration", "writing", "validation")
PIPELINE = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomChoiceResize", scales=[(80, 80), (96, 96)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]


@dataclass
class Kill:
    """One kill: when it was meant to be, and what it hit."""

    moment: str
    iterations: int
    left_temporary: bool
    left_validation: bool


def settings(data: Path, iterations: int) -> dict:
    """The changes to the small config."""
    return {
        **changes(data, iterations),
        "randomness.seed": 3,
        "train_cfg.val_interval": 8,
        "default_hooks.checkpoint.interval": 1,
        "default_hooks.checkpoint.max_keep_ckpts": 1,
        "train_dataloader.num_workers": 1,
        "train_dataloader.persistent_workers": True,
        "train_dataloader.dataset.pipeline": PIPELINE,
        "train_dataloader.batch_sampler.type": "AspectRatioBatchSampler",
        "optim_wrapper.optimizer": dict(type="SGD", lr=0.005, momentum=0.9, _delete_=True),
    }


def train(rank: int, processes: int, port: int, log: Path, arguments: list[str]):
    """A process of a training; a fork of the one that starts it."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    ranks = dict(RANK=rank, WORLD_SIZE=processes, LOCAL_RANK=rank, MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in ranks.items()}, MASTER_ADDR="127.0.0.1")
    load_script("tools/train.py").main(arguments)


class Training:
    """A training under way, its processes and what it has done."""

    def __init__(self, work_dir: Path, config: Path, processes: int) -> None:
        self.work_dir, self.log = work_dir, work_dir.parent / f"{work_dir.name}.log"
        self.before = len(steps_in(self._read()))
        arguments = [str(config), "--work-dir", str(work_dir), "--resume"]
        if processes > 1:
            arguments += ["--launcher", "pytorch"]
        port = free_port()
        self.processes = [
            FORK.Process(target=train, args=(rank, processes, port, self.log, arguments))
            for rank in range(processes)
        ]
        for process in self.processes:
            process.start()

    def new_iterations(self) -> int:
        return len(steps_in(self._read())) - self.before

    def ended(self) -> bool:
        codes = [process.exitcode for process in self.processes]
        if any(code not in (None, 0) for code in codes):
            self.kill()
            raise RuntimeError(f"exit codes {codes}:\n{self.tail()}")
        return all(code == 0 for code in codes)

    def kill(self) -> None:
        own = [process.pid for process in self.processes]
        workers = [worker for pid in own for worker in descendants(pid)]
        for pid in own + workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.join()

    def logged(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def tail(self) -> str:
        return self._read()[-4000:]

    def temporary(self) -> bool:
        return any(self.work_dir.glob(".*.pth.*"))

    def validation(self) -> bool:
        return (self.work_dir / "unfinished_validation").exists()

    def _read(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def wait(training: Training, condition: Callable[[], bool], seconds: float = 300) -> bool:
    """Wait for a condition; whether it came before the training's end.

    Raises:
        RuntimeError: If the training fails, or logs nothing for some seconds.
    """
    logged, end = 0, time.monotonic() + seconds
    while not condition():
        if training.ended():
            return False
        if training.logged() != logged:
            logged, end = training.logged(), time.monotonic() + seconds
        if time.monotonic() > end:
            training.kill()
            raise RuntimeError(f"the training hangs; the end of {training.log}:\n{training.tail()}")
        time.sleep(0.002)
    return True


def kill_at(training: Training, moment: str, draw: random.Random, startup: float) -> Kill | None:
    """Kill a training at a moment of a kind; None if it has ended before."""
    if moment == "start":
        end = time.monotonic() + draw.uniform(0.05, 1) * startup
        came = wait(training, lambda: time.monotonic() > end)
    else:
        first = draw.choice((1, 2))
        came = wait(training, lambda: training.new_iterations() >= first)
        if came and moment != "iteration":
            sign = training.temporary if moment == "writing" else training.validation
            came = wait(training, sign)
        if came:
            time.sleep(draw.uniform(0, 0.02 if moment == "writing" else 0.3))
    if not came:
        return None
    training.kill()
    return Kill(moment, training.new_iterations(), training.temporary(), training.validation())


def last_metrics(work_dir: Path) -> dict:
    """The numbers of the last validation that any of the runs has logged."""
    lines = []
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        lines += [json.loads(line) for line in file.read_text().splitlines()]
    found = [line for line in lines if any("AP" in key for key in line)]
    return {key: value for key, value in found[-1].items() if "AP" in key}


def differences(one: dict, other: dict, name: str = "") -> list[str]:
    """Where two nested contents of checkpoints are not equal to the bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [name]
    if isinstance(one, dict):
        keys = [name] if one.keys() != other.keys() else []
        return keys + [
            d for k in one if k in other for d in differences(one[k], other[k], f"{name}.{k}")
        ]
    if isinstance(one, (list, tuple)):
        return [
            d
            for i, (a, b) in enumerate(zip(one, other, strict=True))
            for d in differences(a, b, f"{name}.{i}")
        ]
    return [] if one == other else [name]


def kill_and_resume(
    data: Path, folder: Path, processes: int, kills: int, iterations: int, seed: int = 0
) -> list[Kill]:
    """Train without and with kills, and compare.

    Raises:
        AssertionError: If the ends differ in a bit, or a file is damaged or left over.
    """
    config = folder / "small.py"
    if not config.exists():
        cfg = Config.fromfile(CONFIG)
        cfg.merge_from_dict(settings(data, iterations))
        cfg.dump(config)
    start = time.monotonic()
    whole = Training(folder / f"whole{processes}", config, processes)
    wait(whole, lambda: whole.new_iterations() > 0)
    startup = time.monotonic() - start
    wait(whole, lambda: False)

    draw, done, stopped = random.Random(seed), [], folder / f"stopped{processes}"
    moments = [MOMENTS[number % len(MOMENTS)] for number in range(kills)]
    draw.shuffle(moments)
    for moment in moments:
        kill = kill_at(Training(stopped, config, processes), moment, draw, startup)
        if kill is None:
            break
        done.append(kill)
        for file in stopped.glob("*.pth"):
            assert damage(str(file)) is None, f"{file} is damaged after {kill}"
    last = Training(stopped, config, processes)
    wait(last, lambda: False)

    ends = [
        torch.load(f / f"iter_{iterations}.pth", weights_only=False)
        for f in (whole.work_dir, stopped)
    ]
    for key in ("state_dict", "optimizer", "param_schedulers"):
        assert not (found := differences(ends[0][key], ends[1][key])), found[:5]
    assert last_metrics(whole.work_dir) == last_metrics(stopped)
    left = [file.name for file in stopped.iterdir() if file.is_file()]
    assert sorted(left) == sorted(["last_checkpoint", config.name, f"iter_{iterations}.pth"]), left
    return done


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--iterations", type=int, help="default: 4 a kill")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for processes in args.processes:
        with tempfile.TemporaryDirectory() as folder:
            kills = kill_and_resume(
                make_data(Path(folder, "data")),
                Path(folder),
                processes,
                args.kills,
                args.iterations or 4 * args.kills,
                args.seed,
            )
        print(f"{processes} process(es), {len(kills)} kills, equal to the bit:")
        for kill in kills:
            print(f"  {kill}")
        if len(kills) < args.kills:
            sys.exit("the training ended before the last kill: give it more --iterations")


if __name__ == "__main__":
    main()
