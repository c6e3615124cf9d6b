"""COCO-format exports of annotation tools, in the shape of each tool, read as they come."""

from __future__ import annotations

import json

import pytest

from mmdet_droploss.annotations import load_class_frequency
from mmdet_droploss.datasets import FastCocoDataset

POLYGON = [[2, 2, 12, 2, 12, 9.5]]
BOX = [2.0, 2.0, 10.0, 7.5]
MASKS = [dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True)]


def instance(id_, image_id, category_id, **more):
    ids = {"id": id_, "image_id": image_id, "category_id": category_id}
    return {**ids, "segmentation": POLYGON, "area": 37.5, "bbox": BOX, "iscrowd": 0, **more}


def picture(id_, file_name, **more):
    return {"id": id_, "width": 20, "height": 10, "file_name": file_name, **more}


def cvat():
    """Ids from 1, attributes, null dates, a mask that was drawn with a brush: a crowd region."""
    brush = {"counts": [21, 3, 176], "size": [10, 20]}
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "year": "", "url": "", "version": ""},
        "categories": [
            {"id": 1, "name": "ant", "supercategory": ""},
            {"id": 2, "name": "bee", "supercategory": ""},
        ],
        "images": [picture(1, "a/0.png", license=0, flickr_url="", coco_url="", date_captured=0)],
        "annotations": [
            instance(1, 1, 1, attributes={"occluded": False, "rotation": 0.0}),
            instance(2, 1, 2, iscrowd=1, segmentation=brush, attributes={"occluded": True}),
        ],
    }


def label_studio():
    """Ids from 0, images before categories, ``ignore`` 0, paths as names, polygons."""
    return {
        "images": [picture(0, "images/3/1a2b-0.png")],
        "categories": [{"id": 0, "name": "ant"}, {"id": 1, "name": "bee"}],
        "annotations": [instance(0, 0, 0, ignore=0), instance(1, 0, 1, ignore=0)],
        "info": {"year": 2024, "version": "1.0", "contributor": "Label Studio"},
    }


def roboflow():
    """A first category, with id 0, that no annotation has, and the real ones below it."""
    return {
        "info": {"year": "2024", "version": "3", "contributor": "", "date_created": "2024"},
        "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}],
        "categories": [
            {"id": 0, "name": "insects", "supercategory": "none"},
            {"id": 1, "name": "ant", "supercategory": "insects"},
            {"id": 2, "name": "bee", "supercategory": "insects"},
        ],
        "images": [picture(0, "0_png.rf.1a2b.jpg", license=1, extra={"name": "0.png"})],
        "annotations": [instance(0, 0, 1), instance(1, 0, 2)],
    }


def labelme():
    """labelme2coco: ids from 0 for images, ``__background__`` may be listed first."""
    return {
        "info": {"description": None, "url": None, "version": None, "year": 2024},
        "licenses": [{"url": None, "id": 0, "name": None}],
        "images": [picture(0, "JPEGImages/0.jpg", license=0, url=None, date_captured=None)],
        "type": "instances",
        "annotations": [instance(0, 0, 0), instance(1, 0, 1)],
        "categories": [
            {"supercategory": None, "id": 0, "name": "ant"},
            {"supercategory": None, "id": 1, "name": "bee"},
        ],
    }


def via():
    """VIA: whole-number ids as it numbers them; its polygons are nested in a list."""
    return {
        "info": {"year": 2024, "version": "1", "description": "Exported using VGG Image Annotator"},
        "images": [picture(1, "0.jpg", license=0, date_captured="")],
        "licenses": [{"id": 0, "name": "Unknown License", "url": ""}],
        "annotations": [instance(1, 1, 1), instance(2, 1, 2)],
        "categories": [
            {"supercategory": "insect", "id": 1, "name": "ant"},
            {"supercategory": "insect", "id": 2, "name": "bee"},
        ],
    }


def fiftyone():
    """Category ids from 0, a null supercategory, attributes of its own beside COCO's."""
    return {
        "info": {"year": "", "version": "", "description": "Exported from FiftyOne"},
        "licenses": [],
        "categories": [
            {"id": 0, "name": "ant", "supercategory": None},
            {"id": 1, "name": "bee", "supercategory": None},
        ],
        "images": [picture(1, "0.jpg", license=None, coco_url=None)],
        "annotations": [instance(1, 1, 0, confidence=None), instance(2, 1, 1, supercategory=None)],
    }


@pytest.mark.parametrize(
    "export, names, counts",
    [
        (cvat, ("ant", "bee"), [1, 0]),
        (label_studio, ("ant", "bee"), [1, 1]),
        (roboflow, ("insects", "ant", "bee"), [0, 1, 1]),
        (labelme, ("ant", "bee"), [1, 1]),
        (via, ("ant", "bee"), [1, 1]),
        (fiftyone, ("ant", "bee"), [1, 1]),
    ],
)
def test_an_export_is_read_as_it_comes(tmp_path, export, names, counts):
    path = tmp_path / "export.json"
    path.write_text(json.dumps(export()))
    dataset = FastCocoDataset(str(path), data_prefix=dict(img="pictures/"), pipeline=MASKS)
    assert dataset.metainfo["classes"] == names
    assert dataset.image_count().tolist() == counts
    item = dataset.get_data_info(0)
    assert item["img_path"] == f"pictures/{export()['images'][0]['file_name']}"
    frequency = load_class_frequency(str(path))
    assert (frequency.classes, frequency.image_count.tolist()) == (names, counts)


def test_boxes_of_label_studio_have_empty_segmentations(tmp_path):
    """Its rectangles: fine for boxes, refused where masks are loaded."""
    content = label_studio()
    for each in content["annotations"]:
        each["segmentation"] = []
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    options = dict(data_prefix=dict(img=""))
    assert len(FastCocoDataset(str(path), **options)) == 1
    with pytest.raises(ValueError, match="2 annotations with no segmentation"):
        FastCocoDataset(str(path), pipeline=MASKS, **options)


def test_the_names_of_coco_2014_are_taken_as_they_are(tmp_path):
    content = via()
    content["images"][0]["file_name"] = "COCO_train2014_000000000009.jpg"
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    dataset = FastCocoDataset(str(path), data_prefix=dict(img="x"), lazy_init=True)
    assert dataset.metainfo["classes"] == ("ant", "bee")
    assert dataset.get_data_info(0)["img_path"] == "x/COCO_train2014_000000000009.jpg"
    given = FastCocoDataset(str(path), data_prefix=dict(img="x"), metainfo=dict(classes=("a", "b")))
    assert given.metainfo["classes"] == ("a", "b")
