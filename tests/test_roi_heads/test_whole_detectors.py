"""Mask R-CNN and Cascade Mask R-CNN from the repository's configs, shrunk: a step, a prediction."""

from __future__ import annotations

import warnings

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

NUM_CLASSES = 6
COUNTS = [3, 50, 100, 101, 9000, 20]
SMALL = dict(
    backbone=dict(
        depth=18, stem_channels=8, base_channels=8, init_cfg=None, style="pytorch", frozen_stages=-1
    ),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1),
    ),
)
LOSSES = ("SigmoidBCELoss", "EQL", "BEQL", "FixedDropLoss", "DropLoss")


MMDET_CASCADE = "cascade_mask_rcnn_r50_fpn.py, mmdet_cascade"


def detector(repository, base, loss, **loss_changes):
    """``base`` is a file and, after a comma, one of its dicts that change the model."""
    file, _, variant = base.partition(", ")
    cfg = Config.fromfile(repository / "configs" / "_base_" / "models" / file)
    if variant:
        cfg.merge_from_dict(dict(model=cfg[variant]))
    if "r18" not in base:
        cfg.merge_from_dict(dict(model=SMALL))
    loss_cls = dict(type=loss, num_classes=NUM_CLASSES, class_freq=COUNTS, **loss_changes)
    if loss == "FixedDropLoss":
        loss_cls["drop_ratio"] = 0.5
    cfg.merge_from_dict(
        dict(
            model=dict(
                roi_head=dict(
                    bbox_head=dict(num_classes=NUM_CLASSES, loss_cls=loss_cls),
                    mask_head=dict(num_classes=NUM_CLASSES),
                ),
                train_cfg=dict(rpn_proposal=dict(nms_pre=100, max_per_img=50)),
                test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(max_per_img=20)),
            )
        )
    )
    init_default_scope("mmdet")
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def data(num_objects=(3, 2), size=96):
    inputs, samples = [], []
    for index, number in enumerate(num_objects):
        corner = torch.rand(number, 2) * 40
        boxes = torch.cat([corner, corner + 20 + torch.rand(number, 2) * 30], dim=1)
        masks = torch.zeros(number, size, size, dtype=torch.uint8)
        for mask, box in zip(masks, boxes.long().tolist(), strict=True):
            mask[box[1] : box[3], box[0] : box[2]] = 1
        sample = DetDataSample(
            metainfo=dict(
                img_id=index,
                img_shape=(size, size),
                ori_shape=(size, size),
                scale_factor=(1.0, 1.0),
                pad_shape=(size, size),
                batch_input_shape=(size, size),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.randint(0, NUM_CLASSES, (number,)),
            masks=BitmapMasks(masks.numpy(), size, size),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        inputs.append(torch.randint(0, 256, (3, size, size), dtype=torch.uint8))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def step(model, batch):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batch = model.data_preprocessor(batch, training=True)
    losses = model(**batch, mode="loss")
    total, log = model.parse_losses(losses)
    total.backward()
    optimizer.step()
    return total, log


BASES = [
    "mask_rcnn_r18_fpn_small.py",
    "mask_rcnn_r50_fpn.py",
    "cascade_mask_rcnn_r50_fpn.py",
    MMDET_CASCADE,
]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("base", BASES)
def test_a_detector_trains_and_predicts(repository, base, loss):
    model = detector(repository, base, loss)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the classifier starts by claiming")
        total, log = step(model, data())
    assert total.isfinite() and total > 0
    prefixes = ["s0.", "s1.", "s2."] if "cascade" in base else [""]
    for prefix in prefixes:
        for key in ("loss_cls", "loss_bbox", "acc_r", "acc_c", "acc_f", "acc_fg"):
            assert prefix + key in log
    masks = {key for key in log if "loss_mask" in key}
    assert masks == {f"{p}loss_mask" for p in (prefixes if base == MMDET_CASCADE else [""])}
    classifiers = [(n, p) for n, p in model.named_parameters() if "fc_cls" in n]
    assert len(classifiers) == 2 * len(prefixes)
    for name, parameter in classifiers:
        assert parameter.shape[0] == NUM_CLASSES, name
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name

    model.eval()
    with torch.no_grad():
        results = model.test_step(data())
    for result in results:
        found = result.pred_instances
        assert len(found) == 20
        assert found.scores.isfinite().all() and (found.scores > 0).all()
        assert found.labels.max() < NUM_CLASSES
        assert found.masks.shape[1:] == (96, 96)


@pytest.mark.parametrize("base", BASES)
def test_scores_are_the_sigmoid_of_the_logits(repository, base):
    """Taken once. A cascade's are the mean of its stages' or, in MMDetection's, of mean logits."""
    model = detector(repository, base, "DropLoss").eval()
    classifiers = [module for name, module in model.named_modules() if name.endswith("fc_cls")]
    for index, classifier in enumerate(classifiers):
        torch.nn.init.zeros_(classifier.weight)
        torch.nn.init.constant_(classifier.bias, -index)
    with torch.no_grad():
        found = model.test_step(data())[0].pred_instances
    logits = torch.tensor([0.0, -1.0, -2.0] if "cascade" in base else [0.0])
    of_mean, mean = logits.mean().sigmoid(), logits.sigmoid().mean()
    expected = of_mean if base == MMDET_CASCADE else mean
    torch.testing.assert_close(found.scores, expected.expand(len(found)))


@pytest.mark.parametrize("base", BASES)
def test_images_without_objects_train(repository, base):
    """Then eq. (7) is 0/0."""
    total, _ = step(detector(repository, base, "DropLoss"), data(num_objects=(0, 0)))
    assert total.isfinite()


@pytest.mark.parametrize(
    "base, weights, stds, beta",
    [
        ("cascade_mask_rcnn_r50_fpn.py", [1, 1, 1], [1 / 10, 1 / 20, 1 / 30], None),
        (MMDET_CASCADE, [1, 0.5, 0.25], [0.1, 0.05, 0.033], 1.0),
    ],
)
def test_the_stages_of_the_cascades(repository, base, weights, stds, beta):
    model = detector(repository, base, "DropLoss")
    heads = model.roi_head.bbox_head
    assert all(head.reg_class_agnostic for head in heads)
    assert [head.bbox_coder.stds[0] for head in heads] == stds
    assert {getattr(head.loss_bbox, "beta", None) for head in heads} == {beta}
    assert model.roi_head.stage_loss_weights == weights
    assigners = [assigner.pos_iou_thr for assigner in model.roi_head.bbox_assigner]
    assert assigners == [0.5, 0.6, 0.7]
    biases = torch.cat([head.fc_cls.bias for head in heads])
    torch.testing.assert_close(biases.sigmoid(), torch.full_like(biases, 0.001))
