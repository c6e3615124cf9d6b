"""What the losses promise to heads, checkpoints, mixed precision and GPUs."""

from __future__ import annotations

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmdet_droploss.models.losses import BEQL, EQL, DropLoss, FixedDropLoss, SigmoidBCELoss
from mmdet_droploss.models.losses.checks import check_inputs

COUNTS = [3, 50, 100, 101, 9000, 20]
ALL = {
    "SigmoidBCELoss": {},
    "EQL": {},
    "BEQL": {},
    "FixedDropLoss": dict(drop_ratio=0.5),
    "DropLoss": {},
}
each_loss = pytest.mark.parametrize("kind", ALL)
each_tail_loss = pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "SigmoidBCELoss"])


def build(kind, **changes):
    arguments = dict(type=kind, num_classes=6, class_freq=COUNTS, **ALL[kind])
    return MODELS.build({**arguments, **changes})


def batch(num_proposals=32, dtype=torch.float32):
    return torch.randn(num_proposals, 6, dtype=dtype), torch.randint(0, 7, (num_proposals,))


@each_loss
def test_registered_in_mmdet_with_its_contract(kind):
    loss = build(kind)
    assert loss.custom_cls_channels and loss.custom_activation and loss.custom_accuracy
    assert loss.get_cls_channels(6) == 6


# ---------------------------------------------------------------- mixed precision


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(kind, dtype):
    """float16's largest numbers: p saturates, sums overflow unless they are float32."""
    x, labels = batch()
    x = (x.sign() * 6e4).to(dtype).requires_grad_()
    value = build(kind, reduction="sum")(x, labels)
    assert value.dtype == torch.float32
    assert value.isfinite()
    value.backward()
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()


@each_loss
def test_under_autocast_the_result_is_float32_and_that_of_float32(kind):
    x, labels = batch()
    torch.manual_seed(1)
    expected = build(kind)(x, labels)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = build(kind)(x, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)


@each_loss
def test_the_classifier_trains_under_autocast(kind):
    features, labels = torch.randn(32, 16), torch.randint(0, 7, (32,))
    classifier = torch.nn.Linear(16, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = classifier(features)
        assert x.dtype == torch.bfloat16
        build(kind)(x, labels).backward()
    assert classifier.weight.grad.isfinite().all()


# ---------------------------------------------------------------- the tail


@pytest.mark.parametrize(
    "name, lambda_, expected",
    [
        ("lvis_v0.5", None, 915),
        ("lvis_v1", None, 798),
        ("lvis_v0.5", 0.00177, 915),
        ("lvis_v1", 0.00177, 876),
    ],
)
def test_the_tail_of_lvis_has_the_size_that_the_paper_implies(name, lambda_, expected):
    num_classes = {"lvis_v0.5": 1230, "lvis_v1": 1203}[name]
    assert EQL(num_classes, class_freq=name, lambda_=lambda_).tail.sum() == expected


def test_lambda_is_a_strict_bound_on_the_share_of_images():
    loss = EQL(6, class_freq=COUNTS, lambda_=0.0101, num_images=10_000)
    assert loss.tail.tolist() == [True, True, True, False, False, True]


def test_without_lambda_the_tail_ends_at_100_images():
    assert EQL(6, class_freq=COUNTS).tail.tolist() == [True, True, True, False, False, True]


# ---------------------------------------------------------------- checkpoints


@each_loss
def test_a_checkpoint_holds_the_tail_and_nothing_else(kind):
    state = build(kind).state_dict()
    assert list(state) == ["tail"]
    assert state["tail"].tolist() == [True, True, True, False, False, True]


@each_loss
def test_a_loss_keeps_its_frequencies_with_their_names(kind, tmp_path):
    path = tmp_path / "frequency.json"
    names = list("abcdef")
    path.write_text(json.dumps({"image_count": COUNTS, "num_images": 10_000, "classes": names}))
    loss = build(kind, class_freq=str(path))
    assert loss.class_frequency.classes == tuple(names)
    assert loss.class_frequency.source == str(path)
    assert build(kind, class_freq=None).class_frequency is None


@each_tail_loss
def test_a_loaded_tail_takes_the_place_of_class_freq(kind):
    trained, bare = build(kind), build(kind, class_freq=None)
    bare.load_state_dict(trained.state_dict())
    assert torch.equal(bare.tail, trained.tail)
    x, labels = batch()
    values = []
    for loss in (trained, bare):
        torch.manual_seed(5)
        values.append(loss(x, labels))
    assert torch.equal(*values)


@each_tail_loss
def test_another_tail_in_the_checkpoint_is_told_and_the_config_holds(kind):
    old = build(kind, class_freq=[5000, 5000, 1, 1, 1, 1])
    new = build(kind)
    tail = new.tail.clone()
    with pytest.warns(UserWarning, match="checkpoint counts 4 .* the config 4.*config holds"):
        new.load_state_dict(old.state_dict())
    assert torch.equal(new.tail, tail)


@each_tail_loss
def test_the_same_tail_in_the_checkpoint_is_not_worth_a_warning(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(kind).load_state_dict(build(kind).state_dict())


@each_tail_loss
def test_training_without_frequencies_is_refused(kind):
    loss = build(kind, class_freq=None)
    with pytest.raises(ValueError, match=f"{kind} with class_freq=None.*give class_freq"):
        loss(*batch())


@each_tail_loss
def test_a_checkpoint_without_tail_does_not_count_as_frequencies(kind):
    loss = build(kind, class_freq=None)
    loss.load_state_dict({}, strict=False)
    with pytest.raises(ValueError, match="class_freq=None"):
        loss(*batch())


def test_the_baseline_needs_no_frequencies():
    assert build("SigmoidBCELoss", class_freq=None)(*batch()).isfinite()


@each_loss
def test_losses_can_be_copied(kind):
    """EMA hooks copy the whole model."""
    loss = copy.deepcopy(build(kind))
    assert torch.equal(loss.tail, build(kind).tail)
    assert loss(*batch()).isfinite()


# ---------------------------------------------------------------- what heads ask


@given(num_proposals=st.integers(0, 20), scale=st.sampled_from([1.0, 1e3, 6e4]))
def test_activation_has_a_last_column_of_zeros(num_proposals, scale):
    x = torch.randn(num_proposals, 6) * scale
    scores = build("DropLoss").get_activation(x)
    assert scores.shape == (num_proposals, 7)
    assert torch.equal(scores[:, -1], torch.zeros(num_proposals))
    assert torch.equal(scores[:, :-1], x.sigmoid())
    half = build("DropLoss").get_activation(x.clamp(-6e4, 6e4).half())
    assert half.dtype == torch.float32 and half.isfinite().all()


def test_activation_needs_no_frequencies():
    """Inference with class_freq=None."""
    assert build("DropLoss", class_freq=None).get_activation(torch.randn(3, 6)).shape == (3, 7)


def test_accuracy_is_a_running_figure_per_group():
    """Recomputed from all batches so far: a batch that is k steps old counts 0.98^k."""
    rng = np.random.default_rng(0)
    loss = build("DropLoss")
    groups = {
        "acc_r": [0],  # 3 images
        "acc_c": [1, 2, 5],  # 50, 100, 20
        "acc_f": [3, 4],
        "acc_fg": [0, 1, 2, 3, 4, 5],
    }
    history = []
    for _ in range(30):
        num_proposals = int(rng.integers(0, 12))
        x = rng.normal(size=(num_proposals, 6))
        labels = rng.integers(0, 7, num_proposals)
        history.append((x, labels))
        got = loss.get_accuracy(torch.from_numpy(x), torch.from_numpy(labels))
        assert list(got) == list(groups)
        for key, members in groups.items():
            seen = hits = 0.0
            for age, (old_x, old_labels) in enumerate(reversed(history)):
                for row, label in zip(old_x, old_labels, strict=True):
                    if label in members:
                        seen += 0.98**age
                        hits += 0.98**age * (row.argmax() == label)
            expected = 100 * hits / seen if seen else 0.0
            assert float(got[key]) == pytest.approx(expected, rel=1e-4, abs=1e-4), key


def test_accuracy_without_frequencies_is_one_figure():
    loss = build("SigmoidBCELoss", class_freq=None)
    x = torch.eye(6)
    got = loss.get_accuracy(x, torch.tensor([0, 1, 2, 0, 0, 6]))
    assert {key: round(float(value), 3) for key, value in got.items()} == {"acc_fg": 60.0}


def test_accuracy_names_do_not_count_as_losses():
    """mmengine sums up every entry with "loss" in its name."""
    assert not any("loss" in key for key in build("DropLoss").get_accuracy(*batch()))


# ---------------------------------------------------------------- GPUs


# Tensors on the meta device have shapes and no values, so asking for one (.item(), "if tensor:",
# nonzero, a copy to the CPU) raises: just what a GPU would have to be waited for.


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: float(x[0]),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x.unique(),
    ],
    ids=["item", "if", "float", "nonzero", "mask", "cpu", "tolist", "unique"],
)
def test_the_meta_device_notices_waiting(wait):
    """What the next test rests on."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        wait(torch.empty(3, device="meta"))


@each_loss
@pytest.mark.parametrize("avg_factor", [None, 512.0, "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nothing_waits_for_a_gpu(kind, avg_factor, dtype):
    loss = build(kind).to("meta")
    loss._is_first_step = False  # the first call looks at the starting scores, by design
    x = torch.empty(16, 6, device="meta", dtype=dtype, requires_grad=True)
    labels = torch.empty(16, device="meta", dtype=torch.int64)
    if avg_factor == "tensor":
        avg_factor = torch.empty((), device="meta")
    label_weights = torch.empty(16, device="meta")
    for reduction in ("mean", "none"):
        loss(x, labels, label_weights, avg_factor, reduction).sum().backward()
    loss.get_accuracy(x, labels)
    loss.get_activation(x)


def test_labels_are_checked_on_a_gpu_without_waiting():
    """The checks take another way on CUDA. A fake GPU has the device, and no values either."""
    with FakeTensorMode(), torch.no_grad():
        try:
            x = torch.empty(16, 6, device="cuda")
        except RuntimeError as error:  # a CUDA build of torch 2.1 starts CUDA all the same
            pytest.skip(f"torch {torch.__version__}: {error}")
        labels = torch.empty(16, device="cuda", dtype=torch.int64)
        with pytest.raises(DataDependentOutputException):
            x.sum().item()
        check_inputs(x, labels, torch.empty(16, device="cuda"), 6)


class CountOps(TorchDispatchMode):
    """How many kernels a call takes."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@each_loss
def test_no_loop_over_categories(kind):
    """The number of operations does not depend on the number of categories or proposals."""
    counts = []
    for num_classes, num_proposals in ((6, 4), (600, 64)):
        loss = build(kind, num_classes=num_classes, class_freq=COUNTS * (num_classes // 6))
        x = torch.full((num_proposals, num_classes), -7.0, requires_grad=True)
        labels = torch.randint(0, num_classes + 1, (num_proposals,))
        loss(x, labels)
        with CountOps() as ops:
            loss(x, labels).backward()
            loss.get_accuracy(x.detach(), labels)
        counts.append(ops.count)
    assert counts[0] == counts[1] < 150


# ---------------------------------------------------------------- forms of class_freq


def test_class_freq_may_be_a_file(tmp_path):
    path = tmp_path / "frequency.json"
    path.write_text(json.dumps({"image_count": COUNTS, "num_images": 10_000}))
    assert torch.equal(EQL(6, class_freq=str(path)).tail, EQL(6, class_freq=COUNTS).tail)
    loss = EQL(6, class_freq=str(path), lambda_=0.005)  # num_images comes from the file
    assert loss.tail.tolist() == [True, False, False, False, False, True]


@pytest.mark.parametrize("form", [tuple, np.array])
def test_class_freq_may_be_any_sequence(form):
    assert torch.equal(EQL(6, class_freq=form(COUNTS)).tail, EQL(6, class_freq=COUNTS).tail)


def test_printing_a_loss_tells_its_tail():
    assert "low_frequency=4" in repr(DropLoss(6, class_freq=COUNTS))
    for loss in (BEQL(6, COUNTS), FixedDropLoss(6, COUNTS, drop_ratio=1), SigmoidBCELoss(6)):
        assert "num_classes=6" in repr(loss)
