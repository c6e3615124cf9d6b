"""Options that several programs of tools/analysis_tools have."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_picture_options(options: argparse._ActionsContainer, score_thr: str) -> None:
    """``--img-root``, ``--images`` and ``--score-thr``, for :class:`.gallery.Gallery`.

    Args:
        options: A parser, or a group of its options.
        score_thr: The default of ``--score-thr``, and behind a comma what else help says of it.
    """
    options.add_argument(
        "--img-root",
        type=Path,
        help="folder that the images' paths start from (default: that of the runs' tests, by their "
        "configs, else the one above that of --ann)",
    )
    options.add_argument(
        "--images", type=int, default=4, metavar="N", help="val images to show (4; 0: none)"
    )
    options.add_argument(
        "--score-thr",
        type=float,
        default=float(score_thr.partition(",")[0]),
        metavar="X",
        help=f"show predictions with at least this score ({score_thr})",
    )
