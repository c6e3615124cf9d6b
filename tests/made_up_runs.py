"""Tested runs on a made-up data set, whose numbers are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import orjson
from PIL import Image
from pycocotools import mask as mask_utils

from mmdet_droploss.annotations.ground_truth import GroundTruth
from mmdet_droploss.evaluation import METRIC_KEYS
from mmdet_droploss.evaluation.lvis_evaluator import category_ap, evaluate_results

SIZE = 64


#: Training images of the six categories: two rare, two common, two frequent.
COUNTS = (2, 9, 20, 90, 150, 400)


CONFIG = """
model = dict(roi_head=dict(bbox_head={head}))
randomness = dict(seed={seed})
{more}
"""


def make_dataset(root: Path) -> Path:
    """20 images with two or three squares each, in LVIS v1's format."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (root / "val2017").mkdir()
    for image_id in range(1, 21):
        name = f"val2017/{image_id:012d}.jpg"
        Image.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8)).save(root / name)
        # The first three images hold both rare categories.
        categories = [1, 2, 5] if image_id <= 3 else [3 + image_id % 4, 1 + image_id % 6]
        for slot, category in enumerate(dict.fromkeys(categories)):
            x, y, side = 2 + 20 * slot, 5 + 2 * (image_id % 10), 16
            box = [x, y, x + side, y, x + side, y + side, x, y + side]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=category,
                    segmentation=[box],
                    bbox=[x, y, side, side],
                    area=side * side,
                )
            )
        images.append(
            dict(
                id=image_id,
                width=SIZE,
                height=SIZE,
                coco_url=f"http://images.cocodataset.org/{name}",
                neg_category_ids=[c for c in range(1, 7) if c not in categories],
                not_exhaustive_category_ids=[],
            )
        )
    groups = "rrccff"
    categories = [
        dict(id=k + 1, name=f"thing{k + 1}", frequency=groups[k], image_count=COUNTS[k])
        for k in range(6)
    ]
    (root / "annotations").mkdir()
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / "annotations" / "val.json").write_text(json.dumps(content))
    counts = dict(image_count=COUNTS, num_images=500, classes=[c["name"] for c in categories])
    (root / "annotations" / "train.json").write_text(json.dumps(counts))
    return root


def detections(truth: dict, found: dict[str, float], seed: int) -> dict[str, list[dict]]:
    """Perfect masks for a share of the objects of each group, and some wrong ones."""
    rng = np.random.default_rng(seed)
    groups = {c["id"]: c["frequency"] for c in truth["categories"]}
    results: dict[str, list[dict]] = {"bbox": [], "segm": []}
    for annotation in truth["annotations"]:
        category = annotation["category_id"]
        if rng.random() >= found[groups[category]]:
            category = category % 6 + 1
        base = dict(
            image_id=annotation["image_id"], category_id=category, score=0.4 + 0.6 * rng.random()
        )
        rle = mask_utils.frPyObjects(annotation["segmentation"], SIZE, SIZE)[0]
        rle = {"size": rle["size"], "counts": rle["counts"].decode()}
        results["bbox"].append(base | dict(bbox=annotation["bbox"]))
        results["segm"].append(base | dict(segmentation=rle))
    return results


def make_run(folder: Path, dataset: Path, found: dict[str, float], seed: int) -> dict[str, float]:
    """Write what a training and its test leave in a work dir; returns the metrics."""
    truth = GroundTruth(str(dataset / "annotations" / "val.json"))
    metrics: dict[str, float] = {}
    rows = [dict(name=c["name"]) for c in truth.categories]
    folder.mkdir(parents=True)
    for iou_type, results in detections(truth.content(), found, seed).items():
        (folder / f"val.{iou_type}.json").write_bytes(orjson.dumps(results))
        evaluation = evaluate_results(truth, results, iou_type)
        evaluation.summary_lines()
        numbers = evaluation.get_results()
        metrics |= {f"{iou_type}_{key}": numbers[key] for key in METRIC_KEYS}
        for row, ap in zip(rows, category_ap(evaluation), strict=True):
            row[f"{iou_type}_AP"] = None if np.isnan(ap) else float(ap)
    content = dict(metrics=metrics, per_category=rows)
    (folder / "val.metrics.json").write_bytes(orjson.dumps(content))
    write_log(folder / "20260101_000000", range(1, 11))
    (folder / "my_config.py").write_text("")
    write_config(folder, 70 + seed)
    return metrics


def write_config(folder: Path, seed: int, loss: str = "DropLoss", more: str = "") -> None:
    """The config that a training leaves."""
    head = f"dict(loss_cls=dict(type={loss!r}))"
    file = folder / "20260101_000000" / "vis_data" / "config.py"
    file.write_text(CONFIG.format(head=head, seed=seed, more=more))


def write_log(folder: Path, steps, loss: float = 2.0, tail: str = "") -> None:
    """A log as MMEngine writes it."""
    (folder / "vis_data").mkdir(parents=True)
    lines = [
        json.dumps(dict(step=k, loss=loss, loss_cls=1.0, acc_r=0.0, acc_c=1.0, acc_f=2.0, time=0.5))
        for k in steps
    ]
    lines.append(json.dumps({"step": 0, "lvis/segm_AP": 0.25}))
    (folder / "vis_data" / "scalars.json").write_text("\n".join(lines) + "\n" + tail)


GOOD, BAD = dict(r=0.9, c=0.9, f=0.9), dict(r=0.0, c=0.3, f=0.9)
