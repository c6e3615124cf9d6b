"""Show the long tail of a data set, and save its category frequencies as a small JSON file.

Examples:
    # an annotation file in LVIS or COCO format, or the figures bundled with the package
    python tools/analysis_tools/class_frequency.py data/mini_lvis/annotations/lvis_v1_train.json
    python tools/analysis_tools/class_frequency.py lvis_v1

    # what a threshold of your own takes as the tail (f_j < lambda_); several can be compared
    python tools/analysis_tools/class_frequency.py lvis_v1 --lambda 0.00177 0.001

    # a picture, and a small file that the losses read at once instead of a 1 GB annotation file:
    #   loss_cls=dict(type='DropLoss', class_freq='my_counts.json', ...)
    python tools/analysis_tools/class_frequency.py ANN.json --plot tail.png --out my_counts.json

    # are all pictures there, and of the size that the annotation file says? (EXIF turns some)
    python tools/analysis_tools/class_frequency.py ANN.json --check-images data/mine/images
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.progress import track
from terminaltables import AsciiTable

from mmdet_droploss.annotations import (
    BUNDLED,
    GROUP_NAMES,
    ClassFrequency,
    check_pictures,
    load_class_frequency,
    read_annotation_file,
)
from mmdet_droploss.utils import write_atomically

GROUP_RANGES = ("at most 10", "11-100", "over 100")
MAX_NAMED = 10  # pictures that are not as they should be
GROUP_COLOURS = ("#c2410c", "#0f766e", "#4f46e5")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "class_freq",
        metavar="ANN.json",
        help="annotations of the TRAINING set (LVIS or COCO format), a file that --out wrote, or "
        "'lvis_v1' or 'lvis_v0.5'",
    )
    parser.add_argument(
        "--lambda",
        dest="lambdas",
        type=float,
        nargs="+",
        default=[],
        metavar="X",
        help="also show the tail of the losses' lambda_=X",
    )
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="rarest and most frequent to list (10)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the long tail")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="write the frequencies; class_freq takes it"
    )
    parser.add_argument(
        "--check-images",
        type=Path,
        metavar="DIR",
        help="compare the size of every picture in DIR with the annotation file; exit status 1 if "
        "one differs, is missing or cannot be read",
    )
    args = parser.parse_args(argv)
    if args.top < 0:
        parser.error(f"--top must be at least 0, but it is {args.top}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report and write what was asked for."""
    args = parse_args(argv)
    try:
        frequency = load(args.class_freq)
        print(describe(frequency, args.lambdas, args.top))
        for path in (args.out, args.plot):
            if path is not None and path.resolve() == Path(args.class_freq).resolve():
                raise ValueError(f"{path} is the file that is read, and would be lost")
        if args.out is not None:
            write_atomically(args.out, frequency.to_json())
            print(f"\nwrote {args.out}: class_freq='{args.out}' reads it")
        if args.plot is not None:
            write_atomically(args.plot, plot(frequency))
            print(f"\nwrote {args.plot}")
    except (ValueError, OSError) as error:
        sys.exit(f"class_frequency.py: error: {error}")
    if args.check_images is not None:
        try:
            images = read_annotation_file(args.class_freq, require_annotations=False).images
        except (ValueError, OSError) as error:
            sys.exit(f"class_frequency.py: error: --check-images needs an annotation file: {error}")
        sys.exit(check_images(images, args.check_images))


def check_images(images: list[dict], folder: Path) -> int:
    """Look at all pictures, with a progress bar; returns the exit status."""
    problems = [
        problem
        for problem in track(check_pictures(images, folder), "looking at pictures", len(images))
        if problem is not None
    ]
    print(f"\n{len(images):,} images, {len(problems):,} with a picture that is not as it should be")
    for problem in problems[:MAX_NAMED]:
        print(f"  image id {problem.image_id}, {problem.path}: {problem.text}")
    if len(problems) > MAX_NAMED:
        print(f"  ... and {len(problems) - MAX_NAMED:,} more")
    return 1 if problems else 0


def load(class_freq: str) -> ClassFrequency:
    """Read the frequencies, under the name that the user gave, with category names if possible."""
    frequency = load_class_frequency(class_freq)
    classes = frequency.classes
    if class_freq in BUNDLED:
        # The bundled files hold figures only; MMDetection knows the names.
        # Not before mmdet_droploss, which lets torchvision's operators stand in for mmcv's.
        from mmdet.datasets import LVISV05Dataset, LVISV1Dataset

        dataset = {"lvis_v0.5": LVISV05Dataset, "lvis_v1": LVISV1Dataset}[class_freq]
        classes = tuple(dataset.METAINFO["classes"])
    return dataclasses.replace(frequency, source=class_freq, classes=classes)


def describe(frequency: ClassFrequency, lambdas: Sequence[float], top: int) -> str:
    """The report as text.

    Args:
        frequency: The data set.
        lambdas: Values of ``lambda_`` to show the tail for, besides the default.
        top: How many of the rarest and of the most frequent categories to list.
    """
    parts = [headline(frequency), group_table(frequency), tail_lines(frequency, lambdas)]
    if top:
        parts.append(extremes_table(frequency, top))
    return "\n\n".join(parts)


def headline(frequency: ClassFrequency) -> str:
    """One line: how large the data set is."""
    parts = [f"{frequency.num_classes:,} categories"]
    if frequency.num_images is not None:
        parts.append(f"{frequency.num_images:,} annotated images")
    if frequency.instance_count is not None:
        parts.append(f"{frequency.instance_count.sum():,} instances")
    line = f"{frequency.source}: {', '.join(parts)}"
    absent = int((frequency.image_count == 0).sum())
    if absent:
        line += f"\nin no image at all, counted as rare: {absent}"
    return line


def group_table(frequency: ClassFrequency) -> str:
    """Categories and instances of LVIS's three groups."""
    rows = [["group", "images each", "categories", "share", "instances", "share"]]
    masks = [frequency.groups == index for index in range(len(GROUP_NAMES))]
    names = zip((*GROUP_NAMES, "all"), (*GROUP_RANGES, ""), strict=True)
    everything = np.ones(frequency.num_classes, dtype=bool)
    for (name, span), mask in zip(names, [*masks, everything], strict=True):
        rows.append([name, span, *shares(frequency, mask)])
    return as_table(rows)


def shares(frequency: ClassFrequency, mask: np.ndarray) -> list[str]:
    """Number and share of the categories in a mask, and of their instances."""
    cells = [f"{mask.sum():,}", f"{mask.mean():.1%}"]
    counts = frequency.instance_count
    if counts is None:
        return [*cells, "unknown", ""]
    return [*cells, f"{counts[mask].sum():,}", f"{counts[mask].sum() / max(counts.sum(), 1):.1%}"]


def tail_lines(frequency: ClassFrequency, lambdas: Sequence[float]) -> str:
    """What the losses take as the tail, T(f_j) = 1."""
    lines = ["tail, T(f) = 1 (what EQL, BEQL and DropLoss treat as of low frequency):"]
    lines.append(tail_line("default, at most 100 images", frequency, frequency.tail()))
    for value in lambdas:
        tail = frequency.tail(value)
        # By the rule itself: value * num_images is rounded otherwise than count / num_images.
        counts = np.arange(frequency.num_images + 1)
        most = ClassFrequency(counts, frequency.num_images).tail(value).sum() - 1
        lines.append(tail_line(f"lambda_={value:g}, at most {most} images", frequency, tail))
    return "\n".join(lines)


def tail_line(title: str, frequency: ClassFrequency, tail: np.ndarray) -> str:
    """One threshold: how many categories it takes from each group."""
    groups = ", ".join(
        f"{(tail & (frequency.groups == index)).sum()} {name}"
        for index, name in enumerate(GROUP_NAMES)
    )
    line = f"  {title}: {tail.sum()} of {frequency.num_classes} categories ({groups})"
    if frequency.instance_count is not None:
        line += f", {shares(frequency, tail)[-1]} of the instances"
    return line


def extremes_table(frequency: ClassFrequency, top: int) -> str:
    """The rarest and the most frequent categories, side by side."""
    order = np.argsort(frequency.image_count, kind="stable")
    top = min(top, len(order))
    names = frequency.classes or tuple(f"category {k + 1}" for k in range(frequency.num_classes))
    rows = [[f"{top} rarest", "images", f"{top} most frequent", "images"]]
    for low, high in zip(order[:top], order[::-1][:top], strict=True):
        counts = frequency.image_count
        rows.append([names[low], f"{counts[low]:,}", names[high], f"{counts[high]:,}"])
    return as_table(rows, right=(1, 3))


def as_table(rows: list[list[str]], right: Sequence[int] = (2, 3, 4, 5)) -> str:
    """Rows as a table; the columns in ``right`` hold numbers."""
    table = AsciiTable(rows)
    table.justify_columns = dict.fromkeys(right, "right")
    return table.table


def plot(frequency: ClassFrequency) -> bytes:
    """The long tail as a PNG: image counts in descending order on a log axis."""
    order = np.argsort(-frequency.image_count, kind="stable")
    counts, groups = frequency.image_count[order], frequency.groups[order]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    rank = np.arange(1, len(counts) + 1)
    for index in reversed(range(len(GROUP_NAMES))):
        mask = groups == index
        label = f"{GROUP_NAMES[index]} ({GROUP_RANGES[index]} images): {mask.sum()}"
        # A category without images has no place on a log axis; it shows as an empty slot.
        axes.bar(rank[mask], counts[mask], width=1, color=GROUP_COLOURS[index], label=label)
    axes.set(yscale="log", xlim=(0.5, len(counts) + 0.5), ylim=(0.7, None))
    axes.set(xlabel="categories, the most frequent first", ylabel="training images")
    axes.set_title(f"{Path(frequency.source).name}: {frequency.num_classes} categories")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
