# Cascade Mask R-CNN R-50-FPN: MMDetection's three stages on the backbone of mask_rcnn_r50_fpn.py.
# The stages share one bbox_head dict (LargeVocabCascadeRoIHead), so a loss is named in one place.
_base_ = "./mask_rcnn_r50_fpn.py"


def stage(iou_threshold):
    """Training config of the stage that takes proposals from this IoU on as foreground."""
    return dict(
        assigner=dict(
            type="MaxIoUAssigner",
            pos_iou_thr=iou_threshold,
            neg_iou_thr=iou_threshold,
            min_pos_iou=iou_threshold,
            match_low_quality=False,
            ignore_iof_thr=-1,
        ),
        sampler=dict(
            type="RandomSampler",
            num=512,
            pos_fraction=0.25,
            neg_pos_ub=-1,
            add_gt_as_proposals=True,
        ),
        mask_size=28,
        pos_weight=-1,
        debug=False,
    )


model = dict(
    type="CascadeRCNN",
    roi_head=dict(
        type="LargeVocabCascadeRoIHead",
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=dict(
            reg_class_agnostic=True,
            loss_bbox=dict(_delete_=True, type="SmoothL1Loss", beta=1.0, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(rcnn=[stage(0.5), stage(0.6), stage(0.7)]),
)
del stage
