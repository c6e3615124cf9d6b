"""The plan: which objects each image shows, and which of them are annotated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from mmdet_droploss.annotations import GROUP_NAMES, ClassFrequency
from mmdet_droploss.annotations.class_frequency import COMMON_MAX_IMAGES, RARE_MAX_IMAGES

from .options import Options, UserError, rng_for

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
# Federated validation: categories that an image lists as absent. A detection of a category is
# judged in the images that show it and in those that list it: about 53 and 13 of 400, with 60
# categories.
VAL_NEGATIVES = 2
MAX_OBJECTS = 12  # in one image


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
        """The categories of all objects."""
        return {o.category for o in self.objects}

    @property
    def positives(self) -> set[int]:
        """The categories of the annotated objects."""
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
        """The images of ``'train'`` or ``'val'``."""
        return self.train if name == "train" else self.val


def frequency_letters(image_count: Sequence[int] | np.ndarray) -> list[str]:
    """LVIS's r, c, f from the number of train images of each category."""
    groups = ClassFrequency(np.asarray(image_count)).groups
    return [GROUP_NAMES[group][0] for group in groups]


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
    rare, common = RARE_MAX_IMAGES, COMMON_MAX_IMAGES
    ranges = ((1, rare), (rare + 1, common), (common + 1, max(top, common + 1)))
    spreads = (np.linspace, np.geomspace, np.geomspace)
    budgets = np.concatenate(
        [
            np.rint(spread(lo, hi, n))
            for spread, (lo, hi), n in zip(spreads, ranges, sizes, strict=True)
        ]
    ).astype(int)
    return rng_for(options.seed, 0).permutation(budgets)


def occurrence_targets(budgets: np.ndarray, options: Options) -> np.ndarray:
    """Images that each category really occurs in: more for the frequent, and above its budget.

    What exceeds the budget is not annotated. ``options.hidden`` is the share of it that is kept.
    """
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
    targets = np.maximum(least, np.floor(low * shape)).astype(int)
    return budgets + np.rint(options.hidden * (targets - budgets)).astype(int)


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
        f"a third of the categories is to be in over {COMMON_MAX_IMAGES} images each; "
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
    """The plans of the training images."""
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


def assign_val_negatives(present: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where a federated validation lists categories as absent: each as often as the others."""
    negative = np.zeros_like(present)
    for image, shown in enumerate(present):
        key = negative.sum(0) + rng.random(len(shown))  # those listed least so far come first
        key[shown] = np.inf
        count = min(VAL_NEGATIVES, int(np.count_nonzero(~shown)))
        negative[image, np.argsort(key)[:count]] = True
    return negative


def plan_val(options: Options) -> list[ImagePlan]:
    """Balanced: objects are dealt from shuffled decks that hold every category once.

    All objects are annotated. What the protocol decides is where a category is listed as absent: in
    all other images, or in a few, and then a detection of it in the rest does not count.
    """
    counts = val_object_counts(options)
    rng = rng_for(options.seed, 3)
    decks = math.ceil(counts.sum() / options.num_categories)
    stream = np.concatenate([rng.permutation(options.num_categories) for _ in range(decks)])
    plans = []
    for stop, count in zip(np.cumsum(counts), counts, strict=True):
        plans.append(ImagePlan([PlannedObject(int(c)) for c in stream[stop - count : stop]]))
    present = np.zeros((len(plans), options.num_categories), bool)
    for image, plan in enumerate(plans):
        present[image, list(plan.contains)] = True
    negative = ~present
    if options.val == "federated":
        negative = assign_val_negatives(present, rng_for(options.seed, 9))
    for plan, row in zip(plans, negative, strict=True):
        plan.negatives = np.flatnonzero(row).tolist()
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
