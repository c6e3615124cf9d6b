"""Write a small long-tailed instance segmentation data set in exact LVIS v1 format.

Run ``python make_mini_lvis.py --help`` for what it makes, the options and examples.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as mask_utils

# Raise this whenever the same options give other bytes: a data set on disk is taken for the
# requested one only if its stamp carries this number too.
GENERATOR_VERSION = 1
STAMP_NAME = "mini_lvis.json"

# Characters that shape tells apart in any of the fonts; those with a look-alike before them (O and
# Q beside C and D, 8 beside B ...) stand at the end and come in with --num-categories above 60. No
# character is another one when mirrored (RandomFlip) or turned a little. The order is that of the
# category ids.
CHARACTERS = "ABCDEFHJKLMNPRSTUVXYaeghmrt23457#%&@?={*ΔΞΣΦΨΩλξ∞√§¶€£♠♥★♪→↔GOQbfi68~ΘΠδ∫♣"
# Upright and bold, with serifs, without, and of one width: enough variety that no category is a
# template, little enough that a small network learns them in minutes.
FONTS = ("DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSerif-Bold")

SPLITS = ("train", "val")
GROUPS = ("rare", "common", "frequent")
RARE_MAX, COMMON_MAX = 10, 100  # LVIS: rare 1-10 images, common 11-100, frequent above
FREQUENT_MAX = 300
FREQUENT_MAX_SHARE = 0.3  # no category is annotated in more than this share of the images
OCCURRENCE_MARGIN = 1.1  # federated: a category occurs in at least this many times its budget
# Federated: the number of images that a category really occurs in grows with this power of its
# budget. At 1 all categories would be annotated in the same share of their images, at 0 all would
# occur equally often; in between, the rarer are the rarer, and still the less completely annotated.
OCCURRENCE_POWER = 0.2
REPEAT_SHARE = 0.08  # of the (image, category) pairs have a second instance
NOT_EXHAUSTIVE_SHARE = 0.04  # of the annotated (image, category) pairs
NEGATIVES_PER_IMAGE = 4  # about; never fewer than MIN_NEGATIVES if the image allows it
MIN_NEGATIVES = 2
MAX_OBJECTS = 12  # in one image
MIN_TRAIN_IMAGES = 150  # below, no category can have over 100 images and still be absent somewhere

GLYPH_PIXELS = 160  # height at which a font draws its master glyph
GLYPH_MIN, GLYPH_MAX = 0.18, 0.42  # glyph extent as a share of the image side
MAX_ROTATION = 15.0  # degrees
MIN_VISIBLE = 0.97  # least share of an object that later objects may leave visible
MIN_SIZE, MAX_SIZE = 96, 1024
MIN_CATEGORIES = 6  # two of each group; with fewer an image could lack negatives
JPEG_QUALITY = 92

LVIS_IMAGES = 99388  # images of the LVIS v1 train set that have annotations
LVIS_INFO = {
    "description": "mini LVIS: synthetic data in LVIS v1 format (make_mini_lvis.py)",
    "url": "",
    "version": str(GENERATOR_VERSION),
    "year": 2026,
    "contributor": "make_mini_lvis.py",
    "date_created": "2026-01-01",
}
LICENSES = [{"id": 1, "name": "No known copyright restrictions", "url": ""}]
# (width, height) and how often per hundred, roughly as COCO has them.
LVIS_SIZES = (
    (640, 480, 36),
    (640, 427, 28),
    (480, 640, 14),
    (427, 640, 10),
    (640, 426, 6),
    (500, 375, 4),
    (612, 612, 2),
)
LVIS_CHUNK = 1000  # images whose polygons are made at once: bounds the memory


class UserError(Exception):
    """A request that cannot be met; its message tells the user what to change."""


# --------------------------------------------------------------------------------------------
# Options
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """All that decides the bytes of a data set (so not --workers, not --overwrite)."""

    train_images: int = 2000
    val_images: int = 400
    num_categories: int = 60
    size: int = 160
    seed: int = 0
    objects_per_image: float = 8.0
    val_min_instances: int = 20
    annotate: str = "federated"
    like_lvis: bool = False
    images: bool = True

    def stamp(self) -> dict[str, Any]:
        """What ``mini_lvis.json`` holds."""
        return {"generator_version": GENERATOR_VERSION, **asdict(self)}

    def num_images(self, split: str) -> int:
        return self.train_images if split == "train" else self.val_images


def rng_for(seed: int, *path: int) -> np.random.Generator:
    """A generator of its own for one part of the work, whoever does that part and when."""
    return np.random.default_rng([seed, *path])


# --------------------------------------------------------------------------------------------
# The plan: which objects each image shows and which of them are annotated
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedObject:
    """One object that an image shows; ``category`` counts from 0."""

    category: int
    annotated: bool = True


@dataclass
class ImagePlan:
    """The full truth about one image, also what its annotation will not tell."""

    objects: list[PlannedObject] = field(default_factory=list)
    negatives: list[int] = field(default_factory=list)
    not_exhaustive: list[int] = field(default_factory=list)

    @property
    def contains(self) -> set[int]:
        return {o.category for o in self.objects}

    @property
    def positives(self) -> set[int]:
        return {o.category for o in self.objects if o.annotated}


@dataclass
class Plan:
    """Both splits, and per category the number of train images it is annotated in."""

    num_categories: int
    train: list[ImagePlan]
    val: list[ImagePlan]
    image_count: np.ndarray
    instance_count: np.ndarray

    def split(self, name: str) -> list[ImagePlan]:
        return self.train if name == "train" else self.val


def frequency_letters(image_count: Sequence[int] | np.ndarray) -> list[str]:
    """LVIS's r, c, f from the number of train images of each category."""
    return ["r" if n <= RARE_MAX else "c" if n <= COMMON_MAX else "f" for n in image_count]


def category_budgets(options: Options) -> np.ndarray:
    """Images to annotate each category in: a third each rare, common, frequent.

    The figures are spread log-uniformly in the common and the frequent group, and evenly in the
    rare one, where half of the categories would have one or two images otherwise and nothing could
    be learned of them. A seeded permutation deals them out, so that a category's shape says
    nothing about its rarity.
    """
    num = options.num_categories
    sizes = [num // 3, num // 3, num - 2 * (num // 3)]
    top = int(min(FREQUENT_MAX, FREQUENT_MAX_SHARE * options.train_images))
    ranges = ((1, RARE_MAX), (RARE_MAX + 1, COMMON_MAX), (COMMON_MAX + 1, max(top, COMMON_MAX + 1)))
    spreads = (np.linspace, np.geomspace, np.geomspace)
    budgets = np.concatenate(
        [
            np.rint(spread(lo, hi, n))
            for spread, (lo, hi), n in zip(spreads, ranges, sizes, strict=True)
        ]
    ).astype(int)
    return rng_for(options.seed, 0).permutation(budgets)


def occurrence_targets(budgets: np.ndarray, options: Options) -> np.ndarray:
    """Images that each category really occurs in: more for the frequent, and above its budget."""
    if options.annotate == "all":
        return budgets.copy()
    num_images = options.train_images
    least = np.minimum(np.ceil(OCCURRENCE_MARGIN * budgets), num_images - MIN_NEGATIVES)
    shape = budgets**OCCURRENCE_POWER
    pairs = options.objects_per_image * num_images / (1 + REPEAT_SHARE)
    low, high = 0.0, 0.5 * num_images
    for _ in range(50):  # bisection for the factor that gives the wished objects an image
        factor = (low + high) / 2
        enough = np.maximum(least, factor * shape).sum() >= pairs
        low, high = (low, factor) if enough else (factor, high)
    return np.maximum(least, np.floor(low * shape)).astype(int)


def check_density(options: Options) -> None:
    """Refuse a train split too small for the budgets, before anything is made."""

    def needed(num_images: int) -> float:
        trial = Options(**{**asdict(options), "train_images": num_images})
        return float(np.ceil(OCCURRENCE_MARGIN * category_budgets(trial)).sum()) / num_images

    room = options.objects_per_image / (1 + REPEAT_SHARE)
    if needed(options.train_images) <= room:
        return
    enough = next(n for n in itertools.count(options.train_images, 10) if needed(n) <= room)
    raise UserError(
        f"--train-images {options.train_images} is too few for --num-categories "
        f"{options.num_categories} with --objects-per-image {options.objects_per_image:g}: "
        f"a third of the categories is to be in over {COMMON_MAX} images each; "
        f"give --train-images {enough} or more, or fewer --num-categories"
    )


def uneven(num_images: int, rng: np.random.Generator) -> np.ndarray:
    """How much fuller or emptier than the mean each image is to become: no two scenes alike."""
    return rng.normal(0, 1.3, num_images)


def draw_images(
    load: np.ndarray, banned: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """``count`` images that are not ``banned``, those with little ``load`` first, roughly."""
    key = load + 3 * rng.random(len(load))
    key[banned] = np.inf
    count = min(count, int(np.count_nonzero(~banned)))
    return np.argsort(key, kind="stable")[:count]


def most_categories(num_categories: int) -> int:
    """Categories that one image may show: room for a repeated one, and negatives remain."""
    return min(MAX_OBJECTS - 1, num_categories - MIN_NEGATIVES)


def assign_positives(budgets: np.ndarray, num_images: int, rng: np.random.Generator) -> np.ndarray:
    """A boolean image x category matrix: who is annotated where. No image stays empty."""
    positive = np.zeros((num_images, len(budgets)), bool)
    order = np.argsort(-budgets, kind="stable")
    bias = uneven(num_images, rng)
    for category in order:
        load = positive.sum(1)
        full = load >= most_categories(len(budgets))
        chosen = draw_images(load + bias, full, budgets[category], rng)
        positive[chosen, category] = True
    cover_empty_images(positive, order, rng)
    return positive


def cover_empty_images(positive: np.ndarray, order: np.ndarray, rng: np.random.Generator) -> None:
    """Give every image a positive category, moving one from a richer image where there is any.

    A move keeps the budgets as they are; when all images are down to one category, the most
    frequent third takes up the rest and grows.
    """
    frequent = order[: max(1, len(order) // 3)]
    for image in np.flatnonzero(~positive.any(1)):
        load = positive.sum(1)
        for category in rng.permutation(frequent):
            donors = np.flatnonzero(positive[:, category] & (load > 1))
            if len(donors):
                positive[rng.choice(donors), category] = False
                break
        else:
            category = rng.choice(frequent)
        positive[image, category] = True


def assign_hidden(
    positive: np.ndarray, targets: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Where categories occur at all: the positives and, elsewhere, unannotated occurrences."""
    num_images, num_categories = positive.shape
    present = positive.copy()
    bias = uneven(num_images, rng)
    for category in np.argsort(-targets, kind="stable"):
        load = present.sum(1)
        more = int(targets[category] - present[:, category].sum())
        if more > 0:
            banned = present[:, category] | (load >= most_categories(num_categories))
            chosen = draw_images(load + bias, banned, more, rng)
            present[chosen, category] = True
    return present


def assign_negatives(
    present: np.ndarray, budgets: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Where categories are verified absent: in proportion to the budgets, some in every image."""
    num_images, num_categories = present.shape
    negative = np.zeros_like(present)
    bias = uneven(num_images, rng)
    share = NEGATIVES_PER_IMAGE * num_images / budgets.sum()
    for category in np.argsort(-budgets, kind="stable"):
        count = max(1, round(share * budgets[category]))
        chosen = draw_images(negative.sum(1) + bias, present[:, category], count, rng)
        negative[chosen, category] = True
    for image in np.flatnonzero(negative.sum(1) < MIN_NEGATIVES):
        absent = np.flatnonzero(~present[image] & ~negative[image])
        lacking = min(MIN_NEGATIVES - int(negative[image].sum()), len(absent))
        negative[image, rng.choice(absent, lacking, replace=False)] = True
    return negative


def deal_objects(
    positive: np.ndarray, present: np.ndarray, options: Options, rng: np.random.Generator
) -> list[ImagePlan]:
    """Turn the matrices into objects, some pairs with two, some of these not exhaustive."""
    repeated = present & (rng.random(present.shape) < REPEAT_SHARE)
    partial = np.zeros_like(present)
    if options.annotate == "federated":
        pairs = np.argwhere(positive)
        count = max(1, round(NOT_EXHAUSTIVE_SHARE * len(pairs)))
        partial[tuple(pairs[rng.choice(len(pairs), count, replace=False)].T)] = True
    room = MAX_OBJECTS - present.sum(1)
    partial &= partial.cumsum(1) <= room[:, None]  # each takes a second, unannotated instance
    room -= partial.sum(1)
    plans = []
    for image, spare in enumerate(room.tolist()):
        plan = ImagePlan(not_exhaustive=np.flatnonzero(partial[image]).tolist())
        for category in np.flatnonzero(present[image]).tolist():
            plan.objects.append(PlannedObject(category, bool(positive[image, category])))
            if partial[image, category]:
                plan.objects.append(PlannedObject(category, False))
            elif repeated[image, category] and spare > 0:
                plan.objects.append(PlannedObject(category, bool(positive[image, category])))
                spare -= 1
        plans.append(plan)
    return plans


def plan_train(options: Options) -> list[ImagePlan]:
    rng = rng_for(options.seed, 1)
    budgets = category_budgets(options)
    positive = assign_positives(budgets, options.train_images, rng)
    if options.annotate == "all":
        present, negative = positive, ~positive
    else:
        targets = occurrence_targets(positive.sum(0), options)
        present = assign_hidden(positive, targets, rng)
        negative = assign_negatives(present, budgets, rng)
    plans = deal_objects(positive, present, options, rng)
    for plan, row in zip(plans, negative, strict=True):
        plan.negatives = np.flatnonzero(row).tolist()
    return plans


def val_object_counts(options: Options) -> np.ndarray:
    """Objects of each val image: --objects-per-image on average, give or take two."""
    num, mean = options.val_images, options.objects_per_image
    base = np.full(num, math.floor(mean))
    base[: round((mean - math.floor(mean)) * num)] += 1
    rng = rng_for(options.seed, 2)
    rng.shuffle(base)
    spread = rng.integers(0, 3, num // 2)  # added to one image, taken from another
    base[: num // 2] += spread
    base[num // 2 : num // 2 * 2] -= spread
    return np.clip(base, 1, MAX_OBJECTS)


def check_val(options: Options) -> None:
    """Refuse a val split with too few objects for --val-min-instances."""
    total = int(val_object_counts(options).sum())
    need = options.num_categories * options.val_min_instances
    if total // options.num_categories >= options.val_min_instances:
        return
    enough = math.ceil(1.02 * need / options.objects_per_image)
    raise UserError(
        f"--val-min-instances {options.val_min_instances} of {options.num_categories} categories "
        f"takes {need} objects, but --val-images {options.val_images} hold only about {total}; "
        f"give --val-images {enough} or more, or a lower --val-min-instances"
    )


def plan_val(options: Options) -> list[ImagePlan]:
    """Balanced: objects are dealt from shuffled decks that hold every category once."""
    counts = val_object_counts(options)
    rng = rng_for(options.seed, 3)
    decks = math.ceil(counts.sum() / options.num_categories)
    stream = np.concatenate([rng.permutation(options.num_categories) for _ in range(decks)])
    every = set(range(options.num_categories))
    plans = []
    for stop, count in zip(np.cumsum(counts), counts, strict=True):
        plan = ImagePlan([PlannedObject(int(c)) for c in stream[stop - count : stop]])
        plan.negatives = sorted(every - plan.contains)
        plans.append(plan)
    return plans


def count_annotations(plans: Iterable[ImagePlan], num: int) -> tuple[np.ndarray, np.ndarray]:
    """Annotated images and annotated instances of each category."""
    images, instances = np.zeros(num, int), np.zeros(num, int)
    for plan in plans:
        images[list(plan.positives)] += 1
        np.add.at(instances, [o.category for o in plan.objects if o.annotated], 1)
    return images, instances


def make_plan(options: Options) -> Plan:
    """Decide the whole data set but for the looks; nothing is drawn or written yet."""
    check_density(options)
    check_val(options)
    train = plan_train(options)
    counts = count_annotations(train, options.num_categories)
    return Plan(options.num_categories, train, plan_val(options), *counts)


# --------------------------------------------------------------------------------------------
# Drawing
# --------------------------------------------------------------------------------------------


@functools.cache
def font_directory() -> Path:
    import matplotlib  # for its fonts alone, and slow to import

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@functools.cache
def fonts_of(character: str) -> tuple[str, ...]:
    """The fonts that have the character."""
    from matplotlib import ft2font

    found = tuple(
        name
        for name in FONTS
        if ft2font.FT2Font(str(font_directory() / f"{name}.ttf")).get_char_index(ord(character))
    )
    if not found:
        raise UserError(f"no font of matplotlib has the character {character!r}")
    return found


@functools.lru_cache(maxsize=4096)
def master_glyph(character: str, font_name: str) -> np.ndarray:
    """The character in grey levels, large, cropped to its ink."""
    font = ImageFont.truetype(str(font_directory() / f"{font_name}.ttf"), GLYPH_PIXELS)
    canvas = Image.new("L", (4 * GLYPH_PIXELS, 4 * GLYPH_PIXELS))
    # Hairlines of a small glyph would fall between the pixels: thicken thin fonts a little.
    stroke = 2 if "Bold" in font_name else 4
    ImageDraw.Draw(canvas).text(
        (GLYPH_PIXELS, GLYPH_PIXELS), character, fill=255, font=font, stroke_width=stroke
    )
    return np.asarray(canvas.crop(canvas.getbbox()))


def turned_glyph(character: str, extent: float, rng: np.random.Generator) -> np.ndarray:
    """The character in a random font at about ``extent`` pixels, turned, stretched a little."""
    fonts = fonts_of(character)
    glyph = master_glyph(character, fonts[int(rng.integers(len(fonts)))])
    height, width = glyph.shape
    # Between the longer side and the geometric mean, so that flat glyphs do not come out tiny.
    scale = extent / (0.5 * max(height, width) + 0.5 * math.sqrt(height * width))
    stretch = math.exp(rng.uniform(-0.12, 0.12))
    size = (max(3, round(width * scale * stretch)), max(3, round(height * scale / stretch)))
    small = cv2.resize(glyph, size, interpolation=cv2.INTER_AREA)
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    side = math.ceil(math.hypot(*size)) + 2
    turn = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), angle, 1.0)
    turn[:, 2] += (side / 2 - size[0] / 2, side / 2 - size[1] / 2)
    alpha = cv2.warpAffine(small, turn, (side, side), flags=cv2.INTER_LINEAR)
    x, y, w, h = cv2.boundingRect((alpha >= 16).astype(np.uint8))
    return alpha[y : y + h, x : x + w]


def outer_contours(mask: np.ndarray, mode: int = cv2.RETR_EXTERNAL) -> list[np.ndarray]:
    return list(cv2.findContours(mask, mode, cv2.CHAIN_APPROX_SIMPLE)[-2])


def filled(mask: np.ndarray) -> np.ndarray:
    """The mask without holes, for polygons of LVIS cannot have any; specks dropped."""
    region = np.zeros_like(mask)
    parts = [c for c in outer_contours(mask) if cv2.contourArea(c) >= 2]
    return cv2.drawContours(region, parts, -1, 1, cv2.FILLED)


def has_hole(mask: np.ndarray) -> bool:
    return len(outer_contours(mask, cv2.RETR_CCOMP)) != len(outer_contours(mask))


def polygons_of(mask: np.ndarray) -> list[list[float]]:
    """The outlines of a mask, flat x, y lists as LVIS has them.

    The contours of the doubled mask run a quarter of a pixel inside the pixels' outer edges;
    those of the mask itself would run through the pixels' centres and lose half a pixel.
    """
    doubled = np.repeat(np.repeat(mask, 2, 0), 2, 1)
    polygons = []
    for contour in outer_contours(doubled):
        points = cv2.approxPolyDP(contour, 0.7, True)[:, 0, :]
        if len(points) >= 3 and cv2.contourArea(contour) >= 8:
            polygons.append(((points + 0.5) / 2).round(2).ravel().tolist())
    return polygons


def polygon_area(polygons: list[list[float]], height: int, width: int) -> float:
    """Pixels of the rasterised polygons, as pycocotools counts."""
    return float(mask_utils.area(mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))))


def polygon_box(polygons: list[list[float]]) -> list[float]:
    """The bounding box x, y, width, height."""
    points = np.concatenate([np.asarray(p).reshape(-1, 2) for p in polygons])
    low, high = points.min(0), points.max(0)
    return [round(float(v), 2) for v in (*low, *(high - low))]


def random_texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A ground of noise at several scales, gradient, stripes, blobs and distractor strokes."""
    image = np.empty((height, width, 3), np.float32)
    image[:] = rng.uniform(50, 205, 3)
    for cell, strength in ((3, 7), (12, 14), (40, 22)):
        shape = (height // cell + 2, width // cell + 2, 3)
        noise = rng.normal(0, strength, shape).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.04, 0.3) * max(height, width)
    along = (math.cos(angle) * xs + math.sin(angle) * ys)[..., None]
    image += rng.normal(0, 30, 3).astype(np.float32) * (along / max(height, width) - 0.5)
    wave = np.sin(along * np.float32(2 * math.pi / period))
    image += rng.normal(0, 12, 3).astype(np.float32) * wave
    canvas = np.clip(image, 0, 255).astype(np.uint8)
    draw_distractors(canvas, rng)
    return canvas


def draw_distractors(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Blobs and strokes that are no object, in colours near the ground's."""
    height, width = canvas.shape[:2]
    side = min(height, width)
    ground = canvas.mean((0, 1))
    for _ in range(int(rng.integers(2, 6))):
        colour = np.clip(ground + rng.normal(0, 30, 3), 0, 255).tolist()
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = tuple(int(v) for v in rng.uniform(0.03, 0.16, 2) * side)
        cv2.ellipse(canvas, centre, axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
    for _ in range(int(rng.integers(1, 5))):
        colour = np.clip(ground + rng.normal(0, 50, 3), 0, 255).tolist()
        start = rng.uniform(0, 1, 2) * (width, height)
        steps = rng.normal(0, 0.12 * side, (int(rng.integers(2, 4)), 2)).cumsum(0)
        points = np.vstack([start, start + steps]).astype(np.int32)
        thickness = max(1, round(side * rng.uniform(0.006, 0.018)))
        cv2.polylines(canvas, [points], False, colour, thickness, cv2.LINE_AA)


def contrasting_colour(ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Any colour that can be told from the ground; it knows nothing of the category."""
    grey = np.array([0.114, 0.587, 0.299])
    while True:
        colour = rng.uniform(0, 255, 3)
        if abs(float((colour - ground) @ grey)) >= 55 and np.abs(colour - ground).sum() >= 150:
            return colour


@dataclass
class Placed:
    """A drawn object: its alpha patch, where, and the region still visible."""

    order: int
    alpha: np.ndarray
    top: int
    left: int
    region: np.ndarray
    visible: np.ndarray


def try_place(
    order: int, alpha: np.ndarray, placed: list[Placed], size: int, rng: np.random.Generator
) -> bool:
    """Put a glyph somewhere it hides little of those before it; False if that fails."""
    height, width = alpha.shape
    if height >= size or width >= size:
        return False
    patch = filled((alpha >= 110).astype(np.uint8))
    if patch.sum() < 0.0012 * size * size:
        return False
    for _ in range(12):
        top, left = int(rng.integers(size - height)), int(rng.integers(size - width))
        region = np.zeros((size, size), np.uint8)
        region[top : top + height, left : left + width] = patch
        left_over = [p.visible & ~region & 1 for p in placed]
        if all(
            new is None or remains_visible(p, new) for p, new in zip(placed, left_over, strict=True)
        ):
            for before, now in zip(placed, left_over, strict=True):
                before.visible = now
            placed.append(Placed(order, alpha, top, left, region, region.copy()))
            return True
    return False


def remains_visible(before: Placed, now: np.ndarray) -> bool:
    if np.array_equal(before.visible, now):
        return True
    return now.sum() >= MIN_VISIBLE * before.region.sum() and not has_hole(now)


def place_all(characters: Sequence[str], size: int, rng: np.random.Generator) -> list[Placed]:
    """Place all glyphs; start again with smaller ones when they do not fit."""
    largest = GLYPH_MAX
    for _ in range(60):
        placed: list[Placed] = []
        for order in rng.permutation(len(characters)).tolist():
            for _ in range(4):
                extent = size * math.exp(rng.uniform(math.log(GLYPH_MIN), math.log(largest)))
                if try_place(
                    order, turned_glyph(characters[order], extent, rng), placed, size, rng
                ):
                    break
            else:
                break
        if len(placed) == len(characters):
            return placed
        largest = max(1.2 * GLYPH_MIN, 0.93 * largest)
    raise UserError(
        f"{len(characters)} objects do not fit on an image of --size {size}: give "
        f"fewer --objects-per-image"
    )


def blend(canvas: np.ndarray, item: Placed, rng: np.random.Generator) -> None:
    """Draw one glyph, its colour uneven a little."""
    height, width = item.alpha.shape
    window = canvas[item.top : item.top + height, item.left : item.left + width]
    colour = contrasting_colour(window.mean((0, 1)), rng)
    paint = colour + rng.normal(0, 6, (height, width, 1))
    alpha = item.alpha[..., None] / 255.0
    window[:] = np.clip(window * (1 - alpha) + paint * alpha, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class RenderTask:
    """One image for a worker."""

    path: str
    characters: tuple[str, ...]
    size: int
    seed: int
    split: int
    index: int


Outline = tuple[list[list[float]], float, list[float]]  # polygons, area, bbox


def render_glyphs(task: RenderTask) -> list[Outline]:
    """Draw and write one image; the outlines of its objects, in the order of the task."""
    rng = rng_for(task.seed, 4, task.split, task.index)
    canvas = random_texture(task.size, task.size, rng)
    placed = place_all(task.characters, task.size, rng)
    for item in placed:
        blend(canvas, item, rng)
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.6))
    write_jpeg(task.path, canvas)
    outlines: list[Outline] = []
    for item in sorted(placed, key=lambda p: p.order):
        polygons = polygons_of(item.visible)
        area = polygon_area(polygons, task.size, task.size)
        outlines.append((polygons, area, polygon_box(polygons)))
    return outlines


def write_jpeg(path: str, image: np.ndarray) -> None:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise RuntimeError(f"cannot encode {path}")
    Path(path).write_bytes(data.tobytes())


# --------------------------------------------------------------------------------------------
# Workers and progress
# --------------------------------------------------------------------------------------------


def start_worker() -> None:
    """Leave interrupts to the parent, and the other cores to the other workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(1)


@contextlib.contextmanager
def worker_map(workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """An order-keeping map over ``workers`` processes (or in this one).

    The processes are spawned: OpenCV deadlocks in a forked one if its threads ran before the
    fork. A spawned one imports this file by its name, so under any other name (loaded by path)
    the work stays in this process, with the same result.
    """
    path = Path(__file__).resolve()
    if workers <= 1 or __name__ not in ("__main__", path.stem):
        yield lambda function, tasks: map(function, tasks)
        return
    sys.path.insert(0, str(path.parent))  # spawned processes take over the path
    try:
        pool = multiprocessing.get_context("spawn").Pool(workers, start_worker)
    finally:
        sys.path.remove(str(path.parent))
    with pool:
        yield functools.partial(pool.imap, chunksize=8)


class Progress:
    """A rich progress bar on a terminal, otherwise a line every ten seconds."""

    def __init__(self, title: str, total: int, quiet: bool = False) -> None:
        self.title, self.total, self.done = title, total, 0
        self.quiet = quiet
        self.bar: Any = None
        self.started = self.said = time.monotonic()

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                from rich import progress
                from rich.console import Console

                self.bar = progress.Progress(
                    *progress.Progress.get_default_columns(),
                    progress.MofNCompleteColumn(),
                    console=Console(stderr=True),
                )
                self.bar.start()
                self.task = self.bar.add_task(self.title, total=self.total)
        return self

    def advance(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done)
        elif not self.quiet and now - self.said >= 10:
            self.said = now
            left = (now - self.started) * (self.total - self.done) / self.done
            print(
                f"{self.title}: {self.done} of {self.total}, about {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


# --------------------------------------------------------------------------------------------
# LVIS records
# --------------------------------------------------------------------------------------------


def character_name(character: str) -> str:
    """A plain name such as ``capital_a``, ``digit_two`` or ``greek_small_delta``."""
    name = unicodedata.name(character).lower().replace("latin ", "").replace(" letter", "")
    return name.replace(" ", "_").replace("-", "_")


def category_records(
    names: Sequence[str],
    definitions: Sequence[str],
    image_count: np.ndarray,
    instance_count: np.ndarray,
) -> list[dict[str, Any]]:
    letters = frequency_letters(image_count)
    return [
        {
            "id": index + 1,
            "name": name,
            "synset": f"{name}.n.01",
            "synonyms": [name],
            "def": definitions[index],
            "frequency": letters[index],
            "image_count": int(image_count[index]),
            "instance_count": int(instance_count[index]),
        }
        for index, name in enumerate(names)
    ]


def image_path(split: str, index: int) -> str:
    """Relative to the data set; ids count from 1."""
    return f"{split}2017/{index + 1:012d}.jpg"


def image_record(
    split: str,
    index: int,
    width: int,
    height: int,
    negatives: Iterable[int],
    not_exhaustive: Iterable[int],
) -> dict[str, Any]:
    return {
        "id": index + 1,
        "width": width,
        "height": height,
        "coco_url": f"http://images.cocodataset.org/{image_path(split, index)}",
        "flickr_url": "",
        "license": 1,
        "date_captured": "2026-01-01 00:00:00",
        "neg_category_ids": [c + 1 for c in negatives],
        "not_exhaustive_category_ids": [c + 1 for c in not_exhaustive],
    }


def write_glyph_split(
    root: Path,
    split: str,
    plan: Plan,
    options: Options,
    mapper: Callable[..., Iterable[Any]],
    quiet: bool,
) -> dict[str, int]:
    """Render one split and write its annotation file."""
    plans = plan.split(split)
    (root / f"{split}2017").mkdir()
    tasks = [
        RenderTask(
            str(root / image_path(split, index)),
            tuple(CHARACTERS[o.category] for o in image.objects),
            options.size,
            options.seed,
            SPLITS.index(split),
            index,
        )
        for index, image in enumerate(plans)
    ]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with Progress(f"{split} images", len(tasks), quiet) as progress:
        for index, outlines in enumerate(mapper(render_glyphs, tasks)):
            image = plans[index]
            images.append(
                image_record(
                    split, index, options.size, options.size, image.negatives, image.not_exhaustive
                )
            )
            for planned, (polygons, area, box) in zip(image.objects, outlines, strict=True):
                if planned.annotated:
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": index + 1,
                            "category_id": planned.category + 1,
                            "area": area,
                            "bbox": box,
                            "segmentation": polygons,
                        }
                    )
            progress.advance()
    characters = CHARACTERS[: options.num_categories]
    categories = category_records(
        [character_name(c) for c in characters],
        [f"the character {c} in any font and colour" for c in characters],
        plan.image_count,
        plan.instance_count,
    )
    document = {
        "info": LVIS_INFO,
        "licenses": LICENSES,
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    (root / "annotations" / f"lvis_v1_{split}.json").write_bytes(orjson.dumps(document))
    return {"images": len(images), "annotations": len(annotations)}


# --------------------------------------------------------------------------------------------
# --like-lvis
# --------------------------------------------------------------------------------------------


@dataclass
class LvisPlan:
    """Counts as LVIS v1 has them: one entry for each annotated (image, category) pair."""

    num_images: int
    image: np.ndarray  # sorted
    category: np.ndarray
    instances: np.ndarray
    not_exhaustive: np.ndarray
    negative_image: np.ndarray  # sorted
    negative_category: np.ndarray

    def counts(self, num_categories: int) -> tuple[np.ndarray, np.ndarray]:
        instances = np.bincount(self.category, self.instances, num_categories)
        return np.bincount(self.category, minlength=num_categories), instances.astype(int)


def lvis_counts() -> tuple[np.ndarray, np.ndarray]:
    """image_count and instance_count of the 1203 categories, from the package's own file."""
    path = (
        Path(__file__).resolve().parents[2]
        / "mmdet_droploss"
        / "datasets"
        / "lvis_counts"
        / "lvis_v1.json"
    )
    if not path.is_file():
        raise UserError(f"--like-lvis takes the counts of LVIS v1 from {path}, which is missing")
    data = json.loads(path.read_text())
    return np.asarray(data["image_count"]), np.asarray(data["instance_count"])


def lvis_names() -> list[str]:
    try:
        from mmdet.datasets import LVISV1Dataset
    except ImportError as error:
        raise UserError(
            f"--like-lvis takes the category names from mmdet, which cannot be imported: {error}"
        ) from error
    return list(LVISV1Dataset.METAINFO["classes"])


def scaled_counts(num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """LVIS's counts in proportion to the images, no category without an image."""
    images, instances = lvis_counts()
    factor = num_images / LVIS_IMAGES
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


def make_lvis_plan(num_images: int, seed: int, split: str) -> LvisPlan:
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
    negative = lvis_negatives(image, category, num_images, image_count, rng)
    not_exhaustive = rng.random(len(image)) < NOT_EXHAUSTIVE_SHARE
    return LvisPlan(num_images, image, category, instances, not_exhaustive, *negative)


def lvis_negatives(
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


def lvis_image_sizes(num_images: int, seed: int, split: str) -> np.ndarray:
    """(width, height) of each image."""
    table = np.asarray(LVIS_SIZES)
    rng = rng_for(seed, 6, SPLITS.index(split))
    pick = rng.choice(len(table), num_images, p=table[:, 2] / table[:, 2].sum())
    return table[pick, :2]


@dataclass
class Polygons:
    """Star-like polygons, one an object, their vertices one after the other."""

    points: np.ndarray  # (vertices, 2)
    start: np.ndarray
    stop: np.ndarray
    area: np.ndarray
    box: np.ndarray

    def flat(self, index: int) -> np.ndarray:
        return self.points[self.start[index] : self.stop[index]].reshape(-1)


def star_polygons(sizes: np.ndarray, rng: np.random.Generator) -> Polygons:
    """One polygon for each (width, height) of ``sizes``, wholly inside it."""
    num = len(sizes)
    vertices = np.clip(rng.lognormal(3.6, 0.6, num), 8, 160).astype(int)
    stop = np.cumsum(vertices)
    start = stop - vertices
    owner = np.repeat(np.arange(num), vertices)
    step = np.arange(stop[-1]) - start[owner]
    angle = 2 * np.pi * (step + rng.uniform(0, 0.8, len(owner))) / vertices[owner]
    phase = rng.uniform(0, 2 * np.pi, (num, 2))[owner]
    radius = (
        0.78
        + 0.12 * np.sin(2 * angle + phase[:, 0])
        + 0.06 * np.sin(5 * angle + phase[:, 1])
        + rng.uniform(-0.04, 0.04, len(owner))
    )
    extent = np.exp(rng.uniform(np.log(0.012), np.log(0.45), (num, 1)))
    half = np.maximum(sizes * extent * np.exp(rng.normal(0, 0.25, (num, 2))), 4)
    half = np.minimum(half, sizes * 0.48)
    centre = half + rng.random((num, 2)) * (sizes - 2 * half)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
    points = (centre[owner] + half[owner] * circle).round(2)
    low, high = np.minimum.reduceat(points, start), np.maximum.reduceat(points, start)
    after = np.arange(1, len(owner) + 1)
    after[stop - 1] = start
    cross = points[:, 0] * points[after, 1] - points[after, 0] * points[:, 1]
    area = (np.abs(np.add.reduceat(cross, start)) / 2).round(2)
    return Polygons(points, start, stop, area, np.hstack([low, high - low]).round(2))


@dataclass(frozen=True)
class ShapesTask:
    """One --like-lvis image for a worker."""

    path: str
    width: int
    height: int
    polygons: tuple[np.ndarray, ...]
    seed: int
    split: int
    index: int


def render_shapes(task: ShapesTask) -> None:
    """Draw and write one image of plain coloured shapes."""
    rng = rng_for(task.seed, 7, task.split, task.index)
    canvas = random_texture(task.height, task.width, rng)
    for points in task.polygons:
        colour = rng.uniform(0, 255, 3).tolist()
        cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], colour, cv2.LINE_AA)
    write_jpeg(task.path, canvas)


class JsonStream:
    """Writes one JSON object key by key, lists in pieces, so that no file is held in memory."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.separator = b"{"

    def key(self, name: str) -> None:
        self.file.write(self.separator + orjson.dumps(name) + b":")
        self.separator = b","

    def value(self, name: str, value: Any) -> None:
        self.key(name)
        self.file.write(orjson.dumps(value))

    def items(self, name: str, chunks: Iterable[list[Any]]) -> None:
        self.key(name)
        separator = b"["
        for chunk in chunks:
            if chunk:
                text = orjson.dumps(chunk, option=orjson.OPT_SERIALIZE_NUMPY)
                self.file.write(separator)
                self.file.write(memoryview(text)[1:-1])
                separator = b","
        self.file.write(b"[]" if separator == b"[" else b"]")

    def close(self) -> None:
        self.file.write(b"}")
        self.file.close()


def lvis_image_chunks(plan: LvisPlan, split: str, sizes: np.ndarray) -> Iterator[list[Any]]:
    negative_at = np.searchsorted(plan.negative_image, np.arange(plan.num_images + 1))
    pair_at = np.searchsorted(plan.image, np.arange(plan.num_images + 1))
    for first in range(0, plan.num_images, LVIS_CHUNK):
        chunk = []
        for index in range(first, min(first + LVIS_CHUNK, plan.num_images)):
            pairs = slice(pair_at[index], pair_at[index + 1])
            partial = plan.category[pairs][plan.not_exhaustive[pairs]]
            negative = plan.negative_category[negative_at[index] : negative_at[index + 1]]
            width, height = sizes[index].tolist()
            chunk.append(
                image_record(split, index, width, height, negative.tolist(), partial.tolist())
            )
        yield chunk


def lvis_annotation_chunks(
    plan: LvisPlan,
    split: str,
    sizes: np.ndarray,
    seed: int,
    progress: Progress,
    draw: Callable[[list[int], np.ndarray, Polygons], None],
) -> Iterator[list[Any]]:
    """The annotations of LVIS_CHUNK images at a time; ``draw`` is called with each chunk."""
    next_id = 1
    for number, first in enumerate(range(0, plan.num_images, LVIS_CHUNK)):
        last = min(first + LVIS_CHUNK, plan.num_images)
        pairs = slice(*np.searchsorted(plan.image, [first, last]))
        owners = np.repeat(plan.image[pairs], plan.instances[pairs])
        labels = np.repeat(plan.category[pairs], plan.instances[pairs])
        chunk: list[dict[str, Any]] = []
        if len(owners):
            rng = rng_for(seed, 8, SPLITS.index(split), number)
            shapes = star_polygons(sizes[owners], rng)
            rows = zip(
                (owners + 1).tolist(),
                (labels + 1).tolist(),
                shapes.area.tolist(),
                shapes.box.tolist(),
                strict=True,
            )
            chunk = [
                {
                    "id": next_id + k,
                    "image_id": image,
                    "category_id": category,
                    "area": area,
                    "bbox": box,
                    "segmentation": [shapes.flat(k)],
                }
                for k, (image, category, area, box) in enumerate(rows)
            ]
            draw(list(range(first, last)), owners, shapes)
        next_id += len(chunk)
        yield chunk
        progress.advance(last - first)


def write_lvis_split(
    root: Path,
    split: str,
    plan: LvisPlan,
    options: Options,
    categories: list[dict[str, Any]],
    mapper: Callable[..., Iterable[Any]],
    quiet: bool,
) -> dict[str, int]:
    """Write one --like-lvis split, its images too if they are wanted."""
    sizes = lvis_image_sizes(plan.num_images, options.seed, split)

    def draw(indices: list[int], owners: np.ndarray, shapes: Polygons) -> None:
        if not options.images:
            return
        at = np.searchsorted(owners, [*indices, indices[-1] + 1])
        tasks = [
            ShapesTask(
                str(root / image_path(split, index)),
                *sizes[index].tolist(),
                tuple(
                    shapes.points[shapes.start[k] : shapes.stop[k]] for k in range(at[n], at[n + 1])
                ),
                options.seed,
                SPLITS.index(split),
                index,
            )
            for n, index in enumerate(indices)
        ]
        for _ in mapper(render_shapes, tasks):
            pass

    if options.images:
        (root / f"{split}2017").mkdir()
    stream = JsonStream(root / "annotations" / f"lvis_v1_{split}.json")
    with contextlib.closing(stream), Progress(f"{split} images", plan.num_images, quiet) as bar:
        stream.value("info", LVIS_INFO)
        stream.value("licenses", LICENSES)
        stream.items("images", lvis_image_chunks(plan, split, sizes))
        stream.items(
            "annotations", lvis_annotation_chunks(plan, split, sizes, options.seed, bar, draw)
        )
        stream.value("categories", categories)
    return {"images": plan.num_images, "annotations": int(plan.instances.sum())}


# --------------------------------------------------------------------------------------------
# Building the directory
# --------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What was made: the plan holds the full truth, ``totals`` what the files hold."""

    plan: Plan | dict[str, LvisPlan]
    totals: dict[str, dict[str, int]]
    table: str


def build_glyphs(root: Path, options: Options, workers: int, quiet: bool) -> Result:
    plan = make_plan(options)
    for character in CHARACTERS[: options.num_categories]:
        fonts_of(character)  # fail before anything is drawn
    names = [character_name(c) for c in CHARACTERS[: options.num_categories]]
    (root / "annotations" / "classes.txt").write_text("".join(f"{n}\n" for n in names))
    with worker_map(workers) as mapper:
        totals = {s: write_glyph_split(root, s, plan, options, mapper, quiet) for s in SPLITS}
    return Result(plan, totals, glyph_table(plan))


def build_like_lvis(root: Path, options: Options, workers: int, quiet: bool) -> Result:
    names = lvis_names()
    plans = {s: make_lvis_plan(options.num_images(s), options.seed, s) for s in SPLITS}
    images, instances = plans["train"].counts(len(names))
    # The letters are LVIS's own: scaled counts would make most categories rare.
    letters = frequency_letters(lvis_counts()[0])
    categories = category_records(names, [""] * len(names), images, instances)
    for record, letter in zip(categories, letters, strict=True):
        record["frequency"] = letter
        record["def"] = record["name"].replace("_", " ")
    (root / "annotations" / "classes.txt").write_text("".join(f"{n}\n" for n in names))
    with worker_map(workers if options.images else 1) as mapper:
        totals = {
            s: write_lvis_split(root, s, plans[s], options, categories, mapper, quiet)
            for s in SPLITS
        }
    return Result(plans, totals, lvis_table(plans, letters))


def build(root: Path, options: Options, workers: int = 1, quiet: bool = True) -> Result:
    """Write the data set into ``root``, an existing empty directory."""
    (root / "annotations").mkdir()
    maker = build_like_lvis if options.like_lvis else build_glyphs
    result = maker(root, options, workers, quiet)
    (root / STAMP_NAME).write_text(json.dumps(options.stamp(), indent=2) + "\n")
    return result


def read_stamp(directory: Path) -> dict[str, Any] | None:
    try:
        stamp = json.loads((directory / STAMP_NAME).read_text())
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def check_target(target: Path, options: Options, overwrite: bool) -> bool:
    """True if the target already is the requested data set; raises if it must not be touched."""
    if not target.exists():
        return False
    if not target.is_dir():
        raise UserError(f"OUT_DIR {target} is a file; give a directory")
    if not any(target.iterdir()):
        return False
    stamp = read_stamp(target)
    if stamp is None:
        # Deleting what another program wrote (the real LVIS, say) is never what one means.
        raise UserError(
            f"OUT_DIR {target} is not empty and was not written by this program (no "
            f"{STAMP_NAME} in it): give another directory, or remove it yourself; --overwrite "
            f"replaces only what this program wrote"
        )
    wanted = options.stamp()
    if stamp == wanted:
        return not overwrite
    if not overwrite:
        keys = [k for k in {**wanted, **stamp} if stamp.get(k) != wanted.get(k)]
        changes = ", ".join(f"{k} {stamp.get(k)} there, {wanted.get(k)} asked" for k in keys)
        raise UserError(
            f"OUT_DIR {target} holds a data set made with other options ({changes}): "
            f"give --overwrite to replace it, or another directory"
        )
    return False


def move_into_place(made: Path, target: Path) -> None:
    """Rename ``made`` to ``target``; an old data set goes only once the new one is complete."""
    old: Path | None = None
    if target.exists() and any(target.iterdir()):
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
        os.replace(target, old)
    try:
        os.replace(made, target)
    except OSError:
        if old is not None:
            os.replace(old, target)
        raise
    if old is not None:
        shutil.rmtree(old)


def generate(
    target: Path, options: Options, workers: int = 1, overwrite: bool = False, quiet: bool = True
) -> Result | None:
    """Make the data set at ``target``, wholly or not at all; None if it is there already."""
    target = Path(target).resolve()
    if check_target(target, options, overwrite):
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    try:
        made.chmod(0o777 & ~current_umask())  # mkdtemp makes it private
        result = build(made, options, workers, quiet)
        move_into_place(made, target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return result


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --------------------------------------------------------------------------------------------
# Summary
# --------------------------------------------------------------------------------------------


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = [[str(c) for c in row] for row in (header, *rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    lines = [
        "  ".join(
            c.rjust(w) if k else c.ljust(w)
            for k, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def glyph_table(plan: Plan) -> str:
    """Per group: categories, annotated images and instances, instances left unannotated."""
    num = plan.num_categories
    letters = frequency_letters(plan.image_count)
    hidden = np.bincount(
        [o.category for p in plan.train for o in p.objects if not o.annotated], minlength=num
    )
    val = count_annotations(plan.val, num)[1]
    rows: list[list[object]] = []
    for group in (*GROUPS, "all"):
        chosen = [k for k in range(num) if group == "all" or letters[k] == group[0]]
        low, high = (
            (plan.image_count[chosen].min(), plan.image_count[chosen].max()) if (chosen) else (0, 0)
        )
        rows.append(
            [
                group,
                len(chosen),
                f"{low}-{high}",
                plan.instance_count[chosen].sum(),
                hidden[chosen].sum(),
                val[chosen].sum(),
            ]
        )
    return format_table(
        (
            "group",
            "categories",
            "train images each",
            "train instances",
            "unannotated",
            "val instances",
        ),
        rows,
    )


def lvis_table(plans: dict[str, LvisPlan], letters: list[str]) -> str:
    counts = {s: p.counts(len(letters)) for s, p in plans.items()}
    rows: list[list[object]] = []
    for group in (*GROUPS, "all"):
        chosen = [k for k, x in enumerate(letters) if group == "all" or x == group[0]]
        images, instances = (c[chosen] for c in counts["train"])
        rows.append(
            [
                group,
                len(chosen),
                f"{images.min()}-{images.max()}",
                instances.sum(),
                counts["val"][1][chosen].sum(),
            ]
        )
    return format_table(
        ("group", "categories", "train images each", "train instances", "val instances"), rows
    )


# --------------------------------------------------------------------------------------------
# Command line
# --------------------------------------------------------------------------------------------

DESCRIPTION = f"""\
Write a small long-tailed instance segmentation data set in exact LVIS v1 format, which
MMDetection's LVISV1Dataset and lvis-api load unchanged:

  OUT_DIR/annotations/lvis_v1_train.json, lvis_v1_val.json
  OUT_DIR/annotations/classes.txt     category names, one a line, in label order
  OUT_DIR/train2017/000000000001.jpg, ...  OUT_DIR/val2017/...
  OUT_DIR/{STAMP_NAME}             the options it was made with

The categories are characters in several fonts, sizes, angles and colours on textured ground: it
takes shape to tell them apart. A third of them each is rare (1-10 train images), common
(11-100) and frequent (more). As in LVIS the train annotation is federated: every category
really occurs in many images, but is annotated only in some; elsewhere its objects stand there
unannotated. Val is annotated exhaustively and balanced over the categories.

The same options give the same bytes on one machine, whatever --workers. OUT_DIR appears only
when complete. If it holds the requested data set already, that is said and nothing is done.
"""

EPILOG = """\
examples:
  # the default: 60 categories, 2000 train and 400 val images of 160 x 160
  make_mini_lvis.py data/mini_lvis

  # the same, but every object annotated: rarity by occurrence alone
  make_mini_lvis.py data/mini_lvis_all --annotate all

  # a quick one for a smoke test
  make_mini_lvis.py /tmp/tiny --train-images 200 --val-images 40 --num-categories 9

  # the 1203 categories and the exact counts of LVIS v1, annotations only (about 1 GB)
  make_mini_lvis.py /tmp/lvis_like --like-lvis --train-images 99388 --val-images 19809 --no-images
"""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines and shows the defaults."""


def make_parser() -> argparse.ArgumentParser:
    default = Options()
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=HelpFormatter
    )
    add = parser.add_argument
    add("out_dir", metavar="OUT_DIR", type=Path, help="directory to make")
    add(
        "--train-images",
        type=int,
        default=default.train_images,
        metavar="N",
        help="number of train images",
    )
    add(
        "--val-images",
        type=int,
        default=default.val_images,
        metavar="N",
        help="number of val images",
    )
    add(
        "--num-categories",
        type=int,
        default=default.num_categories,
        metavar="C",
        help=f"number of categories (characters), {MIN_CATEGORIES} to {len(CHARACTERS)}",
    )
    add(
        "--size",
        type=int,
        default=default.size,
        metavar="PIXELS",
        help="side of the square images; the objects scale with it",
    )
    add(
        "--objects-per-image",
        type=float,
        default=default.objects_per_image,
        metavar="X",
        help="mean number of objects in an image, annotated or not (with --annotate all: in a "
        "val image; train images then hold fewer, what the counts of the categories give)",
    )
    add(
        "--annotate",
        choices=("federated", "all"),
        default=default.annotate,
        help="federated: as LVIS, a rare category occurs often but is annotated rarely; all: "
        "every object is annotated, a rare category occurs rarely",
    )
    add(
        "--val-min-instances",
        type=int,
        default=default.val_min_instances,
        metavar="N",
        help="val must have at least so many instances of every category",
    )
    add("--seed", type=int, default=default.seed, help="another seed makes another data set")
    add(
        "--like-lvis",
        action="store_true",
        help="instead of characters, the 1203 categories of LVIS v1 with its counts, scaled to "
        "--train-images (99388: exactly its counts), on images of LVIS-like sizes (--size is "
        "ignored) with plain random shapes: to test code at scale, not to train a detector. "
        "Needs mmdet",
    )
    add("--no-images", action="store_true", help="with --like-lvis: write the annotations only")
    add(
        "--workers",
        type=int,
        default=min(os.cpu_count() or 1, 4),
        metavar="N",
        help="processes that draw the images; the result is the same for any number",
    )
    add(
        "--overwrite",
        action="store_true",
        help="make it anew even if OUT_DIR holds a data set that this program wrote",
    )
    add("--quiet", action="store_true", help="no progress and no summary")
    return parser


def require(
    parser: argparse.ArgumentParser,
    option: str,
    value: float,
    low: float,
    high: float | None = None,
    why: str = "",
) -> None:
    if value < low or (high is not None and value > high) or math.isnan(value):
        allowed = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
        parser.error(f"{option}: got {value:g}, allowed is {allowed}{why}")


def options_from(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Options:
    """Check the options; argparse reports what is wrong and exits with status 2."""
    require(parser, "--workers", args.workers, 1, 256)
    require(parser, "--seed", args.seed, 0)
    require(parser, "--val-images", args.val_images, 1)
    if args.like_lvis:
        if args.annotate != "federated":
            parser.error("--annotate: got all, with --like-lvis only federated is allowed")
        require(parser, "--train-images", args.train_images, 1)
        # Options that have no say here stay at their defaults, so that the stamp matches.
        return Options(
            train_images=args.train_images,
            val_images=args.val_images,
            seed=args.seed,
            like_lvis=True,
            images=not args.no_images,
        )
    if args.no_images:
        parser.error(
            "--no-images: allowed only with --like-lvis (outlines of characters come "
            "from drawing them)"
        )
    require(
        parser,
        "--train-images",
        args.train_images,
        MIN_TRAIN_IMAGES,
        why=f" (a frequent category is annotated in over {COMMON_MAX} images)",
    )
    require(
        parser,
        "--num-categories",
        args.num_categories,
        MIN_CATEGORIES,
        len(CHARACTERS),
        why=" (as many characters can be told apart by their shape)",
    )
    require(parser, "--size", args.size, MIN_SIZE, MAX_SIZE)
    require(parser, "--objects-per-image", args.objects_per_image, 2, 9)
    require(parser, "--val-min-instances", args.val_min_instances, 0)
    return Options(
        train_images=args.train_images,
        val_images=args.val_images,
        num_categories=args.num_categories,
        size=args.size,
        seed=args.seed,
        objects_per_image=args.objects_per_image,
        val_min_instances=args.val_min_instances,
        annotate=args.annotate,
    )


def summary(target: Path, result: Result, seconds: float) -> str:
    lines = [result.table, ""]
    for split, total in result.totals.items():
        mean = total["annotations"] / total["images"]
        lines.append(
            f"{split}: {total['images']} images, {total['annotations']} annotated "
            f"instances ({mean:.2f} an image)"
        )
    return "\n".join([*lines, f"wrote {target} in {seconds:.1f} s"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    options = options_from(parser, args)
    started = time.monotonic()
    try:
        result = generate(args.out_dir, options, args.workers, args.overwrite, args.quiet)
    except UserError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("interrupted: nothing was left behind", file=sys.stderr)
        return 130
    if result is None:
        print(
            f"{args.out_dir} holds this data set already: nothing to do (--overwrite makes it anew)"
        )
    elif not args.quiet:
        print(summary(args.out_dir, result, time.monotonic() - started))
    return 0


def exit_on_terminate(*_: object) -> None:
    """Make SIGTERM clean up as an interrupt does."""
    raise SystemExit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, exit_on_terminate)
    sys.exit(main())
