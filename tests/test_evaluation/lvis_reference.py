"""lvis-api, the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lvis import LVIS, LVISEval, LVISResults
from pycocotools import mask as mask_utils


def evaluated(truth, results, iou_type):
    """lvis-api's evaluation of two files, or of what it reads from them."""
    evaluation = LVISEval(truth, results, iou_type)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)  # lvis-api 0.5.3 uses it
        evaluation.run()
    return evaluation


def reference(ann_file, samples, iou_type):
    """Its 13 numbers, unrounded, of what a detector hands to the metric."""
    truth = LVIS(ann_file)
    ids = [category["id"] for category in truth.dataset["categories"]]
    results = []
    for sample in samples:
        found = sample["pred_instances"]
        boxes, masks = found["bboxes"].double(), found["masks"]
        boxes[:, 2:] -= boxes[:, :2]
        if isinstance(masks, torch.Tensor):
            masks = [mask_utils.encode(np.asfortranarray(mask, np.uint8)) for mask in masks.numpy()]
        values = boxes.tolist(), masks, found["scores"].tolist(), found["labels"].tolist()
        for box, mask, score, label in zip(*values, strict=True):
            # A mask without its box: else lvis-api takes the box's area for the mask's.
            shape = dict(bbox=box) if iou_type == "bbox" else dict(segmentation=dict(mask))
            result = dict(image_id=sample["img_id"], category_id=ids[label], score=score)
            results.append(result | shape)
    found = evaluated(truth, LVISResults(truth, results), iou_type).results
    return {key: float(value) for key, value in found.items()}
