"""What the command lines of train.py and test.py have in common."""

from __future__ import annotations

import argparse
import os
import os.path as osp
import re
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config, DictAction

from .config_checks import check_complete

#: Blanks inside a value, as between two words; those beside a comma, a bracket or a quotation mark,
#: as in "[1, 2]", are none of it.
INNER_BLANKS = re.compile(r"(?<=[^ ,(\['\"]) +(?=[^ ,)\]'\"])")


class ConfigOptions(DictAction):
    """MMEngine's ``--cfg-options``, but a value keeps its blanks, and what is wrong is said.

    MMEngine takes all blanks out, and ends with a traceback where it cannot read an option.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Read the options that stand after one ``--cfg-options``."""
        for option in values or ():
            key, is_pair, value = option.partition("=")
            if not is_pair:
                parser.error(f"--cfg-options takes KEY=VALUE, but got {key!r}: write {key}=VALUE")
            # No command line has NUL characters in it.
            value = INNER_BLANKS.sub(lambda blanks: "\0" * len(blanks[0]), value)
            try:
                super().__call__(parser, namespace, [f"{key}={value}"], option_string)
            except (AssertionError, RecursionError):
                parser.error(
                    f"--cfg-options: the brackets in {option!r} do not match. A value with a comma "
                    f'in it is a list: write {key}="[a,b]"'
                )
            read = getattr(namespace, self.dest)
            read[key] = _with_blanks(read[key])


def _with_blanks(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", " ")
    return type(value)(map(_with_blanks, value)) if isinstance(value, (list, tuple)) else value


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
        action=ConfigOptions,
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
