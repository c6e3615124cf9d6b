_base_ = "./cascade_mask_rcnn_r101_fpn_sigmoid_lvis.py"
train_dataloader = dict(sampler=_base_.rfs_sampler)
