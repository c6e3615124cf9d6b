"""Intervals of differences: by drawing images, and over seeds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmdet_droploss.analysis.detections import Detections
from mmdet_droploss.analysis.intervals import (
    Difference,
    bootstrap_intervals,
    differences,
    seed_difference,
    too_rare,
    without_interval,
)
from mmdet_droploss.analysis.runs import Method, Run
from mmdet_droploss.annotations import ClassFrequency

IMAGES = 60


def dataset(folder, rare: int, ignored: int = 0) -> Detections:
    """60 images with a frequent object each, some with a rare one as well."""
    annotations = [
        dict(id=i, image_id=i, category_id=2, bbox=[10, 10, 20, 20], area=400)
        for i in range(1, IMAGES + 1)
    ]
    annotations += [
        dict(id=100 + i, image_id=i, category_id=1, bbox=[50, 50, 20, 20], area=400,
             ignore=int(i > rare))
        for i in range(1, rare + ignored + 1)
    ]  # fmt: skip
    images = [dict(id=i, height=100, width=100) for i in range(1, IMAGES + 1)]
    categories = [dict(id=1, name="rare"), dict(id=2, name="frequent")]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / "val.json").write_text(json.dumps(content))
    return Detections(folder / "val.json", ClassFrequency(np.array([5, 500])), ["bbox"])


def method(
    folder, name: str, rare: int = 0, shift: int = 0, frequent: int = IMAGES, **metrics: float
) -> Method:
    """Objects found, those of all images or the first ones; the rare ones a little off."""
    (folder / name).mkdir()
    found = [
        dict(image_id=i, category_id=2, bbox=[10, 10, 20, 20], score=0.9)
        for i in range(1, frequent + 1)
    ]
    found += [
        dict(image_id=i, category_id=1, bbox=[50 + shift, 50, 20, 20], score=0.9)
        for i in range(1, rare + 1)
    ]
    (folder / name / "val.bbox.json").write_text(json.dumps(found))
    return Method(name, "black", [Run(name, folder / name, metrics, [], [], None)])


def ap(found, total=IMAGES):
    """AP, in percent, of that many objects without an error: of 101 recalls, those reached."""
    return np.where(found > 0, 100 * (100 * found // total + 1) / 101, 0)


def test_an_interval_is_the_middle_95_percent_of_the_draws_in_points(tmp_path):
    """Drawn anew here: two methods find the objects of 15 and of 45 of the 60 images."""
    few, many = 15, 45
    methods = [
        method(tmp_path, str(number), frequent=number, bbox_AP=float(ap(number)) / 100)
        for number in (few, many)
    ]
    delta = differences(*methods, "bbox", dataset(tmp_path, 0), 2000)["bbox_AP"]
    drawn = np.zeros((20_000, IMAGES), dtype=int)
    images = np.random.default_rng(1).integers(IMAGES, size=drawn.shape)
    np.add.at(drawn, (np.arange(len(drawn))[:, None], images), 1)
    first, second = (ap(drawn[:, :number].sum(axis=1), drawn.sum(axis=1)) for number in (few, many))
    expected = np.percentile(second - first, [2.5, 97.5])
    assert delta.value == pytest.approx(ap(many) - ap(few))
    np.testing.assert_allclose([delta.lower, delta.upper], expected, atol=1.5)
    assert delta.lower < delta.value < delta.upper


@pytest.mark.parametrize("rare, has_interval", [(2, False), (12, True)])
def test_a_group_that_many_draws_would_not_show_has_no_interval(tmp_path, rare, has_interval):
    """In every draw that has a rare object the second is better, so 0 is not in the interval."""
    detections = dataset(tmp_path, rare)
    methods = [method(tmp_path, name, rare, shift) for name, shift in (("a", 5), ("b", 1))]
    intervals = bootstrap_intervals(*methods, "bbox", detections, 300)
    assert ("bbox_APr" in intervals) == has_interval
    assert {"bbox_AP", "bbox_APf"} <= intervals.keys()
    if has_interval:
        assert intervals["bbox_APr"][0] > 0
        assert without_interval(detections) == []
    else:
        (sentence,) = without_interval(detections)
        assert sentence == (
            "APr has no interval: objects of rare categories are in 2 of 60 validation images, and "
            "13% of random draws would have none"
        )


def test_objects_that_need_not_be_found_do_not_count(tmp_path):
    (rare, common) = too_rare(dataset(tmp_path, 3, ignored=30))
    assert rare == ("APr", 3, pytest.approx((57 / 60) ** 60))
    assert common == ("APc", 0, 1)


def test_an_interval_of_seeds_agrees_with_the_t_table():
    # Equal variances 2, n = 2 each: standard error sqrt(2), 2 degrees of freedom, t = 4.3027.
    delta = seed_difference([1.0, 3.0], [11.0, 13.0])
    assert delta.value == pytest.approx(10)
    assert delta.lower == pytest.approx(10 - 4.3027 * 2**0.5, abs=1e-3)
    assert delta.upper == pytest.approx(10 + 4.3027 * 2**0.5, abs=1e-3)
    assert not seed_difference([1.0], [2.0, 3.0]).has_interval


def test_an_interval_of_seeds_takes_no_variances_for_equal():
    """Welch's: var/n is 2/2 and 7.5/5, (1 + 1.5)^2 / (1^2/1 + 1.5^2/4) = 4 degrees of freedom."""
    delta = seed_difference([1.0, 3.0], [10.0, 10.0, 15.0, 15.0, 15.0])
    assert delta.value == pytest.approx(11)
    assert delta.lower == pytest.approx(11 - 2.7764 * 2.5**0.5, abs=1e-3)
    assert delta.upper == pytest.approx(11 + 2.7764 * 2.5**0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words", "cell"),
    [
        ((2.34, 1.0, 3.0), "2.3 points above", "+2.3 [+1.0, +3.0]"),
        ((-2.34, -3.0, -1.0), "2.3 points below", "-2.3 [-3.0, -1.0]"),
        ((2.34, -1.0, 3.0), "2.3 points above (the interval includes 0)", "+2.3 [-1.0, +3.0]"),
        ((-2.34,), "2.3 points below", "-2.3"),
        ((0.01, -1.0, 1.0), "equal to one decimal", "+0.0 [-1.0, +1.0]"),
        ((float("nan"),), "not measurable", "–"),
    ],
)
def test_difference_in_words(arguments, words, cell):
    delta = Difference(*arguments)
    assert delta.words == words
    assert str(delta) == cell
