"""What stands between the launcher and the runner."""

from .category_check import CategoryCheckHook
from .category_gradient_hook import CategoryGradientHook
from .checkpoint import load_from_local
from .checkpoint_check import CheckpointShapeHook
from .checkpoint_hook import ResumableCheckpointHook
from .config_checks import check_complete, check_config
from .cpu_distributed import CPUDistributedDataParallel, cpu_process_group_ended
from .launch import build_runner, launched_runner, prepare_run
from .lost_processes import lost_processes_explained
from .resumable_loop import ResumableIterBasedTrainLoop
from .test_time_augmentation import BoxesOnlyHook, use_test_time_augmentation

__all__ = [
    "BoxesOnlyHook",
    "CPUDistributedDataParallel",
    "CategoryCheckHook",
    "CategoryGradientHook",
    "CheckpointShapeHook",
    "build_runner",
    "check_complete",
    "check_config",
    "ResumableCheckpointHook",
    "ResumableIterBasedTrainLoop",
    "cpu_process_group_ended",
    "launched_runner",
    "load_from_local",
    "lost_processes_explained",
    "prepare_run",
    "use_test_time_augmentation",
]
