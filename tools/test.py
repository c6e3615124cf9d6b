"""Test a checkpoint.

Examples:
    python tools/test.py CONFIG work_dirs/NAME/iter_90000.pth --classwise
    bash tools/dist_test.sh CONFIG CHECKPOINT 8 --results work_dirs/NAME/val
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmengine.config import Config
from torch.distributed.elastic.multiprocessing.errors import record

import mmdet_droploss  # noqa: F401  (checks the environment before anything slow)
from mmdet_droploss.engine import launched_runner, use_test_time_augmentation
from mmdet_droploss.engine.command_line import config_from, make_parser
from mmdet_droploss.engine.config_checks import set_in_metrics, visualization_hook
from mmdet_droploss.evaluation.dump_results import StreamedDetResults


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", metavar="FILE.pkl", help="dump the predictions as a pickle")
    parser.add_argument(
        "--results",
        metavar="PREFIX",
        help="write PREFIX.bbox.json, PREFIX.segm.json (detections in LVIS format) and "
        "PREFIX.metrics.json (all numbers, also per category)",
    )
    parser.add_argument("--classwise", action="store_true", help="print AP per category")
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument(
        "--show-dir", help="save pictures of predictions here; a path in WORK_DIR/TIME, if relative"
    )
    parser.add_argument("--wait-time", type=float, default=2, help="seconds per shown image")
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation by the config's tta_model and tta_pipeline; boxes only",
    )
    args = parser.parse_args(argv)
    if args.out is not None and not args.out.endswith((".pkl", ".pickle")):
        parser.error(f"--out must end in .pkl or .pickle, but it is {args.out!r}")
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config with the command line's changes."""
    cfg = config_from(args, "test")
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.results is not None:
        set_in_metrics(cfg, "outfile_prefix", args.results, "--results", only_one=True)
    if args.classwise:
        set_in_metrics(cfg, "classwise", True, "--classwise")
    if args.show or args.show_dir:
        hook = visualization_hook(cfg)
        hook.draw = True
        if args.show:
            hook.show, hook.wait_time = True, args.wait_time
        if args.show_dir:
            hook.test_out_dir = args.show_dir
    # Weights for a fresh start are not needed, and may not be at hand.
    if "backbone" in cfg.model:
        cfg.model.backbone.init_cfg = None
    if args.tta:
        use_test_time_augmentation(cfg)
    return cfg


@record  # so that torchrun ends with the error of the process that failed first
def main(argv: Sequence[str] | None = None) -> None:
    """Test."""
    args = parse_args(argv)
    cfg = load_config(args)
    with launched_runner(cfg, args.launcher, "Start the test again.") as runner:
        if args.out is not None:
            runner.test_evaluator.metrics.append(StreamedDetResults(args.out))
        runner.test()


if __name__ == "__main__":
    main()
