"""Repeat factor sampling (RFS).

Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019, section 4.2
and appendix.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
from mmdet.datasets import BaseDetDataset
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import ConcatDataset, Sampler

from ..annotations.class_frequency import images_of_each
from ..annotations.rule import trained_labels


def repeat_factors(labels: np.ndarray, ends: np.ndarray, threshold: float) -> np.ndarray:
    """How often each image is to be seen in a pass over the data set.

    For a category c that is in a share f(c) of the images, r(c) = max(1, sqrt(t / f(c))); for an
    image, r(I) is the largest r(c) of its categories, and 1 if it has none.

    Args:
        labels: (instances,) whole numbers, the labels of the images one after another.
        ends: (M,) where those of each image end.
        threshold: t; 0 means that no category is repeated.

    Returns:
        (M,) float64, r(I) >= 1.
    """
    num_images = len(ends)
    image_of = np.repeat(np.arange(num_images), np.diff(ends, prepend=0))
    image_count = images_of_each(labels, image_of, int(labels.max(initial=0)) + 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # labels that do not occur
        of_category = np.maximum(1, np.sqrt(threshold * num_images / image_count))
    factors = np.ones(num_images)
    np.maximum.at(factors, image_of, of_category[labels])
    return factors


@DATA_SAMPLERS.register_module()
class RepeatFactorSampler(Sampler[int]):
    """Shows images of rare categories more often, as LVIS's baselines do.

    In each pass an image comes floor(r) or ceil(r) times, r being its repeat factor: the fraction
    is rounded at random anew in each pass, so that the mean over the passes is r. mmdet's
    ``ClassBalancedDataset`` rounds up instead, once: nearly every image with r > 1 comes twice.

    The passes one after another are one endless sequence, decided by the seed alone. Of R
    processes, process i takes every R-th index of it, beginning with the i-th.

    Args:
        dataset: If it has ``labels_by_image`` (the data sets of this package have), no image has to
            be decoded; otherwise ``get_cat_ids`` is called for each. Only mmdet's own is replaced,
            as it tells crowd regions as well, which are not trained on.
        threshold: t, the share of images below which a category is repeated. LVIS's own is 1e-3;
            the released configs of EQL and DropLoss use 5e-4.
        infinite: True for iteration-based loops: the sequence never ends. False for epoch-based
            loops: an epoch has sum(r) indices, and the next goes on in the sequence.
        shuffle: Whether to shuffle each pass.
        seed: The seed of the sequence; None draws one, the same in all processes.

    Raises:
        ValueError: If ``threshold`` is not in [0, 1] or the data set is empty.
        TypeError: If the data set does not tell its labels.
    """

    def __init__(
        self,
        dataset: Sized,
        threshold: float,
        infinite: bool = False,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
            raise ValueError(f"threshold must be a number in [0, 1], but it is {threshold!r}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], but it is {threshold!r}")
        if len(dataset) == 0:
            raise ValueError("RepeatFactorSampler: the data set is empty")
        self.dataset = dataset  # for AspectRatioBatchSampler
        self.rank, self.world_size = get_dist_info()
        self.factors = repeat_factors(*_labels_by_image(dataset), threshold)
        self.infinite = infinite
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of this process."""
        indices = self._sequence(0 if self.infinite else self.epoch * len(self) * self.world_size)
        mine = itertools.islice(indices, self.rank, None, self.world_size)
        return mine if self.infinite else itertools.islice(mine, len(self))

    def __len__(self) -> int:
        """Indices of this process in an epoch; the same in every process and every epoch."""
        return math.ceil(self.factors.sum() / self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the part of the sequence that the next iteration yields."""
        self.epoch = epoch

    def _sequence(self, start: int) -> Iterator[int]:
        """The endless sequence of all processes together, without its first ``start`` indices."""
        for number in itertools.count():
            repeats = self._repeats(number)
            size = int(repeats.sum())
            if start < size:
                indices = np.repeat(np.arange(len(repeats)), repeats)
                if self.shuffle:
                    np.random.default_rng([self.seed, number, 1]).shuffle(indices)
                yield from indices[start:].tolist()
            start = max(start - size, 0)

    def _repeats(self, number: int) -> np.ndarray:
        """(M,) int64, how often each image comes in a pass: its factor, rounded at random."""
        whole = np.floor(self.factors)
        draws = np.random.default_rng([self.seed, number, 0]).random(len(whole))
        return (whole + (draws < self.factors - whole)).astype(np.int64)


def _labels_by_image(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """The labels of all images, one after another, and where those of each image end."""
    packed = dataset.labels_by_image() if hasattr(dataset, "labels_by_image") else None
    if packed is not None:
        return packed
    if isinstance(dataset, ConcatDataset):
        labels, ends = zip(*map(_labels_by_image, dataset.datasets), strict=True)
        starts = np.cumsum([0, *map(len, labels)])
        return np.concatenate(labels), np.concatenate(
            [start + end for start, end in zip(starts, ends, strict=False)]
        )
    if not hasattr(dataset, "get_cat_ids"):
        inner = getattr(dataset, "dataset", None)
        if inner is not None and len(inner) == len(dataset):  # MultiImageMixDataset
            return _labels_by_image(inner)
        raise TypeError(
            f"RepeatFactorSampler needs the labels of each image, but a {type(dataset).__name__} "
            f"has no get_cat_ids. Give it the data set without the wrapper"
        )
    of_images = [np.asarray(_labels_of(dataset, index), np.int64) for index in range(len(dataset))]
    return np.concatenate(of_images), np.cumsum([len(labels) for labels in of_images])


def _labels_of(dataset: Any, index: int) -> list[int]:
    """The labels of an image that are trained on: mmdet's get_cat_ids has crowd regions as well."""
    if getattr(type(dataset), "get_cat_ids", None) is BaseDetDataset.get_cat_ids:
        return trained_labels(dataset.get_data_info(index))
    return dataset.get_cat_ids(index)
