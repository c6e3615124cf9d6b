"""What a wrong start of a training or a test ends with: a sentence that helps, and early."""

from __future__ import annotations

import socket

import pytest
from small_run import CONFIG, command, options, run


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("dist_train.sh", "no/such.py", 2), "config 'no/such.py' does not exist"),
        (("dist_test.sh", "no/such.py", "x.pth", 2), "config 'no/such.py' does not exist"),
        (("dist_test.sh", CONFIG, "no.pth", 2), "checkpoint 'no.pth' does not exist"),
    ],
)
def test_a_missing_file_stops_before_any_process_is_started(tmp_path, arguments, message):
    done = run(command(*arguments), tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"{message} (working directory: {tmp_path})\n"


@pytest.mark.parametrize(
    "settings, remedy",
    [
        ({}, "choose another PORT, or leave it out: then a free one is taken"),
        ({"NNODES": "2", "NODE_RANK": "0"}, "choose another PORT\n"),
    ],
)
def test_a_port_in_use(tmp_path, settings, remedy):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = run(command("dist_train.sh", CONFIG, 1), tmp_path, PORT=port, **settings)
    assert done.returncode == 2
    assert f"PORT={port} is in use on this machine" in done.stderr and remedy in done.stderr


def test_a_port_that_is_no_number(tmp_path):
    done = run(command("dist_train.sh", CONFIG, 1), tmp_path, PORT="http")
    assert (done.returncode, done.stderr) == (2, "PORT must be a number, but it is 'http'\n")


def test_torchrun_ends_with_the_first_error_and_its_sentence(mini_lvis_dir, tmp_path):
    """A data set that is not there; a traceback of torchrun's own would hide it."""
    root = "train_dataloader.dataset.data_root=/nowhere/data/"
    done = run(
        [*command("dist_train.sh", CONFIG, 2), *options(mini_lvis_dir, 2), root],
        tmp_path,
    )
    assert done.returncode == 1
    last_words = "".join(done.stderr.splitlines()[-4:])
    assert "ann_file='/nowhere/data/annotations/lvis_v1_train.json' does not exist" in last_words
    assert "put or link the data set there, or change data_root='/nowhere/data/'" in last_words
