"""Detections of an image, and files of them in LVIS's results format, written as they come."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from mmdet.structures.mask import encode_mask_results
from pycocotools import mask as mask_utils

from .parts import Part, joined

_SEPARATOR = b",\n"

#: The name of a detection's shape in LVIS's results format.
SHAPE_KEYS = {"bbox": "bbox", "segm": "segmentation"}


@dataclass(frozen=True)
class Detections:
    """N detections of an image.

    Args:
        image_id: The image's id.
        scores: (N,) float64.
        labels: (N,) int64.
        shapes: For ``'bbox'`` (N, 4) float64 (x, y, w, h) in pixels, for ``'segm'`` N compressed
            run-length encodings; either or both.
        picture: The image's file; None if it is not known.
        size: The height and width, in pixels, of the picture that boxes are in; None if not known.
    """

    image_id: int
    scores: np.ndarray
    labels: np.ndarray
    shapes: dict[str, Any]
    picture: str | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def from_sample(cls, sample: dict, iou_types: Sequence[str]) -> Detections:
        """Those of a data sample; masks become run-length encodings.

        Args:
            sample: What MMDetection hands to a metric: ``img_id`` and ``pred_instances``.
            iou_types: Which shapes are wanted.

        Raises:
            ValueError: If masks are wanted and there are none.
        """
        prediction = sample["pred_instances"]
        shapes: dict[str, Any] = {}
        if "bbox" in iou_types:
            boxes = _numpy(prediction["bboxes"]).astype(np.float64).reshape(-1, 4)
            boxes[:, 2:] -= boxes[:, :2]
            shapes["bbox"] = boxes
        if "segm" in iou_types:
            if "masks" not in prediction:
                raise ValueError(
                    "metric has 'segm', but the model predicts no masks; "
                    "use FastLVISMetric(metric='bbox')"
                )
            masks = prediction["masks"]
            encoded = isinstance(masks, (list, tuple))
            shapes["segm"] = list(masks) if encoded else encode_mask_results(_numpy(masks))
        return cls(
            sample["img_id"],
            _numpy(prediction["scores"]).astype(np.float64),
            _numpy(prediction["labels"]).astype(np.int64),
            shapes,
            sample.get("img_path"),
            tuple(sample["ori_shape"][:2]) if "ori_shape" in sample else None,
        )

    @classmethod
    def from_lvis_results(
        cls, image_id: int, results: Sequence[dict], iou_type: str, label_of: dict[int, int]
    ) -> Detections:
        """Those of an image in LVIS's results format.

        Args:
            image_id: The image's id.
            results: Its entries.
            iou_type: Which shapes they have.
            label_of: The label of each category id.
        """
        shapes: Any = [result[SHAPE_KEYS[iou_type]] for result in results]
        if iou_type == "bbox":
            shapes = np.array(shapes, np.float64).reshape(-1, 4)
        return cls(
            image_id,
            np.array([result["score"] for result in results], np.float64),
            np.array([label_of[result["category_id"]] for result in results], np.int64),
            {iou_type: shapes},
        )

    @classmethod
    def none(cls, image_id: int, iou_types: Sequence[str]) -> Detections:
        """No detections of an image."""
        empty: dict[str, Any] = {"bbox": np.empty((0, 4)), "segm": []}
        shapes = {iou_type: empty[iou_type] for iou_type in iou_types}
        return cls(image_id, np.empty(0), np.empty(0, np.int64), shapes)

    def __len__(self) -> int:
        return len(self.scores)

    def areas(self, iou_type: str, indices: np.ndarray) -> np.ndarray:
        """What lvis-api takes for the areas of some detections.

        Args:
            iou_type: Whose shapes.
            indices: (K,) int64.

        Returns:
            (K,) float64, in pixels: the box's width times height, or the mask's number of pixels.
        """
        if iou_type == "bbox":
            return self.shapes["bbox"][indices, 2:].prod(axis=1)
        masks = [self.shapes["segm"][index] for index in indices.tolist()]
        # Not all at once: pycocotools counts the masks of a list in 8 bits.
        parts = [mask_utils.area(masks[i : i + 255]) for i in range(0, len(masks), 255)]
        return np.concatenate([np.empty(0), *parts])

    def to_lvis_results(self, iou_type: str, ids: Sequence[int]) -> list[dict]:
        """In LVIS's results format.

        Args:
            iou_type: ``'bbox'`` gives entries with ``bbox`` (x, y, w, h), ``'segm'`` with
                ``segmentation`` and no box.
            ids: The category id of each label.
        """
        if iou_type == "bbox":
            shapes = self.shapes["bbox"].tolist()
        else:
            shapes = [_as_text(mask) for mask in self.shapes["segm"]]
        key = SHAPE_KEYS[iou_type]
        return [
            {"image_id": self.image_id, "category_id": ids[label], "score": score, key: shape}
            for label, score, shape in zip(
                self.labels.tolist(), self.scores.tolist(), shapes, strict=True
            )
        ]


def _numpy(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _as_text(mask: dict) -> dict:
    """A run-length encoding that JSON can hold."""
    counts = mask["counts"]
    return {
        "size": list(map(int, mask["size"])),
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


class ResultsFile:
    """Detections in LVIS's results format, a JSON list, written image by image.

    Args:
        path: The file that :meth:`join` makes.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.part = Part(path)

    def write(self, results: Sequence[dict]) -> None:
        """Append detections to this process's part."""
        for result in results:
            self.part.write(_SEPARATOR + orjson.dumps(result))

    def join(self, sizes: Sequence[int]) -> None:
        """Make the file of the parts of all processes.

        Args:
            sizes: The bytes that each process has written.

        Raises:
            OSError: If a part is not there, or not as long as its writer says.
        """
        self.part.close()
        with joined(self._path, sizes) as (whole, parts):
            whole.write(b"[")
            for index, part in enumerate(parts):
                if index == 0:
                    part.seek(len(_SEPARATOR))
                shutil.copyfileobj(part, whole, 1 << 20)
            whole.write(b"]\n")
