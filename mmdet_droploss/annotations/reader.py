"""A large annotation file, read without turning all of it into Python objects at once.

LVIS v1's training annotations are 1.1 GB of JSON, and most of that are polygons. As Python lists of
floats they take five times as much. So only what orders them and decides which count is decoded
here (ids, boxes, areas and flags, of every annotation); an annotation itself stays a slice of the
file until somebody asks for its image.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import math
import operator
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from .json_text import decode_json
from .progress import track
from .rule import REASONS, why_left_out

#: An annotation's fields are taken out of so many at a time.
_CHUNK = 1 << 14


_NO_BOX = (math.nan,) * 4

#: Any large odd number spreads the keys of a hash.
_SPREAD = np.int64(0x9E3779B97F4A7C1)


class Document(msgspec.Struct):
    """The lists of an annotation file, or of the small JSON that holds frequencies only."""

    images: list[dict[str, Any]] | None = None
    categories: list[dict[str, Any]] | None = None
    annotations: list[msgspec.Raw] | None = None
    image_count: Any = None
    instance_count: Any = None
    num_images: Any = None
    classes: Any = None
    category_ids: Any = None


class _Categories(msgspec.Struct):
    categories: list[dict[str, Any]]


class _Fields(msgspec.Struct, gc=False):
    """What is decoded of an annotation here: the polygons are skipped."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float] | None = _NO_BOX
    area: float | None = math.nan
    iscrowd: float | bool | None = 0
    ignore: float | bool | None = 0


@dataclass(frozen=True)
class AnnotationFile:
    """The content of an LVIS- or COCO-format annotation file, see :func:`read_annotation_file`.

    Args:
        name: What error messages call it.
        text: The file, as it was read.
        images: The entries of ``images``, in the order of the file.
        categories: The entries of ``categories``, in the order of the file.
        image_of: (A,) int64, for each annotation the index into ``images``; -1 if there is none.
        category_of: (A,) int64, for each annotation the index into ``categories``, -1 if none.
        is_crowd: (A,) bool.
        raw: A slices of ``text``.
        order: (A,) int64, the annotations sorted by image.
        ends: (M + 1,) int64, where in ``order`` those of each image end; the first entry is for
            annotations without an image.
        left_out: (A,) uint8, why each annotation is not trained on, see
            :func:`~mmdet_droploss.annotations.rule.why_left_out`; 0 if it is.
        repeats: (K, 2) int64, ids of annotations that have the same image, category and box.
    """

    name: str
    text: bytes
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    image_of: np.ndarray
    category_of: np.ndarray
    is_crowd: np.ndarray
    raw: list[msgspec.Raw]
    order: np.ndarray
    ends: np.ndarray
    left_out: np.ndarray
    repeats: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """(A,) bool, which annotations are trained on, and so counted."""
        return self.left_out == 0

    @property
    def sha256(self) -> str:
        """The digest of what was read, in hexadecimal digits; it takes seconds for LVIS v1."""
        return hashlib.sha256(self.text).hexdigest()

    @property
    def category_names(self) -> tuple[str, ...] | None:
        """The names of the categories in label order; None if one has no name."""
        names = [category.get("name") for category in self.categories]
        return None if None in names else tuple(map(str, names))

    def indices_of(self, image: int) -> np.ndarray:
        """(n,) int64, which annotations are of an image, in the order of the file."""
        return self.order[self.ends[image] : self.ends[image + 1]]

    def annotations_of(self, image: int) -> list[dict[str, Any]]:
        """Decode the annotations of an image.

        Args:
            image: An index into ``images``.

        Returns:
            The entries of ``annotations`` that are of this image, in the order of the file.
        """
        return [_decode(self.raw[index]) for index in self.indices_of(image).tolist()]


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def read_annotation_file(
    path: str | os.PathLike,
    name: str | None = None,
    require_annotations: bool = True,
) -> AnnotationFile:
    """Index an annotation file.

    Args:
        path: A local file.
        name: What error messages call it; by default its path.
        require_annotations: Whether ``annotations`` must be there; test sets have none.

    Returns:
        Its index, with a copy of the file: whatever happens to that later has no effect.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not valid JSON, is no LVIS or COCO annotation file, gives an id twice,
            or lacks what MMDetection needs: sizes of images, boxes and areas of annotations.
            Annotations of unknown images and categories are no error: subsets of a data set are
            often made by deleting entries of ``images``.
    """
    name = os.fspath(path) if name is None else name
    who = f"ann_file={name!r}"
    text = Path(path).read_bytes()
    document = decode_document(text, who, f"is {_NO_ANNOTATION_FILE}")
    return index_annotations(document, text, name, who, require_annotations)


_NO_ANNOTATION_FILE = (
    "not an LVIS or COCO annotation file, which has images, annotations and categories"
)


def read_categories(path: str | os.PathLike, who: str) -> list[dict[str, Any]]:
    """Only the entries of ``categories`` of an annotation file, in the order of the file.

    Args:
        path: A local file.
        who: Begins the messages: which file.
    """
    content = decode_json(Path(path).read_bytes(), _Categories, who, f"is {_NO_ANNOTATION_FILE}")
    _ids_of(content.categories, "categories", who)
    return content.categories


def decode_document(text: bytes, who: str, is_not: str) -> Document:
    """Decode a file's lists, the annotations as slices of its text.

    Args:
        text: The file.
        who: Begins the messages: which file.
        is_not: What the messages say of JSON of another type.
    """
    with garbage_collection_paused():
        return decode_json(text, Document, who, is_not)


def index_annotations(
    document: Document, text: bytes, name: str, who: str, require_annotations: bool = True
) -> AnnotationFile:
    """Make the index of :func:`read_annotation_file`."""
    images, categories, raw = document.images, document.categories, document.annotations
    if raw is None and not require_annotations:
        raw = []
    if images is None or categories is None or raw is None:
        lists = {"images": images, "categories": categories, "annotations": raw}
        lacking = next(key for key, entries in lists.items() if entries is None)
        raise ValueError(f"{who} is {_NO_ANNOTATION_FILE}: it lacks {lacking}")
    image_ids = _ids_of(images, "images", who)
    category_ids = _ids_of(categories, "categories", who)
    with garbage_collection_paused():
        ids, flags, area, boxes = _decode_fields(raw, who)
    _require_unique(ids[:, 0], "annotations", who)
    image_of = _positions(ids[:, 1], image_ids)
    category_of = _positions(ids[:, 2], category_ids)
    is_crowd, is_ignored = flags.T
    left_out = why_left_out(
        image_of, category_of, is_crowd, is_ignored, area, boxes, _sizes_of(images, who)
    )
    looked_at = (image_of >= 0) & ~is_ignored
    _require_values(looked_at & np.isnan(boxes[:, 0]), ids, "bbox", who)
    looked_at &= left_out != REASONS.index("a box outside the picture or without area")
    _require_values(looked_at & np.isnan(area), ids, "area", who)
    order = np.argsort(image_of, kind="stable")
    return AnnotationFile(
        name,
        text,
        images,
        categories,
        image_of,
        category_of,
        is_crowd,
        raw,
        order,
        np.searchsorted(image_of[order], np.arange(-1, len(images)), "right"),
        left_out,
        _repeats(ids[:, 0], image_of, category_of, boxes),
    )


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """While millions of objects are made: collecting garbage takes long then and finds nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _decode_fields(
    raw: list[msgspec.Raw], who: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What orders the annotations and decides which count; NaN stands for what is not there.

    Returns:
        (A, 3) int64 id, image id and category id; (A, 2) bool iscrowd and ignore; (A,) float64 area
        and (A, 4) float64 boxes.
    """
    decode = msgspec.json.Decoder(_Fields).decode
    ids = np.empty((len(raw), 3), np.int64)
    flags = np.empty((len(raw), 2), bool)
    area = np.empty(len(raw))
    boxes = np.empty((len(raw), 4))
    for start in track(range(0, len(raw), _CHUNK), f"{who}: reading the annotations' ids"):
        part = slice(start, start + _CHUNK)
        try:
            entries = [decode(text) for text in raw[part]]
            ids[part] = _flat(map(_get_ids, entries), np.int64, 3 * len(entries)).reshape(-1, 3)
        except (msgspec.DecodeError, OverflowError):
            _raise_first(raw, start, who)
        flags[part] = _flat(map(_get_flags, entries), bool, 2 * len(entries)).reshape(-1, 2)
        try:
            area[part] = np.fromiter(map(_get_area, entries), np.float64, len(entries))
            boxes[part] = _flat(map(_get_box, entries), np.float64, 4 * len(entries)).reshape(-1, 4)
        except TypeError:  # some are null
            area[part] = [math.nan if entry.area is None else entry.area for entry in entries]
            boxes[part] = [entry.bbox or _NO_BOX for entry in entries]
    return ids, flags, area, boxes


_get_ids = operator.attrgetter("id", "image_id", "category_id")
_get_flags = operator.attrgetter("iscrowd", "ignore")
_get_area = operator.attrgetter("area")
_get_box = operator.attrgetter("bbox")


def _flat(rows: Iterable[tuple], dtype: type, count: int) -> np.ndarray:
    return np.fromiter(itertools.chain.from_iterable(rows), dtype, count)


def _raise_first(raw: list[msgspec.Raw], start: int, who: str) -> None:
    """Name the first annotation from a place on that cannot be understood."""
    decode = msgspec.json.Decoder(_Fields).decode
    for index in range(start, len(raw)):
        try:
            entry = decode(raw[index])
            np.array([entry.id, entry.image_id, entry.category_id], np.int64)
        except (msgspec.DecodeError, OverflowError) as error:
            content = msgspec.json.decode(raw[index])
            known = content if isinstance(content, dict) else {}
            of = [f"{key} {known[key]!r}" for key in ("id", "image_id") if key in known]
            of_id = f" ({', '.join(of)})" if of else ""
            hint = ""
            if field := re.search(r"Expected `int`, got .* - at `\$\.(\w+)`", str(error)):
                hint = f". It is {content[field[1]]!r}. {_ID_REMEDY}"
            elif isinstance(error, OverflowError):
                hint = f" in {entry.id, entry.image_id, entry.category_id}. {_ID_REMEDY}"
            raise ValueError(f"{who}: annotations[{index}]{of_id}: {error}{hint}") from None


_ID_REMEDY = (
    "Ids must be whole numbers of at most 63 bits, in images, annotations and categories alike: "
    "number them anew, the same id for the same thing"
)


def _ids_of(entries: list[dict[str, Any]], name: str, who: str) -> np.ndarray:
    """(n,) int64, unique ids of the images or categories."""
    for index, entry in enumerate(entries):
        if type(entry.get("id")) is not int or not -(2**63) <= entry["id"] < 2**63:
            raise ValueError(
                f"{who}: {name}[{index}] must have a whole number as id, but it has "
                f"{entry.get('id')!r}. {_ID_REMEDY}"
            )
    ids = np.array([entry["id"] for entry in entries], np.int64)
    _require_unique(ids, name, who)
    return ids


def _sizes_of(images: list[dict[str, Any]], who: str) -> np.ndarray:
    """(M, 2) float64, width and height."""
    sizes = [(image.get("width"), image.get("height")) for image in images]
    for image, size in zip(images, sizes, strict=True):
        for name, value in zip(("width", "height"), size, strict=True):
            if value is None or type(value) not in (int, float) or value <= 0 or value % 1:
                raise ValueError(
                    f"{who}: image id {image['id']} "
                    + (
                        f"has no {name!r}, which MMDetection needs"
                        if value is None
                        else f"must have a whole number of pixels as {name!r}, but it has {value!r}"
                    )
                )
    return np.array(sizes, np.float64).reshape(-1, 2)


def _require_values(missing: np.ndarray, ids: np.ndarray, name: str, who: str) -> None:
    if missing.any():
        annotation, image, _ = ids[np.argmax(missing)]
        raise ValueError(
            f"{who}: {missing.sum()} annotations have no {name!r}, which MMDetection needs, for "
            f"example that with id {annotation} of image id {image}"
        )


def _require_unique(ids: np.ndarray, name: str, who: str) -> None:
    ordered = np.sort(ids)
    twice = ordered[:-1][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise ValueError(
            f"{who}: {name} must have different ids, but {len(np.unique(twice))} ids "
            f"occur more than once, for example {twice[0]}"
        )


def _repeats(
    ids: np.ndarray, image_of: np.ndarray, category_of: np.ndarray, boxes: np.ndarray
) -> np.ndarray:
    """(K, 2) int64, ids of annotations with the same image, category and box, next to each other.

    Sorting by a hash takes a fifth of the time of sorting by all six; equal hashes are looked at.
    """
    columns = [image_of, category_of, *np.ascontiguousarray(boxes.T).view(np.int64)]
    key = np.zeros(len(ids), np.int64)
    for column in columns:
        key = (key ^ column) * _SPREAD  # the product wraps around
        key ^= key >> 29
    order = np.argsort(key, kind="stable")
    one, other = order[:-1], order[1:]
    same = (key[one] == key[other]) & (image_of[one] >= 0) & ~np.isnan(boxes[one, 0])
    one, other = one[same], other[same]
    equal = np.logical_and.reduce([column[one] == column[other] for column in columns])
    return np.stack([ids[one[equal]], ids[other[equal]]], axis=1)


def _positions(wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """For each wanted id its index in ``ids``, or -1."""
    if len(ids) == 0:
        return np.full(len(wanted), -1)
    order = np.argsort(ids)
    places = np.searchsorted(ids[order], wanted).clip(max=len(ids) - 1)
    found = order[places]
    return np.where(ids[found] == wanted, found, -1)
