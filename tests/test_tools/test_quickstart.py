"""tools/quickstart.sh from end to end at a tiny size: stopped, continued, and run once more."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from PIL import Image
from scripts import ROOT, load_script

#: 60 categories of which a third are frequent, that is in over 100 images, take 770 images.
SIZE = ("--iterations", "6", "--images", "800", "--val-images", "12")
TIMEOUT = 1800  # generous: two processes may share one busy core


def environment() -> dict[str, str]:
    """The environment that the tests run in, active."""
    variables = dict(os.environ, VIRTUAL_ENV=sys.prefix)
    variables["PATH"] = os.pathsep.join([str(Path(sys.prefix) / "bin"), variables["PATH"]])
    return variables


def quickstart(*arguments: object) -> subprocess.CompletedProcess:
    """Run it to its end."""
    return subprocess.run(
        ["bash", ROOT / "tools" / "quickstart.sh", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )


def stop_at_first_checkpoint(log: Path, mark: Path, *arguments: object) -> int:
    """Run it, press Ctrl-C as soon as a checkpoint is there, and return the exit code."""
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", ROOT / "tools" / "quickstart.sh", *map(str, arguments)],
            env=environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, as a terminal gives it
            # Where the tests run in the background, SIGINT is ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            limit = time.monotonic() + TIMEOUT
            while not mark.exists() and process.poll() is None and time.monotonic() < limit:
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGINT)
            return process.wait(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@dataclass
class Story:
    """What came out of the runs, one after the other."""

    work: Path
    arguments: tuple
    stopped_code: int
    stopped_log: str
    finished: subprocess.CompletedProcess
    again: subprocess.CompletedProcess
    checkpoints_before: dict[Path, int]
    checkpoints_after: dict[Path, int]


def checkpoints(work: Path) -> dict[Path, int]:
    """Every checkpoint and results file, and when it was written."""
    files = [*work.glob("*/*.pth"), *work.glob("*/val.*.json")]
    return {file: file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Story:
    """Start it, stop it, finish it, run it again."""
    folder = tmp_path_factory.mktemp("quickstart")
    work = folder / "work"
    arguments = ("--data", folder / "my data (1)", "--work-dir", work, *SIZE)
    log = folder / "stopped.log"
    code = stop_at_first_checkpoint(log, work / "sigmoid" / "last_checkpoint", *arguments)
    finished = quickstart(*arguments)
    before = checkpoints(work)
    again = quickstart(*arguments)
    return Story(work, arguments, code, log.read_text(), finished, again, before, checkpoints(work))


def logged_steps(folder: Path) -> list[list[int]]:
    """The iterations in the log of each start of a training."""
    return [
        [r["step"] for r in map(orjson.loads, file.read_bytes().splitlines()) if "loss" in r]
        for file in sorted(folder.glob("*/vis_data/scalars.json"))
    ]


def test_ctrl_c_says_how_to_go_on(story: Story):
    assert story.stopped_code == 130, story.stopped_log[-3000:]
    assert "stopped. The same command goes on where it was" in story.stopped_log
    assert f"bash tools/quickstart.sh --data '{story.arguments[1]}'" in story.stopped_log


def test_it_goes_on_where_it_was(story: Story):
    assert story.finished.returncode == 0, story.finished.stdout[-5000:]
    assert "quickstart: going on from" in story.finished.stdout
    first, second = logged_steps(story.work / "sigmoid")
    assert first[0] == 1
    assert second[0] > 1
    assert second[-1] == 6
    assert logged_steps(story.work / "droploss") == [[1, 2, 3, 4, 5, 6]]


def test_progress_is_announced(story: Story):
    steps = re.findall(r"==== \[(\d)/7\] .*\d:\d\d elapsed; .*; next: ", story.finished.stdout)
    assert steps == list("1234567")


def test_report_figures_and_table(story: Story):
    report = (story.work / "report.html").read_text()
    assert report.rstrip().endswith("</html>")
    figures = sorted(file.name for file in story.work.glob("*.png"))
    assert figures == ["categories.png", "curves.png", "differences.png", "pictures.png"]
    for name in figures:
        with Image.open(story.work / name) as image:
            image.verify()
    assert report.count("data:image/png;base64,") == len(figures)
    assert "| sigmoid BCE |" in story.finished.stdout
    assert "| DropLoss |" in story.finished.stdout
    assert f"report: {story.work / 'report.html'}" in story.finished.stdout


def test_both_trainings_got_the_options(story: Story):
    for name, loss in (("sigmoid", "SigmoidBCELoss"), ("droploss", "DropLoss")):
        config = next((story.work / name).glob("*/vis_data/config.py")).read_text()
        assert f"type='{loss}'" in config
        assert "seed=0" in config
        metrics = orjson.loads((story.work / name / "val.metrics.json").read_bytes())
        assert len(metrics["per_category"]) == 60


def test_nothing_is_done_twice(story: Story):
    assert story.again.returncode == 0, story.again.stdout[-3000:]
    assert story.again.stdout.count("quickstart: trained already") == 2
    assert story.again.stdout.count("quickstart: tested already") == 2
    assert story.checkpoints_after == story.checkpoints_before


def test_other_options_are_not_mixed_in(story: Story):
    result = quickstart(*story.arguments, "--seed", 1)
    assert result.returncode == 1
    assert "made with other options" in result.stdout
    assert "< seed=0" in result.stdout
    assert "> seed=1" in result.stdout
    assert checkpoints(story.work) == story.checkpoints_after


def test_an_edited_config_is_not_mixed_in(tmp_path, monkeypatch, capsys):
    program = load_script("tools/quickstart.py")
    for name in ("base", "sigmoid"):
        (tmp_path / f"{name}.py").write_text("lambda_ = 0.1")
    (tmp_path / "droploss.py").write_text("_base_ = 'base.py'")
    configs = {name: str(tmp_path / f"{name}.py") for name in ("sigmoid", "droploss")}
    monkeypatch.setattr(program, "CONFIGS", configs)
    (tmp_path / "mini_lvis.json").write_text("{}")
    args = SimpleNamespace(seed=0, iterations=6, processes=1, images=9, val_images=9,
                           work_dir=tmp_path / "work", data=tmp_path)  # fmt: skip
    program.Quickstart(args, "").refuse_to_mix()
    program.Quickstart(args, "").refuse_to_mix()
    (tmp_path / "base.py").write_text("lambda_ = 0.5")
    with pytest.raises(SystemExit):
        program.Quickstart(args, "").refuse_to_mix()
    assert "> settings-stamp=" in capsys.readouterr().err
    stamp = tmp_path / "work" / "quickstart.options"
    lines = stamp.read_text().splitlines(keepends=True)[:-1]
    for earlier in ("", "configs-stamp=of MMEngine's text\n"):  # the first as 0.1.0 wrote it
        stamp.write_text("".join([*lines, earlier]))
        program.Quickstart(args, "").refuse_to_mix()


def test_a_training_finds_the_checkpoint_that_it_goes_on_from(tmp_path, monkeypatch, capsys):
    """A named one that is damaged would be refused, though the one before it is whole."""
    program = load_script("tools/quickstart.py")
    (tmp_path / "sigmoid").mkdir()
    (tmp_path / "sigmoid" / "last_checkpoint").write_text("/gone/iter_3.pth")
    commands = []
    monkeypatch.setattr(program, "run", lambda *command: commands.append(command))
    args = SimpleNamespace(seed=0, iterations=6, processes=1, work_dir=tmp_path, data=tmp_path)
    with pytest.raises(SystemExit):  # nothing was trained
        program.Quickstart(args, "").train("sigmoid")
    (command,) = commands
    assert command[command.index("--resume") + 1] == "--cfg-options"
    assert f"going on from {tmp_path / 'sigmoid' / 'iter_3.pth'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--help"], 0, "usage: bash tools/quickstart.sh"),
        (["--sead", "1"], 1, "unknown option --sead"),
        (["--seed"], 1, "--seed needs a value"),
        (["--seed", "x"], 1, "--seed must be a whole number"),
        (["--iterations", "0"], 1, "--iterations must be at least 1"),
        (["--processes", "3"], 1, "--processes must be 1, 2, 4 or 8"),
        (["--data", "/my data/a,b"], 1, "--data must be a folder without a comma in its path, but"),
    ],
)
def test_command_line(arguments: list[str], code: int, message: str):
    result = quickstart(*arguments)
    assert result.returncode == code
    assert message in result.stdout
