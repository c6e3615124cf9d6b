"""Files and data sets that used to train on something else than they say, without a word."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.logging import MMLogger

from mmdet_droploss.annotations import read_annotation_file
from mmdet_droploss.datasets import FastCocoDataset, RepeatFactorSampler, repeat_factors
from mmdet_droploss.datasets.fast_annotations import FastAnnotations
from mmdet_droploss.engine.category_check import _categories_of

WIDTH, HEIGHT = 64, 48
LOAD = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True, poly2mask=False),
]


@pytest.fixture
def log():
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("INFO")
    lines: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = lines.append
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def annotation(id_, image_id, box=(1, 1, 40, 30), **more):
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        **dict(id=id_, image_id=image_id, category_id=1, bbox=list(box), area=w * h, iscrowd=0),
        **dict(segmentation=[polygon]),
        **more,
    }


def content(num_images=3):
    return {
        "images": [
            dict(id=i, file_name=f"{i}.jpg", width=WIDTH, height=HEIGHT)
            for i in range(1, num_images + 1)
        ],
        "annotations": [annotation(i, i) for i in range(1, num_images + 1)],
        "categories": [dict(id=1, name="ant")],
    }


def write(path, document):
    path.write_text(json.dumps(document))
    return str(path)


def load(ann_file, cls=FastCocoDataset, **options):
    dataset = cls(ann_file=ann_file, data_prefix=dict(img="images/"), **options)
    dataset.full_init()
    return dataset


def said(log, level=logging.WARNING):
    return [record.getMessage() for record in log if record.levelno == level]


# ---------------------------------------------------------------- merged exports


@pytest.mark.parametrize("start", ["first", "from the cache"])
def test_annotations_that_are_there_twice_are_told(tmp_path, log, start):
    document = content()
    document["annotations"] += [annotation(id_ + 100, id_) for id_ in (1, 3)]
    ann_file = write(tmp_path / "merged.json", document)
    if start == "from the cache":
        load(ann_file)
        log.clear()
    load(ann_file)
    (line,) = said(log)
    assert "2 annotations have the same image, category and box" in line
    assert "ids 1 and 101" in line or "ids 3 and 103" in line


def test_annotations_that_differ_in_one_thing_are_no_copies(tmp_path, log):
    document = content()
    document["categories"].append(dict(id=2, name="bee"))
    document["annotations"] += [
        annotation(11, 1, category_id=2),
        annotation(12, 1, box=(1, 1, 40, 31)),
        annotation(13, 1, box=(1, 2, 40, 30)),
    ]
    load(write(tmp_path / "near.json", document))
    assert said(log) == []


def test_repeats_are_found_as_by_comparing_all_pairs(tmp_path):
    rng = np.random.default_rng(0)
    document = content()
    document["categories"].append(dict(id=2, name="bee"))
    keys = rng.integers(1, 3, (200, 4)).tolist()
    document["annotations"] = [
        annotation(index, image, box=(x, 1, w, 30), category_id=category)
        for index, (image, category, x, w) in enumerate(keys)
    ]
    found = read_annotation_file(write(tmp_path / "random.json", document)).repeats
    assert len(found) == len(keys) - len(set(map(tuple, keys)))
    assert all(one != other and keys[one] == keys[other] for one, other in found.tolist())


def test_a_picture_of_two_images_is_told(tmp_path, log):
    document = content()
    document["images"][2]["file_name"] = "1.jpg"
    load(write(tmp_path / "shared.json", document))
    (line,) = said(log)
    assert "1 pictures" in line and "'1.jpg' by image ids 1 and 3" in line


# ---------------------------------------------------------------- what a filter leaves out


@pytest.mark.parametrize("serialize_data", [True, False])
def test_images_that_a_filter_leaves_out_are_told(tmp_path, log, serialize_data):
    document = content(5)
    document["images"][0]["height"] = document["images"][1]["height"] = 24
    for annotation_ in document["annotations"]:
        annotation_.update(bbox=[1, 1, 20, 20])
    del document["annotations"][4]
    ann_file = write(tmp_path / "small.json", document)
    options = dict(
        filter_cfg=dict(filter_empty_gt=True, min_size=32), serialize_data=serialize_data
    )
    assert len(load(ann_file, **options)) == 2
    (line,) = said(log)
    assert "3 of 5 images are left out" in line
    assert "2 less than 32 pixels wide or high, 1 without annotations" in line
    log.clear()
    options["filter_cfg"] = dict(filter_empty_gt=True)
    load(ann_file, **options)
    assert said(log) == []
    assert any("1 of 5 images are left out" in text for text in said(log, logging.INFO))


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("poly2mask", [False, True])
def test_run_lengths_are_refused_where_only_polygons_are_loaded(tmp_path, poly2mask):
    document = content()
    runs = dict(size=[HEIGHT, WIDTH], counts=[0, HEIGHT * WIDTH])
    document["annotations"][1]["segmentation"] = runs
    ann_file = write(tmp_path / "rle.json", document)
    pipeline = [LOAD[0], {**LOAD[1], "poly2mask": poly2mask}]
    if poly2mask:
        load(ann_file, pipeline=pipeline)
        return
    for _ in range(2):  # the second time from the cache
        with pytest.raises(ValueError, match="id 2 of image id 2.*poly2mask=False"):
            load(ann_file, pipeline=pipeline)
    document["annotations"][1]["iscrowd"] = 1  # which COCO always has as run lengths
    load(write(tmp_path / "crowd.json", document), pipeline=LOAD)


def test_a_number_that_is_far_too_large_is_named(tmp_path):
    document = content()
    document["annotations"][1]["segmentation"][0][0] = 2**70
    with pytest.raises(ValueError, match="image id 2 .*far too large"):
        load(write(tmp_path / "large.json", document))


# ---------------------------------------------------------------- subclasses and the cache


class MinArea(FastCocoDataset):
    """Has an option of its own."""

    def __init__(self, *args, min_area=0, **kwargs):
        self.min_area = min_area
        super().__init__(*args, **kwargs)

    def parse_data_info(self, raw):
        annotations = [a for a in raw["raw_ann_info"] if a["area"] >= self.min_area]
        return super().parse_data_info({**raw, "raw_ann_info": annotations})


class FirstOnly(FastCocoDataset):
    """Chooses images by itself."""

    number = 1

    def filter_data(self):
        return super().filter_data()[: self.number]


class Reversed(FastCocoDataset):
    """Loads by itself."""

    def load_data_list(self):
        return super().load_data_list()[::-1]


def test_a_subclass_with_its_own_rules_gets_no_items_of_another(tmp_path, monkeypatch):
    document = content()
    document["annotations"][0]["area"] = 5
    ann_file = write(tmp_path / "train.json", document)
    for min_area, number in ((0, 3), (100, 2), (0, 3)):
        dataset = load(ann_file, MinArea, min_area=min_area)
        assert sum(len(dataset.get_data_info(i)["instances"]) for i in range(3)) == number
    for number in (1, 2):
        monkeypatch.setattr(FirstOnly, "number", number)
        assert len(load(ann_file, FirstOnly)) == number
    assert [load(ann_file, Reversed).get_data_info(i)["img_id"] for i in range(3)] == [3, 2, 1]


def test_a_subclass_that_only_has_another_name_is_kept(tmp_path, cache, log):
    class Renamed(FastCocoDataset):
        pass

    ann_file = write(tmp_path / "train.json", content())
    load(ann_file, Renamed)
    assert any(cache.iterdir())
    assert not any("not in the annotation cache" in text for text in said(log, logging.INFO))
    load(ann_file, MinArea)
    assert any("not in the annotation cache" in text for text in said(log, logging.INFO))


def test_a_class_between_ours_and_mmdets_counts_as_well(tmp_path, cache):
    class Between(CocoDataset):
        def filter_data(self):
            return super().filter_data()[:2]

    class Mine(FastAnnotations, Between):
        METAINFO = dict(classes=("ant",))
        PICTURES = FastCocoDataset.PICTURES

    assert len(load(write(tmp_path / "train.json", content()), Mine)) == 2
    assert not cache.exists()


def test_items_follow_the_code_that_makes_them(tmp_path, monkeypatch):
    """As in a clone of mmdet that is worked on."""
    ann_file = write(tmp_path / "train.json", content())
    load(ann_file)
    parse = CocoDataset.parse_data_info
    clone = tmp_path / "coco.py"
    source = Path(sys.modules[CocoDataset.__module__].__file__)
    clone.write_text(source.read_text() + "# changed")

    def changed(self, raw):
        return {**parse(self, raw), "height": 7}

    monkeypatch.setattr(CocoDataset, "parse_data_info", changed)
    monkeypatch.setattr(sys.modules[CocoDataset.__module__], "__file__", str(clone))
    assert load(ann_file).get_data_info(0)["height"] == 7


class OwnLabels(FastCocoDataset):
    """Trains on one category only."""

    def get_cat_ids(self, idx):
        return [label for label in super().get_cat_ids(idx) if label == 0]


class OwnItems(FastCocoDataset):
    """Leaves an object out at the last moment."""

    def get_data_info(self, idx):
        info = super().get_data_info(idx)
        return {**info, "instances": [i for i in info["instances"] if i["bbox_label"] == 0]}


@pytest.mark.parametrize("cls", [OwnLabels, OwnItems])
def test_labels_of_a_subclass_reach_sampler_and_counts(tmp_path, cls):
    document = content()
    document["categories"].append(dict(id=2, name="bee"))
    document["annotations"][1]["category_id"] = 2
    dataset = load(write(tmp_path / "train.json", document), cls)
    assert dataset.image_count().tolist() == [2, 0]
    assert dataset.labels_by_image() is None
    assert [dataset.get_cat_ids(i) for i in range(3)] == [[0], [], [0]]
    expected = repeat_factors(np.zeros(2, int), np.array([1, 1, 2]), 0.9)
    assert RepeatFactorSampler(dataset, 0.9).factors.tolist() == expected.tolist()


def test_labels_of_a_subclass_of_mmdets_reach_the_sampler(tmp_path):
    class Own(CocoDataset):
        METAINFO = dict(classes=("ant",))

        def get_cat_ids(self, idx):
            return super().get_cat_ids(idx) if idx == 1 else []

    dataset = load(write(tmp_path / "train.json", content()), Own)
    assert RepeatFactorSampler(dataset, 1.0).factors.tolist() == pytest.approx([1, 3**0.5, 1])


class SetLater(FastCocoDataset):
    """Its methods need what its constructor sets last."""

    def __init__(self, *args, kept, **kwargs):
        super().__init__(*args, **kwargs)
        self.kept = kept


class LabelsSetLater(SetLater):
    def get_cat_ids(self, idx):
        return [label for label in super().get_cat_ids(idx) if label in self.kept]


class ItemsSetLater(SetLater):
    def get_data_info(self, idx):
        info = super().get_data_info(idx)
        return {**info, "instances": [i for i in info["instances"] if i["bbox_label"] in self.kept]}


@pytest.mark.parametrize("cls", [LabelsSetLater, ItemsSetLater])
@pytest.mark.parametrize("options", [{}, dict(serialize_data=False), dict(return_classes=True)])
def test_a_constructor_asks_no_method_of_a_subclass_for_labels(tmp_path, cls, options, log):
    document = content()
    document["categories"] += [dict(id=2, name="bee"), dict(id=3, name="cow")]
    document["annotations"][1]["category_id"] = 2
    dataset = load(write(tmp_path / "train.json", document), cls, kept=[1], **options)
    assert dataset.image_count().tolist() == [0, 1, 0]
    (said_of_categories,) = [text for text in said(log) if "to train on" in text]
    assert "1 of 3 categories have no instance to train on: 'cow'" in said_of_categories


def test_items_and_choices_that_are_wholly_a_subclasss_own(tmp_path, log):
    """Neither calls what it overrides."""

    class OwnList(FastCocoDataset):
        def load_data_list(self):
            return [dict(img_id=7, height=HEIGHT, width=WIDTH, instances=[])]

    class OwnFilter(FastCocoDataset):
        def filter_data(self):
            return self.data_list[1:]

    ann_file = write(tmp_path / "train.json", content())
    dataset = load(ann_file, OwnList, metainfo=dict(classes=("ant",)))
    assert len(dataset) == 1 and dataset.category_names is None
    assert any("OwnList has its own load_data_list" in text for text in said(log, logging.INFO))
    assert [each.names for each in _categories_of(dataset)] == [("ant",)]
    for serialize_data in (True, False):
        dataset = load(ann_file, OwnFilter, serialize_data=serialize_data)
        assert [dataset.get_data_info(i)["img_id"] for i in range(2)] == [2, 3]


def test_names_of_the_file_go_into_the_items(tmp_path):
    dataset = load(write(tmp_path / "train.json", content()), return_classes=True)
    assert dataset.get_data_info(0)["text"] == ("ant",)


def test_a_loader_whose_pictures_are_not_compared_is_told(tmp_path, log):
    class Own:
        def __call__(self, results):
            return results

    ann_file = write(tmp_path / "train.json", content())
    load(ann_file, pipeline=[Own()])
    assert sum("sizes are not compared" in text for text in said(log, logging.INFO)) == 1
    log.clear()
    load(ann_file, pipeline=LOAD[:1])
    load(ann_file)
    load(ann_file, pipeline=[Own()], check_picture_size=False)
    assert not any("sizes are not compared" in text for text in said(log, logging.INFO))


def test_the_name_of_a_picture_must_be_text(tmp_path):
    document = content()
    document["images"][1]["file_name"] = ["2.jpg"]
    with pytest.raises(ValueError, match="image id 2 has no text as 'file_name'"):
        load(write(tmp_path / "train.json", document))


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "train.json"
    old, new = content(), content()
    new["annotations"][0]["bbox"] = [5, 5, 9, 9]
    ann_file = write(path, old)
    parse = FastCocoDataset._parse

    def written_to(self, *args):
        write(path, new)
        return parse(self, *args)

    monkeypatch.setattr(FastCocoDataset, "_parse", written_to)
    with pytest.raises(ValueError, match="was written to while it was read"):
        load(ann_file)
    monkeypatch.undo()
    write(path, old)
    assert load(ann_file).get_data_info(0)["instances"][0]["bbox"] == [1, 1, 41, 31]
