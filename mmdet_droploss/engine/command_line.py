"""What the command lines of train.py and test.py have in common."""

from __future__ import annotations

import argparse
import os
import os.path as osp

from mmengine.config import Config, DictAction

from .config_checks import check_complete


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the config, ``--work-dir``, ``--cfg-options`` and ``--launcher``.

    Args:
        description: The script's docstring.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--work-dir", help="where the run's files go; default: work_dirs/CONFIG_NAME"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override entries of the config, e.g. model.test_cfg.rcnn.score_thr=0.0; lists as "
        'KEY="[a,b]"',
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm"],
        default="none",
        help="what started the processes; the scripts beside this one set it",
    )
    # Older launchers pass --local_rank; torchrun sets LOCAL_RANK.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def config_from(args: argparse.Namespace, task: str) -> Config:
    """The config with what the options of :func:`make_parser` change.

    Args:
        args: The parsed command line.
        task: ``'train'`` or ``'test'``.

    Raises:
        ValueError: If the config has not all that the task needs.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    check_complete(cfg, task)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = osp.join("work_dirs", osp.splitext(osp.basename(args.config))[0])
    return cfg
