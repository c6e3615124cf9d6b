""".dev_scripts/evidence.py: the tables of the pages are those of the results that are kept."""

from __future__ import annotations

import json
import shutil

import pytest
from scripts import ROOT, load_script


@pytest.fixture
def evidence():
    """The script as a module of its own, so that a test can change where it reads and writes."""
    return load_script(".dev_scripts/evidence.py")


def test_the_pages_have_what_was_measured(evidence, capsys):
    assert evidence.main(["--check"]) == 0, capsys.readouterr().err


@pytest.fixture
def kept(evidence, tmp_path, monkeypatch):
    """Two methods with two seeds each, their results known."""
    monkeypatch.setattr(
        evidence, "PROTOCOLS", {name: tmp_path / name for name in evidence.PROTOCOLS}
    )
    source = evidence.RESULTS / "sigmoid_bce" / "seed_0"
    metrics = json.loads((source / "val.metrics.json").read_bytes())
    for (method, seed), ap in {
        ("sigmoid_bce", 0): 0.40,
        ("sigmoid_bce", 1): 0.30,
        ("droploss", 0): 0.45,
        ("droploss", 1): 0.37,
    }.items():
        for shift, protocol in enumerate(evidence.PROTOCOLS):
            folder = tmp_path / protocol / method / f"seed_{seed}"
            folder.mkdir(parents=True)
            shutil.copyfile(source / "category_gradients.npz", folder / "category_gradients.npz")
            changed = {f"segm_{key}": ap - 0.02 * shift for key in evidence.KEYS}
            content = {**metrics, "metrics": {**metrics["metrics"], **changed}}
            (folder / "val.metrics.json").write_text(json.dumps(content))
    return tmp_path


def test_means_spreads_and_differences_seed_by_seed(evidence, kept):
    rows = evidence.method_rows().splitlines()[2:]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| sigmoid BCE", "2", "35.0 ± 7.1"],
        ["| DropLoss", "2", "41.0 ± 5.7"],
    ]
    assert rows[0].split(" | ")[6] == "33.0 ± 7.1", "the other protocol"
    (federated, exhaustive) = evidence.difference_rows().splitlines()[2:]
    assert federated.split(" | ")[:4] == [
        "| DropLoss − sigmoid BCE",  # noqa: RUF001
        "federated",
        "2",
        "+6.0 ± 1.4",
    ]
    assert " exhaustive " in exhaustive


def test_gradients_are_averaged_over_the_seeds(evidence, kept):
    rows = evidence.gradient_rows().splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["rare", "common", "frequent"] * 2
    assert all(row.split(" | ")[3].endswith(" ± 0") for row in rows), "two seeds, the same record"


def test_a_table_that_is_out_of_date_is_found_and_written(evidence, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- evidence methods: begin -->\n<!-- evidence methods: end -->\nb\n")
    monkeypatch.setattr(evidence, "PAGES", [page])
    assert evidence.main(["--check"]) == 1
    assert "out of date; run: python .dev_scripts/evidence.py" in capsys.readouterr().err
    assert evidence.main([]) == 0
    assert "| sigmoid BCE |" in page.read_text()
    assert page.read_text().startswith("a\n") and page.read_text().endswith("\nb\n")
    assert evidence.main(["--check"]) == 0


def test_results_of_what_is_done_are_kept(evidence, tmp_path, monkeypatch, capsys):
    config = ROOT / "configs" / "mini_lvis" / "mask_rcnn_r18_fpn_droploss_mini_lvis.py"
    (tmp_path / "c.py").write_text(f"_base_ = {str(config)!r}\n")
    (tmp_path / "a.json").write_text("{}")
    study = tmp_path / "small.yml"
    study.write_text(
        f"train_ann: {tmp_path / 'a.json'}\nval_ann: {tmp_path / 'a.json'}\nseeds: [0, 1]\n"
        "methods: [{name: One, config: c.py}]\n"
    )
    monkeypatch.setattr(evidence, "STUDIES", [study])
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    monkeypatch.setattr(evidence, "RESULTS", tmp_path / "kept")
    monkeypatch.setattr(evidence, "draw", lambda: None)  # it takes the data set
    source = evidence.PROTOCOLS["federated"] / "sigmoid_bce" / "seed_0"
    done = tmp_path / "work" / "one" / "seed_0"
    done.mkdir(parents=True)
    for name in ("val.metrics.json", "category_gradients.npz"):
        shutil.copyfile(source / name, done / name)
    evidence.load_study(study, tmp_path / "work").jobs[0].begin()  # writes job.json
    with pytest.raises(SystemExit, match=r"protocols/exhaustive.*--report writes it"):
        evidence.collect(tmp_path / "work")
    other = tmp_path / "work" / "protocols" / "exhaustive" / "one" / "seed_0"
    other.mkdir(parents=True)
    shutil.copyfile(source / "val.metrics.json", other / "val.metrics.json")
    # A second test, other numbers: those of the first are not kept beside them.
    note = other / "made_of.json"
    stat = (done / "val.metrics.json").stat()
    note.write_text(json.dumps({"results": {"val.metrics.json": [stat.st_size, 0]}}))
    with pytest.raises(
        SystemExit, match="is of an earlier test than .*--report evaluates it again"
    ):
        evidence.collect(tmp_path / "work")
    sizes = [stat.st_size, stat.st_mtime_ns]
    note.write_text(json.dumps({"results": {"val.metrics.json": sizes}}))
    evidence.collect(tmp_path / "work")
    assert "One, seed 1 is not done" in capsys.readouterr().out
    kept = sorted(
        file.relative_to(tmp_path / "kept").as_posix()
        for file in (tmp_path / "kept").rglob("*.*")
        if file.is_file()
    )
    assert kept == [
        "one/seed_0/category_gradients.npz",
        "one/seed_0/job.json",
        "one/seed_0/val.metrics.json",
        "protocols/exhaustive/one/seed_0/val.metrics.json",
    ]
