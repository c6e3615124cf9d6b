"""Make a config ready for the runner: what train.py and test.py share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from importlib import metadata

import numpy as np
import torch
from mmdet.evaluation import LVISMetric
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.utils import digit_version

from .category_check import CategoryCheckHook
from .checkpoint_check import CheckpointShapeHook
from .config_checks import add_hook, check_config, resolved, walk
from .cpu_distributed import cpu_process_group_ended, start_cpu_process_group
from .launchers import (
    check_gpu_count,
    check_launcher,
    choose_port,
    join_launcher,
    say_while_waiting,
)
from .lost_processes import lost_processes_explained
from .run_log import complete_log, log_warnings


def prepare_run(cfg: Config, launcher: str) -> None:
    """Adapt the config to the machine and refuse what would only fail hours later.

    Args:
        cfg: The config; changed in place.
        launcher: ``'none'``, ``'pytorch'`` or ``'slurm'``.

    Raises:
        ValueError: If the evaluator cannot work with the installed packages, or a loop would never
            end.
        TypeError: If a loss is given arguments that it does not have.
        RuntimeError: If the launcher does not fit the machine.
    """
    log_warnings()
    cfg.launcher = launcher
    # A config's custom_hooks take the place of its base's.
    for hook in (CategoryCheckHook, CheckpointShapeHook):
        add_hook(cfg, hook.__name__)
    check_config(cfg)
    for name in ("val_evaluator", "test_evaluator"):
        _check_evaluator(name, cfg.get(name))
    if launcher == "none":
        return
    process = check_launcher(launcher)
    if "OMP_NUM_THREADS" in os.environ:  # MMEngine sets 1 otherwise, and says so at every start
        os.environ.setdefault("MKL_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    say_while_waiting(process)
    if torch.cuda.is_available():  # MMEngine joins the other processes
        check_gpu_count(int(process["LOCAL_RANK"]))
        choose_port(launcher)
    else:
        join_launcher(launcher)
        start_cpu_process_group(cfg)


def build_runner(cfg: Config) -> Runner:
    """The runner of a prepared config.

    Args:
        cfg: The config, after :func:`prepare_run`.
    """
    runner = Runner.from_cfg(cfg) if "runner_type" not in cfg else RUNNERS.build(cfg)
    complete_log(runner)
    return runner


@contextlib.contextmanager
def launched_runner(cfg: Config, launcher: str, remedy: str) -> Iterator[Runner]:
    """A runner for a block, in each of the launcher's processes, which part after it.

    Args:
        cfg: The config; changed in place.
        launcher: As for :func:`prepare_run`, which says what is raised.
        remedy: A sentence on what to do if another process is lost.

    Yields:
        The runner.
    """
    prepare_run(cfg, launcher)
    runner = build_runner(cfg)
    with cpu_process_group_ended(), lost_processes_explained(remedy):
        yield runner


def _check_evaluator(name: str, evaluator: dict | list | None) -> None:
    """MMDetection's LVISMetric dies at the end of the evaluation with current NumPy."""
    uses_lvis_api = any(
        resolved(METRICS, node.get("type")) is LVISMetric for _, node in walk(evaluator)
    )
    if (
        uses_lvis_api
        and digit_version(np.__version__) >= digit_version("1.24")
        and digit_version(metadata.version("lvis")) <= digit_version("0.5.3")
    ):
        raise ValueError(
            f"{name} is LVISMetric, whose lvis-api uses np.float, which NumPy {np.__version__} "
            f"does not have: it would fail at the end of the first evaluation. Use "
            f"{name}=dict(type='FastLVISMetric', ann_file=...), which gives the same numbers"
        )
