_base_ = "./mask_rcnn_r50_fpn_sigmoid_lvis.py"
train_dataloader = dict(sampler=_base_.rfs_sampler)
