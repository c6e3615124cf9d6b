"""Validation protocols: their names, and results by another one."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from mmdet_droploss.analysis.detections import Detections
from mmdet_droploss.analysis.protocols import evaluate_again
from mmdet_droploss.analysis.runs import InputError, facts_of, load_run
from mmdet_droploss.annotations import load_class_frequency


def test_the_report_names_the_protocol(dataset, tmp_path):
    frequency = load_class_frequency(str(dataset / "annotations" / "train.json"))
    content = json.loads((dataset / "annotations" / "val.json").read_text())
    source = Detections(dataset / "annotations" / "val.json", frequency, ["segm"])
    assert source.protocol().name == "exhaustive"
    shown = [
        len({a["category_id"] for a in source.content["annotations"] if a["image_id"] == i})
        for i in range(1, 21)
    ]
    for image in content["images"]:
        image["neg_category_ids"] = image["neg_category_ids"][:2]
    (tmp_path / "val.json").write_text(json.dumps(content))
    protocol = Detections(tmp_path / "val.json", frequency, ["segm"]).protocol()
    assert protocol.name == "federated"
    assert (protocol.shown, protocol.listed) == (np.mean(shown), 2)
    assert f"({np.mean(shown):.1f} on average)" in str(protocol)


def test_a_protocol_s_results_follow_what_they_are_made_of(dataset, runs, tmp_path):
    """By content: a file may be older than the results, and still be another one."""
    run, target = tmp_path / "run", tmp_path / "target"
    shutil.copytree(runs[0] / "good1", run)
    written, note = target / "val.metrics.json", target / "made_of.json"
    annotations = dataset / "annotations"
    content = json.loads((annotations / "val.json").read_text())
    content["annotations"] = content["annotations"][10:]
    fewer = tmp_path / "fewer.json"
    fewer.write_text(json.dumps(content))
    counts = json.loads((annotations / "train.json").read_text())
    counts["image_count"] = counts["image_count"][::-1]
    (tmp_path / "train.json").write_text(json.dumps(counts))
    for file in (fewer, tmp_path / "train.json"):
        os.utime(file, (0, 0))

    def again(ann=annotations / "val.json", train=annotations / "train.json") -> tuple[bool, dict]:
        before = written.stat().st_mtime_ns if written.is_file() else 0
        evaluate_again(run, ann, str(train), target)
        return written.stat().st_mtime_ns != before, json.loads(written.read_text())["metrics"]

    expected = json.loads((run / "val.metrics.json").read_text())["metrics"]
    assert again() == (True, expected)
    assert again() == (False, expected)
    anew, metrics = again(ann=fewer)
    assert anew and metrics["segm_AP"] != expected["segm_AP"]
    assert again() == (True, expected)
    anew, metrics = again(train=tmp_path / "train.json")
    assert anew and metrics["segm_APr"] != expected["segm_APr"]
    assert again() == (True, expected)
    os.utime(run / "val.segm.json", (0, 0))  # as a copy of another test's results would be
    assert again() == (True, expected)
    note.unlink()  # as 0.1.0 left it
    assert again() == (True, expected)
    # The copy says, as the run does, what it was trained with.
    facts = facts_of(load_run("a", target))
    assert (facts["loss"], facts["seed"], facts["iterations"]) == ("DropLoss", "71", "10")


def test_groups_that_are_not_those_of_the_test_are_refused(dataset, runs, tmp_path):
    """The test took the letters of its file, a protocol takes the counts of train_ann."""
    run, annotations = tmp_path / "run", dataset / "annotations"
    shutil.copytree(runs[0] / "good1", run)
    content = json.loads((run / "val.metrics.json").read_text())
    for row, letter in zip(content["per_category"], "rrccff", strict=True):
        row["frequency"] = letter
    (run / "val.metrics.json").write_text(json.dumps(content))
    evaluate_again(run, annotations / "val.json", str(annotations / "train.json"), tmp_path / "a")
    counts = json.loads((annotations / "train.json").read_text())
    counts["image_count"] = [2, 20, *counts["image_count"][2:]]
    (tmp_path / "train.json").write_text(json.dumps(counts))
    with pytest.raises(InputError, match="category 'thing2' in group 'r', but .* it is in 'c'"):
        evaluate_again(run, annotations / "val.json", str(tmp_path / "train.json"), tmp_path / "b")
    assert not (tmp_path / "b").exists()
