"""Load MMEngine's checkpoints under torch's protection against code in pickles.

Since 2.6, ``torch.load`` refuses classes that it does not know, and MMEngine's own checkpoints hold
a few (its log history, and NumPy arrays in it), so resuming from them fails. Here exactly these are
allowed, for local files, and everything else is still refused.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import mmengine.runner.checkpoint
import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version

try:
    from numpy._core import multiarray  # NumPy 2
except ImportError:
    from numpy.core import multiarray  # type: ignore[no-redef]  # the same in NumPy 1


def _statistics_method(owner: type, name: str) -> Callable:
    """All that MMEngine's log history needs of ``getattr``: its own methods, saved with it."""
    if owner is HistoryBuffer and name in ("min", "max", "current", "mean"):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f"GLOBAL getattr({owner!r}, {name!r}) is not allowed")


def _allowed() -> list:
    """The classes and functions in MMEngine's own checkpoints, some with the name they have there.

    NumPy 2 renamed ``numpy.core``; a checkpoint keeps the name of the NumPy that wrote it.
    """
    return [
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        *{type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "u1", "bool")},
        *(
            (function, f"{module}.{function.__name__}")
            for module in ("numpy._core.multiarray", "numpy.core.multiarray")
            for function in (multiarray._reconstruct, multiarray.scalar)
        ),
        (_statistics_method, "builtins.getattr"),
    ]


def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Load a checkpoint file; takes the place of MMEngine's loader of the same name.

    Args:
        filename: The path of the checkpoint.
        map_location: As for :func:`torch.load`.

    Raises:
        FileNotFoundError: If there is no such file.
        pickle.UnpicklingError: If it holds anything but tensors, plain Python values and what
            MMEngine's own checkpoints need.
        RuntimeError: If it is damaged.
    """
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(
            f"checkpoint {filename!r} does not exist (working directory: {os.getcwd()})"
        )
    try:
        if digit_version(torch.__version__) < digit_version("2.6"):
            # Here torch.load does not protect by default, and cannot allow classes by name.
            return torch.load(filename, map_location=map_location)
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(filename, map_location=map_location)
    except (EOFError, RuntimeError, OSError) as error:
        raise RuntimeError(
            f"checkpoint {filename!r} is damaged or truncated ({os.path.getsize(filename)} bytes): "
            f"{error}"
        ) from error
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        culprit = next((line.strip() for line in str(error).split("\n") if "GLOBAL" in line), "")
        raise pickle.UnpicklingError(
            f"checkpoint {filename!r} was not loaded: it holds something other than tensors and "
            f"MMEngine's own records, and unpickling that could run code. {culprit or reason} If "
            f"you trust where the file comes from, set the environment variable "
            f"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 and run the same command again"
        ) from None


# Newer versions of MMEngine (in the maintained forks) allow what they need by themselves.
if not hasattr(mmengine.runner.checkpoint, "get_torch_safe_globals"):
    CheckpointLoader.register_scheme(prefixes="", loader=load_from_local, force=True)
