# Mini-LVIS's schedule: 8 images an iteration (2 processes x 4), some minutes on two CPU cores. Its
# length was fixed by a rule about the baseline alone: the least multiple of 800 iterations at which
# sigmoid BCE with seed 0 has a mask APr of 5 or more, so that there is a tail to compare.
# AdamW, for so short a training from scratch: with SGD hardly anything of a rare category's few
# images arrives in the weights.
_base_ = "./schedule_90k.py"
max_iters = 1600
train_cfg = dict(max_iters=max_iters, val_interval=800)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type="MultiStepLR",
        by_epoch=False,
        begin=0,
        end=max_iters,
        milestones=[1200, 1467],
        gamma=0.1,
    ),
]
auto_scale_lr = dict(base_batch_size=8)
