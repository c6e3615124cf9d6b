"""tools/analysis_tools/compare_runs.py on made-up runs, whose numbers are known."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import math
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import orjson
import pytest
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as mask_utils

from mmdet_droploss.analysis.detections import Detections
from mmdet_droploss.analysis.figures import (
    pick,
    plot_categories,
    plot_curves,
    plot_differences,
)
from mmdet_droploss.analysis.gallery import Gallery, find_image
from mmdet_droploss.analysis.intervals import Difference, seed_difference
from mmdet_droploss.analysis.protocols import evaluate_again
from mmdet_droploss.analysis.report import build_figures
from mmdet_droploss.analysis.report import compare as compare_all
from mmdet_droploss.analysis.runs import (
    InputError,
    Method,
    Run,
    facts_of,
    load_methods,
    load_run,
    load_scalars,
)
from mmdet_droploss.analysis.tables import cell, markdown
from mmdet_droploss.annotations import ClassFrequency, load_class_frequency
from mmdet_droploss.annotations.ground_truth import GroundTruth
from mmdet_droploss.evaluation import METRIC_KEYS
from mmdet_droploss.evaluation.lvis_evaluator import category_ap, evaluate_results

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "analysis_tools" / "compare_runs.py"
SIZE = 64
#: Training images of the six categories: two rare, two common, two frequent.
COUNTS = (2, 9, 20, 90, 150, 400)
CONFIG = """
model = dict(roi_head=dict(bbox_head={head}))
randomness = dict(seed={seed})
{more}
"""


@pytest.fixture(scope="module")
def tool():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("compare_runs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """20 images with two or three squares each, in LVIS v1's format."""
    root = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (root / "val2017").mkdir()
    for image_id in range(1, 21):
        name = f"val2017/{image_id:012d}.jpg"
        Image.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8)).save(root / name)
        # The first three images hold both rare categories.
        categories = [1, 2, 5] if image_id <= 3 else [3 + image_id % 4, 1 + image_id % 6]
        for slot, category in enumerate(dict.fromkeys(categories)):
            x, y, side = 2 + 20 * slot, 5 + 2 * (image_id % 10), 16
            box = [x, y, x + side, y, x + side, y + side, x, y + side]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=category,
                    segmentation=[box],
                    bbox=[x, y, side, side],
                    area=side * side,
                )
            )
        images.append(
            dict(
                id=image_id,
                width=SIZE,
                height=SIZE,
                coco_url=f"http://images.cocodataset.org/{name}",
                neg_category_ids=[c for c in range(1, 7) if c not in categories],
                not_exhaustive_category_ids=[],
            )
        )
    groups = "rrccff"
    categories = [
        dict(id=k + 1, name=f"thing{k + 1}", frequency=groups[k], image_count=COUNTS[k])
        for k in range(6)
    ]
    (root / "annotations").mkdir()
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / "annotations" / "val.json").write_text(json.dumps(content))
    counts = dict(image_count=COUNTS, num_images=500, classes=[c["name"] for c in categories])
    (root / "annotations" / "train.json").write_text(json.dumps(counts))
    return root


def detections(truth: dict, found: dict[str, float], seed: int) -> dict[str, list[dict]]:
    """Perfect masks for a share of the objects of each group, and some wrong ones."""
    rng = np.random.default_rng(seed)
    groups = {c["id"]: c["frequency"] for c in truth["categories"]}
    results: dict[str, list[dict]] = {"bbox": [], "segm": []}
    for annotation in truth["annotations"]:
        category = annotation["category_id"]
        if rng.random() >= found[groups[category]]:
            category = category % 6 + 1
        base = dict(
            image_id=annotation["image_id"], category_id=category, score=0.4 + 0.6 * rng.random()
        )
        rle = mask_utils.frPyObjects(annotation["segmentation"], SIZE, SIZE)[0]
        rle = {"size": rle["size"], "counts": rle["counts"].decode()}
        results["bbox"].append(base | dict(bbox=annotation["bbox"]))
        results["segm"].append(base | dict(segmentation=rle))
    return results


def make_run(folder: Path, dataset: Path, found: dict[str, float], seed: int) -> dict[str, float]:
    """Write what a training and its test leave in a work dir; returns the metrics."""
    truth = GroundTruth(str(dataset / "annotations" / "val.json"))
    metrics: dict[str, float] = {}
    rows = [dict(name=c["name"]) for c in truth.categories]
    folder.mkdir(parents=True)
    for iou_type, results in detections(truth.content(), found, seed).items():
        (folder / f"val.{iou_type}.json").write_bytes(orjson.dumps(results))
        evaluation = evaluate_results(truth, results, iou_type)
        evaluation.summary_lines()
        numbers = evaluation.get_results()
        metrics |= {f"{iou_type}_{key}": numbers[key] for key in METRIC_KEYS}
        for row, ap in zip(rows, category_ap(evaluation), strict=True):
            row[f"{iou_type}_AP"] = None if np.isnan(ap) else float(ap)
    content = dict(metrics=metrics, per_category=rows)
    (folder / "val.metrics.json").write_bytes(orjson.dumps(content))
    write_log(folder / "20260101_000000", range(1, 11))
    (folder / "my_config.py").write_text("")
    write_config(folder, 70 + seed)
    return metrics


def write_config(folder: Path, seed: int, loss: str = "DropLoss", more: str = "") -> None:
    """The config that a training leaves."""
    head = f"dict(loss_cls=dict(type={loss!r}))"
    file = folder / "20260101_000000" / "vis_data" / "config.py"
    file.write_text(CONFIG.format(head=head, seed=seed, more=more))


def write_log(folder: Path, steps, loss: float = 2.0, tail: str = "") -> None:
    """A log as MMEngine writes it."""
    (folder / "vis_data").mkdir(parents=True)
    lines = [
        json.dumps(dict(step=k, loss=loss, loss_cls=1.0, acc_r=0.0, acc_c=1.0, acc_f=2.0, time=0.5))
        for k in steps
    ]
    lines.append(json.dumps({"step": 0, "lvis/segm_AP": 0.25}))
    (folder / "vis_data" / "scalars.json").write_text("\n".join(lines) + "\n" + tail)


GOOD, BAD = dict(r=0.9, c=0.9, f=0.9), dict(r=0.0, c=0.3, f=0.9)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, dataset: Path) -> tuple[Path, dict[str, dict[str, float]]]:
    """A good and a bad run, two seeds each."""
    root = tmp_path_factory.mktemp("runs")
    made = {
        f"{name}{seed}": make_run(root / f"{name}{seed}", dataset, found, seed)
        for name, found in (("good", GOOD), ("bad", BAD))
        for seed in (1, 2)
    }
    return root, made


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


def test_names_are_shown_as_they_are(dataset, runs, tmp_path):
    """matplotlib hides labels that begin with _, and stops at a $ that begins no formula."""
    root, annotations = runs[0], dataset / "annotations"
    arguments = [f"_a $\\frac$={root / 'bad1'}", f"b | c$={root / 'good1'}"]
    files = annotations / "val.json", str(annotations / "train.json")
    comparison = compare_all(*files, arguments, 0)
    build_figures(comparison, None, 0, 0.3)  # draws all
    for figure in (
        plot_curves(comparison.methods),
        plot_categories(comparison.methods, comparison.frequency, "segm"),
    ):
        texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert texts == [" _a $\\frac$", "b | c$"]
    assert "\n| b \\| c$ | " in markdown(comparison.tables())


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


def test_an_interval_of_seeds_agrees_with_the_t_table():
    # Equal variances 2, n = 2 each: standard error sqrt(2), 2 degrees of freedom, t = 4.3027.
    delta = seed_difference([1.0, 3.0], [11.0, 13.0])
    assert delta.value == pytest.approx(10)
    assert delta.lower == pytest.approx(10 - 4.3027 * 2**0.5, abs=1e-3)
    assert delta.upper == pytest.approx(10 + 4.3027 * 2**0.5, abs=1e-3)
    assert not seed_difference([1.0], [2.0, 3.0]).has_interval


def test_an_interval_of_seeds_takes_no_variances_for_equal():
    """Welch's: var/n is 2/2 and 7.5/5, (1 + 1.5)^2 / (1^2/1 + 1.5^2/4) = 4 degrees of freedom."""
    delta = seed_difference([1.0, 3.0], [10.0, 10.0, 15.0, 15.0, 15.0])
    assert delta.value == pytest.approx(11)
    assert delta.lower == pytest.approx(11 - 2.7764 * 2.5**0.5, abs=1e-3)
    assert delta.upper == pytest.approx(11 + 2.7764 * 2.5**0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words", "cell"),
    [
        ((2.34, 1.0, 3.0), "2.3 points above", "+2.3 [+1.0, +3.0]"),
        ((-2.34, -3.0, -1.0), "2.3 points below", "-2.3 [-3.0, -1.0]"),
        ((2.34, -1.0, 3.0), "2.3 points above (the interval includes 0)", "+2.3 [-1.0, +3.0]"),
        ((-2.34,), "2.3 points below", "-2.3"),
        ((0.01, -1.0, 1.0), "equal to one decimal", "+0.0 [-1.0, +1.0]"),
        ((float("nan"),), "not measurable", "–"),
    ],
)
def test_difference_in_words(arguments, words, cell):
    delta = Difference(*arguments)
    assert delta.words == words
    assert str(delta) == cell


def test_log_of_an_interrupted_run(tmp_path):
    write_log(tmp_path / "20260101_000000", range(1, 6), loss=9.0, tail='{"step": 6, "lo')
    write_log(tmp_path / "20260102_000000", range(4, 9), loss=1.0)
    records = [r for r in load_scalars(tmp_path) if "loss" in r]
    assert [r["step"] for r in records] == list(range(1, 9))
    assert [r["loss"] for r in records] == [9.0] * 3 + [1.0] * 5
    validations = [r["step"] for r in load_scalars(tmp_path) if "lvis/segm_AP" in r]
    assert validations == [5, 8]


def test_a_cascade_counts_by_its_last_stage(tmp_path):
    assert pick({"s0.acc_r": 1.0, "s2.acc_r": 3.0, "s1.acc_r": 2.0}, "acc_r") == 3.0
    assert pick({"loss": 1.0}, "acc_r") is None
    head = "[dict(loss_cls=dict(type='EQL'))]"
    (tmp_path / "config.py").write_text(CONFIG.format(head=head, seed=7, more=""))
    config = Config.fromfile(tmp_path / "config.py")
    run = Run("name", tmp_path, {}, [], [], config)
    facts = facts_of(run)
    assert (facts["loss"], facts["seed"], facts["iterations"]) == ("EQL", "7", "unknown")


def test_pictures_are_chosen_by_ground_truth_and_matches_are_marked(dataset):
    annotations = dataset / "annotations"
    frequency = load_class_frequency(str(annotations / "train.json"))
    source = Detections(annotations / "val.json", frequency, ["segm"])
    gallery = Gallery(source, frequency, dataset)
    assert [image["id"] for image in gallery.choose(3)] == [1, 2, 3]
    image = gallery.choose(1)[0]
    truth = gallery.truth(image)
    first = source.content["annotations"][0]
    rle = mask_utils.frPyObjects(first["segmentation"], SIZE, SIZE)[0]
    found = [
        dict(category_id=first["category_id"], score=score, segmentation=rle)
        for score in (0.5, 0.9, 0.1)
    ]
    shapes = gallery.predictions(found, truth, threshold=0.3)
    # The better one takes the ground truth; the second is a duplicate; the third scores too low.
    assert [(shape.text[-4:], shape.right) for shape in shapes] == [("0.90", True), ("0.50", False)]


def test_image_files_of_every_format(tmp_path):
    (tmp_path / "val2017").mkdir()
    expected = tmp_path / "val2017" / "000000000009.jpg"
    expected.touch()
    for image in (
        dict(coco_url="http://images.cocodataset.org/val2017/000000000009.jpg"),
        dict(file_name="COCO_val2014_000000000009.jpg"),
        dict(file_name="000000000009.jpg"),
        dict(file_name="val2017/000000000009.jpg"),
    ):
        assert find_image(image, tmp_path) == expected
    with pytest.raises(InputError, match="--img-root"):
        find_image(dict(file_name="000000000010.jpg"), tmp_path)


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
def test_a_run_of_another_training_is_no_other_seed(
    tool, dataset, runs, tmp_path, changed, message
):
    root, _ = runs
    shutil.copytree(root / "bad2", tmp_path / "other")
    write_config(tmp_path / "other", **{"seed": 72, **changed})
    names = [f"--run={name[:-1]}={root / name}" for name in ("good1", "bad1")]
    with pytest.raises(SystemExit, match=message):
        compare(tool, dataset, tmp_path / "out", *names, f"--run=bad={tmp_path / 'other'}")


@pytest.mark.parametrize("seed", [None, 2])
def test_seeds_may_differ_in_what_changes_no_step(dataset, runs, tmp_path, seed):
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


@pytest.mark.parametrize("orientation", [1, 3])
def test_pictures_are_turned_as_the_pipeline_turns_them(dataset, tmp_path, orientation):
    frequency = load_class_frequency(str(dataset / "annotations" / "train.json"))
    source = Detections(dataset / "annotations" / "val.json", frequency, ["segm"])
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[: SIZE // 2, : SIZE // 2] = [255, 0, 0]
    image = source.content["images"][0]
    file = tmp_path / image["coco_url"].partition("org/")[2]
    file.parent.mkdir()
    lies = Image.fromarray(pixels)
    exif = lies.getexif()
    exif[0x0112] = orientation  # 3: by 180 degrees
    lies.save(file, exif=exif, quality=95)
    seen = Gallery(source, frequency, tmp_path).pixels(image)
    corner = seen[2, 2] if orientation == 1 else seen[-3, -3]
    assert corner[0] > 200 and corner[2] < 50
    assert seen.mean() == pytest.approx(255 / 12, abs=3)


def test_a_picture_that_was_annotated_as_it_is_stored_is_shown_so(dataset, tmp_path):
    """With color_type='color_ignore_orientation' the pipeline loads it so."""
    frequency = load_class_frequency(str(dataset / "annotations" / "train.json"))
    source = Detections(dataset / "annotations" / "val.json", frequency, ["segm"])
    image = dict(id=1, file_name="lies.png", width=20, height=10)
    stored = Image.new("RGB", (20, 10), (0, 0, 255))
    exif = stored.getexif()
    exif[0x0112] = 6  # by 90 degrees
    stored.putpixel((0, 0), (255, 0, 0))
    stored.save(tmp_path / "lies.png", exif=exif)
    gallery = Gallery(source, frequency, tmp_path)
    pixels = gallery.pixels(image)
    assert pixels.shape[:2] == (10, 20) and tuple(pixels[0, 0]) == (255, 0, 0)
    turned = gallery.pixels({**image, "width": 10, "height": 20})
    assert turned.shape[:2] == (20, 10) and tuple(turned[0, -1]) == (255, 0, 0)
    with pytest.raises(InputError, match="has height and width"):
        gallery.pixels({**image, "height": 11})


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


def test_figure_4_has_two_methods_on_the_same_images(dataset, runs, tmp_path, capsys):
    path = SCRIPT.with_name("tradeoff_figures.py")
    spec = importlib.util.spec_from_file_location("tradeoff_figures_tool", path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    root, annotations = runs[0], dataset / "annotations"
    arguments = [f"--run=bad={root / 'bad1'}", f"--run=good={root / 'good1'}", "--images=1"]
    arguments += [f"--out={tmp_path}", f"--ann={annotations / 'val.json'}"]
    arguments += [f"--train-ann={annotations / 'train.json'}", "--pictures", "good"]
    assert program.main([*arguments, "bad"]) == 0
    assert (tmp_path / "figure4.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "figure4.svg").read_text()
    assert text.index("ground truth") < text.index("good: ") < text.index("bad: ")
    (tmp_path / "figure3.svg").unlink()
    capsys.readouterr()
    assert program.main([*arguments, "nobody"]) == 1
    assert "--pictures 'nobody' is none of bad, good" in capsys.readouterr().err
    assert (tmp_path / "figure3.svg").is_file()


def two_seeds(name, *rows) -> Method:
    """Each row has the category APs of a seed; its last loss is 1, 2, ..., its val AP 0.1, ..."""
    runs = []
    for seed, row in enumerate(rows, 1):
        log = [{"step": 1, "loss": 9}, {"step": 2, "loss": seed}]
        log.append({"step": 2, "lvis/segm_AP": seed / 10})
        runs.append(Run(name, Path(), {}, [{"segm_AP": ap} for ap in row], log, None))
    return Method(name, "black", runs)


def test_the_figures_draw_the_means_over_the_seeds_in_percent():
    methods = [
        two_seeds("a", [0.1, 0.2, 0.3, None], [0.3, 0.4, 0.7, None]),
        two_seeds("b", [0.2, 0.1, 0.8, 0.5], [0.4, 0.3, 0.8, 0.5]),
    ]
    frequency = ClassFrequency(np.array([5, 50, 500, 700]))
    left, right = plot_categories(methods, frequency, "segm").axes
    pairs = [line.get_xydata() for line in left.lines[2:]]  # after the borders of the groups
    expected = [[[5, 20], [5, 30]], [[50, 30], [50, 20]], [[500, 50], [500, 80]]]
    np.testing.assert_allclose(pairs, expected)
    points = [np.ma.filled(marks.get_offsets(), np.nan) for marks in left.collections]
    expected = [[[5, 20], [50, 30], [500, 50], [np.nan, np.nan]]]
    expected += [[[5, 30], [50, 20], [500, 80], [700, 50]]]
    np.testing.assert_allclose(points, expected)
    points = [marks.get_offsets() for marks in right.collections]
    np.testing.assert_allclose(points, [[[5, 10]], [[50, -10]], [[500, 30]]])
    means = [line.get_label() for line in right.lines[3:]]
    assert means == ["rare: mean +10.0", "common: mean -10.0", "frequent: mean +30.0"]

    total, _, val_ap, *_ = plot_curves(methods).axes
    curves = [line.get_xydata().tolist() for line in total.lines]
    assert curves == [[[1, 9], [2, 1]], [[1, 9], [2, 2]]] * 2
    curves = [line.get_xydata() for line in val_ap.lines]
    np.testing.assert_allclose(curves, [[[2, 10]], [[2, 20]]] * 2)


def test_the_figure_of_differences_draws_values_and_intervals():
    methods = [Method(name, "black", []) for name in "ab"]
    deltas = [Difference(4, 1, 7), Difference(-2), Difference(0, -1, 1.5), Difference(3)]
    keys = [f"segm_{key}" for key in ("AP", "APr", "APc", "APf")]
    figure = plot_differences(methods, {"b": dict(zip(keys, deltas, strict=True))}, ["segm"])
    (axes,) = figure.axes
    drawn = [line.get_xydata().tolist() for line in axes.lines[:-1]]  # the last one is at 0
    assert drawn == [
        *([[1, 0], [7, 0]], [[4, 0]]),
        [[-2, 1]],
        *([[-1, 2], [1.5, 2]], [[0, 2]]),
        [[3, 3]],
    ]
    rows = [text.get_text() for text in axes.get_yticklabels()]
    assert rows == ["AP (all)", "APr (rare)", "APc (common)", "APf (frequent)"]


def test_seeds_without_a_rare_category_have_no_deviation(dataset, tmp_path):
    """LVIS has -1 where there is nothing to measure, and NaN has no deviation."""
    run = Run("a", tmp_path, {"segm_APr": -1.0}, [], [], None)
    method = Method("a", "black", [run, run])
    assert math.isnan(method.deviation("segm_APr")) and cell(method, "segm_APr") == "–"


@pytest.mark.parametrize("name", ["mmdet.BEQL", "mmdet_droploss.models.losses.BEQL"])
def test_a_loss_is_called_by_its_name_alone(tmp_path, name):
    config = Config(dict(model=dict(bbox_head=dict(loss_cls=dict(type=name)))))
    assert facts_of(Run("a", tmp_path, {}, [], [], config))["loss"] == "BEQL"
