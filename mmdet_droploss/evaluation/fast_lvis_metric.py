"""LVIS's evaluation protocol as an MMEngine metric, with hotcoco in place of lvis-api."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from mmdet.registry import METRICS
from mmengine.dist import get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from ..annotations.ground_truth import GroundTruth
from ..annotations.names import Categories, difference
from ..utils import write_atomically
from .detections import Detections, ResultsFile
from .lvis_evaluator import MATCHED_AT_ONCE, METRIC_KEYS, LVISEvaluator, category_ap


@METRICS.register_module()
class FastLVISMetric(BaseMetric):
    """AP and AR by LVIS's federated protocol, for boxes and masks.

    The numbers are those of lvis-api, unrounded: AP, AP50, AP75, AP by size (s, m, l) and by
    frequency group (r, c, f), AR@300 and by size; -1 where there is nothing to measure. They are
    named as by MMDetection's ``LVISMetric``: ``lvis/bbox_AP``, ``lvis/segm_APr``.

    Two differences from ``LVISMetric``: it runs with current NumPy (lvis-api stops at
    ``np.float``), and mask results go in without their boxes, as lvis-api means it. With the box
    left in, lvis-api takes the box's area for the mask's, and APs, APm, APl of masks are off.

    Images are matched with their annotations as they come, in the process that tested them; then
    their detections are forgotten. What the processes exchange in the end, and what memory grows
    by, are some 35 bytes a detection.

    For annotations without LVIS's extra fields: an image without ``neg_category_ids`` counts as
    exhaustively annotated, and without ``frequency`` the groups come from ``class_freq``.

    Args:
        ann_file: The annotation file of the set that is evaluated, LVIS or COCO format.
        metric: ``'bbox'``, ``'segm'`` or both.
        classwise: Whether to log a table of AP per category.
        class_freq: Category frequencies of the *training* set, as for the losses; only needed for
            annotations whose categories have no ``frequency``.
        outfile_prefix: If given, writes ``{prefix}.bbox.json``, ``{prefix}.segm.json`` (detections
            in LVIS's results format) and ``{prefix}.metrics.json`` (all numbers, also per
            category, and a digest of ``ann_file``).
        format_only: Only write the detections, for LVIS's test server; needs ``outfile_prefix``.
        check_classes: Whether category names of the data set that is tested, or behind
            ``class_freq``, that differ from those of ``ann_file`` are an error. If not, they are a
            warning. (:class:`~mmdet_droploss.engine.category_check.CategoryCheckHook` compares them
            at the start of a run.)
        check_pictures: Whether a picture under another name than ``ann_file`` has for its id is an
            error. (The hook knows whether the data set has the same file, and turns this off then:
            the data set may give its pictures other names.)
        collect_device: ``'cpu'`` or ``'gpu'``, where the processes' states are gathered.
        prefix: Takes the place of ``lvis`` in the names.
        backend_args: For MMEngine's file backends.

    Raises:
        ValueError: If an argument is out of range, ``ann_file`` is not valid or says what lvis-api
            could not evaluate, category names differ, or the detections are for images that it
            does not have or calls otherwise, or for an image twice, have masks of another size than
            the image, or are not finite.
        FileNotFoundError: If ``ann_file`` does not exist.
    """

    default_prefix = "lvis"

    def __init__(
        self,
        ann_file: str,
        metric: str | Sequence[str] = ("bbox", "segm"),
        classwise: bool = False,
        class_freq: Any = None,
        outfile_prefix: str | None = None,
        format_only: bool = False,
        check_classes: bool = True,
        check_pictures: bool = True,
        collect_device: str = "cpu",
        prefix: str | None = None,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.iou_types = [metric] if isinstance(metric, str) else list(metric)
        if not self.iou_types or not set(self.iou_types) <= {"bbox", "segm"}:
            raise ValueError(f"metric must be 'bbox', 'segm' or both, but it is {metric!r}")
        if format_only and outfile_prefix is None:
            raise ValueError("format_only=True needs outfile_prefix, which says where to write")
        self.ann_file = ann_file
        self.classwise = classwise
        self.outfile_prefix = outfile_prefix
        self.format_only = format_only
        self.check_classes = check_classes
        self.check_pictures = check_pictures
        self._compared = [] if format_only else self.iou_types
        self.ground_truth = GroundTruth(
            ann_file, class_freq, self._compared, check_classes, backend_args
        )
        self._category_ids = self.ground_truth.category_ids.tolist()
        self._start()

    def _start(self) -> None:
        """Begin a new evaluation."""
        self._tested: dict[int, str | None] = {}  # the picture of each image id
        self._matched: set[int] = set()
        # The images that came last. Some are matched at once, for hotcoco then uses several cores.
        # The very last waits for the end: with several processes a sampler may have dealt it out
        # twice, to fill up the last round, and only then it is known who else has it.
        self._pending: list[Detections] = []
        self._evaluator = LVISEvaluator(self.ground_truth, self._compared)
        self._files = {
            iou_type: ResultsFile(f"{self.outfile_prefix}.{iou_type}.json")
            for iou_type in ([] if self.outfile_prefix is None else self.iou_types)
        }

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Match the predictions of a batch; masks become run-length encodings."""
        if not self._tested:
            self._check_categories()
        for sample in data_samples:
            found = Detections.from_sample(sample, self.iou_types)
            picture = found.picture if self.check_pictures else None
            self.ground_truth.require_image(found.image_id, picture)
            if found.image_id in self._tested:
                raise ValueError(tested_twice(found, self._tested[found.image_id]))
            self._tested[found.image_id] = found.picture
            self._check(found)
            self._pending.append(found)
            if len(self._pending) > MATCHED_AT_ONCE:
                self._match(self._pending[:-1])
                self._pending = self._pending[-1:]

    def _check_categories(self) -> None:
        """Compare the names of what is tested with those of the file."""
        names = (self.dataset_meta or {}).get("classes")
        if not isinstance(names, (list, tuple)):
            return
        tested = Categories(
            "classes of the data set that is tested", len(names), (*map(str, names),)
        )
        own = Categories.of_file(f"ann_file={self.ann_file!r}", self.ground_truth.categories)
        if text := difference(tested, own):
            if self.check_classes:
                raise ValueError(
                    f"{text}. Both must have the same categories in the same order, else a label "
                    f"means another one. Correct metainfo['classes'] or ann_file; "
                    f"check_classes=False of FastLVISMetric makes this a warning"
                )
            MMLogger.get_current_instance().warning(text)

    def _check(self, found: Detections) -> None:
        image_id, truth = found.image_id, self.ground_truth
        values = {"scores": found.scores, "bboxes": found.shapes.get("bbox", np.empty(0))}
        for name, array in values.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} of image id {image_id!r} contain NaN or infinity")
        labels, num_classes = found.labels, len(truth.categories)
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError(
                f"labels of image id {image_id!r} reach from {labels.min()} to "
                f"{labels.max()}, but ann_file={self.ann_file!r} has {num_classes} categories"
            )
        expected = truth.size(image_id)
        sizes = {tuple(mask["size"]) for mask in found.shapes.get("segm", ())}
        for height, width in sizes if found.size is None else {*sizes, found.size}:
            if (height, width) != expected:
                raise ValueError(
                    f"the detections in {truth.name_of_image(image_id)} are of a picture {height} "
                    f"pixels high and {width} wide, but ann_file={self.ann_file!r} says height "
                    f"{expected[0]} and width {expected[1]}"
                    + (
                        ". They are swapped there: MMDetection turns a picture by its EXIF "
                        "orientation when it loads it. Correct height and width (and the "
                        "annotations, if they were drawn on the picture as it lies), or load it "
                        "with LoadImageFromFile(color_type='color_ignore_orientation')"
                        if (width, height) == expected
                        else ". Correct the file, or give the pictures that it was made for"
                    )
                )

    def _match(self, found: list[Detections]) -> None:
        """Match the detections of some images with their annotations, and forget them."""
        for of_image in found:
            self._matched.add(of_image.image_id)
            for iou_type, file in self._files.items():
                file.write(of_image.to_lvis_results(iou_type, self._category_ids))
        if not self.format_only:
            self._evaluator.update(found)

    def evaluate(self, size: int) -> dict[str, float]:
        """Combine what the processes have matched.

        Args:
            size: The number of images in the data set; not used, since images are told apart by
                their ids.

        Returns:
            The metrics, in every process.
        """
        # What BaseMetric gathers from the processes: one state each, in the place of all results.
        self.results = [self._state()]
        metrics = super().evaluate(get_world_size())
        self._start()
        return metrics

    def _state(self) -> dict:
        """What this process has matched, for the first process to combine."""
        for file in self._files.values():
            file.part.flush()
        return {
            "matched": self._matched,
            "pending": self._pending,
            "evaluator": self._evaluator.to_bytes(),
            "part_sizes": {key: file.part.size for key, file in self._files.items()},
        }

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Accumulate; called in the first process only.

        Args:
            results: The states of the processes.
        """
        logger = MMLogger.get_current_instance()
        self._merge(results)
        missing = [i for i in self.ground_truth.image_ids if i not in self._matched]
        if missing:
            logger.warning(
                f"{len(self._matched)} of the {len(self.ground_truth)} images of {self.ann_file} "
                f"were tested; the others count as images without detections"
            )
        for iou_type, file in self._files.items():
            sizes = [state["part_sizes"][iou_type] for state in results[1:]]
            file.join([file.part.size, *sizes])
        if not self.format_only:
            self._evaluator.update(Detections.none(i, self.iou_types) for i in missing)
        metrics: dict[str, float] = {}
        per_category: dict[str, np.ndarray] = {}
        for iou_type in self._compared:
            evaluation = self._evaluator.accumulate(iou_type)
            summary = evaluation.summary_lines()  # this also computes what get_results() returns
            numbers = evaluation.get_results()
            metrics |= {f"{iou_type}_{key}": float(numbers[key]) for key in METRIC_KEYS}
            if self.classwise or self.outfile_prefix is not None:
                per_category[iou_type] = category_ap(evaluation)
            logger.info("\n".join([f"{iou_type}:", *summary]))
            del evaluation  # before the next one is made: it holds all matches
        if self.format_only:
            logger.info(f"wrote {self.outfile_prefix}.{{{','.join(self.iou_types)}}}.json")
            return metrics
        if self.classwise:
            logger.info("\n" + self._classwise_table(per_category))
        if self.outfile_prefix is not None:
            write_atomically(
                f"{self.outfile_prefix}.metrics.json",
                orjson.dumps(
                    {
                        "annotations": {"file": self.ann_file, "sha256": self.ground_truth.sha256},
                        "metrics": metrics,
                        "per_category": self._category_rows(per_category),
                    },
                    option=orjson.OPT_INDENT_2,
                ),
            )
        return metrics

    def _merge(self, states: list[dict]) -> None:
        """Take over what all processes have matched, each image once."""
        matched = [image_id for state in states for image_id in state["matched"]]
        self._matched = set(matched)
        if len(matched) > len(self._matched):
            raise ValueError(
                f"{len(matched) - len(self._matched)} images were tested by two processes; the "
                f"sampler of the dataloader must deal each image out once, as DefaultSampler does"
            )
        self._evaluator.merge([state["evaluator"] for state in states])
        pending: dict[int, Detections] = {}
        for found in (found for state in states for found in state["pending"]):
            other = pending.setdefault(found.image_id, found)
            if other.picture != found.picture:
                raise ValueError(tested_twice(found, other.picture))
        self._match([found for i, found in pending.items() if i not in self._matched])

    def _category_rows(self, per_category: dict[str, np.ndarray]) -> list[dict]:
        """One dict a category: its name, group, image count and APs (None if not measurable)."""
        rows = []
        for index, category in enumerate(self.ground_truth.categories):
            count = category.get("image_count")
            row = {
                "name": self.ground_truth.names[index] or str(category["id"]),
                "frequency": category.get("frequency"),
                "image_count": count if isinstance(count, int) else None,
            }
            for iou_type, aps in per_category.items():
                row[f"{iou_type}_AP"] = None if np.isnan(aps[index]) else float(aps[index])
            rows.append(row)
        return rows

    def _classwise_table(self, per_category: dict[str, np.ndarray]) -> str:
        rows = self._category_rows(per_category)
        rows.sort(key=lambda row: row["image_count"] or 0)
        table = [[str(key) for key in rows[0]]]
        for row in rows:
            table.append(
                [
                    "-" if value is None else f"{value:.4f}" if isinstance(value, float) else value
                    for value in row.values()
                ]
            )
        return AsciiTable(table).table


def tested_twice(found: Detections, before: str | None) -> str:
    """What is wrong with an image that comes a second time."""
    if found.picture != before:
        return (
            f"image id {found.image_id} is tested twice, as {before!r} and as {found.picture!r}: "
            f"several data sets need a file that holds all of them, with ids of their own"
        )
    return (
        f"image id {found.image_id} ({found.picture!r}) is tested twice. Either the data set has "
        f"it twice, or a validation was broken off before: then build the Runner anew"
    )
