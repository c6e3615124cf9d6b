"""The same detections under another validation protocol: no second test is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson

from ..annotations import load_class_frequency
from ..evaluation.lvis_evaluator import METRIC_KEYS, category_ap
from ..utils import write_atomically
from .detections import Detections
from .runs import IOU_TITLES, load_run


def evaluate_again(folder: Path, ann_file: Path, train_ann: str, target: Path) -> None:
    """Evaluate a tested run's detections on other annotations of the same images.

    Annotations that list other categories as absent judge other detections; see :class:`.Protocol`.
    What is written is what a test writes, so the other tools read it as a run. Nothing is done if
    the target is newer than the test's results and the annotations.

    Args:
        folder: The work dir of the run, with ``val.*.json``.
        ann_file: The other annotations.
        train_ann: Frequencies of the training set, whatever ``class_freq`` may be.
        target: A folder that gets ``val.metrics.json``.

    Raises:
        InputError: If the run is not tested, or the detections are of other images or categories.
        ValueError: If the annotations cannot be evaluated.
    """
    run = load_run(folder.name, folder)
    written = target / "val.metrics.json"
    sources = (run.metrics_file, ann_file)
    if written.is_file() and all(
        written.stat().st_mtime_ns > source.stat().st_mtime_ns for source in sources
    ):
        return
    iou_types = [t for t in IOU_TITLES if f"{t}_AP" in run.metrics]
    detections = Detections(ann_file, load_class_frequency(train_ann), iou_types)
    detections.check_runs([run])
    metrics: dict[str, float] = {}
    rows = [dict(row) for row in run.categories]
    for iou_type in iou_types:
        evaluation = detections.evaluation(run.results_file(iou_type), iou_type)
        evaluation.summary_lines()  # this computes what get_results() returns
        numbers = evaluation.get_results()
        metrics |= {f"{iou_type}_{key}": float(numbers[key]) for key in METRIC_KEYS}
        for row, ap in zip(rows, category_ap(evaluation), strict=True):
            row[f"{iou_type}_AP"] = None if np.isnan(ap) else float(ap)
    config_files = sorted(folder.glob("*/vis_data/config.py"))
    if config_files:  # so that the copy, too, says what it was trained with
        copy = target / config_files[-1].relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, config_files[-1].read_bytes())
    target.mkdir(parents=True, exist_ok=True)
    write_atomically(
        written,
        orjson.dumps({"metrics": metrics, "per_category": rows}, option=orjson.OPT_INDENT_2),
    )
