"""Class-wise NMS for large vocabularies: the result of ``multiclass_nms`` without its cost.

1000 proposals times 1203 categories at a score threshold near 0 are a million boxes, of which 300
survive. A box can only be suppressed by boxes of a higher score, so NMS over the K best boxes
decides these K as NMS over all of them would; as soon as 300 of the K survive, they are the answer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmcv.ops import nms
from torch import Tensor

#: NMS configs for which the argument holds: hard NMS, class by class.
SUPPORTED_NMS_KEYS = {"type", "iou_threshold"}

#: K starts at this many times ``max_per_img`` and grows by the same factor if too few survive.
GROWTH = 4


def supports(nms_cfg: dict | None, max_per_img: int) -> bool:
    """Whether :func:`topk_multiclass_nms` gives what ``multiclass_nms`` gives for this config."""
    return (
        nms_cfg is not None
        and max_per_img > 0
        and nms_cfg.get("type", "nms") == "nms"
        and nms_cfg.keys() <= SUPPORTED_NMS_KEYS
        and "iou_threshold" in nms_cfg
    )


def topk_multiclass_nms(
    scores: Tensor,
    decode: Callable[[Tensor, Tensor], Tensor],
    max_coordinate: float,
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
        max_coordinate: The largest coordinate that ``decode`` can return.
        score_thr: Scores up to this are ignored.
        nms_cfg: For which :func:`supports` holds.
        max_per_img: How many detections to return at the most; > 0.

    Returns:
        Boxes (k, 4), scores (k,) and labels (k,) int64 of the k <= ``max_per_img`` detections,
        by falling score.
    """
    num_classes = scores.shape[1]
    flat = scores.flatten()
    # NaN is not above any threshold, but would be the best of all for topk.
    flat = flat.masked_fill(~(flat > score_thr), -torch.inf)
    num_valid = int((flat > -torch.inf).sum())

    def boxes_of(indices: Tensor) -> Tensor:
        return decode(torch.div(indices, num_classes, rounding_mode="floor"), indices % num_classes)

    def select(k: int) -> Tensor:
        """The k best, all that tie with the last of them included, in the order of the index."""
        if k >= num_valid:
            return (flat > -torch.inf).nonzero().squeeze(1)
        return (flat >= flat.topk(k).values[-1]).nonzero().squeeze(1)

    top = GROWTH * max_per_img
    while True:
        indices = select(top)
        boxes, labels = boxes_of(indices), indices % num_classes
        if len(boxes) == 0:
            return boxes, flat[indices], labels
        # MMCV moves each category's boxes to a place of its own, by a step that depends on the
        # largest coordinate of all boxes. The sums are rounded, so the step decides last bits of
        # IoUs: it must be the very same.
        largest = boxes.max()
        if largest < max_coordinate and len(indices) < num_valid:
            largest = boxes_of(select(num_valid)).max()
        boxes_for_nms = boxes + (labels.to(boxes) * (largest + 1))[:, None]
        rank = flat[indices]
        if len(indices) < num_valid:
            # NMS sorts by score, and not stably; ranks leave it no choice among equal scores.
            order = rank.argsort(descending=True, stable=True)
            rank = torch.empty_like(boxes[:, 0])
            rank[order] = torch.arange(len(order), 0, -1, device=rank.device, dtype=rank.dtype)
        _, keep = nms(boxes_for_nms, rank, nms_cfg["iou_threshold"])
        if len(keep) >= max_per_img or len(indices) >= num_valid:
            keep = keep[:max_per_img]
            return boxes[keep], flat[indices][keep], labels[keep]
        top *= GROWTH
