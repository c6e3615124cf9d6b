"""RoIAlign and RoIPool. A RoI is the index of an image and a box (x1, y1, x2, y2) in its pixels."""

from typing import Any

import torch
import torchvision  # noqa: F401  (its operators are in torch.ops from here on)
from torch import Tensor

from .precision import precise

#: Elements that RoIPool gathers at a time: 64 MB of float32.
ELEMENTS = 1 << 24


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Average (``pool_mode`` 1) or maximum (0) of samples in the bins of each RoI.

    Args:
        input: (B, C, H, W).
        rois: (N, 5).
        output: Out, (N, C, aligned_height, aligned_width).
        argmax_y: Out, like ``output`` for the maximum, else unused: the row of the bin's sample.
        argmax_x: Out, likewise: its column. mmcv keeps the sample's place instead.
        aligned_height: Bins in y.
        aligned_width: Bins in x.
        spatial_scale: Pixels of the feature map in one of the image.
        sampling_ratio: Samples along each side of a bin; 0: one in each pixel of the feature map.
        pool_mode: 0 or 1.
        aligned: Whether a pixel's centre is at 0.5.

    Raises:
        ValueError: On a CPU, for a RoI that ends before it begins, if ``aligned``; as mmcv does.
    """
    if aligned and rois.device.type == "cpu" and bool((rois[:, 3:] < rois[:, 1:3]).any()):
        worst = rois[(rois[:, 3:] < rois[:, 1:3]).any(dim=1)][0].tolist()
        raise ValueError(f"a RoI must not end before it begins, but {worst[1:]} does")
    size = (aligned_height, aligned_width)
    features, boxes = precise(input, rois)
    if pool_mode == 1:
        args = (spatial_scale, *size, sampling_ratio, aligned)
        output.copy_(torch.ops.torchvision.roi_align(features, boxes, *args))
        return
    for some, grid in _samples_in_a_bin(boxes, size, spatial_scale, sampling_ratio, aligned):
        # Each sample in a bin of its own.
        args = (spatial_scale, size[0] * grid[0], size[1] * grid[1], 1, aligned)
        samples = torch.ops.torchvision.roi_align(features, boxes[some], *args)
        bins = samples.unflatten(3, (size[1], grid[1])).unflatten(2, (size[0], grid[0]))
        best = bins.transpose(3, 4).flatten(4).max(dim=4)
        output[some] = best.values.to(output.dtype)
        argmax_y[some] = (best.indices // grid[1]).to(argmax_y.dtype)
        argmax_x[some] = (best.indices % grid[1]).to(argmax_x.dtype)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    **sampling: Any,
) -> None:
    """Gradient of :func:`roi_align_forward`.

    Args:
        grad_output: (N, C, aligned_height, aligned_width).
        rois: As for :func:`roi_align_forward`.
        argmax_y: What that wrote.
        argmax_x: Likewise.
        grad_input: Out, (B, C, H, W).
        **sampling: ``aligned_height`` and what follows it there, by name.
    """
    size = (sampling["aligned_height"], sampling["aligned_width"])
    spatial_scale, sampling_ratio = sampling["spatial_scale"], sampling["sampling_ratio"]
    pool_mode, aligned = sampling["pool_mode"], sampling["aligned"]
    grad, boxes = precise(grad_output, rois)
    shape = grad_input.shape
    if pool_mode == 1:
        args = (spatial_scale, *size, *shape, sampling_ratio, aligned)
        grad_input.copy_(torch.ops.torchvision._roi_align_backward(grad, boxes, *args))
        return
    total = grad.new_zeros(shape)
    for some, grid in _samples_in_a_bin(boxes, size, spatial_scale, sampling_ratio, aligned):
        bins = grad.new_zeros((*grad[some].shape, grid[0] * grid[1]))
        best = argmax_y[some].long() * grid[1] + argmax_x[some].long()
        bins.scatter_(4, best[..., None], grad[some][..., None])
        samples = bins.unflatten(4, grid).transpose(3, 4).flatten(4, 5).flatten(2, 3)
        args = (spatial_scale, *samples.shape[2:], *shape, 1, aligned)
        total += torch.ops.torchvision._roi_align_backward(samples.contiguous(), boxes[some], *args)
    grad_input.copy_(total)


def _samples_in_a_bin(
    rois: Tensor, size: tuple[int, int], scale: float, sampling_ratio: int, aligned: bool
) -> list[tuple[Tensor, tuple[int, int]]]:
    """RoIs (indices) that have the same numbers of samples (y, x) in each of their bins."""
    if sampling_ratio > 0:
        return [(torch.arange(len(rois), device=rois.device), (sampling_ratio, sampling_ratio))]
    sides = (rois[:, [4, 3]] - rois[:, [2, 1]]) * scale
    if not aligned:
        sides = sides.clamp(min=1)
    # One at least: mmcv says -10000 where a box without extent has no sample.
    grids = torch.ceil(sides / sides.new_tensor(size)).clamp(min=1).long()
    kinds, kind = grids.unique(dim=0, return_inverse=True)
    return [((kind == i).nonzero()[:, 0], (y, x)) for i, (y, x) in enumerate(kinds.tolist())]


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Maximum of the pixels that the bins of each RoI touch.

    mmcv divides a RoI as it is, and its last pixel belongs to it; torchvision's operator rounds the
    RoI first and so gives other values. This one is written in PyTorch, by mmcv's definition.

    Args:
        input: (B, C, H, W).
        rois: (N, 5).
        output: Out, (N, C, pooled_height, pooled_width); 0 in a bin without pixels.
        argmax: Out, like ``output``, int32: the pixel ``y * W + x``, or -1.
        pooled_height: Bins in y.
        pooled_width: Bins in x.
        spatial_scale: Pixels of the feature map in one of the image.
    """
    features, boxes = precise(input, rois)
    height, width = features.shape[2:]
    xs = _pixels_of_bins(boxes[:, 1], boxes[:, 3], spatial_scale, pooled_width, width)
    ys = _pixels_of_bins(boxes[:, 2], boxes[:, 4], spatial_scale, pooled_height, height)
    in_a_bin = ys.shape[2] * xs.shape[2]
    at_once = max(1, ELEMENTS // max(1, output[:1].numel() * in_a_bin))
    for start in range(0, len(rois), at_once):
        part = slice(start, start + at_once)
        y, x = ys[part, :, None, :, None], xs[part, None, :, None, :]
        pixels = torch.where((y >= 0) & (x >= 0), y * width + x, -1).flatten(3)  # (n, ph, pw, S)
        images = features.flatten(2)[boxes[part, 0].long()]
        index = pixels.clamp(min=0).flatten(1)[:, None].expand(-1, images.shape[1], -1)
        values = images.gather(2, index).unflatten(2, pixels.shape[1:])
        empty = (pixels < 0)[:, None]
        best = values.masked_fill(empty, float("-inf")).max(dim=4)
        place = pixels[:, None].expand_as(values).gather(4, best.indices[..., None])[..., 0]
        output[part] = best.values.masked_fill(place < 0, 0).to(output.dtype)
        argmax[part] = place.to(argmax.dtype)


def _pixels_of_bins(start: Tensor, end: Tensor, scale: float, bins: int, length: int) -> Tensor:
    """(N, bins, S): the pixels that each bin touches along one side, -1 where there are no more."""
    start, end = start * scale, (end + 1) * scale
    number = torch.arange(bins, device=start.device)
    side = ((end - start) / bins)[:, None]
    first = torch.floor(number * side + start[:, None]).clamp(0, length)
    last = torch.ceil((number + 1) * side + start[:, None]).clamp(0, length)
    last = torch.where(side > 0, last, first)
    most = int((last - first).max().clamp(min=1)) if len(start) else 1
    pixels = first[..., None] + torch.arange(most, device=start.device)
    return torch.where(pixels < last[..., None], pixels, -1).long()


def roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, **bins: float
) -> None:
    """Gradient of :func:`roi_pool_forward`.

    Args:
        grad_output: (N, C, pooled_height, pooled_width).
        rois: (N, 5).
        argmax: What :func:`roi_pool_forward` wrote.
        grad_input: Out, (B, C, H, W).
        **bins: Unused, as ``argmax`` says it all.
    """
    (grad,) = precise(grad_output)
    total = grad.new_zeros(grad_input.shape)
    image = rois[:, 0].long()[:, None, None]
    channel = torch.arange(grad.shape[1], device=grad.device)[:, None]
    pixel = argmax.long().flatten(2)
    grad = grad.flatten(2).masked_fill(pixel < 0, 0)
    total.flatten(2).index_put_((image, channel, pixel.clamp(min=0)), grad, accumulate=True)
    grad_input.copy_(total)
