_base_ = "./cascade_mask_rcnn_r50_fpn_sigmoid_lvis.py"
model = dict(backbone=_base_.r101)
