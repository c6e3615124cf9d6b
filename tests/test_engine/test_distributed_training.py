"""Two processes over gloo: train, die, resume, test; through the shell scripts, as users do."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from small_run import CONFIG, command, environment, kill_tree, options, steps_in, wait_for

from mmdet_droploss.evaluation import METRIC_KEYS

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() or not Path("/proc/self/stat").exists(),
    reason="about machines without GPU (with GPUs the scripts use them), on Linux",
)


def test_training_survives_a_kill_and_the_test_gives_all_numbers(mini_lvis_dir, tmp_path):
    work_dir, log = tmp_path / "work", tmp_path / "first.log"
    # MMEngine leaves a folder .dist_test where it gathers results.
    run = dict(cwd=tmp_path, env=environment())
    train = command("dist_train.sh", CONFIG, 2, "--work-dir", work_dir)

    with log.open("w") as file:
        process = subprocess.Popen(
            [*train, *options(mini_lvis_dir, 10_000)],
            stdout=file,
            stderr=subprocess.STDOUT,
            **run,
        )
    try:
        wait_for(work_dir / "iter_4.pth", process, log)
        wait_for(work_dir / "last_checkpoint", process, log)
    finally:
        kill_tree(process)
    last = int(re.search(r"iter_(\d+)", (work_dir / "last_checkpoint").read_text()).group(1))
    end = last + 5

    resumed = subprocess.run(
        [*train, "--resume", *options(mini_lvis_dir, end)],
        capture_output=True,
        text=True,
        timeout=240,
        **run,
    )
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    steps = steps_in(resumed.stdout + resumed.stderr)
    assert steps == list(range(last + 1, end + 1))
    checkpoint = work_dir / f"iter_{end}.pth"
    assert checkpoint.exists()

    results = tmp_path / "results" / "run"
    test = command("dist_test.sh", CONFIG, checkpoint, 2, "--work-dir", work_dir)
    tested = subprocess.run(
        [*test, "--results", str(results), "--classwise", *options(mini_lvis_dir, end)],
        capture_output=True,
        text=True,
        timeout=240,
        **run,
    )
    assert tested.returncode == 0, tested.stderr[-4000:]
    assert "| capital_a " in tested.stdout + tested.stderr, "the table of --classwise"
    saved = json.loads((tmp_path / "results" / "run.metrics.json").read_text())
    assert set(saved["metrics"]) == {f"{i}_{key}" for i in ("bbox", "segm") for key in METRIC_KEYS}
    assert len(saved["per_category"]) == 9
    assert saved["metrics"] == last_validation(work_dir), "the one after the last iteration"
    truth = json.loads((mini_lvis_dir / "annotations" / "lvis_v1_val.json").read_text())
    detections = json.loads((tmp_path / "results" / "run.segm.json").read_text())
    assert {d["image_id"] for d in detections} == {image["id"] for image in truth["images"]}


def last_validation(work_dir):
    """The numbers that the training has logged, without their prefix."""
    lines = []
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        lines += [json.loads(line) for line in file.read_text().splitlines()]
    numbers = [line for line in lines if any("AP" in key for key in line)][-1].items()
    return {key.removeprefix("lvis/"): value for key, value in numbers if key.startswith("lvis/")}


@pytest.mark.parametrize("script", ["dist_train.sh", "dist_test.sh"])
@pytest.mark.parametrize("arguments", [[], ["config.py"], ["config.py", "x.pth", "two"]])
def test_wrong_arguments_give_the_usage(script, arguments):
    done = subprocess.run(command(script, *arguments), capture_output=True, text=True)
    assert done.returncode == 2
    assert f"usage: bash tools/{script}" in done.stderr
