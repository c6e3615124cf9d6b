"""Write a small long-tailed instance segmentation data set in exact LVIS v1 format.

Run ``python make_mini_lvis.py --help`` for what it makes, the options and examples.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mini_lvis.options import (
    CHARACTERS,
    MAX_SIZE,
    MIN_CATEGORIES,
    MIN_SIZE,
    MIN_TRAIN_IMAGES,
    STAMP_NAME,
    Options,
    UserError,
)

DESCRIPTION = f"""\
Write a small long-tailed instance segmentation data set in exact LVIS v1 format, which
MMDetection's LVISV1Dataset and lvis-api load unchanged:

  OUT_DIR/annotations/lvis_v1_train.json, lvis_v1_val.json
  OUT_DIR/annotations/classes.txt     category names, one a line, in label order
  OUT_DIR/train2017/000000000001.jpg, ...  OUT_DIR/val2017/...
  OUT_DIR/{STAMP_NAME}             the options it was made with

The categories are characters in several fonts, sizes, angles and colours on textured ground: it
takes shape to tell them apart. A third of them each is rare (1-10 train images), common
(11-100) and frequent (more). As in LVIS the train annotation is federated: every category
really occurs in many images, but is annotated only in some; elsewhere its objects stand there
unannotated. Val is balanced over the categories, and all its objects are annotated. It is
federated, too: an image judges detections of the categories that it shows and of those few that it
lists as absent.

The same options give the same bytes on one machine, whatever --workers. OUT_DIR appears only
when complete. If it holds the requested data set already, that is said and nothing is done.
"""

EPILOG = """\
examples:
  # the default: 60 categories, 2000 train and 400 val images of 160 x 160
  make_mini_lvis.py data/mini_lvis

  # the same, but every object annotated: rarity by occurrence alone
  make_mini_lvis.py data/mini_lvis_all --annotate all

  # the same, but a false detection counts in every val image
  make_mini_lvis.py data/mini_lvis_exhaustive --val exhaustive

  # a quick one for a smoke test
  make_mini_lvis.py /tmp/tiny --train-images 200 --val-images 40 --num-categories 9

  # the 1203 categories and the exact counts of LVIS v1, annotations only (about 1 GB)
  make_mini_lvis.py /tmp/lvis_like --like-lvis --train-images 99388 --val-images 19809 --no-images
"""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines and shows the defaults."""


def make_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    default = Options()
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=HelpFormatter
    )
    add = parser.add_argument
    add("out_dir", metavar="OUT_DIR", type=Path, help="directory to make")
    add(
        "--train-images",
        type=int,
        default=default.train_images,
        metavar="N",
        help="number of train images",
    )
    add(
        "--val-images",
        type=int,
        default=default.val_images,
        metavar="N",
        help="number of val images",
    )
    add(
        "--num-categories",
        type=int,
        default=default.num_categories,
        metavar="C",
        help=f"number of categories (characters), {MIN_CATEGORIES} to {len(CHARACTERS)}",
    )
    add(
        "--size",
        type=int,
        default=default.size,
        metavar="PIXELS",
        help="side of the square images; the objects scale with it",
    )
    add(
        "--objects-per-image",
        type=float,
        default=default.objects_per_image,
        metavar="X",
        help="mean number of objects in an image, annotated or not (with --annotate all: in a "
        "val image; train images then hold fewer, what the counts of the categories give)",
    )
    add(
        "--annotate",
        choices=("federated", "all"),
        default=default.annotate,
        help="federated: as LVIS, a rare category occurs often but is annotated rarely; all: "
        "every object is annotated, a rare category occurs rarely",
    )
    add(
        "--hidden",
        type=float,
        default=default.hidden,
        metavar="SHARE",
        help="of the unannotated objects of a federated training set, the share that is kept, from "
        "1 (as LVIS) to 0 (only second ones of a category that an image lists as not exhaustive); "
        "the annotated objects' number stays",
    )
    add(
        "--val",
        choices=("federated", "exhaustive"),
        default=default.val,
        help="federated: as LVIS, a val image lists only some categories as absent, and detections "
        "of the others do not count; exhaustive: it lists all that it does not show. The objects "
        "and the pictures are the same",
    )
    add(
        "--val-min-instances",
        type=int,
        default=default.val_min_instances,
        metavar="N",
        help="val must have at least so many instances of every category",
    )
    add("--seed", type=int, default=default.seed, help="another seed makes another data set")
    add(
        "--like-lvis",
        action="store_true",
        help="instead of characters, the 1203 categories of LVIS v1 with its counts, scaled to "
        "--train-images (99388: exactly its counts), on images of LVIS-like sizes (--size is "
        "ignored) with plain random shapes: to test code at scale, not to train a detector. "
        "Needs mmdet",
    )
    add("--no-images", action="store_true", help="with --like-lvis: write the annotations only")
    add(
        "--workers",
        type=int,
        default=min(os.cpu_count() or 1, 4),
        metavar="N",
        help="processes that draw the images; the result is the same for any number",
    )
    add(
        "--overwrite",
        action="store_true",
        help="make it anew even if OUT_DIR holds a data set that this program wrote",
    )
    add("--quiet", action="store_true", help="no progress and no summary")
    return parser


def require(
    parser: argparse.ArgumentParser,
    option: str,
    value: float,
    low: float,
    high: float | None = None,
    why: str = "",
) -> None:
    """End with a message if an option's value is out of range."""
    if value < low or (high is not None and value > high) or math.isnan(value):
        allowed = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
        parser.error(f"{option}: got {value:g}, allowed is {allowed}{why}")


def options_from(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Options:
    """Check the options; argparse reports what is wrong and exits with status 2."""
    require(parser, "--workers", args.workers, 1, 256)
    require(parser, "--seed", args.seed, 0)
    require(parser, "--val-images", args.val_images, 1)
    if args.like_lvis:
        if args.annotate != "federated":
            parser.error("--annotate: got all, with --like-lvis only federated is allowed")
        if args.val != "federated":
            parser.error("--val: got exhaustive, with --like-lvis only federated is allowed")
        if args.hidden != Options.hidden:
            parser.error("--hidden: not allowed with --like-lvis")
        require(parser, "--train-images", args.train_images, 1)
        # Options that have no say here stay at their defaults, so that the stamp matches.
        return Options(
            train_images=args.train_images,
            val_images=args.val_images,
            seed=args.seed,
            like_lvis=True,
            images=not args.no_images,
        )
    if args.no_images:
        parser.error(
            "--no-images: allowed only with --like-lvis (outlines of characters come "
            "from drawing them)"
        )
    require(
        parser,
        "--train-images",
        args.train_images,
        MIN_TRAIN_IMAGES,
        why=" (a frequent category is annotated in over 100 images)",
    )
    require(
        parser,
        "--num-categories",
        args.num_categories,
        MIN_CATEGORIES,
        len(CHARACTERS),
        why=" (as many characters can be told apart by their shape)",
    )
    require(parser, "--size", args.size, MIN_SIZE, MAX_SIZE)
    require(parser, "--objects-per-image", args.objects_per_image, 2, 9)
    require(parser, "--hidden", args.hidden, 0, 1)
    if args.annotate == "all" and args.hidden != Options.hidden:
        parser.error("--hidden: allowed only with --annotate federated, all has no such objects")
    require(parser, "--val-min-instances", args.val_min_instances, 0)
    return Options(
        train_images=args.train_images,
        val_images=args.val_images,
        num_categories=args.num_categories,
        size=args.size,
        seed=args.seed,
        objects_per_image=args.objects_per_image,
        hidden=args.hidden,
        val_min_instances=args.val_min_instances,
        annotate=args.annotate,
        val=args.val,
    )


def summary(target: Path, table: str, totals: dict[str, dict[str, int]], seconds: float) -> str:
    """What was made, for people."""
    lines = [table, ""]
    for split, total in totals.items():
        mean = total["annotations"] / total["images"]
        lines.append(
            f"{split}: {total['images']} images, {total['annotations']} annotated "
            f"instances ({mean:.2f} an image)"
        )
    return "\n".join([*lines, f"wrote {target} in {seconds:.1f} s"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    options = options_from(parser, args)
    started = time.monotonic()
    try:
        # Not at the top: every process that draws imports this file, and needs none of this.
        from mini_lvis.build import generate

        result = generate(args.out_dir, options, args.workers, args.overwrite, args.quiet)
    except UserError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("interrupted: nothing was left behind", file=sys.stderr)
        return 130
    if result is None:
        print(
            f"{args.out_dir} holds this data set already: nothing to do (--overwrite makes it anew)"
        )
    elif not args.quiet:
        print(summary(args.out_dir, result.table, result.totals, time.monotonic() - started))
    return 0


def exit_on_terminate(*_: object) -> None:
    """Make SIGTERM clean up as an interrupt does."""
    raise SystemExit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, exit_on_terminate)
    sys.exit(main())
