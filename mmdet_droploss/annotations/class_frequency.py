"""Category frequencies of a data set: image counts, groups r/c/f and the tail.

This is the only place that knows where frequencies come from. Losses, the metric and the
analysis tools ask it and never open an annotation file themselves.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from .reader import AnnotationFile, Document, decode_document, index_annotations
from .rule import CROWD, REASONS, describe_left_out

#: Names that ``class_freq`` takes for the figures bundled with the package.
BUNDLED = ("lvis_v0.5", "lvis_v1")

#: LVIS's frequency groups, in the order of their index in :attr:`ClassFrequency.groups`.
GROUP_NAMES = ("rare", "common", "frequent")

#: LVIS: rare is at most 10 training images, common at most 100, frequent more.
RARE_MAX_IMAGES = 10
COMMON_MAX_IMAGES = 100

_FORMAT = "mmdet_droploss/class_frequency/1"
_BUNDLED_DIR = Path(__file__).parent / "lvis_counts"


@dataclass(frozen=True)
class ClassFrequency:
    """How often each category occurs in the training set, in label order.

    Args:
        image_count: (C,) int64, the number of training images that contain each category.
        num_images: The number of annotated training images; None if unknown.
        instance_count: (C,) int64, the number of instances; None if unknown.
        classes: C category names; None if unknown.
        source: Where the counts come from; error messages name it.
        category_ids: C category ids; None if unknown.
    """

    image_count: np.ndarray
    num_images: int | None = None
    instance_count: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    source: str = "class_freq"
    category_ids: tuple[int, ...] | None = None

    @property
    def num_classes(self) -> int:
        """The number of categories, C."""
        return len(self.image_count)

    @property
    def groups(self) -> np.ndarray:
        """(C,) int64, LVIS's group of each category as an index into :data:`GROUP_NAMES`."""
        return np.digitize(self.image_count, [RARE_MAX_IMAGES, COMMON_MAX_IMAGES], right=True)

    def tail(self, lambda_: float | None = None, num_images: int | None = None) -> np.ndarray:
        """T(f) of the paper, eq. (2): which categories are of low frequency.

        Args:
            lambda_: The threshold on f_j = image_count_j / num_images. None means LVIS's rare and
                common categories, that is at most 100 images.
            num_images: The number of training images behind f_j; by default the one that came with
                the counts.

        Returns:
            (C,) bool.

        Raises:
            ValueError: If ``lambda_`` is given and the number of images is not known, or if either
                is out of range.
        """
        if lambda_ is None:
            return self.image_count <= COMMON_MAX_IMAGES
        if not 0 < lambda_ <= 1:
            raise ValueError(
                f"lambda_ is a fraction of the training images and must lie in (0, 1], "
                f"but it is {lambda_!r}"
            )
        num_images = self.num_images if num_images is None else num_images
        if num_images is None:
            raise ValueError(
                f"lambda_={lambda_!r} needs num_images, the number of training images: f_j is "
                f"image_count_j / num_images, and {self.source} does not tell it"
            )
        if num_images < 1 or num_images < self.image_count.max(initial=0):
            raise ValueError(
                f"num_images={num_images!r} must be at least the largest image count, which is "
                f"{self.image_count.max(initial=0)} in {self.source}"
            )
        return self.image_count / num_images < lambda_

    def to_json(self) -> str:
        """The small JSON text that ``class_freq`` accepts in place of an annotation file."""
        content: dict[str, Any] = {"format": _FORMAT, "source": self.source}
        if self.num_images is not None:
            content["num_images"] = self.num_images
        content["image_count"] = self.image_count.tolist()
        if self.instance_count is not None:
            content["instance_count"] = self.instance_count.tolist()
        if self.classes is not None:
            content["classes"] = list(self.classes)
        if self.category_ids is not None:
            content["category_ids"] = list(self.category_ids)
        lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in content.items())
        return f"{{\n{lines}\n}}\n"


def load_class_frequency(
    class_freq: str | os.PathLike | Sequence[int] | ClassFrequency,
) -> ClassFrequency:
    """Get category frequencies from any of the forms that ``class_freq`` takes.

    Args:
        class_freq: ``'lvis_v0.5'`` or ``'lvis_v1'`` (the figures of the public LVIS train sets,
            bundled); the path of an LVIS- or COCO-format annotation file, or of the small JSON that
            ``tools/analysis_tools/class_frequency.py`` writes (much faster to read than a large
            annotation file); or a sequence of image counts in label order. A path may be anything
            that MMEngine's file backends read.

    Returns:
        The frequencies. For an annotation file the categories come in the order of the file, which
        is MMDetection's label order, and the annotations that are trained on count, see
        :func:`~mmdet_droploss.annotations.rule.why_left_out`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the name is unknown, the file is not valid JSON or not of a known format, or
            a count is negative or not a whole number.
        TypeError: If ``class_freq`` is of another type.
    """
    if isinstance(class_freq, ClassFrequency):
        return class_freq
    if isinstance(class_freq, (str, os.PathLike)):
        path = os.fspath(class_freq)
        if path in BUNDLED:
            frequency = _read(str(_BUNDLED_DIR / f"{path}.json"), None)
            ids = tuple(range(1, frequency.num_classes + 1))  # LVIS's, in order
            return dataclasses.replace(frequency, source=path, category_ids=ids)
        if "://" not in path and not os.path.isfile(path):
            _raise_missing(path)
        stamp = os.stat(path) if "://" not in path else None
        # Every stage of a cascade asks for the same file: parse it once, unless it has changed.
        return _read(path, stamp and (stamp.st_mtime_ns, stamp.st_size))
    if isinstance(class_freq, (Sequence, np.ndarray)):
        return ClassFrequency(_as_counts(class_freq, "image_count", "class_freq"))
    raise TypeError(
        f"class_freq must be one of {', '.join(map(repr, BUNDLED))}, the path of an annotation or "
        f"frequency file, or a sequence of image counts, but it is a {type(class_freq).__name__}: "
        f"{class_freq!r}"
    )


def _raise_missing(path: str) -> None:
    """Tell a misspelt name from a missing file."""
    if os.path.isdir(path):
        raise ValueError(f"class_freq={path!r} is a directory; it must be a JSON file")
    if os.sep not in path and not path.endswith(".json"):
        raise ValueError(
            f"class_freq={path!r} is neither a bundled data set ({', '.join(map(repr, BUNDLED))}) "
            f"nor an existing file"
        )
    raise FileNotFoundError(
        f"class_freq={path!r} does not exist (working directory: {os.getcwd()}). It must be the "
        f"annotation file of the training set, or the small JSON that "
        f"tools/analysis_tools/class_frequency.py makes of it. Inference alone does without "
        f"it, because the checkpoint holds the tail"
    )


@functools.lru_cache(maxsize=8)
def _read(path: str, stamp: tuple[int, int] | None) -> ClassFrequency:
    from mmengine import fileio

    who = f"class_freq={path!r}"
    with fileio.get_local_path(path) as local_path:
        text = Path(local_path).read_bytes()
    document = decode_document(
        text,
        who,
        "is not of a known format, that is, not an LVIS or COCO annotation file nor one that "
        "class_frequency.py writes",
    )
    if document.image_count is not None:
        return _from_small_json(document, path)
    if document.annotations is None or document.categories is None:
        keys = [key for key in document.__struct_fields__ if getattr(document, key) is not None]
        raise ValueError(
            f'{who} is not of a known format: it must have the keys "images", "annotations" and '
            f'"categories" (LVIS or COCO) or "image_count" (from class_frequency.py), but of these '
            f"it has {keys}"
        )
    if not document.categories:
        raise ValueError(f"{who} has no categories")
    file = index_annotations(document, text, path, who)
    left_out = np.bincount(file.left_out, minlength=len(REASONS))
    if sentence := describe_left_out(left_out):
        level = logging.WARNING if left_out[1:CROWD].any() else logging.INFO
        print_log(f"{who}: {sentence}; they are not counted", "current", level)
    return count(file)


def count(file: AnnotationFile) -> ClassFrequency:
    """The frequencies in an annotation file, over the annotations that are trained on."""
    num_classes = len(file.categories)
    labels, images = file.category_of[file.counts], file.image_of[file.counts]
    return ClassFrequency(
        images_of_each(labels, images, num_classes),
        len(np.unique(images)),
        np.bincount(labels, minlength=num_classes),
        file.category_names,
        file.name,
        tuple(category["id"] for category in file.categories),
    )


def images_of_each(labels: np.ndarray, image_of: np.ndarray, num_classes: int) -> np.ndarray:
    """(C,) int64, the number of images that contain each category.

    Args:
        labels: (instances,) whole numbers below C.
        image_of: (instances,) int64, the image of each, a number from 0 on.
        num_classes: C.
    """
    pairs = np.sort(image_of * num_classes + labels)  # np.unique takes 25 times as long
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # each category once an image
    return np.bincount(pairs % num_classes, minlength=num_classes)


def _from_small_json(content: Document, path: str) -> ClassFrequency:
    image_count = _as_counts(content.image_count, "image_count", path)
    instance_count = content.instance_count
    if instance_count is not None:
        instance_count = _as_counts(instance_count, "instance_count", path)
    num_images = content.num_images
    if num_images is not None and (not isinstance(num_images, int) or num_images < 1):
        raise ValueError(
            f"class_freq={path!r}: num_images must be a whole number >= 1, but it is {num_images!r}"
        )
    for name, values in (
        ("instance_count", instance_count),
        ("classes", content.classes),
        ("category_ids", content.category_ids),
    ):
        if values is not None and not isinstance(values, (list, np.ndarray)):
            raise ValueError(f"class_freq={path!r}: {name} must be a list, but it is {values!r}")
        if values is not None and len(values) != len(image_count):
            raise ValueError(
                f"class_freq={path!r}: {name} has {len(values)} entries, but image_count has "
                f"{len(image_count)}"
            )
    return ClassFrequency(
        image_count,
        num_images,
        instance_count,
        None if content.classes is None else tuple(map(str, content.classes)),
        path,
        None if content.category_ids is None else tuple(content.category_ids),
    )


def _as_counts(values: Any, name: str, source: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.empty(0)
    if (
        array.ndim != 1
        or array.size == 0
        or array.dtype.kind not in "iuf"
        or not np.isfinite(array).all()
        or (array != np.floor(array)).any()
        or array.min() < 0
    ):
        raise ValueError(
            f"{name} of {source} must be a flat, non-empty list of whole numbers >= 0, one a "
            f"category in label order, but it is {str(values)[:120]}"
        )
    return array.astype(np.int64)
