"""The benchmarks run, at tiny sizes, and what they compare is equal. How fast is not tested."""

from __future__ import annotations

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
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert not (work_dir / "never").exists(), "the user's cache is left alone"
    assert "cores of" in done.stdout and "| --: |" in done.stdout
    return json.loads(numbers.read_text())


def leaves(content):
    if isinstance(content, dict):
        return [leaf for value in content.values() for leaf in leaves(value)]
    return [content]


def test_dataset_start(work_dir):
    found = run("dataset_start", work_dir, "--train-images", 300, "--ranks", 2, "--repeats", 1)
    measured = {key: value for key, value in found.items() if key != "machine"}
    assert set(measured) == {"peer", "peer_rank", "first", "second", "filled", "empty"}
    assert all(math.isfinite(number) for number in leaves(measured))
    assert found["peer"]["images"] == found["first"]["images"] == found["second"]["images"] > 250
    assert all(found[key]["seconds"] > 0 for key in measured)


def test_repeat_factor_sampling(work_dir):
    options = ("--train-images", 300, "--repeats", 1, "--threshold", 0.05)
    found = run("repeat_factor_sampling", work_dir, *options)
    assert len(found["seconds"]) == 3 and all(value > 0 for value in found["seconds"].values())
    ours, *peers = found["mean_repeats"]
    assert 1 < ours < min(peers), "ClassBalancedDataset rounds up"


def test_lvis_evaluation(work_dir):
    found = run("lvis_evaluation", work_dir, "--images", 4, 6, "--ours-only-images", 8)["by_images"]
    assert set(found) == {"4", "6", "8"} and "peer" not in found["8"]
    for count in ("4", "6"):
        assert found[count]["difference"] < 1e-6
        ours, peer = found[count]["ours"]["numbers"], found[count]["peer"]["numbers"]
        assert len(ours) == len(peer) == 26
        assert ours["bbox_AP"] > 0 and ours["segm_AP"] > 0, "else there is nothing to compare"


@pytest.mark.parametrize("script", sorted(path.stem for path in BENCHMARKS.glob("*_*.py")))
def test_help_shows_a_command(script):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{script}.py"), "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and f"python benchmarks/{script}.py" in done.stdout
