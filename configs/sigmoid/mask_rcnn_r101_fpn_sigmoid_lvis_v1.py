_base_ = "./mask_rcnn_r50_fpn_sigmoid_lvis_v1.py"
model = dict(backbone=_base_.r101)
