# What every run needs, whatever the model and the data set.
default_scope = "mmdet"
custom_imports = dict(imports=["mmdet_droploss"], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    # Iterations count here, not epochs: without this, validation would be logged under step 0.
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="ResumableCheckpointHook", by_epoch=False, interval=5000, max_keep_ckpts=2
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="DetVisualizationHook"),
)
custom_hooks = [dict(type="CheckpointShapeHook"), dict(type="CategoryCheckHook")]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="DetLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
