"""FastLVISMetric against lvis-api, the reference, over random federated data sets."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from logs import logged
from lvis_reference import evaluated, reference
from mmdet.registry import METRICS
from mmdet.structures import DetDataSample
from mmengine.fileio import LocalBackend, register_backend
from mmengine.structures import InstanceData
from processes import in_processes
from pycocotools import mask as mask_utils
from torch import distributed as dist

from mmdet_droploss.evaluation import METRIC_KEYS, FastLVISMetric
from mmdet_droploss.evaluation.parts import joined

SIZE = 200

# ---------------------------------------------------------------- random data sets


def random_box(rng, like=None):
    """(x, y, w, h), small, medium or large; or near another box, so that it may match."""
    if like is not None:
        box = np.array(like) + rng.normal(size=4) * rng.choice([0.5, 3, 10])
    else:
        side = rng.choice([8, 20, 60, 110])
        box = np.array([*rng.uniform(0, SIZE - 20, 2), *(side * rng.uniform(0.7, 1.4, 2))])
    x, y = np.clip(box[:2], 0, SIZE - 10)
    w, h = np.clip(box[2:], 4, [SIZE - x, SIZE - y])
    return [float(value) for value in (x, y, w, h)]


def rle(box, rng):
    """A box with a corner cut off, so that mask and box have different areas."""
    x, y, w, h = (int(round(value)) for value in box)
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8, order="F")
    mask[y : y + max(h, 1), x : x + max(w, 1)] = 1
    mask[y : y + int(h * rng.uniform(0, 0.7)), x : x + int(w * rng.uniform(0, 0.7))] = 0
    if not mask.any():
        mask[min(y, SIZE - 1), min(x, SIZE - 1)] = 1
    encoded = mask_utils.encode(mask)
    return {"size": [SIZE, SIZE], "counts": encoded["counts"].decode()}


def random_data(seed, num_images=8, num_categories=7, most_detections=25):
    """An LVIS ground truth, and detections a image: boxes, masks, scores, labels."""
    rng = np.random.default_rng(seed)
    # Category ids have gaps, and one category has no annotation at all.
    ids = sorted(rng.choice(np.arange(1, 50), num_categories, replace=False).tolist())
    used = ids[:-1]
    images, annotations, detections = [], [], {}
    for image_id in (rng.permutation(100)[:num_images] + 1).tolist():
        present = rng.choice(used, rng.integers(0, 4), replace=False).tolist()
        absent = [c for c in ids if c not in present]
        negative = [c for c in absent if rng.random() < 0.4]
        images.append(
            {
                "id": image_id,
                "height": SIZE,
                "width": SIZE,
                "coco_url": f"http://x/train2017/{image_id:012d}.jpg",
                "neg_category_ids": negative,
                "not_exhaustive_category_ids": [c for c in present if rng.random() < 0.3],
            }
        )
        boxes = []
        for category in present:
            for _ in range(rng.integers(1, 4)):
                box = random_box(rng)
                segmentation = rle(box, rng)
                boxes.append((category, box))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category,
                        "bbox": box,
                        "area": float(mask_utils.area(segmentation)),
                        "segmentation": segmentation,
                    }
                )
        found = []
        for _ in range(rng.integers(0, most_detections + 1)):
            if boxes and rng.random() < 0.6:
                category, box = boxes[rng.integers(len(boxes))]
                if rng.random() < 0.1:
                    category = int(rng.choice(ids))
                found.append((category, random_box(rng, box)))
            else:
                found.append((int(rng.choice(ids)), random_box(rng)))
        scores = rng.random(len(found)).astype(np.float32)
        if rng.random() < 0.4:  # ties
            scores = (scores * 5).round().astype(np.float32) / 5
        detections[image_id] = [
            dict(
                label=ids.index(category),
                score=score,
                box=np.array(box, dtype=np.float32),
                mask=rle(box, rng),
            )
            for (category, box), score in zip(found, scores, strict=True)
        ]
    groups = rng.choice(["r", "c", "f"], num_categories).tolist()
    truth = {
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": c, "name": f"c{c}", "frequency": g, "image_count": 1, "instance_count": 1}
            for c, g in zip(ids, groups, strict=True)
        ],
    }
    return truth, detections


def write(folder, truth, name="val.json"):
    path = folder / name
    path.write_text(json.dumps(truth))
    return str(path)


def data_samples(detections):
    """What a detector hands to the metric."""
    samples = []
    for image_id, found in detections.items():
        boxes = np.array([d["box"] for d in found], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = np.zeros((len(found), SIZE, SIZE), dtype=bool)
        for mask, detection in zip(masks, found, strict=True):
            mask[:] = mask_utils.decode(detection["mask"]).astype(bool)
        sample = DetDataSample(metainfo=dict(img_id=image_id, ori_shape=(SIZE, SIZE)))
        sample.pred_instances = InstanceData(
            bboxes=torch.from_numpy(boxes),
            scores=torch.tensor(np.array([d["score"] for d in found], dtype=np.float32)),
            labels=torch.tensor([d["label"] for d in found], dtype=torch.int64),
            masks=torch.from_numpy(masks),
        )
        samples.append(sample.to_dict())
    return samples


def run(metric, samples, size=None, batch_size=3):
    for start in range(0, len(samples), batch_size):
        metric.process({}, samples[start : start + batch_size])
    return metric.evaluate(len(samples) if size is None else size)


# ---------------------------------------------------------------- lvis-api


def assert_parity(folder, truth, samples, iou_types=("bbox", "segm")):
    ann_file = write(folder, truth)
    got = run(FastLVISMetric(ann_file, metric=iou_types), samples)
    assert set(got) == {f"lvis/{iou_type}_{key}" for iou_type in iou_types for key in METRIC_KEYS}
    for iou_type in iou_types:
        expected = reference(ann_file, samples, iou_type)
        assert set(METRIC_KEYS) == set(expected)
        for key in METRIC_KEYS:
            assert got[f"lvis/{iou_type}_{key}"] == pytest.approx(expected[key], abs=1e-6), (
                f"{iou_type}_{key}"
            )
    return got


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_of_whole_masks_in_batches_are_those_of_lvis_api(tmp_path, seed):
    """test_lvis_parity.py has what real files have."""
    truth, detections = random_data(seed)
    got = assert_parity(tmp_path, truth, data_samples(detections))
    assert got["lvis/bbox_AP"] > 0.01, "else there would be nothing to compare"


def test_the_numbers_are_unrounded(tmp_path):
    truth, detections = random_data(3)
    got = run(FastLVISMetric(write(tmp_path, truth)), data_samples(detections))
    assert any(round(value, 4) != value for value in got.values())


@pytest.mark.parametrize("seed", [100, 101])
def test_more_than_300_detections_an_image(tmp_path, seed):
    """Only the best 300 count, over all categories."""
    truth, detections = random_data(seed, num_images=3)
    rng = np.random.default_rng(seed)
    ids = [c["id"] for c in truth["categories"]]
    for image_id, found in detections.items():
        for _ in range(380):
            own = [a for a in truth["annotations"] if a["image_id"] == image_id]
            like = rng.choice(own) if own and rng.random() < 0.3 else None
            box = random_box(rng, like["bbox"] if like else None)
            category = like["category_id"] if like else int(rng.choice(ids))
            found.append(
                dict(
                    label=ids.index(category),
                    score=np.float32(rng.random()),
                    box=np.array(box, dtype=np.float32),
                    mask=rle(box, rng),
                )
            )
    samples = data_samples(detections)
    assert max(len(s["pred_instances"]["scores"]) for s in samples) > 300
    got = assert_parity(tmp_path, truth, samples)
    capped = copy.deepcopy(samples)
    for sample in capped:
        found = sample["pred_instances"]
        best = found["scores"].argsort(descending=True, stable=True)[:300].sort().values
        for key in found:
            found[key] = found[key][best]
    assert run(FastLVISMetric(write(tmp_path, truth)), capped) == got


def test_equal_scores_everywhere(tmp_path):
    truth, detections = random_data(7)
    for found in detections.values():
        for detection in found:
            detection["score"] = np.float32(0.5)
    assert_parity(tmp_path, truth, data_samples(detections))


def test_images_without_detections(tmp_path):
    truth, detections = random_data(8)
    for image_id in list(detections)[::2]:
        detections[image_id] = []
    assert_parity(tmp_path, truth, data_samples(detections))


def test_images_that_were_not_tested_are_told_and_count(tmp_path):
    truth, detections = random_data(9)
    samples = data_samples(detections)
    with logged() as log:
        got = assert_parity(tmp_path, truth, samples[:5])
    assert "5 of the 8 images" in log.getvalue()
    assert got != run(FastLVISMetric(write(tmp_path, truth)), samples)


def test_no_detection_at_all(tmp_path):
    """lvis-api fails here; MMDetection at the start of a training should not."""
    truth, detections = random_data(10)
    got = run(
        FastLVISMetric(write(tmp_path, truth)),
        data_samples({image_id: [] for image_id in detections}),
    )
    assert len(got) == 26
    assert all(value in (0, -1) for value in got.values())
    assert got["lvis/bbox_AP"] == got["lvis/segm_AP"] == 0


def test_no_annotation_at_all(tmp_path):
    truth, detections = random_data(11)
    truth["annotations"] = []
    ann_file = write(tmp_path, truth)
    with pytest.raises(ValueError, match=r"val.json' has no annotations: every number .* -1"):
        FastLVISMetric(ann_file)
    prefix = str(tmp_path / "run")
    metric = FastLVISMetric(ann_file, outfile_prefix=prefix, format_only=True)
    assert run(metric, data_samples(detections)) == {}


def test_perfect_detections_score_1(tmp_path):
    truth, _ = random_data(12)
    ids = [c["id"] for c in truth["categories"]]
    detections = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        detections[annotation["image_id"]].append(
            dict(
                label=ids.index(annotation["category_id"]),
                score=0.9,
                box=np.array(annotation["bbox"], dtype=np.float32),
                mask=annotation["segmentation"],
            )
        )
    got = run(FastLVISMetric(write(tmp_path, truth)), data_samples(detections))
    assert all(value in (-1, pytest.approx(1)) for value in got.values())


def test_metric_may_be_one_kind(tmp_path):
    truth, detections = random_data(13)
    samples = data_samples(detections)
    assert_parity(tmp_path, truth, samples, ("segm",))
    got = run(FastLVISMetric(write(tmp_path, truth), metric="bbox"), samples)
    assert set(got) == {f"lvis/bbox_{key}" for key in METRIC_KEYS}


def test_masks_may_come_encoded(tmp_path):
    """As some detectors give them, and as they come back from a dump."""
    truth, detections = random_data(14)
    samples = data_samples(detections)
    expected = run(FastLVISMetric(write(tmp_path, truth)), samples)
    for sample, found in zip(samples, detections.values(), strict=True):
        sample["pred_instances"]["masks"] = [
            {"size": d["mask"]["size"], "counts": d["mask"]["counts"].encode()} for d in found
        ]
    assert run(FastLVISMetric(write(tmp_path, truth)), samples) == expected


def test_registered_with_a_prefix_of_choice(tmp_path):
    truth, detections = random_data(15)
    cfg = dict(type="FastLVISMetric", ann_file=write(tmp_path, truth), prefix="mini")
    got = run(METRICS.build(cfg), data_samples(detections))
    assert "mini/bbox_AP" in got


# ---------------------------------------------------------------- COCO format


def as_coco(truth):
    truth = copy.deepcopy(truth)
    for image in truth["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in truth["categories"]:
        for key in ("frequency", "image_count", "instance_count"):
            del category[key]
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
    return truth


@pytest.mark.parametrize("seed", range(3))
def test_coco_annotations_count_as_exhaustive_with_groups_from_class_freq(tmp_path, seed):
    """The same as an LVIS file that says so."""
    truth, detections = random_data(30 + seed)
    counts = [1, 10, 11, 100, 101, 999, 5]
    samples = data_samples(detections)
    coco = write(tmp_path, as_coco(truth), "coco.json")
    got = run(FastLVISMetric(coco, class_freq=counts), samples)
    explicit = copy.deepcopy(truth)
    for image in explicit["images"]:
        present = {a["category_id"] for a in truth["annotations"] if a["image_id"] == image["id"]}
        image["neg_category_ids"] = [c["id"] for c in truth["categories"] if c["id"] not in present]
        image["not_exhaustive_category_ids"] = []
    for category, letter in zip(explicit["categories"], "rrccffr", strict=True):
        category["frequency"] = letter
    for iou_type in ("bbox", "segm"):
        expected = reference(write(tmp_path, explicit), samples, iou_type)
        for key in METRIC_KEYS:
            assert got[f"lvis/{iou_type}_{key}"] == pytest.approx(expected[key], abs=1e-6), key


def test_coco_annotations_without_class_freq_have_no_groups(tmp_path):
    truth, detections = random_data(33)
    got = run(FastLVISMetric(write(tmp_path, as_coco(truth))), data_samples(detections))
    assert got["lvis/bbox_AP"] > 0
    for group in "rcf":
        assert got[f"lvis/bbox_AP{group}"] == -1


def test_class_freq_of_another_size_is_refused(tmp_path):
    truth, _ = random_data(34)
    with pytest.raises(ValueError, match="class_freq has 3 categories.*ann_file=.* has 7"):
        FastLVISMetric(write(tmp_path, as_coco(truth)), class_freq=[1, 2, 3])


# ---------------------------------------------------------------- files and tables


def test_outfile_prefix_writes_results_that_lvis_api_takes(tmp_path):
    truth, detections = random_data(40)
    ann_file = write(tmp_path, truth)
    prefix = tmp_path / "new" / "folder" / "run"
    got = run(FastLVISMetric(ann_file, outfile_prefix=str(prefix)), data_samples(detections))
    for iou_type in ("bbox", "segm"):
        results = json.loads((prefix.parent / f"run.{iou_type}.json").read_text())
        assert len(results) == sum(map(len, detections.values()))
        expected = evaluated(ann_file, f"{prefix}.{iou_type}.json", iou_type).results
        for key in METRIC_KEYS:
            assert got[f"lvis/{iou_type}_{key}"] == pytest.approx(float(expected[key]), abs=1e-6)
    assert "bbox" not in results[0], "a box in mask results would be taken for the mask's"
    saved = json.loads((prefix.parent / "run.metrics.json").read_text())
    assert {f"lvis/{key}": value for key, value in saved["metrics"].items()} == got
    assert [row["name"] for row in saved["per_category"]] == [
        category["name"] for category in truth["categories"]
    ]
    leftovers = [path.name for path in prefix.parent.iterdir() if path.name.startswith(".")]
    assert not leftovers


def test_ap_per_category_is_that_of_lvis_api(tmp_path):
    truth, detections = random_data(41)
    rng = np.random.default_rng(0)
    truth["categories"] = [truth["categories"][i] for i in rng.permutation(7)]
    ann_file, samples = write(tmp_path, truth), data_samples(detections)
    prefix = str(tmp_path / "run")
    run(FastLVISMetric(ann_file, outfile_prefix=prefix), samples)
    rows = json.loads((tmp_path / "run.metrics.json").read_text())["per_category"]
    for iou_type in ("bbox", "segm"):
        evaluation = evaluated(ann_file, f"{prefix}.{iou_type}.json", iou_type)
        ids = evaluation.params.cat_ids
        precision = evaluation.eval["precision"][:, :, :, 0]  # (IoU, recall, category)
        for row, category in zip(rows, truth["categories"], strict=True):
            assert row["name"] == category["name"]
            assert row["frequency"] == category["frequency"]
            values = precision[:, :, ids.index(category["id"])]
            values = values[values > -1]
            if values.size:
                assert row[f"{iou_type}_AP"] == pytest.approx(values.mean(), abs=1e-6)
            else:
                assert row[f"{iou_type}_AP"] is None


def test_classwise_logs_a_table(tmp_path):
    truth, detections = random_data(42)
    truth["categories"][0]["image_count"] = "7"  # what is no number does not stop it
    with logged() as log:
        run(FastLVISMetric(write(tmp_path, truth), classwise=True), data_samples(detections))
    for category in truth["categories"]:
        assert f"| {category['name']} " in log.getvalue()
    assert "segm_AP" in log.getvalue()


def test_evaluating_twice_starts_anew(tmp_path):
    """A validation every so many iterations uses one metric."""
    truth, detections = random_data(43)
    metric, samples = FastLVISMetric(write(tmp_path, truth)), data_samples(detections)
    assert run(metric, samples) == run(metric, samples)


# ---------------------------------------------------------------- several processes


def _evaluate(samples, idle_rank):
    rank = dist.get_rank()
    metric = FastLVISMetric("val.json", outfile_prefix="run")
    # As DefaultSampler deals them out: in turn, the last one filled up from the start.
    dealt = samples + samples[: len(samples) % 2]
    mine = dealt[rank::2] if idle_rank is None else [] if rank == idle_rank else samples
    got = run(metric, mine, size=len(samples))
    Path(f"{rank}.json").write_text(json.dumps(got))


@pytest.mark.parametrize("num_images, idle_rank", [(7, None), (8, None), (1, None), (4, 0), (4, 1)])
def test_two_processes_give_the_numbers_of_one(tmp_path, num_images, idle_rank):
    """Also where one image fills up the last batch, where both processes have the same one, and
    where one has none."""
    truth, detections = random_data(50, num_images=num_images)
    samples = data_samples(detections)
    expected = run(FastLVISMetric(write(tmp_path, truth)), samples)
    in_processes(2, tmp_path, _evaluate, samples, idle_rank, method="spawn")
    for rank in range(2):
        got = json.loads((tmp_path / f"{rank}.json").read_text())
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            assert got[key] == pytest.approx(value, abs=1e-12), key
    assert len(json.loads((tmp_path / "run.bbox.json").read_text())) == sum(
        map(len, detections.values())
    ), "images that fill up the last batch are not counted twice"


def test_results_of_no_detections_are_an_empty_list(tmp_path):
    truth, detections = random_data(51)
    metric = FastLVISMetric(write(tmp_path, truth), outfile_prefix=str(tmp_path / "run"))
    run(metric, data_samples({image_id: [] for image_id in detections}))
    assert json.loads((tmp_path / "run.bbox.json").read_text()) == []


def test_a_broken_off_evaluation_leaves_nothing_in_the_next_results(tmp_path):
    truth, detections = random_data(52)
    ann_file, prefix, samples = write(tmp_path, truth), tmp_path / "run", data_samples(detections)
    broken_off = FastLVISMetric(ann_file, outfile_prefix=str(prefix))
    broken_off.process({}, samples)
    run(FastLVISMetric(ann_file, outfile_prefix=str(prefix)), samples)
    for iou_type in ("bbox", "segm"):
        results = json.loads((tmp_path / f"run.{iou_type}.json").read_text())
        assert len(results) == sum(map(len, detections.values()))
    assert not list(tmp_path.glob("*.part*"))


def test_detections_that_another_machine_wrote_where_this_one_cannot_see_them(tmp_path):
    (tmp_path / "whole.json.part0").write_bytes(b",\n1")
    whole = str(tmp_path / "whole.json")
    with (
        pytest.raises(OSError, match="part1 cannot be collected: 40 bytes.*all machines share"),
        joined(whole, [3, 40]),
    ):
        pass
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["whole.json.part0"], "nothing half-written"


def test_nothing_is_kept_of_an_image_but_a_small_state(tmp_path):
    """Millions of masks as Python objects are what kills validations on LVIS."""
    truth, detections = random_data(53, num_images=40)
    metric = FastLVISMetric(write(tmp_path, truth))
    for sample in data_samples(detections):
        metric.process({}, [sample])
    assert metric.results == [] and len(metric._matched) + len(metric._pending) == 40
    assert len(metric._pending) <= 16
    num_detections = sum(map(len, detections.values()))
    for state in metric._evaluator.to_bytes().values():
        assert len(state) < 60 * num_detections + 20_000


def test_format_only_writes_detections_of_a_set_without_annotations(tmp_path):
    """LVIS's test sets."""
    truth, detections = random_data(54)
    ann_file, samples = write(tmp_path, truth, "with.json"), data_samples(detections)
    run(FastLVISMetric(ann_file, outfile_prefix=str(tmp_path / "with")), samples)
    del truth["annotations"]
    for image in truth["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    bare = write(tmp_path, truth, "bare.json")
    metric = FastLVISMetric(bare, outfile_prefix=str(tmp_path / "bare"), format_only=True)
    assert run(metric, samples) == {}
    for iou_type in ("bbox", "segm"):
        texts = [(tmp_path / f"{name}.{iou_type}.json").read_text() for name in ("with", "bare")]
        assert texts[0] == texts[1]
    assert not (tmp_path / "bare.metrics.json").exists()


def test_format_only_needs_a_place_to_write_to(tmp_path):
    with pytest.raises(ValueError, match="format_only=True needs outfile_prefix"):
        FastLVISMetric(write(tmp_path, random_data(0)[0]), format_only=True)


def test_annotations_of_unknown_categories_and_images_do_not_count(tmp_path):
    truth, detections = random_data(55)
    samples = data_samples(detections)
    expected = run(FastLVISMetric(write(tmp_path, truth)), samples)
    first = truth["annotations"][0]
    truth["annotations"] += [
        {**first, "id": 10_001, "category_id": 999},
        {**first, "id": 10_002, "image_id": 999},
    ]
    assert run(FastLVISMetric(write(tmp_path, truth)), samples) == expected


def test_images_that_two_processes_tested_are_an_error(tmp_path):
    """A sampler that deals images out twice would make numbers that look right."""
    truth, detections = random_data(56, num_images=20)
    samples = data_samples(detections)
    metrics = [FastLVISMetric(write(tmp_path, truth)) for _ in range(2)]
    for metric in metrics:
        metric.process({}, samples)
    states = [metric._state() for metric in metrics]
    with pytest.raises(ValueError, match="16 images were tested by two processes.*DefaultSampler"):
        metrics[0].compute_metrics(states)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("metric", ["mask", [], ["bbox", "proposal"]])
def test_an_unknown_metric(tmp_path, metric):
    with pytest.raises(ValueError, match="metric must be 'bbox', 'segm' or both"):
        FastLVISMetric(write(tmp_path, random_data(0)[0]), metric=metric)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.json.*does not exist.*working directory"):
        FastLVISMetric(str(tmp_path / "none.json"))


def test_a_truncated_file(tmp_path):
    text = json.dumps(random_data(0)[0])
    path = tmp_path / "val.json"
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="val.json.*not valid JSON, perhaps truncated"):
        FastLVISMetric(str(path))


@pytest.mark.parametrize("content", [[], {}, {"images": [], "categories": []}, "text"])
def test_a_file_of_another_format(tmp_path, content):
    with pytest.raises(ValueError, match="val.json.*not an LVIS or COCO.*has images, annotations"):
        FastLVISMetric(write(tmp_path, content))


def one_sample(**changes):
    found = dict(
        bboxes=torch.tensor([[1.0, 1.0, 5.0, 5.0]]),
        scores=torch.tensor([0.5]),
        labels=torch.tensor([0]),
        masks=torch.ones(1, SIZE, SIZE, dtype=torch.bool),
    )
    found.update({key: value for key, value in changes.items() if key in found})
    image_id = changes.get("img_id", random_data(0)[0]["images"][0]["id"])
    of_image = {key: value for key, value in changes.items() if key == "img_path"}
    return dict(img_id=image_id, pred_instances=found, **of_image)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(scores=torch.tensor([math.nan])), "scores of image id .* NaN"),
        (dict(bboxes=torch.tensor([[1.0, 1, 5, math.nan]])), "bboxes of image id .* NaN"),
        (dict(img_id=12345), "12345.*val.json.*does not have.*same ann_file"),
        (dict(img_path="data/val/7.jpg"), "'data/val/7.jpg' is tested.*train2017.*same ann_file"),
        (dict(labels=torch.tensor([7])), "labels .* from 7 to 7.*7 categories"),
        (dict(labels=torch.tensor([-1])), "labels .* from -1 to -1"),
    ],
)
def test_bad_predictions(tmp_path, changes, message):
    metric = FastLVISMetric(write(tmp_path, random_data(0)[0]))
    with pytest.raises(ValueError, match=message):
        metric.process({}, [one_sample(**changes)])


@pytest.mark.parametrize(
    "image, path",
    [
        (dict(file_name="a/b.jpg"), "/elsewhere/b.png"),  # the pictures were converted
        (dict(file_name="COCO_val2014_000000000042.jpg"), "val2014/000000000042.jpg"),  # LVIS v0.5
        (dict(coco_url="http://images.cocodataset.org/val2017/1.2.jpg"), "val2017/1.2.jpg"),
        (dict(), "whatever.jpg"),  # the file does not say
        (dict(file_name="a/b.jpg"), None),  # an array was tested
    ],
)
def test_the_name_of_a_picture_is_told_from_another(tmp_path, image, path):
    truth = random_data(0)[0]
    truth["images"][0].pop("coco_url")
    truth["images"][0].update(image)
    metric = FastLVISMetric(write(tmp_path, truth))
    metric.process({}, [one_sample(img_path=path)])
    if image and path is not None:
        with pytest.raises(ValueError, match="is tested as image id"):
            metric.process({}, [one_sample(img_path=f"{path}.jpg")])


@pytest.mark.parametrize("path", ["day/1.jpg", "night/1.jpg", None])
def test_an_image_that_comes_twice_is_an_error(tmp_path, path):
    """As from two data sets with the same ids, or after a validation that was broken off."""
    truth = random_data(0)[0]
    truth["images"][0].update(file_name="1.jpg")
    metric = FastLVISMetric(write(tmp_path, truth))
    metric.process({}, [one_sample(img_path="day/1.jpg")])
    message = "twice, as 'day/1.jpg' and as" if path != "day/1.jpg" else "twice. .*broken off"
    with pytest.raises(ValueError, match=message):
        metric.process({}, [one_sample(img_path=path)])


def test_one_id_for_two_pictures_is_an_error_in_two_processes_as_well(tmp_path):
    truth = random_data(0)[0]
    truth["images"][0].update(file_name="1.jpg")
    metrics = [FastLVISMetric(write(tmp_path, truth)) for _ in range(2)]
    for metric, path in zip(metrics, ("day/1.jpg", "night/1.jpg"), strict=True):
        metric.process({}, [one_sample(img_path=path)])
    with pytest.raises(ValueError, match="twice, as 'day/1.jpg' and as 'night/1.jpg'"):
        metrics[0].compute_metrics([metric._state() for metric in metrics])


@pytest.mark.parametrize("check", [True, False])
def test_a_data_set_with_other_categories_is_told_without_the_hook(tmp_path, check):
    truth = random_data(0)[0]
    names = [category["name"] for category in truth["categories"]]
    metric = FastLVISMetric(write(tmp_path, truth), check_classes=check)
    metric.dataset_meta = {"classes": names}
    run(metric, [one_sample()])
    metric.dataset_meta = {"classes": tuple(names[1:])}
    if check:
        with pytest.raises(ValueError, match=r"classes of the data set that is tested.*metainfo"):
            metric.process({}, [one_sample()])
    else:
        with logged() as log:
            run(metric, [one_sample()])
        assert "classes of the data set that is tested" in log.getvalue()


@pytest.mark.parametrize("empty", ["all", "all but one"])
def test_empty_lists_of_negatives_everywhere_are_told(tmp_path, empty):
    truth = random_data(0)[0]
    for image in truth["images"]:
        image["neg_category_ids"] = []
    if empty == "all but one":
        truth["images"][3]["neg_category_ids"] = [truth["categories"][0]["id"]]
    with logged() as log:
        FastLVISMetric(write(tmp_path, truth))
    assert ("neg_category_ids of every image is empty" in log.getvalue()) == (empty == "all")


def test_a_storage_that_maps_paths(tmp_path):
    """The name of the file is none on this machine; the backend knows where it is."""

    class Mapped(LocalBackend):
        def get_local_path(self, filepath):
            return super().get_local_path(str(filepath).replace("store/", f"{tmp_path}/"))

    register_backend("maps store", Mapped, force=True)
    path, where = write(tmp_path, random_data(0)[0]), dict(backend="maps store")
    metric = FastLVISMetric("store/val.json", backend_args=where)
    assert len(metric.ground_truth) == len(FastLVISMetric(path).ground_truth)
    with pytest.raises(FileNotFoundError, match="store/none.json.*does not exist"):
        FastLVISMetric("store/none.json", backend_args=where)


@pytest.mark.parametrize("then", ["", "{}", "the boxes elsewhere", "longer"])
def test_a_file_that_is_written_anew_does_not_change_the_metric(tmp_path, then):
    truth, detections = random_data(3)
    ann_file = write(tmp_path, truth)
    metric, samples = FastLVISMetric(ann_file), data_samples(detections)
    before = run(metric, samples)
    text = Path(ann_file).read_text()
    if then == "the boxes elsewhere":  # with as many bytes
        then = text.translate(str.maketrans("123456789", "912345678"))
        assert len(then) == len(text)
    Path(ann_file).write_text(text + " " * 9999 if then == "longer" else then)
    assert run(metric, samples) == before


def test_predictions_without_masks(tmp_path):
    path = write(tmp_path, random_data(0)[0])
    sample = one_sample()
    del sample["pred_instances"]["masks"]
    with pytest.raises(ValueError, match=r"predicts no masks.*metric='bbox'"):
        FastLVISMetric(path).process({}, [sample])
    FastLVISMetric(path, metric="bbox").process({}, [sample])
