"""Deformable convolution and attention.

``geometry`` is what mmcv passes by name: kernel size, stride, padding, dilation and groups.
"""

import torch
import torchvision  # noqa: F401  (its operators are in torch.ops from here on)
from torch import Tensor

from .precision import precise

#: The geometry in torchvision's order, by mmcv's names for version 1 and version 2.
V1 = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
V2 = (
    *("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
    *("group", "deformable_group"),
)

#: Input, weight, offset, mask and bias.
Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: int,
) -> None:
    """Deformable convolution (Dai et al., ICCV 2017).

    Args:
        input: (B, C, H, W).
        weight: (C', C / group, kH, kW).
        offset: (B, 2 * deformable_group * kH * kW, H', W') in pixels, y before x.
        output: Out, (B, C', H', W').
        columns: Unused, mmcv's scratch space.
        ones: Unused, likewise.
        **geometry: :data:`V1`, and what torchvision does not need.
    """
    output.copy_(_forward((input, weight, offset, None, None), [geometry[name] for name in V1]))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Gradients of :func:`deform_conv_forward` for ``input`` and ``offset``.

    ``gradInput`` and ``gradOffset`` are out. torchvision computes all gradients at once, and mmcv
    asks for that of the weight in another call, so version 1 computes them twice.
    """
    values = [geometry[name] for name in V1]
    grads = _backward(gradOutput, (input, weight, offset, None, None), values)
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **geometry: int,
) -> None:
    """Write ``scale`` times the gradient for ``weight`` into ``gradWeight``."""
    values = [geometry[name] for name in V1]
    # The gradient for the weight does not depend on the weight, only on its shape.
    grads = _backward(gradOutput, (input, gradWeight, offset, None, None), values)
    gradWeight.copy_(scale * grads[1])


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Deformable convolution, version 2 (Zhu et al., CVPR 2019): each sample has a weight.

    Args:
        input: As for :func:`deform_conv_forward`; so are ``weight``, ``offset`` and ``output``.
        weight: As there.
        bias: (C',), or anything without ``with_bias``.
        ones: Unused.
        offset: As there.
        mask: (B, deformable_group * kernel_h * kernel_w, H', W'), the samples' weights.
        output: Out.
        columns: Unused.
        with_bias: Whether there is a bias.
        **geometry: :data:`V2`, and what torchvision does not need.
    """
    values = [geometry[name] for name in V2]
    output.copy_(_forward((input, weight, offset, mask, bias if with_bias else None), values))


def modulated_deform_conv_backward(*tensors: Tensor, with_bias: bool, **geometry: int) -> None:
    """Gradients of :func:`modulated_deform_conv_forward`.

    Args:
        *tensors: Input, weight, bias, ones, offset, mask and columns as there; out, the gradients
            of input, weight, bias (if there is one), offset and mask; and that of the output.
        with_bias: As there.
        **geometry: As there.
    """
    input, weight, bias, _, offset, mask, _, *out, grad_output = tensors
    grad_input, grad_weight, grad_bias, grad_offset, grad_mask = out
    values = [geometry[name] for name in V2]
    inputs = (input, weight, offset, mask, bias if with_bias else None)
    grads = _backward(grad_output, inputs, values)
    targets = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)
    for target, grad in zip(targets[: 4 + with_bias], grads[: 4 + with_bias], strict=True):
        target.copy_(grad)


def _forward(inputs: Inputs, geometry: list[int]) -> Tensor:
    uses_mask = inputs[3] is not None
    return torch.ops.torchvision.deform_conv2d(*_in_full(*inputs), *geometry, uses_mask)


def _backward(grad_output: Tensor, inputs: Inputs, geometry: list[int]) -> tuple[Tensor, ...]:
    """Gradients of the inputs."""
    tensors = precise(grad_output, *_in_full(*inputs))
    uses_mask = inputs[3] is not None
    return torch.ops.torchvision._deform_conv2d_backward(*tensors, *geometry, uses_mask)


def _in_full(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """What torchvision takes: without a mask or a bias, something in its place."""
    mask = input.new_zeros((len(input), 1)) if mask is None else mask
    bias = input.new_zeros(len(weight)) if bias is None else bias
    return precise(input, weight, offset, mask, bias)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al., ICLR 2021), by mmcv's version in PyTorch.

    Args:
        value: (B, K, heads, D), the pixels of all levels, one level after the other.
        value_spatial_shapes: (levels, 2) int64, height and width.
        value_level_start_index: Unused.
        sampling_locations: (B, Q, heads, levels, points, 2), x and y, from 0 to 1 in the image.
        attention_weights: (B, Q, heads, levels, points).
        im2col_step: Unused.

    Returns:
        (B, Q, heads * D).
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    values, places, weights = precise(value, sampling_locations, attention_weights)
    output = multi_scale_deformable_attn_pytorch(values, value_spatial_shapes, places, weights)
    return output.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients of :func:`ms_deform_attn_forward`: the three arguments before the last are out."""
    inputs = [t.detach().requires_grad_() for t in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        values, places, weights = inputs
        output = ms_deform_attn_forward(
            values, value_spatial_shapes, value_level_start_index, places, weights, im2col_step
        )
    grads = torch.autograd.grad(output, inputs, grad_output)
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)
