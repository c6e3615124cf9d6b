_base_ = "./cascade_mask_rcnn_r50_fpn_sigmoid_lvis_v1.py"
train_dataloader = dict(sampler=_base_.rfs_sampler)
