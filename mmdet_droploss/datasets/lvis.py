"""LVIS data sets with the same content as mmdet's, that start in seconds and share their memory."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import mmdet
import msgspec
import numpy as np
from mmdet.datasets import LVISV05Dataset, LVISV1Dataset
from mmdet.registry import DATASETS
from mmengine import fileio
from mmengine.dataset import force_full_init
from mmengine.logging import print_log

from .annotation_cache import Parsed, file_digest, load_or_pack, pack
from .annotation_file import AnnotationFile, garbage_collection_paused, read_annotation_file


class CategoryIds(list):
    """A list whose membership test does not search: mmdet asks it once an annotation."""

    def __init__(self, ids: list[int]) -> None:
        super().__init__(ids)
        self._set = frozenset(ids)

    def __contains__(self, category_id: object) -> bool:
        return category_id in self._set


class FastAnnotations:
    """Mixin for mmdet's LVIS data sets: fast parsing, and a cache that processes share.

    What an item holds is decided by mmdet's own ``parse_data_info`` and ``filter_data``. But they
    see one image at a time, so that the annotations never are in memory as objects all at once; the
    result is kept as arrays, mapped from a file that all processes on a machine share
    (``annotation_cache.py``). ``filter_data`` sees of an image only
    ``img_id``, ``height`` and ``width``.

    The cache notices by itself when the annotation file or an option has changed. A subclass that
    changes ``parse_data_info`` is told apart by its name only: run
    ``tools/misc/annotation_cache.py clear`` after an edit.

    With ``serialize_data=False``, ``proposal_file`` or ``return_classes=True`` the items are Python
    objects in every process, as in mmdet; only the parsing is fast then.

    Args:
        cache: Whether to keep the parsed annotations in the cache. Without it every process parses
            for itself and has them in its own memory.

    Raises:
        FileNotFoundError: If the annotation file does not exist.
        ValueError: If it is not valid JSON or not in LVIS's format, or an id occurs twice.
    """

    def __init__(self, *args, cache: bool = True, **kwargs) -> None:
        if not isinstance(cache, bool):
            raise TypeError(f"cache must be True or False, but it is {cache!r}")
        self.cache = cache
        self._labels: np.ndarray | None = None
        self._label_ends: np.ndarray | None = None
        super().__init__(*args, **kwargs)

    @property
    def _is_packed(self) -> bool:
        return self.serialize_data and self.proposal_file is None and not self.return_classes

    def full_init(self) -> None:
        """Load the annotations, from the cache if they are there."""
        if self._fully_initialized:
            return
        if not self._is_packed:
            super().full_init()
            return
        with garbage_collection_paused(), self._local_annotation_file() as path:
            if self.cache:
                packed = load_or_pack(self._cache_key(path), lambda: self._parse(path))
            else:
                packed = pack(self._parse(path))
        self._set_categories(packed.category_ids.tolist())
        self.data_list: list = []
        self.data_bytes, self.data_address = packed.records, packed.record_ends
        self._labels, self._label_ends = packed.labels, packed.label_ends
        self._fully_initialized = True

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """The annotations of an image, see ``BaseDataset.get_data_info``."""
        if not self._is_packed:
            return super().get_data_info(idx)
        idx = range(len(self))[idx]
        start = self.data_address[idx - 1] if idx > 0 else 0
        data_info = msgspec.msgpack.decode(
            memoryview(self.data_bytes[start : self.data_address[idx]])
        )
        data_info["sample_idx"] = idx
        return data_info

    @force_full_init
    def labels_by_image(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The labels of all images, for samplers: no image needs to be decoded for them.

        Returns:
            (instances,) int32, the labels of the images one after another, and (M,) int64, where
            those of each image end; None if they are not at hand (in a subset, and where the items
            are not packed).
        """
        return None if self._labels is None else (self._labels, self._label_ends)

    def get_cat_ids(self, idx: int) -> list[int]:
        """The labels in an image, see ``BaseDetDataset.get_cat_ids``."""
        packed = self.labels_by_image()
        if packed is None:
            return super().get_cat_ids(idx)
        labels, ends = packed
        idx = range(len(self))[idx]
        return labels[ends[idx - 1] if idx > 0 else 0 : ends[idx]].tolist()

    def get_subset_(self, indices: Sequence[int] | int) -> None:
        """See ``BaseDataset.get_subset_``."""
        super().get_subset_(indices)
        self._labels = self._label_ends = None

    def get_subset(self, indices: Sequence[int] | int) -> FastAnnotations:
        """See ``BaseDataset.get_subset``."""
        subset = super().get_subset(indices)
        subset._labels = subset._label_ends = None
        return subset

    def load_data_list(self) -> list[dict[str, Any]]:
        """All images as Python objects, before they are filtered."""
        with garbage_collection_paused(), self._local_annotation_file() as path:
            annotations = self._read(path)
            self._map_categories(annotations)
            return list(self._data_infos(annotations, np.arange(len(annotations.images))))

    # ---- parsing ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _local_annotation_file(self) -> Iterator[str]:
        with fileio.get_local_path(self.ann_file, backend_args=self.backend_args) as path:
            if not os.path.isfile(path):
                raise FileNotFoundError(
                    f"ann_file={self.ann_file!r} does not exist (working directory: "
                    f"{os.getcwd()}): put or link the data set there, or change "
                    f"data_root={self.data_root!r}"
                )
            yield str(path)

    def _cache_key(self, path: str) -> dict[str, Any]:
        """All that decides the items."""
        return {
            "ann_file": os.path.abspath(path) if path == str(self.ann_file) else str(self.ann_file),
            "content": file_digest(path),
            "dataset": f"{type(self).__module__}.{type(self).__qualname__}",
            "mmdet": mmdet.__version__,
            "data_prefix": dict(self.data_prefix),
            "seg_map_suffix": self.seg_map_suffix,
            "filter_cfg": self.filter_cfg and dict(self.filter_cfg),
            "test_mode": self.test_mode,
            "indices": self._indices if self._indices is None else np.array(self._indices).tolist(),
        }

    def _parse(self, path: str) -> Parsed:
        annotations = self._read(path)
        return self.cat_ids, self._records(annotations, self._choose(annotations))

    def _records(
        self, annotations: AnnotationFile, chosen: np.ndarray
    ) -> Iterator[tuple[bytes, list[int]]]:
        encode = msgspec.msgpack.Encoder().encode
        for data_info in self._data_infos(annotations, chosen):
            labels = [instance["bbox_label"] for instance in data_info["instances"]]
            yield encode(data_info), labels

    def _read(self, path: str) -> AnnotationFile:
        # LVIS's test sets have images and categories only.
        annotations = read_annotation_file(
            path, self.ann_file, require_annotations=not self.test_mode
        )
        for name, index in (
            ("images", annotations.image_of),
            ("categories", annotations.category_of),
        ):
            if unknown := int((index < 0).sum()):
                print_log(
                    f"{self.ann_file}: {unknown} annotations are of {name} that the file does not "
                    f"list; they are left out",
                    logger="current",
                    level=logging.WARNING,
                )
        if "img" not in self.data_prefix:
            raise ValueError(f"data_prefix must have an 'img', but it is {self.data_prefix!r}")
        for image in annotations.images:
            _require(image, ("height", "width", self.FILE_NAME_KEY), self.ann_file)
        self._set_categories([category["id"] for category in annotations.categories])
        return annotations

    def _set_categories(self, ids: list[int]) -> None:
        self.cat_ids = CategoryIds(ids)
        self.cat2label = {category_id: label for label, category_id in enumerate(ids)}

    def _map_categories(self, annotations: AnnotationFile) -> None:
        """Set ``cat_img_map``, for ``filter_data``: for each category id those of its images."""
        known = (annotations.image_of >= 0) & (annotations.category_of >= 0)
        pairs = np.stack([annotations.category_of[known], annotations.image_of[known]])
        category_of, image_of = pairs[:, np.argsort(pairs[0], kind="stable")]
        image_ids = np.array([image["id"] for image in annotations.images], np.int64)[image_of]
        starts = np.searchsorted(category_of, np.arange(1, len(self.cat_ids)))
        self.cat_img_map = dict(  # split gives a part even if there is no category
            zip(self.cat_ids, map(np.ndarray.tolist, np.split(image_ids, starts)), strict=False)
        )

    def _choose(self, annotations: AnnotationFile) -> np.ndarray:
        """(M,) indices of the images that ``filter_cfg`` and ``indices`` leave."""
        self._map_categories(annotations)
        self.data_list = [
            {"img_id": image["id"], "height": image["height"], "width": image["width"], "index": i}
            for i, image in enumerate(annotations.images)
        ]
        self.data_list = self.filter_data()
        if self._indices is not None:
            self.data_list = self._get_unserialized_subset(self._indices)
        del self.cat_img_map
        return np.array([entry["index"] for entry in self.data_list], np.int64)

    def _data_infos(self, annotations: AnnotationFile, chosen: np.ndarray) -> Iterator[dict]:
        for index in chosen.tolist():
            image = annotations.images[index]
            raw_img_info = {**image, "img_id": image["id"], "file_name": self._file_name(image)}
            raw_ann_info = annotations.annotations_of(index)
            try:
                data_info = self.parse_data_info(
                    {"raw_img_info": raw_img_info, "raw_ann_info": raw_ann_info}
                )
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"ann_file={self.ann_file!r}: image id {image['id']} or an annotation of it "
                    f"cannot be parsed: {type(error).__name__} {error}"
                ) from error
            yield data_info


def _require(image: dict, keys: tuple[str, ...], ann_file: str) -> None:
    for key in keys:
        if image.get(key) is None:
            raise ValueError(
                f"ann_file={ann_file!r}: image id {image['id']} has no {key!r} (images of LVIS v1 "
                f"have a coco_url, those of LVIS v0.5 and COCO a file_name)"
            )


@DATASETS.register_module()
class FastLVISV05Dataset(FastAnnotations, LVISV05Dataset):
    """``LVISV05Dataset`` with fast parsing and a shared cache, see :class:`FastAnnotations`."""

    FILE_NAME_KEY = "file_name"

    @staticmethod
    def _file_name(image: dict[str, Any]) -> str:
        # LVIS v0.5 names images as COCO 2014 did, COCO_train2014_000000000009.jpg.
        name = image["file_name"]
        return name[-16:] if name.startswith("COCO") else name


@DATASETS.register_module()
class FastLVISV1Dataset(FastAnnotations, LVISV1Dataset):
    """``LVISV1Dataset`` with fast parsing and a shared cache, see :class:`FastAnnotations`."""

    FILE_NAME_KEY = "coco_url"

    @staticmethod
    def _file_name(image: dict[str, Any]) -> str:
        # The images of a set lie in train2017 and in val2017; only the URL says where.
        return image["coco_url"].replace("http://images.cocodataset.org/", "")
