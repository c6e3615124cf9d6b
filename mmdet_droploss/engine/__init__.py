"""What stands between the launcher and the runner."""

from .checkpoint import load_from_local
from .distributed import CPUDistributedDataParallel
from .hooks import CheckpointShapeHook
from .launch import forget_missing_class_freq, prepare_run

__all__ = [
    "CPUDistributedDataParallel",
    "CheckpointShapeHook",
    "forget_missing_class_freq",
    "load_from_local",
    "prepare_run",
]
