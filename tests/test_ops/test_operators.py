"""Torchvision's operators as mmcv calls them: values and gradients are those of the definitions.

Where this mmcv has compiled operators, they are compared with these as well.
"""

from __future__ import annotations

import sys

import mmcv.ops
import operator_reference as reference
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

from mmdet_droploss.ops import extension, is_compiled

COMPILED = pytest.mark.skipif(
    not is_compiled(),
    reason="this mmcv has no compiled operators: bash tools/run_tests.sh --stack compiled",
)
SEEDS = pytest.mark.parametrize("seed", range(3))


def compare(actual, expected, inputs, dtype=torch.float64):
    """Values of two functions of ``inputs``, and gradients of a random sum of them."""
    found = []
    for function in (actual, expected):
        # mmcv's computes in this precision, the definition always in double.
        kind = dtype if function is actual else torch.float64
        leaves = [i.detach().to(dtype).to(kind).requires_grad_() for i in inputs]
        output = function(*leaves)
        factor = torch.linspace(-1, 1, output.numel()).view(output.shape).to(dtype).to(kind)
        gradients = torch.autograd.grad((output * factor).sum(), leaves)
        found.append([output.detach(), *gradients])
    for one, other in zip(*found, strict=True):
        assert one.dtype == dtype
        # In half precision the layers around the operators round a few times more.
        eps = torch.finfo(dtype).eps * (4 if dtype in (torch.float16, torch.bfloat16) else 2000)
        scale = float(other.abs().max())
        torch.testing.assert_close(one.to(other.dtype), other, rtol=eps, atol=eps * scale)


def some_boxes(seed, count=40, size=30):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * size
    extent = torch.rand(count, 2, generator=generator) * size / 2
    return torch.cat([corner, corner + extent], 1), torch.rand(count, generator=generator)


def some_rois(seed, images, count=12, size=40.0):
    """Inside an image, across its borders and outside, in double."""
    generator = torch.Generator().manual_seed(seed)
    corners = (torch.rand(2, count, 2, generator=generator) * 1.6 - 0.3).double() * size
    image = torch.randint(images, (count, 1), generator=generator).double()
    return torch.cat([image, corners.amin(0), corners.amax(0)], 1)


class TestNonMaximumSuppression:
    @SEEDS
    @pytest.mark.parametrize("offset", [0, 1])
    @pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
    def test_nms(self, ours, seed, threshold, offset):
        boxes, scores = some_boxes(seed)
        if seed == 2:  # on a grid: overlaps at the threshold
            boxes = boxes.round()
        dets, kept = mmcv.ops.nms(boxes, scores, threshold, offset=offset)
        assert kept.tolist() == reference.nms(boxes, scores, threshold, offset)
        assert dets.equal(torch.cat([boxes, scores[:, None]], 1)[kept])

    @pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6, 0.7])
    def test_a_box_at_the_threshold_stays(self, ours, threshold):
        boxes = torch.tensor([[0, 0, 10, 1], [0, 0, 10 * threshold, 1.0]])
        assert len(mmcv.ops.nms(boxes, torch.tensor([0.9, 0.8]), threshold)[1]) == 2

    def test_no_box(self, ours):
        assert mmcv.ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].shape == (0,)
        assert mmcv.ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))[1].shape == (0,)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, ours, dtype):
        boxes, scores = (tensor.to(dtype) for tensor in some_boxes(0))
        kept = mmcv.ops.nms(boxes, scores, 0.5)[1]
        assert kept.tolist() == reference.nms(boxes.float(), scores.float(), 0.5, 0)

    @pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
    def test_soft_nms_of_boxes_without_area(self, ours, method):
        boxes, scores = torch.tensor([[3, 1, 3, 1.0]] * 2), torch.tensor([0.9, 0.5])
        dets, kept = mmcv.ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method)
        assert kept.tolist() == [0, 1]
        assert dets[:, 4].equal(scores)

    @SEEDS
    @pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
    @pytest.mark.parametrize("offset", [0, 1])
    def test_soft_nms(self, ours, seed, method, offset):
        boxes, scores = some_boxes(seed)
        options = (0.3, 0.5, 0.05, method, offset)
        dets, kept = mmcv.ops.soft_nms(boxes, scores, *options)
        expected, lowered = reference.soft_nms(boxes, scores, *options)
        assert kept.tolist() == expected
        torch.testing.assert_close(dets[:, 4], torch.tensor(lowered))
        assert dets[:, :4].equal(boxes[kept])


class TestRoIs:
    @SEEDS
    @pytest.mark.parametrize("aligned", [True, False])
    @pytest.mark.parametrize("ratio", [0, 2])
    @pytest.mark.parametrize("mode", ["avg", "max"])
    def test_roi_align(self, ours, seed, mode, ratio, aligned):
        features, rois = torch.randn(2, 3, 12, 9), some_rois(seed, 2)
        options = ((3, 2), 0.25, ratio, mode, aligned)
        compare(
            lambda x: mmcv.ops.roi_align(x, rois, *options),
            lambda x: reference.roi_align(x, rois, *options),
            [features],
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("mode", ["avg", "max"])
    def test_roi_align_in_other_precisions(self, ours, mode, dtype):
        rois = some_rois(0, 2).to(dtype)
        compare(
            lambda x: mmcv.ops.roi_align(x, rois, (3, 2), 0.25, 2, mode, True),
            lambda x: reference.roi_align(x, rois.double(), (3, 2), 0.25, 2, mode, True),
            [torch.randn(2, 3, 12, 9)],
            dtype,
        )

    def test_a_box_inside_out_is_an_error(self, ours):
        rois = torch.tensor([[0, 1, 1, 4, 4], [0, 5, 1, 2, 3.0]])
        with pytest.raises(ValueError, match=r"before it begins, but \[5.0, 1.0, 2.0, 3.0\] does"):
            mmcv.ops.roi_align(torch.zeros(1, 1, 8, 8), rois, 2)

    def test_no_box(self, ours):
        features = torch.zeros(1, 3, 8, 8, requires_grad=True)
        none = torch.zeros(0, 5)
        for mode in ("avg", "max"):
            pooled = mmcv.ops.roi_align(features, none, 2, 1.0, 0, mode, True)
            assert pooled.shape == (0, 3, 2, 2)
            pooled.sum().backward()
        pooled = mmcv.ops.roi_pool(features, none, 2)
        assert pooled.shape == (0, 3, 2, 2)
        pooled.sum().backward()
        assert not features.grad.any()

    @SEEDS
    @pytest.mark.parametrize("at_once", [1 << 24, 200])
    def test_roi_pool(self, ours, monkeypatch, seed, at_once):
        monkeypatch.setattr("mmdet_droploss.ops.roi_pooling.ELEMENTS", at_once)
        rois = some_rois(seed, 2)
        rois[0, 3] = rois[0, 1] - 9  # ends before it begins: 0
        if seed == 2:
            rois = rois.round()
        compare(
            lambda x: mmcv.ops.roi_pool(x, rois, (3, 2), 0.25),
            lambda x: reference.roi_pool(x, rois, (3, 2), 0.25),
            [torch.randn(2, 3, 12, 9)],
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_focal_loss(ours, weighted, dtype):
    logits, target = torch.randn(20, 4) * 3, torch.randint(4 if weighted else 5, (20,))
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    compare(
        lambda x: mmcv.ops.sigmoid_focal_loss(
            x, target, 2.0, 0.25, weight.to(x) if weighted else None, "none"
        ),
        lambda x: reference.sigmoid_focal_loss(x, target, 2.0, 0.25, weight),
        [logits],
        dtype,
    )


def test_sigmoid_focal_loss_of_large_logits(ours):
    """Where the sigmoid of float32 is 0 or 1."""
    logits = torch.tensor([[40.0, -40.0]], requires_grad=True)
    loss = mmcv.ops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, "sum")
    loss.backward()
    assert loss.item() == pytest.approx(0.75 * 40 + 0.25 * 40)
    torch.testing.assert_close(logits.grad, torch.tensor([[0.75, -0.25]]))


GEOMETRIES = pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "deform_groups"),
    [
        ((1, 1), (1, 1), (1, 1), 1, 1),
        ((2, 1), (0, 2), (1, 2), 1, 2),
        ((1, 2), (2, 1), (2, 1), 2, 1),
        ((1, 1), (1, 0), (1, 1), 4, 4),
    ],
)


def deformable_inputs(deform_groups, taps, geometry):
    """Input, offset, mask and weight of a deformable convolution."""
    stride, padding, dilation, groups = geometry
    x, weight = torch.randn(2, 4, 7, 8), torch.randn(4, 4 // groups, *taps)
    size = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (taps[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
    number = deform_groups * taps[0] * taps[1]
    # Between the pixels: on one, the gradient is that of either side.
    shape = (2, 2 * number, *size)
    offset = torch.randint(-3, 3, shape) + 0.2 + 0.6 * torch.rand(shape)
    return x, offset, torch.rand(2, number, *size), weight


class TestDeformable:
    @GEOMETRIES
    def test_version_1(self, ours, stride, padding, dilation, groups, deform_groups):
        geometry = (stride, padding, dilation, groups)
        x, offset, _, weight = deformable_inputs(deform_groups, (3, 2), geometry)
        compare(
            lambda *i: mmcv.ops.deform_conv2d(*i, *geometry, deform_groups),
            lambda x, o, w: reference.deform_conv(x, o, None, w, None, *geometry, deform_groups),
            [x, offset, weight],
        )

    def test_version_1_of_a_frozen_input(self, ours):
        """mmcv asks for the weight's gradient alone."""
        x, offset, _, weight = deformable_inputs(1, (3, 3), ((1, 1), (1, 1), (1, 1), 1))
        x, offset = x.double(), offset.double()
        compare(
            lambda w: mmcv.ops.deform_conv2d(x, offset, w, 1, 1),
            lambda w: reference.deform_conv(x, offset, None, w, None, (1, 1), (1, 1), (1, 1), 1, 1),
            [weight],
        )

    @GEOMETRIES
    @pytest.mark.parametrize("biased", [False, True])
    def test_version_2(self, ours, stride, padding, dilation, groups, deform_groups, biased):
        geometry = (stride, padding, dilation, groups)
        inputs = list(deformable_inputs(deform_groups, (2, 3), geometry))
        bias = [torch.randn(4)] if biased else []

        def of_mmcv(x, o, m, w, b=None):
            return mmcv.ops.modulated_deform_conv2d(x, o, m, w, b, *geometry, deform_groups)

        def by_definition(x, o, m, w, b=None):
            return reference.deform_conv(x, o, m, w, b, *geometry, deform_groups)

        compare(of_mmcv, by_definition, inputs + bias)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_other_precisions(self, ours, dtype):
        square = ((1, 1), (1, 1), (1, 1), 1)
        x, offset, mask, weight = deformable_inputs(1, (3, 3), square)
        compare(
            lambda *i: mmcv.ops.modulated_deform_conv2d(*i, torch.zeros(4), *square, 1),
            lambda x, o, m, w: reference.deform_conv(x, o, m, w, None, *square, 1),
            [x, offset, mask, weight],
            dtype,
        )

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
    def test_attention(self, ours, dtype):
        shapes = [(4, 5), (2, 3)]
        value = torch.randn(2, sum(h * w for h, w in shapes), 2, 4)
        places = torch.rand(2, 6, 2, 2, 3, 2) * 1.4 - 0.2
        sizes = torch.tensor(shapes)
        compare(
            lambda v, p, w: MultiScaleDeformableAttnFunction.apply(
                v, sizes, torch.tensor([0, 20]), p, w, 64
            ),
            lambda v, p, w: reference.deformable_attention(v, shapes, p, w),
            [value, places, torch.rand(2, 6, 2, 2, 3)],
            dtype,
        )


def test_other_operators_say_which_they_are(ours):
    message = "mmcv's operator nms_match is called.*tools/misc/build_mmcv.sh"
    with pytest.raises(NotImplementedError, match=message):
        mmcv.ops.nms_match(torch.rand(3, 5), 0.5)


# ---- compiled operators --------------------------------------------------------------------------


def both(monkeypatch, function, *inputs):
    """Outputs and gradients with mmcv's compiled operators, and with ours."""
    found = []
    for module in (sys.modules["mmcv._ext"], extension):
        with monkeypatch.context() as patch:
            for name in ("nms", "roi_align", "deform_conv", "modulated_deform_conv"):
                patch.setattr(sys.modules[f"mmcv.ops.{name}"], "ext_module", module)
            leaves = [i.clone().requires_grad_(i.is_floating_point()) for i in inputs]
            output = function(*leaves)
            factor = torch.linspace(-1, 1, output.numel()).view(output.shape).to(output)
            (output * factor).sum().backward()
            found.append([output.detach(), *(leaf.grad for leaf in leaves)])
    return found


@COMPILED
class TestAgainstCompiled:
    @pytest.mark.parametrize("offset", [0, 1])
    def test_nms_the_same_indices(self, monkeypatch, offset):
        for seed in range(60):
            boxes, scores = some_boxes(seed, count=200)
            if seed % 2:  # whole numbers: many overlaps at a threshold, many equal scores
                boxes, scores = boxes.round(), (scores * 20).round() / 20
            threshold = [0.0, 0.1, 0.3, 0.5, 0.6, 0.7][seed % 6]
            args = dict(iou_threshold=threshold, offset=offset)
            compiled = sys.modules["mmcv._ext"].nms(boxes, scores, **args)
            assert extension.nms(boxes, scores, **args).equal(compiled)

    @pytest.mark.parametrize("method", [0, 1, 2])
    @pytest.mark.parametrize("offset", [0, 1])
    def test_soft_nms_the_same_indices(self, method, offset):
        for seed in range(20):
            boxes, scores = some_boxes(seed)
            if seed % 2:
                boxes, scores = boxes.round(), (scores * 9).round() / 9
                boxes[:, 2:] += 1  # mmcv gives NaN for two boxes without area
            found = []
            for module in (sys.modules["mmcv._ext"], extension):
                dets = torch.empty(len(boxes), 5)
                kept = module.softnms(boxes, scores, dets, 0.3, 0.5, 1e-3, method, offset)
                found.append((kept, dets[: len(kept)]))
            assert found[0][0].equal(found[1][0])
            torch.testing.assert_close(found[1][1], found[0][1])

    @SEEDS
    @pytest.mark.parametrize("aligned", [True, False])
    @pytest.mark.parametrize("ratio", [0, 1, 2])
    @pytest.mark.parametrize("mode", ["avg", "max"])
    def test_roi_align(self, monkeypatch, seed, mode, ratio, aligned):
        features, rois = torch.randn(2, 3, 12, 9), some_rois(seed, 2).float()
        compiled, own = both(
            monkeypatch,
            lambda x: mmcv.ops.roi_align(x, rois, (3, 2), 0.25, ratio, mode, aligned),
            features,
        )
        torch.testing.assert_close(own, compiled)

    @GEOMETRIES
    def test_deformable(self, monkeypatch, stride, padding, dilation, groups, deform_groups):
        geometry = (stride, padding, dilation, groups, deform_groups)
        x, offset, mask, weight = deformable_inputs(deform_groups, (3, 3), geometry[:4])
        compiled, own = both(
            monkeypatch, lambda *i: mmcv.ops.deform_conv2d(*i, *geometry), x, offset, weight
        )
        torch.testing.assert_close(own, compiled, rtol=1e-4, atol=1e-4)
        inputs = (x, offset, mask, weight, torch.randn(4))
        compiled, own = both(
            monkeypatch, lambda *i: mmcv.ops.modulated_deform_conv2d(*i, *geometry), *inputs
        )
        torch.testing.assert_close(own, compiled, rtol=1e-4, atol=1e-4)
