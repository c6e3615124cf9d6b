"""Test a checkpoint.

Examples:

    python tools/test.py CONFIG work_dirs/NAME/iter_90000.pth --classwise
    bash tools/dist_test.sh CONFIG CHECKPOINT 8 --results work_dirs/NAME/val
"""

from __future__ import annotations

import argparse
import os
import os.path as osp
from collections.abc import Sequence

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch.distributed.elastic.multiprocessing.errors import record

import mmdet_droploss  # noqa: F401  (checks the environment before anything slow)
from mmdet_droploss.engine import lost_processes_explained, prepare_run
from mmdet_droploss.evaluation.dump_results import StreamedDetResults


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--work-dir", help="where logs go; default: work_dirs/CONFIG_NAME")
    parser.add_argument("--out", metavar="FILE.pkl", help="dump the predictions as a pickle")
    parser.add_argument(
        "--results",
        metavar="PREFIX",
        help="write PREFIX.bbox.json, PREFIX.segm.json (detections in LVIS format) and "
        "PREFIX.metrics.json (all numbers, also per category)",
    )
    parser.add_argument("--classwise", action="store_true", help="print AP per category")
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument("--show-dir", help="save pictures of predictions here")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds per shown image")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override entries of the config, e.g. model.test_cfg.rcnn.score_thr=0.0",
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what started the processes; dist_test.sh sets it",
    )
    # Older launchers pass --local_rank; torchrun sets LOCAL_RANK.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.out is not None and not args.out.endswith((".pkl", ".pickle")):
        parser.error(f"--out must end in .pkl or .pickle, but it is {args.out!r}")
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config with the command line's changes."""
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = osp.join("work_dirs", osp.splitext(osp.basename(args.config))[0])
    cfg.load_from = args.checkpoint
    cfg.resume = False
    evaluators = (
        cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    )
    for evaluator in evaluators:
        if args.results is not None:
            evaluator.outfile_prefix = args.results
        if args.classwise:
            evaluator.classwise = True
    if args.show or args.show_dir:
        hook = cfg.default_hooks.visualization
        hook.draw = True
        if args.show:
            hook.show, hook.wait_time = True, args.wait_time
        if args.show_dir:
            hook.test_out_dir = args.show_dir
    # Weights for a fresh start are not needed, and may not be at hand.
    if "backbone" in cfg.model:
        cfg.model.backbone.init_cfg = None
    return cfg


@record  # so that torchrun ends with the error of the process that failed first
def main(argv: Sequence[str] | None = None) -> None:
    """Test."""
    args = parse_args(argv)
    cfg = load_config(args)
    prepare_run(cfg, args.launcher)
    runner = Runner.from_cfg(cfg) if "runner_type" not in cfg else RUNNERS.build(cfg)
    if args.out is not None:
        runner.test_evaluator.metrics.append(StreamedDetResults(args.out))
    remedy = "Start the test again."
    with lost_processes_explained(remedy):
        runner.test()


if __name__ == "__main__":
    main()
