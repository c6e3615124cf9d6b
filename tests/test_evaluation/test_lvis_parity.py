"""The metric against lvis-api on what real files have: areas of 0, marks, odd ids, odd shapes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from lvis_reference import reference
from pycocotools import mask as mask_utils

from mmdet_droploss.evaluation import METRIC_KEYS, FastLVISMetric

HEIGHT, WIDTH = 110, 140
IDS = [-(2**62), -7, 1, 3, 4, 12, 2**40, 2**62]


def random_box(rng, like=None):
    """(x, y, w, h), some partly outside the image."""
    if like is not None:
        return np.round(np.array(like) + rng.normal(size=4) * rng.choice([0, 1, 5]), 2)
    side = rng.choice([6, 25, 60, 105])
    extent = side * rng.uniform(0.7, 1.3, 2)
    return np.round([*rng.uniform(-10, (WIDTH - 20, HEIGHT - 20)), *extent], 2)


def without_size(rng, box):
    """A box of width or height 0 or below, or both below."""
    x, y, w, h = box
    boxes = [(x, y, 0, h), (x, y, w, 0), (x, y, -w, h), (x + w, y + h, -w, -h), (x, y, 0, 0)]
    return np.array(boxes[rng.integers(len(boxes))])


def polygon(box):
    x, y, w, h = (float(value) for value in box)
    return [x, y, x + w, y + 0.2 * h, x + 0.8 * w, y + h, x, y + 0.7 * h]


def rle(box):
    return mask_utils.frPyObjects([polygon(box)], HEIGHT, WIDTH)[0]


def uncompressed(encoded):
    pixels = mask_utils.decode(encoded).flatten(order="F")
    ends = np.flatnonzero(np.diff(pixels)) + 1
    runs = np.diff([0, *ends, len(pixels)]).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": runs if pixels[0] == 0 else [0, *runs]}


def segmentation(rng, box):
    """A mask in any form that lvis-api reads."""
    text = {"size": [HEIGHT, WIDTH], "counts": rle(box)["counts"].decode()}
    line = [float(box[0]), 3.0, 20.0, 30.5]
    forms = [[polygon(box)], [polygon(box), line, polygon(random_box(rng))], text]
    return [*forms, uncompressed(text)][rng.integers(4)]


def random_annotation(rng, id_, image_id, category_id):
    box = random_box(rng)
    mask = segmentation(rng, box)
    area = float(mask_utils.area(rle(box)))
    annotation = dict(id=id_, image_id=image_id, category_id=category_id, bbox=box.tolist())
    annotation |= dict(area=area, segmentation=mask)
    if rng.random() < 0.3:
        annotation["iscrowd"] = int(rng.integers(2))
    if rng.random() < 0.3:
        annotation["ignore"] = [0, 1, True, False, None][rng.integers(5)]
    if rng.random() < 0.15:
        annotation["area"] = [0, 0.0, -3.5, 0.4, 32**2, 96**2, 2e10][rng.integers(7)]
    if annotation["area"] <= 0:  # lvis-api looks no further
        annotation["segmentation"] = [[], None, annotation["segmentation"]][rng.integers(3)]
    if rng.random() < 0.1:
        annotation["bbox"] = without_size(rng, box).tolist()
    return annotation


def random_truth(rng):
    """A federated set, with ids of any size, in any order."""
    category_ids = rng.choice(IDS, 5, replace=False).tolist()
    image_ids = rng.choice(IDS, 5, replace=False).tolist()
    used = category_ids[:-1]
    images, annotations = [], []
    for image_id in image_ids:
        present = rng.choice(used, rng.integers(0, 4), replace=False).tolist()
        images.append(
            dict(
                id=image_id,
                height=HEIGHT,
                width=WIDTH,
                neg_category_ids=[c for c in [*category_ids, 999] if rng.random() < 0.4],
                not_exhaustive_category_ids=[c for c in category_ids if rng.random() < 0.25],
            )
        )
        for category_id in present:
            for _ in range(rng.integers(1, 4)):
                id_ = (len(annotations) + 1) * [1, -1, 2**50][rng.integers(3)]
                annotations.append(random_annotation(rng, id_, image_id, category_id))
    # One that certainly counts, and some that are not of this file.
    plain = random_annotation(rng, 2**61, image_ids[0], used[0])
    annotations.append(plain | dict(area=50.0, segmentation=[polygon((2, 2, 9, 9))], ignore=0))
    annotations += [
        plain | dict(id=-(2**61), image_id=998),
        plain | dict(id=2**61 + 1, category_id=998),
    ]
    categories = [
        dict(id=c, name=f"c{c}", frequency=str(rng.choice(["r", "c", "f"]))) for c in category_ids
    ]
    return dict(images=images, annotations=annotations, categories=categories)


def random_samples(rng, truth):
    """What a detector could say: near objects or anywhere, empty masks, boxes without size."""
    samples = []
    crowded = rng.integers(5) if rng.random() < 0.15 else None
    ties = rng.random() < 0.5
    for index, image in enumerate(truth["images"]):
        own = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        count = 330 if index == crowded else rng.integers(int(index == 0), 12)
        boxes, masks, labels = np.empty((count, 4)), [], []
        for i in range(count):
            like = own[rng.integers(len(own))] if own and rng.random() < 0.7 else None
            box = random_box(rng, None if like is None else like["bbox"])
            masks.append(rle(box if rng.random() < 0.9 else np.zeros(4)))
            boxes[i] = box if rng.random() < 0.85 else without_size(rng, box)
            ids = [category["id"] for category in truth["categories"]]
            known = like is not None and like["category_id"] in ids and rng.random() < 0.9
            labels.append(ids.index(like["category_id"]) if known else rng.integers(len(ids)))
        scores = rng.random(count)
        boxes[:, 2:] += boxes[:, :2]
        prediction = dict(
            bboxes=torch.tensor(boxes, dtype=torch.float32),
            scores=torch.tensor((scores * 5).round() / 5 if ties else scores).float(),
            labels=torch.tensor(np.array(labels, np.int64)),
            masks=masks,
        )
        samples.append(dict(img_id=image["id"], pred_instances=prediction))
    return samples


def evaluate(ann_file, samples, processes=1):
    """The numbers, of several processes' states merged."""
    metrics = [FastLVISMetric(ann_file) for _ in range(processes)]
    for index, sample in enumerate(samples):
        metrics[index % processes].process({}, [sample])
    return metrics[0].compute_metrics([metric._state() for metric in metrics])


@pytest.mark.parametrize("tens", range(21))
def test_the_numbers_are_those_of_lvis_api(tmp_path, tens):
    measured = set()
    for seed in range(10 * tens, 10 * tens + 10):
        rng = np.random.default_rng(seed)
        truth = random_truth(rng)
        samples = random_samples(rng, truth)
        ann_file = str(tmp_path / f"{seed}.json")
        with open(ann_file, "w") as file:
            json.dump(truth, file)
        expected = {}
        for iou_type in ("bbox", "segm"):
            found = reference(ann_file, samples, iou_type)
            expected |= {f"{iou_type}_{key}": value for key, value in found.items()}
        shuffled = [samples[i] for i in rng.permutation(len(samples))]
        for got in (evaluate(ann_file, samples), evaluate(ann_file, shuffled, processes=3)):
            assert got.keys() == {f"{t}_{k}" for t in ("bbox", "segm") for k in METRIC_KEYS}
            for key, value in got.items():
                assert value == pytest.approx(expected[key], abs=1e-6), f"seed {seed}: {key}"
        measured |= {key for key, value in expected.items() if 0 < value < 1}
    assert len(measured) >= 20, "else there would be little to compare"
