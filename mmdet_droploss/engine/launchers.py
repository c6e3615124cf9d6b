"""What launchers tell their processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import torch
from torch import distributed as dist

#: Seconds until the first word about other processes that are not there yet, and between the next.
FIRST_WORD, NEXT_WORD = 5.0, 30.0

#: What a launcher tells a process: variables of its rank, the number of processes, and its rank on
#: its own machine.
_VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
}
_STARTED_BY = {
    "pytorch": "torchrun (tools/dist_train.sh)",
    "slurm": "srun (tools/slurm_train.sh)",
}


def check_launcher(launcher: str) -> dict[str, str]:
    """Read what the launcher tells this process.

    Args:
        launcher: ``'pytorch'`` or ``'slurm'``.

    Returns:
        ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``, torchrun's names.

    Raises:
        RuntimeError: If the process was not started by that launcher.
    """
    names = _VARIABLES[launcher]
    if any(name not in os.environ for name in names):
        raise RuntimeError(
            f"--launcher {launcher} needs to be started by {_STARTED_BY[launcher]}, which sets "
            f"{', '.join(names)}; for one process use --launcher none"
        )
    return dict(zip(_VARIABLES["pytorch"], (os.environ[name] for name in names), strict=True))


def join_launcher(launcher: str) -> None:
    """Tell torch what the launcher tells this process, in torchrun's environment variables.

    On a machine with GPUs, MMEngine does this, too, by its ``init_dist``.

    ``MASTER_ADDR`` and ``MASTER_PORT`` are taken as they are if they are set. Otherwise the address
    is Slurm's first machine; for the port, see :func:`choose_port`.

    Args:
        launcher: ``'pytorch'`` or ``'slurm'``.

    Raises:
        RuntimeError: If the process was not started by that launcher, or an address is needed.
    """
    os.environ.update(check_launcher(launcher))
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _master_address(launcher)
    choose_port(launcher)


def choose_port(launcher: str) -> None:
    """Set ``MASTER_PORT`` where it is not set, to 29500 or, with Slurm, by the job and the step.

    So two of Slurm's jobs on a machine don't meet; MMEngine takes 29500 for all.
    """
    job, step = (int(os.environ.get(f"SLURM_{name}_ID", 0)) for name in ("JOB", "STEP"))
    port = 20000 + (job * 10 + step) % 20000 if launcher == "slurm" else 29500
    os.environ.setdefault("MASTER_PORT", str(port))


def _master_address(launcher: str) -> str:
    """The machine of the first process."""
    if launcher != "slurm":
        raise RuntimeError(
            f"--launcher {launcher} needs MASTER_ADDR, the address of the first machine, which "
            f"{_STARTED_BY[launcher]} sets"
        )
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_NODELIST"]
    command = ["scontrol", "show", "hostnames", nodes]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def check_gpu_count(local_rank: int) -> None:
    """Say it in a sentence if a launcher starts more processes than there are GPUs."""
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise RuntimeError(
            f"process {local_rank} of this machine has no GPU of its own: there are {count}. Start "
            f"at most {count} processes (dist_train.sh CONFIG {count}), or hide the GPUs with "
            f"CUDA_VISIBLE_DEVICES= to run on the CPU"
        )


def say_while_waiting(process: dict[str, str]) -> None:
    """Say on stderr what is waited for, until all processes of the run have met.

    One process of each machine speaks, after a few seconds and then twice a minute.

    Args:
        process: What :func:`check_launcher` gives.
    """
    if process["LOCAL_RANK"] != "0" or process["WORLD_SIZE"] == "1":
        return
    start = time.monotonic()

    def speak() -> None:
        following = FIRST_WORD
        while not dist.is_initialized():
            waited = time.monotonic() - start
            if waited >= following:
                following += NEXT_WORD
                address = os.environ.get("MASTER_ADDR", "the first machine")
                print(
                    f"process {process['RANK']} waits for the others of the "
                    f"{process['WORLD_SIZE']} of this run to meet at "
                    f"{address}:{os.environ.get('MASTER_PORT', '')}, since "
                    f"{waited:.0f} s; torch gives up after "
                    f"{dist.constants.default_pg_timeout.total_seconds() / 60:.0f} minutes",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(0.2)

    threading.Thread(target=speak, daemon=True).start()
