"""Train on mini-LVIS with sigmoid BCE and with DropLoss, test both, and write a report.

Makes mini-LVIS, a small data set with LVIS's long tail and its gaps in the annotation; trains Mask
R-CNN on it with sigmoid BCE and with DropLoss; tests both, and writes a report that compares them:

  work_dirs/quickstart/report.html

Nearly all of its time goes into the two trainings, whose log says what remains. Before, if it is
missing, quickstart.sh sets the environment up. GPUs are used if there are any. It can be stopped
at any time with Ctrl-C; the same command goes on where it was.

Another --seed, --iterations and so on, or an edited config, need another --work-dir: what is there
is never mixed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
NUM_STEPS = 7
CONFIGS = {
    "sigmoid": "configs/mini_lvis/mask_rcnn_r18_fpn_sigmoid_mini_lvis.py",
    "droploss": "configs/mini_lvis/mask_rcnn_r18_fpn_droploss_mini_lvis.py",
}
TITLES = {"sigmoid": "sigmoid BCE", "droploss": "DropLoss"}


def say(text: str) -> None:
    """Print a line under the script's name."""
    print(f"quickstart: {text}", flush=True)


def die(*lines: str) -> NoReturn:
    """End with lines under the script's name."""
    for line in lines:
        print(f"quickstart: {line}", file=sys.stderr)
    sys.exit(1)


def clock(seconds: float) -> str:
    """Minutes:seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def run(*command: object) -> None:
    """Run a program to its end; if it fails, this ends with its exit code."""
    process = subprocess.Popen([str(part) for part in command])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        # Ctrl-C has reached it as well; let it end by itself.
        process.terminate()
        process.wait(timeout=30)
        raise
    if code:
        sys.exit(code)


# ---- options -------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, under the program's name."""

    def error(self, message: str) -> NoReturn:
        """End with the message."""
        message = message.removeprefix("argument ").replace(": must be", " must be")
        message = message.replace(": expected one argument", " needs a value")
        die(message.replace("unrecognized arguments: ", "unknown option ") + " (see --help)")


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an option that is a number from ``least`` on."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise argparse.ArgumentTypeError(f"must be a whole number, but it is {text!r}")
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, but it is {text}")
        return int(text)

    return parse


def number_of_processes(text: str) -> int:
    """An option's value: 1, 2, 4 or 8."""
    if text not in ("1", "2", "4", "8"):
        raise argparse.ArgumentTypeError(f"must be 1, 2, 4 or 8, but it is {text!r}")
    return int(text)


def folder(text: str) -> Path:
    """As the caller means it; shorter in the report where it is in the repository."""
    path = Path(text).absolute()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def folder_of_data(text: str) -> Path:
    """A folder that ``--cfg-options`` does not split: it takes what has a comma for a list."""
    path = folder(text)
    if "," in str(path):
        raise argparse.ArgumentTypeError(
            f"must be a folder without a comma in its path, but it is {str(path)!r}"
        )
    return path


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(
        prog="bash tools/quickstart.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="seed of both trainings (0)"
    )
    parser.add_argument(
        "--work-dir",
        type=folder,
        default=Path("work_dirs/quickstart"),
        metavar="DIR",
        help="where everything but the data goes (work_dirs/quickstart)",
    )
    parser.add_argument(
        "--data",
        type=folder_of_data,
        default=Path("data/mini_lvis"),
        metavar="DIR",
        help="where mini-LVIS is or is to be made (data/mini_lvis)",
    )
    parser.add_argument(
        "--processes",
        type=number_of_processes,
        default=2,
        metavar="N",
        help="processes to train and test with: 1, 2, 4 or 8 (2); an iteration has 8 images always",
    )
    for name, default, text in (
        ("--iterations", 1600, "length of each training (1600); the schedule scales with it"),
        ("--images", 2000, "training images to make (2000)"),
        ("--val-images", 400, "validation images to make (400)"),
    ):
        parser.add_argument(name, type=whole_number(1), default=default, metavar="N", help=text)
    parser.add_argument("--check-options", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def digest_of_configs() -> str:
    """A digest of both configs with all that they inherit."""
    from mmengine.config import Config

    from mmdet_droploss.analysis.study import digest_of

    files = [ROOT / file for file in CONFIGS.values()]
    return digest_of([Config.fromfile(f, import_custom_modules=False).to_dict() for f in files])


# ---- the run -------------------------------------------------------------------------------------


class Quickstart:
    """One call: its options, and how far it has come."""

    def __init__(self, args: argparse.Namespace, command_line: str):
        self.args = args
        self.command_line = command_line
        self.work, self.data = args.work_dir, args.data
        self.started = float(os.environ.get("QUICKSTART_STARTED", time.time()))
        self.step_number = 1  # the environment
        self.training_seconds = 0.0
        self.processes = args.processes

    def step(self, title: str, expected: str, following: str) -> None:
        """Announce a step."""
        self.step_number += 1
        elapsed = clock(time.time() - self.started)
        print(
            f"\n==== [{self.step_number}/{NUM_STEPS}] {title} ({elapsed} elapsed; {expected}; "
            f"next: {following}) ====",
            flush=True,
        )

    def run(self) -> None:
        """All steps."""
        say("stop with Ctrl-C at any time; the same command goes on where it was")
        self.fit_gpus()
        expected = "about 1 min, if it is not there yet"
        self.step(f"data set {self.data}", expected, "training with sigmoid BCE")
        self.make_data()
        self.refuse_to_mix()
        followed_by = {"sigmoid": "training with DropLoss", "droploss": "testing both"}
        for name, following in followed_by.items():
            self.step(f"training with {TITLES[name]}", self.training_time(name), following)
            self.train(name)
        for name, following in {"sigmoid": "testing DropLoss", "droploss": "the report"}.items():
            expected = "done already" if self.is_tested(name) else "about 1 min"
            self.step(f"testing {TITLES[name]}", expected, following)
            self.test(name)
        self.step("report", "less than 1 min", "nothing, this is the last step")
        self.report()
        print()
        say(f"done in {clock(time.time() - self.started)}")

    def fit_gpus(self) -> None:
        """No more processes than GPUs, if there are any."""
        import torch

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        while 0 < gpus < self.processes:
            self.processes //= 2
            say(f"{gpus} GPUs, so {self.processes} processes")

    def make_data(self) -> None:
        """Mini-LVIS, unless it is there."""
        options: list[object] = []
        if self.args.images != 2000:
            options += ["--train-images", self.args.images]
        if self.args.val_images != 400:
            # 7.5 objects an image: what 60 categories can have each, at most the default.
            each = min(max(self.args.val_images * 7 // 60 - 1, 0), 20)
            options += ["--val-images", self.args.val_images, "--val-min-instances", each]
        run(sys.executable, "tools/dataset_converters/make_mini_lvis.py", self.data, *options)

    def refuse_to_mix(self) -> None:
        """Stop if the work dir holds a run with other options or configs, or another program's."""
        stamp = self.work / "quickstart.options"
        data = hashlib.sha256((self.data / "mini_lvis.json").read_bytes()).hexdigest()
        options = [
            f"seed={self.args.seed}",
            f"iterations={self.args.iterations}",
            f"processes={self.processes}",
            f"data={self.data}",
            f"images={self.args.images}",
            f"val-images={self.args.val_images}",
            f"data-stamp={data}",
            f"settings-stamp={digest_of_configs()}",
        ]
        if not stamp.exists():
            for name in CONFIGS:
                if (self.work / name).exists():
                    where = self.work / name
                    die(f"{where} exists, but not from this program; give another --work-dir")
            self.work.mkdir(parents=True, exist_ok=True)
            new = stamp.with_suffix(".options.new")
            new.write_text("\n".join(options) + "\n")
            new.replace(stamp)
            return
        # Earlier versions noted of the configs nothing, or the text that MMEngine makes of them.
        lines = stamp.read_text().splitlines()
        there = [line for line in lines if not line.startswith("configs-stamp=")]
        if not any(line.startswith("settings-stamp=") for line in there):
            options.pop()
        if there != options:
            print(
                f"quickstart: {self.work} was made with other options (< there, > now):",
                *(f"< {line}" for line in there if line not in options),
                *(f"> {line}" for line in options if line not in there),
                sep="\n",
                file=sys.stderr,
            )
            die(f"give another --work-dir, or delete {self.work} to start over")

    # ---- train and test --------------------------------------------------------------------------

    def common_options(self) -> list[str]:
        """What differs from the configs, in training and testing."""
        annotations = f"{self.data}/annotations"
        options = [
            f"model.roi_head.bbox_head.loss_cls.class_freq={annotations}/lvis_v1_train.json",
            f"train_dataloader.dataset.data_root={self.data}/",
            f"train_dataloader.dataset.metainfo.classes={annotations}/classes.txt",
        ]
        for part in ("val", "test"):
            options += [
                f"{part}_dataloader.dataset.data_root={self.data}/",
                f"{part}_dataloader.dataset.metainfo.classes={annotations}/classes.txt",
                f"{part}_evaluator.ann_file={annotations}/lvis_v1_val.json",
            ]
        return options

    def train_options(self) -> list[str]:
        """What differs from the configs in training. The overrides of lists go by index."""
        options = [
            f"randomness.seed={self.args.seed}",
            f"train_dataloader.batch_size={8 // self.processes}",
            # With one, there would be none to go on from if that one were damaged.
            "default_hooks.checkpoint.max_keep_ckpts=2",
        ]
        number = self.args.iterations
        if number != 1600:
            options += [
                f"max_iters={number}",
                f"train_cfg.max_iters={number}",
                f"train_cfg.val_interval={max(number // 2, 1)}",
                f"default_hooks.checkpoint.interval={max(number // 12, 1)}",
                f"default_hooks.logger.interval={max(number // 60, 1)}",
                f"param_scheduler.0.end={max(number // 12, 1)}",
                f"param_scheduler.1.end={number}",
                f"param_scheduler.1.milestones=[{number * 3 // 4},{number * 11 // 12}]",
            ]
        return options

    def checkpoint(self, name: str) -> Path:
        """The last one of a training."""
        return self.work / name / f"iter_{self.args.iterations}.pth"

    def last_checkpoint(self, name: str) -> Path | None:
        """The newest complete one of a training: last_checkpoint is written once it is complete.

        By its name alone: the path in that file is wrong once the folder has been moved.
        """
        pointer = self.work / name / "last_checkpoint"
        return self.work / name / Path(pointer.read_text()).name if pointer.is_file() else None

    def is_trained(self, name: str) -> bool:
        """Whether a run has its last checkpoint."""
        checkpoint = self.checkpoint(name)
        return checkpoint.is_file() and self.last_checkpoint(name) == checkpoint

    def is_tested(self, name: str) -> bool:
        """Whether its test is finished: the metrics are the last file that one writes."""
        metrics = self.work / name / "val.metrics.json"
        return (
            self.is_trained(name)
            and metrics.is_file()
            and metrics.stat().st_mtime_ns > self.checkpoint(name).stat().st_mtime_ns
        )

    def training_time(self, name: str) -> str:
        """By the training before, if this call did one."""
        if self.is_trained(name):
            return "done already"
        if self.training_seconds:
            return f"about {clock(self.training_seconds)}, as the last"
        return f"about {(6 * self.args.iterations + 1599) // 1600 + 1} min on 2 cores"

    def train(self, name: str) -> None:
        """Train from the start, or from the last checkpoint on."""
        if self.is_trained(name):
            say(f"trained already: {self.checkpoint(name)}")
            return
        begin = time.time()
        last = self.last_checkpoint(name)
        if last is not None:
            say(f"going on from {last}")
        run(
            *("bash", "tools/dist_train.sh", CONFIGS[name], self.processes),
            *("--work-dir", self.work / name, "--resume"),
            *("--cfg-options", *self.common_options(), *self.train_options()),
        )
        if not self.is_trained(name):
            die(f"the training ended without {self.checkpoint(name)}, see above")
        if last is None:  # half a training tells nothing about the next
            self.training_seconds = time.time() - begin

    def test(self, name: str) -> None:
        """Test the last checkpoint; the logs are kept apart from those of the training."""
        if self.is_tested(name):
            say(f"tested already: {self.work / name / 'val.metrics.json'}")
            return
        run(
            *("bash", "tools/dist_test.sh", CONFIGS[name], self.checkpoint(name), self.processes),
            *("--work-dir", self.work / name / "test", "--results", self.work / name / "val"),
            *("--cfg-options", *self.common_options()),
        )

    def report(self) -> None:
        """Tables and figures of both."""
        annotations = self.data / "annotations"
        runs = [
            part for name in CONFIGS for part in ("--run", f"{TITLES[name]}={self.work / name}")
        ]
        run(
            *(sys.executable, "tools/analysis_tools/compare_runs.py"),
            *("--ann", annotations / "lvis_v1_val.json"),
            *("--train-ann", annotations / "lvis_v1_train.json"),
            *(*runs, "--out", self.work, "--command", self.command_line),
        )


def stop(signum: int, frame: object) -> NoReturn:
    """SIGTERM is as Ctrl-C."""
    raise KeyboardInterrupt


def main() -> None:
    """Read the options, and do all that is not done yet."""
    args = parse_args()
    if args.check_options:
        return
    command_line = shlex.join(["bash", "tools/quickstart.sh", *sys.argv[1:]])
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, stop)
    try:
        Quickstart(args, command_line).run()
    except KeyboardInterrupt:
        print(
            f"\nquickstart: stopped. The same command goes on where it was:\n\n  {command_line}",
            file=sys.stderr,
        )
        sys.exit(130)


if __name__ == "__main__":
    main()
