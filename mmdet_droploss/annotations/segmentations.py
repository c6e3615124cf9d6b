"""What MMDetection's ``LoadAnnotations(with_mask=True)`` will make of a segmentation.

The metric asks the same of run-length encodings; see ``ground_truth``.
"""

from __future__ import annotations

from typing import Any

from pycocotools import mask as mask_utils

#: Kinds of segmentations that stop a training that loads masks, with an error from deep inside.
FATAL = {
    "missing": "no segmentation (missing, null or empty)",
    "flat": "a polygon that is not in a list of polygons ([x, y, ...] instead of [[x, y, ...]])",
    "no_numbers": "something other than numbers in a polygon or run-length encoding",
    "other_size": "a run-length encoding of another size than the image's height and width",
    "bad_runs": "a run-length encoding that cannot be decoded",
    "other_type": "a segmentation that is neither a list nor a run-length encoding",
}

#: Kinds that MMDetection trains on, or leaves out by itself.
HARMLESS = {
    "short": "a polygon of fewer than three points or of an odd number of coordinates, which "
    "MMDetection leaves out",
    "short_runs": "a run-length encoding that ends before the picture does",
    "incomplete": "a run-length encoding without counts or size, whose object MMDetection ignores",
}


def problem_of(segmentation: Any, width: float, height: float) -> str | None:
    """What is wrong with a segmentation.

    Args:
        segmentation: As in the annotation file.
        width: The image's, in pixels.
        height: The image's, in pixels.

    Returns:
        A key of :data:`FATAL` or :data:`HARMLESS`; None if all is well.
    """
    if not segmentation:
        return "missing"
    if isinstance(segmentation, dict):
        return _problem_of_rle(segmentation, width, height)
    if not isinstance(segmentation, list):
        return "other_type"
    found = None
    try:
        for polygon in segmentation:
            sum(polygon)  # the quickest look at each element: only numbers can be added up
            number = len(polygon)
            if number < 6 or number % 2:
                found = "short"
    except TypeError:
        return "flat" if isinstance(polygon, (int, float)) else "no_numbers"
    return found


def _problem_of_rle(rle: dict, width: float, height: float) -> str | None:
    counts, size = rle.get("counts"), rle.get("size")
    if size is None or not isinstance(counts, (list, str)):
        return "incomplete"
    if size != [height, width]:
        return "other_size"
    try:
        if isinstance(counts, list):
            number = sum(counts)
            if number > height * width or min(counts, default=0) < 0:
                return "bad_runs"
            return "short_runs" if number < height * width else None
        mask_utils.decode({"size": size, "counts": counts})
    except TypeError:
        return "no_numbers"
    except ValueError:
        return "bad_runs"
    try:
        # pycocotools tells of runs that are too long only: a picture with a pixel less shows that
        # these are not too short.
        mask_utils.decode({"size": [size[0] * size[1] - 1, 1], "counts": counts})
    except ValueError:
        return None
    return "short_runs"


#: What MMDetection ignores if it loads masks as polygons.
POLYGONS_ONLY = {"run_lengths": "a run-length encoding"}


class SegmentationProblems:
    """Counts segmentations of each kind, and remembers the first of each."""

    #: How many of a kind are named.
    NAMED = 3

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def note(self, kind: str, annotation: dict[str, Any]) -> None:
        """Count one."""
        of_kind = self.found.setdefault(kind, {"count": 0, "first": []})
        of_kind["count"] += 1
        if len(of_kind["first"]) < self.NAMED:
            of_kind["first"].append([annotation["id"], annotation["image_id"]])


def describe_problems(found: dict[str, dict[str, Any]], kinds: dict[str, str]) -> str:
    """The problems of some kinds in words, or nothing if there are none.

    Args:
        found: :attr:`SegmentationProblems.found`.
        kinds: :data:`FATAL`, :data:`HARMLESS` or :data:`POLYGONS_ONLY`.
    """
    parts = []
    for kind, text in kinds.items():
        if kind in found:
            number = found[kind]["count"]
            first = ", ".join(f"id {i} of image id {image}" for i, image in found[kind]["first"])
            more = ", ..." if number > len(found[kind]["first"]) else ""
            parts.append(f"{number} annotation{'s' * (number > 1)} with {text} ({first}{more})")
    return "; ".join(parts)
