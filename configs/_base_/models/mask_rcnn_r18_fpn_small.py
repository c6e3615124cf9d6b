# Mask R-CNN small enough to train from scratch on a CPU in minutes, for images of about 160 pixels:
# ResNet-18 of half width, an FPN of 64 channels, fewer proposals. All else is the large model's.
_base_ = "./mask_rcnn_r50_fpn.py"
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0]),
    backbone=dict(
        depth=18,
        stem_channels=32,
        base_channels=32,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
        init_cfg=None,
    ),
    neck=dict(
        in_channels=[32, 64, 128, 256], out_channels=64, num_outs=4, norm_cfg=dict(type="BN")
    ),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[6], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1),
            out_channels=64,
            featmap_strides=[4, 8, 16],
        ),
        # Boxes and masks are class-agnostic: a category with one image cannot learn its own from
        # scratch, and it is by the classifier that the losses are to be compared.
        bbox_head=dict(in_channels=64, fc_out_channels=256, reg_class_agnostic=True),
        mask_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1),
            out_channels=64,
            featmap_strides=[4, 8, 16],
        ),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, class_agnostic=True),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=200), rcnn=dict(sampler=dict(num=64))
    ),
    # LVIS counts 300 detections an image for its 1203 categories, one for every four. So here, for
    # 60: a category whose scores are suppressed loses its place.
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=200), rcnn=dict(max_per_img=15)),
)
tta_model = dict(tta_cfg=dict(max_per_img=15))
