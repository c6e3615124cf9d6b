"""The benchmarks run, at tiny sizes, and what they compare is equal. How fast is not tested."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="the benchmarks read memory from /proc"
)

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory):
    """One for all: the data are generated once."""
    return tmp_path_factory.mktemp("benchmarks")


def run(script, work_dir, *arguments):
    numbers = work_dir / f"{script}.json"
    done = subprocess.run(
        [
            *(sys.executable, str(BENCHMARKS / f"{script}.py"), "--work-dir", str(work_dir)),
            *("--json", str(numbers), *map(str, arguments)),
        ],
        env={**os.environ, "MMDET_DROPLOSS_CACHE": str(work_dir / "never")},
        capture_output=True,
        text=True,
        timeout=900,  # minutes each, if another program has the cores
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert not (work_dir / "never").exists(), "the user's cache is left alone"
    assert not list(work_dir.glob("cache-*")), "nor is one left behind"
    assert "cores of" in done.stdout and "| --: |" in done.stdout
    assert "at most" in done.stdout
    return json.loads(numbers.read_text())


def leaves(content):
    if isinstance(content, dict):
        return [leaf for value in content.values() for leaf in leaves(value)]
    return [content]


def test_dataset_start(work_dir):
    options = ("--train-images", 300, "--ranks", 2, "--peer-ranks", 2, "--repeats", 1)
    found = run("dataset_start", work_dir, *options)
    measured = {key: value for key, value in found.items() if key != "machine"}
    names = {"peer", "peer_rank", "peer_ranks", "first", "second", "filled", "empty"}
    assert set(measured) == names
    assert all(math.isfinite(number) for number in leaves(measured))
    assert found["peer"]["images"] == found["first"]["images"] == found["second"]["images"] > 250
    assert all(found[key]["seconds"] > 0 for key in measured)
    assert all(found[key]["peak_whole"] > 0 for key in ("peer", "first", "second"))
    assert all(found[key]["idle"] > 0 for key in ("peer_rank", "peer_ranks", "filled", "empty"))


def test_repeat_factor_sampling(work_dir):
    options = ("--train-images", 300, "--repeats", 1, "--threshold", 0.05)
    found = run("repeat_factor_sampling", work_dir, *options)
    assert len(found["seconds"]) == 3 and all(value > 0 for value in found["seconds"].values())
    ours, *peers = found["mean_repeats"]
    assert 1 < ours < min(peers), "ClassBalancedDataset rounds up"


def test_resume(work_dir):
    options = ("--train-images", 300, "--threshold", 0.05, "--iterations", 20, "--workers", 0)
    found = run("resume", work_dir, *options, "--peer-iterations", 1, 2)
    assert set(found["seconds"]) == {"20", "20 with RFS"}
    assert all(value > 0 for value in leaves(found["peer_measured"]))
    assert all(of_one["ours"] > 0 for of_one in found["seconds"].values())


def test_lvis_evaluation(work_dir):
    found = run("lvis_evaluation", work_dir, "--images", 5, "--ours-only-images")["by_images"]
    assert set(found) == {"5"}
    assert all(math.isfinite(number) for number in leaves(found))
    assert found["5"]["difference"] < 1e-6
    ours, peer = found["5"]["ours"], found["5"]["peer"]
    assert ours["seconds"] > 0 and peer["seconds"] > 0
    assert len(ours["numbers"]) == len(peer["numbers"]) == 26
    for iou_type in ("bbox", "segm"):
        assert ours["numbers"][f"{iou_type}_AP"] > 0, "else there is nothing to compare"


def test_losses(work_dir):
    options = ("--proposals", 64, "--categories", 50, "--memory-proposals", 512, "--repeats", 1)
    found = run("losses", work_dir, *options, "--no-growth")["losses"]
    assert {"BCE", "DropLoss", "SeesawLoss", "EQLV2Loss"} <= set(found)
    assert all(math.isfinite(number) for number in leaves(found))
    for name, of_one in found.items():
        assert of_one["seconds"] > 0
        if name not in ("SeesawLoss", "EQLV2Loss"):
            assert of_one["syncs"] == 0, name
    assert found["DropLoss"]["written"] <= found["BCE"]["written"] < found["EQLV2Loss"]["written"]


def test_post_processing(work_dir):
    options = ("--proposals", 60, "--categories", 40, "--repeats", 1)
    found = run("post_processing", work_dir, *options)["post_processing"]
    assert len(found) == 8 and all(one["equal"] for one in found.values())


def test_inference(work_dir, tmp_path):
    folder = BENCHMARKS.parent / "configs"
    # The paper's cascade, small: full size is the other's.
    cascade = tmp_path / "small_cascade.py"
    cascade.write_text(
        f'_base_ = "{folder.as_posix()}/mini_lvis/mask_rcnn_r18_fpn_droploss_mini_lvis.py"\n'
        'model = dict(type="CascadeRCNN", roi_head=dict(type="Detectron2CascadeRoIHead"))\n'
    )
    configs = (folder / "droploss" / "mask_rcnn_r50_fpn_lvis_v1.py", cascade)
    found = run("inference", work_dir, "--configs", *configs, "--size", 64, 96, "--repeats", 1)
    assert found["different"] <= 1e-4 and set(found["inference"]) == {c.stem for c in configs}
    for name, detections in (("mask_rcnn_r50_fpn_lvis_v1", 300), ("small_cascade", 15)):
        of_one = found["inference"][name]
        assert of_one["detections"] == detections
        for peer in ("ours", "mmdet"):
            assert set(of_one[peer]) == {"backbone", "rpn", "bbox", "mask", "encode", "all"}
            assert all(math.isfinite(number) for number in leaves(of_one[peer]))


def test_training_step(work_dir):
    measured = run("training_step", work_dir, "--size", 64, 96, "--repeats", 1)
    found, recording = measured["training_step"], measured["recording"]
    assert len(found) == 6 and sum("cascade" in name for name in found) == 2
    assert all(set(one) == {"seconds", "loss", "peak"} for one in found.values())
    assert set(recording) == {"seconds", "step"}
    assert all(math.isfinite(number) for number in leaves(found) + leaves(recording))


@pytest.fixture
def evaluation(monkeypatch):
    """The module, not run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("lvis_evaluation")
    for name in ("lvis_evaluation", "common"):
        sys.modules.pop(name, None)


def test_lvis_api_is_extrapolated_on_a_line_and_marked(evaluation):
    measured = {
        10: {"seconds": 7.0, "peak": 9.0},  # the smallest does not matter
        20: {"seconds": 2.0, "peak": 100.0},
        30: {"seconds": 3.0, "peak": 120.0},
    }
    line = evaluation.extrapolate(measured, 50)
    assert line == {"seconds": pytest.approx(5), "peak": pytest.approx(160)}
    assert evaluation.extrapolate({10: measured[10]}, 50) is None, "no line through one point"
    ours = {"seconds": 1.0, "at the end": 0.5, "peak": 16.0}
    cells = evaluation.row(50, {"ours": ours, "peer_extrapolated": line})
    assert cells[4] == "5.0 (extrapolated)" and cells[6] == "5.0 (extrapolated)"
    assert evaluation.row(50, {"ours": ours})[4:] == [""] * 5


@pytest.mark.parametrize("other", [{"AP": math.nan}, {}, {"AP": 0.5 + 2e-6}])
def test_numbers_that_differ_are_never_taken_for_equal(evaluation, other):
    assert not evaluation.largest_difference({"AP": 0.5}, other) < evaluation.TOLERANCE
    assert evaluation.largest_difference({"AP": 0.5}, {"AP": 0.5}) == 0


def test_a_measured_process_that_is_killed_is_an_error_not_an_endless_wait(tmp_path):
    (tmp_path / "dies.py").write_text(
        "import os, signal, sys, time\n"
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from common import SPAWN, in_fresh_processes\n"
        "def one(dies, barrier):\n"
        "    if dies:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    barrier.wait()\n"
        "if __name__ == '__main__':\n"
        "    barrier = SPAWN.Barrier(2)\n"
        "    in_fresh_processes(one, [(False, barrier), (True, barrier)])\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "dies.py")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "exit code -9" in done.stderr


@pytest.mark.parametrize(
    "script", sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "common")
)
def test_help_shows_a_command(script):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{script}.py"), "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and f"python benchmarks/{script}.py" in done.stdout
