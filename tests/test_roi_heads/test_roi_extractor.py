"""Our RoIAlign's values and gradients are mmcv's."""

from __future__ import annotations

import mmcv.ops
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS

from mmdet_droploss.models.roi_heads import roi_extractor
from mmdet_droploss.models.roi_heads.roi_extractor import FastRoIExtractor, RoIAlign

PAIR = st.tuples(st.integers(1, 4), st.integers(1, 4))


def assert_same(features, rois, **options):
    """Compare outputs, and gradients of a random function of them."""
    found = []
    for kind in (mmcv.ops.RoIAlign, RoIAlign):
        leaf = features.clone().requires_grad_()
        output = kind(**options)(leaf, rois)
        factor = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
        (output * factor).sum().backward()
        found.append((output.detach(), leaf.grad))
    torch.testing.assert_close(found[1], found[0], check_stride=False)


@pytest.fixture
def no_way_back(monkeypatch):
    """Let it fail if mmcv does the work."""

    def forward(self, input, rois):
        raise AssertionError("mmcv's forward was called")

    return lambda: monkeypatch.setattr(mmcv.ops.RoIAlign, "forward", forward)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20)),
    count=st.integers(1, 6),
    output_size=PAIR,
    scale=st.sampled_from([1.0, 0.25, 0.0625]),
    sampling_ratio=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_random_boxes(seed, shape, count, output_size, scale, sampling_ratio, dtype):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(shape, generator=generator, dtype=dtype)
    # Of every size, in the map, across its borders and outside.
    extent = torch.tensor([shape[3], shape[2]]) / scale
    corners = (torch.rand(2, count, 2, generator=generator, dtype=dtype) * 2 - 0.5) * extent
    image = torch.randint(shape[0], (count, 1), generator=generator).to(dtype)
    rois = torch.cat([image, corners.amin(0), corners.amax(0)], 1)
    assert_same(
        features,
        rois,
        output_size=output_size,
        spatial_scale=scale,
        sampling_ratio=sampling_ratio,
    )


@given(
    corner=st.tuples(st.integers(-24, 48), st.integers(-24, 48)),
    extent=st.tuples(st.integers(0, 48), st.integers(0, 48)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    output_size=st.sampled_from([1, 2, 4, (4, 2)]),
    sampling_ratio=st.sampled_from([0, 1, 2, 4]),
)
def test_samples_on_cells_and_borders(corner, extent, size, output_size, sampling_ratio):
    # Halves and sample counts of a power of two: nothing is rounded, so a sample can lie exactly on
    # a cell, on the map's border, or on the last place that counts.
    torch.manual_seed(0)
    (x, y), (width, height) = corner, extent
    rois = torch.tensor([[0, x, y, x + width, y + height]]) / 2.0
    assert_same(
        torch.randn(1, 2, *size),
        rois,
        output_size=output_size,
        spatial_scale=0.5,
        sampling_ratio=sampling_ratio,
    )


def test_in_parts(monkeypatch):
    torch.manual_seed(0)
    features = torch.randn(2, 3, 12, 15)
    corner = torch.rand(20, 2) * 8
    image = torch.randint(2, (20, 1)).float()
    rois = torch.cat([image, corner, corner + torch.rand(20, 2) * 9], 1)
    layer = RoIAlign(output_size=3)
    whole = layer(features, rois)
    monkeypatch.setattr(roi_extractor, "MAX_CELLS", 50)
    assert layer(features, rois).equal(whole)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        (dict(pool_mode="max"), torch.float32),
        (dict(aligned=False), torch.float32),
        ({}, torch.float16),
    ],
    ids=["max", "not aligned", "half"],
)
def test_other_ways_are_mmcvs(options, dtype):
    torch.manual_seed(0)
    features = torch.randn(1, 2, 8, 8).to(dtype)
    rois = torch.tensor([[0, 1.3, 2.1, 6.7, 5.2]], dtype=dtype)
    theirs = mmcv.ops.RoIAlign(output_size=2, **options)(features, rois)
    assert RoIAlign(output_size=2, **options)(features, rois).equal(theirs)


def test_bfloat16_is_pooled_in_float32():
    """mmcv has no operator for it, and it would round boxes to whole pixels and more."""
    extractor = FastRoIExtractor(
        roi_layer=dict(type="RoIAlign", output_size=2), out_channels=3, featmap_strides=[4, 8]
    )
    maps = [torch.randn(1, 3, size, size).bfloat16().requires_grad_() for size in (40, 20)]
    rois = torch.tensor([[0, 1.3, 2.1, 33.7, 45.2], [0, 1.3, 2.1, 140.7, 151.2]])
    found = extractor(maps, rois)
    expected = extractor([level.float() for level in maps], rois)
    assert found.dtype == torch.bfloat16 and found.equal(expected.bfloat16())
    found.sum().backward()
    assert all(level.grad.dtype == torch.bfloat16 for level in maps)


def test_boxes_out_of_the_ordinary_are_left_to_mmcv(no_way_back):
    features = torch.randn(1, 2, 8, 8)
    long = torch.tensor([[0, -1000, 2, 1000, 5.0]])
    assert_same(features, long, output_size=2)
    no_way_back()
    RoIAlign(output_size=2)(features, long / 100)
    nan, inf = torch.nan, torch.inf
    odd = ([0, nan, 1, 2, 3], [0, 1, nan, 2, 3], [0, 1, 1, inf, 3], [0, 1, 3, 2, 2.0])
    for rois in (long, *(torch.tensor([box]) for box in odd)):
        with pytest.raises(AssertionError, match="mmcv's forward was called"):
            RoIAlign(output_size=2)(features, rois)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of mmcv's own assertion
def test_traced_layer_takes_other_boxes():
    torch.manual_seed(0)
    features = torch.randn(1, 2, 20, 20)
    small, large = torch.tensor([[0, 3, 3, 5, 5.0]]), torch.tensor([[0, 1, 2, 17, 19.0]] * 3)
    traced = torch.jit.trace(RoIAlign(output_size=2), (features, small))
    torch.testing.assert_close(traced(features, large), RoIAlign(output_size=2)(features, large))


@pytest.mark.parametrize("count", [0, 30])
@pytest.mark.parametrize("factor", [None, 1.5])
def test_extractor(count, factor, no_way_back):
    torch.manual_seed(0)
    feats = [torch.randn(2, 4, 64 // stride, 96 // stride) for stride in (4, 8, 16)]
    corner = torch.rand(count, 2) * 60
    image = torch.randint(2, (count, 1)).float()
    rois = torch.cat([image, corner, corner + 2 ** (torch.rand(count, 2) * 6)], 1)
    found = []
    for kind in ("SingleRoIExtractor", "FastRoIExtractor"):
        cfg = dict(
            type=kind,
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),
            out_channels=4,
            featmap_strides=[4, 8, 16],
            finest_scale=14,
        )
        extractor = MODELS.build(cfg)
        leaves = [feat.clone().requires_grad_() for feat in feats]
        if kind == "FastRoIExtractor":
            no_way_back()
        output = extractor(leaves, rois, factor)
        output.square().sum().backward()
        found.append((output.detach(), [leaf.grad for leaf in leaves]))
    assert found[1][0].shape == (count, 4, 7, 7)
    torch.testing.assert_close(found[1], found[0])


def test_extractor_with_another_layer():
    cfg = dict(
        type="FastRoIExtractor",
        roi_layer=dict(type="RoIPool", output_size=7),
        out_channels=4,
        featmap_strides=[4, 8],
    )
    assert [type(layer) for layer in MODELS.build(cfg).roi_layers] == [mmcv.ops.RoIPool] * 2
