"""Numbers that were measured on other annotations do not come into one table."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from made_up_runs import BAD, GOOD, make_run

from mmdet_droploss.analysis.comparable_runs import load_tested
from mmdet_droploss.analysis.protocols import evaluate_again
from mmdet_droploss.analysis.report import compare
from mmdet_droploss.analysis.runs import InputError
from mmdet_droploss.evaluation import FastLVISMetric


def noted(folder: Path, file: str, sha256: str) -> Path:
    """Write into a run's numbers what they are of."""
    metrics = folder / "val.metrics.json"
    content = json.loads(metrics.read_text())
    content["annotations"] = dict(file=file, sha256=sha256)
    metrics.write_text(json.dumps(content))
    return folder


@pytest.fixture
def runs(tmp_path, dataset) -> list[str]:
    """Three seeds of one name and an old run, of which the second was tested on another file."""
    make_run(tmp_path / "0", dataset, GOOD, 0)
    for seed in (1, 2, 3):
        shutil.copytree(tmp_path / "0", tmp_path / str(seed))
        for file in (tmp_path / str(seed)).glob("*/vis_data/config.py"):
            file.write_text(file.read_text().replace("seed=70", f"seed={seed}"))
    noted(tmp_path / "0", "val.json", "a" * 64)
    noted(tmp_path / "1", "others.json", "b" * 64)
    noted(tmp_path / "2", "same.json", "a" * 64)
    return [f"mine={tmp_path / str(seed)}" for seed in (0, 1, 2)] + [f"old={tmp_path / '3'}"]


def test_a_run_on_other_annotations_is_left_out_and_named(runs, tmp_path):
    methods, (problem,) = load_tested(runs)
    assert [[run.folder.name for run in method.runs] for method in methods] == [["0", "2"], ["3"]]
    assert problem == (
        f"a run of mine is left out: {tmp_path / '1' / 'val.metrics.json'} is of others.json "
        f"(sha256 bbbbbbbb...), but {tmp_path / '0' / 'val.metrics.json'} of val.json "
        f"(aaaaaaaa...): only numbers by the same annotations can be compared; test it again on "
        f"these"
    )


def test_a_comparison_takes_it_if_its_numbers_are_those_of_ann(dataset, tmp_path):
    """The same annotations in another file: what counts is that every run is evaluated on --ann."""
    annotations = dataset / "annotations"
    names = []
    for seed, found in enumerate((GOOD, BAD)):
        make_run(tmp_path / str(seed), dataset, found, seed)
        noted(tmp_path / str(seed), f"val{seed}.json", str(seed) * 64)
        names.append(f"{seed}={tmp_path / str(seed)}")
    files = annotations / "val.json", str(annotations / "train.json")
    assert len(compare(*files, names, 0).methods) == 2
    metrics = tmp_path / "1" / "val.metrics.json"
    content = json.loads(metrics.read_text())
    content["metrics"]["segm_APf"] += 0.01
    metrics.write_text(json.dumps(content))
    with pytest.raises(InputError, match="the run was tested on other annotations"):
        compare(*files, names, 0)


def test_a_test_and_a_protocol_write_the_digest(dataset, tmp_path):
    ann_file = dataset / "annotations" / "val.json"
    make_run(tmp_path / "run", dataset, GOOD, 0)
    evaluate_again(
        tmp_path / "run", ann_file, str(dataset / "annotations" / "train.json"), tmp_path / "again"
    )
    metric = FastLVISMetric(str(ann_file), metric="bbox", outfile_prefix=str(tmp_path / "metric"))
    metric.evaluate(20)
    expected = dict(file=str(ann_file), sha256=hashlib.sha256(ann_file.read_bytes()).hexdigest())
    for file in (tmp_path / "again" / "val.metrics.json", tmp_path / "metric.metrics.json"):
        assert json.loads(file.read_text())["annotations"] == expected
