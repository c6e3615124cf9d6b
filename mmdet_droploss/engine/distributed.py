"""What launchers tell their processes, and distributed training where there is no GPU."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator

import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import nn


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """:class:`MMDistributedDataParallel` for modules on the CPU.

    MMEngine passes ``device_ids`` to every wrapper, and torch refuses them for CPU modules.

    Args:
        module: The model.
        device_ids: Ignored.
        **kwargs: Those of :class:`MMDistributedDataParallel`.
    """

    def __init__(self, module: nn.Module, device_ids: list[int] | None = None, **kwargs) -> None:
        kwargs.setdefault("broadcast_buffers", False)
        super().__init__(module=module, **kwargs)


#: What gloo and NCCL say if a process that they talk with is gone.
_LOST = re.compile(
    r"connection (closed|reset|refused)|broken pipe|no route to host|remote process exited|"
    r"timed out waiting",
    re.IGNORECASE,
)


@contextlib.contextmanager
def lost_processes_explained(remedy: str) -> Iterator[None]:
    """Say in a sentence what has happened if another process of a distributed run is gone.

    Args:
        remedy: A sentence on what to do then.

    Raises:
        RuntimeError: In place of the one of torch's communication library.
    """
    try:
        yield
    except RuntimeError as error:
        if not (torch.distributed.is_initialized() and _LOST.search(str(error))):
            raise
        raise RuntimeError(
            f"another process of this run is gone or hangs: it was killed, ran out of memory, or "
            f"its machine or the network failed. Its own output says more. {remedy} (The "
            f"communication library says: {str(error).strip()})"
        ) from error


#: What a launcher tells a process: variables of its rank, the number of processes, and its rank on
#: its own machine. Of MPI, those of Open MPI and those of MPICH and Intel MPI.
_VARIABLES = {
    "pytorch": [("RANK", "WORLD_SIZE", "LOCAL_RANK")],
    "slurm": [("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")],
    "mpi": [
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
        ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ],
}
_STARTED_BY = {
    "pytorch": "torchrun (tools/dist_train.sh)",
    "slurm": "srun (tools/slurm_train.sh)",
    "mpi": "mpirun",
}


def join_launcher(launcher: str) -> None:
    """Tell torch what the launcher tells this process, in torchrun's environment variables.

    ``MASTER_ADDR`` and ``MASTER_PORT`` are taken as they are if they are set. Otherwise the address
    is Slurm's first machine, or this one if MPI started all processes here; the port is derived
    from Slurm's job and step, so that two jobs on a machine don't meet, and 29500 with MPI.

    Args:
        launcher: ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        RuntimeError: If the process was not started by that launcher, or an address is needed.
    """
    for names in _VARIABLES[launcher]:
        if all(name in os.environ for name in names):
            break
    else:
        raise RuntimeError(
            f"--launcher {launcher} needs to be started by {_STARTED_BY[launcher]}, which sets "
            f"{', '.join(_VARIABLES[launcher][0])}; for one process use --launcher none"
        )
    for name, source in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), names, strict=True):
        os.environ[name] = os.environ[source]
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _master_address(launcher)
    if "MASTER_PORT" not in os.environ:
        job, step = (int(os.environ.get(f"SLURM_{name}_ID", 0)) for name in ("JOB", "STEP"))
        port = 20000 + (job * 10 + step) % 20000 if launcher == "slurm" else 29500
        os.environ["MASTER_PORT"] = str(port)


def _master_address(launcher: str) -> str:
    """The machine of the first process."""
    if launcher == "slurm":
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_NODELIST"]
        command = ["scontrol", "show", "hostnames", nodes]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    on_this_machine = os.environ.get(
        "OMPI_COMM_WORLD_LOCAL_SIZE", os.environ.get("MPI_LOCALNRANKS")
    )
    if launcher == "mpi" and on_this_machine == os.environ["WORLD_SIZE"]:
        return "127.0.0.1"
    raise RuntimeError(
        f"--launcher {launcher} on several machines needs MASTER_ADDR, the address of the first: "
        f"with Open MPI, mpirun -x MASTER_ADDR=..."
    )


def check_gpu_count() -> None:
    """Say it in a sentence if a launcher starts more processes than there are GPUs."""
    local_rank, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local_rank >= count:
        raise RuntimeError(
            f"process {local_rank} of this machine has no GPU of its own: there are {count}. Start "
            f"at most {count} processes (dist_train.sh CONFIG {count}), or hide the GPUs with "
            f"CUDA_VISIBLE_DEVICES= to run on the CPU"
        )
