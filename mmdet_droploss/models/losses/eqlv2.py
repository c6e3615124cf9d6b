"""MMDetection's EQLv2, for comparison: made to work in its bbox heads."""

from __future__ import annotations

from mmdet.models.losses import EQLV2Loss, accuracy
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class EQLV2BBoxLoss(EQLV2Loss):
    """:class:`mmdet.models.EQLV2Loss` that tells a bbox head what it needs.

    MMDetection's has all of it, but not under the names that its heads ask for: they would take the
    softmax of its sigmoid logits. As there, each process balances by its own gradients unless
    ``use_distributed=True``, and ``weight`` and ``avg_factor`` have no effect.

    Args:
        *args, **kwargs: Those of MMDetection's loss.
    """

    custom_cls_channels = True
    custom_activation = True
    custom_accuracy = True

    def get_cls_channels(self, num_classes: int) -> int:
        """The categories, and whether there is no object."""
        return self.get_channel_num(num_classes)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Top-1 accuracy in percent, background included.

        Args:
            cls_score: (N, C + 1) logits.
            labels: (N,) int64 in [0, C].
        """
        return {"acc": accuracy(cls_score, labels)}
