"""Proposals for a data set of one's own: the tail's threshold, and the schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from mmengine.config import Config

from ..annotations import ClassFrequency

#: The default tail ("at most 100 images") is kept while it holds at most this share of the
#: instances. In LVIS it holds 9 % (v0.5) and 6 % (v1.0).
LARGEST_TAIL_SHARE = 0.25
#: Otherwise the tail is the rarest categories that together hold at most this share: LVIS v0.5's.
PROPOSED_TAIL_SHARE = 0.09

#: The paper's schedule shows each of LVIS v0.5's 56,740 annotated images 25 times (90,000 x 16).
EPOCHS = 25
#: A small set is shown this many images all the same, 5,000 iterations of 16, ...
FEWEST_IMAGES_SHOWN = 80_000
#: ... but no image more often than this.
MOST_EPOCHS = 100


@dataclass(frozen=True)
class Tail:
    """A proposed tail: the categories of at most ``most_images`` training images.

    Args:
        most_images: The largest image count in the tail.
        lambda_: What to give to the loss; None if the default says the same.
        reason: A sentence for the user, and for the config.
    """

    most_images: int
    lambda_: float | None
    reason: str


def propose_tail(frequency: ClassFrequency) -> Tail:
    """Choose which categories EQL, BEQL and DropLoss are to treat as of low frequency.

    LVIS's own rule, at most 100 images, is kept if it parts the categories and its tail is small in
    instances. Otherwise the tail is as large as LVIS v0.5's in what matters to the losses, its
    share of the instances.

    Args:
        frequency: Of the training set, with instance counts and the number of images; a category
            at least is shown.

    Raises:
        ValueError: If it lacks one of these.
    """
    # A category that is never shown is neither tail nor anything else.
    seen = frequency.image_count > 0
    default = frequency.tail()[seen]
    instances, num_images = frequency.instance_count, frequency.num_images
    if instances is None or num_images is None:
        raise ValueError(f"{frequency.source} does not tell the numbers of instances and images")
    counts, instances = frequency.image_count[seen], instances[seen]
    total = max(int(instances.sum()), 1)
    share = instances[default].sum() / total
    kept = f"{default.sum()} of {len(default)} categories, {share:.1%} of the instances"
    if default.any() and not default.all() and share <= LARGEST_TAIL_SHARE:
        return Tail(100, None, f"LVIS's own threshold, at most 100 images: {kept}")
    steps = np.unique(counts)
    held = np.array([instances[counts <= step].sum() / total for step in steps])
    fitting = np.flatnonzero(held[:-1] <= PROPOSED_TAIL_SHARE)  # all categories are no tail
    if len(fitting) == 0:
        return Tail(
            100,
            None,
            f"LVIS's own threshold, at most 100 images, takes {kept}, and no other fits better: "
            f"already the rarest categories (at most {steps[0]} images) hold {held[0]:.0%} of the "
            f"instances. This is no long tail, so do not expect more of the loss than of BCE",
        )
    most_images = int(steps[fitting[-1]])
    tail = counts <= most_images
    return Tail(
        most_images,
        threshold(most_images, num_images),
        f"at most {most_images} images: {tail.sum()} of {len(tail)} categories, "
        f"{held[fitting[-1]]:.1%} of the instances, as LVIS v0.5's tail has 9 % (LVIS's own "
        f"threshold, at most 100 images, would take {kept})",
    )


def threshold(most_images: int, num_images: int) -> float:
    """A short lambda for which ``count / num_images < lambda`` means at most ``most_images``."""
    low, high = most_images / num_images, (most_images + 1) / num_images
    for digits in range(1, 18):
        value = float(f"{(low + high) / 2:.{digits}g}")
        if low < value <= high:
            return value
    raise AssertionError("a float64 can part any two shares of a data set")


@dataclass(frozen=True)
class Schedule:
    """A proposed schedule, in iterations."""

    max_iters: int
    warmup: int
    milestones: tuple[int, ...]
    interval: int
    reason: str


def propose_schedule(num_images: int, batch: int, base: Config) -> Schedule:
    """Fit the base's schedule to another number of images.

    Args:
        num_images: Training images that are used.
        batch: Images in an iteration, over all processes.
        base: The base config, with an iteration-based schedule.
    """
    most = max(FEWEST_IMAGES_SHOWN, EPOCHS * num_images)
    shown = min(most, max(MOST_EPOCHS, EPOCHS) * num_images)
    max_iters = rounded(max(shown / batch, 1))
    step = next(s for s in base.param_scheduler if s["type"] == "MultiStepLR")
    milestones = tuple(
        max(round(max_iters * m / base.train_cfg.max_iters), 1) for m in step["milestones"]
    )
    warmup = next(s["end"] for s in base.param_scheduler if s["type"] == "LinearLR")
    return Schedule(
        max_iters,
        min(warmup, max(max_iters // 10, 1)),
        milestones,
        max(max_iters // 5, 1),
        f"{max_iters:,} iterations of {batch} images show each of the {num_images:,} images "
        f"{max_iters * batch / num_images:.0f} times",
    )


def rounded(value: float) -> int:
    """To two digits: nobody wants to read 12,387 iterations."""
    digits = max(int(math.log10(value)) - 1, 0)
    return int(round(value / 10**digits) * 10**digits)
