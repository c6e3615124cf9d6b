"""What an annotation file may say that the metric cannot take, or has to tell."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from logs import logged
from pycocotools import mask as mask_utils

from mmdet_droploss.annotations import ground_truth
from mmdet_droploss.annotations.federated import remarks_on_lists
from mmdet_droploss.evaluation import FastLVISMetric

SQUARE = [10.0, 10, 40, 10, 40, 40, 10, 40]


def annotation(id_, category_id=1, **changes):
    base = dict(id=id_, image_id=1, category_id=category_id, bbox=[10, 10, 30, 30], area=900)
    return base | dict(segmentation=[SQUARE]) | changes


def content(*annotations, image=None, categories=None):
    """An image of 60 x 80 with two categories."""
    entry = dict(id=1, file_name="a.jpg", height=60, width=80) | (image or {})
    names = [dict(id=1, name="ant", frequency="r"), dict(id=2, name="bee", frequency="f")]
    annotations = annotations or (annotation(1),)
    return dict(images=[entry], annotations=list(annotations), categories=categories or names)


@pytest.fixture
def build(tmp_path):
    def build(content, metric=("bbox", "segm"), **arguments):
        path = tmp_path / "val.json"
        path.write_text(json.dumps(content))
        with logged() as log:
            metric = FastLVISMetric(str(path), metric=metric, **arguments)
        metric.log = log.getvalue()
        return metric

    return build


def evaluate(metric, boxes, masks=None, labels=None, scores=None):
    boxes = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    prediction = dict(
        bboxes=boxes,
        scores=torch.linspace(0.9, 0.5, len(boxes)),
        labels=torch.zeros(len(boxes), dtype=torch.int64) if labels is None else labels,
    )
    if masks is not None:
        prediction["masks"] = masks
    metric.process({}, [dict(img_id=1, pred_instances=prediction)])
    return metric.evaluate(1)


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("nothing", [{}, {"segmentation": None}, {"segmentation": []}, [[]]])
def test_masks_need_segmentations(build, nothing):
    entries = [annotation(id_) for id_ in (7, 8, 9, 10, 11)]
    for entry in entries[:4]:
        del entry["segmentation"]
        entry.update(nothing if isinstance(nothing, dict) else {"segmentation": nothing})
    with pytest.raises(
        ValueError, match=r"val.json': 4 annotations have no segmentation .* id 7, 8, 9, \.\.\."
    ) as error:
        build(content(*entries))
    assert "metric='bbox'" in str(error.value)
    assert evaluate(build(content(*entries), "bbox"), [[10, 10, 40, 40]])["lvis/bbox_AP"] > 0


@pytest.mark.parametrize(
    "changes", [dict(area=0), dict(area=-1), dict(image_id=5), dict(category_id=5)]
)
def test_annotations_that_do_not_count_need_none(build, changes):
    build(content(annotation(1), annotation(2, segmentation=[], **changes)))


@pytest.mark.parametrize("mask", [SQUARE, [SQUARE[:4]], [["1"] * 6], {"size": [60, 80]}, "text"])
def test_masks_that_cannot_be_read(build, mask):
    with pytest.raises(ValueError, match="annotation.* segmentation.* id 3"):
        build(content(annotation(3, segmentation=mask)))


def test_a_line_beside_a_polygon_is_no_object(build):
    """pycocotools takes four numbers in the first place for a box."""
    metric = build(content(annotation(1, segmentation=[SQUARE[:4], SQUARE])), "segm")
    masks = mask_utils.frPyObjects([SQUARE], 60, 80)
    assert evaluate(metric, [[10, 10, 40, 40]], masks)["lvis/segm_AP"] == pytest.approx(1)


def test_a_mask_of_another_size_in_the_file(build):
    mask = mask_utils.encode(np.ones((80, 60), np.uint8, order="F"))
    mask = {"size": mask["size"], "counts": mask["counts"].decode()}
    with pytest.raises(ValueError) as error:
        build(content(annotation(6, segmentation=mask)))
    for part in ("val.json", "id 6", "a.jpg", "height 80", "width 60", "height 60 and width 80"):
        assert part in str(error.value)
    build(content(annotation(6, segmentation=mask)), "bbox")


def encoded(height):
    """Counts of an image of 80 pixels' width that is filled with stripes."""
    mask = np.zeros((height, 80), np.uint8, order="F")
    mask[::2] = 1
    return mask_utils.encode(mask)["counts"].decode()


@pytest.mark.parametrize(
    "counts, words",
    [
        (encoded(90), "cannot be decoded"),
        ("counts", "cannot be decoded"),
        ([10, 20, 9000], "cannot be decoded"),
        ([4810, -10], "cannot be decoded"),
        # pycocotools, and with it lvis-api, would never return from these.
        (encoded(59), "ends before the picture does"),
        (encoded(60)[:40], "ends before the picture does"),
        ([10, 20, 30], "ends before the picture does"),
        ([], "ends before the picture does"),
        ("", "ends before the picture does"),
    ],
)
def test_run_lengths_that_are_not_those_of_the_image(build, counts, words):
    broken = {"size": [60, 80], "counts": counts}
    file = content(annotation(1), annotation(6, segmentation=broken, image_id=2),
                   annotation(7, segmentation=broken))  # fmt: skip
    file["images"].append(dict(id=2, file_name="b.jpg", height=60, width=80))
    with pytest.raises(ValueError) as error:
        build(file)
    for part in ("val.json': 2 annotations have", words, "id 6, 7; the first is in image id 2 ("
                 "'b.jpg')", "metric='bbox'"):  # fmt: skip
        assert part in str(error.value)
    build(file, "bbox")
    for entry in file["annotations"][1:]:
        entry["segmentation"] = {"size": [60, 80], "counts": encoded(60)}
    build(file)


def test_masks_of_another_size_are_counted(build):
    other = {"size": [80, 60], "counts": [4800]}
    entries = [annotation(i, segmentation=other) for i in range(1, 6)]
    with pytest.raises(ValueError, match=r"5 annotations have .*: id 1, 2, 3, \.\.\.; the first"):
        build(content(*entries))


@pytest.mark.parametrize("encoded", [False, True])
def test_predicted_masks_of_another_size(build, encoded):
    metric = build(content())
    masks = np.ones((1, 80, 60), np.uint8)
    if encoded:
        masks = [mask_utils.encode(np.asfortranarray(masks[0]))]
    with pytest.raises(ValueError) as error:
        evaluate(metric, [[1, 1, 9, 9]], masks)
    for part in ("image id 1", "a.jpg", "80 pixels high and 60 wide", "height 60", "EXIF"):
        assert part in str(error.value)


@pytest.mark.parametrize("metric", ["segm", "bbox"])
def test_boxes_in_a_picture_of_another_size(build, metric):
    """Turned by EXIF, say; also where nothing is detected, and there is no mask to compare."""
    nothing = dict(
        bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long(), masks=[]
    )
    for shape, refused in (((60, 80), False), ((60, 80, 3), False), ((80, 60), True)):
        sample = dict(img_id=1, pred_instances=nothing, ori_shape=shape)
        if refused:
            with pytest.raises(ValueError, match="80 pixels high and 60 wide.*EXIF"):
                build(content(), metric).process({}, [sample])
        else:
            build(content(), metric).process({}, [sample])


@pytest.mark.parametrize("metric", ["segm", "bbox"])
@pytest.mark.parametrize(
    "size", [{"height": None}, {"width": "80"}, {"height": 0}, {"width": 80.5}, {"height": True}]
)
def test_the_size_of_an_image_is_needed(build, size, metric):
    with pytest.raises(ValueError, match="height|width"):
        build(content(image=size), metric)


def test_an_empty_mask_does_not_count(build):
    masks = np.zeros((2, 60, 80), bool)
    masks[1, 10:40, 10:40] = True
    got = evaluate(build(content()), [[50, 5, 60, 15], [10, 10, 40, 40]], masks)
    assert got["lvis/segm_AP"] == pytest.approx(1) and got["lvis/bbox_AP"] == pytest.approx(0.5)


# ---------------------------------------------------------------- annotations


@pytest.mark.parametrize("area", [None, "900", [900], "absent"])
def test_annotations_need_an_area(build, area):
    entry = annotation(4, area=area)
    if area == "absent":
        del entry["area"]
    with pytest.raises(ValueError, match="area"):
        build(content(annotation(1), entry))


@pytest.mark.parametrize("box", [None, [1, 2, 3], ["1", 2, 3, 4]])
def test_boxes_need_four_numbers(build, box):
    with pytest.raises(ValueError, match=r"bbox|annotations\[1\]"):
        build(content(annotation(1), annotation(2, bbox=box)), "bbox")


def test_what_does_not_count_is_told(build):
    metric = build(content(annotation(1), annotation(2, image_id=9), annotation(3, 9)))
    assert "1 of images that the file does not list, 1 of categories" in metric.log
    metric = build(content(annotation(1, area=0), annotation(2, ignore=1)))
    assert re.search("every number will be -1: of 2 annotations, 1 with area 0 .*, 1 .* ignore",
                     metric.log)  # fmt: skip
    assert evaluate(metric, [], np.empty((0, 60, 80)))["lvis/segm_AP"] == -1


def test_crowds_are_objects_to_lvis_api(build):
    crowd = annotation(2, iscrowd=1, bbox=[50, 10, 9, 9])
    crowd["segmentation"] = {"size": [60, 80], "counts": [3010, 20, 1770]}
    metric = build(content(annotation(1), crowd))
    assert "1 annotations are marked iscrowd" in metric.log
    found = [[10, 10, 40, 40]], mask_utils.frPyObjects([SQUARE], 60, 80)
    assert evaluate(metric, *found)["lvis/bbox_AR@300"] == pytest.approx(0.5)
    metric = build(content(annotation(1), crowd | {"ignore": True}))
    assert "iscrowd" not in metric.log
    assert evaluate(metric, *found)["lvis/segm_AR@300"] == pytest.approx(1)


def test_an_id_of_0_is_told(build):
    """lvis-api takes it for no match."""
    metric = build(content(annotation(0)))
    assert "has id 0, of category id 1 ('ant')" in metric.log
    got = evaluate(metric, [[10, 10, 40, 40]], mask_utils.frPyObjects([SQUARE], 60, 80))
    assert got["lvis/bbox_AP"] == pytest.approx(1)
    assert "id 0" not in build(content(annotation(1))).log


@pytest.mark.parametrize("format_only", [False, True])
def test_a_file_without_images(build, tmp_path, format_only):
    with pytest.raises(ValueError, match="val.json' has no images"):
        build(
            content() | dict(images=[]), format_only=format_only, outfile_prefix=str(tmp_path / "o")
        )


# ---------------------------------------------------------------- federated lists


@pytest.mark.parametrize("key", ["neg_category_ids", "not_exhaustive_category_ids"])
@pytest.mark.parametrize("value", [None, 2, "2", ["2"], [None], [True], {"2": 1}])
def test_lists_must_be_lists_of_ids(build, key, value):
    with pytest.raises(ValueError, match=rf"{key} of image id 1 \('a.jpg'\).*leave the key out"):
        build(content(image={key: value}))


@pytest.mark.parametrize("key", ["neg_category_ids", "not_exhaustive_category_ids"])
def test_unknown_ids_and_missing_lists_are_told(build, key):
    file = content(image={key: [2, 77]})
    assert (
        f"{key} has 1 category ids that the file does not list, for example 77" in build(file).log
    )
    file["images"].append(dict(id=2, height=60, width=80))
    log = build(file).log
    assert f"1 of 2 images have no {key}, the first is image id 2; for them" in log


def test_the_known_ids_are_gone_through_once(build):
    """Not for each list of each image: LVIS has 1203 categories and 100,000 images."""

    class Ids(list):
        times = 0

        def __iter__(self):
            self.times += 1
            return super().__iter__()

    images = [dict(id=i, neg_category_ids=[1], not_exhaustive_category_ids=[3]) for i in range(9)]
    known = Ids([1, 2])
    (remark,) = remarks_on_lists(images, known, "val.json")
    assert "not_exhaustive_category_ids has 1 category ids" in remark and known.times == 1


# ---------------------------------------------------------------- the digest


def test_the_digest_is_of_what_was_read(build, monkeypatch):
    """Also if the file is saved anew meanwhile."""
    read = ground_truth.read_annotation_file

    def read_and_save(path, *args):
        file = read(path, *args)
        read_and_save.bytes = Path(path).read_bytes()
        Path(path).write_text(json.dumps(content(annotation(1), annotation(2))))
        return file

    monkeypatch.setattr(ground_truth, "read_annotation_file", read_and_save)
    got = build(content()).ground_truth.sha256
    assert got == hashlib.sha256(read_and_save.bytes).hexdigest()


# ---------------------------------------------------------------- categories


@pytest.mark.parametrize("word, group", [("rare", "r"), ("R", "r"), (" Common", "c"), ("F", "f")])
def test_words_for_groups_are_understood_and_told(build, word, group):
    categories = [dict(id=1, name="ant", frequency=word), dict(id=2, name="bee", frequency="f")]
    metric = build(content(categories=categories))
    assert f"{word!r} as {group!r}" in metric.log
    got = evaluate(metric, [[10, 10, 40, 40]], mask_utils.frPyObjects([SQUARE], 60, 80))
    assert got[f"lvis/bbox_AP{group}"] == pytest.approx(1)


@pytest.mark.parametrize("word", [None, "x", "", 1, ["r"], "absent"])
def test_other_words_for_groups_are_refused(build, word):
    categories = [dict(id=1, name="ant", frequency="r"), dict(id=2, name="bee", frequency=word)]
    if word == "absent":
        del categories[1]["frequency"]
    with pytest.raises(ValueError, match=r"frequency.*id 2 \('bee'\).*'r', 'c' or 'f'.*class_freq"):
        build(content(categories=categories))
    build(content(categories=categories), class_freq=[5, 500])


def test_no_groups_are_told(build):
    categories = [dict(id=1, name="ant"), dict(id=2, name="bee")]
    assert "APr, APc and APf will be -1" in build(content(categories=categories)).log


def test_names_that_lack_or_occur_twice_are_told(build, tmp_path):
    categories = [dict(id=5, frequency="r"), dict(id=1, name="ant", frequency="f")]
    prefix = str(tmp_path / "run")
    metric = build(content(categories=categories), "bbox", outfile_prefix=prefix)
    assert "1 categories have no name, the first is id 5" in metric.log
    evaluate(metric, [[10, 10, 40, 40]], labels=torch.ones(1, dtype=torch.int64))
    rows = json.loads((tmp_path / "run.metrics.json").read_text())["per_category"]
    assert [row["name"] for row in rows] == ["5", "ant"]
    categories[0]["name"] = "ant"
    metric = build(content(categories=categories))
    repeated = "has two categories with the name {!r}: number 0 and number 1 .*; they are evaluated"
    assert re.search(repeated.format("ant"), metric.log)
    # The tables show the id of the one without a name, which is the name of the other.
    categories = [dict(id=5, frequency="r"), dict(id=1, name="5", frequency="f")]
    assert re.search(repeated.format("5"), build(content(categories=categories)).log)


def test_names_behind_class_freq(build, tmp_path):
    path = tmp_path / "freq.json"
    path.write_text(json.dumps(dict(image_count=[5, 500], classes=["bee", "ant"])))
    with pytest.raises(ValueError, match=r"'bee'.*freq.json.*'ant'.*--train-ann.*check_classes=F"):
        build(content(), class_freq=str(path))
    assert "'bee'" in build(content(), class_freq=str(path), check_classes=False).log
