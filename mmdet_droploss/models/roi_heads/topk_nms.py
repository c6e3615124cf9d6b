"""Class-wise NMS for large vocabularies: the result of ``multiclass_nms`` without its cost.

1000 proposals times 1203 categories at a score threshold near 0 are a million boxes, of which 300
survive. A box can only be suppressed by boxes of a higher score, so NMS over the K best boxes
decides these K as NMS over all of them would; as soon as 300 of the K survive, they are the answer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmcv.ops import batched_nms
from torch import Tensor

#: What a config of hard NMS, class by class, may say.
PLAIN_NMS_KEYS = {"type", "iou_threshold"}

#: This many times ``max_per_img`` candidates go into NMS; as many times more if too few survive.
CANDIDATE_FACTOR = 4


def topk_nms_is_exact(nms_cfg: dict | None, max_per_img: int) -> bool:
    """Whether :func:`topk_multiclass_nms` gives what ``multiclass_nms`` gives for this config."""
    return (
        nms_cfg is not None
        and max_per_img > 0
        and nms_cfg.get("type", "nms") == "nms"
        and nms_cfg.keys() <= PLAIN_NMS_KEYS
        and "iou_threshold" in nms_cfg
    )


def topk_multiclass_nms(
    scores: Tensor,
    decode: Callable[[Tensor, Tensor], Tensor],
    largest_coordinate: Callable[[Tensor], Tensor],
    score_thr: float,
    nms_cfg: dict,
    max_per_img: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Class-wise NMS, decoding only the boxes that can matter.

    Gives the same boxes, scores and labels, in the same order, as MMDetection's ``multiclass_nms``
    on all boxes, to the last bit. Only exactly equal scores leave room: ``multiclass_nms`` puts
    them in whatever order torch's unstable sort does. Here, of equal scores the lower proposal and
    then the lower category goes first, unless so few boxes are above the threshold that all of
    them go into one NMS, as in ``multiclass_nms``.

    Args:
        scores: (N, C) scores of N proposals for C categories, without background.
        decode: Takes (k,) proposal indices and (k,) category indices and returns their (k, 4)
            boxes (x1, y1, x2, y2), clipped to the image, so with no negative coordinate.
        largest_coordinate: Takes (N, C) bool, of which at least one is True, and returns the
            largest coordinate of the boxes of these, a scalar.
        score_thr: Scores up to this are ignored.
        nms_cfg: For which :func:`topk_nms_is_exact` holds.
        max_per_img: How many detections to return at the most; > 0.

    Returns:
        Boxes (k, 4), scores (k,) and labels (k,) int64 of the k <= ``max_per_img`` detections,
        by falling score.
    """
    num_classes = scores.shape[1]
    flat = scores.flatten()
    # NaN is not above any threshold, but would be the best of all for topk.
    valid = flat > score_thr
    flat = flat.masked_fill(~valid, -torch.inf)
    num_valid = int(valid.sum())
    largest = None

    num_candidates = CANDIDATE_FACTOR * max_per_img
    while True:
        indices = (
            stable_topk(flat, num_candidates)
            if num_candidates < num_valid
            else valid.nonzero().squeeze(1)
        )
        proposals = torch.div(indices, num_classes, rounding_mode="floor")
        labels = indices % num_classes
        boxes = decode(proposals, labels)
        if len(boxes) == 0:
            return boxes, flat[indices], labels
        # MMCV moves each category's boxes to a place of its own, by a step that depends on the
        # largest coordinate of all boxes. The sums are rounded, so the step decides last bits of
        # IoUs: it must be the very same.
        if largest is None:
            largest = largest_coordinate(valid.view_as(scores))
        boxes_for_nms = boxes + (labels.to(boxes) * (largest + 1))[:, None]
        rank = flat[indices]
        if len(indices) < num_valid:
            # NMS sorts by score, and not stably; ranks leave it no choice among equal scores.
            order = rank.argsort(descending=True, stable=True)
            rank = torch.empty_like(boxes[:, 0])
            rank[order] = torch.arange(len(order), 0, -1, device=rank.device, dtype=rank.dtype)
        # The boxes are moved already, hence class_agnostic. MMCV takes many boxes category by
        # category even so, which is faster then.
        nms_cfg = dict(type="nms", iou_threshold=nms_cfg["iou_threshold"], class_agnostic=True)
        _, keep = batched_nms(boxes_for_nms, rank, labels, nms_cfg)
        if len(keep) >= max_per_img or len(indices) >= num_valid:
            keep = keep[:max_per_img]
            return boxes[keep], flat[indices][keep], labels[keep]
        num_candidates *= CANDIDATE_FACTOR


def stable_topk(values: Tensor, k: int) -> Tensor:
    """The indices of the k largest, in rising order; of equal values the lower indices.

    Args:
        values: (n,), without NaN.
        k: At most n.

    Returns:
        (k,) int64.
    """
    least = values.topk(k, sorted=False).values.min()
    above = (values > least).nonzero().squeeze(1)
    equal = (values == least).nonzero().squeeze(1)
    return torch.cat([above, equal[: k - len(above)]]).sort().values
