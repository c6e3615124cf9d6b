"""Which annotations are trained on: MMDetection's rule, for a whole file at once."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Why an annotation is not trained on. The index is the code in :func:`why_left_out`, 0 is "it is".
REASONS = (
    "trained on",
    "of an image that the file does not list",
    "marked ignore",
    "a box outside the picture or without area",
    "area 0 or less",
    "a box less than a pixel wide or high",
    "of a category that the file does not list",
    "marked iscrowd",
)

#: The code of crowd regions, which mmdet loads, but marks to be ignored.
CROWD = len(REASONS) - 1


def why_left_out(
    image_of: np.ndarray,
    category_of: np.ndarray,
    is_crowd: np.ndarray,
    is_ignored: np.ndarray,
    area: np.ndarray,
    boxes: np.ndarray,
    image_sizes: np.ndarray,
) -> np.ndarray:
    """The rule of MMDetection's ``CocoDataset.parse_data_info``.

    An annotation counts if its image and its category are listed, it is neither ``iscrowd`` nor
    ``ignore``, its area is above 0, and its box is at least a pixel wide and high and overlaps the
    picture.

    Args:
        image_of: (A,) int64, the index of each annotation's image, -1 if it is not listed.
        category_of: (A,) int64, that of its category, -1 if it is not listed.
        is_crowd: (A,) bool.
        is_ignored: (A,) bool.
        area: (A,) float64, in pixels.
        boxes: (A, 4) float64, left, top, width and height in pixels.
        image_sizes: (M, 2) float64, width and height of the images in pixels.

    Returns:
        (A,) uint8, 0 for annotations that count, for the others the index of the first reason
        in :data:`REASONS`.
    """
    size = image_sizes[image_of] if len(image_sizes) else np.zeros((len(image_of), 2))
    corner, extent = boxes[:, :2], boxes[:, 2:]
    overlap = np.minimum(corner + extent, size) - np.maximum(corner, 0)
    reasons = (  # in the order of REASONS
        image_of < 0,
        is_ignored,
        overlap.clip(min=0).prod(axis=1) == 0,
        area <= 0,
        (extent < 1).any(axis=1),
        category_of < 0,
        is_crowd,
    )
    return np.select(reasons, list(np.arange(1, len(REASONS), dtype=np.uint8)), np.uint8(0))


def trained_labels(data_info: dict[str, Any]) -> list[int]:
    """The labels of an item of a data set that are trained on: mmdet marks crowd regions.

    Args:
        data_info: As mmdet's ``parse_data_info`` returns it.
    """
    return [each["bbox_label"] for each in data_info["instances"] if not each.get("ignore_flag")]


def describe_left_out(counts: np.ndarray) -> str:
    """``12 of 400 annotations are left out of training: 10 marked iscrowd, 2 area 0 or less``.

    Args:
        counts: How many annotations there are of each of :data:`REASONS`.

    Returns:
        The sentence, or nothing if all annotations count.
    """
    parts = [f"{n} {reason}" for n, reason in zip(counts[1:], REASONS[1:], strict=True) if n]
    if not parts:
        return ""
    number = f"{sum(counts[1:])} of {sum(counts)}"
    return f"{number} annotations are left out of training: {', '.join(parts)}"
