# Cascade Mask R-CNN R-50-FPN with plain sigmoid BCE on LVIS v1.0: the base of the other losses'.
_base_ = [
    "../_base_/models/cascade_mask_rcnn_r50_fpn.py",
    "../_base_/datasets/lvis_v1_instance.py",
    "../_base_/schedules/schedule_90k.py",
    "../_base_/default_runtime.py",
]
model = dict(roi_head=_base_.vocabulary)
