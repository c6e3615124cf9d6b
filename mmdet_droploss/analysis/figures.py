"""The figures of a report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..annotations import GROUP_NAMES, ClassFrequency
from ..utils import write_atomically
from .intervals import Difference
from .runs import IOU_TITLES, KEY_TITLES, KEYS, Method

GROUP_COLOURS = ("#c2410c", "#0f766e", "#4f46e5")
#: What is drawn over the training. Accuracies are named as by the losses.
CURVES = (
    ("loss", "total loss"),
    ("loss_cls", "classification loss"),
    ("lvis/segm_AP", "mask AP on val"),
    ("acc_r", "accuracy on rare, %"),
    ("acc_c", "accuracy on common, %"),
    ("acc_f", "accuracy on frequent, %"),
)


def to_png(figure: Figure) -> bytes:
    """Draw a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    """Draw a figure; the same figure gives the same bytes, without random ids and the date."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "mmdet_droploss"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def write_figure(figure: Figure, prefix: Path) -> list[Path]:
    """Write ``PREFIX.png`` and ``PREFIX.svg``, and return these paths."""
    paths = []
    for kind, draw in (("png", to_png), ("svg", to_svg)):
        paths.append(prefix.with_name(f"{prefix.name}.{kind}"))
        write_atomically(paths[-1], draw(figure))
    return paths


def tidy(axes: Axes) -> None:
    """The look that all plots share."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def label_of(name: str) -> str:
    """A name for a legend: matplotlib hides those that start with an underscore."""
    return f" {name}" if name.startswith("_") else name


def add_legend(owner: Axes | Figure, *entries: Any, **style: Any) -> None:
    """A legend that shows names as they are: one may have a $."""
    for text in owner.legend(*entries, frameon=False, **style).get_texts():
        text.set_parse_math(False)


def at_least(axes: Axes, direction: str, limit: float) -> None:
    """Keep an axis from blowing up differences that are next to nothing."""
    low, high = getattr(axes, f"get_{direction}lim")()
    getattr(axes, f"set_{direction}lim")(min(low, -limit), max(high, limit))


def plot_differences(
    methods: Sequence[Method], deltas: dict[str, dict[str, Difference]], iou_types: Sequence[str]
) -> Figure:
    """Each method's distance from the baseline, with its interval."""
    height = 1.3 + 0.28 * len(KEYS) * max(1, len(methods) - 1)
    figure = Figure(figsize=(9, height), layout="constrained")
    panels = figure.subplots(1, len(iou_types), sharey=True, sharex=True, squeeze=False)[0]
    for axes, iou_type in zip(panels, iou_types, strict=True):
        for index, method in enumerate(methods[1:]):
            for row, key in enumerate(KEYS):
                delta = deltas[method.name][f"{iou_type}_{key}"]
                y = row + (index - (len(methods) - 2) / 2) * 0.2
                style = dict(color=method.colour, markersize=7, linewidth=2)
                if delta.has_interval:
                    axes.plot([delta.lower, delta.upper], [y, y], **style)
                label = label_of(method.name) if row == 0 else None
                axes.plot([delta.value], [y], "o", label=label, **style)
        axes.axvline(0, color=methods[0].colour, linewidth=1)
        axes.set_yticks(range(len(KEYS)), [f"{key} ({KEY_TITLES[key]})" for key in KEYS])
        axes.set_title(f"{IOU_TITLES[iou_type]} AP", fontsize=10)
        words = f"points above (+) or below (-) {methods[0].name}"
        axes.set_xlabel(words, parse_math=False)
        at_least(axes, "x", 0.5)
        tidy(axes)
    panels[0].set_ylim(len(KEYS) - 0.5, -0.5)
    add_legend(panels[-1], fontsize=8)
    return figure


def pick(record: dict, key: str) -> float | None:
    """A metric of the log; a cascade names its stages s0, s1, ..., and the last one counts."""
    if key in record:
        return record[key]
    stages = sorted(name for name in record if name.endswith(f".{key}"))
    return record[stages[-1]] if stages else None


def plot_curves(methods: Sequence[Method]) -> Figure:
    """Losses, accuracies and val AP over the training, one line a run."""
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(2, 3).flat, CURVES, strict=True):
        for method in methods:
            for index, run in enumerate(method.runs):
                points = [(r["step"], v) for r in run.scalars if (v := pick(r, key)) is not None]
                values = np.array(points, dtype=float).reshape(-1, 2)
                if key.endswith("_AP"):
                    values[:, 1] *= 100
                style = dict(color=method.colour, linewidth=1.4, marker="o" * (len(points) < 10))
                label = label_of(method.name) if index == 0 else None
                axes.plot(*values.T, label=label, **style)
        if not any(line.get_xdata().size for line in axes.lines):
            axes.text(0.5, 0.5, "not in the log", ha="center", transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("iteration", fontsize=8)
        # Not "auto" at the top: a curve of zeros would get an axis of 0.05.
        axes.set_ylim(0, max(1.03 * axes.get_ylim()[1], 0 if "loss" in key else 1))
        tidy(axes)
    add_legend(figure.axes[0], fontsize=9)
    return figure


def plot_categories(methods: Sequence[Method], frequency: ClassFrequency, iou_type: str) -> Figure:
    """AP of every category, and its distance from the baseline, against its training images."""
    figure = Figure(figsize=(10, 3.6 * len(methods[1:])), layout="constrained")
    panels = figure.subplots(len(methods) - 1, 2, squeeze=False)
    base = methods[0].category_ap(iou_type)
    for (left, right), method in zip(panels, methods[1:], strict=True):
        values = method.category_ap(iou_type)
        plot_pairs(left, methods[0], method, frequency, base, values)
        left.set_ylabel(f"{IOU_TITLES[iou_type].lower()} AP of a category")
        plot_category_differences(right, frequency, values - base)
        right.set_ylabel(f"{method.name} minus {methods[0].name}", parse_math=False)
    return figure


def log_counts(axes: Axes, frequency: ClassFrequency) -> np.ndarray:
    """Set up the axis of training images; returns where each category stands on it."""
    axes.set(xscale="log", xlabel="training images of the category")
    for limit in (10.5, 100.5):
        axes.axvline(limit, color="#9ca3af", linewidth=0.8, linestyle=":")
    tidy(axes)
    # A category without training images would be lost on a log axis.
    counts = np.maximum(frequency.image_count, 0.7)
    axes.set_xlim(counts.min() / 1.3, counts.max() * 1.3)
    return counts


def plot_pairs(
    axes: Axes,
    baseline: Method,
    method: Method,
    frequency: ClassFrequency,
    base: np.ndarray,
    values: np.ndarray,
) -> None:
    """Both APs of each category, joined by a line."""
    counts = log_counts(axes, frequency)
    measured = ~np.isnan(base + values)
    segments = np.stack([np.stack([counts] * 2), np.stack([base, values])])[:, :, measured]
    axes.plot(*segments, color="#d1d5db", linewidth=1, zorder=1)
    size = 16 if len(counts) <= 200 else 5
    for owner, points in ((baseline, base), (method, values)):
        label = label_of(owner.name)
        axes.scatter(counts, points, s=size, color=owner.colour, label=label, zorder=2)
    add_legend(axes, fontsize=9)


def plot_category_differences(
    axes: Axes, frequency: ClassFrequency, difference: np.ndarray
) -> None:
    """The difference of each category, and its mean over each group."""
    counts = log_counts(axes, frequency)
    axes.axhline(0, color="#6b7280", linewidth=1)
    for index, (name, colour) in enumerate(zip(GROUP_NAMES, GROUP_COLOURS, strict=True)):
        mask = (frequency.groups == index) & ~np.isnan(difference)
        if not mask.any():
            continue
        mean = difference[mask].mean()
        size = 16 if len(counts) <= 200 else 5
        axes.scatter(counts[mask], difference[mask], s=size, color=colour, alpha=0.75)
        span = [counts[mask].min(), counts[mask].max()]
        axes.plot(span, [mean] * 2, color=colour, linewidth=2.5, label=f"{name}: mean {mean:+.1f}")
    at_least(axes, "y", 1)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
