"""What makes mmdet's data sets start in seconds, share their memory and say what is amiss."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from mmdet.datasets import BaseDetDataset, CocoDataset, LVISV05Dataset, LVISV1Dataset
from mmengine import fileio
from mmengine.dataset import BaseDataset, force_full_init
from mmengine.logging import print_log

from ..annotations.class_frequency import images_of_each
from ..annotations.pictures import PictureRule
from ..annotations.progress import track
from ..annotations.reader import AnnotationFile, garbage_collection_paused, read_annotation_file
from ..annotations.rule import CROWD, trained_labels
from ..annotations.segmentations import FATAL, SegmentationProblems, problem_of
from ..utils import file_digest
from .annotation_cache import Parsed, load_or_pack, pack
from .picture_size import insert_size_check
from .remarks import (
    count_filtered,
    facts_of,
    remarks_on_categories,
    remarks_on_file,
    remarks_on_filter,
    remarks_on_masks,
)

#: What mmdet loads the masks of: crowd regions, too, which it marks to be ignored.
_LOADED = (0, CROWD)

#: Classes whose code, beside this package's, decides the items.
_UPSTREAM = (BaseDataset, BaseDetDataset, CocoDataset, LVISV05Dataset, LVISV1Dataset)

#: The labels of the images one after another, and where those of each image end.
PackedLabels = tuple[np.ndarray, np.ndarray]

if TYPE_CHECKING:  # what it is mixed into
    from mmdet.datasets import BaseDetDataset as _DetDataset
else:
    _DetDataset = object


class CategoryIds(list):
    """A list whose membership test does not search: mmdet asks it once an annotation."""

    def __init__(self, ids: list[int]) -> None:
        super().__init__(ids)
        self._set = frozenset(ids)

    def __contains__(self, category_id: object) -> bool:
        return category_id in self._set


class FastAnnotations(_DetDataset):
    """Mixin for mmdet's COCO-style data sets: fast parsing, a cache that processes share, checks.

    What an item holds is decided by mmdet's own ``parse_data_info`` and ``filter_data``. But they
    see one image at a time, so that the annotations never are in memory as objects all at once; the
    result is kept as arrays, mapped from a file that all processes on a machine share
    (``annotation_cache.py``). ``filter_data`` sees of an image only
    ``img_id``, ``height`` and ``width``.

    The cache notices by itself when the annotation file, an option or mmdet's code has changed. A
    subclass that overrides ``parse_data_info``, ``filter_data`` or ``PICTURES`` is not kept there,
    as nobody can tell what else decides its items; every process parses for itself then.

    With ``serialize_data=False``, ``proposal_file``, ``return_classes=True`` or an overridden
    ``load_data_list`` the items are Python objects in every process, as in mmdet; only the parsing
    is fast then. What is amiss is not looked for if ``load_data_list`` does not call this one.

    A label is the place of a category in the file, whatever its name; ``CategoryCheckHook``
    compares the names at the start of a run. What is not trained on is counted and said at every
    start, from the cache, too.

    Args:
        cache: Whether to keep the parsed annotations in the cache. Without it every process parses
            for itself and has them in its own memory.
        broken_masks: What to do, if the pipeline loads masks, with annotations whose segmentation
            would stop mmdet in mid-training: ``'refuse'`` the file, or ``'leave_out'`` the
            annotations with a warning.
        check_picture_size: Whether a picture whose size is not the annotation file's is an error
            when it is loaded.

    Raises:
        FileNotFoundError: If the annotation file does not exist.
        ValueError: If it is not valid JSON or not in LVIS's or COCO's format, an id occurs twice,
            its segmentations cannot be trained on, or nothing in it can be.
    """

    #: Where the pictures lie.
    PICTURES: PictureRule

    _fully_initialized: bool

    def __init__(
        self,
        *args: Any,
        cache: bool = True,
        broken_masks: str = "refuse",
        check_picture_size: bool = True,
        **kwargs: Any,
    ) -> None:
        for name, value in (("cache", cache), ("check_picture_size", check_picture_size)):
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, but it is {value!r}")
        if broken_masks not in ("refuse", "leave_out"):
            raise ValueError(
                f"broken_masks must be 'refuse' or 'leave_out', but it is {broken_masks!r}"
            )
        self.cache = cache
        self.broken_masks = broken_masks
        self.check_picture_size = check_picture_size
        self._labels: PackedLabels | None = None
        self._facts: dict[str, Any] = {}
        super().__init__(*args, **kwargs)
        if check_picture_size and not insert_size_check(self.pipeline, str(self.ann_file)):
            self._say("no LoadImageFromFile in the pipeline: sizes are not compared", logging.INFO)

    @property
    def _is_packed(self) -> bool:
        return (
            self.serialize_data
            and self.proposal_file is None
            and not self.return_classes
            and not self._overrides("load_data_list")
        )

    def _overrides(self, *methods: str) -> bool:
        """Whether a class that is neither this package's nor upstream has its own of some."""
        ours = f"{__package__}."
        known = [c for c in type(self).__mro__ if c in _UPSTREAM or c.__module__.startswith(ours)]
        others = set(type(self).__mro__) - set(known)
        return any(name in vars(c) for c in others for name in methods)

    def full_init(self) -> None:
        """Load the annotations, from the cache if they are there."""
        if self._fully_initialized:
            return
        if not self._is_packed:
            super().full_init()
            self._tell()
            return
        own = ("parse_data_info", "filter_data", "PICTURES")
        cache = self.cache and not self._overrides(*own)
        if self.cache and not cache:
            self._say(
                f"not in the annotation cache, since {type(self).__name__} has its own "
                f"{' or '.join(own)}; every process parses the file",
                logging.INFO,
            )
        with garbage_collection_paused(), self._local_annotation_file() as path:
            if cache:
                key = self._cache_key(path)

                def parse(progress: os.PathLike | None) -> Parsed:
                    ids, records, facts = self._parse(path, progress)
                    return ids, self._unless_changed(records, path, key["content"]), facts

                packed = load_or_pack(key, parse)
            else:
                packed = pack(self._parse(path))
        self._set_categories(packed.category_ids.tolist())
        self.data_list: list = []
        self.data_bytes, self.data_address = packed.records, packed.record_ends
        self._labels = packed.labels, packed.label_ends
        self._facts = packed.facts
        self._fully_initialized = True
        self._tell()

    @property
    def category_names(self) -> tuple[str, ...] | None:
        """The names of the file's categories in label order; None if one has none."""
        if "category_names" not in self._facts:
            self.full_init()
        names = self._facts.get("category_names")
        return None if names is None else tuple(names)

    def image_count(self) -> np.ndarray:
        """(C,) int64, the number of images in which each category is trained on."""
        return self._count(self.labels_by_image(), self.get_cat_ids)

    def _count(self, packed: PackedLabels | None, labels_of: Callable[[int], Any]) -> np.ndarray:
        """See ``image_count``; ``labels_of`` an image is asked only if there is nothing packed."""
        if packed is not None:
            labels, ends = packed
            image_of = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
            return images_of_each(labels, image_of, len(self.cat_ids))
        counts = np.zeros(len(self.cat_ids), np.int64)
        for index in range(len(self)):
            counts[list(set(labels_of(index)))] += 1
        return counts

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """The annotations of an image, see ``BaseDataset.get_data_info``."""
        if not self._is_packed:
            return super().get_data_info(idx)
        idx = range(len(self))[idx]
        start = self.data_address[idx - 1] if idx > 0 else 0
        data_info = msgspec.msgpack.decode(self.data_bytes[start : self.data_address[idx]].data)
        data_info["sample_idx"] = idx
        return data_info

    @force_full_init
    def labels_by_image(self) -> PackedLabels | None:
        """The labels that are trained on, for samplers: no image needs to be decoded for them.

        Returns:
            (instances,) int32, the labels of the images one after another, and (M,) int64, where
            those of each image end; None if they are not at hand (in a subset, where the items
            are not packed, and where a subclass has labels of its own).
        """
        return None if self._overrides("get_cat_ids", "get_data_info") else self._labels

    def get_cat_ids(self, idx: int) -> list[int]:
        """The labels that are trained on in an image: unlike mmdet's, without crowd regions."""
        packed = self.labels_by_image()
        if packed is None:
            return trained_labels(self.get_data_info(idx))
        labels, ends = packed
        idx = range(len(self))[idx]
        return labels[ends[idx - 1] if idx > 0 else 0 : ends[idx]].tolist()

    def get_subset_(self, indices: Sequence[int] | int) -> None:
        """See ``BaseDataset.get_subset_``."""
        super().get_subset_(indices)
        self._labels = None

    def get_subset(self, indices: Sequence[int] | int) -> FastAnnotations:
        """See ``BaseDataset.get_subset``."""
        subset = super().get_subset(indices)
        subset._labels = None
        return subset

    def filter_data(self) -> list[dict[str, Any]]:
        """Mmdet's, and count what it leaves out."""
        kept = super().filter_data()
        self._facts["filtered"] = count_filtered(self.data_list, kept, self.filter_cfg)
        return kept

    def load_data_list(self) -> list[dict[str, Any]]:
        """All images as Python objects, before they are filtered."""
        with garbage_collection_paused(), self._local_annotation_file() as path:
            annotations = self._read(path)
            self._map_categories(annotations)
            return list(self._data_infos(annotations, np.arange(len(annotations.images)), None))

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
            "code": self._code(),
            "data_prefix": dict(self.data_prefix),
            "seg_map_suffix": self.seg_map_suffix,
            "filter_cfg": self.filter_cfg and dict(self.filter_cfg),
            "test_mode": self.test_mode,
            "leave_out_broken_masks": self._leaves_out_broken_masks,
            "indices": self._indices if self._indices is None else np.array(self._indices).tolist(),
        }

    def _code(self) -> str:
        """A digest of the upstream sources, which may be those of a clone that is worked on."""
        digest = hashlib.sha256()
        for owner in _UPSTREAM:
            digest.update(Path(str(sys.modules[owner.__module__].__file__)).read_bytes())
        return digest.hexdigest()

    def _unless_changed(self, records: Iterable, path: str, content: str) -> Iterator:
        """Go through records, and refuse them if the file is not what it was at the start."""
        yield from records
        if file_digest(path) != content:
            raise ValueError(
                f"ann_file={self.ann_file!r} was written to while it was read; start again when it "
                f"is complete"
            )

    def _parse(self, path: str, progress: os.PathLike | None = None) -> Parsed:
        annotations = self._read(path)
        chosen = self._choose(annotations)
        return self.cat_ids, self._records(annotations, chosen, progress), self._facts

    def _records(
        self, annotations: AnnotationFile, chosen: np.ndarray, progress: os.PathLike | None
    ) -> Iterator[tuple[bytes, list[int]]]:
        encode = msgspec.msgpack.Encoder().encode
        for data_info in self._data_infos(annotations, chosen, progress):
            try:
                record = encode(data_info)
            except OverflowError as error:
                raise ValueError(
                    f"ann_file={self.ann_file!r}: image id {data_info['img_id']} or an annotation "
                    f"of it has a number that is far too large: {error}"
                ) from None
            yield record, trained_labels(data_info)

    def _read(self, path: str) -> AnnotationFile:
        # LVIS's test sets have images and categories only.
        annotations = read_annotation_file(
            path, self.ann_file, require_annotations=not self.test_mode
        )
        if "img" not in self.data_prefix:
            raise ValueError(f"data_prefix must have an 'img', but it is {self.data_prefix!r}")
        for image in annotations.images:
            if not isinstance(image.get(self.PICTURES.key), str):
                raise ValueError(
                    f"ann_file={self.ann_file!r}: image id {image['id']} has no text as "
                    f"{self.PICTURES.key!r} (images of LVIS v1 have a coco_url, those of LVIS v0.5 "
                    f"and COCO a file_name)"
                )
        self._set_categories([category["id"] for category in annotations.categories])
        self._facts = facts_of(annotations, self.PICTURES.key)
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

    def _data_infos(
        self, annotations: AnnotationFile, chosen: np.ndarray, progress: os.PathLike | None
    ) -> Iterator[dict]:
        problems = SegmentationProblems()
        self._facts["segmentations"] = problems.found
        leave_out = self._leaves_out_broken_masks
        what = f"{self.ann_file}: parsing the images' annotations"
        reasons = annotations.left_out[annotations.order].tolist()
        ends = annotations.ends.tolist()
        for index in track(chosen.tolist(), what, progress):
            image = annotations.images[index]
            name = self.PICTURES.path(image[self.PICTURES.key])
            raw_ann_info = annotations.annotations_of(index)
            broken = set()
            for number, annotation in enumerate(raw_ann_info):
                reason = reasons[ends[index] + number]
                if reason in _LOADED:
                    segmentation = annotation.get("segmentation")
                    kind = problem_of(segmentation, image["width"], image["height"])
                    if kind is None and isinstance(segmentation, dict) and reason != CROWD:
                        problems.note("run_lengths", annotation)
                    elif kind is not None:
                        problems.note(kind, annotation)
                        if leave_out and kind in FATAL:
                            broken.add(number)
            if broken:
                raw_ann_info = [a for i, a in enumerate(raw_ann_info) if i not in broken]
            try:
                data_info = self.parse_data_info(
                    {
                        "raw_img_info": {**image, "img_id": image["id"], "file_name": name},
                        "raw_ann_info": raw_ann_info,
                    }
                )
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"ann_file={self.ann_file!r}: image id {image['id']} or an annotation of it "
                    f"cannot be parsed: {type(error).__name__} {error}"
                ) from error
            yield data_info

    # ---- what is amiss ---------------------------------------------------------------------------

    @property
    def _loads_masks(self) -> bool:
        return any(getattr(step, "with_mask", False) for step in self.pipeline.transforms)

    @property
    def _leaves_out_broken_masks(self) -> bool:
        return self._loads_masks and self.broken_masks == "leave_out"

    def _tell(self) -> None:
        """Say what is left out, and refuse what cannot be trained on."""
        if "left_out" not in self._facts:
            own = f"{type(self).__name__} has its own load_data_list"
            return self._say(f"{own}; what is amiss with the file is not looked for", logging.INFO)
        remarks = [*remarks_on_file(self._facts), *remarks_on_filter(self._facts, self.filter_cfg)]
        if self._loads_masks:
            polygons_only = any(
                not getattr(step, "poly2mask", True) for step in self.pipeline.transforms
            )
            remarks += remarks_on_masks(
                self._facts, str(self.ann_file), polygons_only, self._leaves_out_broken_masks
            )
        for text, level in remarks:
            self._say(text, level)
        if not self.test_mode:
            options = (
                f"{len(self)} of its {self._facts['num_images']} images are used "
                f"(filter_cfg={self.filter_cfg}, indices={self._indices})"
            )
            # As loaded: a subclass's methods may need what its constructor has not set yet.
            counts = self._count(
                self._labels, lambda i: trained_labels(FastAnnotations.get_data_info(self, i))
            )
            for text, level in remarks_on_categories(
                self._facts, str(self.ann_file), counts, self.cat_ids, options
            ):
                self._say(text, level)

    def _say(self, text: str, level: int) -> None:
        print_log(f"{self.ann_file}: {text}", logger="current", level=level)
