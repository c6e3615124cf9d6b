"""Differences between methods, with 95 % intervals."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import hotcoco
from scipy import stats

from .detections import Detections
from .runs import KEY_TITLES, KEYS, Method

#: A key has an interval if at most this share of the draws has no object of its categories. hotcoco
#: takes both methods for equal in such a draw, where nothing can be measured.
MOST_EMPTY_DRAWS = 0.01


@dataclass(frozen=True)
class Difference:
    """How far a method is from the baseline, in percentage points."""

    value: float
    lower: float = math.nan
    upper: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.lower)

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.has_interval and (self.lower > 0 or self.upper < 0)

    @property
    def words(self) -> str:
        """What was measured, whichever way it went."""
        if math.isnan(self.value):
            return "not measurable"
        if round(self.value, 1) == 0:
            text = "equal to one decimal"
        else:
            text = f"{abs(self.value):.1f} points {'above' if self.value > 0 else 'below'}"
            if self.has_interval and not self.is_clear:
                text += " (the interval includes 0)"
        return text

    def __str__(self) -> str:
        """For a cell of a table."""
        if math.isnan(self.value):
            return "–"
        interval = f" [{self.lower:+.1f}, {self.upper:+.1f}]" if self.has_interval else ""
        return f"{self.value:+.1f}{interval}"


def differences(
    baseline: Method, method: Method, iou_type: str, detections: Detections, bootstrap: int
) -> dict[str, Difference]:
    """Each key's difference to the baseline.

    With one run of each, the interval is the bootstrap's 95 % over the images. With several seeds
    it is the 95 % interval of the difference of means (Welch): seeds differ more than images do.
    """
    keys = [f"{iou_type}_{key}" for key in KEYS]
    if len(baseline.runs) > 1 or len(method.runs) > 1:
        return {key: seed_difference(baseline.values(key), method.values(key)) for key in keys}
    values = {key: method.mean(key) - baseline.mean(key) for key in keys}
    if not bootstrap:
        return {key: Difference(value) for key, value in values.items()}
    intervals = bootstrap_intervals(baseline, method, iou_type, detections, bootstrap)
    return {
        key: Difference(value, *(intervals.get(key, ()) if not math.isnan(value) else ()))
        for key, value in values.items()
    }


def seed_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The difference of two means, with Welch's 95 % interval if both have two values or more."""
    value = statistics.fmean(second) - statistics.fmean(first)
    if len(first) < 2 or len(second) < 2 or math.isnan(value):
        return Difference(value)
    if max(map(statistics.stdev, (first, second))) < 1e-9:
        return Difference(value)  # the same seed given twice has no spread to go by
    with warnings.catch_warnings():
        # SciPy warns where the seeds of one method are equal: their variance is rightly 0 then.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_ind(second, first, equal_var=False)
    interval = test.confidence_interval(0.95)
    return Difference(value, float(interval.low), float(interval.high))


def bootstrap_intervals(
    baseline: Method, method: Method, iou_type: str, detections: Detections, samples: int
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of a key's difference, by drawing the val images anew.

    hotcoco counts an image once that is drawn twice. So its draws are subsets, and differ less than
    those of the bootstrap, by a factor that follows from their size (Shao and Wu, 1989, "A General
    Theory for Jackknife Variance Estimation").

    Keys whose categories too many draws would not show are left out; see :func:`too_rare`.
    """
    number = len(detections.content["images"])
    if number < 2:
        return {}
    left_out = {key for key, *_ in too_rare(detections)}
    # The baseline last: of the two, the method's evaluation makes way for the next method's.
    second, first = (
        detections.evaluation(m.runs[0].results_file(iou_type), iou_type)
        for m in (method, baseline)
    )
    outcome = hotcoco.compare(first, second, n_bootstrap=samples, seed=0, confidence=0.95)
    drawn = 1 - (1 - 1 / number) ** number  # the mean share of the images that a draw has
    widened = math.sqrt(drawn / (1 - drawn))
    intervals = {}
    for key in set(KEYS) & outcome["ci"].keys() - left_out:
        value, ci = outcome["deltas"][key], outcome["ci"][key]
        lower, upper = (value + widened * (ci[end] - value) for end in ("lower", "upper"))
        intervals[f"{iou_type}_{key}"] = (100 * lower, 100 * upper)
    return intervals


def too_rare(detections: Detections) -> list[tuple[str, int, float]]:
    """The keys whose categories are in so few val images that an interval would be wrong.

    Returns:
        Key, number of images, and share of the draws without any of these, a key each.
    """
    group_of = {c["id"]: c["frequency"] for c in detections.content["categories"]}
    images: dict[str, set[int]] = {key: set() for key in KEYS}
    for annotation in detections.content["annotations"]:
        if not annotation.get("ignore"):
            for key in ("AP", f"AP{group_of[annotation['category_id']]}"):
                images[key].add(annotation["image_id"])
    number = len(detections.content["images"])
    shares = [(key, len(ids), (1 - len(ids) / number) ** number) for key, ids in images.items()]
    return [found for found in shares if found[2] > MOST_EMPTY_DRAWS]


def without_interval(detections: Detections) -> list[str]:
    """A sentence for each key that :func:`bootstrap_intervals` leaves out but can be measured."""
    total = len(detections.content["images"])
    return [
        f"{key} has no interval: objects of {KEY_TITLES[key]} categories are in {number} of "
        f"{total:,} validation images, and {share:.0%} of random draws would have none"
        for key, number, share in too_rare(detections)
        if number
    ]
