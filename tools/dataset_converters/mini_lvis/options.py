"""What the user may choose, and what follows from it alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# Raise this whenever the same options give other bytes: a data set on disk is taken for the
# requested one only if its stamp carries this number too.
GENERATOR_VERSION = 1
STAMP_NAME = "mini_lvis.json"
SPLITS = ("train", "val")

# Characters that shape tells apart in any of the fonts; those with a look-alike before them (O and
# Q beside C and D, 8 beside B ...) stand at the end and come in with --num-categories above 60. No
# character is another one when mirrored (RandomFlip) or turned a little. The order is that of the
# category ids.
CHARACTERS = "ABCDEFHJKLMNPRSTUVXYaeghmrt23457#%&@?={*ΔΞΣΦΨΩλξ∞√§¶€£♠♥★♪→↔GOQbfi68~ΘΠδ∫♣"

MIN_TRAIN_IMAGES = 150  # below, no category can have over 100 images and still be absent somewhere
MIN_CATEGORIES = 6  # two of each group; with fewer an image could lack negatives
MIN_SIZE, MAX_SIZE = 96, 1024


class UserError(Exception):
    """A request that cannot be met; its message tells the user what to change."""


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
    hidden: float = 1.0
    val: str = "federated"
    like_lvis: bool = False
    images: bool = True

    def stamp(self) -> dict[str, Any]:
        """What ``mini_lvis.json`` holds."""
        return {"generator_version": GENERATOR_VERSION, **asdict(self)}

    def num_images(self, split: str) -> int:
        """How many images a split has."""
        return self.train_images if split == "train" else self.val_images


def rng_for(seed: int, *path: int) -> np.random.Generator:
    """A generator of its own for one part of the work, whoever does that part and when."""
    return np.random.default_rng([seed, *path])
