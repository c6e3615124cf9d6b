"""What train.py and test.py refuse at once, since it would fail hours later."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.evaluation import LVISMetric
from mmengine.config import Config
from mmengine.utils import digit_version
from small_run import environment, free_port

from mmdet_droploss.engine import CategoryCheckHook, CheckpointShapeHook, prepare_run
from mmdet_droploss.engine.launchers import join_launcher

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without GPU")


def config(**changes):
    return Config(dict(model=dict(type="MaskRCNN"), **changes))


@pytest.mark.parametrize("name", ["val_evaluator", "test_evaluator"])
@pytest.mark.parametrize("form", [dict, lambda e: [dict(type="CocoMetric"), e]], ids=["one", "two"])
@pytest.mark.parametrize("kind", ["LVISMetric", "mmdet.LVISMetric", LVISMetric])
def test_mmdets_lvis_metric_is_refused_with_current_numpy(name, form, kind):
    import numpy as np

    if digit_version(np.__version__) < digit_version("1.24"):
        pytest.skip("here it works")
    cfg = config(**{name: form(dict(type=kind, ann_file="x"))})
    with pytest.raises(ValueError, match=f"{name} is LVISMetric.*np.float.*FastLVISMetric"):
        prepare_run(cfg, "none")


@pytest.mark.parametrize("evaluator", [dict(type="FastLVISMetric"), dict(type="CocoMetric"), None])
def test_other_metrics_pass(evaluator):
    cfg = config(val_evaluator=evaluator, test_evaluator=evaluator)
    prepare_run(cfg, "none")
    assert cfg.launcher == "none"
    assert cfg.get("model_wrapper_cfg") is None


@pytest.mark.parametrize(
    "hooks",
    [
        None,
        [dict(type="EMAHook")],
        [dict(type="mmdet.CheckpointShapeHook", allow_missing=True)],
        [dict(type="mmdet.CategoryCheckHook")],
        [dict(type=CategoryCheckHook), dict(type=CheckpointShapeHook)],
    ],
)
def test_custom_hooks_do_not_replace_the_checks_of_a_base(hooks):
    cfg = config(custom_hooks=hooks)
    prepare_run(cfg, "none")
    assert cfg.custom_hooks[: len(hooks or [])] == (hooks or [])
    kinds = [
        getattr(hook["type"], "__name__", hook["type"]).rpartition(".")[2]
        for hook in cfg.custom_hooks
    ]
    assert kinds.count("CheckpointShapeHook") == kinds.count("CategoryCheckHook") == 1


VARIABLES = {
    "slurm": dict(SLURM_PROCID="3", SLURM_NTASKS="4", SLURM_LOCALID="1"),
    "pytorch": dict(RANK="3", WORLD_SIZE="4", LOCAL_RANK="1"),
}


@pytest.fixture()
def no_launcher(monkeypatch):
    """As in a process that no launcher has started, and restored after the test."""
    names = {name for variables in VARIABLES.values() for name in variables}
    names |= {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
    names |= {"SLURM_JOB_ID", "SLURM_STEP_ID"}
    for name in names:
        monkeypatch.setenv(name, "")  # so that monkeypatch restores what join_launcher sets
        monkeypatch.delenv(name)


@pytest.mark.parametrize("kind", VARIABLES)
def test_what_a_launcher_says_is_passed_on(monkeypatch, no_launcher, kind):
    for name, value in {**VARIABLES[kind], "MASTER_ADDR": "10.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    join_launcher(kind)
    found = [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")]
    assert found == ["3", "4", "1", "10.0.0.1"]
    assert os.environ["MASTER_PORT"] == ("20770" if kind == "slurm" else "29500")


def test_without_an_address_it_is_asked_for(monkeypatch, no_launcher):
    for name, value in VARIABLES["pytorch"].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match="needs MASTER_ADDR.*torchrun"):
        join_launcher("pytorch")


@pytest.mark.parametrize("launcher, program", [("slurm", "srun"), ("pytorch", "torchrun")])
def test_a_process_that_the_launcher_did_not_start(no_launcher, launcher, program):
    with pytest.raises(RuntimeError, match=f"--launcher {launcher} needs.*{program}.*none"):
        prepare_run(config(), launcher)


@needs_no_gpu
def test_cpu_processes_get_gloo_and_a_wrapper_that_works(monkeypatch):
    from torch import distributed as dist

    with_port = dict(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
    for name, value in {**with_port, "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    cfg = config(find_unused_parameters=True)
    try:
        prepare_run(cfg, "pytorch")
        assert dist.get_backend() == "gloo"
    finally:
        dist.destroy_process_group()
    assert cfg.model_wrapper_cfg.type == "CPUDistributedDataParallel"
    assert cfg.model_wrapper_cfg.find_unused_parameters is True


@pytest.mark.parametrize("gpus, rank", [(1, 1), (2, 5), (0, 0)])
def test_more_processes_than_gpus_are_refused(monkeypatch, no_launcher, gpus, rank):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    set_by_torchrun = dict(RANK="7", WORLD_SIZE="8", LOCAL_RANK=str(rank), MASTER_ADDR="10.0.0.1")
    for name, value in set_by_torchrun.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=f"process {rank} .*no GPU.*there are {gpus}"):
        prepare_run(config(), "pytorch")


ENDS_WITH_A_BROADCAST = """
import sys
from mmengine.config import Config
from torch import distributed as dist
from mmdet_droploss.engine import cpu_process_group_ended, prepare_run
prepare_run(Config(dict(model=dict())), "pytorch")
with cpu_process_group_ended():
    for _ in range(3):
        dist.broadcast_object_list([{"a": 1.0}] if dist.get_rank() == 0 else [None], src=0)
"""


@needs_no_gpu
def test_processes_that_end_right_after_a_collective_end_well():
    """Without an end of the process group, every seventh process died with SIGABRT."""
    started = []
    for _ in range(3):
        port = str(free_port())
        for rank in range(2):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            command = [sys.executable, "-c", ENDS_WITH_A_BROADCAST]
            started.append(subprocess.Popen(command, env={**environment(), **ranks, **meeting}))
    assert [process.wait(120) for process in started] == [0] * 6


HOLDS_THE_GROUP = """
import atexit
from pathlib import Path

def exit_says_the_threads():
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    print("at exit:", [name for name in names if name.startswith("pt_gloo")])

atexit.register(exit_says_the_threads)  # the first to register is the last to run
from mmengine.config import Config
from torch import nn
from mmdet_droploss.engine import CPUDistributedDataParallel, cpu_process_group_ended, prepare_run
prepare_run(Config(dict(model=dict())), "pytorch")

class Holder:
    pass

runner = Holder()
with cpu_process_group_ended():
    runner.model = CPUDistributedDataParallel(nn.Linear(2, 2))
    runner.itself = runner
    exit_says_the_threads()
del runner
"""


@needs_no_gpu
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are looked up in /proc")
def test_no_thread_of_the_group_is_left_at_exit():
    """A model still holds the group when it is destroyed."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", HOLDS_THE_GROUP],
        env={**environment(), **alone, "MASTER_PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # Other packages may print something as they are imported.
    before, after = (line for line in done.stdout.splitlines() if line.startswith("at exit:"))
    assert "pt_gloo" in before, "else the name has changed, and nothing is tested"
    assert after == "at exit: []"
