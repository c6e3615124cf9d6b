"""Tested runs, as their work dirs have them."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
from mmengine.config import Config

from ..annotations import GROUP_NAMES
from ..engine.config_checks import kind_of
from .training_config import loss_config, seed_of

#: The numbers that are compared, and the categories that they are about.
KEYS = ("AP", "APr", "APc", "APf")
KEY_TITLES = dict(zip(KEYS, ("all", *GROUP_NAMES), strict=True))
IOU_TITLES = {"segm": "Mask", "bbox": "Box"}
METHOD_COLOURS = ("#6b7280", "#be185d", "#0369a1", "#4d7c0f", "#a16207", "#6d28d9")


class InputError(ValueError):
    """Something that the user can put right; the message says how."""


class Annotations(msgspec.Struct, frozen=True):
    """The annotation file of a test, and the digest of its content."""

    file: str
    sha256: str


class _MetricsFile(msgspec.Struct):
    """What FastLVISMetric writes beside its results."""

    metrics: dict[str, float]
    per_category: list[dict[str, Any]]
    annotations: Annotations | None = None


@dataclass(frozen=True)
class Run:
    """One tested run.

    Args:
        name: What the user calls the method that it is a run of.
        folder: Its work dir.
        metrics: ``bbox_AP``, ``segm_APr`` and so on, as fractions; -1 where there is nothing to
            measure.
        categories: One dict a category in label order, as FastLVISMetric writes them.
        scalars: The lines of the training log, in the order of the iterations.
        config: The config that it was trained with; None if it is not there.
        annotations: What it was tested on; None if the file does not tell, as earlier versions'.
    """

    name: str
    folder: Path
    metrics: dict[str, float]
    categories: list[dict]
    scalars: list[dict]
    config: Config | None
    annotations: Annotations | None = None

    @property
    def metrics_file(self) -> Path:
        """Where the metrics and the categories are from."""
        return self.folder / "val.metrics.json"

    def results_file(self, iou_type: str) -> Path:
        """The detections of the test."""
        return require(self.folder / f"val.{iou_type}.json")


@dataclass(frozen=True)
class Method:
    """All runs of one name: several seeds of the same training, or a single one."""

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
        """The standard deviation over the seeds, in percentage points.

        NaN for a single one, and where there is nothing to measure.
        """
        return deviation(self.values(key))

    def category_ap(self, iou_type: str) -> np.ndarray:
        """(C,) AP in percent, the mean over the seeds; NaN where there is nothing to measure."""
        rows = [[category[f"{iou_type}_AP"] for category in run.categories] for run in self.runs]
        return 100 * np.mean(np.array(rows, dtype=float), axis=0)  # None becomes NaN


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; NaN of a single value, and of NaN."""
    if len(values) < 2 or any(map(math.isnan, values)):  # of NaN, stdev() raises an error
        return math.nan
    return statistics.stdev(values)


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
        raise InputError(f"{path} does not exist; {remedy}")
    return path


def group_by_name(runs: Sequence[Run]) -> list[Method]:
    """The methods that runs are of, in order."""
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    colours = itertools.cycle(METHOD_COLOURS)
    return [
        Method(name, colour, found)
        for (name, found), colour in zip(by_name.items(), colours, strict=False)
    ]


def load_run(name: str, folder: Path) -> Run:
    """Read what a training and its test left in a work dir."""
    file = require(folder / "val.metrics.json")
    check_is_of_latest_training(file, folder)
    content = metrics_of(file)
    for iou_type in IOU_TITLES:
        if f"{iou_type}_AP" in content.metrics:
            check_category_rows(file, content.per_category, f"{iou_type}_AP")
    return Run(
        name,
        folder,
        content.metrics,
        content.per_category,
        load_scalars(folder),
        load_config(folder),
        content.annotations,
    )


def metrics_of(file: Path) -> _MetricsFile:
    """The content of a test's file of numbers."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=_MetricsFile)
    except msgspec.DecodeError as error:
        raise InputError(
            f"{file} is not what test.py --results writes, or was cut short: {error}; test the "
            f"run again"
        ) from None


def check_is_of_latest_training(file: Path, folder: Path) -> None:
    """Refuse the numbers of a test before the latest training in a work dir began.

    A training's folder of logs has the time of its start as its name. Times of files alone do not
    tell: a copy may have new ones. The name alone does not: another machine may have other hours.
    """
    log = training_log(folder)
    if log is None:
        return
    try:
        began = time.mktime(time.strptime(log.parent.name, "%Y%m%d_%H%M%S"))
    except ValueError:  # somebody has renamed it
        return
    if file.stat().st_mtime < min(began, (log / "config.py").stat().st_mtime):
        raise InputError(
            f"{file} was written before the latest training in this work dir began ({log.parent}), "
            f"so its numbers are of an earlier one; when it is trained, test the run again"
        )


def check_category_rows(file: Path, rows: list[dict], key: str) -> None:
    """Refuse a table of categories without numbers."""
    for index, row in enumerate(rows):
        value = row.get(key, "nothing")
        if value is not None and not isinstance(value, (int, float)):
            raise InputError(
                f"{file}: per_category[{index}] must have a number or null as {key}, but it has "
                f"{value!r}; test the run again"
            )


def load_scalars(folder: Path) -> list[dict]:
    """The training log. A later training counts from its first iteration on.

    It went over iterations again that an interrupted one had logged, or began anew.

    MMEngine writes validations under the number of the epoch unless it is told otherwise, and a
    training by iterations has none: they belong to the iteration that was logged last.
    """
    by_key: dict[tuple[int, bool], dict] = {}
    for file in sorted(folder.glob("*/vis_data/scalars.json")):
        records, latest = list(records_of(file)), 0
        first = next((record["step"] for record in records if "loss" in record), math.inf)
        by_key = {key: record for key, record in by_key.items() if key[0] < first}
        for record in records:
            latest = record["step"] = max(record["step"], latest)
            by_key[latest, "loss" in record] = record
    return [by_key[key] for key in sorted(by_key)]


def records_of(log: Path) -> Iterator[dict]:
    """The records of a ``scalars.json`` that have a step, as they stand there."""
    for line in log.read_bytes().splitlines():
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue  # the last line of a run that was killed
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            yield record


def training_log(folder: Path) -> Path | None:
    """The ``vis_data`` of the latest training in a work dir; None if no training has left any.

    MMEngine leaves a config at every start. That of a test may lack what the training was told on
    the command line, so only a folder whose log has a training loss counts.
    """
    logs = (
        file.parent
        for file in sorted(folder.glob("*/vis_data/scalars.json"), reverse=True)
        if file.with_name("config.py").is_file() and any("loss" in r for r in records_of(file))
    )
    return next(logs, None)


def load_config(folder: Path) -> Config | None:
    """The config of the latest training; None if there is none, be there a test's or not."""
    log = training_log(folder)
    if log is None:
        return None
    file = log / "config.py"
    try:
        return Config.fromfile(file, import_custom_modules=False)
    except Exception as error:  # a config is a program: anything can happen in it
        raise InputError(
            f"{file} cannot be read as a config: {error}; delete it, and the report is made "
            f"without what it says"
        ) from None


def facts_of(run: Run) -> dict[str, str]:
    """Config, loss, seed and length of a run, as far as its work dir tells."""
    files = sorted(run.folder.glob("*.py"))
    if len(files) > 1 and (log := training_log(run.folder)):  # a test leaves its config there, too
        trained = (log / "config.py").read_bytes()
        files = [file for file in files if file.read_bytes() == trained] or files
    steps = [record["step"] for record in run.scalars if "loss" in record]
    times = [record["time"] for record in run.scalars if "loss" in record and "time" in record]
    facts = {
        "config": " or ".join(file.name for file in files) or "unknown",
        "loss": "unknown",
        "seed": "unknown",
        "iterations": str(steps[-1]) if steps else "unknown",
        "pace": f"{statistics.median(times):.2f} s" if times else "unknown",
    }
    if run.config is not None:
        facts["loss"] = kind_of(loss_config(run.config)) or "unknown"
        seed = seed_of(run.config)
        facts["seed"] = "random" if seed is None else str(seed)
    return facts
