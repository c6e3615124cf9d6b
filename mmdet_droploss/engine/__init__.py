"""What stands between the launcher and the runner."""

from .checkpoint import load_from_local
from .distributed import CPUDistributedDataParallel, lost_processes_explained
from .hooks import CheckpointShapeHook
from .launch import prepare_run

__all__ = [
    "CPUDistributedDataParallel",
    "CheckpointShapeHook",
    "load_from_local",
    "lost_processes_explained",
    "prepare_run",
]
