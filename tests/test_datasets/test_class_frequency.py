"""Category frequencies: the bundled figures, annotation files, the small JSON, and errors."""

from __future__ import annotations

import copy
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdet_droploss.datasets import (
    GROUP_NAMES,
    ClassFrequency,
    load_class_frequency,
)

# ---------------------------------------------------------------- the bundled figures

#: Training images of some categories from the start, the middle and the end of LVIS's own lists, as
#: tztztztztz/eql.detectron2 (v0.5) and facebookresearch/detectron2 (v1) have them.
PUBLISHED = {
    "lvis_v0.5": dict(acorn=2, aerosol_can=34, airplane=1052, trash_can=1077, banana=947)
    | dict(kitchen_sink=324, knife=1077, lion=16, wristlet=338, zebra=984, zucchini=44),
    "lvis_v1": dict(aerosol_can=64, air_conditioner=364, airplane=1911, alarm_clock=149)
    | dict(alcohol=29, alligator=26, kitchen_sink=489, knife=1868, lion=43, wristlet=623)
    | dict(zebra=1674, zucchini=81),
}
#: The same of objects, which only the former has.
PUBLISHED_INSTANCES = dict(acorn=2, aerosol_can=64, airplane=1978, trash_can=1526, banana=26148) | (
    dict(kitchen_sink=340, knife=2042, lion=22, wristlet=722, zebra=3150, zucchini=414)
)


@pytest.mark.parametrize(
    "name, groups, num_images, num_instances",
    [
        ("lvis_v0.5", (454, 461, 315), 56_740, 693_958),
        ("lvis_v1", (337, 461, 405), 99_388, 1_270_141),
    ],
)
def test_bundled_figures_are_those_of_lvis(name, groups, num_images, num_instances):
    frequency = load_class_frequency(name)
    assert frequency.num_classes == sum(groups)
    assert tuple(np.bincount(frequency.groups)) == groups
    assert frequency.num_images == num_images
    assert frequency.instance_count.sum() == num_instances
    assert (frequency.instance_count >= frequency.image_count).all()
    assert (frequency.image_count >= 1).all() and (frequency.image_count <= num_images).all()
    assert frequency.tail().sum() == groups[0] + groups[1]


@pytest.mark.parametrize(
    "name, dataset", [("lvis_v0.5", "LVISV05Dataset"), ("lvis_v1", "LVISV1Dataset")]
)
def test_bundled_figures_are_in_mmdets_label_order(name, dataset):
    """As far as the figures are public: mmdet has the names, and LVIS what belongs to each."""
    from mmdet.registry import DATASETS

    classes = DATASETS.get(dataset).METAINFO["classes"]
    frequency = load_class_frequency(name)
    assert frequency.num_classes == len(classes)
    for category, count in PUBLISHED[name].items():
        assert frequency.image_count[classes.index(category)] == count, category
    if name == "lvis_v0.5":
        for category, count in PUBLISHED_INSTANCES.items():
            assert frequency.instance_count[classes.index(category)] == count, category


@pytest.mark.parametrize(
    "count, group, tail",
    [
        (0, "rare", True),
        (1, "rare", True),
        (10, "rare", True),
        (11, "common", True),
        (100, "common", True),
        (101, "frequent", False),
    ],
)
def test_borders_of_the_groups(count, group, tail):
    frequency = load_class_frequency([count])
    assert GROUP_NAMES[frequency.groups[0]] == group
    assert bool(frequency.tail()[0]) is tail


# ---------------------------------------------------------------- annotation files


def lvis_content():
    """Three categories in an order that is not that of their ids, four images."""
    return {
        "images": [{"id": i, "height": 9, "width": 9} for i in (11, 12, 13, 14)],
        "categories": [
            {"id": 7, "name": "owl", "frequency": "r", "image_count": 99, "instance_count": 99},
            {"id": 2, "name": "cat"},
            {"id": 5, "name": "emu"},
        ],
        "annotations": [
            annotation(1, 11, 7),
            annotation(2, 11, 7),
            annotation(3, 12, 7),
            annotation(4, 12, 2),
            annotation(5, 13, 2, iscrowd=1),
            annotation(6, 12, 2, iscrowd=0),
        ],
    }


def annotation(id_, image_id, category_id, **more):
    ids = {"id": id_, "image_id": image_id, "category_id": category_id}
    return {**ids, "bbox": [1, 2, 3, 4], "area": 12, **more}


def write(tmp_path, content, name="train.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_an_annotation_file_is_counted_in_the_order_of_its_categories(tmp_path):
    """Each image once; without crowd regions; what the file itself claims is not used."""
    path = write(tmp_path, lvis_content())
    frequency = load_class_frequency(path)
    assert frequency.classes == ("owl", "cat", "emu")
    assert frequency.image_count.tolist() == [2, 1, 0]
    assert frequency.instance_count.tolist() == [3, 2, 0]
    assert frequency.num_images == 2  # image 13 has a crowd region only, 14 nothing
    assert frequency.source == path


@given(st.data())
def test_counts_are_those_of_a_plain_loop(tmp_path_factory, data):
    num_classes = data.draw(st.integers(1, 6))
    ids = data.draw(st.permutations(range(1, num_classes + 1)))
    pairs = data.draw(
        st.lists(
            st.tuples(st.integers(0, 5), st.sampled_from(ids), st.sampled_from([0, 0, 1])),
            max_size=30,
        )
    )
    content = {
        "images": [{"id": i, "height": 9, "width": 9} for i in range(6)],
        "categories": [{"id": i, "name": str(i)} for i in ids],
        "annotations": [
            annotation(index, image, category, iscrowd=crowd)
            for index, (image, category, crowd) in enumerate(pairs)
        ],
    }
    path = write(tmp_path_factory.mktemp("counts"), content)
    frequency = load_class_frequency(path)
    solid = [(image, category) for image, category, crowd in pairs if not crowd]
    for label, category in enumerate(ids):
        of_category = [image for image, other in solid if other == category]
        assert frequency.instance_count[label] == len(of_category)
        assert frequency.image_count[label] == len(set(of_category))
    assert frequency.num_images == len({image for image, _ in solid})


def test_labels_are_those_of_mmdets_data_set(mini_lvis_dir):
    """The order of the categories in the file is mmdet's label order."""
    from mmdet.registry import DATASETS

    path = mini_lvis_dir / "annotations" / "lvis_v1_train.json"
    frequency = load_class_frequency(path)
    dataset = DATASETS.build(
        dict(
            type="LVISV1Dataset",
            ann_file=str(path),
            data_prefix=dict(img=str(mini_lvis_dir) + "/"),
            metainfo=dict(classes=str(mini_lvis_dir / "annotations" / "classes.txt")),
            pipeline=[],
        )
    )
    count = np.zeros(frequency.num_classes, dtype=int)
    for info in dataset:
        for label in {instance["bbox_label"] for instance in info["instances"]}:
            count[label] += 1
    assert count.tolist() == frequency.image_count.tolist()
    categories = json.loads(path.read_text())["categories"]
    assert [c["image_count"] for c in categories] == frequency.image_count.tolist()
    letters = [GROUP_NAMES[group][0] for group in frequency.groups]
    assert [c["frequency"] for c in categories] == letters


def test_a_changed_file_is_read_again(tmp_path):
    """Files are cached, since every stage of a cascade asks; but not beyond a change."""
    content = lvis_content()
    path = write(tmp_path, content)
    first = load_class_frequency(path)
    assert load_class_frequency(path) is first
    content["annotations"].append(annotation(7, 14, 5))
    write(tmp_path, content)
    assert load_class_frequency(path).image_count.tolist() == [2, 1, 1]


def test_a_path_may_be_a_pathlib_path(tmp_path):
    write(tmp_path, lvis_content())
    assert load_class_frequency(tmp_path / "train.json").num_classes == 3


# ---------------------------------------------------------------- the small JSON


def assert_same(a, b, but_source=True):
    assert a.image_count.tolist() == b.image_count.tolist()
    assert a.num_images == b.num_images
    for field in ("instance_count", "classes", "category_ids"):
        x, y = getattr(a, field), getattr(b, field)
        assert (x is None) == (y is None)
        assert x is None or list(x) == list(y)


@given(
    counts=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1),
    num_images=st.none() | st.integers(10**6, 10**7),
    with_instances=st.booleans(),
    with_names=st.booleans(),
)
def test_the_small_json_round_trip(
    tmp_path_factory, counts, num_images, with_instances, with_names
):
    images, instances = np.array(counts).T
    frequency = ClassFrequency(
        images,
        num_images,
        instances if with_instances else None,
        tuple(f'"{i}" – ü' for i in range(len(counts))) if with_names else None,
        "somewhere",
    )
    path = write(tmp_path_factory.mktemp("small"), frequency.to_json())
    assert_same(load_class_frequency(path), frequency)


def test_the_small_json_of_an_annotation_file(tmp_path):
    frequency = load_class_frequency(write(tmp_path, lvis_content()))
    small = write(tmp_path, frequency.to_json(), "small.json")
    assert_same(load_class_frequency(small), frequency)


# ---------------------------------------------------------------- sequences, lambda_


@pytest.mark.parametrize("form", [list, tuple, np.array, lambda x: np.array(x, dtype=float)])
def test_sequences(form):
    frequency = load_class_frequency(form([3, 200]))
    assert frequency.image_count.tolist() == [3, 200]
    assert frequency.image_count.dtype == np.int64
    assert frequency.num_images is None


def test_a_frequency_passes_through():
    frequency = load_class_frequency([1, 2])
    assert load_class_frequency(frequency) is frequency


@given(
    counts=st.lists(st.integers(0, 1000), min_size=1, max_size=20),
    lambda_=st.floats(1e-6, 1),
    num_images=st.integers(1000, 10**6),
)
def test_the_tail_is_where_f_is_below_lambda(counts, lambda_, num_images):
    tail = load_class_frequency(counts).tail(lambda_, num_images)
    assert tail.tolist() == [count / num_images < lambda_ for count in counts]


def test_num_images_given_takes_the_place_of_that_of_the_file(tmp_path):
    frequency = load_class_frequency(write(tmp_path, {"image_count": [5], "num_images": 10}))
    assert not frequency.tail(0.1)[0]
    assert frequency.tail(0.1, num_images=1000)[0]


# ---------------------------------------------------------------- errors


def broken(change):
    content = copy.deepcopy(lvis_content())
    change(content)
    return content


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "not valid JSON"),
        ('{"annotations": [', "not valid JSON, perhaps truncated"),
        ([1, 2], "not of a known format"),
        ({"images": []}, r"not of a known format.*\['images'\]"),
        (broken(lambda c: c["categories"].clear()), "category|categories"),
        (
            broken(lambda c: c["categories"].append({"id": 7})),
            "categories must have.*7",
        ),
        (broken(lambda c: c["categories"].append({"name": "x"})), r"categories\[3\] must have.*id"),
        (
            broken(lambda c: c["annotations"].append({"id": 9, "image_id": 1})),
            "missing required field `category_id`",
        ),
        (broken(lambda c: c["annotations"].append(annotation(6, 11, 7))), "different ids.*6"),
        (broken(lambda c: c["images"].append(c["images"][0])), "images must have different ids"),
        (broken(lambda c: c.pop("images")), "not an LVIS or COCO annotation file.*lacks images"),
        (broken(lambda c: c.update(annotations=[3])), r"annotations\[0\]: Expected `object`"),
        ({"image_count": [1, -2]}, r"whole numbers >= 0.*-2"),
        ({"image_count": []}, "non-empty"),
        ({"image_count": 7}, "flat, non-empty list"),
        ({"image_count": ["many"]}, "whole numbers"),
        ({"image_count": [1, 2], "classes": ["a"]}, "classes has 1 entries.*has 2"),
        ({"image_count": [1, 2], "instance_count": [1]}, "instance_count has 1 entries.*has 2"),
        ({"image_count": [1, 2], "num_images": "many"}, "num_images"),
        ({"image_count": [1, 2], "num_images": -5}, "num_images"),
    ],
)
def test_broken_files(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        load_class_frequency(path)
    assert "train.json" in str(caught.value), "the message names the file"


def test_a_directory(tmp_path):
    with pytest.raises(ValueError, match="is a directory"):
        load_class_frequency(str(tmp_path))


def test_a_missing_file_tells_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        load_class_frequency("annotations/train.json")
    assert "annotations/train.json" in str(caught.value)
    assert os.getcwd() in str(caught.value)


@pytest.mark.parametrize("name", ["lvis", "lvis_v1.0", "LVIS_V1"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=f"{name!r} is neither.*'lvis_v0.5', 'lvis_v1'"):
        load_class_frequency(name)


@pytest.mark.parametrize(
    "counts", [[[1], [2, 3]], [True, False], [float("nan")], [float("inf")], [None], [1.5]]
)
def test_sequences_that_are_not_counts(counts):
    with pytest.raises(ValueError, match="class_freq.*whole numbers"):
        load_class_frequency(counts)


@pytest.mark.parametrize("value", [7, 1.5, {"image_count": [1]}, object()])
def test_other_types(value):
    with pytest.raises(TypeError, match=f"class_freq must be.*{type(value).__name__}"):
        load_class_frequency(value)


@pytest.mark.parametrize("lambda_", [0, -0.1, 1.1, 100, float("nan")])
def test_lambda_out_of_range(lambda_):
    with pytest.raises(ValueError, match=r"lambda_.*\(0, 1\]"):
        load_class_frequency([1, 2]).tail(lambda_, 10)


@pytest.mark.parametrize("num_images", [0, -1, 1])
def test_too_few_images(num_images):
    with pytest.raises(ValueError, match=f"num_images={num_images}.*largest image count.*2"):
        load_class_frequency([1, 2]).tail(0.1, num_images)
