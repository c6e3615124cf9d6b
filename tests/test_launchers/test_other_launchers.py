"""Plain torchrun, and processes that no launcher started."""

from __future__ import annotations

import sys

import pytest
import torch
from small_run import CONFIG, ROOT, options, run

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="about machines without GPU; with GPUs NCCL is used"
)


def test_plain_torchrun(mini_lvis_dir, tmp_path):
    work_dir = tmp_path / "work"
    done = run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2),
            *(ROOT / "tools" / "train.py", CONFIG, "--launcher", "pytorch"),
            *("--auto-scale-lr", "--work-dir", work_dir, *options(mini_lvis_dir, 2)),
        ],
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "GPU number: 2" in done.stdout and (work_dir / "iter_2.pth").exists()
    # Two processes with an image each, where the schedule is made for 8 images.
    assert "Scaling the original LR by 0.25" in done.stdout


@pytest.mark.parametrize("launcher, started_by", [("slurm", "srun"), ("pytorch", "torchrun")])
def test_a_launcher_that_did_not_start_the_process(tmp_path, launcher, started_by):
    done = run(
        [
            *(sys.executable, ROOT / "tools" / "train.py", CONFIG, "--launcher", launcher),
            *("--work-dir", tmp_path),
        ],
        tmp_path,
    )
    assert done.returncode != 0
    assert f"--launcher {launcher} needs to be started by {started_by}" in done.stderr
