"""mmdet's own configs, as they are but for the loss: a prediction, and an iteration of training."""

from __future__ import annotations

from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.structures import PixelData
from test_whole_detectors import data, step

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
TWO_STAGES = [
    "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
    "double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py",
    "dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py",
    "groie/faste-rcnn_r50_fpn_groie_1x_coco.py",
    "htc/htc-without-semantic_r50_fpn_1x_coco.py",
    "htc/htc_r50_fpn_1x_coco.py",
    "libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py",
    "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py",
]
QUERIES = [
    "queryinst/queryinst_r50_fpn_1x_coco.py",
    "sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py",
]
DENSE = [
    "atss/atss_r50_fpn_1x_coco.py",
    "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "retinanet/retinanet_r50_fpn_1x_coco.py",
]


def detector(config, **more):
    """The model of one of mmdet's configs, with DropLoss in the place of every loss_cls.

    Double-Head R-CNN's head makes way for the one that asks the loss for its outputs.
    """
    cfg = Config.fromfile(CONFIGS / config).model
    heads = cfg.roi_head.bbox_head if "roi_head" in cfg else cfg.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        if head.type == "DoubleConvFCBBoxHead":
            head.type = "CustomLossDoubleConvFCBBoxHead"
        head.loss_cls = dict(
            type="DropLoss",
            num_classes=80,
            class_freq=[20] * 40 + [2000] * 40,
            loss_weight=head.loss_cls.loss_weight,
            **more,
        )
    # Smaller, without weights to download; nothing of it is about the loss.
    cfg.backbone.init_cfg = None
    for sampler in rcnn_samplers(cfg):
        sampler.num = 32
    model = MODELS.build(cfg)
    model.init_weights()
    return model


def rcnn_samplers(cfg):
    if "roi_head" not in cfg or "rcnn" not in cfg.get("train_cfg", {}):
        return []
    stages = cfg.train_cfg.rcnn if isinstance(cfg.train_cfg.rcnn, list) else [cfg.train_cfg.rcnn]
    return [stage.sampler for stage in stages if "num" in stage.sampler]


def predict(model):
    model.eval()
    with torch.no_grad():
        for result in model.test_step(data(size=128)):
            scores = result.pred_instances.scores
            assert scores.isfinite().all() and ((scores >= 0) & (scores <= 1)).all()
            assert (result.pred_instances.labels < 80).all()


def train(model):
    batch = data(size=128)
    for sample in batch["data_samples"]:  # for HTC's semantic branch
        sample.gt_sem_seg = PixelData(sem_seg=torch.randint(0, 183, (1, 128, 128)))
    total, log = step(model, batch)
    assert total.isfinite()
    losses = {name: value for name, value in log.items() if name.endswith("loss_cls")}
    assert losses and all(value > 0 for value in losses.values())
    tails = [module.tail for module in model.modules() if hasattr(module, "tail")]
    assert tails and all(tail.sum() == 40 for tail in tails)
    classifiers = {
        name: parameter
        for name, parameter in model.named_parameters()
        # RetinaNet's, FCOS's and ATSS's have other names than those of boxes' heads.
        if any(part in name for part in ("fc_cls", "retina_cls", "conv_cls", "atss_cls"))
    }
    assert classifiers
    for name, parameter in classifiers.items():
        assert len(parameter) % 80 == 0, f"{name} has outputs for background"
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


# Their classifiers' biases start at 0.
@pytest.mark.filterwarnings("ignore:the classifier starts by claiming")
@pytest.mark.parametrize("config", TWO_STAGES + QUERIES)
def test_detectors_with_bbox_heads(config):
    model = detector(config)
    if "queryinst" not in config:  # untrained, its boxes end before they begin, masks or not
        predict(model)
    train(model)


@pytest.mark.parametrize("config", DENSE)
def test_dense_detectors_want_to_be_told_of_the_sigmoid(config):
    """As with mmdet's own losses, use_sigmoid=True in the config decides on the outputs."""
    model = detector(config, use_sigmoid=True)
    predict(model)
    train(model)
    with pytest.raises(ValueError, match="one column too many.*use_sigmoid=True in the config"):
        step(detector(config), data(size=128))


def test_a_head_that_learns_qualities_is_told_that_it_cannot():
    model = detector("vfnet/vfnet_r50_fpn_1x_coco.py", use_sigmoid=True)
    with pytest.raises(ValueError, match="they are a torch.float32: heads that learn a quality"):
        step(model, data(size=128))


def test_softmax_is_refused():
    with pytest.raises(ValueError, match="use_sigmoid can only be True, but it is False"):
        detector("faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", use_sigmoid=False)
