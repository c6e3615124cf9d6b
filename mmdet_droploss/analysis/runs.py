"""Tested runs, as their work dirs have them."""

from __future__ import annotations

import collections
import itertools
import math
import statistics
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
from .training_config import loss_config, other_settings, seed_of

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


class _Origin(msgspec.Struct):
    """What numbers are of."""

    annotations: Annotations | None = None


class _MetricsFile(_Origin, kw_only=True):
    """What FastLVISMetric writes beside its results."""

    metrics: dict[str, float]
    per_category: list[dict[str, Any]]


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


def load_methods(arguments: Sequence[str]) -> list[Method]:
    """Read all ``NAME=DIR`` arguments; the same name again is another seed.

    Raises:
        InputError: If there are fewer than two names or too many, or a run cannot be used: it is
            not tested, given twice, or no other seed of the first run of its name.
    """
    folders = parse_arguments(arguments)
    if len(folders) < 2:
        raise InputError("there is nothing to compare: give --run with two or more names")
    if len(folders) > len(METHOD_COLOURS):
        raise InputError(f"at most {len(METHOD_COLOURS)} names can be compared, not {len(folders)}")
    runs: list[Run] = []
    for name, paths in folders.items():
        for folder in paths:
            run = load_run(name, folder)
            check_is_another(run, runs)
            runs.append(run)
    return group_by_name(runs)


def parse_arguments(arguments: Sequence[str]) -> dict[str, list[Path]]:
    """The work dirs of each name, from ``NAME=DIR`` arguments.

    Both may contain ``=`` ("BEQL, b = 4"): the first split that leaves an existing folder counts,
    else the last one.
    """
    folders: dict[str, list[Path]] = {}
    for argument in arguments:
        parts = argument.split("=")
        splits = [
            (name.strip(), folder)
            for k in range(1, len(parts))
            if (name := "=".join(parts[:k])).strip() and (folder := "=".join(parts[k:]))
        ]
        if not splits:
            raise InputError(f'--run must be "NAME=DIR", but it is {argument!r}')
        name, folder = next((s for s in splits if Path(s[1]).is_dir()), splits[-1])
        folders.setdefault(name, []).append(Path(folder))
    return folders


def load_tested(
    arguments: Sequence[str], iou_type: str | None = None
) -> tuple[list[Method], list[str]]:
    """Read all ``NAME=DIR`` arguments, and leave out what cannot be used.

    Left out are runs without results, with results that cannot be read, given twice, no other seed
    of the first run of their name, of other categories than most runs have (the earlier ones if
    there are as many), tested on other annotations than most, or without what is asked for.

    Args:
        arguments: In any number; the same name again is another seed.
        iou_type: ``'segm'`` or ``'bbox'``: what they have to be tested for; None takes any.

    Returns:
        The methods in order, each with one run or more; and what was left out, a sentence each.

    Raises:
        InputError: If an argument is not ``NAME=DIR``, or nothing can be used.
    """
    runs: list[Run] = []
    problems: list[str] = []
    for name, folders in parse_arguments(arguments).items():
        for folder in folders:
            try:
                run = load_if_tested(name, folder)
                check_is_another(run, runs)
            except (InputError, OSError) as error:
                problems.append(f"a run of {name} is left out: {error}")
            else:
                runs.append(run)
    runs, others = drop_other_categories(runs)
    problems += others
    for other, sentence in on_other_annotations(runs):
        runs = [run for run in runs if run is not other]
        problems.append(f"a run of {other.name} is left out: {sentence}")
    if not runs:
        raise InputError("there is no tested run: " + "; ".join(problems))
    if iou_type is not None:
        runs, untested = tested_for(runs, iou_type)
        problems += untested
    return group_by_name(runs), problems


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


def load_if_tested(name: str, folder: Path) -> Run:
    """A run, or a sentence that says how far it is."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    if not (folder / "val.metrics.json").is_file():
        steps = [record["step"] for record in load_scalars(folder)]
        state = f"its log is at iteration {steps[-1]}" if steps else "it has no log either"
        raise InputError(
            f"{folder} has no results yet ({state}); when it is trained, test it with: python "
            f"tools/test.py CONFIG {folder}/iter_N.pth --results {folder}/val"
        )
    run = load_run(name, folder)
    if not any(f"{iou_type}_AP" in run.metrics for iou_type in IOU_TITLES):
        raise InputError(f"{run.metrics_file} has neither segm_AP nor bbox_AP; test the run again")
    return run


def check_is_another(run: Run, others: Sequence[Run]) -> None:
    """Refuse a run that is among the others, or no other seed of the same training."""
    for other in others:
        if run.folder.resolve() == other.folder.resolve():
            raise InputError(f"{run.folder} is given twice; each seed has its own work dir")
        if run.name == other.name:
            check_is_another_seed(run, other)


def check_is_another_seed(run: Run, other: Run) -> None:
    """Refuse a run that is of another training than the other, or of the same seed."""
    if run.config is None or other.config is None:
        return
    who = f"{run.folder} and {other.folder} have the same name, but"
    if differences := other_settings(run.config, other.config):
        key, (mine, first) = next(iter(differences.items()))
        more = f", and {len(differences) - 1} settings more" * (len(differences) > 1)
        raise InputError(
            f"{who} were trained with {key} {mine!r} and {first!r}{more}; give each training a "
            f"name of its own"
        )
    if seed_of(run.config) == seed_of(other.config) is not None:
        raise InputError(f"{who} both have seed {seed_of(run.config)}; give one of them")


def drop_other_categories(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs with the categories that most have, and a sentence for each of the others."""
    names = [tuple(category.get("name") for category in run.categories) for run in runs]
    if not names:
        return [], []
    usual, _ = collections.Counter(names).most_common(1)[0]
    kept = [run for run, own in zip(runs, names, strict=True) if own == usual]
    problems = []
    for run, own in zip(runs, names, strict=True):
        if own != usual:
            what = (
                f"{len(own)} categories, but {kept[0].metrics_file} has {len(usual)}"
                if len(own) != len(usual)
                else f"other names of the categories than {kept[0].metrics_file}"
            )
            problems.append(f"a run of {run.name} is left out: {run.metrics_file} has {what}")
    return kept, problems


def on_other_annotations(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """The runs that were tested on other annotations than most, with a sentence for each."""
    known = [(run, run.annotations) for run in runs if run.annotations is not None]
    if not known:
        return []
    usual, _ = collections.Counter(of.sha256 for _, of in known).most_common(1)[0]
    first, of_first = next(pair for pair in known if pair[1].sha256 == usual)
    return [
        (
            run,
            f"{run.metrics_file} is of {of.file} (sha256 {of.sha256[:8]}...), but "
            f"{first.metrics_file} of {of_first.file} ({usual[:8]}...): only numbers by the same "
            f"annotations can be compared; test it again on these",
        )
        for run, of in known
        if of.sha256 != usual
    ]


def tested_for(runs: Sequence[Run], iou_type: str) -> tuple[list[Run], list[str]]:
    """Those that were tested for ``'segm'`` or ``'bbox'``, and a sentence for each that was not.

    Raises:
        InputError: If no run was.
    """
    key = f"{iou_type}_AP"
    kept = [run for run in runs if key in run.metrics]
    problems = [
        f"a run of {run.name} is left out: {run.metrics_file} has no {key}; it was tested without"
        for run in runs
        if key not in run.metrics
    ]
    if not kept:
        other = "bbox" if iou_type == "segm" else "segm"
        raise InputError(f"no run was tested for {iou_type}; give --iou-type {other}")
    return kept, problems


def load_run(name: str, folder: Path) -> Run:
    """Read what a training and its test left in a work dir."""
    file = require(folder / "val.metrics.json")
    try:
        content = msgspec.json.decode(file.read_bytes(), type=_MetricsFile)
    except msgspec.DecodeError as error:
        raise InputError(
            f"{file} is not what test.py --results writes, or was cut short: {error}; test the "
            f"run again"
        ) from None
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


def annotations_of(metrics_file: Path) -> Annotations | None:
    """What a test was of; None if the file does not tell, or is broken, which its readers say."""
    try:
        return msgspec.json.decode(metrics_file.read_bytes(), type=_Origin).annotations
    except msgspec.DecodeError:
        return None


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
    """The training log. Where an interrupted run went over an iteration again, the later counts.

    MMEngine writes validations under the number of the epoch unless it is told otherwise, and a
    training by iterations has none: they belong to the iteration that was logged last.
    """
    by_key: dict[tuple[int, bool], dict] = {}
    for file in sorted(folder.glob("*/vis_data/scalars.json")):
        latest = 0
        for record in records_of(file):
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


def common_iou_types(methods: Sequence[Method]) -> list[str]:
    """What all runs were tested for."""
    runs = [run for method in methods for run in method.runs]
    found = [t for t in IOU_TITLES if all(f"{t}_AP" in run.metrics for run in runs)]
    if not found:
        raise InputError("the runs have no metric in common: test all with the same evaluator")
    return found
