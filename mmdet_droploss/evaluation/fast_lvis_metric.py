"""LVIS's evaluation protocol as an MMEngine metric, with hotcoco in place of lvis-api."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from mmdet.registry import METRICS
from mmdet.structures.mask import encode_mask_results
from mmengine.dist import get_rank, get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from ..datasets.annotation_file import garbage_collection_paused
from ..utils import write_atomically
from .ground_truth import GroundTruth
from .results_file import ResultsPart, join_parts, select, to_lvis_results

#: LVIS's 13 numbers.
METRIC_KEYS = (
    'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'APr', 'APc', 'APf',
    'AR@300', 'ARs@300', 'ARm@300', 'ARl@300',
)  # fmt: skip

#: LVIS looks at this many detections an image.
MAX_DETECTIONS = 300

#: Images that are matched in one go.
MATCHED_AT_ONCE = 16


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
            category).
        format_only: Only write the detections, for LVIS's test server; needs ``outfile_prefix``.
        collect_device: ``'cpu'`` or ``'gpu'``, where the processes' states are gathered.
        prefix: Takes the place of ``lvis`` in the names.
        backend_args: For MMEngine's file backends.

    Raises:
        ValueError: If an argument is out of range, ``ann_file`` is not valid, or the detections
            are for images that it does not have or have NaN scores.
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
        self.ground_truth = GroundTruth(
            ann_file, class_freq, require_annotations=not format_only, backend_args=backend_args
        )
        self._start()

    def _start(self) -> None:
        """Begin a new evaluation."""
        self._matched: set[int] = set()
        # The images that came last. Some are matched at once, for hotcoco then uses several cores.
        # The very last waits for the end: with several processes a sampler may have dealt it out
        # twice, to fill up the last round, and only then it is known who else has it.
        self._pending: list[dict] = []
        self._evaluators = {
            iou_type: new_evaluator(self.ground_truth, iou_type)
            for iou_type in ([] if self.format_only else self.iou_types)
        }
        self._parts = {
            iou_type: ResultsPart(self._part_file(iou_type, get_rank()))
            for iou_type in ([] if self.outfile_prefix is None else self.iou_types)
        }

    def _part_file(self, iou_type: str, rank: int) -> str:
        return f"{self.outfile_prefix}.{iou_type}.json.part{rank}"

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Match the predictions of a batch; masks become run-length encodings."""
        for sample in data_samples:
            prediction = sample["pred_instances"]
            result = {
                "img_id": sample["img_id"],
                "bboxes": prediction["bboxes"].cpu().numpy(),
                "scores": prediction["scores"].cpu().numpy(),
                "labels": prediction["labels"].cpu().numpy(),
            }
            if "segm" in self.iou_types:
                if "masks" not in prediction:
                    raise ValueError(
                        "metric has 'segm', but the model predicts no masks; "
                        "use FastLVISMetric(metric='bbox')"
                    )
                masks = prediction["masks"]
                encoded = isinstance(masks, list)
                result["masks"] = (
                    masks if encoded else encode_mask_results(masks.detach().cpu().numpy())
                )
            self._check(result)
            waiting = {pending["img_id"] for pending in self._pending}
            if result["img_id"] not in self._matched and result["img_id"] not in waiting:
                self._pending.append(result)
            if len(self._pending) > MATCHED_AT_ONCE:
                self._match(self._pending[:-1])
                self._pending = self._pending[-1:]

    def _check(self, result: dict) -> None:
        if result["img_id"] not in self.ground_truth:
            raise ValueError(
                f"detections for image id {result['img_id']!r}, which ann_file={self.ann_file!r} "
                f"does not have: val_dataloader and the evaluator must use the same annotation file"
            )
        for name in ("scores", "bboxes"):
            if np.isnan(result[name]).any():
                raise ValueError(f"{name} of image id {result['img_id']!r} contain NaN")
        labels, num_classes = result["labels"], len(self.ground_truth.categories)
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError(
                f"labels of image id {result['img_id']!r} reach from {labels.min()} to "
                f"{labels.max()}, but ann_file={self.ann_file!r} has {num_classes} categories"
            )

    @garbage_collection_paused()
    def _match(self, results: list[dict]) -> None:
        """Match the detections of some images with their annotations, and forget them."""
        category_ids = self.ground_truth.category_ids
        images, annotations = [], []
        detections = {iou_type: [] for iou_type in self._evaluators}
        for result in results:
            self._matched.add(result["img_id"])
            for iou_type, part in self._parts.items():
                part.write(to_lvis_results(result, iou_type, category_ids))
            image = self.ground_truth.image(result["img_id"])
            annotated = self.ground_truth.annotations(result["img_id"])
            counted = select(result, detections_that_count(result, image, annotated, category_ids))
            images.append(image)
            annotations += annotated
            for iou_type, of_type in detections.items():
                of_type += to_lvis_results(counted, iou_type, category_ids)
        for iou_type, evaluator in self._evaluators.items():
            evaluator.update(images, annotations, detections[iou_type])

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
        for part in self._parts.values():
            part.flush()
        return {
            "matched": self._matched,
            "pending": self._pending,
            "evaluators": {key: value.to_bytes() for key, value in self._evaluators.items()},
            "part_sizes": {key: part.size for key, part in self._parts.items()},
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
        for iou_type, own in self._parts.items():
            own.flush()
            sizes = [own.size, *(state["part_sizes"][iou_type] for state in results[1:])]
            parts = [(self._part_file(iou_type, rank), size) for rank, size in enumerate(sizes)]
            join_parts(parts, f"{self.outfile_prefix}.{iou_type}.json")
        metrics: dict[str, float] = {}
        per_category: dict[str, np.ndarray] = {}
        for iou_type, evaluator in self._evaluators.items():
            images = [self.ground_truth.image(image_id) for image_id in missing]
            annotations = [a for i in missing for a in self.ground_truth.annotations(i)]
            evaluator.update(images, annotations, [])
            evaluation = accumulate(evaluator)
            summary = evaluation.summary_lines()  # this also computes what get_results() returns
            numbers = evaluation.get_results()
            metrics |= {f"{iou_type}_{key}": float(numbers[key]) for key in METRIC_KEYS}
            if self.classwise or self.outfile_prefix is not None:
                per_category[iou_type] = category_ap(evaluation, self.ground_truth.category_ids)
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
                    {"metrics": metrics, "per_category": self._category_rows(per_category)},
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
        for iou_type in self._evaluators:
            self._evaluators[iou_type] = merge([s["evaluators"][iou_type] for s in states])
        pending = {result["img_id"]: result for state in states for result in state["pending"]}
        self._match([result for i, result in pending.items() if i not in self._matched])

    def _category_rows(self, per_category: dict[str, np.ndarray]) -> list[dict]:
        """One dict a category: its name, group, image count and APs (None if not measurable)."""
        rows = []
        for index, category in enumerate(self.ground_truth.categories):
            row = {
                "name": category["name"],
                "frequency": category.get("frequency"),
                "image_count": category.get("image_count"),
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


def new_evaluator(ground_truth: GroundTruth, iou_type: str) -> Any:
    """hotcoco's evaluator that takes images one after another, by LVIS's protocol."""
    import hotcoco

    return hotcoco.StreamingEval(ground_truth.categories, iou_type, lvis_style=True)


def detections_that_count(
    result: dict, image: dict, annotations: list[dict], category_ids: np.ndarray
) -> np.ndarray:
    """Which detections the federated protocol looks at: most are of categories it does not know of.

    Args:
        result: ``scores`` (N,) and ``labels`` (N,).
        image: The image's entry, with ``neg_category_ids``.
        annotations: The image's annotations.
        category_ids: (C,) the category id of each label.

    Returns:
        Indices: of the best 300, those of categories that the image is annotated for, be it that
        it shows them or that it certainly does not.
    """
    indices = np.arange(len(result["scores"]))
    if len(indices) > MAX_DETECTIONS:
        indices = np.argsort(-result["scores"], kind="stable")[:MAX_DETECTIONS]
    known = {annotation["category_id"] for annotation in annotations}
    known.update(image["neg_category_ids"])
    return indices[np.isin(category_ids[result["labels"][indices]], list(known))]


def merge(states: Sequence[bytes]) -> Any:
    """One evaluator of the states (``to_bytes``) of several."""
    import hotcoco

    return hotcoco.StreamingEval.merge([hotcoco.StreamingEval.from_bytes(s) for s in states])


def accumulate(evaluator: Any) -> Any:
    """The numbers of all images that an evaluator has matched.

    Returns:
        hotcoco's ``COCOeval``: ``eval``, and ``summary_lines()`` followed by ``get_results()``.
    """
    evaluation = evaluator.finalize()
    evaluation.accumulate()
    return evaluation


def category_ap(evaluation: Any, category_ids: np.ndarray) -> np.ndarray:
    """AP per category.

    Args:
        evaluation: hotcoco's, after ``accumulate``.
        category_ids: (C,) the category id of each label.

    Returns:
        (C,) float64; NaN if not measurable.
    """
    precision = np.asarray(evaluation.eval["precision"])[..., 0, 0]  # all sizes; (IoU, recall, C)
    ordered = dict(zip(evaluation.params.cat_ids, np.moveaxis(precision, -1, 0), strict=True))
    return np.array(
        [
            values[values > -1].mean() if (values > -1).any() else np.nan
            for values in (ordered[category_id] for category_id in category_ids.tolist())
        ]
    )
