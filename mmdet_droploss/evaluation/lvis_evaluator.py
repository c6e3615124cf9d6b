"""LVIS's protocol image by image: lvis-api's rules, with hotcoco for matching and accumulating.

hotcoco's own reading of an annotation file differs from lvis-api's in some points (crowds, areas
of 0, ``ignore``, negative ids). So it gets plain records, made here: only what counts by lvis-api's
rules, with labels as category ids and the rank of an image's id as its id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..annotations.ground_truth import GroundTruth
from ..annotations.reader import garbage_collection_paused
from .detections import SHAPE_KEYS, Detections

#: LVIS's 13 numbers.
METRIC_KEYS = (
    'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'APr', 'APc', 'APf',
    'AR@300', 'ARs@300', 'ARm@300', 'ARl@300',
)  # fmt: skip

#: LVIS looks at this many detections an image.
MAX_DETECTIONS = 300

#: Images that are matched in one go.
MATCHED_AT_ONCE = 16

# lvis-api ignores objects that are larger than any of its ranges of area, the largest of which ends
# at 1e10 square pixels. It treats those marked "ignore" the same: they may be found once each, and
# need not be. hotcoco does not know the mark, but the area says the same.
_AREA_OF_IGNORED = 1e11


class LVISEvaluator:
    """Matches detections with annotations, an image at a time, and keeps a small state.

    Args:
        ground_truth: The annotations.
        iou_types: ``'bbox'``, ``'segm'`` or both.
    """

    def __init__(self, ground_truth: GroundTruth, iou_types: Sequence[str]) -> None:
        import hotcoco

        self._truth = ground_truth
        self._rank = {image_id: r for r, image_id in enumerate(sorted(ground_truth.image_ids))}
        categories = [
            {"id": label, "name": str(label), "frequency": category.get("frequency")}
            for label, category in enumerate(ground_truth.categories)
        ]
        self._evaluators = {
            iou_type: hotcoco.StreamingEval(categories, iou_type, lvis_style=True)
            for iou_type in iou_types
        }

    @garbage_collection_paused()
    def update(self, found: Iterable[Detections]) -> None:
        """Match the detections of some images; several at once use several cores.

        Args:
            found: All detections of each image, before the cut to 300.
        """
        images = []
        truth: dict[str, list[dict]] = {iou_type: [] for iou_type in self._evaluators}
        boxes, masks = [], []
        for of_image in found:
            image = self._truth.image(of_image.image_id)
            annotations = self._truth.annotations(of_image.image_id)
            judged = self._judged(of_image, image, annotations)
            images.append(self._image(image, of_image.labels[judged]))
            for iou_type in self._evaluators:
                truth[iou_type] += self._annotations(annotations, iou_type, len(truth[iou_type]))
                areas = of_image.areas(iou_type, judged)
                counted = judged[(areas > 0) & (areas < np.inf)]
                if iou_type == "bbox":
                    boxes.append(_boxes(of_image, counted, images[-1]["id"]))
                else:
                    masks += _masks(of_image, counted, images[-1]["id"])
        results: dict[str, Any] = {
            "bbox": np.concatenate([np.empty((0, 7)), *boxes]),
            "segm": masks,
        }
        for iou_type, evaluator in self._evaluators.items():
            evaluator.update(images, truth[iou_type], results[iou_type])

    def _judged(
        self, found: Detections, image: dict[str, Any], annotations: list[dict[str, Any]]
    ) -> np.ndarray:
        """Which detections the federated protocol looks at.

        Returns:
            Indices: of the best 300, those of categories that the image is annotated for, be it
            that it shows them or that it certainly does not.
        """
        indices: np.ndarray = np.arange(len(found))
        if len(indices) > MAX_DETECTIONS:
            indices = np.argsort(-found.scores, kind="stable")[:MAX_DETECTIONS]
        known = {annotation["category_id"] for annotation in annotations}
        known.update(image["neg_category_ids"])
        labels = self._labels_of(known)
        return indices[np.isin(found.labels[indices], labels)]

    def _labels_of(self, category_ids: Iterable[float]) -> list[int]:
        """The labels of category ids, without those that the file does not list."""
        label_of = self._truth.label_of
        return sorted({label_of[id_] for id_ in category_ids if id_ in label_of})

    def _image(self, image: dict[str, Any], judged: np.ndarray) -> dict[str, Any]:
        height, width = self._truth.size(image["id"])
        return {
            "id": self._rank[image["id"]],
            "height": height,
            "width": width,
            # All detections that hotcoco gets are judged, so it need not know of other negatives.
            "neg_category_ids": np.unique(judged).tolist(),
            "not_exhaustive_category_ids": self._labels_of(image["not_exhaustive_category_ids"]),
        }

    def _annotations(self, annotations: list[dict], iou_type: str, first_id: int) -> list[dict]:
        key = SHAPE_KEYS[iou_type]
        return [
            {
                "id": id_,
                "image_id": self._rank[annotation["image_id"]],
                "category_id": self._truth.label_of[annotation["category_id"]],
                "area": _AREA_OF_IGNORED if annotation.get("ignore") else annotation["area"],
                key: annotation[key] if key == "bbox" else _readable(annotation[key]),
            }
            for id_, annotation in enumerate(annotations, first_id + 1)
        ]

    def to_bytes(self) -> dict[str, bytes]:
        """What has been matched, for :meth:`merge`."""
        return {iou_type: one.to_bytes() for iou_type, one in self._evaluators.items()}

    def merge(self, states: Sequence[dict[str, bytes]]) -> None:
        """Take over what several have matched, in place of what this one has.

        Args:
            states: Of :meth:`to_bytes`; no image may be in two of them.
        """
        import hotcoco

        for iou_type in self._evaluators:
            self._evaluators[iou_type] = hotcoco.StreamingEval.merge(
                [hotcoco.StreamingEval.from_bytes(state[iou_type]) for state in states]
            )

    def accumulate(self, iou_type: str) -> Any:
        """The numbers of all images that have been matched.

        Returns:
            hotcoco's ``COCOeval``: ``eval``, and ``summary_lines()`` followed by ``get_results()``,
            which has :data:`METRIC_KEYS`. Its category ids are labels.
        """
        evaluation = self._evaluators[iou_type].finalize()
        evaluation.accumulate()
        return evaluation


def evaluate_results(
    ground_truth: GroundTruth, results: Iterable[dict[str, Any]], iou_type: str
) -> Any:
    """Evaluate detections in LVIS's results format.

    Args:
        ground_truth: The annotations.
        results: Entries of a file that ``outfile_prefix`` writes.
        iou_type: ``'bbox'`` or ``'segm'``.

    Returns:
        As :meth:`LVISEvaluator.accumulate`.
    """
    by_image: dict[int, list[dict]] = {image_id: [] for image_id in ground_truth.image_ids}
    for result in results:
        by_image[result["image_id"]].append(result)
    evaluator = LVISEvaluator(ground_truth, [iou_type])
    found = [
        Detections.from_lvis_results(image_id, of_image, iou_type, ground_truth.label_of)
        for image_id, of_image in by_image.items()
    ]
    for start in range(0, len(found), MATCHED_AT_ONCE):
        evaluator.update(found[start : start + MATCHED_AT_ONCE])
    return evaluator.accumulate(iou_type)


def category_ap(evaluation: Any) -> np.ndarray:
    """AP per category.

    Args:
        evaluation: Of :meth:`LVISEvaluator.accumulate`.

    Returns:
        (C,) float64 in label order; NaN if not measurable.
    """
    precision = np.asarray(evaluation.eval["precision"])[..., 0, 0]  # all sizes; (IoU, recall, C)
    measured = precision > -1
    counts = measured.sum(axis=(0, 1))
    sums = np.where(measured, precision, 0).sum(axis=(0, 1))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _boxes(found: Detections, indices: np.ndarray, image_id: int) -> np.ndarray:
    """(K, 7) float64 as hotcoco takes them: image id, x, y, w, h, score, category id."""
    image_ids = np.full(len(indices), image_id)
    boxes = found.shapes["bbox"][indices]
    return np.column_stack([image_ids, boxes, found.scores[indices], found.labels[indices]])


def _masks(found: Detections, indices: np.ndarray, image_id: int) -> list[dict[str, Any]]:
    masks = found.shapes["segm"]
    values = indices.tolist(), found.labels[indices].tolist(), found.scores[indices].tolist()
    return [
        {"image_id": image_id, "category_id": label, "score": score, "segmentation": masks[index]}
        for index, label, score in zip(*values, strict=True)
    ]


def _readable(segmentation: Any) -> Any:
    """A mask without the polygons of fewer than three points that pycocotools stops at."""
    if isinstance(segmentation, list) and len(segmentation[0]) <= 4:
        return [polygon for polygon in segmentation if len(polygon) >= 6]
    return segmentation
