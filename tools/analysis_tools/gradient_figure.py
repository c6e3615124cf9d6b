"""Draw the paper's Figure 1 from a training of your own: what suppresses the rare categories?

Two commands, with any loss of any config that has a bbox head:

    python tools/train.py CONFIG --record-gradients 500
    python tools/analysis_tools/gradient_figure.py work_dirs/NAME/category_gradients.npz

The first records a stage every 500 iterations (CategoryGradientHook). In the picture, (a) shows
which part of the gradient that lowers a category's scores comes from background proposals and which
from objects of other categories; (b) shows how far the scores on background fall. The medians of
each frequency group are printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmdet_droploss.analysis.figures import write_figure
from mmdet_droploss.analysis.gradient_figure import draw_gradient_figure, gradient_table
from mmdet_droploss.annotations import load_class_frequency
from mmdet_droploss.engine.gradient_record import load_gradient_record


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, metavar="RECORD.npz", help="what the hook wrote")
    parser.add_argument(
        "--class-freq",
        metavar="TRAIN.json",
        help="frequencies of the training set, if the record has none (a baseline without them)",
    )
    parser.add_argument(
        "--head", type=int, default=-1, help="stage of a cascade (default: its last)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PREFIX",
        help="writes PREFIX.png and PREFIX.svg",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, and print what the picture says."""
    args = parse_args(argv)
    try:
        record = load_gradient_record(args.record)
        if args.class_freq is not None:
            record = record.with_frequency(load_class_frequency(args.class_freq))
        figure = draw_gradient_figure(record, args.head)
        print(gradient_table(record, args.head))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"gradient_figure.py: error: {error}")
    prefix = args.out or args.record.with_suffix("")
    for path in write_figure(figure, prefix):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
