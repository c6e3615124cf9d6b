"""Facts about an annotation file, and what is said of them at every start of a training.

The facts are JSON values. They are kept in the cache with the items, so that a start that parses
nothing says the same.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..annotations.reader import AnnotationFile
from ..annotations.rule import CROWD, REASONS, describe_left_out
from ..annotations.segmentations import FATAL, HARMLESS, POLYGONS_ONLY, describe_problems

#: A sentence and its level in the log.
Remark = tuple[str, int]


def facts_of(annotations: AnnotationFile, picture_key: str) -> dict[str, Any]:
    """What is known of a file as soon as it is read.

    Args:
        annotations: The file.
        picture_key: The key of an image's entry that names its picture.
    """
    images = annotations.images
    times = collections.Counter(image[picture_key] for image in images)
    shared = [picture for picture, number in times.items() if number > 1]
    ids = [image["id"] for image in images if image[picture_key] in shared[:1]]
    return {
        "category_names": annotations.category_names,
        "num_images": len(images),
        "left_out": np.bincount(annotations.left_out, minlength=len(REASONS)).tolist(),
        # How many, and the first: two ids; a picture and two ids.
        "repeats": (len(annotations.repeats), *annotations.repeats[:1].ravel().tolist()),
        "shared_pictures": (len(shared), *shared[:1], *ids[:2]),
    }


def count_filtered(
    images: Sequence[dict[str, Any]], kept: Sequence[dict[str, Any]], filter_cfg: Mapping | None
) -> dict[str, int]:
    """How many images ``filter_cfg`` leaves out, the small ones and the others.

    Args:
        images: All, with ``img_id``, ``width`` and ``height``.
        kept: Those that are left.
        filter_cfg: As for the data set.
    """
    left = {image["img_id"] for image in kept}
    dropped = [image for image in images if image["img_id"] not in left]
    smallest = (filter_cfg or {}).get("min_size", 0)
    small = sum(min(image["width"], image["height"]) < smallest for image in dropped)
    return {"small": small, "other": len(dropped) - small}


def remarks_on_file(facts: dict[str, Any]) -> Iterator[Remark]:
    """What is left out, and what is there more than once."""
    left_out = np.array(facts["left_out"])
    if sentence := describe_left_out(left_out):
        # Crowd regions are a regular part of COCO's format.
        yield sentence, logging.WARNING if left_out[1:CROWD].any() else logging.INFO
    number, *first = facts["shared_pictures"]
    if number:
        yield (
            f"{number} pictures are named by more than one image, for example {first[0]!r} by "
            f"image ids {first[1]} and {first[2]}: what one of them annotates is background in "
            f"the other. Exports that were merged look so; make one image of them",
            logging.WARNING,
        )
    number, *first = facts["repeats"]
    if number:
        yield (
            f"{number} annotations have the same image, category and box as another, for "
            f"example ids {first[0]} and {first[1]}: such an object counts as often as it is "
            f"there, and has to be found as often. Exports that were merged look so; remove "
            f"the copies",
            logging.WARNING,
        )


def remarks_on_filter(facts: dict[str, Any], filter_cfg: Mapping | None) -> Iterator[Remark]:
    """How many images ``filter_cfg`` leaves out, and why."""
    if "filtered" not in facts:  # a subclass with its own filter_data
        return
    small, other = facts["filtered"]["small"], facts["filtered"]["other"]
    options = dict(filter_cfg or {})
    parts = [f"{small} less than {options.get('min_size')} pixels wide or high"] * (small > 0)
    parts += [f"{other} without annotations"] * (other > 0)
    if parts:
        yield (
            f"{small + other} of {facts['num_images']} images are left out by "
            f"filter_cfg={options}: {', '.join(parts)}",
            logging.WARNING if small else logging.INFO,
        )


def remarks_on_masks(
    facts: dict[str, Any], ann_file: str, polygons_only: bool, leave_out: bool
) -> Iterator[Remark]:
    """What is amiss with segmentations that a pipeline loads.

    Args:
        facts: With ``segmentations``, what :class:`.SegmentationProblems` has found.
        ann_file: What messages call the file.
        polygons_only: Whether the pipeline has ``poly2mask=False``.
        leave_out: Whether annotations that would stop a training are left out.

    Raises:
        ValueError: If a training would stop at some, or ignore them.
    """
    found = facts["segmentations"]
    if polygons_only and (text := describe_problems(found, POLYGONS_ONLY)):
        raise ValueError(
            f"ann_file={ann_file!r}: {text}. The pipeline's LoadAnnotations has poly2mask=False, "
            f"with which MMDetection ignores objects without polygons. Remove poly2mask=False, or "
            f"turn the encodings into polygons"
        )
    if harmless := describe_problems(found, HARMLESS):
        yield harmless, logging.WARNING
    fatal = describe_problems(found, FATAL)
    if fatal and leave_out:
        yield f"left out: {fatal}", logging.WARNING
    elif fatal:
        raise ValueError(
            f"ann_file={ann_file!r}: {fatal}. The pipeline loads masks, and MMDetection would stop "
            f"at the first of them. Correct the file; or set broken_masks='leave_out' for this "
            f"data set, to go on without these annotations; or with_mask=False in the pipeline's "
            f"LoadAnnotations, if the model needs no masks"
        )


def remarks_on_categories(
    facts: dict[str, Any], ann_file: str, counts: np.ndarray, ids: Sequence[int], used: str
) -> Iterator[Remark]:
    """Which categories no image is left of.

    Args:
        facts: Of the file.
        ann_file: What messages call the file.
        counts: (C,) int64, the images that are trained on with each category.
        ids: C ids.
        used: Which images are trained on.

    Raises:
        ValueError: If there is nothing to train on.
    """
    if not counts.any():
        left_out = np.array(facts["left_out"])
        none = "its annotations are in order" if left_out.any() else "it has no annotations"
        raise ValueError(
            f"ann_file={ann_file!r} gives nothing to train on: "
            f"{describe_left_out(left_out) or none}; {used}"
        )
    absent = np.flatnonzero(counts == 0)
    if len(absent):
        names = facts["category_names"] or ids
        first = ", ".join(repr(names[index]) for index in absent[:5])
        yield (
            f"{len(absent)} of {len(counts)} categories have no instance to train on: {first}"
            f"{', ...' if len(absent) > 5 else ''}",
            logging.WARNING,
        )
