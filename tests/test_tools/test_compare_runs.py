"""tools/analysis_tools/compare_runs.py on made-up runs, whose numbers are known."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import load_script

from mmdet_droploss.analysis.detections import Detections
from mmdet_droploss.analysis.report import compare as compare_all


@pytest.fixture(scope="module")
def tool():
    """The script as a module."""
    return load_script("tools/analysis_tools/compare_runs.py")


def compare(tool, dataset: Path, out: Path, *arguments: object) -> None:
    annotations = dataset / "annotations"
    files = ["--ann", annotations / "val.json", "--train-ann", annotations / "train.json"]
    tool.main([str(a) for a in (*files, "--out", out, *arguments)])


class Report(HTMLParser):
    """What a reader sees: the cells of the tables, the text, the figures."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.figures: list[bytes] = []
        self.text = ""
        self.links: list[str] = []
        self.feed(html)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "img":
            self.figures.append(base64.b64decode(values["src"].partition("base64,")[2]))
        self.links += [values[key] for key in ("src", "href") if key in values]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += " " + data
        if "td" in self.open:
            self.cells[-1] += data


def test_report_holds_the_measured_numbers(tool, dataset, runs, tmp_path, capsys):
    root, made = runs
    names = ("--run", f"one <b>={root / 'bad1'}", "--run", f"two={root / 'good1'}")
    compare(tool, dataset, tmp_path, *names, "--bootstrap", 50, "--command", "bash made.sh")
    report = Report((tmp_path / "report.html").read_text())

    first, second = (made[name] for name in ("bad1", "good1"))
    for key in ("segm_AP", "segm_APr", "segm_APc", "segm_APf", "bbox_AP", "bbox_APf"):
        assert f"{100 * first[key]:.1f}" in report.cells
        assert f"{100 * second[key]:.1f}" in report.cells
        difference = f"{100 * (second[key] - first[key]):+.1f} ["
        shown = [cell for cell in report.cells if cell.startswith(difference)]
        assert shown, key
        for text in shown:
            value, low, high = map(float, re.findall(r"[+-][\d.]+", text))
            assert low <= value <= high, key

    # The file stands alone, and the same figures lie beside it.
    assert all(link.startswith("data:") for link in report.links)
    beside = {file.read_bytes() for file in tmp_path.glob("*.png")}
    assert beside == set(report.figures)
    assert len(beside) == 4
    for png in beside:
        with Image.open(io.BytesIO(png)) as image:
            image.verify()

    for fact in ("one <b>", "my_config.py", "DropLoss", "bash made.sh", "hotcoco", "71", "0.50 s"):
        assert fact in report.text, fact
    assert "'bash made.sh'" not in report.text  # quoted once, not within our own command
    table = capsys.readouterr().out
    assert "| Mask | AP | APr | APc | APf |" in table
    assert f"| two | {100 * second['segm_AP']:.1f} |" in table


@pytest.mark.parametrize(
    ("baseline", "other", "word"), [("bad1", "good1", "above"), ("good1", "bad1", "below")]
)
def test_words_follow_the_numbers(tool, dataset, runs, tmp_path, baseline, other, word):
    root, _ = runs
    names = ("--run", f"a={root / baseline}", "--run", f"b={root / other}")
    compare(tool, dataset, tmp_path, *names, "--bootstrap", 50, "--images", 0)
    report = Report((tmp_path / "report.html").read_text())
    assert re.search(rf"Mask AP of b compared with a: [\d.]+ points {word}", report.text)
    assert re.search(rf"on rare categories it is [\d.]+ points {word}", report.text)
    assert not (tmp_path / "pictures.png").exists()
    assert "Predictions" not in report.text


def test_several_seeds_give_mean_and_deviation(tool, dataset, runs, tmp_path, capsys):
    root, made = runs
    names = [f"--run={name[:-1]}={root / name}" for name in ("bad1", "good1", "bad2", "good2")]
    compare(tool, dataset, tmp_path, *names, "--images", 0)
    values = [100 * made[f"good{seed}"]["segm_APc"] for seed in (1, 2)]
    expected = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if line.startswith("| good (2 seeds)"))
    assert row.split(" | ")[3] == expected
    assert "Welch" in (tmp_path / "report.html").read_text()


def test_errors_say_what_to_do(tool, dataset, runs, tmp_path):
    root, _ = runs
    good, bad = f"--run=good={root / 'good1'}", f"--run=bad={root / 'bad1'}"
    for arguments, message in (
        ((good, f"--run=x={tmp_path / 'no'}"), r"val\.metrics\.json does not exist; test the run"),
        ((good,), "nothing to compare"),
        ((good, "--run=just_a_name"), '"NAME=DIR"'),
        ((good, bad, f"--run=bad={root / 'bad1'}"), "bad1 is given twice"),
        ((good, f"--run=again={root / 'good2' / '..' / 'good1'}"), "good1 is given twice"),
        ((good, bad, "--img-root", tmp_path), "--images 0"),
        ((good, bad, "--ann", tmp_path / "no.json"), r"no\.json does not exist"),
        ((good, bad, "--train-ann", "lvis_v1"), "has 1203 categories"),
    ):
        with pytest.raises(SystemExit, match=message):
            compare(tool, dataset, tmp_path / "out", *arguments, "--bootstrap", 10)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "bootstrap"),
    [
        (("good1", "bad1"), 10),
        (("good1", "bad1"), 0),
        (("good1", "good2", "bad1", "bad2"), 10),
    ],
)
def test_runs_of_other_annotations_are_refused(tool, dataset, runs, tmp_path, names, bootstrap):
    root, _ = runs
    content = json.loads((dataset / "annotations" / "val.json").read_text())
    content["annotations"] = content["annotations"][10:]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    arguments = [f"--run={name[:-1]}={root / name}" for name in names]
    arguments += ["--ann", other, "--images", 0, "--bootstrap", bootstrap]
    with pytest.raises(SystemExit, match="good1/val.metrics.json .* tested on other annotations"):
        compare(tool, dataset, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_every_seed_is_checked(tool, dataset, runs, tmp_path):
    root, _ = runs
    shutil.copytree(root / "bad2", tmp_path / "run")
    shutil.copy(root / "bad1" / "val.bbox.json", tmp_path / "run")
    names = [f"--run={name[:-1]}={root / name}" for name in ("good1", "bad1")]
    message = "run/val.metrics.json says bbox AP .* is no longer that of the test"
    with pytest.raises(SystemExit, match=message):
        compare(tool, dataset, tmp_path / "out", *names, f"--run=bad={tmp_path / 'run'}")


def test_groups_of_another_training_set_are_not_those_of_the_test(tool, dataset, runs, tmp_path):
    root, _ = runs
    content = json.loads((dataset / "annotations" / "train.json").read_text())
    content["image_count"] = content["image_count"][::-1]
    (tmp_path / "train.json").write_text(json.dumps(content))
    names = [f"--run={name[:-1]}={root / name}" for name in ("good1", "bad1")]
    with pytest.raises(SystemExit, match="APr .* --train-ann makes other groups"):
        compare(tool, dataset, tmp_path, *names, "--train-ann", tmp_path / "train.json")


def test_each_run_is_evaluated_once(dataset, runs, monkeypatch):
    """Also with intervals, although the evaluations of all runs would not fit into memory."""
    evaluated = []
    original = Detections._evaluation

    def count(self, file, iou_type):
        evaluated.append((file.parent.name, iou_type))
        return original(self, file, iou_type)

    monkeypatch.setattr(Detections, "_evaluation", count)
    names = ("good1", "bad1", "bad2", "good2")
    annotations = dataset / "annotations"
    arguments = [f"{name}={runs[0] / name}" for name in names]
    compare_all(annotations / "val.json", str(annotations / "train.json"), arguments, 10)
    assert evaluated == [(name, kind) for kind in ("segm", "bbox") for name in names]


def first(content: dict) -> dict:
    return content["annotations"][0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: first(c).update(segmentation=[]), "1 annotations have no segmentation .*: id 1"),
        (lambda c: first(c).pop("segmentation"), "1 annotations have no segmentation"),
        (lambda c: first(c).update(segmentation=[[1.0, 1.0, 9.0, 9.0]]), "three points or more"),
        (lambda c: first(c).update(segmentation=[1, 1, 9, 1, 9, 9]), "a list of polygons"),
        (lambda c: first(c).update(segmentation=[[1, 1, 9, None, 9, 9]]), "a list of polygons"),
        (lambda c: first(c).update(segmentation={"size": [64, 64]}), "size and counts"),
        (lambda c: first(c).update(segmentation="polygon"), "segmentation that is neither"),
        (
            lambda c: first(c).update(segmentation={"size": [64, 64], "counts": [64, 9]}),
            "before the picture does: id 1; .*correct the file, or .*compare_runs.py compares",
        ),
        (lambda c: [a.pop("bbox") for a in c["annotations"]], "38 annotations have no .*box"),
        (lambda c: first(c).update(bbox=[1, 2, 3]), r"bbox|box of four numbers"),
        (lambda c: first(c).pop("area"), "area"),
        (lambda c: first(c).update(area=None), "area"),
        (lambda c: c["images"][0].update(neg_category_ids=None), "neg_category_ids"),
        (lambda c: c["images"][0].pop("height"), "height"),
        (lambda c: c["images"][3].update(width=63), "width"),
        (lambda c: c.update(annotations=c["annotations"][10:]), "tested on other annotations"),
        (lambda c: c.update(images=c["images"][:5]), "image id 6, that --ann"),
        (lambda c: c.update(categories=c["categories"][:5]), "categories"),
        (lambda c: c["categories"].reverse(), "categories .*--train-ann of compare_runs.py"),
    ],
)
def test_annotations_that_cannot_be_compared_get_a_sentence(
    tool, dataset, runs, tmp_path, edit, message
):
    root, _ = runs
    content = json.loads((dataset / "annotations" / "val.json").read_text())
    edit(content)
    (tmp_path / "val.json").write_text(json.dumps(content))
    names = (f"--run=good={root / 'good1'}", f"--run=bad={root / 'bad1'}")
    files = ("--ann", tmp_path / "val.json", "--img-root", dataset)
    with pytest.raises(SystemExit, match=message) as error:
        compare(tool, dataset, tmp_path / "out", *names, *files, "--bootstrap", 10)
    assert str(error.value).startswith("compare_runs.py: error: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("val.segm.json", lambda text: text[:-20], "perhaps cut short"),
        ("val.segm.json", lambda text: b"", "perhaps cut short"),
        ("val.segm.json", lambda text: b"[]", "says segm AP .* is no longer that of the test"),
        ("val.segm.json", lambda text: b'{"a": 1}', "must hold a list"),
        ("val.segm.json", lambda text: b"[7]", "detection 0 must be an object"),
        ("val.segm.json", lambda text: text.replace(b'"score"', b'"scores"'), "has no score"),
        ("val.segm.json", lambda text: text.replace(b"[64,64]", b"[64,63]"), "height and width"),
        ("val.segm.json", lambda text: text.replace(b'"image_id":1,', b'"image_id":99,'), "99"),
        ("val.bbox.json", lambda text: text.replace(b'_id":5,', b'_id":77,'), "id 77, that --ann"),
        ("val.bbox.json", lambda text: text.replace(b'"bbox":[', b'"bbox":[0,'), "four numbers"),
        ("val.metrics.json", lambda text: text[:-2], "cut short"),
        ("val.metrics.json", lambda text: b'{"metrics": {}}', "per_category"),
        ("val.metrics.json", lambda text: b"[]", "val.metrics.json is not what"),
        ("val.metrics.json", lambda text: text.replace(b'_AP":', b'":'), "no metric in common"),
        ("val.metrics.json", lambda text: text.replace(b'thing6"', b'thing7"'), "other categories"),
        ("20260101_000000/vis_data/config.py", lambda text: b"model = (", "as a config"),
    ],
)
def test_files_of_a_run_that_are_broken_get_a_sentence(
    tool, dataset, runs, tmp_path, name, edit, message
):
    root, _ = runs
    broken = tmp_path / "run"
    shutil.copytree(root / "bad1", broken)
    (broken / name).write_bytes(edit((broken / name).read_bytes()))
    names = (f"--run=good={root / 'good1'}", f"--run=bad={broken}")
    with pytest.raises(SystemExit, match=message) as error:
        compare(tool, dataset, tmp_path / "out", *names, "--images", 0, "--bootstrap", 10)
    assert str(error.value).startswith("compare_runs.py: error: ")
    assert not (tmp_path / "out").exists()


def test_masks_that_one_run_lacks_are_left_out_and_that_is_said(
    tool, dataset, runs, tmp_path, capsys
):
    root, _ = runs
    shutil.copytree(root / "bad1", tmp_path / "boxes")
    file = tmp_path / "boxes" / "val.metrics.json"
    file.write_text(file.read_text().replace('"segm_', '"other_'))
    names = (f"--run=good={root / 'good1'}", f"--run=bad={tmp_path / 'boxes'}")
    compare(tool, dataset, tmp_path / "out", *names, "--bootstrap", 0)
    said = capsys.readouterr().out
    assert "Mask AP is left out" in said and "| Mask |" not in said
    assert "Mask AP is left out" in (tmp_path / "out" / "report.html").read_text()


def test_pictures_that_do_not_fit_get_a_sentence(tool, dataset, runs, tmp_path):
    root, _ = runs
    names = (f"--run=good={root / 'good1'}", f"--run=bad={root / 'bad1'}", "--bootstrap", 0)
    for make, message in (
        (lambda file: Image.new("RGB", (10, 20)).save(file), "has height and width"),
        (lambda file: file.write_text("no picture"), "no picture that can be read"),
    ):
        for image_id in range(1, 21):
            file = tmp_path / "val2017" / f"{image_id:012d}.jpg"
            file.parent.mkdir(exist_ok=True)
            make(file)
        with pytest.raises(SystemExit, match=message):
            compare(tool, dataset, tmp_path / "out", *names, "--img-root", tmp_path)


def test_boxes_need_no_masks_and_categories_no_names(tool, dataset, runs, tmp_path, capsys):
    """A COCO-format set of boxes: no segmentation, no federated lists, no frequencies, no names."""
    root, made = runs
    content = json.loads((dataset / "annotations" / "val.json").read_text())
    for annotation in content["annotations"]:
        annotation.update(segmentation=[])
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    content["categories"] = [dict(id=c["id"]) for c in content["categories"]]
    (tmp_path / "val.json").write_text(json.dumps(content))
    names = []
    for name in ("good1", "bad1"):
        shutil.copytree(root / name, tmp_path / name)
        file = tmp_path / name / "val.metrics.json"
        found = json.loads(file.read_text())
        found["metrics"] = {k: v for k, v in found["metrics"].items() if k.startswith("bbox")}
        file.write_text(json.dumps(found))
        names.append(f"--run={name}={tmp_path / name}")
    compare(tool, dataset, tmp_path / "out", *names, "--ann", tmp_path / "val.json")
    report = Report((tmp_path / "out" / "report.html").read_text())
    assert f"{100 * made['bad1']['bbox_APr']:.1f}" in report.cells
    assert "Exhaustive validation" in report.text
    assert "Exhaustive validation" in capsys.readouterr().out
