r"""Compare two or more tested runs: a table, figures and a report in one HTML file.

Every run is the work dir of a training that was tested with ``--results WORK_DIR/val``:

    bash tools/dist_train.sh CONFIG 2 --work-dir WORK_DIR
    bash tools/dist_test.sh CONFIG WORK_DIR/iter_1600.pth 2 --results WORK_DIR/val

Examples:
    # the first run is the baseline that the others are compared with
    python tools/analysis_tools/compare_runs.py \
        --ann data/mini_lvis/annotations/lvis_v1_val.json \
        --train-ann data/mini_lvis/annotations/lvis_v1_train.json \
        --run "sigmoid BCE=work_dirs/sigmoid" --run "DropLoss=work_dirs/droploss" \
        --out work_dirs/comparison

    # several seeds of each: the same name again; the table gives mean and standard deviation
    ... --run "BCE=work_dirs/bce_0" --run "BCE=work_dirs/bce_1" \
        --run "DropLoss=work_dirs/drop_0" --run "DropLoss=work_dirs/drop_1"

Writes OUT/report.html, which contains its figures and can be mailed as it is, and the figures as
PNG files beside it. The headline table also goes to the screen, in Markdown.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mmdet_droploss.analysis.arguments import add_picture_options
from mmdet_droploss.analysis.report import build_figures, compare, render
from mmdet_droploss.analysis.tables import markdown
from mmdet_droploss.utils import write_atomically


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--ann", type=Path, required=True, help="annotations that the runs were tested on")
    add(
        "--train-ann",
        required=True,
        help="annotations of the training set, for the number of training images of a category; "
        "or the small JSON of class_frequency.py, 'lvis_v1' or 'lvis_v0.5'",
    )
    add(
        "--run",
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="a tested run; the first is the baseline, the same name again is another seed of it",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="where report.html and PNGs go")
    add_picture_options(parser, "0.3")
    add(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="draws of val images for the intervals (1000; 0: no intervals, faster on LVIS)",
    )
    add(
        "--command",
        action="append",
        default=[],
        metavar="TEXT",
        help="a command that made the runs, to be listed in the report",
    )
    args = parser.parse_args(argv)
    args.own_command = own_command(sys.argv[1:] if argv is None else argv)
    for name in ("images", "bootstrap"):
        if getattr(args, name) < 0:
            parser.error(f"--{name} must be at least 0, but it is {getattr(args, name)}")
    return args


def own_command(arguments: Sequence[str]) -> str:
    """This program's command line, without the commands that it quotes."""
    kept = ["python", "tools/analysis_tools/compare_runs.py"]
    rest = iter(arguments)
    for argument in rest:
        if argument == "--command":
            next(rest)
        elif not argument.startswith("--command="):
            kept.append(argument)
    return shlex.join(kept)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report and print the table."""
    args = parse_args(argv)
    try:
        comparison = compare(args.ann, args.train_ann, args.run, args.bootstrap)
        figures = build_figures(comparison, args.img_root, args.images, args.score_thr)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"compare_runs.py: error: {error}")
    report = render(comparison, figures, args.score_thr, [*args.command, args.own_command])
    for name, png in figures.items():
        write_atomically(args.out / f"{name}.png", png)
    write_atomically(args.out / "report.html", report)
    print(markdown(comparison.tables()))
    for title in comparison.left_out:
        print(f"\n{title} is left out: not all runs were tested for it")
    for sentence in comparison.without_interval:
        print(f"\n{sentence}")
    print(f"\n{comparison.detections.protocol()}")
    print(f"\nreport: {args.out / 'report.html'}")


if __name__ == "__main__":
    main()
