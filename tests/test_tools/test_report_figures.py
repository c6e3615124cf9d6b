"""The figures of a report draw the numbers of the runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmdet_droploss.analysis.figures import plot_categories, plot_curves, plot_differences
from mmdet_droploss.analysis.intervals import Difference
from mmdet_droploss.analysis.report import build_figures
from mmdet_droploss.analysis.report import compare as compare_all
from mmdet_droploss.analysis.runs import Method, Run
from mmdet_droploss.analysis.tables import markdown
from mmdet_droploss.annotations import ClassFrequency


def two_seeds(name, *rows) -> Method:
    """Each row has the category APs of a seed; its last loss is 1, 2, ..., its val AP 0.1, ..."""
    runs = []
    for seed, row in enumerate(rows, 1):
        log = [{"step": 1, "loss": 9}, {"step": 2, "loss": seed}]
        log.append({"step": 2, "lvis/segm_AP": seed / 10})
        runs.append(Run(name, Path(), {}, [{"segm_AP": ap} for ap in row], log, None))
    return Method(name, "black", runs)


def test_names_are_shown_as_they_are(dataset, runs, tmp_path):
    """matplotlib hides labels that begin with _, and stops at a $ that begins no formula."""
    root, annotations = runs[0], dataset / "annotations"
    arguments = [f"_a $\\frac$={root / 'bad1'}", f"b | c$={root / 'good1'}"]
    files = annotations / "val.json", str(annotations / "train.json")
    comparison = compare_all(*files, arguments, 0)
    build_figures(comparison, None, 0, 0.3)  # draws all
    for figure in (
        plot_curves(comparison.methods),
        plot_categories(comparison.methods, comparison.frequency, "segm"),
    ):
        texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert texts == [" _a $\\frac$", "b | c$"]
    assert "\n| b \\| c$ | " in markdown(comparison.tables())


def test_the_figures_draw_the_means_over_the_seeds_in_percent():
    methods = [
        two_seeds("a", [0.1, 0.2, 0.3, None], [0.3, 0.4, 0.7, None]),
        two_seeds("b", [0.2, 0.1, 0.8, 0.5], [0.4, 0.3, 0.8, 0.5]),
    ]
    frequency = ClassFrequency(np.array([5, 50, 500, 700]))
    left, right = plot_categories(methods, frequency, "segm").axes
    pairs = [line.get_xydata() for line in left.lines[2:]]  # after the borders of the groups
    expected = [[[5, 20], [5, 30]], [[50, 30], [50, 20]], [[500, 50], [500, 80]]]
    np.testing.assert_allclose(pairs, expected)
    points = [np.ma.filled(marks.get_offsets(), np.nan) for marks in left.collections]
    expected = [[[5, 20], [50, 30], [500, 50], [np.nan, np.nan]]]
    expected += [[[5, 30], [50, 20], [500, 80], [700, 50]]]
    np.testing.assert_allclose(points, expected)
    points = [marks.get_offsets() for marks in right.collections]
    np.testing.assert_allclose(points, [[[5, 10]], [[50, -10]], [[500, 30]]])
    means = [line.get_label() for line in right.lines[3:]]
    assert means == ["rare: mean +10.0", "common: mean -10.0", "frequent: mean +30.0"]

    total, _, val_ap, *_ = plot_curves(methods).axes
    curves = [line.get_xydata().tolist() for line in total.lines]
    assert curves == [[[1, 9], [2, 1]], [[1, 9], [2, 2]]] * 2
    curves = [line.get_xydata() for line in val_ap.lines]
    np.testing.assert_allclose(curves, [[[2, 10]], [[2, 20]]] * 2)


def test_the_figure_of_differences_draws_values_and_intervals():
    methods = [Method(name, "black", []) for name in "ab"]
    deltas = [Difference(4, 1, 7), Difference(-2), Difference(0, -1, 1.5), Difference(3)]
    keys = [f"segm_{key}" for key in ("AP", "APr", "APc", "APf")]
    figure = plot_differences(methods, {"b": dict(zip(keys, deltas, strict=True))}, ["segm"])
    (axes,) = figure.axes
    drawn = [line.get_xydata().tolist() for line in axes.lines[:-1]]  # the last one is at 0
    assert drawn == [
        *([[1, 0], [7, 0]], [[4, 0]]),
        [[-2, 1]],
        *([[-1, 2], [1.5, 2]], [[0, 2]]),
        [[3, 3]],
    ]
    rows = [text.get_text() for text in axes.get_yticklabels()]
    assert rows == ["AP (all)", "APr (rare)", "APc (common)", "APf (frequent)"]
