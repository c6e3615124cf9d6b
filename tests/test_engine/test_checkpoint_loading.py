"""Checkpoints of MMEngine load; pickles that run code don't."""

from __future__ import annotations

import pickle

import mmengine.runner.checkpoint
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from torch.utils.data import DataLoader, Dataset

from mmdet_droploss.engine import load_from_local

needs_protection = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6),
    reason="older torch.load has no protection by default",
)


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x, mode="tensor"):
        y = self.layer(x)
        return {"loss": (y**2).mean(), "acc": y.detach().mean()} if mode == "loss" else y


class Numbers(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(x=torch.full((2,), float(index)))


def runner(work_dir, iterations, **changes):
    arguments = dict(
        model=Toy(),
        work_dir=str(work_dir),
        train_dataloader=DataLoader(Numbers(), batch_size=2),
        train_cfg=dict(by_epoch=False, max_iters=iterations),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9)),
        param_scheduler=dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=10),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2)),
        default_scope="mmengine",
        experiment_name=f"{work_dir.name}_{iterations}_{len(changes)}",
    )
    return Runner(**{**arguments, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work dir with a checkpoint of MMEngine's own making, log history included."""
    work_dir = tmp_path_factory.mktemp("toy")
    run = runner(work_dir, 4)
    run.train()
    run.message_hub.update_scalar("train/numpy", np.float64(3.5))
    run.message_hub.update_info("array", np.arange(3))
    run.save_checkpoint(str(work_dir), "own.pth", by_epoch=False)
    return work_dir


def test_mmengines_own_checkpoint_loads(trained):
    content = load_from_local(str(trained / "own.pth"), map_location="cpu")
    assert set(content["state_dict"]) == {"layer.weight", "layer.bias"}
    assert content["meta"]["experiment_name"].startswith("toy")
    history = content["message_hub"]["log_scalars"]["train/loss"]
    assert len(history.data[0]) == 4, "the log history is there"


def test_it_takes_the_place_of_mmengines_loader(trained):
    """Everything that loads a path goes this way: load_from, resume, init_cfg.

    The maintained fork's own loader allows what a checkpoint needs; it keeps its place.
    """
    fork_allows = hasattr(mmengine.runner.checkpoint, "get_torch_safe_globals")
    expected = mmengine.runner.checkpoint.load_from_local if fork_allows else load_from_local
    assert CheckpointLoader._get_checkpoint_loader("folder/file.pth") is expected
    model = Toy()
    load_checkpoint(model, str(trained / "own.pth"))


def test_a_run_resumes_from_it(trained, tmp_path):
    again = runner(tmp_path, 7, resume=True, load_from=str(trained / "iter_4.pth"))
    again.train()
    assert again.iter == 7
    content = load_from_local(str(tmp_path / "iter_6.pth"))
    steps = content["message_hub"]["log_scalars"]["train/loss"].data[0]
    assert len(steps) == 6, "4 of the first run and 2 of this one"


def test_map_location_reaches_torch(trained):
    content = load_from_local(str(trained / "own.pth"), map_location="meta")
    assert content["state_dict"]["layer.weight"].device.type == "meta"


def test_arrays_and_numbers_of_numpy_load(tmp_path):
    content = {
        "state_dict": {"a": torch.zeros(2)},
        "arrays": [np.zeros(3, dtype=d) for d in ("f4", "f8", "i4", "i8", "u1", "bool")],
        "number": np.float64(2.5),
    }
    torch.save(content, tmp_path / "numpy.pth")
    loaded = load_from_local(str(tmp_path / "numpy.pth"))
    assert loaded["number"] == 2.5
    assert [a.dtype for a in loaded["arrays"]] == [a.dtype for a in content["arrays"]]


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@needs_protection
@pytest.mark.parametrize("format", ["zip", "pickle", "old"])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, format):
    evidence = tmp_path / "evidence"
    path = tmp_path / "evil.pth"
    content = {"state_dict": {"a": torch.zeros(1)}, "meta": Malicious(evidence)}
    if format == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=format == "zip")
    with pytest.raises(pickle.UnpicklingError) as caught:
        load_from_local(str(path))
    assert not evidence.exists()
    message = str(caught.value)
    assert "evil.pth" in message
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1" in message
    if format == "zip":
        assert "open" in message, "the culprit is named"


class Attribute:
    """Pickled as a call of getattr, which MMEngine's log history has as well."""

    def __init__(self, owner, name):
        self.arguments = owner, name

    def __reduce__(self):
        return (getattr, self.arguments)


@needs_protection
@pytest.mark.parametrize(
    "owner, name",
    [
        (HistoryBuffer, "__init__"),  # whose __globals__ has os
        (HistoryBuffer, "__init_subclass__"),
        (HistoryBuffer, "register_statistics"),
        (np.ndarray, "tofile"),
        (np.ndarray, "min"),
    ],
)
def test_getattr_reaches_nothing_but_the_methods_of_a_log_history(tmp_path, owner, name):
    path = tmp_path / "evil.pth"
    torch.save({"meta": Attribute(owner, name)}, path)
    with pytest.raises(pickle.UnpicklingError, match="evil.pth.*getattr"):
        load_from_local(str(path))


@needs_protection
def test_the_permission_ends_with_the_call(trained):
    load_from_local(str(trained / "own.pth"))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(trained / "own.pth")


def test_who_trusts_a_file_can_load_it(tmp_path, monkeypatch):
    """The way out that the message names."""
    path = tmp_path / "trusted.pth"
    torch.save({"meta": Malicious(tmp_path / "evidence")}, path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    load_from_local(str(path))["meta"].close()
    assert (tmp_path / "evidence").exists()


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pth.*does not exist.*working directory"):
        load_from_local(str(tmp_path / "none.pth"))


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(trained, tmp_path, part):
    content = (trained / "own.pth").read_bytes()
    path = tmp_path / "half.pth"
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(Exception, match="half.pth") as caught:
        load_from_local(str(path))
    # Nobody should be told to switch the protection off for a damaged file.
    assert "damaged" in str(caught.value) or "truncated" in str(caught.value)


@needs_protection
def test_something_else_than_a_checkpoint(tmp_path):
    path = tmp_path / "page.pth"
    path.write_text("<html>404 not found</html>")
    with pytest.raises(Exception, match="page.pth"):
        load_from_local(str(path))
