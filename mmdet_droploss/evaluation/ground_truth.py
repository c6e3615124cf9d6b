"""The annotations that detections are compared with, in the form that LVIS's protocol needs."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from mmengine import fileio

from ..datasets import GROUP_NAMES, load_class_frequency
from ..datasets.annotation_file import read_annotation_file


class GroundTruth:
    """An LVIS- or COCO-format annotation file, whose annotations are decoded image by image.

    What COCO's format lacks is filled in: an image without ``neg_category_ids`` counts as
    exhaustively annotated, that is, all categories that it does not show are negative.

    Args:
        ann_file: The annotation file.
        class_freq: Category frequencies of the training set, for categories without ``frequency``;
            see :func:`~mmdet_droploss.datasets.load_class_frequency`.
        require_annotations: Whether the file must have annotations; LVIS's test sets have none.
        backend_args: For MMEngine's file backends.

    Attributes:
        categories: C entries of ``categories``, in label order.
        category_ids: (C,) int64.
        image_ids: M ids, in the order of the file.

    Raises:
        ValueError: If the file is not valid.
        FileNotFoundError: If it does not exist.
    """

    def __init__(
        self,
        ann_file: str,
        class_freq: Any = None,
        require_annotations: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        ann_file = str(ann_file)
        if "://" not in ann_file and not os.path.isfile(ann_file):
            raise FileNotFoundError(
                f"ann_file={ann_file!r} does not exist (working directory: {os.getcwd()})"
            )
        with fileio.get_local_path(ann_file, backend_args=backend_args) as path:
            self._file = read_annotation_file(path, ann_file, require_annotations)
        self.ann_file = ann_file
        self.categories = self._file.categories
        self.category_ids = np.array([category["id"] for category in self.categories], np.int64)
        self._known_categories = set(self.category_ids.tolist())
        self.image_ids = [image["id"] for image in self._file.images]
        self._index = {image_id: index for index, image_id in enumerate(self.image_ids)}
        if class_freq is not None:
            self._fill_groups(class_freq)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._index

    def __len__(self) -> int:
        return len(self.image_ids)

    def image(self, image_id: int) -> dict[str, Any]:
        """The entry of an image, with what the federated protocol needs."""
        index = self._index[image_id]
        image = self._file.images[index]
        if "neg_category_ids" not in image:
            annotations = self._file.order[self._file.ends[index] : self._file.ends[index + 1]]
            present = np.unique(self._file.category_of[annotations])
            present = present[present >= 0]
            image = {**image, "neg_category_ids": np.delete(self.category_ids, present).tolist()}
        return {"not_exhaustive_category_ids": [], **image}

    def annotations(self, image_id: int) -> list[dict[str, Any]]:
        """The annotations of an image, without those of categories that the file does not list."""
        found = self._file.annotations_of(self._index[image_id])
        return [entry for entry in found if entry["category_id"] in self._known_categories]

    def content(self) -> dict[str, list]:
        """Everything as Python objects, as COCO-style tools expect it."""
        annotations = [self.annotations(image_id) for image_id in self.image_ids]
        return {
            "images": [self.image(image_id) for image_id in self.image_ids],
            "annotations": [annotation for of_image in annotations for annotation in of_image],
            "categories": self.categories,
        }

    def _fill_groups(self, class_freq: Any) -> None:
        frequency = load_class_frequency(class_freq)
        if frequency.num_classes != len(self.categories):
            raise ValueError(
                f"class_freq has {frequency.num_classes} categories (from {frequency.source}), but "
                f"ann_file has {len(self.categories)}"
            )
        for category, group, count in zip(
            self.categories, frequency.groups, frequency.image_count, strict=True
        ):
            category["frequency"] = GROUP_NAMES[group][0]
            category["image_count"] = int(count)
