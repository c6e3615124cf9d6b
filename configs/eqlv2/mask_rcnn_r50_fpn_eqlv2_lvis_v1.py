_base_ = "../sigmoid/mask_rcnn_r50_fpn_sigmoid_lvis_v1.py"
model = dict(
    roi_head=dict(
        bbox_head=dict(
            loss_cls=dict(_delete_=True, type="EQLV2BBoxLoss", num_classes=_base_.num_classes)
        )
    )
)
