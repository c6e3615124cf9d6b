# LVIS v0.5, the paper's main data set: 1230 categories, 56,740 annotated training images.
num_classes = 1230
class_freq = "lvis_v0.5"
# What the model takes from the data set; a leaf passes it on with `roi_head=_base_.vocabulary`.
vocabulary = dict(
    bbox_head=dict(
        num_classes=num_classes, loss_cls=dict(num_classes=num_classes, class_freq=class_freq)
    ),
    mask_head=dict(num_classes=num_classes),
)

dataset_type = "FastLVISV05Dataset"
data_root = "data/lvis_v0.5/"
backend_args = None

# Scale jitter as in the paper: short edge drawn from six, long edge at most 1333.
train_pipeline = [
    dict(type="LoadImageFromFile", backend_args=backend_args),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="RandomChoiceResize",
        scales=[(1333, 640), (1333, 672), (1333, 704), (1333, 736), (1333, 768), (1333, 800)],
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile", backend_args=backend_args),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]

# For tools/test.py --tta: MMDetection's scales, which are the ends and the middle of Detectron2's
# nine, each as it is and mirrored. The first view is the test pipeline's.
tta_pipeline = [
    dict(type="LoadImageFromFile", backend_args=backend_args),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale=scale, keep_ratio=True)
                for scale in [(1333, 800), (666, 400), (2000, 1200)]
            ],
            [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
            [dict(type="LoadAnnotations", with_bbox=True, with_mask=True)],
            [dict(type="PackDetInputs")],
        ],
    ),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="annotations/lvis_v0.5_train.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
        backend_args=backend_args,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="annotations/lvis_v0.5_val.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=test_pipeline,
        backend_args=backend_args,
    ),
)
test_dataloader = val_dataloader

# Repeat factor sampling, for leaves that say `train_dataloader = dict(sampler=_base_.rfs_sampler)`.
# LVIS's own threshold is 1e-3; the released configs of EQL and DropLoss have 5e-4. Every key of the
# sampler above is here as well, so that nothing has to be deleted.
rfs_sampler = dict(type="RepeatFactorSampler", threshold=5e-4, infinite=True, shuffle=True)

val_evaluator = dict(
    type="FastLVISMetric",
    ann_file=data_root + "annotations/lvis_v0.5_val.json",
    metric=["bbox", "segm"],
    backend_args=backend_args,
)
test_evaluator = val_evaluator
