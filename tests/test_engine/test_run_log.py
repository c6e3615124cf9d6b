"""What the log of a run shows, and what not."""

from __future__ import annotations

import threading
import time
import warnings

import pytest
from mmengine.fileio import FileClient
from mmengine.logging import MMLogger
from torch import distributed as dist

from mmdet_droploss.engine import launchers, run_log
from mmdet_droploss.models.losses import DropLoss


@pytest.fixture()
def log(tmp_path, monkeypatch):
    """The log file of a run whose warnings are sent there."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(run_log, "_early", [])
    monkeypatch.delenv("RANK", raising=False)
    file = tmp_path / "run.log"
    instances = MMLogger._instance_dict
    logger = MMLogger.get_instance(f"log of {tmp_path}", log_file=str(file))
    with warnings.catch_warnings():
        warnings.resetwarnings()
        run_log.log_warnings()
        yield logger, file
    for handler in logger.handlers:
        handler.close()
    instances.pop(logger.instance_name)


def warn_as(module, message, category):
    """A warning that a module causes."""
    code = f"import warnings; warnings.warn({message!r}, {category})"
    exec(compile(code, f"{module}.py", "exec"), {"__name__": module})


def test_what_a_loss_warns_of_is_in_the_log_once(log):
    _, file = log
    for _ in range(3):
        DropLoss(3, class_freq=[1, 2, 3])
    assert file.read_text().count("every category is of low frequency") == 1


def test_what_was_warned_of_before_there_was_a_log_is_in_it(log, monkeypatch):
    logger, file = log
    monkeypatch.setattr(MMLogger, "_instance_dict", {})
    shown = []
    monkeypatch.setattr(run_log, "_show", lambda message, *_: shown.append(str(message)))
    warnings.warn("said early", stacklevel=1)
    assert shown == ["said early"]
    run_log.complete_log(type("Runner", (), {"logger": logger}))
    assert file.read_text().count("said early") == 1


def test_other_processes_keep_to_pythons_way(log, monkeypatch):
    """MMEngine's logger is silent there."""
    monkeypatch.setenv("RANK", "1")
    shown = []
    monkeypatch.setattr(run_log, "_show", lambda message, *_: shown.append(str(message)))
    warnings.warn("of another process", stacklevel=1)
    assert shown == ["of another process"] and not log[1].read_text()


@pytest.mark.parametrize(
    "message, category, theirs",
    [
        ("pkg_resources is deprecated as an API.", "UserWarning", "mmengine.utils.package_utils"),
        ("torch.meshgrid: in an upcoming release, it", "UserWarning", "torch.functional"),
        ("`torch.cuda.amp.GradScaler(args...)` is", "FutureWarning", "mmengine.optim.optimizer.a"),
        ("`broadcast_buffers` is deprecated.", "FutureWarning", "mmengine.model.wrappers.distri"),
        (
            "You are using `torch.load` with `weights_only=False`",
            "FutureWarning",
            "mmengine.runner",
        ),
    ],
)
def test_other_packages_own_deprecations_are_hidden_and_the_users_are_not(
    log, message, category, theirs
):
    _, file = log
    warn_as(theirs, message, category)
    assert not file.read_text()
    if theirs != "torch.functional":  # which is to blame whoever calls it
        warn_as("my_hooks", message, category)
        assert message in file.read_text()


def test_the_users_filters_come_first(log):
    _, file = log
    warnings.simplefilter("default", UserWarning)  # as python -W default::UserWarning does
    warn_as("mmengine.utils.package_utils", "pkg_resources is deprecated as an API.", "UserWarning")
    assert "pkg_resources" in file.read_text()
    warnings.simplefilter("default", DeprecationWarning)
    warn_as("my_hooks", "my own deprecation", "DeprecationWarning")
    assert "DeprecationWarning: my own deprecation" in file.read_text()


def test_mmengines_file_client_is_not_news_but_the_users_is(log):
    logger, file = log
    run_log.complete_log(type("Runner", (), {"logger": logger}))
    code = compile("FileClient.infer_client(uri='a')", "hook.py", "exec")
    exec(code, {"FileClient": FileClient, "__name__": "mmengine.hooks.checkpoint_hook"})
    assert not file.read_text()
    exec(code, {"FileClient": FileClient, "__name__": "my_hooks"})
    assert '"FileClient" will be deprecated' in file.read_text()


# ---- the wait for other processes ---------------------------------------------------------------


@pytest.fixture()
def wait(monkeypatch):
    """Starts to wait, as the first process of four, and returns the threads that this takes."""
    variables = dict(RANK="0", LOCAL_RANK="0", WORLD_SIZE="4", MASTER_ADDR="10.0.0.1")
    for name, value in {**variables, "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launchers, "FIRST_WORD", 0.1)
    monkeypatch.setattr(launchers, "NEXT_WORD", 0.1)

    def start():
        before = threading.enumerate()
        launchers.say_while_waiting(launchers.check_launcher("pytorch"))
        return [thread for thread in threading.enumerate() if thread not in before]

    return start


def test_the_wait_for_other_processes_is_said_until_they_are_there(wait, capfd, tmp_path):
    (thread,) = wait()
    said, end = "", time.monotonic() + 60
    while said.count("\n") < 2 and time.monotonic() < end:
        said += capfd.readouterr().err
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        thread.join(60)
        assert not thread.is_alive()
    finally:
        dist.destroy_process_group()
    lines = said.splitlines()
    assert len(lines) >= 2
    assert "process 0 waits for the others of the 4" in lines[0] and "10.0.0.1:29500" in lines[0]
    assert "gives up after 30 minutes" in lines[0]


def test_who_does_not_wait_is_silent(wait, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert wait() == []
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert wait() == []
