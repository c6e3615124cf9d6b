# Mini-LVIS, made by tools/dataset_converters/make_mini_lvis.py: 60 categories, 160 x 160 images,
# annotated as LVIS is. Everything else is inherited from the real data set's file.
_base_ = "./lvis_v0.5_instance.py"

num_classes = 60
data_root = "data/mini_lvis/"
class_freq = data_root + "annotations/lvis_v1_train.json"
vocabulary = dict(
    bbox_head=dict(
        num_classes=num_classes, loss_cls=dict(num_classes=num_classes, class_freq=class_freq)
    ),
    mask_head=dict(num_classes=num_classes),
)

dataset_type = "FastLVISV1Dataset"
metainfo = dict(classes=data_root + "annotations/classes.txt")

# Glyphs are not mirrored: a mirrored letter may be another one.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]

# Scales only: a detector that has never seen a mirrored glyph takes it for another one.
load, views = _base_.tta_pipeline
scales, flips, *rest = views["transforms"]
scales = [dict(type="Resize", scale=(edge, edge), keep_ratio=True) for edge in (160, 128, 192)]
# MMDetection's model asks each view whether it is mirrored.
tta_pipeline = [load, dict(type="TestTimeAug", transforms=[scales, flips[:1], *rest])]
del load, views, scales, flips, rest

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="annotations/lvis_v1_train.json",
        data_prefix=dict(img=""),
        filter_cfg=dict(filter_empty_gt=True, min_size=16),
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="annotations/lvis_v1_val.json",
        data_prefix=dict(img=""),
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/lvis_v1_val.json")
test_evaluator = val_evaluator
