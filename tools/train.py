"""Train a detector.

Examples:
    python tools/train.py configs/mini_lvis/mask_rcnn_r18_fpn_droploss_mini_lvis.py
    bash tools/dist_train.sh configs/droploss/mask_rcnn_r50_fpn_lvis.py 8
    bash tools/dist_train.sh CONFIG 4 --auto-scale-lr --amp --resume
"""

from __future__ import annotations

import argparse
import os
import os.path as osp
from collections.abc import Sequence

import torch
from mmengine.config import Config
from torch.distributed.elastic.multiprocessing.errors import record

import mmdet_droploss  # noqa: F401  (checks the environment before anything slow)
from mmdet_droploss.engine import launched_runner
from mmdet_droploss.engine.checkpoint_hook import has_checkpoint
from mmdet_droploss.engine.command_line import config_from, make_parser
from mmdet_droploss.engine.config_checks import warn_of_batch_size


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
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
        "--record-gradients",
        type=int,
        metavar="N",
        help="record the gradients of each category, in stages of N iterations, for "
        "tools/analysis_tools/gradient_figure.py",
    )
    return parser.parse_args(argv)


def load_config(args: argparse.Namespace) -> Config:
    """The config with the command line's changes."""
    cfg = config_from(args, "train")
    if args.amp:
        if not torch.cuda.is_available():
            raise RuntimeError("--amp needs a GPU: MMEngine has no mixed precision for the CPU")
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    if args.auto_scale_lr:
        if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
            raise ValueError(
                f"--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in {args.config}"
            )
        cfg.auto_scale_lr.enable = True
    if args.record_gradients is not None:
        hook = dict(type="CategoryGradientHook", interval=args.record_gradients)
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), hook]
    if _has_saved(cfg.work_dir) or (args.resume == "auto" and has_checkpoint(cfg)):
        cfg.resume, cfg.load_from = True, None
    elif args.resume == "auto":
        # At a first start there is nothing to resume from, and the config's load_from counts.
        cfg.resume = cfg.get("resume", False) or cfg.get("load_from") is None
    elif args.resume is not None:
        cfg.resume, cfg.load_from = True, args.resume
    return cfg


def _restarts() -> int:
    """How often torchrun (MAX_RESTARTS) has started this training again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def _has_saved(work_dir: str) -> bool:
    """Whether a training that torchrun has started again has a checkpoint since it was launched."""
    launched = float(os.environ.get("MMDET_DROPLOSS_LAUNCHED", 0))  # set by launch.sh
    last = osp.join(work_dir, "last_checkpoint")
    return _restarts() > 0 and osp.isfile(last) and osp.getmtime(last) >= launched


@record  # so that torchrun ends with the error of the process that failed first
def main(argv: Sequence[str] | None = None) -> None:
    """Train."""
    args = parse_args(argv)
    cfg = load_config(args)
    folder = osp.abspath(cfg.work_dir)
    remedy = f"To go on from the last checkpoint in {folder}, start it again with --resume."
    with launched_runner(cfg, args.launcher, remedy) as runner:
        if _restarts():
            runner.logger.warning(
                f"torchrun has started this training again after a failure (number {_restarts()} "
                f"of MAX_RESTARTS). It goes on from the last checkpoint that it has written to "
                f"{folder}; if there is none, it begins as it did before"
            )
        warn_of_batch_size(runner.cfg, runner.world_size)
        runner.train()


if __name__ == "__main__":
    main()
