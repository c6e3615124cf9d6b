_base_ = "./mask_rcnn_r18_fpn_sigmoid_mini_lvis.py"
model = dict(
    roi_head=dict(
        bbox_head=dict(
            loss_cls=dict(
                _delete_=True, type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0
            )
        )
    )
)
