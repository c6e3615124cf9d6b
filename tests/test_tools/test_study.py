"""tools/study.py: a grid of trainings that can be stopped, and a report of what is done."""

from __future__ import annotations

import contextlib
import copy
import datetime
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from scripts import load_script
from small_run import CONFIG, changes

from mmdet_droploss.analysis.study import StudyError, load_study
from mmdet_droploss.engine.command_line import make_parser
from mmdet_droploss.evaluation import METRIC_KEYS

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "study.py"
#: What a test leaves, without the numbers.
NUMBERS = '{"metrics": {}, "per_category": []}'


@pytest.fixture(scope="module")
def tool():
    """The script as a module."""
    return load_script("tools/study.py")


@pytest.fixture(scope="module")
def content(mini_lvis_dir):
    """A study of two methods on the tiny data set, an iteration each."""
    options = changes(mini_lvis_dir, 1)
    del options["model.roi_head.bbox_head.loss_cls.sync_statistics"]
    annotations = mini_lvis_dir / "annotations"
    return {
        "train_ann": str(annotations / "lvis_v1_train.json"),
        "val_ann": str(annotations / "lvis_v1_val.json"),
        "protocols": {"again": str(annotations / "lvis_v1_val.json")},
        "record_gradients": 1,
        "options": options,
        "compare": ["sigmoid BCE", "DropLoss"],
        "methods": [
            {
                "name": "sigmoid BCE",
                "config": str(CONFIG.with_name("mask_rcnn_r18_fpn_sigmoid_mini_lvis.py")),
                "seeds": [3],
            },
            {"name": "DropLoss", "config": str(CONFIG)},
        ],
    }


def write(folder, content):
    file = folder / "study.yml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


@pytest.mark.parametrize(
    "change, message",
    [
        ({"methods": None}, "has no methods"),
        ({"methods": []}, "methods must be a list"),
        ({"methods": [{"name": "a"}]}, r"methods\[0\] has no config"),
        ({"methods": [{"name": "a", "config": "none.py"}]}, "none.py does not exist"),
        ({"seed": [0]}, "has 'seed', which means nothing"),
        ({"seeds": 3}, "seeds must be a list of whole numbers"),
        ({"seeds": ["a"]}, "seeds must be a list of whole numbers"),
        ({"seeds": [0, 0]}, "two jobs 'DropLoss, seed 0'"),
        ({"compare": ["EQL"]}, "'EQL', which is the name of no method"),
        ({"val_ann": "nowhere.json"}, "val_ann nowhere.json does not exist"),
        ({"options": ["a=1"]}, r"options must be a mapping, but it is \['a=1'\]"),
        ({"options": {"a=b": 1}}, r"the option a=b: 1 becomes \{'a': 'b=1'\}"),
        (
            {"methods": [{"name": 0.5, "config": "a.py"}]},
            r"\[0\]: name must be text, but it is 0.5",
        ),
        ({"methods": [{"name": "+", "config": "a.py"}]}, "name is '\\+', of which no folder"),
        ({"train_ann": 7}, "train_ann must be text, but it is 7"),
        ({"processes": "two"}, "processes must be a whole number >= 1, but it is 'two'"),
        ({"record_gradients": 0}, "record_gradients must be a whole number >= 1, but it is 0"),
        ({"compare": "DropLoss"}, "compare must be a list of methods' names"),
        ({"protocols": "file.json"}, "protocols must be a mapping of names .* is 'file.json'"),
        ({"protocols": {2017: "a.json"}}, "the name of a protocol must be text, but it is 2017"),
        ({"protocols": {"a": 1}}, "protocols, 'a' must be text, but it is 1"),
        ({"protocols": {"as tested": "a.json"}}, "a protocol cannot be called 'as tested'"),
        ({"protocols": {"../a": "a.json"}}, "a protocol cannot be called '../a'"),
    ],
)
def test_what_is_wrong_with_a_study_is_said(content, tmp_path, change, message):
    changed = {key: value for key, value in {**content, **change}.items() if value is not None}
    with pytest.raises(StudyError, match=message):
        load_study(write(tmp_path, changed), tmp_path)


@pytest.mark.parametrize(
    "value",
    [1, -2, 0.5, 1e-5, float("inf"), True, None, [], [1, [2.5, "a"], None], "text", "a=b/c", ""]
    + ["my data/train set.json", ["my data", "b"]],
)
def test_an_option_that_a_command_line_passes_on_is_taken(content, tmp_path, value):
    options = {**content["options"], "work.mine": value}
    job = load_study(write(tmp_path, {**content, "options": options}), tmp_path).jobs[0]
    train, _ = job.commands(SCRIPT.parent)
    args = make_parser("").parse_args(["config.py", *train[train.index("--cfg-options") :]])
    assert repr(args.cfg_options["work.mine"]) == repr(value)


@pytest.mark.parametrize(
    "value",
    ["a, b", "a,b", "1", "1e-3", "0.50", "true", "None", "(1, 2)", "[a]", "[a,(b]", "'a'"]
    + [
        ["1"],
        [""],
        {"type": "EQL", "lambda_": 0.1},
        {},
        [{"type": "X"}],
        datetime.date(2026, 1, 2),
    ],
)
def test_an_option_that_would_arrive_as_another_is_refused(content, tmp_path, value):
    said = re.escape(f"the option work.mine: {value!r} ")
    methods = [*content["methods"], {**content["methods"][1], "name": "mine"}]
    methods[2]["options"] = {"work.mine": value}
    file = write(tmp_path, {**content, "methods": methods})
    with pytest.raises(StudyError, match=rf"study.yml: methods\[2\], 'mine': {said}"):
        load_study(file, tmp_path)
    file = write(tmp_path, {**content, "options": {"work.mine": value}})
    with pytest.raises(StudyError, match=rf"study.yml: {said}.*--cfg-options.*of the method's own"):
        load_study(file, tmp_path)


def test_what_is_wrong_with_the_file_is_said(tmp_path):
    with pytest.raises(StudyError, match="does not exist"):
        load_study(tmp_path / "none.yml", tmp_path)
    (tmp_path / "a.yml").write_text("methods: [")
    with pytest.raises(StudyError, match="not valid YAML"):
        load_study(tmp_path / "a.yml", tmp_path)


def test_configs_are_beside_the_study_and_seeds_multiply(content, tmp_path):
    (tmp_path / "mine.py").write_text(f"_base_ = '{CONFIG.as_posix()}'")
    methods = [{"name": "mine, b = 2", "config": "mine.py"}]
    study = load_study(write(tmp_path, {**content, "methods": methods, "seeds": [4, 5],
                                        "compare": []}), tmp_path / "work")  # fmt: skip
    assert [job.title for job in study.jobs] == ["mine, b = 2, seed 4", "mine, b = 2, seed 5"]
    assert study.jobs[1].folder == tmp_path / "work" / "mine_b_2" / "seed_5"
    assert study.jobs[1].checkpoint().name == "iter_1.pth"


@pytest.mark.parametrize("name", ["study", "study_hidden"])
def test_a_shipped_study_is_one_that_can_run(name, repository, tmp_path, monkeypatch):
    """Every config and option of it; the data are not there, so they stand in."""
    file = repository / "configs" / "mini_lvis" / f"{name}.yml"
    content = yaml.safe_load(file.read_text())
    for path in (content["train_ann"], content["val_ann"], *content["protocols"].values()):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    monkeypatch.chdir(tmp_path)
    study = load_study(file, tmp_path / "work")
    assert len({job.folder for job in study.jobs}) == len(study.jobs)
    assert {job.length() for job in study.jobs} == {("iter", 1600)}


def test_a_study_runs_is_not_run_again_and_reports(tool, content, tmp_path, capsys):
    file, work = write(tmp_path, content), tmp_path / "work"
    study = load_study(file, work)
    runner = tool.Runner(study.jobs[:1], tool.say)
    runner.run(1)
    said = capsys.readouterr().out
    assert runner.failed == [], (study.jobs[0].folder / "job.log").read_text()
    assert "[1/1] sigmoid BCE, seed 3: training, iteration 0 of 1" in said
    assert "sigmoid BCE, seed 3: done in" in said

    arguments = [str(file), "--work-dir", str(work)]
    assert tool.main([*arguments, "--print"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("train.py") == printed.count("test.py") == 1
    assert "DropLoss, seed 0" in printed and "sigmoid BCE" not in printed

    # The other's results, as if it had been trained: what follows is about files.
    shutil.copytree(study.jobs[0].folder, study.jobs[1].folder)
    (study.jobs[1].folder / "job.json").unlink()
    trained = next(study.jobs[1].folder.glob("2*/vis_data/config.py"))
    study.jobs[1].settings.dump(trained)
    stale = work / "study_report" / "as tested" / "figure2b.png"  # of a method that is gone
    stale.parent.mkdir(parents=True)
    stale.touch()
    assert tool.main(arguments) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert said.count("done already") == 2
    report = work / "study_report"
    assert not stale.exists()
    text = (report / "report.md").read_text()
    assert "2 of 2 jobs are done" in text and "| DropLoss |" in text
    for picture in text.split("](")[1:]:
        assert (report / picture.split(")")[0].strip("<>")).is_file(), picture
    assert {"comparison", "gradients", "again"} <= {path.name for path in report.iterdir()}
    # The same annotations give the same numbers.
    first = json.loads((work / "droploss" / "seed_0" / "val.metrics.json").read_text())
    again = work / "protocols" / "again" / "droploss" / "seed_0" / "val.metrics.json"
    assert json.loads(again.read_text()) == first

    # A result file that was cut short is named, and the others are reported.
    broken = work / "sigmoid_bce" / "seed_3" / "val.metrics.json"
    broken.write_bytes(broken.read_bytes()[:100])
    missing = []
    found = tool.folders_by_protocol(study, study.jobs, work, missing)
    assert [name for name, _ in found["again"]] == ["DropLoss"]
    (sentence,) = missing
    assert sentence.startswith("sigmoid BCE, seed 3 by ")
    assert f"{broken} is not what test.py" in sentence


#: It notes its name, and leaves what a test does.
STAND_IN = f"""
import pathlib, sys
folder = pathlib.Path(__file__).parent
with open(folder / "ran", "a") as ran:
    ran.write(pathlib.Path(__file__).stem + " ")
if "--results" in sys.argv:
    with open(sys.argv[sys.argv.index("--results") + 1] + ".metrics.json", "w") as file:
        file.write({NUMBERS!r})
"""


@pytest.mark.parametrize(
    "checkpoint, pointer, metrics, is_trained, is_done, left",
    [
        (None, None, None, False, False, ["train", "test"]),
        (5, None, None, False, False, ["train", "test"]),  # killed while it was written
        (5, "iter_800.pth", None, False, False, ["train", "test"]),
        (5, "iter_1600.pth", None, True, False, ["test"]),
        (5, "iter_1600.pth", 4, True, False, ["test"]),  # of an earlier training
        (5, "iter_1600.pth", 6, True, True, []),
        (None, "iter_1600.pth", 6, False, True, []),  # deleted, to save space
    ],
)
def test_what_is_left_to_do_follows_the_files(
    tool, tmp_path, monkeypatch, checkpoint, pointer, metrics, is_trained, is_done, left
):
    """Checkpoint and metrics are as old as that; other programs stand in for train.py, test.py."""
    annotations = tmp_path / "annotations.json"
    annotations.touch()
    content = {"train_ann": str(annotations), "val_ann": str(annotations)}
    content["methods"] = [{"name": "DropLoss", "config": str(CONFIG)}]
    (job,) = load_study(write(tmp_path, content), tmp_path / "work").jobs
    job.folder.mkdir(parents=True)
    for file, written in ((job.folder / "iter_1600.pth", checkpoint), (job.metrics_file, metrics)):
        if written is not None:
            file.write_text(NUMBERS)
            os.utime(file, (written, written))
    if pointer is not None:
        (job.folder / "last_checkpoint").write_text(str(job.folder / pointer))
    assert (job.is_trained(), job.is_done()) == (is_trained, is_done)

    for name in ("train", "test"):
        (tmp_path / f"{name}.py").write_text(STAND_IN)
    monkeypatch.setattr(tool, "TOOLS", tmp_path)
    runner = tool.Runner([job], tool.say)
    runner.run(1)
    ran = tmp_path / "ran"
    assert (ran.read_text().split() if ran.exists() else []) == left
    assert runner.failed == [] and job.is_done()


def test_what_is_not_done_is_said(tool, content, tmp_path, capsys):
    assert tool.main([str(write(tmp_path, content)), "--work-dir", str(tmp_path / "work"),
                      "--report"]) == 1  # fmt: skip
    assert "DropLoss, seed 0 is not done: " in capsys.readouterr().err


@pytest.mark.parametrize("done", [False, True])
def test_results_of_other_settings_are_neither_gone_on_with_nor_reported(
    tool, content, tmp_path, capsys, done
):
    job = load_study(write(tmp_path, content), tmp_path / "work").jobs[0]
    assert job.conflict() is None
    job.begin()
    assert job.conflict() is None
    if done:
        job.metrics_file.write_text(NUMBERS)
        assert job.is_done()
    changed = {**content, "options": {**content["options"], "train_cfg.max_iters": 2}}
    file = write(tmp_path, changed)
    arguments = [str(file), "--work-dir", str(tmp_path / "work"), "--only", "sigmoid*"]
    assert tool.main(arguments) == 1
    said = capsys.readouterr().err
    sentence = "was begun with another options and another digest of the settings"
    assert said.count(sentence) == 1 and "give another --work-dir" in said
    with pytest.raises(SystemExit, match=sentence):
        tool.main([*arguments, "--print"])


@pytest.fixture
def alone(tmp_path):
    """A job of a single iteration, and its annotations, which nothing reads."""
    files = {key: tmp_path / f"{key}.json" for key in ("train_ann", "val_ann")}
    for key, file in files.items():
        file.write_text(key)
    content = {key: str(file) for key, file in files.items()}
    content["options"] = {"train_cfg.max_iters": 1}
    content["methods"] = [{"name": "DropLoss", "config": str(CONFIG)}]
    return load_study(write(tmp_path, content), tmp_path / "work").jobs[0], files


def correct(file):
    file.write_text(file.read_text() + "\n")


def test_training_annotations_that_were_corrected_since_are_noticed(alone):
    job, files = alone
    job.begin()
    note = job.folder / "job.json"
    noted = json.loads(note.read_bytes())
    assert job.conflict() is None
    correct(files["train_ann"])
    assert "was begun with another content of train_ann (" in job.conflict()
    # As earlier versions noted it.
    note.write_text(json.dumps({k: v for k, v in noted.items() if not k.startswith("content")}))
    assert job.conflict() is None


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("evaluator", ["val_ann", "train_ann"])
def test_after_a_correction_of_val_ann_only_the_test_is_run_again(
    tool, alone, tmp_path, monkeypatch, capsys, by_hand, evaluator
):
    job, files = alone
    job.begin()
    if by_hand:
        (job.folder / "job.json").unlink()
    for name in ("iter_1.pth", "last_checkpoint"):
        (job.folder / name).write_text("iter_1.pth")

    def numbers_of(file):
        of = dict(file=str(file), sha256=hashlib.sha256(file.read_bytes()).hexdigest())
        return json.dumps(dict(metrics={}, per_category=[], annotations=of))

    job.metrics_file.write_text(numbers_of(files["val_ann"]))
    assert job.is_done() and job.stale() is None
    correct(files["val_ann"])
    assert job.conflict() is None and not job.is_done()
    said = f"{job.metrics_file} is of {files['val_ann']} (sha256 "
    arguments = [str(tmp_path / "study.yml"), "--work-dir", str(tmp_path / "work")]
    assert tool.main([*arguments, "--report"]) == 1
    assert said in capsys.readouterr().err
    assert tool.main([*arguments, "--print"]) == 0
    printed = capsys.readouterr().out
    assert "test.py" in printed and "train.py" not in printed

    (tmp_path / "new.json").write_text(numbers_of(files[evaluator]))
    commands = [["false"], ["cp", str(tmp_path / "new.json"), str(job.metrics_file)]]
    monkeypatch.setattr(tool.Job, "commands", lambda job, tools: commands)
    runner = tool.Runner([job], tool.say)
    runner.run(1)
    assert said in capsys.readouterr().out
    if evaluator == "val_ann":
        assert runner.failed == [] and job.is_done()
    else:
        (sentence,) = runner.failed
        assert f"is of {files['train_ann']} (" in sentence
        assert "test_evaluator and val_ann have to name the same file" in sentence


def test_numbers_that_do_not_say_what_they_are_of_are_believed(alone):
    """Those of earlier versions."""
    job, _ = alone
    job.begin()
    job.metrics_file.write_text(NUMBERS)
    assert job.is_done()


@pytest.mark.parametrize("text", ["", "{}", '{"metrics": {}, "annotations": {"file"'])
def test_after_numbers_that_were_cut_short_the_test_is_run_again(
    tool, alone, tmp_path, monkeypatch, text
):
    job, _ = alone
    job.begin()
    for name in ("iter_1.pth", "last_checkpoint"):
        (job.folder / name).write_text("iter_1.pth")
    job.metrics_file.write_text(text)
    assert not job.is_done()
    assert f"{job.metrics_file} is not what test.py" in job.stale()
    (tmp_path / "new.json").write_text(NUMBERS)
    commands = [["false"], ["cp", str(tmp_path / "new.json"), str(job.metrics_file)]]
    monkeypatch.setattr(tool.Job, "commands", lambda job, tools: commands)
    runner = tool.Runner([job], tool.say)
    runner.run(1)
    assert runner.failed == [] and job.is_done()


def test_a_note_that_was_cut_short_is_named(alone):
    job, _ = alone
    job.begin()
    (job.folder / "job.json").write_text('{"config": ')
    assert f"{job.folder / 'job.json'} cannot be read" in job.conflict()


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("_base_ = 'nowhere.py'", {}, "FileNotFoundError.*nowhere.py"),
        ("model = dict(heads=[dict(a=1)])", {"model.heads.a": 2}, "model.heads.a.*TypeError"),
        ("model = dict()", {}, "AttributeError.*train_cfg"),
    ],
)
def test_a_config_that_cannot_train_is_named_before_any_job(alone, tmp_path, text, options, said):
    (tmp_path / "mine.py").write_text(text)
    content = yaml.safe_load((tmp_path / "study.yml").read_text())
    methods = [*content["methods"], {"name": "mine", "config": "mine.py", "options": options}]
    content = {**content, "options": {}, "methods": methods}
    with pytest.raises(StudyError, match=f"'mine' cannot be trained by .*mine.py .*{said}"):
        load_study(write(tmp_path, content), tmp_path / "work")


def test_how_far_a_job_is(tool, alone):
    """Of epochs and of iterations, also where a validation has an epoch's number."""
    job, _ = alone
    log = job.folder / "20260101_000000" / "vis_data"
    log.mkdir(parents=True)
    lines = [
        '{"loss": 1.0, "epoch": 3, "iter": 3400, "step": 3400}',
        '{"lvis/segm_AP": 0, "step": 3}',
    ]
    (log / "scalars.json").write_text("\n".join(lines))
    assert tool.progress(job) == "training, iteration 3400 of 1"
    job.settings.train_cfg = dict(max_epochs=12)
    assert tool.progress(job) == "training, epoch 3 of 12"


def test_a_report_has_what_its_parts_lack(tool, alone, monkeypatch, tmp_path, capsys):
    job, _ = alone
    job.begin()
    job.metrics_file.write_text(NUMBERS)
    monkeypatch.setattr(tool, "run_tool", lambda program, arguments: [f"{program} could not"])
    monkeypatch.setattr(tool, "gradient_figures", lambda *arguments: [])
    arguments = [str(tmp_path / "study.yml"), "--work-dir", str(tmp_path / "work"), "--report"]
    assert tool.main(arguments) == 1
    report = (tmp_path / "work" / "study_report" / "report.md").read_text()
    assert "1 of 1 jobs are done.\n\n- paper_tables could not\n" in report


def test_a_note_of_an_earlier_version_and_its_training_are_looked_at(alone):
    job, _ = alone
    job.begin()
    note = job.folder / "job.json"
    noted = json.loads(note.read_bytes())
    del noted["digest of the settings"]  # there was one of the text, which MMEngine may change
    note.write_text(json.dumps({**noted, "sha256 of the settings": "0", "content of val_ann": "0"}))
    assert job.conflict() is None
    log = job.folder / "20260101_000000" / "vis_data"
    log.mkdir(parents=True)
    (log / "scalars.json").write_text('{"step": 1, "loss": 1.0}\n')
    job.settings.dump(log / "config.py")
    assert job.conflict() is None
    other = copy.deepcopy(job.settings)
    other.optim_wrapper.optimizer.lr = 7.0
    other.dump(log / "config.py")
    assert "was trained with optim_wrapper.optimizer.lr 7.0" in job.conflict()
    note.write_text(json.dumps({**noted, "seed": 4}))
    assert "was begun with another seed (" in job.conflict()


def test_the_text_that_mmengine_makes_of_a_config_is_not_its_settings(alone, monkeypatch):
    job, _ = alone
    job.begin()
    monkeypatch.setattr(Config, "pretty_text", "formatted by another yapf")
    assert job.conflict() is None


def test_a_training_by_hand_of_a_config_in_pure_python_is_its_job_s(alone, tmp_path):
    study = (tmp_path / "study.yml").read_text().replace(str(CONFIG), "mine.py")
    (tmp_path / "study.yml").write_text(study)
    (tmp_path / "mine.py").write_text(
        "from mmdet.models.detectors import MaskRCNN\n"
        "from mmdet_droploss.engine.category_check import CategoryCheckHook\n"
        "model = dict(type=MaskRCNN)\n"
        "train_cfg = dict(max_iters=1)\n"
        "custom_hooks = [dict(type=CategoryCheckHook)]\n"
    )
    (job,) = load_study(tmp_path / "study.yml", tmp_path / "work").jobs
    log = job.folder / "20260101_000000" / "vis_data"
    log.mkdir(parents=True)
    (log / "scalars.json").write_text('{"step": 1, "loss": 1.0}\n')
    job.settings.dump(log / "config.py")
    assert "type='mmdet.models.detectors.MaskRCNN'" in (log / "config.py").read_text()
    assert job.conflict() is None
    job.begin()
    assert job.conflict() is None
    (job.folder / "job.json").unlink()
    text = (log / "config.py").read_text().replace("MaskRCNN", "CascadeRCNN")
    (log / "config.py").write_text(text)
    assert "with model.type 'CascadeRCNN', but the study has 'MaskRCNN'" in job.conflict()


def test_a_training_by_hand_with_other_settings_is_noticed(tool, content, tmp_path, capsys):
    job = load_study(write(tmp_path, content), tmp_path / "work").jobs[0]
    log = job.folder / "20260101_000000" / "vis_data"
    log.mkdir(parents=True)
    (log / "scalars.json").write_text('{"step": 1, "loss": 1.0}\n')
    left = copy.deepcopy(job.settings)
    left.resume, left.custom_hooks = True, [*left.custom_hooks, dict(type="CategoryGradientHook")]
    left.dump(log / "config.py")
    job.metrics_file.write_text(NUMBERS)
    assert job.is_done() and job.conflict() is None
    left.optim_wrapper.optimizer.lr = 7.0
    left.randomness.seed = 9
    left.dump(log / "config.py")
    said = job.conflict()
    assert "was trained with optim_wrapper.optimizer.lr 7.0, but the study has " in said
    assert "and 1 settings more" in said
    arguments = [str(tmp_path / "study.yml"), "--work-dir", str(tmp_path / "work")]
    assert tool.main([*arguments, "--report"]) == 1
    assert said in capsys.readouterr().err
    with pytest.raises(SystemExit, match=re.escape(said)):
        tool.main([*arguments, "--print"])


def test_a_study_of_boxes_and_a_name_that_begins_with_a_minus(tool, tmp_path):
    """Programs that read ``-RFS`` as an option of theirs would make no table."""
    metrics = {f"bbox_{key}": 0.5 for key in METRIC_KEYS}
    rows = [{"name": "a", "bbox_AP": 0.5}]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "val.metrics.json").write_text(
        json.dumps({"metrics": metrics, "per_category": rows})
    )
    missing = []
    text = tool.tables_and_figures(
        [("-RFS", tmp_path / "run")], tmp_path, tmp_path / "out", missing
    )
    assert missing == []
    assert "| -RFS | 1 | 50.0 |" in text[0] and "![figure3](<out/figure3.png>)" in text


def test_a_config_that_was_edited_since_is_noticed(content, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(f"_base_ = '{CONFIG.as_posix()}'")
    methods = [{"name": "mine", "config": "mine.py"}]
    file = write(tmp_path, {**content, "methods": methods, "compare": []})
    load_study(file, tmp_path / "work").jobs[0].begin()
    assert load_study(file, tmp_path / "work").jobs[0].conflict() is None
    mine.write_text(f"_base_ = '{CONFIG.as_posix()}'\nmodel = dict(rpn_head=dict(num_convs=2))")
    said = load_study(file, tmp_path / "work").jobs[0].conflict()
    assert "mine, seed 0" in said and "another digest of the settings" in said


def test_a_job_that_another_process_runs_is_left_to_it(tool, content, tmp_path, capsys):
    study = load_study(write(tmp_path, content), tmp_path / "work")
    study.jobs[0].folder.mkdir(parents=True)
    with open(study.jobs[0].folder / "job.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runner = tool.Runner(study.jobs[:1], print)
        runner.run(1)
    assert runner.failed == [
        f"sigmoid BCE, seed 3 is running in another process: {study.jobs[0].folder}"
    ]


def job_processes(folder):
    """Those that have the folder on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder) in path.read_text().split("\0") and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the job is looked for in /proc")
def test_a_stopped_study_stops_its_job_and_that_of_a_killed_one_stays_locked(
    tool, content, tmp_path, capsys
):
    study = write(tmp_path, content)
    work = tmp_path / "work"
    folder = work / "droploss" / "seed_0"
    command = [str(study), "--work-dir", str(work), "--only", "DropLoss"]

    def start():
        process = subprocess.Popen([sys.executable, str(SCRIPT), *command])
        end = time.monotonic() + 120
        while not job_processes(folder) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert job_processes(folder), "the job has begun"
        return process

    stopped = start()
    stopped.terminate()
    assert stopped.wait(timeout=60) == 130
    end = time.monotonic() + 60
    while job_processes(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert not job_processes(folder)

    killed = start()
    killed.kill()
    killed.wait(timeout=60)
    (job,) = job_processes(folder)
    try:
        assert tool.main(command) == 1
        assert "is running in another process" in capsys.readouterr().err
    finally:
        os.killpg(job, signal.SIGKILL)


def test_a_stop_while_a_config_is_read_starts_nothing(tool, content, tmp_path, monkeypatch):
    job = load_study(write(tmp_path, content), tmp_path / "work").jobs[0]
    runner = tool.Runner([job], tool.say)
    is_read, started = threading.Event(), tmp_path / "started"

    def read_for_long(job):
        is_read.set()
        while not runner._stopped:
            time.sleep(0.01)

    def press_ctrl_c(futures):
        is_read.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(tool.Job, "conflict", read_for_long)
    monkeypatch.setattr(tool.Job, "commands", lambda job, tools: [["touch", str(started)]] * 2)
    monkeypatch.setattr(runner, "_wait", press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        runner.run(1)
    assert not started.exists() and runner.failed == []


def test_jobs_that_fail_are_said_to_and_do_not_end_the_study(tool, content, tmp_path, capsys):
    options = {**content["options"], "train_dataloader.dataset.data_root": "nowhere/"}
    file = write(tmp_path, {**content, "options": options})
    assert tool.main([str(file), "--work-dir", str(tmp_path / "work"), "--jobs", "2"]) == 1
    said = capsys.readouterr()
    for job in ("sigmoid BCE, seed 3", "DropLoss, seed 0"):
        assert f"{job} ended with exit status 1: FileNotFoundError: ann_file='nowhere" in said.err
        assert f"{job} is not done: " in said.err
    assert said.out.index("[2/2]") < said.out.index("FAILED"), "both run at once"


def test_a_machine_without_slurm_is_said_to_be_one(tool, content, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    arguments = [str(write(tmp_path, content)), "--work-dir", str(tmp_path / "work")]
    with pytest.raises(SystemExit, match=r"sbatch is not installed; --print gives the commands"):
        tool.main([*arguments, "--slurm", "gpu"])
