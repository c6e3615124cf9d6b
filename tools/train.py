"""Train a detector.

Examples:

    python tools/train.py configs/mini_lvis/mask_rcnn_r18_fpn_mini_lvis.py
    bash tools/dist_train.sh configs/droploss/mask_rcnn_r50_fpn_lvis.py 8
    bash tools/dist_train.sh CONFIG 4 --auto-scale-lr --amp --resume
"""

from __future__ import annotations

import argparse
import os
import os.path as osp
from collections.abc import Sequence

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch.distributed.elastic.multiprocessing.errors import record

import mmdet_droploss  # noqa: F401  (checks the environment before anything slow)
from mmdet_droploss.engine import lost_processes_explained, prepare_run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--work-dir", help="where logs and checkpoints go; default: work_dirs/CONFIG_NAME"
    )
    parser.add_argument(
        "--amp", action="store_true", help="automatic mixed precision (float16 on GPUs)"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by this run's batch size / auto_scale_lr.base_batch_size",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from the latest checkpoint in the work dir, or from the one given",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override entries of the config, e.g. optim_wrapper.optimizer.lr=0.01; lists as "
        'KEY="[a,b]"',
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what started the processes; dist_train.sh sets it",
    )
    # Older launchers pass --local_rank; torchrun sets LOCAL_RANK.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
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
    if args.amp:
        if not torch.cuda.is_available():
            raise RuntimeError("--amp needs a GPU: MMEngine has no mixed precision for the CPU")
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise ValueError(
                f"--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in {args.config}"
            )
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
    return cfg


@record  # so that torchrun ends with the error of the process that failed first
def main(argv: Sequence[str] | None = None) -> None:
    """Train."""
    args = parse_args(argv)
    cfg = load_config(args)
    prepare_run(cfg, args.launcher)
    runner = Runner.from_cfg(cfg) if "runner_type" not in cfg else RUNNERS.build(cfg)
    remedy = (
        f"To go on from the last checkpoint in {runner.work_dir}, start it again with --resume."
    )
    with lost_processes_explained(remedy):
        runner.train()


if __name__ == "__main__":
    main()
