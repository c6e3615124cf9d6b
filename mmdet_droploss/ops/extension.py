"""What Python loads as ``mmcv._ext`` where mmcv has none: see :mod:`mmdet_droploss.ops`.

Names, arguments and results are those of mmcv's C++ functions. Most of them write into tensors that
the caller made, "out" in their descriptions, and return nothing. ``mmcv.ops`` calls them from its
autograd functions, so each gradient is a function of its own here as well.
"""

from collections.abc import Callable
from typing import NoReturn

import torchvision

from mmdet_droploss.ops.deformable import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
    ms_deform_attn_backward,
    ms_deform_attn_forward,
)
from mmdet_droploss.ops.focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
)
from mmdet_droploss.ops.nms import nms, softnms
from mmdet_droploss.ops.roi_pooling import (
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)

__all__ = [
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "nms",
    "roi_align_backward",
    "roi_align_forward",
    "roi_pool_backward",
    "roi_pool_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softnms",
]


def get_compiler_version() -> str:
    """What mmcv's ``collect_env`` prints."""
    return f"none: operators of torchvision {torchvision.__version__}"


def get_compiling_cuda_version() -> str:
    """What mmcv's ``collect_env`` prints."""
    return "none"


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """An operator that is not here: mmcv may load it, but calling it is an error."""
    if name.startswith("__"):
        raise AttributeError(name)

    def only_compiled(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f"mmcv's operator {name} is called, which this mmcv has not compiled, and torchvision, "
            "whose operators are used instead, has none like it. To compile mmcv for this torch: "
            "bash tools/misc/build_mmcv.sh in a clone of mmdet_droploss"
        )

    return only_compiled
