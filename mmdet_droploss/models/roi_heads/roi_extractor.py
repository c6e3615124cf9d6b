"""RoIAlign for a CPU, as one sparse sum.

RoIAlign's samples of a bin lie on a grid, and the bilinear weight of a cell is the product of one
weight along y and one along x. So a bin is a weighted sum over a rectangle of cells, whose weights
are those of two short axes: what ``embedding_bag`` computes, with vector instructions and all
threads, from feature maps that have the channels last. mmcv's loop does it value by value.
"""

from __future__ import annotations

import mmcv.ops
import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import Tensor, nn

#: Samples along one side of a bin beyond which mmcv takes over: a box that is not clipped to its
#: image can have any number.
MAX_SAMPLES = 64

#: Cells, of all bins together, that are listed at once. A listed cell takes about 80 bytes.
MAX_CELLS = 2**22


@MODELS.register_module()
class FastRoIExtractor(SingleRoIExtractor):
    """MMDetection's :class:`SingleRoIExtractor`, several times faster on a CPU.

    Its layers of type ``RoIAlign`` are :class:`RoIAlign`; on a GPU, and for layers of other types,
    nothing is different. The exception is bfloat16, for which mmcv has no operator: such features
    are pooled in float32, and the result is bfloat16 again.

    Args:
        *args, **kwargs: Those of :class:`SingleRoIExtractor`.
    """

    def build_roi_layers(
        self, layer_cfg: ConfigDict | dict, featmap_strides: list[int]
    ) -> nn.ModuleList:
        """One layer a feature map."""
        if layer_cfg["type"] != "RoIAlign":
            return super().build_roi_layers(layer_cfg, featmap_strides)
        options = {key: value for key, value in layer_cfg.items() if key != "type"}
        return nn.ModuleList(
            RoIAlign(spatial_scale=1 / stride, **options) for stride in featmap_strides
        )

    def forward(
        self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None
    ) -> Tensor:
        """The features of boxes; see :class:`SingleRoIExtractor`."""
        if feats[0].dtype != torch.bfloat16:
            return super().forward(feats, rois, roi_scale_factor)
        feats = tuple(level.float() for level in feats)
        return super().forward(feats, rois, roi_scale_factor).bfloat16()


class RoIAlign(mmcv.ops.RoIAlign):
    """mmcv's layer, whose values and gradients it gives, but for rounding.

    It takes mmcv's way on a GPU, for half precision, ``pool_mode='max'``, ``aligned=False`` and
    ``use_torchvision=True``, when it is traced (to export a model), and for boxes out of the
    ordinary, about which mmcv may complain.

    Args:
        *args, **kwargs: Those of :class:`mmcv.ops.RoIAlign`.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """The features of boxes.

        Args:
            input: (B, C, H, W) feature maps.
            rois: (n, 5), the index of the image and x1, y1, x2, y2 in its pixels.

        Returns:
            (n, C, h, w).
        """
        if not self._supports_sparse_sum(input) or rois.numel() == 0 or input.numel() == 0:
            return super().forward(input, rois)
        rois = rois.detach()
        start = rois[:, 1:3] * self.spatial_scale - 0.5  # x, y, in cells
        size = rois[:, 3:5] * self.spatial_scale - 0.5 - start
        bins = rois.new_tensor(self.output_size[::-1])
        bin_size = size / bins
        samples = (
            bin_size.ceil()
            if self.sampling_ratio <= 0
            else torch.full_like(size, self.sampling_ratio)
        )
        if not (size.min() >= 0 and samples.max() <= MAX_SAMPLES):  # not finite, or inside out
            return super().forward(input, rois)
        height, width = input.shape[2:]
        x, y = (
            bin_cells(start[:, i], bin_size[:, i], samples[:, i], self.output_size[1 - i], cells)
            for i, cells in enumerate((width, height))
        )
        return weighted_sums(input, rois[:, 0].long(), y, x)

    def _supports_sparse_sum(self, input: Tensor) -> bool:
        """Whether options and kind of values are those that the sparse sum is made for."""
        return (
            input.device.type == "cpu"
            and input.dtype in (torch.float32, torch.float64)
            and self.pool_mode == "avg"
            and self.aligned
            and not self.use_torchvision
            and not torch.jit.is_tracing()  # would keep this call's numbers of samples for all
        )


def bin_cells(
    start: Tensor, bin_size: Tensor, samples: Tensor, num_bins: int, num_cells: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The cells that boxes' bins average along one axis.

    Args:
        start: (n,) where the boxes begin, in cells.
        bin_size: (n,) in cells.
        samples: (n,) whole numbers >= 0, samples of a bin, evenly spread.
        num_bins: Bins of a box.
        num_cells: The map's size.

    Returns:
        Of each bin the first cell and the number of cells, (n, num_bins) int64, and their weights,
        (n, num_bins, K), of which the first so many count.
    """
    # In mmcv's order of operations, so that a sample next to a border falls on the same side of it.
    bin_start = start[:, None] + torch.arange(num_bins).to(start) * bin_size[:, None]
    number = torch.arange(max(int(samples.max()), 1)).to(start)
    spread = (number + 0.5) * bin_size[:, None] / samples[:, None]
    position = bin_start[:, :, None] + spread[:, None]
    counts = (number < samples[:, None])[:, None] & (position >= -1) & (position <= num_cells)
    position = position.clamp(0, num_cells - 1)
    first = position.where(counts, num_cells).amin(2).clamp(max=num_cells - 1).long()
    last = position.where(counts, 0).amax(2).ceil().long()
    count = (last - first + 1).clamp(min=0)
    cell = first[:, :, None] + torch.arange(max(int(count.max()), 1))
    near = (1 - (position[:, :, None] - cell[:, :, :, None]).abs()).clamp(min=0)
    weight = near.where(counts[:, :, None], 0).sum(3) / samples.clamp(min=1)[:, None, None]
    return first, count, weight


def weighted_sums(
    features: Tensor,
    image: Tensor,
    y: tuple[Tensor, Tensor, Tensor],
    x: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """The bins' sums over their rectangles of cells.

    Args:
        features: (B, C, H, W).
        image: (n,) int64 in [0, B).
        y: What :func:`bin_cells` returns for the rows.
        x: The same for the columns.

    Returns:
        (n, C, h, w).
    """
    height, width = features.shape[2:]
    table = features.permute(0, 2, 3, 1).contiguous().view(-1, features.shape[1])
    num_cells = int((y[1].sum(1) * x[1].sum(1)).sum())
    parts = zip(
        *(values.chunk(num_cells // MAX_CELLS + 1) for values in (image, *y, *x)), strict=True
    )
    sums = []
    for image_, y0, y_count, y_weight, x0, x_count, x_weight in parts:
        by_bin = (y_count[:, :, None] * x_count[:, None]).flatten()
        ends = by_bin.cumsum(0)
        bin_ = torch.repeat_interleave(by_bin)
        rank = torch.arange(len(bin_)) - (ends - by_bin)[bin_]
        h, w = y0.shape[1], x0.shape[1]
        row = bin_ // w  # of the boxes' bins along y
        column = bin_ // (h * w) * w + bin_ % w
        across = x_count.flatten()[column]
        dy = rank // across
        dx = rank - dy * across
        first = (image_[:, None] * height + y0).flatten() * width
        cell = first[row] + dy * width + x0.flatten()[column] + dx
        weight = y_weight.flatten(0, 1)[row, dy] * x_weight.flatten(0, 1)[column, dx]
        sums.append(
            F.embedding_bag(cell, table, ends - by_bin, mode="sum", per_sample_weights=weight)
        )
    found = torch.cat(sums).view(len(image), y[0].shape[1], x[0].shape[1], -1)
    return found.permute(0, 3, 1, 2)
