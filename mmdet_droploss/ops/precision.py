"""In which precision the operators compute."""

import torch
from torch import Tensor


def precise(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the first one's precision, but at least float32.

    So half precision and bfloat16 are rounded once, at the end. mmcv rounds every step, a box's
    coordinates among them.
    """
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return [tensor.to(dtype) for tensor in tensors]
