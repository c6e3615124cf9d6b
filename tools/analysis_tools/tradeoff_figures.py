r"""Draw the paper's Figures 2, 3 and 4 from your own tested runs: who pays for the rare categories?

Every run is the work dir of a training that was tested with ``--results WORK_DIR/val``.

Examples:
    # Figures 2(a), 2(b) and 3; several seeds: the same name again
    python tools/analysis_tools/tradeoff_figures.py \
        --run "EQL=work_dirs/eql" --run "BEQL, b = 2=work_dirs/beql_2" \
        --run "BEQL, b = 8=work_dirs/beql_8" --run "fixed drop 0.5=work_dirs/fixed_5" \
        --run "DropLoss=work_dirs/drop_0" --run "DropLoss=work_dirs/drop_1" \
        --out work_dirs/figures

    # other bases in Figure 2(a)
    ... --bases 2 4 10 100

    # also Figure 4: two methods on the same validation images
    ... --pictures EQL DropLoss --ann data/mini_lvis/annotations/lvis_v1_val.json \
        --train-ann data/mini_lvis/annotations/lvis_v1_train.json

Writes OUT/figure2a, figure2b, figure3 and figure4, each as .png and .svg. Loss, base and drop ratio
come from the training's config in the work dir; without one from the name, as above. A run that
cannot be used is named and left out; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmdet_droploss.analysis.arguments import add_picture_options
from mmdet_droploss.analysis.comparable_runs import common_iou_types, load_tested
from mmdet_droploss.analysis.runs import IOU_TITLES, InputError, Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--run",
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="a tested run; the same name again is another seed of it",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="where the figures go")
    add("--iou-type", choices=IOU_TITLES, default="segm", help="AP of masks (segm) or boxes (bbox)")
    add(
        "--bases",
        type=float,
        nargs="+",
        metavar="B",
        help="logarithm bases in Figure 2(a) (default: those of the runs)",
    )
    figure4 = parser.add_argument_group("Figure 4")
    add = figure4.add_argument
    add("--pictures", nargs=2, metavar="NAME", help="the two methods (their first seeds)")
    add("--ann", type=Path, help="annotations that the runs were tested on")
    add("--train-ann", help="annotations of the training set, or whatever class_freq may be")
    add_picture_options(figure4, "0.5, as in the paper")
    args = parser.parse_args(argv)
    if args.images < 0:
        parser.error(f"--images must be at least 0, but it is {args.images}")
    for base in args.bases or []:
        if not 1 < base < math.inf:
            parser.error(f"--bases must be numbers > 1, but one is {base:g}")
    if args.pictures and not (args.ann and args.train_ann):
        parser.error("--pictures needs --ann and --train-ann")
    return args


def draw_pictures(args: argparse.Namespace, methods: Sequence[Method]) -> Figure:
    """Figure 4: ground truth and two methods."""
    from mmdet_droploss.analysis.detections import Detections
    from mmdet_droploss.analysis.gallery import Gallery, picture_roots
    from mmdet_droploss.annotations import load_class_frequency

    by_name = {method.name: method for method in methods}
    for name in args.pictures:
        if name not in by_name:
            raise InputError(f"--pictures {name!r} is none of {', '.join(by_name)}")
    chosen = [by_name[name] for name in args.pictures]
    if "segm" not in common_iou_types(chosen):
        raise InputError("--pictures are of masks, and the runs were tested for boxes only")
    frequency = load_class_frequency(args.train_ann)
    detections = Detections(args.ann, frequency, ["segm"])
    detections.check_runs([method.runs[0] for method in chosen])
    roots = [args.img_root] if args.img_root else picture_roots(chosen, args.ann)
    return Gallery(detections, frequency, *roots).draw(chosen, args.images, args.score_thr)


def write(figure: Figure, prefix: Path) -> None:
    """PNG and SVG, and say so."""
    from mmdet_droploss.analysis.figures import write_figure

    write_figure(figure, prefix)
    print(f"wrote {prefix}.png and .svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what the runs have; returns the exit status."""
    args = parse_args(argv)
    try:
        methods, problems = load_tested(args.run, args.iou_type)
    except ValueError as error:
        sys.exit(f"tradeoff_figures.py: error: {error}")
    # matplotlib takes a second to import, and a mistake in the arguments should not wait for it.
    from mmdet_droploss.analysis import tradeoff_figures as figures

    bases = args.bases or figures.beql_bases(methods)
    if bases:
        write(figures.draw_weights(bases), args.out / "figure2a")
    else:
        print("no Figure 2(a): no run is of BEQL; --bases draws it anyway")
    if figures.beql_bases(methods):
        write(figures.draw_base_tradeoff(methods, args.iou_type), args.out / "figure2b")
    else:
        print("no Figure 2(b): no run is of BEQL with a known base")
    write(figures.draw_tradeoff(methods, args.iou_type), args.out / "figure3")
    if args.pictures and args.images:
        try:
            write(draw_pictures(args, methods), args.out / "figure4")
        except (ValueError, FileNotFoundError) as error:
            problems.append(f"no Figure 4: {error}")
    for sentence in figures.not_drawn(methods, args.iou_type):
        print(sentence)
    for key in ("APc", "APr"):
        frequent, other = (f"{args.iou_type}_{k}" for k in ("APf", key))
        print("\n".join(figures.frontier_sentences(methods, frequent, other)))
    for sentence in problems:
        print(f"tradeoff_figures.py: {sentence}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
