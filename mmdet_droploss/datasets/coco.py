"""COCO-format data sets of one's own."""

from __future__ import annotations

import copy
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from ..annotations.pictures import PLAIN
from .fast_annotations import FastAnnotations


@DATASETS.register_module()
class FastCocoDataset(FastAnnotations, CocoDataset):
    """A data set in COCO's format, with fast parsing, a shared cache and checks.

    The pictures lie at ``data_prefix['img']`` + ``file_name``. The categories are those of the
    file, in its order, and so are their names unless ``metainfo`` gives ``classes``. Unlike mmdet's
    ``CocoDataset``, it does not choose categories by the names in ``classes``.

    Arguments are those of :class:`FastAnnotations` and of mmdet's ``CocoDataset``.
    """

    METAINFO: dict = {}
    PICTURES = PLAIN

    @property
    def metainfo(self) -> dict[str, Any]:
        """See ``BaseDataset.metainfo``; this reads the file if ``classes`` were not given."""
        if "classes" not in self._metainfo and (names := self.category_names) is not None:
            return {**copy.deepcopy(self._metainfo), "classes": names}
        return super().metainfo
