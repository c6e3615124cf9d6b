# Mini-LVIS's schedule: 8 images an iteration (2 processes x 4), some minutes on two CPU cores.
# The learning rate is high: the network starts from scratch, with batch normalisation in its FPN.
_base_ = "./schedule_90k.py"
max_iters = 1200
train_cfg = dict(max_iters=max_iters, val_interval=400)
optim_wrapper = dict(optimizer=dict(lr=0.06), clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type="MultiStepLR",
        by_epoch=False,
        begin=0,
        end=max_iters,
        milestones=[900, 1100],
        gamma=0.1,
    ),
]
auto_scale_lr = dict(base_batch_size=8)
