"""A work dir is that of one training at a time, and a resume goes on from the last one there."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import time

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from scripts import load_script
from small_run import CONFIG, command, options, run, steps_in
from test_resume import assert_equal, config, end, train

LOCK = "training.lock"


@HOOKS.register_module()
class RestHook(Hook):
    """Says that some iterations are done, and does nothing more for a while."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 3:
            with open(f"{runner.work_dir}/resting", "w"):
                time.sleep(300)


@pytest.fixture()
def other_training(tmp_path):
    """Another process that trains in ``tmp_path``, with a data loader worker."""
    changes = {"train_dataloader.num_workers": 1, "custom_hooks": [dict(type="RestHook")]}
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=lambda: train(tmp_path, **changes))
    process.start()
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "resting").exists():
            assert process.is_alive() and time.monotonic() < until
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.join()


def test_a_second_training_in_a_work_dir_is_refused(other_training, tmp_path):
    (tmp_path / ".iter_6.pth.abcd1234").write_text("what the other one is writing")
    message = f"another training runs in {tmp_path} .process {other_training.pid} on .*--work-dir"
    for resume in (False, True):
        with pytest.raises(RuntimeError, match=message):
            train(tmp_path, resume=resume)
    assert (tmp_path / ".iter_6.pth.abcd1234").exists(), "nothing of it is touched"
    assert (tmp_path / "last_checkpoint").exists()
    cfg = config(tmp_path, load_from=str(tmp_path / "iter_3.pth"))
    assert "sum" in Runner.from_cfg(cfg).val(), "whoever only tests is welcome"
    os.kill(other_training.pid, signal.SIGKILL)
    other_training.join()  # but its data loader worker lives on for some seconds
    assert (tmp_path / LOCK).exists()
    assert "went to batch 4" in train(tmp_path, resume=True)[1]
    assert not (tmp_path / LOCK).exists()


def test_a_file_system_without_locks_stops_no_training(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    _, log = train(tmp_path)
    assert f"{tmp_path} cannot be locked ([Errno {errno.ENOLCK}] No locks available)" in log
    assert (tmp_path / "iter_24.pth").exists()


@pytest.mark.parametrize("out_dir", [None, "elsewhere"])
def test_an_earlier_training_in_the_folder_is_not_gone_on_with(tmp_path, monkeypatch, out_dir):
    """The new one is killed before its first checkpoint."""
    monkeypatch.chdir(tmp_path)
    work_dir = tmp_path / "work"
    whole_images, _ = train(tmp_path / "whole", **{"randomness.seed": 6})
    folder = tmp_path / out_dir / "work" if out_dir else work_dir
    changes = {"default_hooks.checkpoint.out_dir": out_dir}
    train(work_dir, stop=12, in_validation=True, **changes)
    assert (work_dir / "unfinished_validation").exists()
    changes["randomness.seed"] = 6
    _, log = train(work_dir, stop=2, **changes)
    assert f"{work_dir} has checkpoints of an earlier training, the newest " in log
    assert f"{folder.relative_to(tmp_path) if out_dir else folder}/iter_12.pth; to keep" in log
    for name in ("last_checkpoint", "unfinished_validation"):
        assert not (work_dir / name).exists()
    loaded, log = train(work_dir, resume=True, **changes)
    assert f"the last training in {work_dir} has ended before its first checkpoint" in log
    assert loaded == whole_images
    assert_equal(
        torch.load(folder / "iter_24.pth", weights_only=False)["state_dict"],
        end(tmp_path / "whole")["state_dict"],
    )
    assert not (work_dir / "no_checkpoint_yet").exists()


def test_an_earlier_training_that_is_named_is_gone_on_with(tmp_path):
    train(tmp_path, stop=10)
    train(tmp_path, stop=2)
    assert (
        "went to batch 7"
        in train(tmp_path, resume=True, stop=8, load_from=f"{tmp_path}/iter_6.pth")[1]
    )
    _, log = train(tmp_path, resume=True)
    assert "went to batch 7" in log and "has ended before its first" not in log


def test_a_first_start_leaves_nothing_and_says_nothing(tmp_path):
    _, log = train(tmp_path, stop=2)
    assert "earlier training" not in log
    assert not (tmp_path / "no_checkpoint_yet").exists()


# ---- tools/train.py -----------------------------------------------------------------------------


def configured(work_dir, *arguments):
    """What tools/train.py makes of a config that starts from weights."""
    script = load_script("tools/train.py")
    given = [str(CONFIG), "--work-dir", str(work_dir), "--cfg-options", "load_from=weights.pth"]
    cfg = script.load_config(script.parse_args([*given, *arguments]))
    return cfg.resume, cfg.load_from


FROM_WEIGHTS, FROM_CHECKPOINT = (False, "weights.pth"), (True, None)


def test_weights_are_for_a_first_start_only(tmp_path):
    assert configured(tmp_path, "--resume") == FROM_WEIGHTS
    (tmp_path / "last_checkpoint").write_text("")
    assert configured(tmp_path, "--resume") == FROM_WEIGHTS
    (tmp_path / "last_checkpoint").unlink()
    (tmp_path / "iter_4.pth").write_text("only checkpoints were copied here")
    assert configured(tmp_path, "--resume") == FROM_CHECKPOINT
    hook = ["--cfg-options", "default_hooks.checkpoint.filename_tmpl=mine_{}.pth"]
    assert configured(tmp_path, "--resume", *hook) == FROM_WEIGHTS
    (tmp_path / "no_checkpoint_yet").write_text("")
    assert configured(tmp_path, "--resume") == FROM_WEIGHTS


def test_a_config_that_resumes_by_itself_still_does(tmp_path):
    """Until the work dir has a checkpoint of its own."""
    theirs = ["--cfg-options", "resume=True"]
    assert configured(tmp_path, "--resume", *theirs) == (True, "weights.pth")
    (tmp_path / "iter_4.pth").write_text("trained here")
    assert configured(tmp_path, "--resume", *theirs) == FROM_CHECKPOINT


def test_a_start_that_is_no_restart_does_not_resume(tmp_path, monkeypatch):
    (tmp_path / "iter_4.pth").write_text("of an earlier training")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert configured(tmp_path) == FROM_WEIGHTS
    assert configured(tmp_path, "--resume", "a.pth") == (True, "a.pth")


@pytest.mark.parametrize(
    "arguments, before", [([], FROM_WEIGHTS), (["--resume", "a.pth"], (True, "a.pth"))]
)
def test_a_restart_goes_on_from_what_was_saved_since(tmp_path, monkeypatch, arguments, before):
    """What lay in the work dir before torchrun was launched is of an earlier training."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("MMDET_DROPLOSS_LAUNCHED", "1000")
    last = tmp_path / "last_checkpoint"
    last.write_text(str(tmp_path / "iter_4.pth"))
    (tmp_path / "iter_4.pth").write_text("")
    for moment, expected in ((999, before), (1001, FROM_CHECKPOINT)):
        os.utime(last, (moment, moment))
        assert configured(tmp_path, *arguments) == expected
    last.unlink()
    assert configured(tmp_path, *arguments) == before


CRASHES_ONCE = """
_base_ = {base!r}
custom_imports = dict(imports=["crash"], allow_failed_imports=False)
custom_hooks = [dict(type="CrashOnceHook")]
"""
HOOK = """
import os
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class CrashOnceHook(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 3 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            raise RuntimeError("as if a GPU had fallen off the bus")
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without GPU")
def test_torchrun_restarts_and_the_training_goes_on(mini_lvis_dir, tmp_path):
    (tmp_path / "crash.py").write_text(HOOK)
    (tmp_path / "small.py").write_text(CRASHES_ONCE.format(base=str(CONFIG)))
    train_it = command("dist_train.sh", "small.py", 1, "--work-dir", "work")
    meeting = dict(RDZV_ENDPOINT="127.0.0.1:0", MAX_RESTARTS="1", PYTHONPATH=str(tmp_path))
    done = run([*train_it, *options(mini_lvis_dir, 5)], tmp_path, **meeting)
    assert done.returncode == 0, done.stderr[-4000:]
    log = done.stdout + done.stderr
    assert steps_in(log) == [1, 2, 3, 3, 4, 5]
    assert "torchrun has started this training again after a failure (number 1 of MAX_" in log
