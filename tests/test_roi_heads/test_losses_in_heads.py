"""The losses in bbox heads, MMDetection's own and the ones of this package."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

NUM_CLASSES = 6
COUNTS = [3, 50, 100, 101, 9000, 20]
LOSSES = {
    "SigmoidBCELoss": {},
    "EQL": {},
    "BEQL": {},
    "FixedDropLoss": dict(drop_ratio=0.5),
    "DropLoss": {},
}
HEADS = {
    "Shared2FCBBoxHead": {},
    "Shared4Conv1FCBBoxHead": dict(conv_out_channels=8),
    "ConvFCBBoxHead": dict(num_cls_fcs=1, num_reg_fcs=1),
    "LargeVocabBBoxHead": {},
}
each_loss = pytest.mark.parametrize("loss", LOSSES)
each_head = pytest.mark.parametrize("kind", HEADS)


def config(kind, loss="DropLoss", num_classes=NUM_CLASSES, class_freq=COUNTS, **changes):
    return dict(
        type=kind,
        in_channels=4,
        fc_out_channels=16,
        roi_feat_size=3,
        num_classes=num_classes,
        bbox_coder=dict(
            type="DeltaXYWHBBoxCoder",
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[0.1, 0.1, 0.2, 0.2],
        ),
        reg_class_agnostic=False,
        loss_cls=dict(
            type=loss, num_classes=num_classes, class_freq=class_freq, **LOSSES.get(loss, {})
        ),
        loss_bbox=dict(type="L1Loss"),
        **HEADS.get(kind, {}),
        **changes,
    )


def targets(num_proposals, num_classes=NUM_CLASSES):
    corner = torch.rand(num_proposals, 2) * 50
    rois = torch.cat([torch.zeros(num_proposals, 1), corner, corner + 10], dim=1)
    labels = torch.randint(0, num_classes + 1, (num_proposals,))
    labels[:2] = torch.tensor([0, num_classes])[:num_proposals]
    return (
        rois,
        labels,
        torch.ones(num_proposals),
        torch.randn(num_proposals, 4),
        torch.ones(num_proposals, 4),
    )


@each_loss
@each_head
def test_a_head_trains_and_predicts(kind, loss):
    head = MODELS.build(config(kind, loss))
    head.init_weights()
    assert head.fc_cls.out_features == NUM_CLASSES, "no background channel"
    cls_score, bbox_pred = head(torch.randn(20, 4, 3, 3))
    assert cls_score.shape == (20, NUM_CLASSES)
    losses = head.loss(cls_score, bbox_pred, *targets(20))
    assert {"loss_cls", "loss_bbox", "acc_r", "acc_c", "acc_f", "acc_fg"} == set(losses)
    (losses["loss_cls"] + losses["loss_bbox"]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert head.fc_cls.weight.grad.abs().sum() > 0

    head.eval()
    with torch.no_grad():
        cls_score, bbox_pred = head(torch.randn(20, 4, 3, 3))
    result = head.predict_by_feat(
        (targets(20)[0],),
        (cls_score,),
        (bbox_pred,),
        [dict(img_shape=(60, 60), scale_factor=(1.0, 1.0))],
        ConfigDict(score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10),
    )[0]
    assert len(result) == 10
    assert result.labels.max() < NUM_CLASSES
    best = cls_score.sigmoid().max()
    torch.testing.assert_close(result.scores[0], best)


@each_loss
@each_head
def test_a_state_dict_goes_into_a_head_without_frequencies(kind, loss):
    """Inference where the annotation file is not at hand."""
    trained = MODELS.build(config(kind, loss))
    bare = MODELS.build(config(kind, loss, class_freq=None))
    bare.load_state_dict(trained.state_dict())
    assert torch.equal(bare.loss_cls.tail, trained.loss_cls.tail)


DOUBLE_HEAD = dict(num_convs=1, num_fcs=1, conv_out_channels=8)


@each_loss
def test_the_double_head_has_no_background_channel(loss):
    """MMDetection's own makes num_classes + 1 outputs, whatever the loss wants."""
    head = MODELS.build(config("CustomLossDoubleConvFCBBoxHead", loss, **DOUBLE_HEAD))
    head.init_weights()
    cls_score, bbox_pred = head(torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3))
    assert cls_score.shape == (8, NUM_CLASSES)
    losses = head.loss(cls_score, bbox_pred, *targets(8))
    (losses["loss_cls"] + losses["loss_bbox"]).backward()
    assert head.fc_cls.weight.grad.abs().sum() > 0
    assert head.fc_cls.weight.std() < 0.02, "initialised as MMDetection does"


def test_the_double_head_keeps_its_background_channel_for_softmax():
    cfg = config("CustomLossDoubleConvFCBBoxHead", **DOUBLE_HEAD)
    cfg["loss_cls"] = dict(type="CrossEntropyLoss")
    assert MODELS.build(cfg).fc_cls.out_features == NUM_CLASSES + 1


def test_mmdets_own_double_head_is_as_it_was():
    """Importing this package changes nothing for the other configs of a process."""
    cls = MODELS.get("DoubleConvFCBBoxHead")
    assert cls.__module__.startswith("mmdet.")
    cfg = config("DoubleConvFCBBoxHead", **DOUBLE_HEAD)
    assert MODELS.build(cfg).fc_cls.out_features == NUM_CLASSES + 1


@each_loss
def test_heads_with_a_fixed_background_channel_say_what_is_wrong(loss):
    """As SABLHead and others of MMDetection's: the outputs don't depend on the loss."""
    head = MODELS.build(config("Shared2FCBBoxHead", loss))
    with pytest.raises(ValueError, match=r"\(8, 7\).*no background channel.*custom_cls_channels"):
        head.loss(torch.randn(8, NUM_CLASSES + 1), torch.randn(8, 4 * NUM_CLASSES), *targets(8))


@each_head
def test_another_number_of_classes_in_head_and_loss_is_refused(kind):
    cfg = config(kind)
    cfg["num_classes"] = 80
    with pytest.raises(ValueError, match=r"num_classes=80.*DropLoss has num_classes=6"):
        MODELS.build(cfg)


# ---------------------------------------------------------------- how a classifier starts


def first_loss(head):
    cls_score, bbox_pred = head(torch.randn(8, 4, 3, 3))
    return head.loss(cls_score, bbox_pred, *targets(8, 1203))["loss_cls"]


def test_mmdets_head_starts_roughly_with_1203_categories_and_is_warned_of():
    head = MODELS.build(config("Shared2FCBBoxHead", num_classes=1203, class_freq="lvis_v1"))
    head.init_weights()
    with pytest.warns(UserWarning, match="claiming 60. of 1203.*LargeVocabBBoxHead"):
        assert first_loss(head) > 100


@each_loss
def test_large_vocab_head_starts_calmly_with_1203_categories(loss):
    cfg = config("LargeVocabBBoxHead", loss, num_classes=1203, class_freq="lvis_v1")
    head = MODELS.build(cfg)
    head.init_weights()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert first_loss(head) < 15


def test_the_remedy_that_the_warning_names_works():
    """init_cfg for MMDetection's own head."""
    init_cfg = dict(type="Normal", std=0.01, bias=-6.9, override=dict(name="fc_cls"))
    cfg = config("Shared2FCBBoxHead", num_classes=1203, class_freq="lvis_v1", init_cfg=init_cfg)
    head = MODELS.build(cfg)
    head.init_weights()
    assert torch.equal(head.fc_cls.bias, torch.full((1203,), -6.9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert first_loss(head) < 15


@pytest.mark.parametrize("prior", [0.001, 0.01, 0.5, 0.9])
def test_the_bias_is_that_of_the_prior(prior):
    head = MODELS.build(config("LargeVocabBBoxHead", prior_prob=prior))
    head.init_weights()
    expected = -math.log((1 - prior) / prior)
    torch.testing.assert_close(head.fc_cls.bias, torch.full((NUM_CLASSES,), expected))
    torch.testing.assert_close(head.fc_cls.bias.sigmoid(), torch.full((NUM_CLASSES,), prior))
    assert 0.005 < head.fc_cls.weight.std() < 0.02
    assert torch.equal(head.fc_reg.bias, torch.zeros(NUM_CLASSES * 4))


@pytest.mark.parametrize("prior", [0, 1, -0.1, 1.5, float("nan"), "0.1"])
def test_a_prior_out_of_range_is_refused(prior):
    with pytest.raises(ValueError, match=r"prior_prob must lie in \(0, 1\)"):
        MODELS.build(config("LargeVocabBBoxHead", prior_prob=prior))


def test_an_init_cfg_of_ones_own_holds():
    init_cfg = dict(type="Constant", val=0.5, bias=-2.0, override=dict(name="fc_cls"))
    head = MODELS.build(config("LargeVocabBBoxHead", init_cfg=init_cfg))
    head.init_weights()
    assert torch.equal(head.fc_cls.bias, torch.full((NUM_CLASSES,), -2.0))


def test_a_softmax_loss_works_in_large_vocab_head():
    cfg = config("LargeVocabBBoxHead")
    cfg["loss_cls"] = dict(type="CrossEntropyLoss")
    head = MODELS.build(cfg)
    cls_score, bbox_pred = head(torch.randn(20, 4, 3, 3))
    assert cls_score.shape == (20, NUM_CLASSES + 1)
    losses = head.loss(cls_score, bbox_pred, *targets(20))
    assert losses["loss_cls"].isfinite() and "acc" in losses


@each_loss
def test_large_vocab_head_has_a_classification_loss_for_no_proposals(loss):
    """Processes of a distributed run must give the same losses, and gradients of the same parts."""
    head = MODELS.build(config("LargeVocabBBoxHead", loss))
    cls_score, bbox_pred = head(torch.randn(0, 4, 3, 3))
    losses = head.loss(cls_score, bbox_pred, *targets(0))
    assert losses["loss_cls"] == 0
    sum(value for key, value in losses.items() if "loss" in key).sum().backward()
    assert torch.equal(head.fc_cls.weight.grad, torch.zeros_like(head.fc_cls.weight))


# ---------------------------------------------------------------- the cascade


def cascade(**changes):
    extractor = dict(
        type="SingleRoIExtractor",
        roi_layer=dict(type="RoIAlign", output_size=3, sampling_ratio=2),
        out_channels=4,
        featmap_strides=[4],
    )
    bbox_head = config("LargeVocabBBoxHead")
    return {
        **dict(
            type="LargeVocabCascadeRoIHead",
            num_stages=3,
            stage_loss_weights=[1, 0.5, 0.25],
            bbox_roi_extractor=extractor,
            bbox_head=bbox_head,
        ),
        **changes,
    }


def test_the_stages_of_a_cascade_are_the_one_head_with_stds_of_their_own():
    cfg = cascade()
    before = copy.deepcopy(cfg)
    roi_head = MODELS.build(ConfigDict(cfg))
    assert cfg == before, "the config is not changed"
    assert [list(head.bbox_coder.stds) for head in roi_head.bbox_head] == [
        [0.1, 0.1, 0.2, 0.2],
        [0.05, 0.05, 0.1, 0.1],
        [0.033, 0.033, 0.067, 0.067],
    ]
    assert len({id(head.loss_cls) for head in roi_head.bbox_head}) == 3
    weights = [head.fc_cls.weight for head in roi_head.bbox_head]
    assert not torch.equal(weights[0], weights[1])


def test_the_number_of_stages_can_be_another():
    stds = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1]]
    cfg = cascade(num_stages=2, stage_loss_weights=[1, 0.5], stage_target_stds=stds)
    assert len(MODELS.build(cfg).bbox_head) == 2


def test_a_list_of_heads_is_refused_by_the_cascade():
    heads = [config("LargeVocabBBoxHead")] * 3
    with pytest.raises(ValueError, match="one dict for all stages.*list.*CascadeRoIHead"):
        MODELS.build(cascade(bbox_head=heads))


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_wrong_number_of_stds_is_refused_by_the_cascade(number):
    stds = [[0.1, 0.1, 0.2, 0.2]] * number
    with pytest.raises(ValueError, match=f"stage_target_stds.*num_stages=3.*has {number}"):
        MODELS.build(cascade(stage_target_stds=stds))


def test_a_head_without_coder_in_the_cascade_is_mmdets_default_with_the_stds():
    """bbox_coder has a default in every bbox head."""
    cfg = config("LargeVocabBBoxHead")
    del cfg["bbox_coder"]
    roi_head = MODELS.build(cascade(bbox_head=cfg))
    assert list(roi_head.bbox_head[2].bbox_coder.stds) == [0.033, 0.033, 0.067, 0.067]
