"""Detections as files in LVIS's results format, written as they come."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import orjson

from ..utils import open_atomically

_SEPARATOR = b",\n"


def to_lvis_results(result: dict, iou_type: str, category_ids: np.ndarray) -> list[dict]:
    """Detections of an image in LVIS's results format.

    Args:
        result: ``img_id``, ``bboxes`` (N, 4) as (x1, y1, x2, y2), ``scores`` (N,), ``labels`` (N,)
            and, for ``'segm'``, ``masks``, N run-length encodings.
        iou_type: ``'bbox'`` gives entries with ``bbox`` (x, y, w, h), ``'segm'`` with
            ``segmentation`` and no box.
        category_ids: (C,) the category id of each label.
    """
    if iou_type == "bbox":
        boxes = result["bboxes"].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        key, shapes = "bbox", boxes.tolist()
    else:
        key, shapes = "segmentation", [_as_text(mask) for mask in result["masks"]]
    return [
        {"image_id": result["img_id"], "category_id": category_id, "score": score, key: shape}
        for category_id, score, shape in zip(
            category_ids[result["labels"]].tolist(),
            result["scores"].astype(np.float64).tolist(),
            shapes,
            strict=True,
        )
    ]


def select(result: dict, indices: np.ndarray) -> dict:
    """Some of the detections of an image."""
    chosen = {key: result[key][indices] for key in ("bboxes", "scores", "labels")}
    if "masks" in result:
        chosen["masks"] = [result["masks"][index] for index in indices.tolist()]
    return {"img_id": result["img_id"], **chosen}


def _as_text(mask: dict) -> dict:
    """A run-length encoding that JSON can hold."""
    counts = mask["counts"]
    return {
        "size": list(map(int, mask["size"])),
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


class ResultsPart:
    """The detections of one process, a file that grows.

    Args:
        path: The file; nothing is written before the first detection.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self._file: BinaryIO | None = None

    def write(self, detections: Sequence[dict]) -> None:
        """Append detections."""
        if not detections:
            return
        if self._file is None:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            self._file = open(self.path, "wb")  # noqa: SIM115 - it lives as long as the evaluation
        for detection in detections:
            self.size += self._file.write(_SEPARATOR + orjson.dumps(detection))

    def flush(self) -> None:
        """Bring everything to the file."""
        if self._file is not None:
            self._file.flush()


def join_parts(parts: Sequence[tuple[str, int]], path: str) -> None:
    """Make one JSON list of the parts of all processes, and delete them.

    Args:
        parts: Path and size of each.
        path: The file to make.

    Raises:
        OSError: If a part is not there, or not as long as its writer says.
    """
    with open_atomically(path) as whole:
        whole.write(b"[")
        skip = len(_SEPARATOR)  # before the first detection of all
        for part, size in parts:
            if size == 0:
                continue
            found = os.path.getsize(part) if os.path.exists(part) else None
            if found != size:
                raise OSError(
                    f"the detections in {part} cannot be collected: {size} bytes were written, but "
                    f"{'it is not there' if found is None else f'it has {found}'}. "
                    f"outfile_prefix must be in a folder that all machines share"
                )
            with open(part, "rb") as file:
                file.seek(skip)
                shutil.copyfileobj(file, whole, 1 << 20)
            skip = 0
        whole.write(b"]\n")
    for part, _ in parts:
        if os.path.exists(part):
            os.unlink(part)
