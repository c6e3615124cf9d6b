"""Make a config ready for the runner: what train.py and test.py share."""

from __future__ import annotations

import atexit
import time
from collections.abc import Iterator
from importlib import metadata

import numpy as np
import torch
from mmengine.config import Config
from mmengine.utils import digit_version
from torch import distributed as dist

from .distributed import check_gpu_count, join_launcher


def prepare_run(cfg: Config, launcher: str) -> None:
    """Adapt the config to the machine and refuse what would only fail hours later.

    Args:
        cfg: The config; changed in place.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        ValueError: If the evaluator cannot work with the installed packages.
        RuntimeError: If the launcher does not fit the machine.
    """
    cfg.launcher = launcher
    for name in ("val_evaluator", "test_evaluator"):
        _check_evaluator(name, cfg.get(name))
    if launcher == "none":
        return
    join_launcher(launcher)
    if torch.cuda.is_available():
        check_gpu_count()
        return
    # MMEngine's own init_dist selects a CUDA device whatever the backend. It leaves a process group
    # alone that is there already, so this one is made first.
    dist.init_process_group("gloo")
    # A thread of gloo's that still drops the last collective's tensors when Python shuts down waits
    # for its lock, is stopped there, and aborts the process after a training that went well.
    atexit.register(time.sleep, 0.5)
    wrapper = cfg.get("model_wrapper_cfg") or {}
    cfg.model_wrapper_cfg = {
        "find_unused_parameters": cfg.get("find_unused_parameters", False),
        **wrapper,
        "type": "CPUDistributedDataParallel",
    }


def _dicts(node) -> Iterator[dict]:
    """All dicts in a nested config."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _dicts(child)


def _check_evaluator(name: str, evaluator: dict | list | None) -> None:
    """MMDetection's LVISMetric dies at the end of the evaluation with current NumPy."""
    uses_lvis_api = any(node.get("type") == "LVISMetric" for node in _dicts(evaluator))
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
