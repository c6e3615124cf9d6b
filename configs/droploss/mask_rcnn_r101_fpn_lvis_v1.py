_base_ = "../sigmoid/mask_rcnn_r101_fpn_sigmoid_lvis_v1.py"
model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(type="DropLoss"))))
