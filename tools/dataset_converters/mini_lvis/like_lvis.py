"""The generator behind --like-lvis: LVIS v1's categories and counts, at any number of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmdet_droploss.annotations import load_class_frequency

from .lvis_json import annotation_record, image_path, image_record, write_annotation_file
from .options import SPLITS, Options, rng_for
from .plan import NEGATIVES_PER_IMAGE, NOT_EXHAUSTIVE_SHARE
from .shapes import Polygons, ShapesTask, render_shapes, star_polygons

IMAGES = 99388  # images of the LVIS v1 train set that have annotations
# (width, height) and how often per hundred, roughly as COCO has them.
SIZES = (
    (640, 480, 36),
    (640, 427, 28),
    (480, 640, 14),
    (427, 640, 10),
    (640, 426, 6),
    (500, 375, 4),
    (612, 612, 2),
)
CHUNK = 1000  # images whose polygons are made at once: bounds the memory

#: Goes through the tasks in order, in this process or in several.
Mapper = Callable[..., Iterable[Any]]
#: Shows a progress bar while it is gone through.
Track = Callable[[Iterable[Any], str, int], Iterable[Any]]


@dataclass
class LikeLvisPlan:
    """Counts as LVIS v1 has them: one entry for each annotated (image, category) pair."""

    num_images: int
    image: np.ndarray  # sorted
    category: np.ndarray
    instances: np.ndarray
    not_exhaustive: np.ndarray
    negative_image: np.ndarray  # sorted
    negative_category: np.ndarray

    def counts(self, num_categories: int) -> tuple[np.ndarray, np.ndarray]:
        """(C,) numbers of images and of instances of each category."""
        instances = np.bincount(self.category, self.instances, num_categories)
        return np.bincount(self.category, minlength=num_categories), instances.astype(int)


def lvis_counts() -> tuple[np.ndarray, np.ndarray]:
    """image_count and instance_count of the 1203 categories, from the package's own file."""
    frequency = load_class_frequency("lvis_v1")
    assert frequency.instance_count is not None  # the package's file has them
    return frequency.image_count, frequency.instance_count


def lvis_names() -> list[str]:
    """The names of the 1203 categories, in the order of their ids."""
    from mmdet.datasets import LVISV1Dataset

    return list(LVISV1Dataset.METAINFO["classes"])


def scaled_counts(num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """LVIS's counts in proportion to the images, no category without an image."""
    images, instances = lvis_counts()
    factor = num_images / IMAGES
    scaled = np.clip(np.rint(images * factor), 1, num_images).astype(int)
    return scaled, np.maximum(np.rint(instances * factor), scaled).astype(int)


def cover_empty(image: np.ndarray, num_images: int, rng: np.random.Generator) -> None:
    """Move pairs from images that have several to those that have none, in place."""
    load = np.bincount(image, minlength=num_images)
    donors = iter(rng.permutation(len(image)).tolist())
    for empty in np.flatnonzero(load == 0).tolist():
        donor = next((d for d in donors if load[image[d]] > 1), None)
        if donor is None:
            return  # fewer pairs than images
        load[image[donor]] -= 1
        image[donor] = empty


def make_plan(num_images: int, seed: int, split: str) -> LikeLvisPlan:
    """Deal LVIS's (scaled) counts to the images; vectorised over the images."""
    rng = rng_for(seed, 5, SPLITS.index(split))
    image_count, instance_count = scaled_counts(num_images)
    # Busier and emptier images: exponential keys over weights are a weighted draw without
    # replacement.
    weight = rng.gamma(1.5, size=num_images) + 0.05
    image = np.concatenate(
        [
            np.argpartition(rng.standard_exponential(num_images) / weight, count - 1)[:count]
            for count in image_count
        ]
    )
    category = np.repeat(np.arange(len(image_count)), image_count)
    cover_empty(image, num_images, rng)
    instances = np.concatenate(
        [
            1 + rng.multinomial(total - count, share / share.sum())
            for count, total in zip(image_count, instance_count, strict=True)
            for share in [rng.gamma(0.5, size=count) + 1e-6]
        ]
    )
    order = np.lexsort((category, image))
    image, category, instances = image[order], category[order], instances[order]
    negative = draw_negatives(image, category, num_images, image_count, rng)
    not_exhaustive = rng.random(len(image)) < NOT_EXHAUSTIVE_SHARE
    return LikeLvisPlan(num_images, image, category, instances, not_exhaustive, *negative)


def draw_negatives(
    image: np.ndarray,
    category: np.ndarray,
    num_images: int,
    image_count: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Some negative categories for each image, in proportion, never one of its positives."""
    num_categories = len(image_count)
    counts = 1 + rng.poisson(NEGATIVES_PER_IMAGE, num_images)
    # The square root keeps person and the like from being most negatives.
    share = np.sqrt(image_count)
    drawn = rng.choice(num_categories, int(counts.sum()), p=share / share.sum())
    keys = np.unique(np.repeat(np.arange(num_images), counts) * num_categories + drawn)
    keys = keys[~np.isin(keys, image * num_categories + category)]
    return keys // num_categories, keys % num_categories


def image_sizes(num_images: int, seed: int, split: str) -> np.ndarray:
    """(width, height) of each image."""
    table = np.asarray(SIZES)
    rng = rng_for(seed, 6, SPLITS.index(split))
    pick = rng.choice(len(table), num_images, p=table[:, 2] / table[:, 2].sum())
    return table[pick, :2]


def image_chunks(plan: LikeLvisPlan, split: str, sizes: np.ndarray) -> Iterator[list[dict]]:
    """The entries of ``images``, CHUNK at a time."""
    negative_at = np.searchsorted(plan.negative_image, np.arange(plan.num_images + 1))
    pair_at = np.searchsorted(plan.image, np.arange(plan.num_images + 1))
    for first in range(0, plan.num_images, CHUNK):
        chunk = []
        for index in range(first, min(first + CHUNK, plan.num_images)):
            pairs = slice(pair_at[index], pair_at[index + 1])
            partial = plan.category[pairs][plan.not_exhaustive[pairs]]
            negative = plan.negative_category[negative_at[index] : negative_at[index + 1]]
            width, height = sizes[index].tolist()
            chunk.append(
                image_record(split, index, width, height, negative.tolist(), partial.tolist())
            )
        yield chunk


def annotation_chunks(
    plan: LikeLvisPlan,
    split: str,
    sizes: np.ndarray,
    seed: int,
    track: Track,
    draw: Callable[[int, int, np.ndarray, Polygons], None] | None,
) -> Iterator[list[dict]]:
    """The annotations of CHUNK images at a time; ``draw`` is called with each chunk."""
    next_id = 1
    firsts = range(0, plan.num_images, CHUNK)
    for number, first in enumerate(track(firsts, f"{split} images", len(firsts))):
        last = min(first + CHUNK, plan.num_images)
        pairs = slice(*np.searchsorted(plan.image, [first, last]))
        owners = np.repeat(plan.image[pairs], plan.instances[pairs])
        labels = np.repeat(plan.category[pairs], plan.instances[pairs])
        if not len(owners):
            continue
        shapes = star_polygons(sizes[owners], rng_for(seed, 8, SPLITS.index(split), number))
        rows = zip(
            owners.tolist(), labels.tolist(), shapes.area.tolist(), shapes.box.tolist(), strict=True
        )
        chunk = [
            annotation_record(next_id + k, image, category, area, box, [shapes.flat(k)])
            for k, (image, category, area, box) in enumerate(rows)
        ]
        next_id += len(chunk)
        if draw is not None:
            draw(first, last, owners, shapes)
        yield chunk


def write_split(
    root: Path,
    split: str,
    plan: LikeLvisPlan,
    options: Options,
    categories: list[dict[str, Any]],
    mapper: Mapper,
    track: Track,
) -> dict[str, int]:
    """Write one split, its images too if they are wanted; returns what it holds."""
    sizes = image_sizes(plan.num_images, options.seed, split)

    def draw(first: int, last: int, owners: np.ndarray, shapes: Polygons) -> None:
        at = np.searchsorted(owners, np.arange(first, last + 1))
        tasks = [
            ShapesTask(
                str(root / image_path(split, index)),
                *sizes[index].tolist(),
                tuple(shapes.vertices(k) for k in range(at[n], at[n + 1])),
                options.seed,
                SPLITS.index(split),
                index,
            )
            for n, index in enumerate(range(first, last))
        ]
        for _ in mapper(render_shapes, tasks):
            pass

    if options.images:
        (root / f"{split}2017").mkdir()
    write_annotation_file(
        root / "annotations" / f"lvis_v1_{split}.json",
        image_chunks(plan, split, sizes),
        annotation_chunks(
            plan, split, sizes, options.seed, track, draw if options.images else None
        ),
        categories,
    )
    return {"images": plan.num_images, "annotations": int(plan.instances.sum())}
