# The paper's schedule: 90k iterations of 16 images (8 GPUs x 2), Detectron2's "1x".
# The learning rate is 0.02: the paper's text says 0.2, but the authors' released configs use 0.02,
# Detectron2's default for 16 images, and 0.2 diverges. The warm-up is Detectron2's.
max_iters = 90000
# MMEngine's IterBasedTrainLoop, but a resume goes on within seconds and exactly.
train_cfg = dict(type="ResumableIterBasedTrainLoop", max_iters=max_iters, val_interval=30000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(
        type="MultiStepLR",
        by_epoch=False,
        begin=0,
        end=max_iters,
        milestones=[60000, 80000],
        gamma=0.1,
    ),
]
# --auto-scale-lr scales the learning rate by (batch size of the run) / base_batch_size.
auto_scale_lr = dict(enable=False, base_batch_size=16)
del max_iters  # an epoch-based schedule inherits the rest
