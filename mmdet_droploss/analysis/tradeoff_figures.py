"""The paper's Figures 2 and 3, from tested runs: what rare categories gain, frequent ones pay."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from .figures import add_legend, label_of, tidy
from .runs import IOU_TITLES, KEY_TITLES, Method
from .settings import PARAMETERS, Setting, setting_of

#: Okabe and Ito's colours, told apart also by colour-blind people; markers differ as well.
BLUE, GREEN, VERMILION, BLACK = "#0072B2", "#009E73", "#D55E00", "#000000"
OTHER_COLOURS = ("#E69F00", "#CC79A7", "#56B4E9", "#666666")
OTHER_MARKERS = ("^", "v", "P", "X", "D", "p", "<", ">", "h")
#: Colour and marker of the losses that the paper compares.
STYLES = {
    "DropLoss": (VERMILION, "*"),
    "BEQL": (BLUE, "o"),
    "FixedDropLoss": (GREEN, "s"),
    "EQL": (BLACK, "d"),
}
#: What a line through several parameters is called in the legend.
FAMILY_TITLES = {"BEQL": "BEQL, bases b", "FixedDropLoss": "fixed drop ratios"}


@dataclass(frozen=True)
class Point:
    """A method in a plane of two metrics.

    Args:
        name: The method's.
        setting: Which loss it is, with which parameter.
        x: Mean of the one metric over the seeds, in percent.
        y: Of the other.
        x_error: Standard deviation in percentage points; NaN for a single seed.
        y_error: The same of ``y``.
    """

    name: str
    setting: Setting
    x: float
    y: float
    x_error: float = math.nan
    y_error: float = math.nan


def points_of(methods: Sequence[Method], x_key: str, y_key: str) -> list[Point]:
    """The methods in the plane of two metrics (``segm_APf``)."""
    return [
        Point(
            method.name,
            setting_of(method),
            method.mean(x_key),
            method.mean(y_key),
            method.deviation(x_key),
            method.deviation(y_key),
        )
        for method in methods
    ]


def pareto_frontier(values: np.ndarray) -> np.ndarray:
    """Which points no other point dominates: none is at least as good in both and better in one.

    Args:
        values: (N, 2), more is better. Equal points do not dominate each other. A point with a NaN
            is not on the frontier, and dominates none.

    Returns:
        (N,) bool.
    """
    values = np.asarray(values, dtype=np.float64).reshape(-1, 2)
    as_good = (values[:, None] >= values).all(axis=2)  # [i, j]: i is as good as j in both
    better = (values[:, None] > values).any(axis=2)
    is_out = (as_good & better).any(axis=0) | np.isnan(values).any(axis=1)
    return ~np.asarray(is_out)


def background_weight(probability: np.ndarray, log_base: float = math.inf) -> np.ndarray:
    """The weight w of a background term of a tail category, eq. (4), from the package's own loss.

    A background proposal has the loss -w log(1 - p) there, so the quotient to plain BCE is w.

    Args:
        probability: (N,) p in (0, 1).
        log_base: b > 1; infinity stands for EQL, eq. (2), which BEQL comes to with a large base.

    Returns:
        (N,) float64.
    """
    import torch

    from ..models.losses import equations as eq
    from ..models.losses.weighted_bce import weighted_bce

    logits = torch.from_numpy(np.asarray(probability, dtype=np.float64)).logit()[:, None]
    background = torch.ones(len(logits), dtype=torch.int64)  # with one category, label 1
    tail = torch.tensor([True])
    weights = eq.eql(tail) if math.isinf(log_base) else eq.beql(tail, log_base)
    return (weighted_bce(logits, background, weights) / weighted_bce(logits, background)).numpy()


def beql_bases(methods: Sequence[Method]) -> list[float]:
    """The bases that BEQL was trained with, in order."""
    settings = map(setting_of, methods)
    return sorted({s.parameter for s in settings if s.loss == "BEQL" and s.parameter is not None})


def draw_weights(bases: Sequence[float]) -> Figure:
    """Figure 2(a): the weight of a background term of a tail category against its score.

    Args:
        bases: b of each curve; EQL's is drawn anyway.
    """
    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axes = figure.subplots()
    # Close together where a curve of a large base rises.
    probability = np.concatenate([np.geomspace(1e-5, 0.05, 300), np.linspace(0.05, 0.99999, 600)])
    axes.plot(probability, background_weight(probability), color=BLACK, lw=1.8, label="EQL (b → ∞)")
    colours = itertools.cycle((VERMILION, BLUE, GREEN, *OTHER_COLOURS))
    dashes = itertools.cycle(("-", "--", "-.", ":"))
    for base, colour, dash in zip(sorted(set(bases), reverse=True), colours, dashes, strict=False):
        weight = background_weight(probability, base)
        axes.plot(probability, weight, dash, color=colour, lw=1.8, label=f"b = {base:g}")
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.04), xlabel="score p of the category on background")
    axes.set_ylabel("weight w of the term")
    axes.set_title("(a) BEQL on background, rare and common", fontsize=10)
    tidy(axes)
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_base_tradeoff(methods: Sequence[Method], iou_type: str = "segm") -> Figure:
    """Figure 2(b): APr against APf of BEQL's bases; EQL is the end point.

    Methods with other losses and with repeat factor sampling are not drawn.

    Raises:
        ValueError: If there is no BEQL whose base is known.
    """
    points = points_of(methods, f"{iou_type}_APf", f"{iou_type}_APr")
    points = [point for point in points if not point.setting.rfs]
    curve = family(points, "BEQL", False)
    if not curve:
        raise ValueError("no run is of BEQL with a known base")
    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axes = figure.subplots()
    ends = [point for point in points if point.setting.loss == "EQL"]
    for line in [[*curve, end] for end in ends] or [curve]:
        axes.plot([p.x for p in line], [p.y for p in line], color=BLUE, lw=1.4, zorder=2)
    for point in [*curve, *ends]:
        draw_point(axes, point, *STYLES[point.setting.loss])
        text = point.setting.parameter_text or f"{point.name} (b → ∞)"
        colour = STYLES[point.setting.loss][0]
        annotate(axes, point, text, colour, below=point.setting.loss == "EQL")
    label_axes(axes, iou_type, "APr")
    axes.set_title("(b) BEQL: rare against frequent", fontsize=10)
    return figure


def draw_tradeoff(methods: Sequence[Method], iou_type: str = "segm") -> Figure:
    """Figure 3: APc and APr against APf, with the Pareto frontier.

    A method is a point with its standard deviations; BEQL's bases and the fixed drop ratios are
    joined by lines. Hollow points were trained with repeat factor sampling. They have a frontier of
    their own, since the sampling can be added to any loss.

    Args:
        methods: In the order of the legend.
        iou_type: ``'segm'`` or ``'bbox'``.
    """
    rows = math.ceil(len(methods) / 3)
    figure = Figure(figsize=(11, 4.4 + 0.2 * rows), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, key in zip(panels, ("APc", "APr"), strict=True):
        points = points_of(methods, f"{iou_type}_APf", f"{iou_type}_{key}")
        styles = assign_styles(points)
        for loss, rfs in itertools.product(FAMILY_TITLES, (False, True)):
            line = family(points, loss, rfs)
            label = FAMILY_TITLES[loss] + (", RFS" if rfs else "")
            colour, marker = STYLES[loss]
            face = "white" if rfs else colour
            if line:
                axes.plot([p.x for p in line], [p.y for p in line], color=colour, marker=marker,
                          mfc=face, lw=1.4, label=label, zorder=2)  # fmt: skip
        for point, style in zip(points, styles, strict=True):
            in_family = point.setting.parameter is not None
            draw_point(axes, point, *style, label=None if in_family else label_of(point.name))
            if in_family:
                below = point.setting.loss == "FixedDropLoss"
                annotate(axes, point, point.setting.parameter_text, style[0], below)
        label_axes(axes, iou_type, key)
        for rfs in (False, True):
            draw_frontier(axes, [point for point in points if point.setting.rfs == rfs], rfs)
        group = KEY_TITLES[key]
        axes.set_title(f"{group} vs. frequent", fontsize=10)
    # A method may be in one panel only.
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries = dict(zip(labels, handles, strict=True)) | entries
    add_legend(figure, entries.values(), entries.keys(), loc="outside lower center", ncols=3,
               fontsize=8)  # fmt: skip
    return figure


def family(points: Sequence[Point], loss: str, rfs: bool) -> list[Point]:
    """The points of a loss with different parameters that can be drawn, by their parameter."""
    found = [
        point
        for point in points
        if point.setting.loss == loss
        and point.setting.rfs == rfs
        and point.setting.parameter is not None
        and not math.isnan(point.x + point.y)
    ]
    return sorted(found, key=lambda point: point.setting.parameter or 0)


def assign_styles(points: Sequence[Point]) -> list[tuple[str, str]]:
    """Colour and marker of each point: the paper's losses have their own, others what is left."""
    others = list(zip(itertools.cycle(OTHER_COLOURS), OTHER_MARKERS * len(OTHER_COLOURS)))  # noqa: B905
    free, given = itertools.cycle(others), {}
    styles = []
    used: set[tuple[str, bool]] = set()
    for point in points:
        loss, rfs = point.setting.loss, point.setting.rfs
        is_first = (loss, rfs) not in used or point.setting.parameter is not None
        used.add((loss, rfs))
        if loss in STYLES and is_first:
            styles.append(STYLES[loss])
        elif loss == "DropLoss":
            # A variant of it: marked by the colour, told apart by the marker.
            styles.append((VERMILION, next(free)[1]))
        else:
            # The same loss with repeat factor sampling has the same style, hollow.
            name = loss if loss != "unknown" and is_first else point.name
            if name not in given:
                given[name] = next(free)
            styles.append(given[name])
    return styles


def draw_point(
    axes: Axes, point: Point, colour: str, marker: str, label: str | None = None
) -> None:
    """One method, with bars of a standard deviation if it has several seeds."""
    if math.isnan(point.x + point.y):
        return
    face = "white" if point.setting.rfs else colour
    size = 13 if marker == "*" else 7
    has_error = not math.isnan(point.x_error)
    errors: dict[str, Any] = dict(xerr=point.x_error, yerr=point.y_error) if has_error else {}
    axes.errorbar(point.x, point.y, fmt=marker, color=colour, mfc=face, ms=size, elinewidth=0.9,
                  capsize=2, label=label, zorder=4 if marker == "*" else 3, **errors)  # fmt: skip


def annotate(axes: Axes, point: Point, text: str, colour: str, below: bool = False) -> None:
    """A word beside a point, to the right and above it, or to the left and below."""
    if math.isnan(point.x + point.y):
        return
    place = dict(xytext=(-6, -5), ha="right", va="top") if below else dict(xytext=(6, 5))
    words = axes.annotate(text, (point.x, point.y), textcoords="offset points", fontsize=7.5,
                          color=colour, zorder=5, parse_math=False, **place)  # fmt: skip
    words.set_path_effects([withStroke(linewidth=2, foreground="white")])  # above lines and bars


def label_axes(axes: Axes, iou_type: str, key: str) -> None:
    """Frequent across, the other group up."""
    title = IOU_TITLES[iou_type].lower()
    axes.set_xlabel(f"APf, {title} AP of frequent categories (%)")
    axes.set_ylabel(f"{key}, {title} AP of {KEY_TITLES[key]} categories (%)")
    axes.margins(0.12)
    tidy(axes)


def draw_frontier(axes: Axes, points: Sequence[Point], rfs: bool) -> None:
    """The border of what some method reaches in both at once: steps to the right and down."""
    values = np.array([(point.x, point.y) for point in points]).reshape(-1, 2)
    best = np.unique(values[pareto_frontier(values)], axis=0)  # by x; so y falls
    if len(best) == 0:
        return
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x = [left, *best[:, 0], best[-1, 0]]
    y = [best[0, 1], *best[:, 1], bottom]
    label = "Pareto frontier" + (", RFS" if rfs else "")
    style: dict[str, Any] = dict(color="#888888", lw=1.2, ls=":" if rfs else "--", zorder=1)
    axes.step(x, y, where="pre", label=label, **style)
    axes.set(xlim=(left, right), ylim=(bottom, top))


def not_drawn(methods: Sequence[Method], iou_type: str) -> list[str]:
    """What the figures do not show of the methods, in words."""
    found = []
    for method in methods:
        setting = setting_of(method)
        keys = [k for k in ("APf", "APc", "APr") if math.isnan(method.mean(f"{iou_type}_{k}"))]
        if keys:
            found.append(f"{method.name} is not drawn where {', '.join(keys)} cannot be measured")
        if setting.loss in PARAMETERS and setting.parameter is None:
            key = PARAMETERS[setting.loss]
            found.append(
                f"{method.name} is not on the line of {setting.loss}: neither a config in its work "
                f"dir nor its name tells {key}"
            )
    return found


def frontier_sentences(methods: Sequence[Method], x_key: str, y_key: str) -> list[str]:
    """Which methods are on the frontier of two metrics, in words; with RFS apart."""
    x_title, y_title = (key.partition("_")[2] for key in (x_key, y_key))
    found = []
    for rfs in (False, True):
        points = [p for p in points_of(methods, x_key, y_key) if p.setting.rfs == rfs]
        best = pareto_frontier(np.array([(point.x, point.y) for point in points]))
        names = "; ".join(point.name for point, on in zip(points, best, strict=True) if on)
        if points:
            title = f"Pareto frontier of {y_title} and {x_title}{', with RFS' if rfs else ''}"
            found.append(f"{title}: {names or 'nothing to measure'}")
    return found
