"""One HTML file with the table, the figures and how everything was made."""

from __future__ import annotations

import base64
import datetime
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import jinja2
import numpy as np

from ..annotations import GROUP_NAMES, ClassFrequency, load_class_frequency
from ..annotations.progress import track
from ..version import __version__
from .comparable_runs import common_iou_types, load_methods
from .detections import Detections
from .intervals import Difference, differences, without_interval
from .runs import IOU_TITLES, KEY_TITLES, KEYS, Method, facts_of
from .tables import build_table, sentences

TEMPLATE = Path(__file__).with_name("report.html.j2")


@dataclass(frozen=True)
class Comparison:
    """What a report is about.

    Args:
        methods: The first is the baseline.
        frequency: Category frequencies of the training set.
        detections: The annotations and the detections of the runs.
        iou_types: ``'segm'``, ``'bbox'`` or both; the first is the one that figures show.
        differences: To the baseline, by name, then by metric (``segm_AP``).
        bootstrap: Draws of images behind the intervals; 0 if they are of seeds, or there are none.
    """

    methods: list[Method]
    frequency: ClassFrequency
    detections: Detections
    iou_types: list[str]
    differences: dict[str, dict[str, Difference]]
    bootstrap: int

    @property
    def has_seeds(self) -> bool:
        """Whether there are several runs of a name."""
        return any(len(method.runs) > 1 for method in self.methods)

    @property
    def left_out(self) -> list[str]:
        """What some runs were tested for, but not all: ``Mask AP``, ``Box AP``."""
        tested = {key for method in self.methods for run in method.runs for key in run.metrics}
        return [
            f"{title} AP"
            for iou_type, title in IOU_TITLES.items()
            if f"{iou_type}_AP" in tested and iou_type not in self.iou_types
        ]

    @property
    def without_interval(self) -> list[str]:
        """Which numbers have no interval although others have, a sentence each."""
        return without_interval(self.detections) if self.bootstrap else []

    def tables(self) -> dict[str, list[dict]]:
        """The headline table for masks and for boxes."""
        return {t: build_table(self.methods, self.differences, t) for t in self.iou_types}


def compare(ann: Path, train_ann: str, runs: Sequence[str], bootstrap: int = 1000) -> Comparison:
    """Read everything and compute the differences.

    Every run is evaluated once more, so that the table is about the annotations that it names.

    Args:
        ann: The annotations that the runs were tested on.
        train_ann: Whatever ``class_freq`` may be.
        runs: ``NAME=DIR``; the first is the baseline, the same name again is another seed of it.
        bootstrap: Draws of images for the intervals of single runs.

    Raises:
        InputError: If something is missing, broken, of another data set, or tested on other
            annotations.
    """
    methods = load_methods(runs)
    frequency = load_class_frequency(train_ann)
    iou_types = common_iou_types(methods)
    detections = Detections(ann, frequency, iou_types)
    detections.check_runs([run for method in methods for run in method.runs])
    # One kind of interval in one table.
    bootstrap = 0 if any(len(method.runs) > 1 for method in methods) else bootstrap
    found: dict[str, dict[str, Difference]] = {method.name: {} for method in methods[1:]}
    steps = [(iou_type, method) for iou_type in iou_types for method in methods]
    for iou_type, method in track(steps, f"evaluating the runs on {ann}"):
        for run in method.runs:
            detections.check_metrics(run, iou_type)
        if method is not methods[0]:
            found[method.name] |= differences(methods[0], method, iou_type, detections, bootstrap)
    return Comparison(methods, frequency, detections, iou_types, found, bootstrap)


def build_figures(
    comparison: Comparison, img_root: Path | None, images: int, score_thr: float
) -> dict[str, bytes]:
    """All figures as PNG, by the name of their file.

    Args:
        comparison: What they show.
        img_root: The folder that the images' paths start from; by default that of the runs' tests,
            else the one above that of the annotations.
        images: Validation images to show; 0 for none.
        score_thr: The lowest score of a prediction that is shown.
    """
    # matplotlib takes a second to import, and a mistake in the arguments should not wait for it.
    from . import figures
    from .gallery import Gallery, picture_roots

    found = {
        "differences": figures.plot_differences(
            comparison.methods, comparison.differences, comparison.iou_types
        ),
        "categories": figures.plot_categories(
            comparison.methods, comparison.frequency, comparison.iou_types[0]
        ),
        "curves": figures.plot_curves(comparison.methods),
    }
    if images and "segm" in comparison.iou_types:
        detections = comparison.detections
        roots = picture_roots(comparison.methods, detections.ann_file)
        roots = roots if img_root is None else [img_root]
        gallery = Gallery(detections, comparison.frequency, *roots)
        found["pictures"] = gallery.draw(comparison.methods, images, score_thr)
    return {name: figures.to_png(figure) for name, figure in found.items()}


def render(
    comparison: Comparison,
    figures: dict[str, bytes],
    score_thr: float,
    commands: Sequence[str],
) -> str:
    """Fill the template."""
    from .figures import GROUP_COLOURS
    from .gallery import MATCH_IOU, MAX_SHOWN

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    methods, detections = comparison.methods, comparison.detections
    main_type = comparison.iou_types[0]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=" vs. ".join(method.name for method in methods),
        sentences=sentences(methods, comparison.differences, main_type),
        tables=[(IOU_TITLES[key], rows) for key, rows in comparison.tables().items()],
        columns=[(key, KEY_TITLES[key]) for key in KEYS],
        figures={name: base64.b64encode(png).decode() for name, png in figures.items()},
        groups=list(zip(GROUP_NAMES, GROUP_COLOURS, strict=True)),
        group_sizes=np.bincount(comparison.frequency.groups, minlength=len(GROUP_NAMES)).tolist(),
        several=comparison.has_seeds,
        bootstrap=comparison.bootstrap,
        num_images=len(detections.content["images"]),
        protocol=detections.protocol(),
        left_out=comparison.left_out,
        without_interval=comparison.without_interval,
        baseline=methods[0].name,
        main_type=IOU_TITLES[main_type].lower(),
        score_thr=score_thr,
        match_iou=MATCH_IOU,
        max_shown=MAX_SHOWN,
        runs=[
            dict(name=run.name, folder=str(run.folder), **facts_of(run))
            for method in methods
            for run in method.runs
        ],
        commands=commands,
        ann=str(detections.ann_file),
        versions=versions(),
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


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
