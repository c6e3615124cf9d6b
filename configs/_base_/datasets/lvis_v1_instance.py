# LVIS v1.0: 1203 categories, 99,388 annotated training images, from COCO's train2017 and val2017
# alike: an image's own URL says where it lies.
_base_ = "./lvis_v0.5_instance.py"

num_classes = 1203
class_freq = "lvis_v1"
vocabulary = dict(
    bbox_head=dict(
        num_classes=num_classes, loss_cls=dict(num_classes=num_classes, class_freq=class_freq)
    ),
    mask_head=dict(num_classes=num_classes),
)

dataset_type = "FastLVISV1Dataset"
data_root = "data/lvis_v1/"
files = dict(type=dataset_type, data_root=data_root, data_prefix=dict(img=""))
train_dataloader = dict(dataset=dict(ann_file="annotations/lvis_v1_train.json", **files))
val_dataloader = dict(dataset=dict(ann_file="annotations/lvis_v1_val.json", **files))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/lvis_v1_val.json")
test_evaluator = val_evaluator
del files
