"""LVIS data sets with the same content as mmdet's, that start in seconds and share their memory."""

from __future__ import annotations

from mmdet.datasets import LVISV05Dataset, LVISV1Dataset
from mmdet.registry import DATASETS

from ..annotations.pictures import LVIS_V05, LVIS_V1
from .fast_annotations import FastAnnotations


@DATASETS.register_module()
class FastLVISV05Dataset(FastAnnotations, LVISV05Dataset):
    """``LVISV05Dataset`` with fast parsing and a shared cache, see :class:`FastAnnotations`."""

    PICTURES = LVIS_V05


@DATASETS.register_module()
class FastLVISV1Dataset(FastAnnotations, LVISV1Dataset):
    """``LVISV1Dataset`` with fast parsing and a shared cache, see :class:`FastAnnotations`."""

    PICTURES = LVIS_V1
