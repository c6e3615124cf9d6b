# MMDetection's cascade, which is not the paper's.
_base_ = "./cascade_mask_rcnn_r50_fpn_lvis.py"
model = _base_.mmdet_cascade
