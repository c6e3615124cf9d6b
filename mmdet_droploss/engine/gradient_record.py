"""What a training recorded of the gradients on each category's logit: a small file, one a run."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ..annotations import ClassFrequency
from ..annotations.names import Categories, difference
from ..utils import write_atomically

_FORMAT = "mmdet_droploss/gradient_record/1"


@dataclass(frozen=True)
class GradientRecord:
    """Sums over S stages of a training, for H heads (a cascade has several) and C categories.

    A gradient on a category's logit is *discouraging* where it lowers the score. The paper's
    Figure 1(a) asks where it comes from: from background proposals, or from foreground proposals of
    other categories. All sums are of absolute values, over proposals and iterations.

    Args:
        stages: (S, 2) int64, the iterations of each stage, first included, last excluded.
        background: (S, H, C) float32, the discouraging gradient from background proposals; NaN of a
            loss with separate objectness, through which background acts.
        foreground: (S, H, C) float32, that from foreground proposals of other categories.
        encouraging: (S, H, C) float32, the gradient from proposals of the category itself.
        background_score: (S, H, C) float32, the mean score on background proposals, Figure 1(b).
        background_proposals: (S, H) float64, how many there were.
        loss: The name of the loss.
        classes: C names; empty if not known.
        image_count: (C,) int64 training images of each category; empty if not known.
        seed: The run's seed; -1 if it has none.
    """

    stages: np.ndarray
    background: np.ndarray
    foreground: np.ndarray
    encouraging: np.ndarray
    background_score: np.ndarray
    background_proposals: np.ndarray
    loss: str = ""
    classes: tuple[str, ...] = ()
    image_count: np.ndarray | tuple[int, ...] = ()
    seed: int = -1

    @property
    def num_classes(self) -> int:
        """C."""
        return self.background.shape[-1]

    @property
    def measures_background(self) -> bool:
        """Whether Figure 1(a) can be drawn: background acts on the categories' logits."""
        return not np.isnan(self.background).all()

    @property
    def not_finite(self) -> np.ndarray:
        """(S,) bool, the stages with NaN or infinity: there the training had diverged."""
        names = ("foreground", "encouraging", "background_score")
        measured = (*names, "background") if self.measures_background else names
        finite = [np.isfinite(getattr(self, name)).all(axis=(1, 2)) for name in measured]
        return ~np.all(finite, axis=0)

    def background_share(self) -> np.ndarray:
        """Figure 1(a): the share of background in the discouraging gradient of the whole training.

        Returns:
            (H, C) float64 in [0, 1]; NaN where there was no discouraging gradient at all, or
            background's is not measured.
        """
        background = self.background.sum(axis=0, dtype=np.float64)
        foreground = self.foreground.sum(axis=0, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            return background / (background + foreground)

    def with_frequency(self, frequency: ClassFrequency) -> GradientRecord:
        """The record with image counts from elsewhere; a baseline's loss does not know them.

        Raises:
            ValueError: If they are of other categories.
        """
        own = Categories("the record", self.num_classes, self.classes or None)
        given = Categories(frequency.source, frequency.num_classes, frequency.classes)
        if text := difference(given, own):
            raise ValueError(f"{text}; give the frequencies of the training set of the record")
        return replace(self, image_count=frequency.image_count)

    def before(self, iteration: int) -> GradientRecord:
        """The stages that ended by an iteration, for a run that resumes there."""
        kept = self.stages[:, 1] <= iteration
        per_stage = ("stages", *_PER_STAGE)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return GradientRecord(**{**values, **{name: values[name][kept] for name in per_stage}})

    def save(self, path: str | os.PathLike) -> None:
        """Write the record as a compressed NumPy archive, wholly or not at all."""
        buffer = io.BytesIO()
        content: dict[str, Any] = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        np.savez_compressed(buffer, format=np.asarray(_FORMAT), **content)
        write_atomically(path, buffer.getvalue())


_PER_STAGE = (
    "background",
    "foreground",
    "encouraging",
    "background_score",
    "background_proposals",
)
#: Losses whose files of earlier versions have 0 as background's gradient, which was not measured.
_SEPARATE_OBJECTNESS = ("SeesawLoss",)
#: What a damaged archive raises. RuntimeError: one whose damage says that it is encrypted, or of a
#: method that zipfile does not know; TypeError: an array that is in no archive.
_DAMAGED = (OSError, ValueError, EOFError, RuntimeError, TypeError, zipfile.BadZipFile, zlib.error)


def load_gradient_record(path: str | os.PathLike) -> GradientRecord:
    """Read what :meth:`GradientRecord.save` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or another kind of file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        raise ValueError(f"{path} is no gradient record, or is cut short: {error}") from error
    if str(content.pop("format", "")) != _FORMAT:
        raise ValueError(f"{path} is no gradient record of this version ({_FORMAT})")
    missing = {f.name for f in fields(GradientRecord)} - content.keys()
    if missing:
        raise ValueError(
            f"{path} is no gradient record, or is damaged: it has no {', '.join(sorted(missing))}"
        )
    loss = str(content["loss"])
    if loss in _SEPARATE_OBJECTNESS:
        content["background"] = np.full_like(content["background"], np.nan)
    return GradientRecord(
        **{name: content[name] for name in ("stages", *_PER_STAGE)},
        loss=loss,
        classes=tuple(map(str, content["classes"])),
        image_count=content["image_count"].astype(np.int64),
        seed=int(content["seed"]),
    )
