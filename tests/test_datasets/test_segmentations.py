"""Segmentations and pictures that would stop a training late are named at the start."""

from __future__ import annotations

import copy
import json

import cv2
import numpy as np
import pytest
from logs import logged
from mmdet.datasets import CocoDataset
from PIL import Image
from pycocotools import mask as mask_utils

from mmdet_droploss.annotations.segmentations import FATAL, HARMLESS, problem_of
from mmdet_droploss.datasets import FastCocoDataset

WIDTH, HEIGHT = 20, 10
SOUND = [[1, 2, 6, 2, 6, 8]]
LOAD = [
    dict(type="LoadImageFromFile"),
    dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="mmdet.PackDetInputs"),
]
BOXES = [*LOAD[:1], dict(type="mmdet.LoadAnnotations", with_bbox=True), LOAD[2]]


def rle(height=HEIGHT, width=WIDTH):
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[2:5, 3:6] = 1
    encoded = mask_utils.encode(mask)
    return {"size": [height, width], "counts": encoded["counts"].decode()}


CASES = {
    "missing": ["absent", None, [], {}, ""],
    "flat": [[1, 2, 6, 2, 6, 8], [1.5, 2, 6, 2, 6, 8.5]],
    "no_numbers": [[["1", "2", "6", "2", "6", "8"]], [[[1, 2], [6, 2], [6, 8]]],
                   [[1, 2, 6, None, 6, 8]], [{"x": 1, "y": 2}]],
    "other_size": [rle(WIDTH, HEIGHT), rle(HEIGHT + 1), {"size": [5, 5], "counts": [0, 25]}],
    "bad_runs": [{"size": [HEIGHT, WIDTH], "counts": [0, 10**6]},
                 rle(HEIGHT + 1) | {"size": [HEIGHT, WIDTH]}],
    "short_runs": [{"size": [HEIGHT, WIDTH], "counts": [0, 7]},
                   rle(HEIGHT - 1) | {"size": [HEIGHT, WIDTH]}],
    "other_type": ["polygon", 7],
    "short": [[[1, 2, 6, 2]], [[1, 2, 6, 2, 6, 8, 3]], [[]], [SOUND[0], [1, 2]]],
    "incomplete": [{"counts": [0, 200]}, {"size": [HEIGHT, WIDTH]},
                   {"size": [HEIGHT, WIDTH], "counts": None}],
    None: [SOUND, rle(), {"size": [HEIGHT, WIDTH], "counts": [20, 30, 150]}, SOUND * 3],
}  # fmt: skip
EVERY = [(kind, value) for kind, values in CASES.items() for value in values]


def write(folder, segmentation, **more):
    """One image with two objects; the second has the segmentation. The picture is there, too."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert cv2.imwrite(str(folder / "0.png"), picture)
    ids = {"image_id": 5, "category_id": 1, "bbox": [1, 2, 5, 6], "area": 30}
    second = {"id": 42, **ids, "bbox": [1, 2, 5, 7], "segmentation": segmentation, **more}
    if segmentation == "absent":
        del second["segmentation"]
    content = {
        "images": [{"id": 5, "width": WIDTH, "height": HEIGHT, "file_name": "0.png"}],
        "annotations": [{"id": 41, **ids, "segmentation": SOUND}, second],
        "categories": [{"id": 1, "name": "ant"}],
    }
    path = folder / "train.json"
    path.write_text(json.dumps(content))
    return str(path)


def build(cls, folder, path, pipeline, **options):
    data_prefix = dict(img=f"{folder}/")
    metainfo = dict(classes=("ant",))
    pipeline = copy.deepcopy(pipeline)
    return cls(path, data_prefix=data_prefix, metainfo=metainfo, pipeline=pipeline, **options)


@pytest.mark.parametrize("kind, value", EVERY, ids=str)
def test_a_kind_is_fatal_if_and_only_if_mmdet_stops_at_it(tmp_path, kind, value):
    assert problem_of(None if value == "absent" else value, WIDTH, HEIGHT) == kind
    if kind == "no_numbers":
        return  # of these, some end the whole process from within pycocotools
    dataset = build(CocoDataset, tmp_path, write(tmp_path, value), LOAD)
    if kind in FATAL:
        with pytest.raises(Exception):  # noqa: B017  (whatever it is that mmdet stops with)
            dataset[0]
    else:
        assert dataset[0] is not None
        assert kind is None or kind in HARMLESS


@pytest.mark.parametrize("kind", FATAL)
@pytest.mark.parametrize("test_mode", [False, True])
def test_what_would_stop_a_training_is_refused_or_left_out(tmp_path, kind, test_mode):
    path = write(tmp_path, CASES[kind][0])
    for _ in range(2):  # also from the cache
        with pytest.raises(ValueError) as caught:
            build(FastCocoDataset, tmp_path, path, LOAD, test_mode=test_mode)
        assert f"1 annotation with {FATAL[kind]} (id 42 of image id 5)" in str(caught.value)
        assert "broken_masks='leave_out'" in str(caught.value) and path in str(caught.value)
    for _ in range(2):
        with logged() as log:
            dataset = build(
                FastCocoDataset, tmp_path, path, LOAD, broken_masks="leave_out", test_mode=test_mode
            )
        assert "left out: 1 annotation with" in log.getvalue()
        assert len(dataset[0]["data_samples"].gt_instances) == 1
    with logged() as log:  # without masks, nothing is wrong
        dataset = build(FastCocoDataset, tmp_path, path, BOXES, test_mode=test_mode)
    assert "annotation" not in log.getvalue().replace("LoadAnnotation", "").lower()
    assert len(dataset[0]["data_samples"].gt_instances) == 2


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_mmdet_leaves_out_is_a_warning(tmp_path, kind):
    path = write(tmp_path, CASES[kind][0])
    for _ in range(2):
        with logged() as log:
            dataset = build(FastCocoDataset, tmp_path, path, LOAD)
        assert f"1 annotation with {HARMLESS[kind]}" in log.getvalue()
        left = 2 if kind == "short_runs" else 1
        assert len(dataset[0]["data_samples"].gt_instances) == left


def test_crowd_regions_need_masks_and_what_is_left_out_does_not(tmp_path):
    """mmdet loads the masks of crowd regions, but not those of what it leaves out."""
    with pytest.raises(ValueError, match="id 42 of image id 5"):
        build(FastCocoDataset, tmp_path, write(tmp_path, [], iscrowd=1), LOAD)
    for left_out in (dict(ignore=1), dict(area=0), dict(category_id=9), dict(image_id=9)):
        dataset = build(FastCocoDataset, tmp_path, write(tmp_path, [], **left_out), LOAD)
        assert len(dataset[0]["data_samples"].gt_instances) == 1


@pytest.mark.parametrize("options", [dict(broken_masks="maybe"), dict(broken_masks=True)])
def test_broken_masks_is_one_of_two_words(tmp_path, options):
    with pytest.raises(ValueError, match="'refuse' or 'leave_out'"):
        build(FastCocoDataset, tmp_path, write(tmp_path, SOUND), LOAD, **options)


@pytest.mark.parametrize("orientation, turned", [(1, False), (3, False), (6, True), (8, True)])
@pytest.mark.parametrize("test_mode", [False, True])
def test_a_picture_that_exif_turns_is_named_before_its_masks_are_drawn(
    tmp_path, orientation, turned, test_mode
):
    path = write(tmp_path, rle())
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "0.png", exif=exif)
    dataset = build(FastCocoDataset, tmp_path, path, LOAD, test_mode=test_mode)
    if not turned:
        assert dataset[0] is not None
        return
    with pytest.raises(ValueError) as caught:
        dataset[0]
    message = str(caught.value)
    assert path in message and "image id 5" in message and "0.png" in message
    assert f"{HEIGHT} wide and {WIDTH} high" in message and "EXIF" in message
    assert f"width {WIDTH} and height {HEIGHT}" in message
    loose = build(FastCocoDataset, tmp_path, path, BOXES, check_picture_size=False)
    assert loose[0] is not None
