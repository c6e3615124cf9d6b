"""MMDetection's double head, made to ask the loss how many outputs it needs."""

from __future__ import annotations

from typing import Any

from mmdet.models.roi_heads.bbox_heads import DoubleConvFCBBoxHead
from mmdet.registry import MODELS
from torch import nn


@MODELS.register_module()
class CustomLossDoubleConvFCBBoxHead(DoubleConvFCBBoxHead):
    """:class:`mmdet.models.DoubleConvFCBBoxHead` for losses that bring their own outputs.

    MMDetection's makes ``num_classes + 1`` outputs whatever the loss says, unlike its other heads.
    With a softmax loss nothing is different.

    Args:
        *args, **kwargs: Those of MMDetection's head.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.custom_cls_channels:
            outputs = self.loss_cls.get_cls_channels(self.num_classes)
            self.fc_cls = nn.Linear(self.fc_out_channels, outputs)
