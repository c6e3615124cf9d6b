"""tools/test.py --tta, in this process, with detectors of random weights."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from scripts import load_script
from small_run import CONFIG, ROOT, changes

from mmdet_droploss.engine import BoxesOnlyHook, use_test_time_augmentation


@pytest.fixture(scope="module")
def small(mini_lvis_dir, tmp_path_factory):
    """A config on the tiny data set with a checkpoint of random weights; boxes only."""
    folder = tmp_path_factory.mktemp("tta")
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(changes(mini_lvis_dir, 2))
    cfg.test_evaluator.metric = "bbox"
    scales = cfg.tta_pipeline[1].transforms[0]
    cfg.tta_pipeline[1].transforms[0] = scales[:1]
    cfg.model.test_cfg.rcnn.max_per_img = cfg.tta_model.tta_cfg.max_per_img = 40
    cfg.dump(folder / "config.py")
    torch.manual_seed(1)
    init_default_scope("mmdet")
    model = MODELS.build(copy.deepcopy(cfg.model))
    model.init_weights()
    # Scores that differ, so that their order is no accident.
    torch.nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=1.0)
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / "weights.pth")
    return folder


def detections(folder, name, *arguments):
    """What tools/test.py dumps."""
    out = folder / f"{name}.pkl"
    load_script("tools/test.py").main(
        [
            *(str(folder / "config.py"), str(folder / "weights.pth")),
            *("--work-dir", str(folder / name), "--out", str(out), *arguments),
        ]
    )
    return [sample["pred_instances"] for sample in pickle.loads(out.read_bytes())]


def test_one_view_alone_gives_the_test_itself(small):
    """Also: the weights arrive in the wrapped model, and masks are neither needed nor made."""
    plain = detections(small, "plain")
    merged = detections(small, "one_view", "--tta")
    assert len(plain) == len(merged) == 12
    for one, other in zip(plain, merged, strict=True):
        assert "masks" in one and "masks" not in other
        assert len(one["scores"]) == 40
        assert torch.equal(one["labels"], other["labels"])
        assert torch.equal(one["scores"], other["scores"])
        torch.testing.assert_close(one["bboxes"], other["bboxes"], rtol=0, atol=1e-4)


# ---- what is merged -----------------------------------------------------------------------------

SMALL = dict(
    backbone=dict(depth=18, stem_channels=8, base_channels=8, init_cfg=None, style="pytorch"),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=1203),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=1203),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)


@pytest.fixture(scope="module", params=["mask_rcnn_r50_fpn.py", "cascade_mask_rcnn_r50_fpn.py"])
def of_lvis_size(request):
    """A detector of 1203 sigmoids in MMDetection's model, its masks taken off."""
    cfg = Config.fromfile(ROOT / "configs" / "_base_" / "models" / request.param)
    cfg.merge_from_dict(dict(model=SMALL))
    cfg.model.roi_head.bbox_head.loss_cls.num_classes = 1203
    init_default_scope("mmdet")
    torch.manual_seed(2)
    model = MODELS.build(ConfigDict(**cfg.tta_model, module=cfg.model)).eval()
    model.module.init_weights()
    logger = MMLogger.get_current_instance()
    BoxesOnlyHook().before_test(SimpleNamespace(model=model, logger=logger))
    return model


def views(*of_image):
    """A batch of an image in several views, as TestTimeAug and the collation make it."""
    shape = tuple(of_image[0][0].shape[1:])
    inputs, samples = [], []
    for image, is_mirrored in of_image:
        sample = DetDataSample()
        sample.set_metainfo(
            dict(
                img_id=1,
                img_shape=shape,
                ori_shape=shape,
                scale_factor=(1.0, 1.0),
                flip=is_mirrored,
                flip_direction="horizontal" if is_mirrored else None,
            )
        )
        inputs.append([image])
        samples.append([sample])
    return dict(inputs=inputs, data_samples=samples)


@torch.no_grad()
def test_a_thousand_sigmoids_and_three_hundred_boxes(of_lvis_size):
    """The best of both views, with the scores that they have there, and the mirrored boxes back."""
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    mirrored = image.flip(-1)
    both = of_lvis_size.test_step(views((image, False), (mirrored, True)))[0].pred_instances
    assert len(both.scores) == 300 and "masks" not in both
    assert (both.scores.diff() <= 0).all()
    of_views = [
        of_lvis_size.module.test_step(
            {key: value[0] for key, value in views((picture, False)).items()}
        )[0].pred_instances
        for picture in (image, mirrored)
    ]
    of_views[1].bboxes[:, [0, 2]] = 128 - of_views[1].bboxes[:, [2, 0]]
    boxes, scores, labels = (
        torch.cat([view[key] for view in of_views]) for key in ("bboxes", "scores", "labels")
    )
    for box, score, label in zip(both.bboxes[:50], both.scores, both.labels, strict=False):
        same = (scores == score) & (labels == label)
        assert ((boxes - box).abs().amax(1) < 1e-3)[same].any()
    # The best box of all has nothing above it that could suppress it.
    assert both.scores[0] == scores.max()


# ---- what a config has and lacks ----------------------------------------------------------------


def shipped(folder="droploss", name="mask_rcnn_r50_fpn_lvis", **changed):
    cfg = Config.fromfile(ROOT / "configs" / folder / f"{name}.py")
    cfg.merge_from_dict({"test_evaluator.metric": "bbox"})
    cfg.merge_from_dict(changed)
    return cfg


@pytest.mark.parametrize(
    "folder, name, number, edges, limit",
    [
        ("droploss", "mask_rcnn_r50_fpn_lvis", 6, [800, 400, 1200], 300),
        ("droploss", "cascade_mask_rcnn_r101_fpn_rfs_lvis_v1", 6, [800, 400, 1200], 300),
        ("softmax", "mask_rcnn_r50_fpn_softmax_lvis", 6, [800, 400, 1200], 300),
        ("mini_lvis", "mask_rcnn_r18_fpn_droploss_mini_lvis", 3, [160, 128, 192], 15),
    ],
)
def test_shipped_configs_bring_their_views(folder, name, number, edges, limit):
    cfg = shipped(folder, name)
    detector = cfg.model
    use_test_time_augmentation(cfg)
    assert (cfg.model.type, cfg.model.module) == ("DetTTAModel", detector)
    assert cfg.model.tta_cfg.max_per_img == limit == detector.test_cfg.rcnn.max_per_img
    augment = cfg.test_dataloader.dataset.pipeline[-1]
    assert [scale.scale[1] for scale in augment.transforms[0]] == edges
    mirrored = [flip.prob for flip in augment.transforms[1]]
    assert mirrored == ([0.0] if folder == "mini_lvis" else [0.0, 1.0])
    assert f": {number} views" in cfg.custom_hooks[-1].note
    # Training and validation stay as they were.
    assert cfg.val_dataloader.dataset.pipeline[-1].type == "PackDetInputs"


@pytest.mark.parametrize(
    "evaluator, path",
    [
        (dict(type="FastLVISMetric", metric=["bbox", "segm"]), "test_evaluator"),
        (dict(type="FastLVISMetric"), "test_evaluator"),  # its default
        ([dict(type="CocoMetric"), dict(type="CocoMetric", metric="segm")], "test_evaluator.1"),
    ],
)
def test_masks_are_refused_with_the_option_for_boxes(evaluator, path):
    cfg = shipped()
    cfg.test_evaluator = evaluator
    with pytest.raises(ValueError, match=f"boxes only.*--cfg-options {path}.metric=bbox"):
        use_test_time_augmentation(cfg)
    cfg.merge_from_dict({f"{path}.metric": "bbox"})
    use_test_time_augmentation(cfg)


@pytest.mark.parametrize("load", ["LoadAnnotations", "mmdet.LoadAnnotations", LoadAnnotations])
@pytest.mark.parametrize("last", ["PackDetInputs", "mmdet.PackDetInputs", PackDetInputs])
def test_a_config_without_views_of_its_own_gets_a_mirrored_one(load, last):
    cfg = shipped()
    assert cfg.test_dataloader.dataset.pipeline[2].type == "LoadAnnotations"
    cfg.test_dataloader.dataset.pipeline[2].type = load
    cfg.test_dataloader.dataset.pipeline[-1].type = last
    cfg.pop("tta_model")
    cfg.pop("tta_pipeline")
    cfg.model.test_cfg.rcnn.update(max_per_img=77, nms=dict(type="nms", iou_threshold=0.6))
    use_test_time_augmentation(cfg)
    assert cfg.model.tta_cfg == dict(nms=dict(type="nms", iou_threshold=0.6), max_per_img=77)
    *before, augment = cfg.test_dataloader.dataset.pipeline
    assert [step.type for step in before] == ["LoadImageFromFile", "Resize"]
    flips, loads, (pack,) = augment.transforms
    assert [flip.prob for flip in flips] == [0.0, 1.0] and loads[0].type == load
    assert {"flip", "flip_direction", "scale_factor"} <= set(pack.meta_keys)


def test_views_of_another_data_set_are_said():
    """A pipeline of one's own, and the base config's views."""
    cfg = shipped()
    cfg.test_dataloader.dataset.pipeline[1].scale = (640, 480)
    with pytest.warns(UserWarning, match=r"resizes to \(640, 480\).*set tta_pipeline"):
        use_test_time_augmentation(cfg)
    cfg = shipped()
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type="PhotoMetricDistortion"))
    with pytest.warns(UserWarning, match="leaves out PhotoMetricDistortion"):
        use_test_time_augmentation(cfg)
