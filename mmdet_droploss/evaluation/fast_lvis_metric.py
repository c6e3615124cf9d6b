"""LVIS's evaluation protocol as an MMEngine metric, with hotcoco in place of lvis-api."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from mmdet.registry import METRICS
from mmdet.structures.mask import encode_mask_results
from mmengine import fileio
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from ..datasets import GROUP_NAMES, load_class_frequency
from ..utils import write_atomically

#: LVIS's 13 numbers.
METRIC_KEYS = (
    'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'APr', 'APc', 'APf',
    'AR@300', 'ARs@300', 'ARm@300', 'ARl@300',
)  # fmt: skip

#: LVIS looks at this many detections an image.
MAX_DETECTIONS = 300


@METRICS.register_module()
class FastLVISMetric(BaseMetric):
    """AP and AR by LVIS's federated protocol, for boxes and masks.

    The numbers are those of lvis-api, unrounded: AP, AP50, AP75, AP by size (s, m, l) and by
    frequency group (r, c, f), AR@300 and by size; -1 where there is nothing to measure. They are
    named as by MMDetection's ``LVISMetric``: ``lvis/bbox_AP``, ``lvis/segm_APr``.

    Two differences from ``LVISMetric``: it runs with current NumPy (lvis-api stops at
    ``np.float``), and mask results go in without their boxes, as lvis-api means it. With the box
    left in, lvis-api takes the box's area for the mask's, and APs, APm, APl of masks are off.

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
        collect_device: ``'cpu'`` or ``'gpu'``, where results of several processes are gathered.
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
        collect_device: str = "cpu",
        prefix: str | None = None,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.iou_types = [metric] if isinstance(metric, str) else list(metric)
        if not self.iou_types or not set(self.iou_types) <= {"bbox", "segm"}:
            raise ValueError(f"metric must be 'bbox', 'segm' or both, but it is {metric!r}")
        self.ann_file = ann_file
        self.classwise = classwise
        self.outfile_prefix = outfile_prefix
        self.ground_truth = load_ground_truth(ann_file, class_freq, backend_args)
        self._image_ids = {image["id"] for image in self.ground_truth["images"]}
        self._category_ids = np.array([c["id"] for c in self.ground_truth["categories"]])

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Take the predictions of a batch; masks become run-length encodings."""
        for sample in data_samples:
            prediction = sample["pred_instances"]
            result = dict(
                img_id=sample["img_id"],
                bboxes=prediction["bboxes"].cpu().numpy(),
                scores=prediction["scores"].cpu().numpy(),
                labels=prediction["labels"].cpu().numpy(),
            )
            if "segm" in self.iou_types:
                if "masks" not in prediction:
                    raise ValueError(
                        "metric has 'segm', but the model predicts no masks; "
                        "use FastLVISMetric(metric='bbox')"
                    )
                masks = prediction["masks"]
                result['masks'] = (
                    masks if isinstance(masks, list)
                    else encode_mask_results(masks.detach().cpu().numpy())
                )  # fmt: skip
            self._check(result)
            self.results.append(result)

    def _check(self, result: dict) -> None:
        if result["img_id"] not in self._image_ids:
            raise ValueError(
                f"detections for image id {result['img_id']!r}, which ann_file={self.ann_file!r} "
                f"does not have: val_dataloader and the evaluator must use the same annotation file"
            )
        if np.isnan(result["scores"]).any():
            raise ValueError(f"scores of image id {result['img_id']!r} contain NaN")
        labels = result["labels"]
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self._category_ids):
            raise ValueError(
                f"labels of image id {result['img_id']!r} reach from {labels.min()} to "
                f"{labels.max()}, but ann_file={self.ann_file!r} has {len(self._category_ids)} "
                f"categories"
            )

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Evaluate the gathered results."""
        logger = MMLogger.get_current_instance()
        if len(results) < len(self._image_ids):
            logger.warning(
                f"{len(results)} of the {len(self._image_ids)} images of {self.ann_file} were "
                f"tested; the others count as images without detections"
            )
        metrics: dict[str, float] = {}
        per_category: dict[str, np.ndarray] = {}
        for iou_type in self.iou_types:
            logger.info(f"Evaluating {iou_type}...")
            detections = to_lvis_results(results, iou_type, self._category_ids)
            if self.outfile_prefix is not None:
                write_atomically(f"{self.outfile_prefix}.{iou_type}.json", orjson.dumps(detections))
            evaluation = evaluate(self.ground_truth, detections, iou_type)
            numbers = evaluation.get_results()
            metrics |= {f"{iou_type}_{key}": float(numbers[key]) for key in METRIC_KEYS}
            per_category[iou_type] = category_ap(evaluation)
            logger.info("\n" + "\n".join(evaluation.summary_lines()))
        if self.classwise:
            logger.info("\n" + self._classwise_table(per_category))
        if self.outfile_prefix is not None:
            write_atomically(
                f"{self.outfile_prefix}.metrics.json",
                orjson.dumps(
                    dict(metrics=metrics, per_category=self._category_rows(per_category)),
                    option=orjson.OPT_INDENT_2,
                ),
            )
        return metrics

    def _category_rows(self, per_category: dict[str, np.ndarray]) -> list[dict]:
        """One dict a category: its name, group, image count and APs (None if not measurable)."""
        rows = []
        for index, category in enumerate(self.ground_truth["categories"]):
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


def load_ground_truth(
    ann_file: str, class_freq: Any = None, backend_args: dict | None = None
) -> dict[str, Any]:
    """Read an annotation file and give it the fields that the federated protocol needs.

    Args:
        ann_file: LVIS- or COCO-format annotations.
        class_freq: See :class:`FastLVISMetric`.
        backend_args: For MMEngine's file backends.

    Returns:
        The content of the file, with ``neg_category_ids`` and ``not_exhaustive_category_ids`` for
        every image, and ``frequency`` for every category if it is known.

    Raises:
        ValueError: If the file is not valid.
        FileNotFoundError: If it does not exist.
    """
    if "://" not in str(ann_file) and not os.path.isfile(ann_file):
        raise FileNotFoundError(
            f"ann_file={str(ann_file)!r} does not exist (working directory: {os.getcwd()})"
        )
    text = fileio.get(ann_file, backend_args=backend_args)
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(
            f"ann_file={str(ann_file)!r} is not valid JSON, perhaps truncated: {error}"
        ) from None
    missing = {"images", "annotations", "categories"} - (
        content.keys() if isinstance(content, dict) else set()
    )
    if missing:
        raise ValueError(
            f"ann_file={str(ann_file)!r} is not an LVIS or COCO annotation file: it lacks "
            f"{', '.join(sorted(missing))}"
        )
    _fill_negatives(content)
    if class_freq is not None:
        _fill_groups(content, class_freq)
    return content


def _fill_negatives(content: dict) -> None:
    """Without ``neg_category_ids`` an image counts as exhaustively annotated."""
    bare = [image for image in content["images"] if "neg_category_ids" not in image]
    if bare:
        categories = {category["id"] for category in content["categories"]}
        present: dict[int, set[int]] = {image["id"]: set() for image in bare}
        for annotation in content["annotations"]:
            if annotation["image_id"] in present:
                present[annotation["image_id"]].add(annotation["category_id"])
        for image in bare:
            image["neg_category_ids"] = sorted(categories - present[image["id"]])
    for image in content["images"]:
        image.setdefault("not_exhaustive_category_ids", [])


def _fill_groups(content: dict, class_freq: Any) -> None:
    frequency = load_class_frequency(class_freq)
    categories = content["categories"]
    if frequency.num_classes != len(categories):
        raise ValueError(
            f"class_freq has {frequency.num_classes} categories (from {frequency.source}), but "
            f"ann_file has {len(categories)}"
        )
    for category, group, count in zip(
        categories, frequency.groups, frequency.image_count, strict=True
    ):
        category["frequency"] = GROUP_NAMES[group][0]
        category["image_count"] = int(count)


def to_lvis_results(results: list[dict], iou_type: str, category_ids: np.ndarray) -> list[dict]:
    """Detections in LVIS's results format.

    Args:
        results: What :meth:`FastLVISMetric.process` gathered; boxes are (x1, y1, x2, y2).
        iou_type: ``'bbox'`` gives entries with ``bbox`` (x, y, w, h), ``'segm'`` with
            ``segmentation`` and no box.
        category_ids: (C,) the category id of each label.
    """
    detections = []
    for result in results:
        boxes = result["bboxes"].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        columns = zip(
            category_ids[result["labels"]].tolist(),
            result["scores"].astype(np.float64).tolist(),
            boxes.tolist() if iou_type == "bbox" else result["masks"],
            strict=True,
        )
        for category_id, score, shape in columns:
            detection = {"image_id": result["img_id"], "category_id": category_id, "score": score}
            if iou_type == "bbox":
                detection["bbox"] = shape
            else:
                counts = shape["counts"]
                detection["segmentation"] = {
                    "size": [int(side) for side in shape["size"]],
                    "counts": counts.decode() if isinstance(counts, bytes) else counts,
                }
            detections.append(detection)
    return detections


def evaluate(ground_truth: dict, detections: list[dict], iou_type: str) -> Any:
    """Run LVIS's protocol.

    Returns:
        hotcoco's evaluator, with ``get_results``, ``summary_lines`` and ``eval``.
    """
    import hotcoco

    truth = hotcoco.COCO(ground_truth)
    evaluation = hotcoco.LVISeval(
        truth, hotcoco.LVISResults(truth, detections, MAX_DETECTIONS), iou_type
    )
    evaluation.evaluate()
    evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()):  # the caller logs summary_lines()
        evaluation.summarize()
    return evaluation


def category_ap(evaluation: Any) -> np.ndarray:
    """AP per category, (C,) float64 in the order of the annotation file; NaN if not measurable."""
    precision = np.asarray(evaluation.eval["precision"])[..., 0, 0]  # all sizes; (IoU, recall, C)
    ordered = dict(zip(evaluation.params.cat_ids, np.moveaxis(precision, -1, 0), strict=True))
    return np.array(
        [
            values[values > -1].mean() if (values > -1).any() else np.nan
            for values in (ordered[c["id"]] for c in evaluation.coco_gt.dataset["categories"])
        ]
    )
