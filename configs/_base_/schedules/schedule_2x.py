# MMDetection's "2x": 24 epochs. All else is schedule_1x.py's.
_base_ = "./schedule_1x.py"

max_epochs = 24
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs // 3)
warm_up, steps = _base_.param_scheduler
steps.update(end=max_epochs, milestones=[16, 22])
param_scheduler = [warm_up, steps]
del warm_up, steps
