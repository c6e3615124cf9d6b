"""CategoryGradientHook against sums in NumPy, written down from the definition."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from torch import nn

import mmdet_droploss  # noqa: F401
from mmdet_droploss.analysis.gradient_record import load_gradient_record
from mmdet_droploss.engine import CategoryGradientHook

C, N = 6, 40
COUNTS = [500, 300, 50, 20, 5, 1]
LOSSES = {
    "SigmoidBCELoss": dict(num_classes=C, class_freq=COUNTS),
    "EQL": dict(num_classes=C, class_freq=COUNTS),
    "BEQL": dict(num_classes=C, class_freq=COUNTS),
    "DropLoss": dict(num_classes=C, class_freq=COUNTS),
    "CrossEntropyLoss": dict(use_sigmoid=False),
    "SeesawLoss": dict(num_classes=C),
}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def bbox_head(loss):
    return MODELS.build(
        dict(
            type="Shared2FCBBoxHead",
            in_channels=4,
            fc_out_channels=8,
            roi_feat_size=2,
            num_classes=C,
            reg_class_agnostic=True,
            loss_cls=dict(type=loss, **LOSSES[loss]),
        )
    )


class Visualizer:
    def __init__(self):
        self.scalars = {}

    def add_scalars(self, scalars, step):
        self.scalars[step] = scalars


def runner_of(model, folder, iteration=0, max_iters=100):
    classes = tuple("abcdef")
    return SimpleNamespace(
        model=model,
        iter=iteration,
        max_iters=max_iters,
        work_dir=str(folder),
        seed=7,
        visualizer=Visualizer(),
        train_dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=classes))),
    )


def step(hook, runner, head, rng, scale=1.0):
    """One iteration; returns what has to be added to the sums, in float64."""
    unwatched = copy.deepcopy(head.loss_cls)
    unwatched._forward_hooks.clear()
    channels = head.fc_cls.out_features
    x = torch.tensor(rng.normal(size=(N, channels)), dtype=torch.float32, requires_grad=True)
    # Backgrounds and all categories but the last, which has only discouraging gradients.
    labels = torch.tensor(rng.integers(0, C + 1, N).clip(max=C))
    labels[labels == C - 1] = C
    state = torch.get_rng_state()
    loss = head.loss_cls(x, labels, torch.ones(N), avg_factor=N)
    total = sum(loss.values()) if isinstance(loss, dict) else loss
    (total * scale).backward()
    hook.after_train_iter(runner, 0)
    runner.iter += 1

    torch.set_rng_state(state)
    y = x.detach().clone().requires_grad_()
    loss = unwatched(y, labels, torch.ones(N), avg_factor=N)
    (loss["loss_cls_classes"] if isinstance(loss, dict) else loss).backward()
    gradient, label = np.abs(y.grad.double().numpy()[:, :C]), labels.numpy()
    if head.custom_activation:
        score = head.loss_cls.get_activation(y.detach()).numpy()[:, :C]
    else:
        score = np.exp(y.detach().numpy()) / np.exp(y.detach().numpy()).sum(1, keepdims=True)
    own = np.arange(C) == label[:, None]
    is_fg = (label < C)[:, None]
    return dict(
        background=(gradient * ~is_fg).sum(0),
        foreground=(gradient * (is_fg & ~own)).sum(0),
        encouraging=(gradient * own).sum(0),
        score=(score[:, :C] * ~is_fg).sum(0),
        proposals=(~is_fg).sum(),
    )


def added(parts):
    return {name: sum(part[name] for part in parts) for name in parts[0]}


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_the_sums_of_two_stages(loss, scale, tmp_path):
    rng = np.random.default_rng(0)
    head = bbox_head(loss)
    runner = runner_of(nn.ModuleList([head]), tmp_path)
    hook = CategoryGradientHook(interval=3, class_freq=COUNTS)
    hook.before_train(runner)
    stages = [added([step(hook, runner, head, rng, scale) for _ in range(3)]) for _ in range(2)]
    record = load_gradient_record(tmp_path / "category_gradients.npz")
    assert record.stages.tolist() == [[0, 3], [3, 6]]
    assert (record.loss, record.seed, record.classes) == (loss, 7, tuple("abcdef"))
    assert record.image_count.tolist() == COUNTS
    for index, stage in enumerate(stages):
        for name in ("background", "foreground", "encouraging"):
            if loss == "SeesawLoss" and name == "background":  # it acts through the objectness
                assert np.isnan(record.background).all() and not record.measures_background
                continue
            np.testing.assert_allclose(
                getattr(record, name)[index, 0], stage[name], rtol=1e-4, atol=1e-6, err_msg=name
            )
        assert record.background_proposals[index, 0] == stage["proposals"]
        np.testing.assert_allclose(
            record.background_score[index, 0], stage["score"] / stage["proposals"], rtol=1e-4
        )
    assert (record.encouraging[..., -1] == 0).all()
    parts = [sum(stage[name] for stage in stages) for name in ("background", "foreground")]
    if loss == "SeesawLoss":
        parts[0] = np.full(C, np.nan)
    with np.errstate(invalid="ignore"):
        share = parts[0] / (parts[0] + parts[1])
    np.testing.assert_allclose(record.background_share()[0], share, rtol=1e-3)
    scalars = runner.visualizer.scalars
    assert list(scalars) == [3, 6]
    assert {f"gradient/background_score_{g}" for g in "rcf"} <= scalars[3].keys()
    assert ("gradient/background_share_f" in scalars[3]) == (loss != "SeesawLoss")


def test_the_scores_of_a_head_with_sigmoids_alone_are_sigmoids(tmp_path):
    """FocalLoss in the heads of Sparse R-CNN and QueryInst: C outputs, none of background."""
    conv = dict(type="DynamicConv", in_channels=8, feat_channels=2, out_channels=8,
                input_feat_shape=3, norm_cfg=dict(type="LN"))  # fmt: skip
    loss = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0)
    head = MODELS.build(
        dict(type="DIIHead", num_classes=C, num_heads=1, num_cls_fcs=1, num_reg_fcs=1,
             feedforward_channels=8, in_channels=8, dynamic_conv_cfg=conv, loss_cls=loss)
    )  # fmt: skip
    runner = runner_of(nn.ModuleList([head]), tmp_path)
    hook = CategoryGradientHook(interval=1, class_freq=COUNTS)
    hook.before_train(runner)
    x = torch.full((N, C), -4.0, requires_grad=True)
    head.loss_cls(x, torch.full((N,), C), torch.ones(N), avg_factor=1.0).backward()
    hook.after_train_iter(runner, 0)
    record = load_gradient_record(tmp_path / "category_gradients.npz")
    np.testing.assert_allclose(record.background_score, 1 / (1 + np.exp(4)), rtol=1e-5)
    assert record.measures_background


def test_a_resumed_run_goes_on_with_the_file(tmp_path):
    rng = np.random.default_rng(1)
    head = bbox_head("EQL")
    model = nn.ModuleList([head])
    hook, runner = CategoryGradientHook(interval=2), runner_of(model, tmp_path)
    hook.before_train(runner)
    for _ in range(5):  # killed in the third stage; the last checkpoint is of iteration 3
        step(hook, runner, head, rng)
    before = load_gradient_record(tmp_path / "category_gradients.npz")
    again, resumed = CategoryGradientHook(interval=2), runner_of(model, tmp_path, iteration=3)
    hook.after_train(runner)
    again.before_train(resumed)
    step(again, resumed, head, rng)
    record = load_gradient_record(tmp_path / "category_gradients.npz")
    assert record.stages.tolist() == [[0, 2], [3, 4]]
    np.testing.assert_array_equal(record.background[0], before.background[0])


def test_the_last_stage_may_be_short_and_validation_is_not_recorded(tmp_path):
    rng = np.random.default_rng(2)
    head = bbox_head("DropLoss")
    hook, runner = CategoryGradientHook(interval=4), runner_of(nn.ModuleList([head]), tmp_path)
    runner.max_iters = 6
    hook.before_train(runner)
    for _ in range(6):
        step(hook, runner, head, rng)
        with torch.no_grad():
            head.loss_cls(torch.zeros(3, C), torch.zeros(3, dtype=torch.long))
    record = load_gradient_record(tmp_path / "category_gradients.npz")
    assert record.stages.tolist() == [[0, 4], [4, 6]]


def test_a_model_without_a_bbox_head_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Linear has none"):
        CategoryGradientHook().before_train(runner_of(nn.Linear(1, 1), tmp_path))


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
