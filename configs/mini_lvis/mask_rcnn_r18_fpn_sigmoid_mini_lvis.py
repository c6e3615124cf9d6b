# A small Mask R-CNN with plain sigmoid BCE on mini-LVIS: the baseline of the quickstart.
_base_ = [
    "../_base_/models/mask_rcnn_r18_fpn_small.py",
    "../_base_/datasets/mini_lvis_instance.py",
    "../_base_/schedules/schedule_mini.py",
    "../_base_/default_runtime.py",
]
model = dict(roi_head=_base_.vocabulary)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=100, max_keep_ckpts=2))
log_processor = dict(window_size=20)
