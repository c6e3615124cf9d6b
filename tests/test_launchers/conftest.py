"""Real launchers: a Slurm of one machine, started for the tests and stopped after them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from small_run import free_port

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
GresTypes=gpu
SchedulerParameters=sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


def wait_until(condition, what: str, logs: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            tails = {log.name: log.read_text()[-1500:] for log in logs.glob("*.log")}
            pytest.fail(f"{what} did not happen within {seconds:g} s: {tails}")
        time.sleep(0.2)


def find(daemon: str) -> str | None:
    """Daemons are in /usr/sbin, which a user's PATH may lack."""
    return shutil.which(daemon) or shutil.which(daemon, path="/usr/sbin")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """The environment variables with which srun finds a Slurm of one machine."""
    for program in ("slurmctld", "slurmd", "munged"):
        if not find(program):
            pytest.skip(f"{program} is not installed (apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons must be started as root")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        SLURM_CONF.format(
            host=socket.gethostname().split(".")[0],
            folder=folder,
            ctld_port=free_port(),
            d_port=free_port(),
        )
    )
    # Slurm believes in two GPUs, so that what asks for some is not refused.
    for name in ("gpu0", "gpu1"):
        (folder / name).touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in (
        "socket", "key-file", "pid-file", "log-file", "seed-file"
    )]  # fmt: skip
    daemons = []
    try:
        for command in (
            ["munged", "--foreground", "--force", *munge],
            ["slurmctld", "-D", "-f", str(configuration)],
            ["slurmd", "-D", "-f", str(configuration)],
        ):
            with open(folder / f"{command[0]}.out.log", "w") as log:
                daemons.append(
                    subprocess.Popen(
                        [find(command[0]), *command[1:]], env=environment, stdout=log, stderr=log
                    )
                )
            if command[0] == "munged":
                wait_until((folder / "munge.socket").exists, "munged's socket", folder)

        def is_idle():
            done = subprocess.run(
                ["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True
            )
            return done.stdout.strip() == "idle"

        wait_until(is_idle, "an idle Slurm", folder)
        yield {"SLURM_CONF": str(configuration)}
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
