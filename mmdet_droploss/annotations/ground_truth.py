"""The annotations that detections are compared with, in the form that LVIS's protocol needs.

Which annotations count is lvis-api's rule: those of a listed image and category with an area above
0. ``iscrowd`` does not matter to it. An annotation marked ``ignore`` need not be found.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from mmengine import fileio
from mmengine.logging import print_log

from .class_frequency import GROUP_NAMES, load_class_frequency
from .federated import describe_image, remarks_on_lists
from .names import Categories, difference, repeated_name
from .pictures import RULES
from .reader import garbage_collection_paused, read_annotation_file
from .segmentations import FATAL, HARMLESS, problem_of

#: How many culprits a message names.
_NAMED = 3

#: For the user of the metric and for that of tools/analysis_tools/compare_runs.py.
_CORRECT_MASKS = (
    "correct the file, or do without masks: test with FastLVISMetric(metric='bbox'), and "
    "compare_runs.py compares the boxes of runs that are tested so"
)

#: What lvis-api could not evaluate in an annotation, and the remedy.
_TROUBLES = {
    "area": (
        "no number as area",
        "write the mask's area in pixels, or width times height of the box",
    ),
    "bbox": (
        "no box of four numbers [x, y, width, height]",
        "write it as bbox, or remove the annotations",
    ),
    "missing": (FATAL["missing"], _CORRECT_MASKS),
    "mask": (
        "a segmentation that is neither a list of polygons, each a list of three points or more, "
        "nor a run-length encoding with size and counts",
        _CORRECT_MASKS,
    ),
    "other_size": (
        FATAL["other_size"],
        f"{_CORRECT_MASKS}. A picture that its EXIF orientation turns has height and width swapped",
    ),
    "bad_runs": (FATAL["bad_runs"], _CORRECT_MASKS),
    # pycocotools never returns from comparing such a mask with another.
    "short_runs": (HARMLESS["short_runs"], _CORRECT_MASKS),
}

_GROUP_OF_WORD = {word: name[0] for name in GROUP_NAMES for word in (name, name[0])}


class GroundTruth:
    """An LVIS- or COCO-format annotation file, whose annotations are decoded image by image.

    What COCO's format lacks is filled in: an image without ``neg_category_ids`` counts as
    exhaustively annotated, that is, all categories that it does not show are negative.

    Args:
        ann_file: The annotation file.
        class_freq: Category frequencies of the training set, for categories without ``frequency``;
            see :func:`~mmdet_droploss.annotations.load_class_frequency`.
        iou_types: What is compared, ``'bbox'``, ``'segm'`` or both; with nothing, the file needs no
            annotations, as LVIS's test sets have none.
        check_classes: Whether names behind ``class_freq`` that differ from the file's are an error.
            If not, they are a warning.
        backend_args: For MMEngine's file backends.

    Attributes:
        categories: C entries of ``categories``, in label order.
        category_ids: (C,) int64.
        names: C names; None where a category has none.
        image_ids: M ids, in the order of the file.
        sha256: Of the file's content.

    Raises:
        ValueError: If the file is not valid, or says what lvis-api cannot evaluate.
        FileNotFoundError: If it does not exist.
    """

    def __init__(
        self,
        ann_file: str,
        class_freq: Any = None,
        iou_types: Sequence[str] = ("bbox",),
        check_classes: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        ann_file = str(ann_file)
        with fileio.get_local_path(ann_file, backend_args=backend_args) as path:
            if not os.path.isfile(path):
                raise FileNotFoundError(
                    f"ann_file={ann_file!r} does not exist (working directory: {os.getcwd()})"
                )
            self._file = read_annotation_file(path, ann_file, bool(iou_types))
        self.sha256 = self._file.sha256
        self.ann_file = ann_file
        self._who = f"ann_file={ann_file!r}"
        self.categories = [dict(category) for category in self._file.categories]
        self.category_ids = np.array([category["id"] for category in self.categories], np.int64)
        self.label_of = {id_: label for label, id_ in enumerate(self.category_ids.tolist())}
        self.image_ids = [image["id"] for image in self._file.images]
        self._index = {image_id: index for index, image_id in enumerate(self.image_ids)}
        for key in ("images", "categories"):
            if not getattr(self._file, key):
                raise ValueError(f"{self._who} has no {key}: there is nothing to evaluate")
        self.names = self._names()
        if iou_types:
            for sentence in remarks_on_lists(self._file.images, self.label_of, self._who):
                self._warn(sentence)
            self._set_groups(class_freq, check_classes)
            self._listed = (self._file.image_of >= 0) & (self._file.category_of >= 0)
            self._counts = self._which_count(iou_types)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._index

    def __len__(self) -> int:
        return len(self.image_ids)

    def size(self, image_id: int) -> tuple[int, int]:
        """Height and width of an image as the file says, in pixels."""
        image = self._file.images[self._index[image_id]]
        return int(image["height"]), int(image["width"])

    def name_of_image(self, image_id: int) -> str:
        """What messages call an image: its id and, if the file tells it, its file."""
        return describe_image(self._file.images[self._index[image_id]])

    def require_image(self, image_id: Any, picture: str | None) -> None:
        """Refuse an image that another annotation file means by this id.

        Args:
            image_id: The id of an image that is tested.
            picture: Its file; None if it is not known.

        Raises:
            ValueError: If this file has no such id, or another picture under it.
        """
        remedy = "a dataloader and its evaluator need the same ann_file"
        if image_id not in self._index:
            raise ValueError(
                f"image id {image_id!r} is tested, which the evaluator's {self._who} does not "
                f"have: {remedy}"
            )
        image = self._file.images[self._index[image_id]]
        stems = {_stem(rule.path(image[rule.key])) for rule in RULES if image.get(rule.key)}
        if picture is not None and stems and _stem(picture) not in stems:
            raise ValueError(
                f"{picture!r} is tested as image id {image_id}, which in the evaluator's "
                f"{self._who} is {image.get('file_name', image.get('coco_url'))!r}: {remedy}. If "
                f"they have, and the data set gives its pictures other names, "
                f"FastLVISMetric(check_pictures=False) lets it"
            )

    def image(self, image_id: int) -> dict[str, Any]:
        """The entry of an image, with what the federated protocol needs."""
        index = self._index[image_id]
        image = self._file.images[index]
        if "neg_category_ids" not in image:
            present = np.unique(self._file.category_of[self._file.indices_of(index)])
            present = present[present >= 0]
            image = {**image, "neg_category_ids": np.delete(self.category_ids, present).tolist()}
        return {"not_exhaustive_category_ids": [], **image}

    def annotations(self, image_id: int) -> list[dict[str, Any]]:
        """The annotations of an image that count."""
        indices = self._file.indices_of(self._index[image_id])
        return [_decode(self._file.raw[index]) for index in indices[self._counts[indices]].tolist()]

    def content(self) -> dict[str, list]:
        """Everything that counts as Python objects, as COCO-style tools expect it."""
        annotations = [self.annotations(image_id) for image_id in self.image_ids]
        return {
            "images": [self.image(image_id) for image_id in self.image_ids],
            "annotations": [annotation for of_image in annotations for annotation in of_image],
            "categories": self.categories,
        }

    def _warn(self, text: str) -> None:
        print_log(text, "current", logging.WARNING)

    def _names(self) -> list[str | None]:
        names = [category.get("name") for category in self.categories]
        nameless = [c["id"] for c in self.categories if c.get("name") is None]
        if nameless:
            self._warn(
                f"{self._who}: {len(nameless)} categories have no name, the first is id "
                f"{nameless[0]}; tables show their ids, and their order cannot be compared with "
                f"that of the training"
            )
        shown = tuple(str(c["id"] if c.get("name") is None else c["name"]) for c in self.categories)
        if repeated := repeated_name(Categories(self._who, len(shown), shown)):
            self._warn(
                f"{repeated}; they are evaluated apart, but tables cannot tell which is which"
            )
        return [None if name is None else str(name) for name in names]

    def _set_groups(self, class_freq: Any, check_classes: bool) -> None:
        """Give each category its group, from ``class_freq`` or in the letters of lvis-api."""
        if class_freq is not None:
            return self._set_groups_from(class_freq, check_classes)
        given = [category for category in self.categories if "frequency" in category]
        if not given:
            return self._warn(
                f"{self._who}: its categories have no 'frequency', and class_freq is not given: "
                f"APr, APc and APf will be -1. Give class_freq, the training annotations"
            )
        remedy = (
            "It must be 'r', 'c' or 'f' for all categories. Correct the file, or give class_freq, "
            "the training annotations, which takes its place"
        )
        if len(given) < len(self.categories):
            lacking = next(c for c in self.categories if "frequency" not in c)
            raise ValueError(
                f"{self._who}: {len(self.categories) - len(given)} of {len(self.categories)} "
                f"categories have no 'frequency', the first is {_category(lacking)}. {remedy}"
            )
        words = set()
        for category in self.categories:
            word = category["frequency"]
            group = _GROUP_OF_WORD.get(word.strip().lower()) if isinstance(word, str) else None
            if group is None:
                raise ValueError(
                    f"{self._who}: 'frequency' of category {_category(category)} is {word!r}. "
                    f"{remedy}"
                )
            if group != word:
                words.add(f"{word!r} as {group!r}")
            category["frequency"] = group
        if words:
            print_log(f"{self._who}: 'frequency': {', '.join(sorted(words))}", "current")
        return None

    def _set_groups_from(self, class_freq: Any, check_classes: bool) -> None:
        frequency = load_class_frequency(class_freq)
        counted = Categories(
            "class_freq" + ("" if frequency.source == "class_freq" else f"={frequency.source!r}"),
            frequency.num_classes,
            frequency.classes,
            frequency.category_ids,
        )
        sentence = difference(counted, Categories.of_file(self._who, self.categories))
        same_number = frequency.num_classes == len(self.categories)
        if sentence and (check_classes or not same_number):
            raise ValueError(
                f"{sentence}. Both must have the same categories in the same order, else one gets "
                f"the group of another: give the training annotations that belong to this file "
                f"(class_freq of FastLVISMetric, --train-ann of compare_runs.py)"
                + ("; check_classes=False of FastLVISMetric makes this a warning" * same_number)
            )
        if sentence:
            self._warn(sentence)
        for category, group, count in zip(
            self.categories, frequency.groups, frequency.image_count, strict=True
        ):
            category["frequency"] = GROUP_NAMES[group][0]
            category["image_count"] = int(count)

    @garbage_collection_paused()
    def _which_count(self, iou_types: Sequence[str]) -> np.ndarray:
        """(A,) bool by lvis-api's rule; refuses annotations that it could not evaluate."""
        counts = np.zeros(len(self._file.raw), bool)
        ignored, crowds, zero_id = 0, 0, None
        troubles: dict[str, list[int]] = {}  # indices of annotations
        for index in np.flatnonzero(self._listed).tolist():
            entry = _decode_shape(self._file.raw[index])
            if entry.area is None:
                troubles.setdefault("area", []).append(index)
                continue
            if not 0 < entry.area < float("inf"):
                continue
            counts[index] = True
            ignored += bool(entry.ignore)
            crowds += bool(self._file.is_crowd[index] and not entry.ignore)
            zero_id = index if entry.id == 0 and not entry.ignore else zero_id
            if "bbox" in iou_types and entry.bbox is None:
                troubles.setdefault("bbox", []).append(index)
            if "segm" in iou_types and (kind := self._trouble_with_mask(entry, index)):
                troubles.setdefault(kind, []).append(index)
        self._refuse(troubles)
        self._tell_what_counts(counts, ignored)
        if crowds:
            self._warn(
                f"{self._who}: {crowds} annotations are marked iscrowd, which lvis-api does not "
                f"look at: each is an object to be found. Mark them ignore if they need not be"
            )
        if zero_id is not None:
            category = _category(self.categories[self._file.category_of[zero_id]])
            print_log(
                f"{self._who}: an annotation has id 0, of category {category}. lvis-api's matches "
                f"are ids, and it takes 0 for no match, so there the detection that finds this "
                f"object is false; here it is right",
                "current",
            )
        return counts

    def _refuse(self, troubles: dict[str, list[int]]) -> None:
        """Stop at the first kind of :data:`_TROUBLES` that some annotations have."""
        for kind, (what, remedy) in _TROUBLES.items():
            if kind not in troubles:
                continue
            indices = troubles[kind]
            ids = ", ".join(str(_decode_shape(self._file.raw[i]).id) for i in indices[:_NAMED])
            image_id = self.image_ids[self._file.image_of[indices[0]]]
            where = self.name_of_image(image_id)
            if kind == "other_size":
                shape = _decode_mask(_decode_shape(self._file.raw[indices[0]]).segmentation)
                where += " of height {} and width {}".format(*self.size(image_id))
                where += ", its encoding has height {} and width {}".format(*shape.size)
            raise ValueError(
                f"{self._who}: {len(indices)} annotations have {what}: id {ids}"
                f"{', ...' if len(indices) > _NAMED else ''}; the first is in {where}. lvis-api "
                f"cannot evaluate that; {remedy}"
            )

    def _tell_what_counts(self, counts: np.ndarray, ignored: int) -> None:
        """Warn of annotations of unlisted images and categories, or if none is left."""
        not_listed = [
            f"{count} of {what} that the file does not list"
            for what, of in (
                ("images", self._file.image_of),
                ("categories", self._file.category_of),
            )
            if (count := int((of < 0).sum()))
        ]
        if counts.sum() > ignored:
            if not_listed:
                self._warn(f"{self._who}: annotations that do not count: {', '.join(not_listed)}")
            return
        reasons = [
            *not_listed,
            *([f"{n} with area 0 or less"] if (n := int((self._listed & ~counts).sum())) else []),
            *([f"{ignored} marked ignore"] if ignored else []),
        ]
        if len(counts) == 0:
            raise ValueError(
                f"{self._who} has no annotations: every number would be -1. Give a file that has, "
                f"or FastLVISMetric(format_only=True) to write detections only"
            )
        self._warn(
            f"{self._who} has no annotations that count, every number will be -1: of {len(counts)} "
            f"annotations, {', '.join(reasons)}"
        )

    def _trouble_with_mask(self, entry: _Shape, index: int) -> str | None:
        """A key of :data:`_TROUBLES`, or None."""
        try:
            shape = _decode_mask(entry.segmentation)
        except msgspec.ValidationError:
            return "mask"
        if isinstance(shape, list):
            if shape and len(shape[0]) >= 6:
                return None
            sizes = list(map(len, shape))
            return None if max(sizes, default=0) >= 6 else "mask" if any(sizes) else "missing"
        if shape is None:
            return "missing"
        height, width = self.size(self.image_ids[self._file.image_of[index]])
        kind = problem_of({"size": list(shape.size), "counts": shape.counts}, width, height)
        return kind if kind is None or kind in _TROUBLES else "mask"


class _Shape(msgspec.Struct, gc=False):
    """What lvis-api looks at in an annotation; the reader has checked that these are numbers."""

    id: int
    area: float | None = None
    ignore: Any = None
    bbox: tuple[float, float, float, float] | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")


class _RunLengths(msgspec.Struct, gc=False):
    size: tuple[int, int]
    counts: str | list[int]


_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_shape = msgspec.json.Decoder(_Shape).decode
_decode_mask = msgspec.json.Decoder(list[list[float]] | _RunLengths | None).decode


def _stem(path: str) -> str:
    """A picture's name; its folder and format may be another where it is tested."""
    return os.path.splitext(os.path.basename(path))[0]


def _category(category: dict[str, Any]) -> str:
    return f"id {category['id']}" + (f" ({category['name']!r})" if "name" in category else "")
