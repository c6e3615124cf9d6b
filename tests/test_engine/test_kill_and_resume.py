"""The short form of tests/kill_and_resume.py: two processes, two kills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() or not Path("/proc/self/stat").exists(),
    reason="about machines without GPU (on GPUs, ends need not be equal to the bit), on Linux",
)


def test_killed_trainings_end_as_those_that_were_not(repository):
    script = repository / "tests" / "kill_and_resume.py"
    options = ["--kills", "2", "--processes", "2", "--iterations", "9"]
    done = subprocess.run(
        [sys.executable, script, *options],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "2 process(es), 2 kills, equal to the bit" in done.stdout
