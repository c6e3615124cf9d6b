_base_ = "../sigmoid/mask_rcnn_r50_fpn_sigmoid_2x_lvis_v1.py"
model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(type="DropLoss"))))
