"""Trainings of seconds on the tiny data set, as the tests of launchers start them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "mini_lvis" / "mask_rcnn_r18_fpn_droploss_mini_lvis.py"


def make_data(target):
    """The tiny data set: 9 categories, 150 train and 12 val images of 96 x 96."""
    script = ROOT / "tools" / "dataset_converters" / "make_mini_lvis.py"
    options = (
        "--train-images 150 --val-images 12 --num-categories 9 --size 96 "
        "--val-min-instances 0 --workers 1 --quiet"
    )
    subprocess.run([sys.executable, script, target, *options.split()], check=True, timeout=120)
    return target


def changes(data, iterations):
    """The mini config on the tiny data set, with a still smaller model."""
    annotations = f"{data}/annotations"
    classes = f"{annotations}/classes.txt"
    head = "model.roi_head.bbox_head"
    settings = {
        f"{head}.num_classes": 9,
        f"{head}.fc_out_channels": 32,
        f"{head}.loss_cls.num_classes": 9,
        f"{head}.loss_cls.class_freq": f"{annotations}/lvis_v1_train.json",
        f"{head}.loss_cls.sync_statistics": True,
        "model.roi_head.mask_head.num_classes": 9,
        "model.roi_head.mask_head.num_convs": 1,
        "model.test_cfg.rcnn.score_thr": 0.0,
        "val_evaluator.ann_file": f"{annotations}/lvis_v1_val.json",
        "test_evaluator.ann_file": f"{annotations}/lvis_v1_val.json",
        "train_cfg.max_iters": iterations,
        "train_cfg.val_interval": 1000,
        "default_hooks.checkpoint.interval": 2,
        "default_hooks.checkpoint.max_keep_ckpts": -1,
        "default_hooks.logger.interval": 1,
        "train_dataloader.batch_size": 1,
    }
    for name in ("train", "val", "test"):
        settings |= {
            f"{name}_dataloader.dataset.data_root": f"{data}/",
            f"{name}_dataloader.dataset.metainfo.classes": classes,
            f"{name}_dataloader.num_workers": 0,
            f"{name}_dataloader.persistent_workers": False,
        }
    return settings


def options(data, iterations):
    """The same for the command line."""
    return ["--cfg-options", *(f"{k}={v}" for k, v in changes(data, iterations).items())]


def environment():
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    env["PATH"] = os.path.dirname(sys.executable) + os.pathsep + env["PATH"]
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "PORT"):
        env.pop(name, None)
    return env


def command(script, *arguments):
    return ["bash", str(ROOT / "tools" / script), *map(str, arguments)]


def run(arguments, folder, **settings):
    """Run a program to its end, with more environment variables."""
    return subprocess.run(
        [str(argument) for argument in arguments],
        cwd=folder,
        env={**environment(), **settings},
        capture_output=True,
        text=True,
        timeout=300,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def steps_in(log):
    """Iterations that the log tells of."""
    return [int(step) for step in re.findall(r"Iter\(train\) *\[ *(\d+)/", log)]


def wait_for(path, process, log, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f"training ended early:\n{log.read_text()[-4000:]}"
        assert time.monotonic() < end, f"no {path.name}:\n{log.read_text()[-4000:]}"
        time.sleep(0.05)


def descendants(pid):
    """The processes that a process started, and theirs."""
    parent_of = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:  # it has ended meanwhile
                continue
            parent_of[int(folder.name)] = int(stat.rsplit(")", 1)[1].split()[1])
    found, front = [], {pid}
    while front:
        front = {child for child, parent in parent_of.items() if parent in front}
        found += front
    return found


def kill_tree(process):
    """kill -9 to the launcher and what it started, as when the machine goes down.

    torchrun gives each of its processes a session of its own: they outlive it, and would train on.
    """
    pids = descendants(process.pid)
    for pid in (process.pid, *pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 30
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
