# Cascade Mask R-CNN R-50-FPN as in the paper, which is Detectron2's: three stages at IoU 0.5, 0.6
# and 0.7 with equal weights, one mask head, 2000 proposals in training. The docstring of
# Detectron2CascadeRoIHead says what it does otherwise than MMDetection's cascade.
_base_ = "./mask_rcnn_r50_fpn.py"
model = dict(
    type="CascadeRCNN",
    roi_head=dict(
        type="Detectron2CascadeRoIHead",
        num_stages=3,
        stage_loss_weights=[1, 1, 1],
        bbox_head=dict(reg_class_agnostic=True),
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=2000)),
)


def mmdet_stage(iou_threshold):
    """Training config of the stage that takes proposals from this IoU on as foreground."""
    one = _base_.model.train_cfg.rcnn
    thresholds = dict.fromkeys(["pos_iou_thr", "neg_iou_thr", "min_pos_iou"], iou_threshold)
    return dict(one, assigner=dict(one.assigner, **thresholds), sampler=dict(one.sampler))


# For leaves that say `model = _base_.mmdet_cascade`: MMDetection's cascade instead, whose stages
# weigh less and less, sample 512 proposals each, and have a mask head each.
mmdet_cascade = dict(
    roi_head=dict(
        type="LargeVocabCascadeRoIHead",
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=dict(loss_bbox=dict(type="SmoothL1Loss", beta=1.0)),
    ),
    train_cfg=dict(rcnn=[mmdet_stage(0.5), mmdet_stage(0.6), mmdet_stage(0.7)]),
)
del mmdet_stage
