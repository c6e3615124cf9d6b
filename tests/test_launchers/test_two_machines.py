"""Two machines: two agents of torchrun, each in a network of its own, or on the loopback device."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
import torch
from small_run import (
    CONFIG,
    command,
    environment,
    free_port,
    kill_tree,
    options,
    steps_in,
    wait_for,
)

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="about machines without GPU; with GPUs NCCL is used"
)


class Machines:
    """Two machines that each run one process of a training.

    Args:
        folder: The folder that they share.
        addresses: The address of each.
        prefixes: What a command starts with to run on the one or the other.
        variables: More environment variables.
    """

    def __init__(self, folder, addresses, prefixes, variables):
        self.folder = folder
        self.addresses = addresses
        self.prefixes = prefixes
        self.variables = variables
        self.agents = []

    def start(self, arguments, name, **settings):
        """Start both; returns their logs."""
        self.agents = []
        logs = [self.folder / f"{name}{rank}.log" for rank in range(2)]
        for rank, log in enumerate(logs):
            with log.open("w") as file:
                self.agents.append(
                    subprocess.Popen(
                        [*self.prefixes[rank], *map(str, arguments)],
                        cwd=self.folder,
                        env={
                            **environment(),
                            **self.variables,
                            **settings,
                            "NNODES": "2",
                            "NODE_RANK": str(rank),
                            "LOCAL_ADDR": self.addresses[rank],
                        },
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )
        return logs

    def stop(self):
        """Stop what still runs."""
        for agent in self.agents:
            if agent.poll() is None:
                kill_tree(agent)


@pytest.fixture()
def on_loopback(tmp_path):
    machines = Machines(tmp_path, ["127.0.0.1"] * 2, [[], []], {})
    yield machines
    machines.stop()


@pytest.fixture()
def in_namespaces(tmp_path):
    """Two network namespaces with a wire between them: neither sees the other's loopback device."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("making network namespaces takes root and the program ip")
    names = [f"droploss-{os.getpid()}-{rank}" for rank in range(2)]
    addresses = [f"10.177.3.{rank + 1}" for rank in range(2)]
    inside = [["ip", "netns", "exec", name] for name in names]
    try:
        for name in names:
            done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
        wire = f"ip link add wire netns {names[0]} type veth peer name wire netns {names[1]}"
        subprocess.run(wire.split(), check=True)
        for prefix, address in zip(inside, addresses, strict=True):
            for line in (
                f"ip address add {address}/24 dev wire",
                "ip link set wire up",
                "ip link set lo up",
            ):
                subprocess.run([*prefix, *line.split()], check=True)
        # The machine's name stands for 127.0.0.1 in either, which gloo would tell the other.
        machines = Machines(tmp_path, addresses, inside, {"GLOO_SOCKET_IFNAME": "wire"})
        yield machines
        machines.stop()
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.fixture(params=["on_loopback", "in_namespaces"])
def machines(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("rendezvous", ["static", "elastic"])
def test_a_training_on_two_machines(machines, mini_lvis_dir, tmp_path, rendezvous):
    host, port = machines.addresses[0], str(free_port())
    settings = dict(MASTER_ADDR=host, PORT=port)
    if rendezvous == "elastic":
        settings = dict(RDZV_ENDPOINT=f"{host}:{port}", RDZV_ID="test")
    train = command("dist_train.sh", CONFIG, 1, "--work-dir", tmp_path / "work")
    logs = machines.start([*train, *options(mini_lvis_dir, 2)], "agent", **settings)
    codes = [agent.wait(300) for agent in machines.agents]
    texts = [log.read_text() for log in logs]
    assert codes == [0, 0], "\n".join(text[-3000:] for text in texts)
    assert "GPU number: 2" in "".join(texts) and (tmp_path / "work" / "iter_2.pth").exists()


def test_a_machine_that_dies_is_named_and_nothing_is_lost(on_loopback, mini_lvis_dir, tmp_path):
    """The other says what has happened and what to do; done, the training goes on where it was."""
    work_dir = tmp_path / "work"
    train = command("dist_train.sh", CONFIG, 1, "--work-dir", work_dir)
    meeting = dict(MASTER_ADDR="127.0.0.1", PORT=str(free_port()))
    logs = on_loopback.start([*train, *options(mini_lvis_dir, 10_000)], "first", **meeting)
    survivor, victim = on_loopback.agents
    wait_for(work_dir / "iter_4.pth", survivor, logs[0])
    wait_for(work_dir / "last_checkpoint", survivor, logs[0])
    kill_tree(victim)
    assert survivor.wait(120) != 0
    last_words = "".join(logs[0].read_text().splitlines()[-8:])
    assert re.search(
        r"another process of this run is gone.*last checkpoint in .*work, start it again with "
        r"--resume",
        last_words,
    ), logs[0].read_text()[-3000:]

    last = int(re.search(r"iter_(\d+)", (work_dir / "last_checkpoint").read_text()).group(1))
    end = last + 3
    meeting["PORT"] = str(free_port())
    logs = on_loopback.start([*train, "--resume", *options(mini_lvis_dir, end)], "again", **meeting)
    codes = [agent.wait(300) for agent in on_loopback.agents]
    texts = [log.read_text() for log in logs]
    assert codes == [0, 0], "\n".join(text[-3000:] for text in texts)
    assert steps_in("".join(texts)) == list(range(last + 1, end + 1))
    assert (work_dir / f"iter_{end}.pth").exists()
