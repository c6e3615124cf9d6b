"""Draw the figures of the README and the documentation.

The weights in them come from the package's own functions, so a figure cannot drift from the code:

    python docs/make_figures.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmdet_droploss.models.losses import BEQL, EQL, DropLoss, SigmoidBCELoss  # noqa: E402
from mmdet_droploss.models.losses import equations as eq  # noqa: E402

# The example: 2 rare, 2 common and 3 frequent categories; 4 foreground proposals, 8 background.
GROUPS = {"rare": 2, "common": 2, "frequent": 3}
IMAGE_COUNTS = [5, 8, 50, 90, 500, 2000, 9000]
TAIL = torch.tensor(IMAGE_COUNTS) <= 100
BACKGROUND = len(TAIL)
LABELS = torch.tensor([4, 5, 4, 2] + [BACKGROUND] * 8)
LOG_BASE = 4
SEED, DRAW_SEED = 3, 8

DROPPED, KEPT, INK, MUTED = "#f6ecdf", "#1f5a8c", "#1c1c1c", "#6b6b6b"
COLOURS = LinearSegmentedColormap.from_list("weight", [DROPPED, "#8fb4d3", KEPT])


def example_logits() -> Tensor:
    """Logits such as a detector gives in training: low, lower still for rare categories."""
    generator = torch.Generator().manual_seed(SEED)
    typical = torch.tensor([0.12, 0.12, 0.2, 0.2, 0.4, 0.4, 0.4]).logit()
    return typical + 1.2 * torch.randn(len(LABELS), len(TAIL), generator=generator)


def targets() -> tuple[Tensor, Tensor]:
    """y, (N, C) bool, and E(r), (N,) bool, of the example."""
    return LABELS[:, None] == torch.arange(len(TAIL)), LABELS < BACKGROUND


def example_weights() -> tuple[dict[str, Tensor], Tensor]:
    """The weights w of four losses on the example, and DropLoss's mu, from the package itself.

    A loss has the gradient w (p - y), which tells its weights.
    """
    arguments = {"num_classes": len(TAIL), "class_freq": IMAGE_COUNTS, "reduction": "sum"}
    losses = {
        "Sigmoid BCE": SigmoidBCELoss(**arguments),
        "EQL": EQL(**arguments),
        f"BEQL (b = {LOG_BASE})": BEQL(log_base=LOG_BASE, **arguments),
        "DropLoss": DropLoss(**arguments),
    }
    logits = example_logits().requires_grad_()
    difference = logits.detach().sigmoid() - targets()[0].float()
    torch.manual_seed(DRAW_SEED)
    weights = {}
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss(logits, LABELS), logits)
        weights[name] = (gradient / difference).round(decimals=5)
    return weights, eq.drop_keep_probability(eq.batch_statistics(LABELS, TAIL), TAIL)


def draw_panel(axes: Axes, title: str, subtitle: str, weights: Tensor, y: Tensor) -> None:
    """One loss: a cell for each term, coloured by its weight."""
    rows, columns = weights.shape
    num_fg = int((LABELS < BACKGROUND).sum())
    gap = 0.45  # between foreground and background
    for row in range(rows):
        top = row + (gap if row >= num_fg else 0)
        for column in range(columns):
            weight = float(weights[row, column])
            axes.add_patch(
                plt.Rectangle(
                    (column, top), 1, 1, facecolor=COLOURS(weight), edgecolor="white", linewidth=1.6
                )
            )
            if 0.05 <= weight < 1:
                colour = "white" if weight > 0.6 else INK
                text = f"{weight:.1f}".lstrip("0")
                axes.text(
                    column + 0.5,
                    top + 0.53,
                    text,
                    color=colour,
                    fontsize=7,
                    ha="center",
                    va="center",
                )
            if y[row, column]:
                axes.plot(column + 0.5, top + 0.5, "o", color="white", markersize=5.5)
    start = 0
    for name, width in GROUPS.items():
        axes.text(start + width / 2, -0.28, name, ha="center", fontsize=8, color=INK)
        if start:
            axes.plot([start, start], [0, rows + gap], color=MUTED, linewidth=0.9, linestyle=":")
        start += width
    axes.text(0, -2.62, title, fontsize=12, fontweight="bold", color=INK, va="bottom")
    axes.text(0, -2.42, subtitle, fontsize=8.2, color=MUTED, va="top", linespacing=1.25)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows + gap, 0)
    axes.set_aspect("equal")
    axes.set_axis_off()


def draw_weights(path: Path) -> None:
    """Which terms each loss keeps: proposals down, categories across."""
    weights, mu = example_weights()
    y, fg = targets()
    num_fg, num_bg = int(fg.sum()), int((~fg).sum())
    subtitles = [
        "every term counts",
        "an object of another category\nspares the tail (rare, common)",
        "background spares it, too,\nas far as its score is low",
        "background counts by chance, that\nis the group's share of the objects\n"
        f"(here tail {mu[0]:.0%}, frequent {mu[-1]:.0%})",
    ]
    figure, panels = plt.subplots(1, 4, figsize=(11, 5.9))
    figure.subplots_adjust(left=0.105, right=0.985, top=0.72, bottom=0.11, wspace=0.14)
    figure.text(
        0.112,
        0.95,
        "Each cell is one term of the classification loss: a proposal (row) against a category "
        "(column). Which terms count?",
        fontsize=10.5,
        color=INK,
    )
    for axes, (title, weight), subtitle in zip(panels, weights.items(), subtitles, strict=True):
        draw_panel(axes, title, subtitle, weight, y)
    sides = [
        (num_fg / 2, f"{num_fg} proposals\non an object"),
        (num_fg + 0.45 + num_bg / 2, f"{num_bg} proposals\non background"),
    ]
    for height, text in sides:
        panels[0].text(-0.35, height, text, ha="right", va="center", fontsize=9, color=INK)
    legend = figure.add_axes((0, 0, 1, 0.1))
    legend.set_xlim(0, 11)
    legend.set_ylim(0, 0.6)
    legend.set_axis_off()
    entries = [
        (1.24, COLOURS(1.0), "the term counts (w = 1)"),
        (3.44, COLOURS(0.5), "it counts in part"),
        (5.14, COLOURS(0.0), "it is dropped (w = 0)"),
    ]
    for left, colour, text in entries:
        legend.add_patch(plt.Rectangle((left, 0.22), 0.2, 0.2, facecolor=colour))
        legend.text(left + 0.3, 0.31, text, va="center", fontsize=9, color=INK)
    legend.add_patch(plt.Rectangle((7.14, 0.22), 0.2, 0.2, facecolor=KEPT))
    legend.plot(7.24, 0.32, "o", color="white", markersize=5)
    legend.text(7.44, 0.31, "the ground-truth category: always counts", va="center", fontsize=9)
    figure.savefig(path, dpi=130, facecolor="white", metadata={"Software": None})
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(description="Draw the figures of the documentation.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "weights.png"
    draw_weights(path)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
