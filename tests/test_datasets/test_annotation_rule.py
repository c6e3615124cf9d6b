"""Which annotations count: MMDetection's own parsing is what the rule is compared with."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logs import logged
from mmdet.datasets import CocoDataset

from mmdet_droploss.annotations import load_class_frequency, read_annotation_file
from mmdet_droploss.annotations.rule import CROWD, REASONS
from mmdet_droploss.datasets import FastCocoDataset, RepeatFactorSampler

PREFIX = dict(img="images/")
NAMES = ("ant", "bee", "cicada")


def content(annotations, num_images=4, categories=3):
    return {
        "images": [
            {"id": i, "width": 20, "height": 10, "file_name": f"{i}.png"} for i in range(num_images)
        ],
        "annotations": annotations,
        "categories": [{"id": 7 - i, "name": NAMES[i]} for i in range(categories)],
    }


def annotation(id_, image_id=0, category_id=7, bbox=(1, 2, 5, 6), area=30, **more):
    ids = {"id": id_, "image_id": image_id, "category_id": category_id}
    return {**ids, "bbox": list(bbox), "area": area, "segmentation": [[1, 2, 6, 2, 6, 8]], **more}


def write(folder, what):
    path = folder / "train.json"
    path.write_text(json.dumps(what))
    return str(path)


edges = st.sampled_from([-30, -6, -1, -0.5, 0, 0.4, 0.999, 1, 1.5, 5, 9.5, 10, 19, 20, 21, 50.25])
flags = st.sampled_from([0, 1, True, False, None])
annotations = st.fixed_dictionaries(
    {
        "image_id": st.integers(0, 5),
        "category_id": st.integers(4, 8),
        "bbox": st.tuples(edges, edges, edges, edges),
        "area": edges,
    },
    optional={"ignore": flags, "iscrowd": flags},
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(annotations, max_size=25))
def test_the_rule_is_mmdets(tmp_path_factory, drawn):
    """The instances of mmdet's data set, image by image, label by label."""
    drawn = [{"id": index, **each} for index, each in enumerate(drawn)]
    path = write(tmp_path_factory.mktemp("rule"), content(drawn))
    file = read_annotation_file(path)
    mmdets = CocoDataset(
        path, data_prefix=PREFIX, metainfo=dict(classes=NAMES), serialize_data=False
    )
    images = []
    for index in range(4):
        instances = mmdets.get_data_info(index)["instances"]
        own = file.indices_of(index)
        trained = [each["bbox_label"] for each in instances if not each["ignore_flag"]]
        assert file.category_of[own[file.counts[own]]].tolist() == trained
        crowds = own[file.left_out[own] == CROWD]
        assert len(crowds) == len(instances) - len(trained)
        images.append(set(trained))
    frequency = load_class_frequency(path)
    assert frequency.image_count.tolist() == [sum(k in one for one in images) for k in range(3)]
    assert frequency.num_images == sum(map(bool, images))


def test_each_reason_is_counted_and_said_once_a_start(tmp_path):
    left_out = [
        annotation(1, image_id=99),
        annotation(2, ignore=1),
        annotation(3, bbox=(30, 30, 5, 5)),
        annotation(4, area=0),
        annotation(5, bbox=(1, 1, 0.5, 5)),
        annotation(6, category_id=99),
        annotation(7, iscrowd=1),
    ]
    path = write(tmp_path, content([annotation(0), *left_out]))
    for _ in range(2):  # the second start is from the cache
        with logged() as log:
            dataset = FastCocoDataset(path, data_prefix=PREFIX)
        assert f"{path}: 7 of 8 annotations are left out of training: " in log.getvalue()
        for reason in REASONS[1:]:
            assert log.getvalue().count(f"1 {reason}") == 1
        assert "2 of 3 categories have no instance to train on: 'bee', 'cicada'" in log.getvalue()
    assert dataset.labels_by_image()[0].tolist() == [0]
    with logged() as log:
        frequency = load_class_frequency(path)
    assert frequency.instance_count.tolist() == [1, 0, 0]
    assert "7 of 8 annotations are left out" in log.getvalue()


def test_a_thinned_file_counts_the_same_everywhere(tmp_path):
    """Loss, data set and sampler, for a file whose images and categories were thinned."""
    every = [annotation(i, image_id=i % 40, category_id=7 - i % 3) for i in range(120)]
    thinned = content(every, num_images=10, categories=2)
    path = write(tmp_path, thinned)
    dataset = FastCocoDataset(path, data_prefix=PREFIX)
    frequency = load_class_frequency(path)
    expected = [
        len({a["image_id"] for a in every if a["category_id"] == c and a["image_id"] < 10})
        for c in (7, 6)
    ]
    assert frequency.image_count.tolist() == dataset.image_count().tolist() == expected
    assert frequency.num_images == 10 and frequency.classes == NAMES[:2]
    labels = np.concatenate([dataset.get_cat_ids(i) for i in range(len(dataset))])
    assert labels.tolist() == dataset.labels_by_image()[0].tolist()
    subset = dataset.get_subset([0, 1])
    assert subset.image_count().sum() == sum(len(set(dataset.get_cat_ids(i))) for i in (0, 1))


def test_crowd_regions_do_not_make_an_image_rarer(tmp_path):
    """The sampler sees what the loss counts, with this package's data set and with mmdet's."""
    solid = [annotation(i, image_id=i) for i in range(3)]
    path = write(tmp_path, content([*solid, annotation(9, image_id=0, category_id=6, iscrowd=1)]))
    for dataset in (
        FastCocoDataset(path, data_prefix=PREFIX),
        CocoDataset(path, data_prefix=PREFIX, metainfo=dict(classes=NAMES)),
    ):
        assert (RepeatFactorSampler(dataset, 0.9).factors <= 1.1).all()


@pytest.mark.parametrize(
    "change, reason",
    [
        (dict(iscrowd=1), "3 marked iscrowd"),
        (dict(area=0), "3 area 0 or less"),
        (dict(ignore=True), "3 marked ignore"),
        (dict(bbox=[2, 2, 0, 0]), "3 a box outside the picture or without area"),
        (dict(category_id=1), "3 of a category that the file does not list"),
    ],
)
def test_training_on_nothing_is_refused_with_the_reason(tmp_path, change, reason):
    path = write(tmp_path, content([annotation(i, image_id=i) | change for i in range(3)]))
    for options in ({}, {}, dict(cache=False), dict(serialize_data=False)):
        with pytest.raises(ValueError, match=f"nothing to train on: .*{reason}"):
            FastCocoDataset(path, data_prefix=PREFIX, **options)
    assert len(FastCocoDataset(path, data_prefix=PREFIX, test_mode=True)) == 4


def test_a_filter_that_leaves_nothing_is_named(tmp_path):
    path = write(tmp_path, content([annotation(0)]))
    with pytest.raises(ValueError, match="0 of its 4 images are used.*'min_size': 99"):
        FastCocoDataset(path, data_prefix=PREFIX, filter_cfg=dict(min_size=99))


# ---------------------------------------------------------------- JSON as it comes


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ["area", "bbox", "score"])
def test_numbers_that_json_does_not_have_are_named_with_their_annotation(tmp_path, number, field):
    value = [1, float("1234.5"), 5, 6] if field == "bbox" else 1234.5
    text = json.dumps(content([annotation(0), annotation(41, **{field: value})]))
    (tmp_path / "train.json").write_text(text.replace("1234.5", number))
    for read in (read_annotation_file, load_class_frequency):
        with pytest.raises(ValueError) as caught:
            read(str(tmp_path / "train.json"))
        assert f"{number} at byte" in str(caught.value)
        assert f"{field!r} of the annotation with id 41" in str(caught.value)
        assert "truncated" not in str(caught.value)


@pytest.mark.parametrize("change", [lambda t: "\ufeff" + t, lambda t: t.replace(", ", ",\r\n")])
def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path, change):
    text = json.dumps(content([annotation(0)]))
    (tmp_path / "train.json").write_bytes(change(text).encode())
    path = str(tmp_path / "train.json")
    assert FastCocoDataset(path, data_prefix=PREFIX).metainfo["classes"] == NAMES
    assert load_class_frequency(path).classes == NAMES


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_called_so(tmp_path, encoding):
    (tmp_path / "train.json").write_bytes(json.dumps(content([annotation(0)])).encode(encoding))
    with pytest.raises(ValueError, match="UTF-16 or UTF-32.*Save it as UTF-8"):
        read_annotation_file(tmp_path / "train.json")


def test_letters_that_are_not_utf8_are_called_so(tmp_path):
    what = content([annotation(0)])
    what["categories"][0]["name"] = "käfer"
    (tmp_path / "train.json").write_bytes(json.dumps(what, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_annotation_file(tmp_path / "train.json")


def test_a_trailing_comma_is_shown_with_what_stands_before(tmp_path):
    text = json.dumps(content([annotation(0)]))[:-1] + ",}"
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(ValueError, match="trailing comma.*near .*cicada") as caught:
        read_annotation_file(tmp_path / "train.json")
    assert "truncated" not in str(caught.value)


def test_negative_and_large_ids_are_ids(tmp_path):
    what = content([annotation(-5, image_id=-3), annotation(2**63 - 1, image_id=-(2**63))])
    what["images"][0]["id"], what["images"][1]["id"] = -3, -(2**63)
    dataset = FastCocoDataset(write(tmp_path, what), data_prefix=PREFIX)
    assert [dataset.get_data_info(i)["img_id"] for i in range(2)] == [-3, -(2**63)]
    assert dataset.image_count().tolist() == [2, 0, 0]


@pytest.mark.parametrize("value", ["1", 1.0, 1.5, None, True, 2**63, -(2**63) - 1, 2**70])
@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_other_ids_are_refused_with_the_entry_and_a_remedy(tmp_path, key, value):
    what = content([annotation(3), annotation(4)])
    what[key][1]["id"] = value
    path = write(tmp_path, what)
    for read in (read_annotation_file, load_class_frequency):
        with pytest.raises(ValueError) as caught:
            read(path)
        assert f"{key}[1]" in str(caught.value) and str(value) in str(caught.value)
        assert "number them anew" in str(caught.value)
