"""The operators by their definitions, in plain PyTorch, without torchvision and mmcv.

All are differentiable, so autograd gives the gradients to compare with. Shapes are those of
``mmcv.ops``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hat(position: Tensor, length: int) -> Tensor:
    """(..., length): bilinear weights of the pixels along one axis; none outside of it."""
    return (1 - (position[..., None] - torch.arange(length)).abs()).clamp(min=0)


def nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> list[int]:
    """Indices of the boxes that stay, the best first."""
    threshold = torch.tensor(threshold)
    left, kept = scores.argsort(descending=True, stable=True).tolist(), []
    while left:
        best, *rest = left
        kept.append(best)
        left = [i for i in rest if not iou(boxes[best], boxes[i], offset) > threshold]
    return kept


def soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    """Indices and lowered scores of the boxes that stay, the best first."""
    left = dict(enumerate(scores.tolist()))
    kept = []
    while left:
        best = max(left, key=left.get)
        kept.append((best, left.pop(best)))
        for i in list(left):
            overlap = float(iou(boxes[best], boxes[i], offset))
            if method == "gaussian":
                left[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                left[i] *= 1 - overlap if method == "linear" else 0
            if left[i] < min_score:
                del left[i]
    return [i for i, _ in kept], [score for _, score in kept]


def iou(one: Tensor, other: Tensor, offset: int) -> Tensor:
    """Of two boxes (4,)."""
    sides = torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2]) + offset
    both = sides.clamp(min=0).prod()
    areas = [(box[2:] - box[:2] + offset).prod() for box in (one, other)]
    return both / (areas[0] + areas[1] - both)


def roi_align(features, rois, size, scale, ratio, mode, aligned):
    """Samples of a regular grid in each bin, their mean or maximum."""
    height, width = features.shape[2:]
    pooled = []
    for roi in rois:
        start, end = roi[[2, 1]] * scale, roi[[4, 3]] * scale  # y, x
        extent = end - start if aligned else (end - start).clamp(min=1)
        start = start - 0.5 if aligned else start
        axes = []
        for i, length in enumerate((height, width)):
            grid = ratio or math.ceil(extent[i] / size[i])
            step = (torch.arange(size[i] * grid, dtype=roi.dtype) + 0.5) / grid
            place = start[i] + step * extent[i] / size[i]
            inside = (place >= -1) & (place <= length)
            axes.append(hat(place.clamp(0, length - 1), length) * inside[:, None])
        samples = torch.einsum("chw,ih,jw->cij", features[int(roi[0])], *axes)
        bins = samples.unflatten(2, (size[1], -1)).unflatten(1, (size[0], -1))
        pooled.append(bins.mean(dim=(2, 4)) if mode == "avg" else bins.amax(dim=(2, 4)))
    return torch.stack(pooled)


def roi_pool(features, rois, size, scale):
    """Maximum of the pixels that a bin touches; 0 without any."""
    pooled = features.new_zeros((len(rois), features.shape[1], *size))
    for n, roi in enumerate(rois):
        start, end = roi[[2, 1]] * scale, (roi[[4, 3]] + 1) * scale
        if (end <= start).any():
            continue
        side = (end - start) / torch.tensor(size)
        for y in range(size[0]):
            for x in range(size[1]):
                bin = torch.tensor([y, x])
                low = torch.floor(bin * side + start).clamp(min=0).long().tolist()
                high = torch.ceil((bin + 1) * side + start).clamp(min=0).long().tolist()
                pixels = features[int(roi[0]), :, low[0] : high[0], low[1] : high[1]]
                if pixels.numel():
                    pooled[n, :, y, x] = pixels.amax(dim=(1, 2))
    return pooled


def sigmoid_focal_loss(logits, target, gamma, alpha, weight):
    """(N, C)."""
    p = logits.sigmoid()
    terms = torch.where(
        target[:, None] == torch.arange(logits.shape[1]),
        -alpha * (1 - p) ** gamma * p.log(),
        -(1 - alpha) * p**gamma * (1 - p).log(),
    )
    return terms if weight is None else terms * weight[target][:, None]


def deform_conv(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    """Deformable convolution; without a mask version 1."""
    out_h, out_w = offset.shape[2:]
    tap_h, tap_w = weight.shape[2:]
    offset = offset.unflatten(1, (deform_groups, tap_h, tap_w, 2))
    y = torch.arange(out_h)[:, None] * stride[0] - padding[0]
    y = y + torch.arange(tap_h)[:, None, None, None] * dilation[0] + offset[:, :, :, :, 0]
    z = torch.arange(out_w) * stride[1] - padding[1]
    z = z + torch.arange(tap_w)[:, None, None] * dilation[1] + offset[:, :, :, :, 1]
    weights = hat(y, x.shape[2]), hat(z, x.shape[3])
    parts = x.unflatten(1, (deform_groups, -1))
    taps = torch.einsum("bgchw,bgijpqh,bgijpqw->bgcijpq", parts, *weights)
    if mask is not None:
        taps = taps * mask.unflatten(1, (deform_groups, tap_h, tap_w))[:, :, None]
    taps = taps.flatten(1, 2).unflatten(1, (groups, -1))
    kernels = weight.unflatten(0, (groups, -1))
    out = torch.einsum("bgcijpq,gocij->bgopq", taps, kernels).flatten(1, 2)
    return out if bias is None else out + bias[:, None, None]


def deformable_attention(value, shapes, places, weights):
    """(B, Q, heads * D)."""
    levels = value.split([h * w for h, w in shapes], dim=1)
    out = 0
    for i, ((height, width), level) in enumerate(zip(shapes, levels, strict=True)):
        y = hat(places[:, :, :, i, :, 1] * height - 0.5, height)
        x = hat(places[:, :, :, i, :, 0] * width - 0.5, width)
        image = level.unflatten(1, (height, width))
        out = out + torch.einsum("byxhd,bqhpy,bqhpx,bqhp->bqhd", image, y, x, weights[:, :, :, i])
    return out.flatten(2)
