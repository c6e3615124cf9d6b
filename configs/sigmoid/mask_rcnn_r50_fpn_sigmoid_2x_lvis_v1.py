# Mask R-CNN R-50-FPN with plain sigmoid BCE on LVIS v1.0, MMDetection's 2x schedule.
_base_ = [
    "../_base_/models/mask_rcnn_r50_fpn.py",
    "../_base_/datasets/lvis_v1_instance.py",
    "../_base_/schedules/schedule_2x.py",
]
model = dict(roi_head=_base_.vocabulary)
train_dataloader = dict(sampler=_base_.epoch_sampler)
