"""FastLVISV05Dataset and FastLVISV1Dataset against mmdet's own data sets, and on broken files."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import json
import os
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import logged
from mmdet.datasets import LVISV05Dataset, LVISV1Dataset
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from mmengine.fileio import LocalBackend, register_backend
from PIL import Image
from pycocotools import mask as mask_utils
from torch.utils.data import DataLoader

from mmdet_droploss.datasets import FastLVISV05Dataset, FastLVISV1Dataset

REFERENCE = {FastLVISV05Dataset: LVISV05Dataset, FastLVISV1Dataset: LVISV1Dataset}
BOTH = pytest.mark.parametrize("cls", REFERENCE)
URL = "http://images.cocodataset.org/"
PREFIX = dict(img="images/")


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch):
    """mmdet collects garbage for each data set, half a second in a process with torch loaded."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


# ---------------------------------------------------------------- random annotation files


def random_box(rng, width, height):
    """Inside the image, partly or wholly outside, thinner than a pixel, or empty."""
    x, y = rng.uniform(-0.3, 1.3, 2) * (width, height)
    w, h = rng.uniform(0, 0.9, 2) * (width, height) * rng.choice([1, 0.05], 2)
    box = [x, y, w, h]
    kind = rng.choice(["float", "int", "mixed", "empty"])
    if kind == "int":
        box = [int(value) for value in box]
    elif kind == "mixed":
        box = [round(value, 2) if rng.random() < 0.5 else int(value) for value in box]
    elif kind == "empty":
        box[2 + rng.integers(2)] = 0
    return [value if isinstance(value, int) else float(value) for value in box]


def random_segmentation(rng):
    kind = rng.choice(["polygons", "rle", "uncompressed", "empty", "null"])
    if kind == "polygons":
        sizes = rng.integers(3, 6, rng.integers(1, 3))
        return [rng.uniform(0, 99, 2 * size).round(2).tolist() for size in sizes]
    if kind == "rle":
        mask = np.asfortranarray(rng.random((9, 7)) < 0.5, np.uint8)
        return {"size": [9, 7], "counts": mask_utils.encode(mask)["counts"].decode()}
    return {
        "uncompressed": {"size": [3, 3], "counts": [1, 5, 3]}, "empty": [], "null": None
    }[kind]  # fmt: skip


def random_annotation(rng, annotation_id, image, category_id):
    annotation = {
        "id": annotation_id,
        "image_id": image["id"],
        "category_id": category_id,
        "bbox": random_box(rng, image["width"], image["height"]),
        "area": rng.choice([0, -1, 7, 31.5], p=[0.1, 0.05, 0.5, 0.35]).item(),
    }
    if rng.random() < 0.8:
        annotation["segmentation"] = random_segmentation(rng)
    for key in ("ignore", "iscrowd"):
        if rng.random() < 0.3:
            annotation[key] = [0, 1, True, False, None][rng.integers(5)]
    keys = list(annotation)
    rng.shuffle(keys)
    return {key: annotation[key] for key in keys}


def sound_annotation(annotation_id, image_id, category_id):
    ids = {"id": annotation_id, "image_id": image_id, "category_id": category_id}
    return {**ids, "bbox": [1, 2, 5, 6], "area": 30}


def random_content(seed, num_images=None):
    """The content of an LVIS annotation file that both versions' data sets can read."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(np.arange(1, 99), rng.integers(1, 8), replace=False).tolist()
    num_images = rng.integers(1, 12) if num_images is None else num_images
    images = []
    for image_id in rng.choice(np.arange(10**5), num_images, replace=False).tolist():
        folder = rng.choice(["train", "val"])
        images.append(
            {
                "id": image_id,
                "height": int(rng.integers(15, 90)),
                "width": int(rng.integers(15, 90)),
                "file_name": rng.choice(["", f"COCO_{folder}2014_"]) + f"{image_id:012d}.jpg",
                "coco_url": f"{URL}{folder}2017/{image_id:012d}.jpg",
                "neg_category_ids": ids[:2],
                "flickr_url": "http://x/ü",
            }
        )
    annotations = []
    with_objects = [image for image in images if rng.random() < 0.8]
    number = rng.integers(0, 9) * num_images if with_objects else 0
    for annotation_id in rng.permutation(1000)[:number].tolist():  # of all images in a mix
        image = with_objects[rng.integers(len(with_objects))]
        category_id = ids[rng.integers(len(ids))]
        annotations.append(random_annotation(rng, annotation_id, image, category_id))
    if images:  # at least one that can be trained on
        annotations.append(sound_annotation(5000, images[0]["id"], ids[0]))
    categories = [{"id": i, "name": f"Käfig_{i}_虎", "frequency": "r"} for i in ids]
    return {
        "info": {"description": "☃"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def write(folder, content, name="lvis_train.json", **kwargs):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, **kwargs), "utf-8")
    return str(path)


def items(dataset):
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def assert_same(got, expected):
    """Two data sets with the same items, and all that is asked of them besides."""
    assert len(got) == len(expected)
    assert items(got) == items(expected)
    assert repr(items(got)) == repr(items(expected)), "also 1 and 1.0 differ, and the keys' order"
    assert list(got.cat_ids) == expected.cat_ids
    assert got.cat2label == expected.cat2label
    assert got.metainfo == expected.metainfo
    for index in range(len(expected)):
        labels = got.get_cat_ids(index)
        assert labels == trained_labels(expected.get_data_info(index)), "mmdet's have crowds, too"
        assert all(type(label) is int for label in labels)


def trained_labels(item):
    """The labels of an item's instances that mmdet does not ignore."""
    return [each["bbox_label"] for each in item["instances"] if not each["ignore_flag"]]


def assert_parity(cls, ann_file, **options):
    """First and second start with the cache and without it: always mmdet's items."""
    options = {"data_prefix": PREFIX, **options}
    # mmdet cannot serialize an empty list, so its items are compared unserialized.
    expected = REFERENCE[cls](ann_file, **{**options, "serialize_data": False})
    nothing = not expected.test_mode and not any(map(trained_labels, items(expected)))
    for cache in (True, True, False):
        if nothing:
            with pytest.raises(ValueError, match="nothing to train on"):
                cls(ann_file, cache=cache, **copy.deepcopy(options))
        else:
            assert_same(cls(ann_file, cache=cache, **copy.deepcopy(options)), expected)
    return expected


@BOTH
@pytest.mark.parametrize("seed", range(20))
def test_items_are_those_of_mmdet(tmp_path, cls, seed):
    content = random_content(seed)
    format_ = [{}, {"indent": 1}, {"ensure_ascii": False, "separators": (",", ":")}][seed % 3]
    expected = assert_parity(cls, write(tmp_path, content, **format_))
    assert len(expected) == len(content["images"])


def test_the_random_files_have_all_that_matters():
    """Else the comparisons above would compare nothing."""
    annotations, kept = [], []
    for seed in range(20):
        content = random_content(seed)
        annotations += content["annotations"]
        ids = [image["id"] for image in content["images"]]
        assert len(ids) < 3 or ids != sorted(ids)
    kinds = {str(type(annotation.get("segmentation"))) for annotation in annotations}
    assert len(kinds) == 3
    kept = [a for a in annotations if not a.get("ignore") and min(a["bbox"][2:]) >= 1]
    assert 100 < len(kept) < len(annotations) - 100
    assert {annotation.get("iscrowd", 2) for annotation in kept} == {0, 1, 2, None}
    assert any(min(annotation["bbox"][:2]) < 0 for annotation in kept)


numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=40)
@given(
    box=st.tuples(numbers, numbers, numbers, numbers),
    area=numbers,
    polygon=st.lists(numbers),
    name=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_number_and_name_survives(tmp_path_factory, box, area, polygon, name):
    content = random_content(0, num_images=1)
    image, category = content["images"][0], content["categories"][0]
    image |= {"height": 2**40, "width": 2**40, "file_name": f"x{name}", "coco_url": f"{URL}{name}"}
    ids = {"id": 1, "image_id": image["id"], "category_id": category["id"]}
    content["annotations"] = [
        {**ids, "bbox": box, "area": area, "segmentation": [polygon]},
        {**ids, "id": 2, "bbox": [1, 2, 3, 4.5], "area": 1, "segmentation": [polygon]},
    ]
    folder = tmp_path_factory.mktemp("numbers")
    path = write(folder, content)
    for cls, reference in REFERENCE.items():
        expected = reference(path, data_prefix=PREFIX, serialize_data=False)
        assert_same(cls(path, data_prefix=PREFIX, cache=False), expected)


@BOTH
def test_the_registry_builds_them(tmp_path, cls):
    path = write(tmp_path, random_content(1))
    config = dict(ann_file=path, data_prefix=PREFIX, pipeline=[])
    built = DATASETS.build(dict(type=cls.__name__, **config))
    assert type(built) is cls
    assert_same(built, DATASETS.build(dict(type=REFERENCE[cls].__name__, **config)))


def test_mmdets_category_order_is_kept_where_ids_are_not_sorted(tmp_path):
    content = random_content(2)
    content["categories"] = [{"id": i, "name": str(i)} for i in (40, 3, 77)]
    content["annotations"] = []
    dataset = FastLVISV1Dataset(write(tmp_path, content), data_prefix=PREFIX, test_mode=True)
    assert dataset.cat_ids == [40, 3, 77]
    assert dataset.cat2label == {40: 0, 3: 1, 77: 2}
    assert 3 in dataset.cat_ids and 4 not in dataset.cat_ids


# ---------------------------------------------------------------- file names


@pytest.mark.parametrize(
    "name, expected",
    [
        ("COCO_train2014_000000000009.jpg", "000000000009.jpg"),
        ("COCO_val2014_000000123456.jpg", "000000123456.jpg"),
        ("000000000009.jpg", "000000000009.jpg"),
        ("train2017/000000000009.jpg", "train2017/000000000009.jpg"),
        ("my_COCO_photo.jpg", "my_COCO_photo.jpg"),
    ],
)
def test_v05_turns_names_of_2014_into_those_of_2017(tmp_path, name, expected):
    content = random_content(3, num_images=1)
    content["images"][0]["file_name"] = name
    path = write(tmp_path, content)
    assert_parity(FastLVISV05Dataset, path)
    dataset = FastLVISV05Dataset(path, data_prefix=PREFIX)
    assert dataset.get_data_info(0)["img_path"] == f"images/{expected}"


@pytest.mark.parametrize("folder", ["train2017", "val2017"])
def test_v1_finds_images_of_both_folders_by_their_url(tmp_path, folder):
    content = random_content(3, num_images=1)
    content["images"][0]["coco_url"] = f"{URL}{folder}/000000000009.jpg"
    del content["images"][0]["file_name"]  # LVIS v1 has none
    path = write(tmp_path, content)
    dataset = FastLVISV1Dataset(path, data_prefix=PREFIX)
    assert dataset.get_data_info(0)["img_path"] == f"images/{folder}/000000000009.jpg"
    assert_same(dataset, LVISV1Dataset(path, data_prefix=PREFIX))


# ---------------------------------------------------------------- options


@BOTH
@pytest.mark.parametrize("test_mode", [False, True])
@pytest.mark.parametrize(
    "filter_cfg",
    [
        None,
        {},
        dict(filter_empty_gt=True),
        dict(filter_empty_gt=False, min_size=40),
        dict(filter_empty_gt=True, min_size=32),
        dict(min_size=10**6),
    ],
)
def test_filter_cfg_leaves_the_images_that_mmdet_leaves(tmp_path, cls, filter_cfg, test_mode):
    left = 0
    for seed in range(30, 33):
        path = write(tmp_path, random_content(seed, num_images=9), f"{seed}.json")
        left += len(assert_parity(cls, path, filter_cfg=filter_cfg, test_mode=test_mode))
    removes = not test_mode and bool(filter_cfg)
    assert (left < 27) is removes


@BOTH
@pytest.mark.parametrize(
    "indices", [0, 3, 99, -4, -99, [], [2], [5, 0, 5, -1], (1, 2)], ids=str
)  # fmt: skip
def test_indices_choose_as_in_mmdet(tmp_path, cls, indices):
    """After the filter; in the order given."""
    path = write(tmp_path, random_content(31, num_images=11))
    expected = assert_parity(cls, path, indices=indices, filter_cfg=dict(min_size=20))
    if not isinstance(indices, int):
        assert len(expected) == len(indices)


def test_indices_outside_the_data_set_are_an_error_and_leave_no_entry(tmp_path, cache):
    path = write(tmp_path, random_content(31, num_images=3))
    with pytest.raises(IndexError):
        FastLVISV1Dataset(path, data_prefix=PREFIX, indices=[3])
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]


@BOTH
@pytest.mark.parametrize("form", ["list", "file"])
def test_metainfo_may_be_given(tmp_path, cls, form):
    path = write(tmp_path, random_content(4))
    names = tmp_path / "classes.txt"
    names.write_text("owl\ncat\n")
    classes = ("owl", "cat") if form == "list" else str(names)
    expected = assert_parity(cls, path, metainfo=dict(classes=classes, palette=[(1, 2, 3)]))
    assert tuple(expected.metainfo["classes"]) == ("owl", "cat")


@BOTH
@pytest.mark.parametrize(
    "data_prefix",
    [
        dict(img="train2017/"),
        dict(img=""),
        dict(img="/elsewhere/images"),
        dict(img="train2017", seg="maps/"),
    ],
)
def test_data_root_is_joined_with_the_relative_paths(tmp_path, cls, data_prefix):
    write(tmp_path, random_content(5), "annotations.json")
    options = dict(data_root=str(tmp_path), data_prefix=data_prefix, seg_map_suffix=".gif")
    expected = assert_parity(cls, "annotations.json", **options)
    first = expected.get_data_info(0)
    assert os.path.isabs(first["img_path"])
    assert str(first["seg_map_path"]).endswith(".gif") is ("seg" in data_prefix)


@BOTH
def test_unserialized_items_are_those_of_mmdet(tmp_path, cls):
    path = write(tmp_path, random_content(6))
    assert_parity(cls, path, serialize_data=False, filter_cfg=dict(filter_empty_gt=True))
    dataset = cls(path, data_prefix=PREFIX, serialize_data=False)
    assert dataset.labels_by_image() is None
    assert len(dataset.data_list) == len(dataset)


@BOTH
@pytest.mark.parametrize("serialize_data", [True, False])
def test_classes_are_returned_where_asked_for(tmp_path, cls, serialize_data):
    path = write(tmp_path, random_content(7))
    expected = assert_parity(
        cls,
        path,
        return_classes=True,
        filter_cfg=dict(filter_empty_gt=True),
        caption_prompt=dict(owl=dict(suffix="!")),
        metainfo=dict(classes=("owl",)),
        serialize_data=serialize_data,
    )
    assert expected.get_data_info(0)["text"] == ("owl",)


@BOTH
def test_proposals_are_those_of_mmdet(tmp_path, cls):
    content = random_content(8, num_images=3)
    content["images"][0]["height"] = 5
    for image in content["images"]:
        image["file_name"] = image["coco_url"].removeprefix(URL)
    names = [image["file_name"] for image in content["images"]]
    proposals = tmp_path / "proposals.pkl"
    proposals.write_bytes(
        pickle.dumps({name: [len(name), index] for index, name in enumerate(names)})
    )
    path = write(tmp_path, content)
    expected = assert_parity(cls, path, proposal_file=str(proposals))
    assert expected.get_data_info(2)["proposals"][1] == 2
    options = dict(proposal_file=str(proposals), filter_cfg=dict(min_size=6))
    assert len(assert_parity(cls, path, **options)) == 2


@BOTH
def test_lazy_init_reads_nothing_before_it_is_needed(tmp_path, cache, cls):
    """As with mmdet's data sets, metainfo is at hand at once."""
    path = tmp_path / "later.json"
    dataset = cls(str(path), data_prefix=PREFIX, lazy_init=True, metainfo=dict(classes=("owl",)))
    assert dataset.metainfo["classes"] == ("owl",)
    assert not cache.exists()
    write(tmp_path, random_content(9), path.name)
    expected = REFERENCE[cls](str(path), data_prefix=PREFIX, metainfo=dict(classes=("owl",)))
    assert len(dataset) == len(expected)
    assert_same(dataset, expected)


def test_labels_are_at_hand_after_lazy_init(tmp_path):
    path = write(tmp_path, random_content(10))
    labels, ends = FastLVISV1Dataset(path, data_prefix=PREFIX, lazy_init=True).labels_by_image()
    assert len(labels) == ends[-1] > 0


def test_a_pathlib_path_will_do(tmp_path):
    path = write(tmp_path, random_content(11))
    for cache in (True, False):
        dataset = FastLVISV1Dataset(tmp_path / "lvis_train.json", data_prefix=PREFIX, cache=cache)
        assert_same(dataset, LVISV1Dataset(path, data_prefix=PREFIX))


@pytest.mark.parametrize("cache", ["yes", 1, None])
def test_cache_must_be_true_or_false(cache):
    with pytest.raises(TypeError, match=f"cache must be True or False, but it is {cache!r}"):
        FastLVISV1Dataset("x.json", cache=cache)


class MappedBackend(LocalBackend):
    """Finds local-looking paths elsewhere, as mmengine's PetrelBackend does with path_mapping."""

    def __init__(self, folder):
        self.folder = folder

    @contextlib.contextmanager
    def get_local_path(self, filepath):
        yield os.path.join(self.folder, os.path.basename(filepath))


register_backend("mapped", MappedBackend, force=True, prefixes="mapped")


@pytest.mark.parametrize("ann_file", ["data/nowhere/train.json", "mapped://bucket/train.json"])
def test_the_storage_backend_says_where_the_file_is(tmp_path, ann_file):
    write(tmp_path, random_content(12), "train.json")
    backend_args = dict(backend="mapped", folder=str(tmp_path))
    assert_parity(FastLVISV1Dataset, ann_file, backend_args=backend_args)


class HalvedBoxes(FastLVISV1Dataset):
    """Changes what an item holds, by mmdet's own hook."""

    def parse_data_info(self, raw_data_info):
        data_info = super().parse_data_info(raw_data_info)
        data_info["count"] = len(raw_data_info["raw_ann_info"])
        for instance in data_info["instances"]:
            instance["bbox"] = [value / 2 for value in instance["bbox"]]
        return data_info


@pytest.mark.parametrize("cache", [True, False])
def test_a_subclass_may_change_the_items(tmp_path, cache):
    content = random_content(13)
    path = write(tmp_path, content)
    plain = FastLVISV1Dataset(path, data_prefix=PREFIX, cache=cache)
    changed = HalvedBoxes(path, data_prefix=PREFIX, cache=cache)
    for image, before, after in zip(content["images"], items(plain), items(changed), strict=True):
        of_image = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert after["count"] == len(of_image)
        boxes = [[2 * value for value in instance["bbox"]] for instance in after["instances"]]
        assert boxes == [instance["bbox"] for instance in before["instances"]]


# ---------------------------------------------------------------- items, subsets, copies


@pytest.mark.parametrize("cache", [True, False])
def test_negative_indices_count_from_the_end(tmp_path, cache):
    path = write(tmp_path, random_content(14, num_images=5))
    dataset = FastLVISV1Dataset(path, data_prefix=PREFIX, cache=cache)
    for index in range(-5, 0):
        assert dataset.get_data_info(index) == dataset.get_data_info(index + 5)
        assert dataset.get_cat_ids(index) == dataset.get_cat_ids(index + 5)
    assert dataset.get_data_info(-2)["sample_idx"] == 3


@pytest.mark.parametrize("num_images", [1, 5])
@pytest.mark.parametrize("beyond", [0, 1, 100])
def test_indices_beyond_the_ends_are_an_error(tmp_path, num_images, beyond):
    """Python loops and samplers rely on that."""
    path = write(tmp_path, random_content(14, num_images=num_images))
    dataset = FastLVISV1Dataset(path, data_prefix=PREFIX)
    for index in (num_images + beyond, -num_images - 1 - beyond):
        with pytest.raises(IndexError):
            dataset.get_data_info(index)
        with pytest.raises(IndexError):
            dataset.get_cat_ids(index)


def test_numpy_indices_will_do(tmp_path):
    path = write(tmp_path, random_content(14, num_images=5))
    dataset = FastLVISV1Dataset(path, data_prefix=PREFIX)
    assert dataset.get_data_info(np.int64(3)) == dataset.get_data_info(3)
    assert dataset.get_cat_ids(np.int64(-2)) == dataset.get_cat_ids(3)


def test_items_are_the_callers_own(tmp_path):
    """Pipelines change what they get."""
    dataset = FastLVISV1Dataset(write(tmp_path, random_content(15)), data_prefix=PREFIX)
    before = items(dataset)
    for item in items(dataset):
        item["instances"].clear()
        item["height"] = 0
    assert items(dataset) == before


@pytest.mark.parametrize("cache", [True, False])
def test_labels_by_image_are_those_of_the_items(tmp_path, cache):
    path = write(tmp_path, random_content(16, num_images=11))
    dataset = FastLVISV1Dataset(path, data_prefix=PREFIX, cache=cache)
    labels, ends = dataset.labels_by_image()
    expected = list(map(trained_labels, items(dataset)))
    assert [part.tolist() for part in np.split(labels, ends[:-1])] == expected
    assert (labels.dtype, ends.dtype) == (np.int32, np.int64)
    assert sum(map(len, expected)) > 10


SUBSETS = pytest.mark.parametrize(
    "indices", [0, 1, 6, -1, -5, [3], [4, 0, 4], [0, -2], (2, 1)], ids=str
)


@BOTH
@SUBSETS
@pytest.mark.parametrize("serialize_data", [True, False])
def test_subsets_are_those_of_mmdet(tmp_path, cls, indices, serialize_data):
    path = write(tmp_path, random_content(17, num_images=9))
    options = dict(data_prefix=PREFIX, serialize_data=serialize_data)
    reference = REFERENCE[cls](path, **options)
    for cache in (True, False):
        dataset = cls(path, cache=cache, **options)
        subset = dataset.get_subset(indices)
        assert_same(subset, reference.get_subset(indices))
        assert subset.labels_by_image() is None
        assert_same(dataset, reference)  # as it was
        dataset.get_subset_(indices)
        expected = REFERENCE[cls](path, **options)
        expected.get_subset_(indices)
        assert_same(dataset, expected)
        assert dataset.labels_by_image() is None


def test_a_subset_of_a_subset(tmp_path):
    path = write(tmp_path, random_content(17, num_images=9))
    dataset = FastLVISV1Dataset(path, data_prefix=PREFIX).get_subset([8, 2, 5, 0])
    ids = [item["img_id"] for item in items(dataset)]
    assert [item["img_id"] for item in items(dataset.get_subset([3, 1]))] == [ids[3], ids[1]]


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda dataset: pickle.loads(pickle.dumps(dataset))]
)
def test_copies_work(tmp_path, duplicate, cache):
    """Spawned worker processes get pickles."""
    path = write(tmp_path, random_content(18))
    dataset = FastLVISV1Dataset(path, data_prefix=PREFIX, cache=cache)
    other = duplicate(dataset)
    assert_same(other, LVISV1Dataset(path, data_prefix=PREFIX))
    for ours, theirs in zip(dataset.labels_by_image(), other.labels_by_image(), strict=True):
        assert np.array_equal(ours, theirs)
    assert other.cat_ids[0] in other.cat_ids and -1 not in other.cat_ids


def add_process_id(item):
    return {**item, "process": os.getpid()}


@pytest.mark.parametrize("cache", [True, False])
def test_worker_processes_give_the_same_items(tmp_path, cache):
    path = write(tmp_path, random_content(19, num_images=8))
    options = dict(data_prefix=PREFIX, pipeline=[add_process_id])
    dataset = FastLVISV1Dataset(path, cache=cache, **options)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=2,
        collate_fn=list,
        multiprocessing_context="fork",
    )
    got = [item for batch in loader for item in batch]
    processes = {item.pop("process") for item in got}
    assert len(processes) == 2 and os.getpid() not in processes
    assert got == items(LVISV1Dataset(path, data_prefix=PREFIX))


def test_a_real_pipeline_gives_what_it_gives_with_mmdets_data_set(tmp_path):
    content = random_content(195, num_images=4)
    (tmp_path / "train2017").mkdir()
    (tmp_path / "val2017").mkdir()
    rng = np.random.default_rng(0)
    for image in content["images"]:
        pixels = rng.integers(0, 255, (image["height"], image["width"], 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / image["coco_url"].removeprefix(URL))
    for annotation in content["annotations"]:
        annotation["segmentation"] = [[1, 1, 9, 1, 9, 9.5]]
    options = dict(
        data_root=str(tmp_path),
        data_prefix=dict(img=""),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="mmdet.RandomFlip", prob=1.0),
            dict(type="mmdet.PackDetInputs"),
        ],
    )
    path = write(tmp_path, content)
    load = functools.partial(
        DataLoader, num_workers=2, collate_fn=pseudo_collate, multiprocessing_context="fork"
    )
    ours, theirs = (
        DATASETS.build(dict(type=name, ann_file=path, **options))
        for name in ("FastLVISV1Dataset", "LVISV1Dataset")
    )
    count = 0
    for got, expected in zip(load(ours), load(theirs), strict=True):
        assert (got["inputs"][0] == expected["inputs"][0]).all()
        (sample,), (reference,) = got["data_samples"], expected["data_samples"]
        assert sample.metainfo == reference.metainfo
        for part in ("gt_instances", "ignored_instances"):
            one, other = sample.get(part), reference.get(part)
            assert (one.bboxes.tensor == other.bboxes.tensor).all()
            assert (one.labels == other.labels).all()
            assert (one.masks.to_ndarray() == other.masks.to_ndarray()).all()
            count += len(one)
    assert count > 3


# ---------------------------------------------------------------- odd but valid files


@BOTH
@pytest.mark.parametrize("keep", [0, 1, 4])
def test_annotations_of_deleted_images_and_categories_are_left_out(tmp_path, cls, keep):
    """Subsets are often made by deleting images."""
    content = random_content(122, num_images=8)
    content["images"] = content["images"][:keep]
    content["categories"] = content["categories"][:keep]
    images = {image["id"] for image in content["images"]}
    path = write(tmp_path, content)
    expected = REFERENCE[cls](path, data_prefix=PREFIX, serialize_data=False)
    for filter_cfg in (None, dict(filter_empty_gt=True)):
        assert_parity(cls, path, filter_cfg=filter_cfg)
    with logged() as log:
        assert_same(cls(path, data_prefix=PREFIX, cache=False, test_mode=True), expected)
    unknown = sum(annotation["image_id"] not in images for annotation in content["annotations"])
    assert unknown > 0
    assert f"{unknown} of an image that the file does not list" in log.getvalue()
    assert ("of a category that the file does not list" in log.getvalue()) is (keep > 0)


def one_category(content):
    del content["categories"][1:]


def test_nothing_is_said_of_a_proper_file(tmp_path):
    with logged() as log:
        FastLVISV1Dataset(write(tmp_path, broken(one_category)), data_prefix=PREFIX)
    assert log.getvalue() == ""


@BOTH
@pytest.mark.parametrize("filter_cfg", [None, dict(filter_empty_gt=True)])
def test_without_categories_no_image_has_an_object(tmp_path, cls, filter_cfg):
    content = random_content(23, num_images=4)
    content["categories"] = []
    expected = assert_parity(cls, write(tmp_path, content), filter_cfg=filter_cfg)
    assert len(expected) == (0 if filter_cfg else 4)


@BOTH
def test_without_images_the_data_set_is_empty(tmp_path, cls):
    content = random_content(24) | {"images": [], "annotations": []}
    path = write(tmp_path, content)
    assert len(assert_parity(cls, path)) == 0
    labels, ends = cls(path, data_prefix=PREFIX, test_mode=True).labels_by_image()
    assert (len(labels), len(ends)) == (0, 0)


@BOTH
def test_without_annotations_every_image_is_empty(tmp_path, cls):
    content = random_content(25, num_images=4) | {"annotations": []}
    expected = assert_parity(cls, write(tmp_path, content))
    assert [item["instances"] for item in items(expected)] == [[]] * 4


# ---------------------------------------------------------------- broken files


def broken(change, seed=26):
    content = random_content(seed, num_images=4)
    category_id = content["categories"][0]["id"]
    content["annotations"] = [
        sound_annotation(index, image["id"], category_id)
        for index, image in enumerate(content["images"])
    ]
    change(content)
    return content


def error_of(cls, path, **options):
    """The message of the ValueError; the same with the cache and without."""
    messages = set()
    for cache in (True, False):
        with pytest.raises(ValueError) as caught:
            cls(path, data_prefix=PREFIX, cache=cache, **options)
        messages.add(str(caught.value))
    (message,) = messages
    assert f"ann_file={path!r}" in message, "the message names the file"
    return message


@BOTH
@pytest.mark.parametrize("options", [{}, dict(serialize_data=False)])
def test_a_missing_file_is_named_with_the_working_directory(tmp_path, monkeypatch, cls, options):
    monkeypatch.chdir(tmp_path)
    for cache in (True, False):
        with pytest.raises(FileNotFoundError) as caught:
            cls("annotations/train.json", data_prefix=PREFIX, cache=cache, **options)
        assert "ann_file='annotations/train.json' does not exist" in str(caught.value)
        assert str(tmp_path) in str(caught.value)


def test_a_file_cut_off_anywhere_is_called_truncated(tmp_path):
    """As after a download that broke off, or while the file still is being copied."""
    text = json.dumps(broken(lambda content: None))
    for length in range(1, len(text), 97):
        path = write(tmp_path, text[:length])
        assert f"perhaps truncated ({length} bytes)" in error_of(FastLVISV1Dataset, path)


def test_an_empty_file(tmp_path):
    message = error_of(FastLVISV1Dataset, write(tmp_path, ""))
    assert "is not valid JSON, perhaps truncated (0 bytes)" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("}]", "},]", 1),
        lambda text: text[:-1] + ",}",
        lambda text: text.replace('"', "'"),
        lambda text: "// mine\n" + text,
        lambda text: text + "]",
        lambda text: text.replace('"area": 30', '"area": NaN', 1),
    ],
    ids=["comma in list", "comma in object", "quotes", "comment", "extra", "NaN"],
)
def test_files_edited_by_hand_that_are_no_json_anymore(tmp_path, change):
    text = json.dumps(broken(lambda content: None))
    path = write(tmp_path, change(text))
    assert change(text) != text
    message = error_of(FastLVISV1Dataset, path)
    assert "is not valid JSON" in message and re.search(r"byte \d+", message)


@pytest.mark.parametrize("content", [[], [1, 2], 3, "text", None, {}, {"images": []}])
def test_other_json_is_no_annotation_file(tmp_path, content):
    message = error_of(FastLVISV1Dataset, write(tmp_path, json.dumps(content)))
    assert "not an LVIS or COCO annotation file, which has images, annotations and cat" in message


@BOTH
@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_file_without_one_of_the_lists_is_told_which(tmp_path, cls, key):
    message = error_of(cls, write(tmp_path, broken(lambda content: content.pop(key))))
    assert "not an LVIS or COCO annotation file" in message
    assert f"it lacks {key}" in message


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [{}, 3, "x"])
def test_the_lists_must_be_lists(tmp_path, key, value):
    path = write(tmp_path, broken(lambda content: content.update({key: value})))
    assert f"$.{key}" in error_of(FastLVISV1Dataset, path)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_the_entries_of_the_lists_must_be_objects(tmp_path, key):
    path = write(tmp_path, broken(lambda content: content[key].append(3)))
    assert key in error_of(FastLVISV1Dataset, path)


@BOTH
@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_ids_that_occur_twice_are_named(tmp_path, cls, key):
    content = broken(lambda content: None)
    content[key].append(dict(content[key][0]))
    message = error_of(cls, write(tmp_path, content))
    assert f"{key} must have different ids, but 1 ids occur more than once" in message
    assert message.endswith(f"for example {content[key][0]['id']}")


@pytest.mark.parametrize("key", ["images", "categories"])
@pytest.mark.parametrize("value", ["5", 5.5, None, True, [5]])
def test_ids_of_images_and_categories_must_be_whole_numbers(tmp_path, key, value):
    path = write(tmp_path, broken(lambda content: content[key][0].update(id=value)))
    message = error_of(FastLVISV1Dataset, path)
    assert f"{key}[0] must have a whole number as id, but it has {value!r}" in message


@pytest.mark.parametrize("key", ["id", "image_id", "category_id"])
@pytest.mark.parametrize("value", ["5", 5.5, None, True])
def test_ids_in_annotations_must_be_whole_numbers(tmp_path, key, value):
    path = write(tmp_path, broken(lambda content: content["annotations"][2].update({key: value})))
    message = error_of(FastLVISV1Dataset, path)
    assert re.search(r"annotations\[2\] \(.*\): Expected `int`", message)
    assert f"$.{key}" in message and f"It is {value!r}." in message


@pytest.mark.parametrize("key", ["id", "image_id", "category_id"])
def test_annotations_must_have_their_ids(tmp_path, key):
    path = write(tmp_path, broken(lambda content: content["annotations"][2].pop(key)))
    message = error_of(FastLVISV1Dataset, path)
    assert re.search(r"annotations\[2\] \(.*\): Object missing required field", message)
    assert f"`{key}`" in message


@pytest.mark.parametrize("key", ["images", "categories"])
def test_images_and_categories_must_have_ids(tmp_path, key):
    path = write(tmp_path, broken(lambda content: content[key][1].pop("id")))
    assert f"{key}[1] must have a whole number as id" in error_of(FastLVISV1Dataset, path)


@BOTH
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda annotation: annotation.pop("bbox"), "no 'bbox'.*example that with id 1 "),
        (lambda annotation: annotation.pop("area"), "no 'area'.*example that with id 1 "),
        (lambda annotation: annotation.update(bbox=[1, 2, 3]), r"\(id 1, .*length 4.*bbox"),
        (lambda annotation: annotation.update(bbox=None), "no 'bbox'.*example that with id 1 "),
        (lambda annotation: annotation.update(bbox=["1", "2", "3", "4"]), r"\(id 1, .*`str`.*bbox"),
        (lambda annotation: annotation.update(area="30"), r"\(id 1, .*`str`.*area"),
        (lambda annotation: annotation.update(iscrowd="0"), r"\(id 1, .*`str`.*iscrowd"),
    ],
    ids=[
        "no bbox",
        "no area",
        "three numbers",
        "null",
        "strings",
        "area is a string",
        "iscrowd too",
    ],
)
@pytest.mark.parametrize("options", [{}, dict(serialize_data=False)])
def test_annotations_out_of_format_are_named_by_their_image(
    tmp_path, cls, change, message, options
):
    content = broken(lambda content: change(content["annotations"][1]))
    got = error_of(cls, write(tmp_path, content), **options)
    image_id = content["annotations"][1]["image_id"]
    assert re.search(message, got) and re.search(f"image(_| )id {image_id}", got)


@BOTH
def test_a_test_set_has_no_annotations(tmp_path, cls):
    """And nothing else may lack them."""
    content = random_content(3)
    del content["annotations"]
    path = write(tmp_path, content)
    dataset = cls(path, data_prefix=PREFIX, test_mode=True)
    assert len(dataset) == len(content["images"])
    assert all(item["instances"] == [] for item in dataset)
    with pytest.raises(ValueError, match="lacks annotations"):
        cls(path, data_prefix=PREFIX)


@BOTH
def test_a_missing_image_is_named(tmp_path, cls):
    path = write(tmp_path, random_content(3))
    pipeline = [dict(type="LoadImageFromFile")]
    dataset = cls(path, data_prefix=dict(img=str(tmp_path / "nowhere")), pipeline=pipeline)
    name = dataset.get_data_info(0)["img_path"]
    assert name.startswith(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=re.escape(name)):
        dataset[0]


@BOTH
def test_no_image_folder_is_not_the_files_fault(tmp_path, cls):
    path = write(tmp_path, random_content(3))
    with pytest.raises(ValueError, match="data_prefix must have an 'img'"):
        cls(path, data_prefix=dict(seg="x"))


@pytest.mark.parametrize("key", ["annotations", "images", "categories"])
def test_ids_beyond_64_bits(tmp_path, key):
    path = write(tmp_path, broken(lambda content: content[key][1].update(id=2**63)))
    assert f"{key}[1]" in error_of(FastLVISV1Dataset, path)


def test_an_image_without_a_url_in_it(tmp_path):
    path = write(tmp_path, broken(lambda content: content["images"][1].update(coco_url=None)))
    assert "has no text as 'coco_url'" in error_of(FastLVISV1Dataset, path)


@BOTH
@pytest.mark.parametrize("key", ["height", "width"])
def test_images_must_have_a_size(tmp_path, cls, key):
    content = broken(lambda content: content["images"][3].pop(key))
    message = error_of(cls, write(tmp_path, content))
    assert f"image id {content['images'][3]['id']} has no {key!r}" in message


@pytest.mark.parametrize(
    "cls, key", [(FastLVISV05Dataset, "file_name"), (FastLVISV1Dataset, "coco_url")]
)
def test_the_other_versions_file_is_told_apart(tmp_path, cls, key):
    def change(content):
        for image in content["images"]:
            del image[key]

    content = broken(change)
    message = error_of(cls, write(tmp_path, content))
    assert f"image id {content['images'][0]['id']} has no text as {key!r}" in message
    assert "images of LVIS v1 have a coco_url, those of LVIS v0.5 and COCO a file_name" in message
