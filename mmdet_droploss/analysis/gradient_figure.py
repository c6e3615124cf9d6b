"""The paper's Figure 1 from a recorded training: as a picture, and as a table of its medians."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..annotations import GROUP_NAMES, ClassFrequency
from ..engine.gradient_record import GradientRecord

#: Okabe and Ito's blue, orange and vermilion: told apart also by colour-blind people.
BLUE, ORANGE, VERMILION = "#0072B2", "#E69F00", "#D55E00"
#: Behind the curves: frequent white, common orange, rare yellow, as in the paper.
SHADES = {"common": "#FCE8CF", "rare": "#FFF9C4"}
NOT_MEASURED = (
    "Background's share is not measured: this loss has a separate objectness, through which "
    "background lowers the scores."
)


def draw_gradient_figure(record: GradientRecord, head: int = -1) -> Figure:
    """Draw Figure 1(a) and (b) side by side, categories from frequent to rare.

    (a) is the share of background proposals and of foreground proposals of other categories in the
    discouraging gradient, over the whole training. (b) is the mean score on background proposals in
    the first and in the last stage. Thin lines are categories, thick ones a running median. The
    title says so if the record has gaps, as that of a training that was stopped within a stage. Of
    a loss with separate objectness, (a) is not measured.

    Args:
        record: With ``image_count``.
        head: Which head of a cascade; by default its last.

    Returns:
        The figure, for ``savefig``.

    Raises:
        ValueError: If the record has no image counts, no stage, no such head, or a stage whose
            values are not finite.
    """
    frequency = _check(record, head)
    order = np.argsort(-frequency.image_count, kind="stable")
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        _shade(axes, frequency.groups[order])
        axes.set(xlabel="categories, the most frequent first", xlim=(0.5, len(order) + 0.5))
        axes.spines[["top", "right"]].set_visible(False)

    if record.measures_background:
        share = 100 * record.background_share()[head, order]
        _curve(left, 100 - share, BLUE, "foreground of other categories")
        _curve(left, share, ORANGE, "background")
        left.legend(frameon=False, fontsize="small")
    else:
        words = textwrap.fill(NOT_MEASURED, 40)
        left.text(0.5, 0.5, words, transform=left.transAxes, ha="center", va="center")
    left.set(ylim=(0, 100), ylabel="share of the discouraging gradient (%)")
    title = f"(a) {record.loss}, iterations {_span(record, 0, -1)}{_gaps(record)}"
    left.set_title(title, loc="left", pad=18)

    first, last = record.background_score[0, head][order], record.background_score[-1, head][order]
    _curve(right, first, VERMILION, f"iterations {_span(record, 0, 0)}")
    _curve(right, last, BLUE, f"iterations {_span(record, -1, -1)}")
    right.set(yscale="log", ylabel="mean score on background proposals")
    right.set_title(f"(b) {record.loss}", loc="left", pad=18)
    right.legend(frameon=False, fontsize="small")
    return figure


@dataclass(frozen=True)
class GroupMedians:
    """What the figure shows of a frequency group: medians over its categories.

    Args:
        share: Of background in the discouraging gradient, in percent; NaN where there was none.
        first: The mean score on background proposals in the first stage.
        last: The same in the last stage.
    """

    share: float
    first: float
    last: float


def group_medians(record: GradientRecord, head: int = -1) -> dict[str, GroupMedians]:
    """The medians of each frequency group that has categories, from rare to frequent.

    Args:
        record: With ``image_count``.
        head: Which head of a cascade; by default its last.

    Raises:
        ValueError: As :func:`draw_gradient_figure`.
    """
    groups = _check(record, head).groups
    share, score = 100 * record.background_share()[head], record.background_score[:, head]
    found = {}
    for index, name in enumerate(GROUP_NAMES):
        if (chosen := groups == index).any():
            known = share[chosen][~np.isnan(share[chosen])]
            first, last = (float(np.median(score[stage, chosen])) for stage in (0, -1))
            middle = float(np.median(known)) if len(known) else np.nan
            found[name] = GroupMedians(middle, first, last)
    return found


def gradient_table(record: GradientRecord, head: int = -1) -> str:
    """:func:`group_medians` as a Markdown table."""
    lines = [
        "| categories | background's share of the discouraging gradient | mean score on background,"
        f" iterations {_span(record, 0, 0)} | iterations {_span(record, -1, -1)} |",
        "|:--|--:|--:|--:|",
    ]
    for name, of_group in group_medians(record, head).items():
        percent = "–" if np.isnan(of_group.share) else f"{of_group.share:.0f} %"
        lines.append(f"| {name} | {percent} | {of_group.first:.1e} | {of_group.last:.1e} |")
    if not record.measures_background:
        lines += ["", NOT_MEASURED]
    return "\n".join(lines)


def _check(record: GradientRecord, head: int) -> ClassFrequency:
    """The frequencies of the record's categories, if there is something to show."""
    if len(record.image_count) != record.num_classes:
        raise ValueError(
            f"the record tells {len(record.image_count)} image counts for {record.num_classes} "
            f"categories; give the frequencies of the training set"
        )
    if len(record.stages) == 0:
        raise ValueError("the record has no stage yet: the run has not got that far")
    num_heads = record.background.shape[1]
    if not -num_heads <= head < num_heads:
        raise ValueError(f"the record has {num_heads} head(s), so there is no head {head}")
    if record.not_finite.any():
        index = int(np.argmax(record.not_finite))
        raise ValueError(
            f"the gradients of iterations {_span(record, index, index)} are NaN or infinite: the "
            f"training diverged there; record one that does not"
        )
    return ClassFrequency(np.asarray(record.image_count))


def _span(record: GradientRecord, first: int, last: int) -> str:
    return f"{record.stages[first, 0]:,} to {record.stages[last, 1]:,}"


def _gaps(record: GradientRecord) -> str:
    """How many iterations are in the sums, if not all."""
    seen = int(np.diff(record.stages).sum())
    total = int(record.stages[-1, 1] - record.stages[0, 0])
    return "" if seen == total else f" ({seen:,} of {total:,} iterations)"


def _shade(axes: Axes, groups: np.ndarray) -> None:
    for index, name in enumerate(GROUP_NAMES):
        places = np.flatnonzero(groups == index)
        if len(places) == 0:
            continue
        if name in SHADES:
            axes.axvspan(places[0] + 0.5, places[-1] + 1.5, color=SHADES[name], lw=0, zorder=0)
        middle = places.mean() + 1
        axes.text(middle, 1.0, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom",
                  fontsize="small", color="#555555")  # fmt: skip


def _curve(axes: Axes, values: np.ndarray, colour: str, label: str) -> None:
    rank = np.arange(1, len(values) + 1)
    axes.plot(rank, values, color=colour, lw=0.6, alpha=0.45)
    axes.plot(rank, running_median(values), color=colour, lw=2, label=label)


def running_median(values: np.ndarray) -> np.ndarray:
    """The median of about a twentieth of the values around each, without NaN.

    Args:
        values: (C,).

    Returns:
        (C,); NaN where there is no value around.
    """
    reach = max(len(values) // 40, 1)
    padded = np.pad(values.astype(np.float64), reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    medians = np.full(len(values), np.nan)
    known = ~np.isnan(windows).all(axis=1)
    medians[known] = np.nanmedian(windows[known], axis=1)
    return medians
