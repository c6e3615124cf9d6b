"""Compare two or more tested runs: a table, figures and a report in one HTML file.

Every run is the work dir of a training that was tested with ``--results WORK_DIR/val``:

    bash tools/dist_train.sh CONFIG 2 --work-dir WORK_DIR
    bash tools/dist_test.sh CONFIG WORK_DIR/iter_800.pth 2 --results WORK_DIR/val

Examples:

    # the first run is the baseline that the others are compared with
    python tools/analysis_tools/compare_runs.py \\
        --ann data/mini_lvis/annotations/lvis_v1_val.json \\
        --train-ann data/mini_lvis/annotations/lvis_v1_train.json \\
        --run "sigmoid BCE=work_dirs/sigmoid" --run "DropLoss=work_dirs/droploss" \\
        --out work_dirs/comparison

    # several seeds of each: the same name again; the table gives mean and standard deviation
    ... --run "BCE=work_dirs/bce_0" --run "BCE=work_dirs/bce_1" \\
        --run "DropLoss=work_dirs/drop_0" --run "DropLoss=work_dirs/drop_1"

Writes OUT/report.html, which contains its figures and can be mailed as it is, and the figures as
PNG files beside it. The headline table also goes to the screen, in Markdown.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import functools
import io
import math
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import hotcoco
import jinja2
import matplotlib.image
import numpy as np
import orjson
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.config import Config
from pycocotools import mask as mask_utils
from scipy import stats

from mmdet_droploss.datasets import GROUP_NAMES, ClassFrequency, load_class_frequency
from mmdet_droploss.evaluation.fast_lvis_metric import MAX_DETECTIONS
from mmdet_droploss.evaluation.ground_truth import GroundTruth
from mmdet_droploss.utils import write_atomically
from mmdet_droploss.version import __version__

TEMPLATE = Path(__file__).with_suffix(".html.j2")
KEYS = ("AP", "APr", "APc", "APf")
KEY_TITLES = dict(zip(KEYS, ("all", *GROUP_NAMES), strict=True))
IOU_TITLES = {"segm": "Mask", "bbox": "Box"}
GROUP_COLOURS = ("#c2410c", "#0f766e", "#4f46e5")
RUN_COLOURS = ("#6b7280", "#be185d", "#0369a1", "#4d7c0f", "#a16207", "#6d28d9")
#: Accuracies are named as by the losses.
CURVES = (
    ("loss", "total loss"),
    ("loss_cls", "classification loss"),
    ("lvis/segm_AP", "mask AP on val"),
    ("acc_r", "accuracy on rare, %"),
    ("acc_c", "accuracy on common, %"),
    ("acc_f", "accuracy on frequent, %"),
)
#: A prediction is drawn as right if a ground truth of its category overlaps it this much.
MATCH_IOU = 0.5
#: More predictions in one picture cannot be read.
MAX_SHOWN = 12


class UserError(Exception):
    """Something that the user can put right; the message says how."""


# ---- what is compared ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One tested run."""

    name: str
    folder: Path
    #: ``bbox_AP``, ``segm_APr`` and so on, as fractions; -1 where there is nothing to measure.
    metrics: dict[str, float]
    #: One dict a category in label order, as FastLVISMetric writes them.
    categories: list[dict]
    #: The lines of the training log, in the order of the iterations.
    scalars: list[dict]
    #: The config that it was trained with; None if it is not there.
    config: Config | None

    def results_file(self, iou_type: str) -> Path:
        """The detections of the test."""
        return require(self.folder / f"val.{iou_type}.json")


@dataclass(frozen=True)
class Entry:
    """All runs of one name: several seeds of the same thing, or a single one."""

    name: str
    colour: str
    runs: list[Run]

    def values(self, key: str) -> list[float]:
        """A metric of every run, in percent; NaN where there is nothing to measure."""
        return [percent(run.metrics.get(key, -1.0)) for run in self.runs]

    def mean(self, key: str) -> float:
        """The mean over the seeds, in percent."""
        return statistics.fmean(self.values(key))

    def deviation(self, key: str) -> float:
        """The standard deviation over the seeds, in percentage points; NaN for a single one."""
        values = self.values(key)
        return statistics.stdev(values) if len(values) > 1 else math.nan

    def category_ap(self, iou_type: str) -> np.ndarray:
        """(C,) AP in percent, the mean over the seeds; NaN where there is nothing to measure."""
        rows = [
            [math.nan if c[f"{iou_type}_AP"] is None else c[f"{iou_type}_AP"] for c in r.categories]
            for r in self.runs
        ]
        return 100 * np.mean(np.array(rows, dtype=float), axis=0)


@dataclass(frozen=True)
class Difference:
    """How far a run is from the baseline, in percentage points."""

    value: float
    lower: float = math.nan
    upper: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.lower)

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.has_interval and (self.lower > 0 or self.upper < 0)

    @property
    def words(self) -> str:
        """What was measured, whichever way it went."""
        if math.isnan(self.value):
            return "not measurable"
        if round(self.value, 1) == 0:
            text = "equal to one decimal"
        else:
            text = f"{abs(self.value):.1f} points {'above' if self.value > 0 else 'below'}"
            if self.has_interval and not self.is_clear:
                text += " (the interval includes 0)"
        return text

    def __str__(self) -> str:
        """For a cell of a table."""
        if math.isnan(self.value):
            return "–"
        interval = f" [{self.lower:+.1f}, {self.upper:+.1f}]" if self.has_interval else ""
        return f"{self.value:+.1f}{interval}"


def percent(value: float) -> float:
    """A metric in percent; LVIS's -1 means that there is nothing to measure."""
    return math.nan if value < 0 else 100 * value


def require(path: Path, remedy: str = "") -> Path:
    """The path, or a sentence that says what makes it."""
    if not path.is_file():
        remedy = remedy or (
            f"test the run first: python tools/test.py CONFIG {path.parent}/iter_N.pth "
            f"--results {path.parent}/val"
        )
        raise UserError(f"{path} does not exist; {remedy}")
    return path


def load_entries(arguments: Sequence[str]) -> list[Entry]:
    """Read all ``NAME=DIR`` arguments; the same name again is another seed."""
    folders: dict[str, list[Path]] = {}
    for argument in arguments:
        name, separator, folder = argument.partition("=")
        if not (name and separator and folder):
            raise UserError(f'--run must be "NAME=DIR", but it is {argument!r}')
        folders.setdefault(name, []).append(Path(folder))
    if len(folders) < 2:
        raise UserError("there is nothing to compare: give --run with two or more names")
    if len(folders) > len(RUN_COLOURS):
        raise UserError(f"at most {len(RUN_COLOURS)} names can be compared, not {len(folders)}")
    return [
        Entry(name, colour, [load_run(name, folder) for folder in paths])
        for (name, paths), colour in zip(folders.items(), RUN_COLOURS, strict=False)
    ]


def load_run(name: str, folder: Path) -> Run:
    """Read what a training and its test left in a work dir."""
    file = require(folder / "val.metrics.json")
    try:
        content = orjson.loads(file.read_bytes())
        metrics, categories = content["metrics"], content["per_category"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{file} was not written by test.py --results: {error}") from None
    configs = sorted(folder.glob("*/vis_data/config.py"))
    config = Config.fromfile(configs[-1], import_custom_modules=False) if configs else None
    return Run(name, folder, metrics, categories, load_scalars(folder), config)


def load_scalars(folder: Path) -> list[dict]:
    """The training log. Where an interrupted run went over an iteration again, the later counts.

    MMEngine writes validations under the number of the epoch unless it is told otherwise, and a
    training by iterations has none: they belong to the iteration that was logged last.
    """
    by_key: dict[tuple[int, bool], dict] = {}
    for file in sorted(folder.glob("*/vis_data/scalars.json")):
        latest = 0
        for line in file.read_bytes().splitlines():
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue  # the last line of a run that was killed
            if "step" in record:
                latest = record["step"] = max(record["step"], latest)
                by_key[latest, "loss" in record] = record
    return [by_key[key] for key in sorted(by_key)]


# ---- numbers -------------------------------------------------------------------------------------


class Detections:
    """Detections and evaluations of the runs, read once and only when they are needed."""

    def __init__(self, ann_file: Path) -> None:
        self.ann_file = ann_file
        self.ground_truth = GroundTruth(str(ann_file)).content()
        self._truth = hotcoco.COCO(self.ground_truth)
        # With many runs of LVIS's size all of them would not fit into memory.
        self.read = functools.lru_cache(maxsize=1)(self._read)
        self.evaluation = functools.lru_cache(maxsize=2)(self._evaluation)

    def _read(self, file: Path) -> list[dict]:
        return orjson.loads(file.read_bytes())

    def _evaluation(self, file: Path, iou_type: str) -> Any:
        found = hotcoco.LVISResults(self._truth, self.read(file), MAX_DETECTIONS)
        evaluation = hotcoco.LVISeval(self._truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation

    def of_images(self, run: Run, iou_type: str, image_ids: set[int]) -> list[dict]:
        """The detections in some images."""
        found = self.read(run.results_file(iou_type))
        return [detection for detection in found if detection["image_id"] in image_ids]


def differences(
    baseline: Entry, entry: Entry, iou_type: str, detections: Detections, bootstrap: int
) -> dict[str, Difference]:
    """Each key's difference to the baseline.

    With one run of each, the interval is the bootstrap's 95 % over the images. With several seeds
    it is the 95 % interval of the difference of means (Welch): seeds differ more than images do.
    """
    keys = [f"{iou_type}_{key}" for key in KEYS]
    if len(baseline.runs) > 1 or len(entry.runs) > 1:
        return {key: seed_difference(baseline.values(key), entry.values(key)) for key in keys}
    values = {key: entry.mean(key) - baseline.mean(key) for key in keys}
    if not bootstrap:
        return {key: Difference(value) for key, value in values.items()}
    intervals = bootstrap_intervals(baseline, entry, iou_type, detections, bootstrap)
    return {
        key: Difference(value, *(intervals[key] if not math.isnan(value) else ()))
        for key, value in values.items()
    }


def seed_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The difference of two means, with Welch's 95 % interval if both have two values or more."""
    value = statistics.fmean(second) - statistics.fmean(first)
    if len(first) < 2 or len(second) < 2 or math.isnan(value):
        return Difference(value)
    # The squared standard errors of the two means, and Welch's degrees of freedom.
    a, b = (statistics.variance(values) / len(values) for values in (first, second))
    if a + b < 1e-18:
        return Difference(value)  # the same seed given twice has no spread to go by
    freedom = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    reach = float(stats.t.ppf(0.975, freedom)) * math.sqrt(a + b)
    return Difference(value, value - reach, value + reach)


def bootstrap_intervals(
    baseline: Entry, entry: Entry, iou_type: str, detections: Detections, samples: int
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each key's difference, by drawing the val images anew."""
    first, second = (
        detections.evaluation(e.runs[0].results_file(iou_type), iou_type) for e in (baseline, entry)
    )
    outcome = hotcoco.compare(first, second, n_bootstrap=samples, seed=0, confidence=0.95)
    for e, numbers in ((baseline, outcome["metrics_a"]), (entry, outcome["metrics_b"])):
        expected = e.runs[0].metrics[f"{iou_type}_AP"]
        if abs(numbers["AP"] - expected) > 1e-6:
            raise UserError(
                f"{e.runs[0].folder}/val.metrics.json says {iou_type} AP {expected:.4f}, but with "
                f"--ann {detections.ann_file} it is {numbers['AP']:.4f}: the run was tested on "
                f"other annotations; give those, or test it again"
            )
    return {
        f"{iou_type}_{key}": (100 * ci["lower"], 100 * ci["upper"])
        for key, ci in outcome["ci"].items()
        if key in KEYS
    }


# ---- tables --------------------------------------------------------------------------------------


def cell(entry: Entry, key: str) -> str:
    """A metric of one name, with the deviation over its seeds if there are several."""
    mean, deviation = entry.mean(key), entry.deviation(key)
    if math.isnan(mean):
        return "–"
    return f"{mean:.1f}" + ("" if math.isnan(deviation) else f" ± {deviation:.1f}")


def build_table(
    entries: Sequence[Entry], deltas: dict[str, dict[str, Difference]], iou_type: str
) -> list[dict]:
    """Rows for the template: title, cells, and what kind of row it is."""
    keys = [f"{iou_type}_{key}" for key in KEYS]
    rows = []
    for entry in entries:
        title = entry.name + (f" ({len(entry.runs)} seeds)" if len(entry.runs) > 1 else "")
        cells = [dict(text=cell(entry, key)) for key in keys]
        rows.append(dict(title=title, cells=cells, kind="run", colour=entry.colour))
        if entry.name in deltas:
            cells = []
            for key in keys:
                delta = deltas[entry.name][key]
                sign = "none" if not delta.is_clear else "up" if delta.value > 0 else "down"
                cells.append(dict(text=str(delta), sign=sign))
            title = f"difference to {entries[0].name}"
            rows.append(dict(title=title, cells=cells, kind="difference", colour=None))
    return rows


def markdown(tables: dict[str, list[dict]]) -> str:
    """The tables for documentation."""
    parts = []
    for iou_type, rows in tables.items():
        lines = [f"| {IOU_TITLES[iou_type]} | " + " | ".join(KEYS) + " |"]
        lines.append("|:--|" + "--:|" * len(KEYS))
        for row in rows:
            lines.append(
                f"| {row['title']} | " + " | ".join(c["text"] for c in row["cells"]) + " |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def sentences(
    entries: Sequence[Entry], deltas: dict[str, dict[str, Difference]], iou_type: str
) -> list[str]:
    """What was measured, in words: one sentence a name and group."""
    lines = []
    for entry in entries[1:]:
        parts = [
            f"on {KEY_TITLES[key]} categories it is {deltas[entry.name][f'{iou_type}_{key}'].words}"
            for key in KEYS[1:]
        ]
        overall = deltas[entry.name][f"{iou_type}_AP"].words
        lines.append(
            f"{IOU_TITLES[iou_type]} AP of {entry.name} compared with {entries[0].name}: "
            f"{overall}; {', '.join(parts[:-1])}, {parts[-1]}."
        )
    return lines


def provenance(entries: Sequence[Entry]) -> list[dict]:
    """How each run was made, as far as its work dir tells."""
    rows = []
    for entry in entries:
        for run in entry.runs:
            rows.append(dict(name=run.name, folder=str(run.folder), **run_facts(run)))
    return rows


def run_facts(run: Run) -> dict[str, str]:
    """Config, loss, seed and length of a run."""
    names = [file.name for file in sorted(run.folder.glob("*.py"))]
    steps = [record["step"] for record in run.scalars if "loss" in record]
    times = [record["time"] for record in run.scalars if "loss" in record and "time" in record]
    facts = {
        "config": names[-1] if names else "unknown",
        "loss": "unknown",
        "seed": "unknown",
        "iterations": str(steps[-1]) if steps else "unknown",
        "pace": f"{statistics.median(times):.2f} s" if times else "unknown",
    }
    if run.config is not None:
        head = run.config.model.roi_head.bbox_head
        head = head[0] if isinstance(head, list) else head  # a cascade has one for each stage
        facts["loss"] = head.loss_cls.type
        seed = run.config.get("randomness", {}).get("seed")
        facts["seed"] = "random" if seed is None else str(seed)
    return facts


def versions() -> str:
    """The packages that the numbers depend on."""
    found = [f"mmdet_droploss {__version__}", f"Python {sys.version.split()[0]}"]
    for name in ("torch", "mmengine", "mmcv", "mmdet", "hotcoco", "numpy"):
        for distribution in (name, f"onedl-{name}", f"onedl-{name}ection"):
            try:
                found.append(f"{distribution} {metadata.version(distribution)}")
                break
            except metadata.PackageNotFoundError:
                continue
    return ", ".join(found)


# ---- figures -------------------------------------------------------------------------------------


def to_png(figure: Figure) -> bytes:
    """Draw a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def tidy(axes: Axes) -> None:
    """The look that all plots share."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def at_least(axes: Axes, direction: str, limit: float) -> None:
    """Keep an axis from blowing up differences that are next to nothing."""
    low, high = getattr(axes, f"get_{direction}lim")()
    getattr(axes, f"set_{direction}lim")(min(low, -limit), max(high, limit))


def plot_differences(
    entries: Sequence[Entry], deltas: dict[str, dict[str, Difference]], iou_types: Sequence[str]
) -> Figure:
    """Each name's distance from the baseline, with its interval."""
    height = 1.3 + 0.28 * len(KEYS) * max(1, len(entries) - 1)
    figure = Figure(figsize=(9, height), layout="constrained")
    panels = figure.subplots(1, len(iou_types), sharey=True, sharex=True, squeeze=False)[0]
    for axes, iou_type in zip(panels, iou_types, strict=True):
        for index, entry in enumerate(entries[1:]):
            for row, key in enumerate(KEYS):
                delta = deltas[entry.name][f"{iou_type}_{key}"]
                y = row + (index - (len(entries) - 2) / 2) * 0.2
                style = dict(color=entry.colour, markersize=7, linewidth=2)
                if delta.has_interval:
                    axes.plot([delta.lower, delta.upper], [y, y], **style)
                label = entry.name if row == 0 else None
                axes.plot([delta.value], [y], "o", label=label, **style)
        axes.axvline(0, color=entries[0].colour, linewidth=1)
        axes.set_yticks(range(len(KEYS)), [f"{key} ({KEY_TITLES[key]})" for key in KEYS])
        axes.set_title(f"{IOU_TITLES[iou_type]} AP", fontsize=10)
        axes.set_xlabel(f"points above (+) or below (-) {entries[0].name}")
        at_least(axes, "x", 0.5)
        tidy(axes)
    panels[0].set_ylim(len(KEYS) - 0.5, -0.5)
    panels[-1].legend(frameon=False, fontsize=8)
    return figure


def pick(record: dict, key: str) -> float | None:
    """An entry of the log; a cascade names its stages s0, s1, ..., and the last one counts."""
    if key in record:
        return record[key]
    stages = sorted(name for name in record if name.endswith(f".{key}"))
    return record[stages[-1]] if stages else None


def plot_curves(entries: Sequence[Entry]) -> Figure:
    """Losses, accuracies and val AP over the training, one line a run."""
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(2, 3).flat, CURVES, strict=True):
        for entry in entries:
            for index, run in enumerate(entry.runs):
                points = [(r["step"], v) for r in run.scalars if (v := pick(r, key)) is not None]
                values = np.array(points, dtype=float).reshape(-1, 2)
                if key.endswith("_AP"):
                    values[:, 1] *= 100
                style = dict(color=entry.colour, linewidth=1.4, marker="o" * (len(points) < 10))
                label = entry.name if index == 0 else None
                axes.plot(*values.T, label=label, **style)
        if not any(line.get_xdata().size for line in axes.lines):
            axes.text(0.5, 0.5, "not in the log", ha="center", transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("iteration", fontsize=8)
        # Not "auto" at the top: a curve of zeros would get an axis of 0.05.
        axes.set_ylim(0, max(1.03 * axes.get_ylim()[1], 0 if "loss" in key else 1))
        tidy(axes)
    figure.axes[0].legend(frameon=False, fontsize=9)
    return figure


def plot_categories(entries: Sequence[Entry], frequency: ClassFrequency, iou_type: str) -> Figure:
    """AP of every category, and its distance from the baseline, against its training images."""
    figure = Figure(figsize=(10, 3.6 * len(entries[1:])), layout="constrained")
    panels = figure.subplots(len(entries) - 1, 2, squeeze=False)
    base = entries[0].category_ap(iou_type)
    for (left, right), entry in zip(panels, entries[1:], strict=True):
        values = entry.category_ap(iou_type)
        plot_pairs(left, entries[0], entry, frequency, base, values)
        left.set_ylabel(f"{IOU_TITLES[iou_type].lower()} AP of a category")
        plot_category_differences(right, frequency, values - base)
        right.set_ylabel(f"{entry.name} minus {entries[0].name}")
    return figure


def log_counts(axes: Axes, frequency: ClassFrequency) -> np.ndarray:
    """Set up the axis of training images; returns where each category stands on it."""
    axes.set(xscale="log", xlabel="training images of the category")
    for limit in (10.5, 100.5):
        axes.axvline(limit, color="#9ca3af", linewidth=0.8, linestyle=":")
    tidy(axes)
    # A category without training images would be lost on a log axis.
    counts = np.maximum(frequency.image_count, 0.7)
    axes.set_xlim(counts.min() / 1.3, counts.max() * 1.3)
    return counts


def plot_pairs(
    axes: Axes,
    baseline: Entry,
    entry: Entry,
    frequency: ClassFrequency,
    base: np.ndarray,
    values: np.ndarray,
) -> None:
    """Both APs of each category, joined by a line."""
    counts = log_counts(axes, frequency)
    measured = ~np.isnan(base + values)
    segments = np.stack([np.stack([counts] * 2), np.stack([base, values])])[:, :, measured]
    axes.plot(*segments, color="#d1d5db", linewidth=1, zorder=1)
    size = 16 if len(counts) <= 200 else 5
    for owner, points in ((baseline, base), (entry, values)):
        axes.scatter(counts, points, s=size, color=owner.colour, label=owner.name, zorder=2)
    axes.legend(frameon=False, fontsize=9)


def plot_category_differences(
    axes: Axes, frequency: ClassFrequency, difference: np.ndarray
) -> None:
    """The difference of each category, and its mean over each group."""
    counts = log_counts(axes, frequency)
    axes.axhline(0, color="#6b7280", linewidth=1)
    for index, (name, colour) in enumerate(zip(GROUP_NAMES, GROUP_COLOURS, strict=True)):
        mask = (frequency.groups == index) & ~np.isnan(difference)
        if not mask.any():
            continue
        mean = difference[mask].mean()
        size = 16 if len(counts) <= 200 else 5
        axes.scatter(counts[mask], difference[mask], s=size, color=colour, alpha=0.75)
        span = [counts[mask].min(), counts[mask].max()]
        axes.plot(span, [mean] * 2, color=colour, linewidth=2.5, label=f"{name}: mean {mean:+.1f}")
    at_least(axes, "y", 1)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)


# ---- pictures ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """One object to draw."""

    label: int
    rle: dict
    text: str
    right: bool = True


class Gallery:
    """Val images with their ground truth and every name's predictions, side by side."""

    def __init__(self, detections: Detections, frequency: ClassFrequency, root: Path) -> None:
        self.detections = detections
        self.root = root
        content = detections.ground_truth
        self.label_of = {c["id"]: k for k, c in enumerate(content["categories"])}
        self.names = [c["name"] for c in content["categories"]]
        self.groups = frequency.groups
        self.annotations: dict[int, list[dict]] = {}
        for annotation in content["annotations"]:
            self.annotations.setdefault(annotation["image_id"], []).append(annotation)

    def choose(self, count: int) -> list[dict]:
        """The images with the most rare, then common categories in the ground truth."""

        def order(image: dict) -> tuple[int, int, int]:
            labels = {
                self.label_of[a["category_id"]] for a in self.annotations.get(image["id"], [])
            }
            groups = [int(self.groups[label]) for label in labels]
            return -groups.count(0), -groups.count(1), image["id"]

        return sorted(self.detections.ground_truth["images"], key=order)[:count]

    def truth(self, image: dict) -> list[Shape]:
        """The annotated objects of an image."""
        height, width = image["height"], image["width"]
        shapes = []
        for annotation in self.annotations.get(image["id"], []):
            label = self.label_of[annotation["category_id"]]
            rle = as_rle(annotation["segmentation"], height, width)
            shapes.append(Shape(label, rle, self.names[label]))
        return shapes

    def predictions(self, found: list[dict], truth: list[Shape], threshold: float) -> list[Shape]:
        """The best predictions of one image, marked as right or wrong."""
        found = sorted((d for d in found if d["score"] >= threshold), key=lambda d: -d["score"])
        free = list(truth)
        shapes = []
        for detection in found[:MAX_SHOWN]:
            label, rle = self.label_of[detection["category_id"]], detection["segmentation"]
            match = best_match(label, rle, free)
            if match is not None:
                free.remove(match)
            text = f"{self.names[label]} {detection['score']:.2f}"
            shapes.append(Shape(label, rle, text, right=match is not None))
        return shapes

    def draw(self, entries: Sequence[Entry], count: int, threshold: float) -> Figure:
        """One row an image: ground truth, then one picture a name (its first seed)."""
        images = self.choose(count)
        ids = {image["id"] for image in images}
        found: list[dict[int, list[dict]]] = []
        for entry in entries:
            by_image: dict[int, list[dict]] = {}
            for detection in self.detections.of_images(entry.runs[0], "segm", ids):
                by_image.setdefault(detection["image_id"], []).append(detection)
            found.append(by_image)
        columns = len(entries) + 1
        figure = Figure(figsize=(3.6 * columns, 3.7 * len(images)), layout="constrained")
        panels = figure.subplots(len(images), columns, squeeze=False)
        for row, image in zip(panels, images, strict=True):
            pixels = matplotlib.image.imread(find_image(image, self.root))
            truth = self.truth(image)
            self.draw_panel(row[0], pixels, truth, f"image {image['id']}: ground truth")
            for axes, entry, by_image in zip(row[1:], entries, found, strict=True):
                shapes = self.predictions(by_image.get(image["id"], []), truth, threshold)
                right = sum(shape.right for shape in shapes)
                outcome = f"{right} of {len(shapes)} right" if shapes else "nothing found"
                title = f"{entry.name}: {outcome}"
                self.draw_panel(axes, pixels, shapes, title)
        return figure

    def draw_panel(self, axes: Axes, pixels: np.ndarray, shapes: list[Shape], title: str) -> None:
        """One picture with outlines in the colours of the frequency groups."""
        axes.imshow(pixels, cmap="gray" if pixels.ndim == 2 else None)
        axes.set_axis_off()
        axes.set_title(title, fontsize=9)
        height, width = pixels.shape[:2]
        for shape in shapes:
            colour = GROUP_COLOURS[self.groups[shape.label]]
            mask = mask_utils.decode(shape.rle)
            if not mask.any():
                continue
            # With a margin, so that the outline closes where the object touches the border.
            field = np.arange(-1, width + 1), np.arange(-1, height + 1), np.pad(mask, 1)
            style = "solid" if shape.right else "dashed"
            axes.contour(*field, levels=[0.5], colors="white", linewidths=2.8)
            axes.contour(*field, levels=[0.5], colors=[colour], linewidths=1.6, linestyles=style)
            rows, cols = np.nonzero(mask)
            axes.text(
                np.clip(cols.mean(), 0.02 * width, 0.98 * width),
                max(rows.min(), 0.05 * height),
                shape.text,
                fontsize=6,
                color="white",
                ha="center",
                va="bottom",
                clip_on=True,
                bbox=dict(facecolor=colour, alpha=0.85, linewidth=0, pad=0.8),
            )
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def best_match(label: int, rle: dict, truth: list[Shape]) -> Shape | None:
    """The ground truth of a category that a prediction hits, if there is one."""
    candidates = [shape for shape in truth if shape.label == label]
    if not candidates:
        return None
    overlaps = mask_utils.iou([rle], [shape.rle for shape in candidates], [0] * len(candidates))[0]
    best = int(np.argmax(overlaps))
    return candidates[best] if overlaps[best] >= MATCH_IOU else None


def as_rle(segmentation: Any, height: int, width: int) -> dict:
    """Any of COCO's forms of a mask as compressed run lengths."""
    if isinstance(segmentation, list):
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_utils.frPyObjects(segmentation, height, width)
    return segmentation


def find_image(image: dict, root: Path) -> Path:
    """The file of an image, by LVIS v1's rule (coco_url), v0.5's or COCO's (file_name)."""
    names = []
    if "coco_url" in image:
        names.append(image["coco_url"].replace("http://images.cocodataset.org/", ""))
    if "file_name" in image:
        # LVIS v0.5 writes COCO_val2014_000000397133.jpg for 000000397133.jpg.
        file_name = image["file_name"]
        bare = file_name[-16:] if file_name.startswith("COCO") else file_name
        names += [bare, f"val2017/{bare}", f"train2017/{bare}"]
    for name in names:
        if (root / name).is_file():
            return root / name
    raise UserError(
        f"image {root / names[0] if names else image['id']} does not exist; give the folder that "
        f"the images' paths start from with --img-root, or leave the pictures out with --images 0"
    )


# ---- the report ----------------------------------------------------------------------------------


def build_figures(args: argparse.Namespace, inputs: Inputs) -> dict[str, bytes]:
    """All figures as PNG, by the name of their file."""
    iou_type = inputs.iou_types[0]
    figures = {
        "differences": plot_differences(inputs.entries, inputs.deltas, inputs.iou_types),
        "categories": plot_categories(inputs.entries, inputs.frequency, iou_type),
        "curves": plot_curves(inputs.entries),
    }
    if args.images and "segm" in inputs.iou_types:
        root = args.img_root or args.ann.resolve().parent.parent
        gallery = Gallery(inputs.detections, inputs.frequency, root)
        figures["pictures"] = gallery.draw(inputs.entries, args.images, args.score_thr)
    return {name: to_png(figure) for name, figure in figures.items()}


@dataclass(frozen=True)
class Inputs:
    """What the report is about."""

    entries: list[Entry]
    frequency: ClassFrequency
    detections: Detections
    iou_types: list[str]
    #: By name, then by metric (``segm_AP``).
    deltas: dict[str, dict[str, Difference]]


def load_inputs(args: argparse.Namespace) -> Inputs:
    """Read everything and compute the differences."""
    require(args.ann, "give the annotations that the runs were tested on (--ann)")
    entries = load_entries(args.run)
    frequency = load_class_frequency(args.train_ann)
    runs = [run for entry in entries for run in entry.runs]
    iou_types = [t for t in IOU_TITLES if all(f"{t}_AP" in run.metrics for run in runs)]
    if not iou_types:
        raise UserError("the runs have no metric in common: test all with the same evaluator")
    detections = Detections(args.ann)
    check_categories(detections, frequency, runs, args.train_ann)
    # One kind of interval in one table.
    bootstrap = 0 if any(len(entry.runs) > 1 for entry in entries) else args.bootstrap
    deltas: dict[str, dict[str, Difference]] = {entry.name: {} for entry in entries[1:]}
    for iou_type in iou_types:
        for entry in entries[1:]:
            deltas[entry.name] |= differences(entries[0], entry, iou_type, detections, bootstrap)
    return Inputs(entries, frequency, detections, iou_types, deltas)


def check_categories(
    detections: Detections, frequency: ClassFrequency, runs: Iterable[Run], train_ann: str
) -> None:
    """Refuse files of different data sets, which would give a plot of nonsense."""
    names = [category["name"] for category in detections.ground_truth["categories"]]
    for run in runs:
        if [category["name"] for category in run.categories] != names:
            raise UserError(
                f"{run.folder}/val.metrics.json is about other categories than "
                f"--ann {detections.ann_file}"
            )
    known = list(frequency.classes) if frequency.classes is not None else names
    if frequency.num_classes != len(names) or known != names:
        raise UserError(
            f"--train-ann {train_ann} has other categories than --ann {detections.ann_file}"
        )


def render(args: argparse.Namespace, inputs: Inputs, figures: dict[str, bytes]) -> str:
    """Fill the template."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    tables = make_tables(inputs)
    several = any(len(entry.runs) > 1 for entry in inputs.entries)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"{' vs. '.join(entry.name for entry in inputs.entries)}",
        sentences=sentences(inputs.entries, inputs.deltas, inputs.iou_types[0]),
        tables=[(IOU_TITLES[key], rows) for key, rows in tables.items()],
        columns=[(key, KEY_TITLES[key]) for key in KEYS],
        figures={name: base64.b64encode(png).decode() for name, png in figures.items()},
        groups=list(zip(GROUP_NAMES, GROUP_COLOURS, strict=True)),
        group_sizes=np.bincount(inputs.frequency.groups, minlength=len(GROUP_NAMES)).tolist(),
        several=several,
        bootstrap=0 if several else args.bootstrap,
        num_images=len(inputs.detections.ground_truth["images"]),
        baseline=inputs.entries[0].name,
        main_type=IOU_TITLES[inputs.iou_types[0]].lower(),
        score_thr=args.score_thr,
        match_iou=MATCH_IOU,
        max_shown=MAX_SHOWN,
        runs=provenance(inputs.entries),
        commands=[*args.command, args.own_command],
        ann=str(args.ann),
        versions=versions(),
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def make_tables(inputs: Inputs) -> dict[str, list[dict]]:
    """The headline table for masks and for boxes."""
    return {
        iou_type: build_table(inputs.entries, inputs.deltas, iou_type)
        for iou_type in inputs.iou_types
    }


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--ann", type=Path, required=True, help="annotations that the runs were tested on")
    add(
        "--train-ann",
        required=True,
        help="annotations of the training set, for the number of training images of a category; "
        "or the small JSON of class_frequency.py, 'lvis_v1' or 'lvis_v0.5'",
    )
    add(
        "--run",
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="a tested run; the first is the baseline, the same name again is another seed of it",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="where report.html and PNGs go")
    add(
        "--img-root",
        type=Path,
        help="folder that the images' paths start from (default: the one above that of --ann)",
    )
    add("--images", type=int, default=4, metavar="N", help="val images to show (4; 0: none)")
    add(
        "--score-thr",
        type=float,
        default=0.3,
        metavar="X",
        help="show predictions with at least this score (0.3)",
    )
    add(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="draws of val images for the intervals (1000; 0: no intervals, much faster on LVIS)",
    )
    add(
        "--command",
        action="append",
        default=[],
        metavar="TEXT",
        help="a command that made the runs, to be listed in the report",
    )
    args = parser.parse_args(argv)
    args.own_command = own_command(sys.argv[1:] if argv is None else argv)
    for name in ("images", "bootstrap"):
        if getattr(args, name) < 0:
            parser.error(f"--{name} must be at least 0, but it is {getattr(args, name)}")
    return args


def own_command(arguments: Sequence[str]) -> str:
    """This program's command line, without the commands that it quotes."""
    kept = ["python", "tools/analysis_tools/compare_runs.py"]
    rest = iter(arguments)
    for argument in rest:
        if argument == "--command":
            next(rest)
        elif not argument.startswith("--command="):
            kept.append(argument)
    return shlex.join(kept)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report and print the table."""
    args = parse_args(argv)
    try:
        inputs = load_inputs(args)
        figures = build_figures(args, inputs)
    except (UserError, ValueError, FileNotFoundError) as error:
        sys.exit(f"compare_runs.py: error: {error}")
    for name, png in figures.items():
        write_atomically(args.out / f"{name}.png", png)
    write_atomically(args.out / "report.html", render(args, inputs, figures))
    print(markdown(make_tables(inputs)))
    print(f"\nreport: {args.out / 'report.html'}")


if __name__ == "__main__":
    main()
