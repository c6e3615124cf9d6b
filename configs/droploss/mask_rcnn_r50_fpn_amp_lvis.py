_base_ = "./mask_rcnn_r50_fpn_lvis.py"
optim_wrapper = dict(type="AmpOptimWrapper")
