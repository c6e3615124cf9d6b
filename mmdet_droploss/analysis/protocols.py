"""The same detections under another validation protocol: no second test is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson

from ..annotations import load_class_frequency
from ..evaluation.lvis_evaluator import METRIC_KEYS, category_ap
from ..utils import file_digest, write_atomically
from .detections import Detections
from .runs import IOU_TITLES, InputError, Run, load_run, training_log


def evaluate_again(folder: Path, ann_file: Path, train_ann: str, target: Path) -> None:
    """Evaluate a tested run's detections on other annotations of the same images.

    Annotations that list other categories as absent judge other detections; see :class:`.Protocol`.
    What is written is what a test writes, so the other tools read it as a run, and a note of what
    it was made of. Nothing is done if that is still the same.

    Args:
        folder: The work dir of the run, with ``val.*.json``.
        ann_file: The other annotations.
        train_ann: Frequencies of the training set, whatever ``class_freq`` may be.
        target: A folder that gets ``val.metrics.json`` and ``made_of.json``.

    Raises:
        InputError: If the run is not tested, or the detections are of other images or categories,
            or categories are in other groups than in the test.
        ValueError: If the annotations cannot be evaluated.
        FileNotFoundError: If there are no such annotations.
    """
    run = load_run(folder.name, folder)
    iou_types = [t for t in IOU_TITLES if f"{t}_AP" in run.metrics]
    written, note = target / "val.metrics.json", target / "made_of.json"
    sources = sources_of(run, iou_types, ann_file, train_ann)
    if written.is_file() and note.is_file() and note.read_bytes() == sources:
        return
    detections = Detections(ann_file, load_class_frequency(train_ann), iou_types)
    detections.check_runs([run])
    check_groups(run, detections, train_ann)
    metrics: dict[str, float] = {}
    rows = [dict(row) for row in run.categories]
    for iou_type in iou_types:
        evaluation = detections.evaluation(run.results_file(iou_type), iou_type)
        evaluation.summary_lines()  # this computes what get_results() returns
        numbers = evaluation.get_results()
        metrics |= {f"{iou_type}_{key}": float(numbers[key]) for key in METRIC_KEYS}
        for row, ap in zip(rows, category_ap(evaluation), strict=True):
            row[f"{iou_type}_AP"] = None if np.isnan(ap) else float(ap)
    note.unlink(missing_ok=True)  # if this is stopped on the way, the earlier note is not true
    log = training_log(folder)
    if log is not None:  # so that the copy, too, says what it was trained with
        for file in (log / "config.py", log / "scalars.json"):
            write_atomically(target / file.relative_to(folder), file.read_bytes())
    write_atomically(
        written,
        orjson.dumps(
            {"annotations": detections.annotations, "metrics": metrics, "per_category": rows},
            option=orjson.OPT_INDENT_2,
        ),
    )
    write_atomically(note, sources)


def check_groups(run: Run, detections: Detections, train_ann: str) -> None:
    """Refuse a run whose test took other groups of the categories than the training set gives.

    Its APr, APc and APf would be of other categories than those of its test.

    Raises:
        InputError: If a category has another group.
    """
    groups = [category["frequency"] for category in detections.content["categories"]]
    for row, name, group in zip(run.categories, detections.names, groups, strict=True):
        tested = row.get("frequency")
        if tested is not None and tested != group:
            raise InputError(
                f"{run.metrics_file} has category {name!r} in group {tested!r}, but by the images "
                f"in {train_ann} it is in {group!r}: APr, APc and APf would be of other "
                f"categories. Give the training annotations that the groups of the test are from, "
                f"or test it again with FastLVISMetric(class_freq={train_ann!r})"
            )


def sources_of(run: Run, iou_types: Sequence[str], ann_file: Path, train_ann: str) -> bytes:
    """What an evaluation is made of, as JSON: the same text only if all of it is the same.

    Annotations count by their content. The results, which are large and written by a test as a
    whole, count by size and time.
    """
    results = [run.metrics_file, *map(run.results_file, iou_types)]
    stats = {file.name: file.stat() for file in results}
    # A bundled list of frequencies has a name and no file.
    frequencies = file_digest(train_ann) if Path(train_ann).is_file() else None
    return orjson.dumps(
        {
            "results": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
            "annotations": [str(ann_file), file_digest(ann_file)],
            "frequencies": [train_ann, frequencies],
        },
        option=orjson.OPT_INDENT_2,
    )


def is_made_of(note: Path, metrics: Path) -> bool:
    """Whether :func:`sources_of` noted a test's results as they are now."""
    if not note.is_file():
        return False
    stat = metrics.stat()
    try:
        noted = orjson.loads(note.read_bytes())["results"][metrics.name]
    except (ValueError, KeyError, TypeError):  # cut short, or of something else
        return False
    return noted == [stat.st_size, stat.st_mtime_ns]
