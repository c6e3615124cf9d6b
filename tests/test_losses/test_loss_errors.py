"""Bad input: the message names the culprit and its value."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from mmdet.registry import MODELS

from mmdet_droploss.models import losses
from mmdet_droploss.models.losses import BEQL, EQL, DropLoss, FixedDropLoss, SigmoidBCELoss
from mmdet_droploss.models.losses.arguments import TAKE_CLASS_FREQ, accepted_arguments

COUNTS = [3, 50, 500]
LOSSES = [
    SigmoidBCELoss(3, COUNTS),
    EQL(3, COUNTS),
    BEQL(3, COUNTS),
    FixedDropLoss(3, COUNTS, drop_ratio=0.5),
    DropLoss(3, COUNTS),
]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)


def labels(*values):
    return torch.tensor(values)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_classes=4, class_freq=COUNTS), r"num_classes=4 .*class_freq.* 3 categories"),
        (dict(num_classes=1203, class_freq="lvis_v0.5"), r"num_classes=1203 .* 1230 categories"),
        (dict(num_classes=0), r"num_classes must be .*0"),
        (dict(num_classes=2.5), r"num_classes must be .*2\.5"),
        (dict(num_classes=3, class_freq="lvis_v2"), r"'lvis_v2' .*'lvis_v0\.5', 'lvis_v1'"),
        (dict(class_freq=[3, -1, 5]), r"whole numbers >= 0.*\[3, -1, 5\]"),
        (dict(class_freq=[3, 0.5, 5]), r"whole numbers >= 0.*\[3, 0\.5, 5\]"),
        (dict(class_freq=[]), r"non-empty list"),
        (dict(class_freq=[[3, 4, 5]]), r"flat.*\[\[3, 4, 5\]\]"),
        (dict(class_freq=["a", "b", "c"]), r"whole numbers >= 0.*'a'"),
        (dict(lambda_=0.01), r"lambda_=0\.01 needs num_images"),
        (dict(lambda_=0), r"lambda_ .*\(0, 1\].* 0"),
        (dict(lambda_=100, num_images=1000), r"lambda_ .*\(0, 1\].* 100"),
        (dict(lambda_=0.01, num_images=499), r"num_images=499 .*500"),
        (dict(lambda_=0.01, class_freq=None), r"lambda_=0\.01 needs class_freq"),
        (dict(reduction="avg"), r"reduction must be 'none', 'mean' or 'sum'.*'avg'"),
        (dict(loss_weight=-1), r"loss_weight must be .*-1"),
        (dict(loss_weight=float("nan")), r"loss_weight must be .*nan"),
    ],
)
@pytest.mark.parametrize("kind", ["EQL", "DropLoss", "BEQL", "SigmoidBCELoss"])
def test_arguments(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build({**dict(type=kind, num_classes=3, class_freq=COUNTS), **arguments})


def test_each_loss_that_takes_class_freq_is_named():
    takers = {
        name
        for name in losses.__all__
        if name in MODELS.module_dict and "class_freq" in accepted_arguments(MODELS.get(name))
    }
    assert set(TAKE_CLASS_FREQ) == takers and "FederatedLoss" in takers


@pytest.mark.parametrize("log_base", [1, 0.5, 0, -4, float("nan"), float("inf"), "4"])
def test_log_base(log_base):
    with pytest.raises(ValueError, match="log_base must be a number > 1"):
        BEQL(3, COUNTS, log_base=log_base)


@pytest.mark.parametrize("drop_ratio", [-0.1, 1.1, float("nan"), "0.5"])
def test_drop_ratio(drop_ratio):
    with pytest.raises(ValueError, match=r"drop_ratio must lie in \[0, 1\]"):
        FixedDropLoss(3, COUNTS, drop_ratio=drop_ratio)


def test_class_freq_of_a_wrong_type():
    with pytest.raises(TypeError, match="class_freq must be .*'lvis_v0.5'.*it is a int: 7"):
        EQL(3, class_freq=7)


@pytest.mark.parametrize(
    "lambda_, counts, which",
    [
        (0.9, [3, 50, 500], "every"),
        (0.0001, [3, 50, 500], "no"),
        (None, [1, 2, 100], "every"),
        (None, [101, 500, 1000], "no"),
    ],
)
@pytest.mark.parametrize("kind", ["EQL", "DropLoss"])
def test_a_tail_of_none_or_all_is_warned_of(kind, lambda_, counts, which):
    with pytest.warns(UserWarning, match=f"{kind}.*{which} category is of low frequency.*lambda_"):
        MODELS.build(
            dict(type=kind, num_classes=3, class_freq=counts, lambda_=lambda_, num_images=1000)
        )


def test_a_tail_of_none_is_nothing_to_the_baseline():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SigmoidBCELoss(3, [500, 500, 500])


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("kind", [SigmoidBCELoss, EQL])
def test_a_missing_file(kind, tmp_path):
    """A warning that a model can be built with, for inference, and an error for a training."""
    path = str(tmp_path / "train.json")
    message = "train.json.*does not exist.*working directory"
    with pytest.warns(UserWarning, match=f"{message}.*Training will stop at its first loss"):
        loss = kind(3, class_freq=path)
    with pytest.raises(FileNotFoundError, match=message):
        loss(torch.zeros(2, 3), labels(0, 3))


def test_a_missing_file_is_still_missing_with_a_checkpoint(tmp_path):
    """A fine-tuning starts from a checkpoint of other data."""
    with pytest.warns(UserWarning, match="does not exist"):
        loss = EQL(3, class_freq=str(tmp_path / "train.json"))
    loss.load_state_dict(EQL(3, class_freq=[1, 2, 999]).state_dict())
    assert loss.tail.tolist() == [True, True, False]
    with pytest.raises(FileNotFoundError, match="train.json"):
        loss(torch.zeros(2, 3), labels(0, 3))


def test_a_truncated_file(tmp_path):
    path = tmp_path / "train.json"
    text = json.dumps({"images": [], "annotations": [], "categories": []})
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="train.json.*not valid JSON, perhaps truncated"):
        EQL(3, class_freq=str(path))


@pytest.mark.parametrize("content", [[1, 2, 3], {"boxes": []}, "text", 7])
def test_a_file_of_another_format(tmp_path, content):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="train.json.*not of a known format"):
        EQL(3, class_freq=str(path))


# ---------------------------------------------------------------- a batch


@each_loss
def test_a_background_column_is_recognised(loss):
    with pytest.raises(ValueError, match=r"\(N, 3\).*\(4, 4\).*no background channel"):
        loss(torch.randn(4, 4), labels(0, 1, 2, 3))


@each_loss
@pytest.mark.parametrize("shape", [(4, 2), (4,), (1, 4, 3)])
def test_logits_of_a_wrong_shape(loss, shape):
    with pytest.raises(ValueError, match="cls_score must have shape"):
        loss(torch.randn(shape), labels(0, 1, 2, 3))


@each_loss
def test_logits_that_are_whole_numbers(loss):
    with pytest.raises(ValueError, match="cls_score must be floating point.*int64"):
        loss(torch.zeros(4, 3, dtype=torch.int64), labels(0, 1, 2, 3))


@each_loss
@pytest.mark.parametrize("bad", [-1, 4, 255])
def test_labels_out_of_range(loss, bad):
    low, high = min(bad, 0), max(bad, 3)
    with pytest.raises(ValueError, match=rf"labels must lie in \[0, 3\].*from {low} to {high}"):
        loss(torch.randn(3, 3), labels(0, 3, bad))


@each_loss
@pytest.mark.parametrize(
    "bad",
    [
        torch.tensor([0, 1, 2], dtype=torch.int32),
        torch.tensor([0, 1]),
        torch.tensor([[0], [1], [2]]),
    ],
    ids=["int32", "too few", "a column"],
)
def test_labels_of_a_wrong_type_or_shape(loss, bad):
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(3,\)"):
        loss(torch.randn(3, 3), bad)


@each_loss
@pytest.mark.parametrize("shape", [(2,), (3, 1), (3, 3), ()])
def test_label_weights_of_a_wrong_shape(loss, shape):
    with pytest.raises(ValueError, match=r"label_weights must have shape \(3,\)"):
        loss(torch.randn(3, 3), labels(0, 1, 3), torch.ones(shape))


@each_loss
@pytest.mark.parametrize("label", [0, 2, 3])
def test_nan_logits(loss, label):
    """Also where the term is dropped: 0 times NaN is NaN."""
    x = torch.full((2, 3), -5.0)
    x[1, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN.*training has diverged.*1 of 2 proposals.*1 NaN"):
        loss(x, labels(1, label))


@each_loss
def test_reduction_override(loss):
    with pytest.raises(ValueError, match="reduction_override must be .*'avg'"):
        loss(torch.randn(3, 3), labels(0, 1, 3), reduction_override="avg")


@each_loss
def test_avg_factor_with_sum(loss):
    """mmdet's rule, and its message."""
    with pytest.raises(ValueError, match="avg_factor"):
        loss(torch.randn(3, 3), labels(0, 1, 3), avg_factor=3, reduction_override="sum")


@each_loss
def test_a_head_of_another_size(loss):
    name = type(loss).__name__
    with pytest.raises(ValueError, match=f"num_classes=80.*{name} has num_classes=3"):
        loss.get_cls_channels(80)


# ---------------------------------------------------------------- a zero bias


def test_a_classifier_that_claims_everything_is_warned_of_once():
    loss = EQL(1203, class_freq="lvis_v1")
    with pytest.warns(UserWarning, match="claiming 60[0-9] of 1203.*LargeVocabBBoxHead"):
        loss(torch.zeros(8, 1203), torch.full((8,), 1203))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(torch.zeros(8, 1203), torch.full((8,), 1203))


def test_a_classifier_with_a_low_prior_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EQL(1203, class_freq="lvis_v1")(torch.full((8, 1203), -6.9), torch.full((8,), 1203))


@pytest.mark.parametrize("kind", ["EQL", "BEQL", "DropLoss"])
def test_frequencies_cannot_be_forgotten(kind):
    """None has to be asked for: it is right for inference only."""
    with pytest.raises(TypeError, match="class_freq"):
        MODELS.build(dict(type=kind, num_classes=3))


def test_labels_with_qualities_are_not_labels():
    """What heads of the GFL family give."""
    labels = torch.tensor([0, 3])
    loss = EQL(3, class_freq=COUNTS)
    with pytest.raises(ValueError, match="int64 tensor, but they are a tuple.*GFL, VFNet, TOOD"):
        loss(torch.zeros(2, 3), (labels, torch.rand(2)))
    with pytest.raises(
        ValueError, match="but they are a torch.float32: heads that learn a quality"
    ):
        loss(torch.zeros(2, 3), torch.rand(2, 3))
