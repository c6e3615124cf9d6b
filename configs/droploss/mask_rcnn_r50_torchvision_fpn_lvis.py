_base_ = "./mask_rcnn_r50_fpn_lvis.py"
model = _base_.r50_torchvision
