"""LargeVocabMaskHead's losses, gradients and masks are FCNMaskHead's."""

from __future__ import annotations

import contextlib
import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData
from test_whole_detectors import MMDET_CASCADE, data, detector, step

NUM_CLASSES = 7
HEIGHT, WIDTH = 60, 80
SCALE = (0.5, 0.75)


def heads(**changes):
    """FCNMaskHead and ours with the same weights."""
    cfg = dict(
        num_convs=1,
        in_channels=4,
        conv_out_channels=6,
        num_classes=NUM_CLASSES,
        loss_mask=dict(type="CrossEntropyLoss", use_mask=True),
        **changes,
    )
    theirs = MODELS.build(dict(type="FCNMaskHead", **copy.deepcopy(cfg)))
    mine = MODELS.build(dict(type="LargeVocabMaskHead", **cfg))
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    mine.load_state_dict(theirs.state_dict())
    assert mine.own_class_only == (not mine.class_agnostic)
    return theirs, mine


def boxes(count):
    corners = torch.rand(2, count, 2) * torch.tensor([WIDTH * SCALE[0], HEIGHT * SCALE[1]])
    return torch.cat([corners.min(dim=0).values, corners.max(dim=0).values + 1], dim=1)


VARIANTS = [{}, dict(class_agnostic=True), dict(upsample_cfg=dict(type=None))]
each_variant = pytest.mark.parametrize("changes", VARIANTS, ids=["", "agnostic", "no upsampling"])


@each_variant
@pytest.mark.parametrize("counts", [(5, 3), (4, 0), (0, 0)])
def test_loss_and_gradients(changes, counts):
    size = 14 if "upsample_cfg" in changes else 28
    samples = [
        SimpleNamespace(
            pos_priors=boxes(count),
            pos_assigned_gt_inds=torch.zeros(count, dtype=torch.int64),
            pos_gt_labels=torch.randint(NUM_CLASSES, (count,)),
        )
        for count in counts
    ]
    shape = (HEIGHT, WIDTH)
    truth = [SimpleNamespace(masks=BitmapMasks(np.ones((1, *shape), np.uint8), *shape))] * 2
    features = torch.randn(sum(counts), 4, 14, 14)
    found = []
    for head in heads(**changes):
        result = head.loss_and_target(head(features), samples, truth, ConfigDict(mask_size=size))
        loss = result["loss_mask"]["loss_mask"].sum()
        loss.backward()
        # Without objects, too, every parameter has a gradient: distributed training counts on it.
        found.append((loss.detach(), {n: p.grad for n, p in head.named_parameters()}))
        assert all(grad is not None for grad in found[-1][1].values())
    torch.testing.assert_close(found[1], found[0])


@each_variant
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("threshold", [0.5, -1])
def test_masks(changes, rescale, threshold):
    theirs, mine = heads(**changes)
    features = torch.randn(30, 4, 14, 14)
    found = []
    torch.manual_seed(1)
    at, labels = boxes(30), torch.randint(NUM_CLASSES, (30,))
    meta = dict(ori_shape=(HEIGHT, WIDTH), img_shape=(45, 40), scale_factor=SCALE)
    for head in (theirs, mine):
        results = [InstanceData(bboxes=at[:30].clone(), labels=labels)]
        with torch.no_grad():
            head.predict_by_feat(
                (head(features),), results, [meta], ConfigDict(mask_thr_binary=threshold), rescale
            )
        found.append(results[0])
    assert torch.equal(found[0].bboxes, found[1].bboxes)
    masks = [result.masks for result in found]
    assert masks[0].dtype == masks[1].dtype and masks[0].shape == masks[1].shape
    assert masks[0].any()
    different = (masks[0] != masks[1]).float().mean()  # a value next to the threshold
    assert different < 1e-4


def test_a_head_of_another_kind_is_left_alone():
    """A normed convolution's filters cannot be taken one by one."""
    head = MODELS.build(
        dict(
            type="LargeVocabMaskHead",
            num_classes=NUM_CLASSES,
            predictor_cfg=dict(type="NormedConv2d"),
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True),
        )
    )
    assert head(torch.randn(2, 256, 14, 14)).shape == (2, NUM_CLASSES, 28, 28)


@pytest.mark.parametrize(
    "base", ["mask_rcnn_r50_fpn.py", "cascade_mask_rcnn_r50_fpn.py", MMDET_CASCADE]
)
def test_whole_detectors_give_what_they_give_with_fcn_mask_head(repository, base, monkeypatch):
    """A training step and a prediction; in MMDetection's cascade, stages' masks are averaged."""
    found = []
    for kind in ("LargeVocabMaskHead", "FCNMaskHead"):
        original = Config.fromfile

        def of_kind(*args, kind=kind, original=original, **kwargs):
            cfg = original(*args, **kwargs)
            assert cfg.model.roi_head.mask_head.type == "LargeVocabMaskHead"
            cfg.model.roi_head.mask_head.type = kind
            return cfg

        monkeypatch.setattr(Config, "fromfile", of_kind)
        torch.manual_seed(0)
        model = detector(repository, base, "SigmoidBCELoss")
        monkeypatch.undo()
        torch.manual_seed(1)
        batch = data()
        total, _ = step(model, batch)
        gradients = {
            name: parameter.grad
            for name, parameter in model.named_parameters()
            if "mask_head" in name and parameter.grad is not None
        }
        model.eval()
        with torch.no_grad():
            results = [sample.pred_instances for sample in model.test_step(data())]
        found.append((total.detach(), gradients, results))
    (total, gradients, results), (expected_total, expected_gradients, expected_results) = found
    torch.testing.assert_close(total, expected_total)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-3, atol=1e-6)
    for mine, theirs in zip(results, expected_results, strict=True):
        assert len(mine) == 20 and torch.equal(mine.labels, theirs.labels)
        torch.testing.assert_close(mine.bboxes, theirs.bboxes, rtol=1e-4, atol=1e-3)
        assert mine.masks.shape == theirs.masks.shape
        assert (mine.masks != theirs.masks).float().mean() < 1e-3


def test_mmdets_cascade_is_told_what_it_needs(repository, monkeypatch):
    model = detector(repository, MMDET_CASCADE, "DropLoss").eval()
    monkeypatch.setattr(type(model.roi_head), "predict_mask", CascadeRoIHead.predict_mask)
    with torch.no_grad(), pytest.raises(ValueError, match="LargeVocabCascadeRoIHead, not Casc"):
        model.test_step(data())


MASK_SCORING = dict(
    type="MaskScoringRoIHead",
    mask_iou_head=dict(
        type="MaskIoUHead",
        num_convs=1,
        num_fcs=1,
        in_channels=16,
        conv_out_channels=16,
        fc_out_channels=16,
        num_classes=6,
    ),
)
#: Of as many categories as the mask head's features have channels, so that the shapes would fit.
POINT_REND = dict(
    type="PointRendRoIHead",
    point_head=dict(
        type="MaskPointHead",
        num_fcs=1,
        in_channels=64,  # of four levels
        fc_channels=16,
        num_classes=16,
        coarse_pred_each_layer=False,
    ),
)


@pytest.mark.parametrize("roi_head", [MASK_SCORING, POINT_REND], ids=["scoring", "point_rend"])
@pytest.mark.parametrize("kind", ["LargeVocabMaskHead", "FCNMaskHead"])
def test_a_roi_head_that_reads_logits_by_label_is_refused(repository, monkeypatch, roi_head, kind):
    original = Config.fromfile

    def with_roi_head(*args, **kwargs):
        cfg = original(*args, **kwargs)
        cfg.model.roi_head.update(copy.deepcopy(roi_head))
        cfg.model.roi_head.mask_head.type = kind
        cfg.model.train_cfg.rcnn.update(
            mask_thr_binary=0.5, num_points=4, oversample_ratio=3, importance_sample_ratio=0.75
        )
        cfg.model.test_cfg.rcnn.update(
            subdivision_steps=1, subdivision_num_points=4, scale_factor=2
        )
        return cfg

    monkeypatch.setattr(Config, "fromfile", with_roi_head)
    model = detector(repository, "mask_rcnn_r50_fpn.py", "SigmoidBCELoss")
    if roi_head is POINT_REND:
        model.roi_head.mask_head = MODELS.build(
            dict(type=kind, num_convs=1, in_channels=16, conv_out_channels=16, num_classes=16)
        )
    said = (
        pytest.raises(ValueError, match="LargeVocabMaskHead .* use FCNMaskHead as its mask_head")
        if kind == "LargeVocabMaskHead"
        else contextlib.nullcontext()
    )
    with said:
        step(model, data())
    model.eval()
    with torch.no_grad(), said:
        model.test_step(data())


def test_features_pass_what_reads_no_labels():
    _, mine = heads()
    features = mine(torch.randn(5, 4, 14, 14))
    assert features[torch.tensor([0, 3])].shape == features[:2].shape == (2, 6, 28, 28)
    for part in (features, *features.split([2, 3])):
        computed = [part[1:], part.float() + 1, mine.own_logits(part, torch.arange(len(part)))]
        assert {type(tensor) for tensor in computed} == {torch.Tensor}
