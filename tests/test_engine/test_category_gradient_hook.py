"""CategoryGradientHook in runs, against sums in NumPy, written down from the definition."""

from __future__ import annotations

import copy
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_rank
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner
from processes import in_processes
from torch import nn
from torch.utils.data import DataLoader

from mmdet_droploss.engine import CategoryGradientHook
from mmdet_droploss.engine.gradient_record import load_gradient_record

C, N = 6, 40
COUNTS = [500, 300, 50, 20, 5, 1]
LOSSES = {
    "SigmoidBCELoss": dict(num_classes=C, class_freq=COUNTS),
    "EQL": dict(num_classes=C, class_freq=COUNTS),
    "BEQL": dict(num_classes=C, class_freq=COUNTS),
    "DropLoss": dict(num_classes=C, class_freq=COUNTS),
    "CrossEntropyLoss": dict(use_sigmoid=False),
    "SeesawLoss": dict(num_classes=C),
    "FocalLoss": dict(use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
}


def bbox_head(loss):
    options = dict(num_classes=C, loss_cls=dict(type=loss, **LOSSES[loss]))
    if loss == "FocalLoss":  # in the heads of Sparse R-CNN: C outputs, none of background
        conv = dict(type="DynamicConv", in_channels=8, feat_channels=2, out_channels=8,
                    input_feat_shape=3, norm_cfg=dict(type="LN"))  # fmt: skip
        kind = dict(type="DIIHead", num_heads=1, num_cls_fcs=1, num_reg_fcs=1,
                    feedforward_channels=8, in_channels=8, dynamic_conv_cfg=conv)  # fmt: skip
    else:
        kind = dict(type="Shared2FCBBoxHead", in_channels=4, fc_out_channels=8, roi_feat_size=2,
                    reg_class_agnostic=True)  # fmt: skip
    return MODELS.build(dict(**kind, **options))


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def sums(loss_cls, logits, labels):
    """(5, C): gradients of background, foreground and own proposals, scores, backgrounds."""
    leaf = logits.clone().requires_grad_()
    with torch.enable_grad():
        loss = loss_cls(leaf, labels, torch.ones(len(labels)), avg_factor=N)
        (loss["loss_cls_classes"] if isinstance(loss, dict) else loss).backward()
    gradient, logits = np.abs(leaf.grad.double().numpy()[:, :C]), logits.double().numpy()
    score = 1 / (1 + np.exp(-logits))
    if type(loss_cls).__name__ == "CrossEntropyLoss":
        score = softmax(logits)
    elif type(loss_cls).__name__ == "SeesawLoss":
        score = softmax(logits[:, :C]) * softmax(logits[:, C:])[:, :1]
    own = np.arange(C) == labels.numpy()[:, None]
    background = np.broadcast_to(labels.numpy()[:, None] == C, own.shape)
    terms = [gradient * background, gradient * ~(background | own), gradient * own]
    return np.array([term.sum(0) for term in (*terms, score[:, :C] * background, background)])


class Cascade(BaseModel):
    """Two heads' losses of random logits, and what has to be added to the sums."""

    def __init__(self, loss):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))
        self.bbox_head = nn.ModuleList(bbox_head(loss) for _ in range(2)).requires_grad_(False)
        self.unwatched = [copy.deepcopy(head.loss_cls) for head in self.bbox_head]
        self.sums = []

    def forward(self, seed, mode):
        rng = np.random.default_rng(seed.item())
        # In the last stage one of two processes has no proposals.
        number = 0 if seed in (7, 9) else N
        losses, added = {}, []
        for stage, head in enumerate(self.bbox_head):
            logits = torch.tensor(rng.normal(size=(number, head.fc_cls.out_features))).float()
            # Backgrounds and all categories but the last, which has only discouraging gradients.
            labels = torch.tensor(rng.choice([*range(C - 1), C], number))
            state = torch.get_rng_state()
            loss = head.loss_cls(logits + self.shift, labels, torch.ones(number), avg_factor=N)
            torch.set_rng_state(state)
            added.append(sums(self.unwatched[stage], logits, labels))
            for name, value in (loss if isinstance(loss, dict) else {"loss": loss}).items():
                losses[f"s{stage}.{name}"] = value * 1024 / (stage + 1)  # AMP's scale, a weight
        if mode != "loss":
            return [{}]
        self.sums.append(added)
        return losses


class Images(list):
    metainfo = dict(classes=tuple("abcdef"))


def train(folder, loss="DropLoss", interval=3, max_iters=5, **options):
    """(iterations, 2, 5, C): what has to be added to each head's sums in this process."""
    images = Images(dict(seed=seed) for seed in range(10))
    model = Cascade(loss)
    runner = Runner(
        model,
        work_dir=str(folder),
        train_dataloader=DataLoader(images, sampler=DefaultSampler(images, shuffle=False)),
        train_cfg=dict(by_epoch=False, max_iters=max_iters, val_interval=2),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.0)),
        val_dataloader=DataLoader(images),
        val_cfg=dict(),
        val_evaluator=Evaluator([]),
        custom_hooks=[CategoryGradientHook(interval, COUNTS)],
        default_hooks=dict(
            logger=None, checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=3)
        ),
        randomness=dict(seed=7),
        default_scope="mmdet",
        experiment_name=f"{folder.name}_{max_iters}",
        **options,
    )
    runner.train()
    return np.array(model.sums)


def assert_record(folder, added, stages, loss="DropLoss"):
    record = load_gradient_record(folder / "category_gradients.npz")
    assert record.stages.tolist() == stages
    of_stages = np.array([added[first:last].sum(0) for first, last in stages])
    background, foreground, encouraging, score, proposals = np.moveaxis(of_stages, 2, 0)
    if loss == "SeesawLoss":  # it acts through the objectness
        background = np.full_like(background, np.nan)
    for name, expected in dict(
        background=background,
        foreground=foreground,
        encouraging=encouraging,
        background_score=score / proposals,
    ).items():
        np.testing.assert_allclose(
            getattr(record, name), expected, rtol=1e-4, atol=1e-6, err_msg=name
        )
    assert record.background_proposals.tolist() == proposals[..., 0].tolist()
    background, foreground = background.sum(0), foreground.sum(0)
    share = background / (background + foreground)
    np.testing.assert_allclose(record.background_share(), share, rtol=1e-3)
    return record


@pytest.mark.parametrize("loss", LOSSES)
def test_the_sums_of_two_heads_in_two_stages(loss, tmp_path):
    """The last stage is short, and validations are not recorded."""
    record = assert_record(tmp_path, train(tmp_path, loss), [[0, 3], [3, 5]], loss)
    assert (record.loss, record.seed, record.classes) == (loss, 7, tuple("abcdef"))
    assert record.image_count.tolist() == COUNTS
    assert record.measures_background == (loss != "SeesawLoss")
    assert (record.encouraging[..., -1] == 0).all()
    (file,) = tmp_path.glob("*/vis_data/scalars.json")
    scalars = {line["step"]: line for line in map(json.loads, file.read_text().splitlines())}
    assert list(scalars) == [3, 5]
    assert {f"gradient/background_score_{g}" for g in "rcf"} <= scalars[3].keys()
    assert ("gradient/background_share_f" in scalars[3]) == (loss != "SeesawLoss")


def _train_and_save(folder):
    wrapper = Config(dict(model_wrapper_cfg=dict(type="CPUDistributedDataParallel")))
    np.save(f"{get_rank()}.npy", train(folder, launcher="pytorch", cfg=wrapper))


def test_the_sums_are_those_of_both_processes(tmp_path):
    in_processes(2, tmp_path, _train_and_save, tmp_path)
    added = [np.load(tmp_path / f"{rank}.npy") for rank in range(2)]
    assert (added[1][3:] == 0).all()
    assert_record(tmp_path, sum(added), [[0, 3], [3, 5]])


def test_a_resumed_run_goes_on_with_the_file(tmp_path):
    """It was stopped in a stage, of which the record has what came after."""
    before = train(tmp_path, interval=2)
    checkpoint = dict(load_from=str(tmp_path / "iter_3.pth"), resume=True)
    after = train(tmp_path, interval=2, max_iters=6, **checkpoint)
    assert_record(tmp_path, np.concatenate([before[:3], after]), [[0, 2], [3, 4], [4, 6]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(loss="EQL", seed=3), "by its loss and seed;"),
        (dict(classes=tuple("abcdeg")), "by its classes;"),
    ],
)
def test_a_record_of_another_training_is_not_gone_on_with(tmp_path, change, said):
    before = train(tmp_path, interval=2)
    path = tmp_path / "category_gradients.npz"
    dataclasses.replace(load_gradient_record(path), **change).save(path)
    checkpoint = dict(load_from=str(tmp_path / "iter_3.pth"), resume=True)
    seeded = Config(dict(randomness=dict(seed=7)))
    after = train(tmp_path, interval=2, max_iters=6, cfg=seeded, **checkpoint)
    assert_record(tmp_path, np.concatenate([before[:3], after]), [[3, 4], [4, 6]])
    logs = "".join(file.read_text() for file in tmp_path.glob("*/*.log"))
    assert f"is of another training, {said} the record begins anew, at iteration 3" in logs


def test_a_training_that_begins_leaves_no_record_of_an_earlier_one(tmp_path):
    train(tmp_path)
    path = tmp_path / "category_gradients.npz"
    assert path.exists()
    train(tmp_path, interval=7, max_iters=6)  # its only stage ends with the training
    assert load_gradient_record(path).stages.tolist() == [[0, 6]]
    train(tmp_path, interval=7, max_iters=0)
    assert not path.exists()


@pytest.mark.parametrize("wrapped", [lambda model: model, nn.DataParallel])
def test_a_model_without_a_bbox_head_is_refused(wrapped):
    with pytest.raises(ValueError, match="Linear has none"):
        CategoryGradientHook().before_train(SimpleNamespace(model=wrapped(nn.Linear(1, 1))))


@pytest.mark.parametrize("interval", [0, -1, 1.5, True])
def test_bad_intervals(interval):
    with pytest.raises(ValueError, match="interval must be a whole number"):
        CategoryGradientHook(interval=interval)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"{}"])
def test_files_that_are_no_record(content, tmp_path):
    path = tmp_path / "file.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no gradient record"):
        load_gradient_record(path)
