"""What is read in a work dir, and which runs are seeds of one training."""

from __future__ import annotations

import json
import math
import os
import shutil
import time

import pytest
from made_up_runs import CONFIG, write_config, write_log
from mmengine.config import Config

from mmdet_droploss.analysis.comparable_runs import load_methods, load_tested
from mmdet_droploss.analysis.figures import pick
from mmdet_droploss.analysis.runs import InputError, Method, Run, facts_of, load_run, load_scalars
from mmdet_droploss.analysis.tables import cell


def test_log_of_an_interrupted_run(tmp_path):
    write_log(tmp_path / "20260101_000000", range(1, 6), loss=9.0, tail='{"step": 6, "lo')
    write_log(tmp_path / "20260102_000000", range(4, 9), loss=1.0)
    records = [r for r in load_scalars(tmp_path) if "loss" in r]
    assert [r["step"] for r in records] == list(range(1, 9))
    assert [r["loss"] for r in records] == [9.0] * 3 + [1.0] * 5
    validations = [r["step"] for r in load_scalars(tmp_path) if "lvis/segm_AP" in r]
    assert validations == [8]  # that at 5 was of weights that were trained again


def test_a_shorter_training_begun_anew_is_not_mixed_with_the_longer(tmp_path):
    write_log(tmp_path / "20260101_000000", range(50, 1050, 50), loss=9.0)
    write_log(tmp_path / "20260102_000000", range(20, 420, 20), loss=1.0)
    records = [r for r in load_scalars(tmp_path) if "loss" in r]
    assert [r["step"] for r in records] == list(range(20, 420, 20))
    assert {r["loss"] for r in records} == {1.0}


@pytest.mark.parametrize(
    ("tested", "stored", "refused"),
    [
        ("2026-01-01 20:00", "2026-01-02 12:00", True),
        ("2026-01-03 20:00", "2026-01-02 12:00", False),
        # A copy that has new times, written in any order.
        ("2026-03-01 12:00", "2026-03-01 12:01", False),
        # Trained and tested where clocks are hours ahead.
        ("2026-01-02 10:00", "2026-01-02 04:00", False),
    ],
)
def test_numbers_of_an_earlier_training_are_refused(runs, tmp_path, tested, stored, refused):
    """The second training began on January 2nd at 12:00, by the name of its folder."""
    folder = tmp_path / "bad"
    shutil.copytree(runs[0] / "bad1", folder)
    write_log(folder / "20260102_120000", range(1, 3))
    config = folder / "20260102_120000" / "vis_data" / "config.py"
    shutil.copy(folder / "20260101_000000" / "vis_data" / "config.py", config)
    for file, text in ((folder / "val.metrics.json", tested), (config, stored)):
        when = time.mktime(time.strptime(text, "%Y-%m-%d %H:%M"))
        os.utime(file, (when, when))
    if not refused:
        assert load_run("bad", folder).scalars
        return
    with pytest.raises(InputError, match="was written before the latest training .*20260102_12"):
        load_run("bad", folder)
    methods, problems = load_tested([f"good={runs[0] / 'good1'}", f"bad={folder}"])
    assert [method.name for method in methods] == ["good"]
    assert "a run of bad is left out" in problems[0]


def test_runs_of_other_groups_do_not_come_into_one_table(runs, tmp_path):
    """They were tested with frequencies of different training sets."""
    folders = []
    for name, groups in (("a", "rrccff"), ("b", "rrccff"), ("c", "rccfff")):
        folders.append(f"{name}={tmp_path / name}")
        shutil.copytree(runs[0] / "bad1", tmp_path / name)
        file = tmp_path / name / "val.metrics.json"
        content = json.loads(file.read_text())
        for row, group in zip(content["per_category"], groups, strict=True):
            row["frequency"] = group
        file.write_text(json.dumps(content))
    methods, (problem,) = load_tested(folders)
    assert [method.name for method in methods] == ["a", "b"]
    assert "a run of c is left out" in problem and "other groups" in problem


def test_a_cascade_counts_by_its_last_stage(tmp_path):
    assert pick({"s0.acc_r": 1.0, "s2.acc_r": 3.0, "s1.acc_r": 2.0}, "acc_r") == 3.0
    assert pick({"loss": 1.0}, "acc_r") is None
    head = "[dict(loss_cls=dict(type='EQL'))]"
    (tmp_path / "config.py").write_text(CONFIG.format(head=head, seed=7, more=""))
    config = Config.fromfile(tmp_path / "config.py")
    run = Run("name", tmp_path, {}, [], [], config)
    facts = facts_of(run)
    assert (facts["loss"], facts["seed"], facts["iterations"]) == ("EQL", "7", "unknown")


SAMPLER = "train_dataloader = dict(num_workers={workers}, sampler=dict(type={type!r}, seed={seed}))"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(loss="EQL"), "loss_cls.type 'EQL' and 'DropLoss'; give each training a name"),
        (
            dict(more=SAMPLER.format(type="RepeatFactorSampler", seed=3, workers=2)),
            "train_dataloader.sampler.type 'RepeatFactorSampler' and None; give",
        ),
        (dict(more="train_cfg = dict(max_iters=9)\nparam_scheduler = [dict(end=9)]"), "1 settings"),
        (dict(seed=71), "both have seed 71"),
        (dict(more="custom_hooks = [dict(type='EMAHook')]"), "custom_hooks.0.type 'EMAHook' and"),
        (dict(more="load_from = 'lvis.pth'"), "load_from 'lvis.pth' and None"),
        (dict(more="auto_scale_lr = dict(enable=True, base_batch_size=16)"), "auto_scale_lr"),
    ],
)
def test_a_run_of_another_training_is_no_other_seed(runs, tmp_path, changed, message):
    root, _ = runs
    shutil.copytree(root / "bad2", tmp_path / "other")
    write_config(tmp_path / "other", **{"seed": 72, **changed})
    folders = [f"good={root / 'good1'}", f"bad={root / 'bad1'}", f"bad={tmp_path / 'other'}"]
    with pytest.raises(InputError, match=message):
        load_methods(folders)


@pytest.mark.parametrize("seed", [None, 2])
def test_seeds_may_differ_in_what_changes_no_step(runs, tmp_path, seed):
    root, _ = runs
    recorded = "custom_hooks = [dict(type='mmdet.CategoryGradientHook', interval=9)]"
    resumed = "resume = True\nload_from = 'bad2/iter_5.pth'\nauto_scale_lr = dict(enable=False)"
    for name, workers, first, more in (
        ("bad1", 2, None if seed is None else 1, recorded),
        ("bad2", 4, seed, resumed),
    ):
        shutil.copytree(root / name, tmp_path / name)
        sampler = SAMPLER.format(type="DefaultSampler", seed=workers, workers=workers)
        write_config(
            tmp_path / name,
            first,
            more=f"{sampler}\ntrain_cfg = dict(val_interval={workers})\n{more}",
        )
    folders = [f"good={root / 'good1'}", *(f"bad={tmp_path / name}" for name in ("bad1", "bad2"))]
    assert [len(method.runs) for method in load_methods(folders)] == [1, 2]


def test_the_report_names_the_config_of_the_training_not_of_a_test(runs, tmp_path):
    shutil.copytree(runs[0] / "bad1", tmp_path / "run")
    run = load_run("bad", tmp_path / "run")
    (tmp_path / "run" / "zz_test.py").write_text("batch_size = 1")
    assert facts_of(run)["config"] == "my_config.py or zz_test.py"
    log = tmp_path / "run" / "20260101_000000" / "vis_data" / "config.py"
    shutil.copy(log, tmp_path / "run" / "my_config.py")
    assert facts_of(run)["config"] == "my_config.py"


def test_seeds_without_a_rare_category_have_no_deviation(tmp_path):
    """LVIS has -1 where there is nothing to measure, and NaN has no deviation."""
    run = Run("a", tmp_path, {"segm_APr": -1.0}, [], [], None)
    method = Method("a", "black", [run, run])
    assert math.isnan(method.deviation("segm_APr")) and cell(method, "segm_APr") == "–"


@pytest.mark.parametrize("name", ["mmdet.BEQL", "mmdet_droploss.models.losses.BEQL"])
def test_a_loss_is_called_by_its_name_alone(tmp_path, name):
    config = Config(dict(model=dict(bbox_head=dict(loss_cls=dict(type=name)))))
    assert facts_of(Run("a", tmp_path, {}, [], [], config))["loss"] == "BEQL"
