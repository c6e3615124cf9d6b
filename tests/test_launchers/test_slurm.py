"""The Slurm scripts under a real Slurm."""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import sys
import time

import pytest
import torch
import yaml
from small_run import CONFIG, ROOT, changes, environment, options
from small_run import run as run_program

from mmdet_droploss.evaluation import METRIC_KEYS

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the tests' Slurm has no GPUs to give"
)


def run(script, *arguments, folder, variables, **settings):
    return subprocess.run(
        ["bash", str(ROOT / "tools" / script), *map(str, arguments)],
        cwd=folder,
        env={**environment(), **variables, **settings},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_two_tasks_train_resume_and_test(slurm, mini_lvis_dir, tmp_path):
    tasks = dict(GPUS="2", CPUS_PER_TASK="1", GRES="none", SRUN_ARGS="--time=10 --quiet")
    here = dict(folder=tmp_path, variables=slurm, **tasks)
    train = ("cpu", "mini", CONFIG, tmp_path / "work")
    first = run("slurm_train.sh", *train, *options(mini_lvis_dir, 2), **here)
    assert first.returncode == 0, first.stderr[-4000:]
    assert (tmp_path / "work" / "iter_2.pth").exists()
    assert "GPU number: 2" in first.stdout, "two processes in one run, not two runs"

    second = run("slurm_train.sh", *train, "--resume", *options(mini_lvis_dir, 4), **here)
    assert second.returncode == 0, second.stderr[-4000:]
    assert "resumed epoch: 0, iter: 2" in second.stdout
    checkpoint = tmp_path / "work" / "iter_4.pth"

    tested = run(
        *("slurm_test.sh", "cpu", "mini", CONFIG, checkpoint, "--results", tmp_path / "val"),
        *options(mini_lvis_dir, 4),
        **here,
    )
    assert tested.returncode == 0, tested.stderr[-4000:]
    metrics = json.loads((tmp_path / "val.metrics.json").read_text())["metrics"]
    assert set(metrics) == {f"{kind}_{key}" for kind in ("bbox", "segm") for key in METRIC_KEYS}


def test_a_study_is_submitted(slurm, mini_lvis_dir, tmp_path):
    settings = changes(mini_lvis_dir, 1)
    annotations = mini_lvis_dir / "annotations"
    content = dict(
        train_ann=str(annotations / "lvis_v1_train.json"),
        val_ann=str(annotations / "lvis_v1_val.json"),
        processes=2,
        options=settings,
        methods=[dict(name="DropLoss", config=str(CONFIG))],
    )
    (tmp_path / "study.yml").write_text(yaml.safe_dump(content))
    folder = tmp_path / "work" / "droploss" / "seed_0"
    folder.mkdir(parents=True)
    log = folder / "job.log"
    study = [sys.executable, ROOT / "tools" / "study.py", tmp_path / "study.yml"]
    study += ["--work-dir", tmp_path / "work"]

    def submit(partition):
        return run_program([*study, "--slurm", partition], tmp_path, **slurm)

    def wait():
        end = time.monotonic() + 300
        while run_program(["squeue", "--noheader"], tmp_path, **slurm).stdout.strip():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.5)

    refused = submit("nowhere")
    assert refused.returncode == 1
    assert re.match("study.py: error: DropLoss, seed 0 was not submitted: sbatch:", refused.stderr)

    with open(folder / "job.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert submit("cpu").returncode == 0
        wait()
    busy = f"DropLoss, seed 0 is running in another process: {folder}\n"
    assert log.read_text() == busy

    assert submit("cpu").returncode == 0
    wait()
    text = log.read_text()
    assert text.startswith(busy), "a log is not lost"
    assert "GPU number: 2" in text
    reported = run_program([*study, "--report"], tmp_path)
    assert reported.returncode == 0, reported.stderr + text
    assert "1 of 1 jobs are done" in (tmp_path / "work" / "study_report" / "report.md").read_text()


def test_an_error_in_the_training_is_the_exit_code(slurm, tmp_path):
    done = run(
        *("slurm_train.sh", "cpu", "mini", CONFIG, tmp_path / "work"),
        *("--cfg-options", "train_dataloader.dataset.ann_file=nowhere.json"),
        folder=tmp_path,
        variables=slurm,
        **dict(GPUS="2", CPUS_PER_TASK="1", GRES="none"),
    )
    assert done.returncode != 0
    message = r"ann_file='[^']*nowhere\.json' does not exist"
    assert re.search(message, done.stderr), done.stderr[-4000:]


@pytest.mark.parametrize(
    "script, arguments, settings, message",
    [
        ("slurm_train.sh", ["cpu", "mini"], {}, "usage:.*PARTITION JOB_NAME CONFIG WORK_DIR"),
        ("slurm_test.sh", ["cpu", "mini", "x"], {}, "usage:.*CONFIG CHECKPOINT"),
        (
            "slurm_train.sh",
            ["cpu", "mini", "x", "y"],
            dict(GPUS="3", GPUS_PER_NODE="2"),
            "multiple",
        ),
    ],
)
def test_bad_usage(script, arguments, settings, message, tmp_path):
    done = run(script, *arguments, folder=tmp_path, variables={}, **settings)
    assert done.returncode == 2
    assert re.search(message, done.stderr)
