# MMDetection's "1x": 12 epochs of 16 images an iteration. The optimizer is schedule_90k.py's, and
# there are three validations as there: on LVIS each takes minutes. A leaf lists this file in place
# of default_runtime.py, too, because what is logged and saved counts epochs here.
_base_ = ["./schedule_90k.py", "../default_runtime.py"]

max_epochs = 12
train_cfg = dict(
    _delete_=True,
    type="EpochBasedTrainLoop",
    max_epochs=max_epochs,
    val_interval=max_epochs // 3,
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type="MultiStepLR",
        by_epoch=True,
        begin=0,
        end=max_epochs,
        milestones=[8, 11],
        gamma=0.1,
    ),
]
default_hooks = dict(
    logger=dict(log_metric_by_epoch=True), checkpoint=dict(by_epoch=True, interval=1)
)
log_processor = dict(by_epoch=True)

# An epoch has to end, so a leaf says `train_dataloader = dict(sampler=_base_.epoch_sampler)`.
epoch_sampler = dict(type="DefaultSampler")
