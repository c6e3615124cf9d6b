r"""The columns of the paper's Tables 1 to 3 from tested runs: mean and deviation over seeds.

Every run is the work dir of a training that was tested with ``--results WORK_DIR/val``.

Examples:
    # three seeds of each: the same name again
    python tools/analysis_tools/paper_tables.py \
        --run "BCE=work_dirs/bce_0" --run "BCE=work_dirs/bce_1" --run "BCE=work_dirs/bce_2" \
        --run "DropLoss=work_dirs/drop_0" --run "DropLoss=work_dirs/drop_1" \
        --run "DropLoss=work_dirs/drop_2" --out work_dirs/tables

    # with the paper's row of the same loss below each
    ... --paper "LVIS v0.5"

    # detectors without masks
    ... --iou-type bbox

Writes OUT/tables.md, OUT/tables.tex (with booktabs) and OUT/tables.csv (full precision), and prints
the first. AP is in percent, AR is that of 300 detections an image. A run that cannot be used is
named and left out; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmdet_droploss.analysis.comparable_runs import load_tested
from mmdet_droploss.analysis.paper_tables import (
    PAPER_DATA,
    build_rows,
    to_csv,
    to_latex,
    to_markdown,
)
from mmdet_droploss.analysis.runs import IOU_TITLES
from mmdet_droploss.utils import write_atomically


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run",
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="a tested run; the same name again is another seed of it",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where tables.* go")
    parser.add_argument(
        "--paper",
        choices=PAPER_DATA,
        help="put the paper's row of the same loss below each method, on this data set",
    )
    parser.add_argument(
        "--iou-type", choices=IOU_TITLES, default="segm", help="AP of masks (segm) or boxes (bbox)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables; returns the exit status."""
    args = parse_args(argv)
    try:
        methods, problems = load_tested(args.run, args.iou_type)
    except ValueError as error:
        sys.exit(f"paper_tables.py: error: {error}")
    rows = build_rows(methods, args.iou_type, args.paper)
    for suffix, write in (("tex", to_latex), ("csv", to_csv), ("md", to_markdown)):
        write_atomically(args.out / f"tables.{suffix}", write(rows, args.iou_type))
    print(to_markdown(rows, args.iou_type), end="")
    print(f"\nwrote {args.out}/tables.md, .tex and .csv")
    for sentence in problems:
        print(f"paper_tables.py: {sentence}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
