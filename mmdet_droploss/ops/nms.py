"""Non-maximum suppression. Boxes are (x1, y1, x2, y2) in pixels."""

import torch
import torchvision  # noqa: F401  (its operators are in torch.ops from here on)
from torch import Tensor

from .precision import precise


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Keep the best of boxes that overlap.

    Args:
        boxes: (N, 4).
        scores: (N,).
        iou_threshold: A box goes if its IoU with a better one is above this.
        offset: 0, or 1 where a side is ``x2 - x1 + 1`` long.

    Returns:
        (K,) int64: indices of the boxes that stay, the best first.
    """
    boxes, scores = precise(boxes, scores)
    # mmcv's sort, so that equal scores come in the same order; torchvision's is another.
    order = scores.sort(descending=True).indices
    boxes = boxes[order]
    rank = torch.arange(len(boxes), 0, -1, dtype=boxes.dtype, device=boxes.device)
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    # mmcv's threshold is a float32, and torchvision's is not: an IoU of float32's 0.3 is above 0.3.
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return order[torch.ops.torchvision.nms(boxes, rank, threshold)]


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of boxes that overlap a better one. For tensors on the CPU, as mmcv's.

    Args:
        boxes: (N, 4).
        scores: (N,).
        dets: Out, (N, 5): the K boxes that stay, each with its lowered score, the best first.
        iou_threshold: For the methods 0 and 1.
        sigma: For method 2.
        min_score: A box goes when its score falls below this.
        method: A better box with overlap IoU multiplies a score by 0 where IoU >= iou_threshold
            (0), by 1 - IoU there (1), or by exp(-IoU^2 / sigma) (2).
        offset: 0, or 1 where a side is ``x2 - x1 + 1`` long.

    Returns:
        (K,) int64: indices of the boxes in ``dets``.
    """
    boxes, scores = precise(boxes, scores)
    areas = (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)
    left = torch.cat([boxes, scores[:, None], areas[:, None]], dim=1)
    indices = torch.arange(len(boxes))
    kept: list[int] = []
    while len(left):
        best = int(left[:, 4].argmax())
        box, area = left[best, :4].clone(), left[best, 5].clone()
        dets[len(kept)] = left[best, :5]
        kept.append(int(indices[best]))
        # The first takes the best one's place, which is the order that mmcv breaks ties in.
        left[best], indices[best] = left[0].clone(), indices[0].clone()
        left, indices = left[1:], indices[1:]

        sides = torch.minimum(left[:, 2:4], box[2:]) - torch.maximum(left[:, :2], box[:2]) + offset
        overlap = sides.clamp(min=0).prod(dim=1)
        # Boxes without area don't overlap; mmcv's method 2 makes their scores NaN.
        iou = (overlap / (area + left[:, 5] - overlap)).nan_to_num(0)
        if method == 2:
            # Rounded once, as C++'s exp: torch's of float32 is off by more.
            left[:, 4] *= torch.exp((-(iou * iou) / sigma).double()).to(left.dtype)
        else:
            left[:, 4] *= torch.where(iou >= iou_threshold, 1 - iou if method == 1 else 0.0, 1.0)

        stays = ~(left[:, 4] < min_score)
        order = torch.arange(len(left))
        number = int(stays.sum())
        # The last fill the gaps, as in mmcv.
        order[:number][~stays[:number]] = order[number:][stays[number:]].flip(0)
        left, indices = left[order[:number]], indices[order[:number]]
    return torch.tensor(kept, dtype=torch.int64)
