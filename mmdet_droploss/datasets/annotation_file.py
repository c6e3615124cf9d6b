"""A large annotation file, read without turning all of it into Python objects at once.

LVIS v1's training annotations are 1.1 GB of JSON, and most of that are polygons. As Python lists of
floats they take five times as much. So only what orders them is decoded here (ids, of every
annotation); an annotation itself stays a slice of the file until somebody asks for its image.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np


class _Document(msgspec.Struct):
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[msgspec.Raw] | None = None


class _Ids(msgspec.Struct):
    id: int
    image_id: int
    category_id: int
    iscrowd: int | bool | None = 0


@dataclass(frozen=True)
class AnnotationFile:
    """The content of an LVIS- or COCO-format annotation file, see :func:`read_annotation_file`.

    Args:
        name: What error messages call it.
        images: The entries of ``images``, in the order of the file.
        categories: The entries of ``categories``, in the order of the file.
        image_of: (A,) int64, for each annotation the index into ``images``; -1 if there is none.
        category_of: (A,) int64, for each annotation the index into ``categories``, -1 if none.
        is_crowd: (A,) bool.
        raw: A slices of JSON text.
        order: (A,) int64, the annotations sorted by image.
        ends: (M + 1,) int64, where in ``order`` those of each image end; the first entry is for
            annotations without an image.
    """

    name: str
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    image_of: np.ndarray
    category_of: np.ndarray
    is_crowd: np.ndarray
    raw: list[msgspec.Raw]
    order: np.ndarray
    ends: np.ndarray

    def annotations_of(self, image: int) -> list[dict[str, Any]]:
        """Decode the annotations of an image.

        Args:
            image: An index into ``images``.

        Returns:
            The entries of ``annotations`` that are of this image, in the order of the file.
        """
        indices = self.order[self.ends[image] : self.ends[image + 1]].tolist()
        return [_decode(self.raw[index]) for index in indices]


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def read_annotation_file(
    path: str | os.PathLike, name: str | None = None, require_annotations: bool = True
) -> AnnotationFile:
    """Index an annotation file.

    Args:
        path: A local file.
        name: What error messages call it; by default its path.
        require_annotations: Whether ``annotations`` must be there; test sets have none.

    Returns:
        Its index; the file is mapped into memory as long as that lives.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not valid JSON, is no LVIS or COCO annotation file, or gives an id
            twice. Annotations of unknown images and categories are no error: subsets of a data set
            are often made by deleting entries of ``images``.
    """
    name = os.fspath(path) if name is None else name
    text = map_file(path)
    with garbage_collection_paused():
        try:
            document = msgspec.json.decode(text, type=_Document)
        except msgspec.ValidationError as error:
            raise ValueError(
                f"ann_file={name!r} is not an LVIS or COCO annotation file, which has images, "
                f"annotations and categories: {error}"
            ) from None
        except msgspec.DecodeError as error:
            raise ValueError(
                f"ann_file={name!r} is not valid JSON, perhaps truncated ({len(text)} bytes): "
                f"{error}"
            ) from None
        if document.annotations is None:
            if require_annotations:
                raise ValueError(
                    f"ann_file={name!r} is not an LVIS or COCO annotation file, which has images, "
                    f"annotations and categories: it lacks annotations"
                )
            document.annotations = []
        ids = _decode_ids(document.annotations, name)
    _require_unique(ids[:, 0], "annotations", name)
    image_of = _positions(ids[:, 1], _ids_of(document.images, "images", name))
    order = np.argsort(image_of, kind="stable")
    return AnnotationFile(
        name,
        document.images,
        document.categories,
        image_of,
        _positions(ids[:, 2], _ids_of(document.categories, "categories", name)),
        ids[:, 3] != 0,
        document.annotations,
        order,
        np.searchsorted(image_of[order], np.arange(-1, len(document.images)), "right"),
    )


def map_file(path: str | os.PathLike) -> mmap.mmap | bytes:
    """The content of a file, mapped into memory; it may be deleted meanwhile."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # which cannot be mapped
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


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


def _decode_ids(raw: list[msgspec.Raw], file: str) -> np.ndarray:
    """(A, 4) int64: id, image id, category id and whether it is a crowd, of every annotation."""
    decode = msgspec.json.Decoder(_Ids).decode
    ids = np.empty((len(raw), 4), np.int64)
    for index, text in enumerate(raw):
        try:
            entry = decode(text)
            ids[index] = entry.id, entry.image_id, entry.category_id, bool(entry.iscrowd)
        except (msgspec.DecodeError, OverflowError) as error:
            raise ValueError(f"ann_file={file!r}: annotations[{index}]: {error}") from None
    return ids


def _ids_of(entries: list[dict[str, Any]], name: str, file: str) -> np.ndarray:
    """(n,) int64, unique ids of the images or categories."""
    for index, entry in enumerate(entries):
        if type(entry.get("id")) is not int or abs(entry["id"]) >= 2**63:
            raise ValueError(
                f"ann_file={file!r}: {name}[{index}] must have a whole number as id, but it has "
                f"{entry.get('id')!r}"
            )
    ids = np.array([entry["id"] for entry in entries], np.int64)
    _require_unique(ids, name, file)
    return ids


def _require_unique(ids: np.ndarray, name: str, file: str) -> None:
    ordered = np.sort(ids)
    twice = ordered[:-1][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise ValueError(
            f"ann_file={file!r}: {name} must have different ids, but {len(np.unique(twice))} ids "
            f"occur more than once, for example {twice[0]}"
        )


def _positions(wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """For each wanted id its index in ``ids``, or -1."""
    if len(ids) == 0:
        return np.full(len(wanted), -1)
    order = np.argsort(ids)
    places = np.searchsorted(ids[order], wanted).clip(max=len(ids) - 1)
    found = order[places]
    return np.where(ids[found] == wanted, found, -1)
