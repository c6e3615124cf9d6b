"""The mask head for large vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmdet.models.roi_heads import FCNMaskHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from torch import Tensor
from torch.nn.functional import grid_sample


class _Features(Tensor):
    """Features in the place of logits, which most RoI heads only hand on.

    Some read the logits by label themselves. The features have as many axes, so these heads would
    go on with channels in the place of categories. The features of each image, which RoI heads
    split off, refuse as well; what is computed from features is a plain tensor.
    """

    @classmethod
    def __torch_function__(
        cls,
        func: Callable,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Let an operation pass unless it takes channels for categories."""
        of_labels = func is Tensor.__getitem__ and isinstance(args[1], tuple)
        if of_labels or func is grid_sample:
            raise ValueError(
                "LargeVocabMaskHead computes the masks of each object's category only, but this "
                "RoI head reads those of all categories itself, as MaskScoringRoIHead and "
                "PointRendRoIHead do: use FCNMaskHead as its mask_head, or StandardRoIHead"
            )
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        return tuple(part.as_subclass(cls) for part in result) if func is Tensor.split else result


@MODELS.register_module()
class LargeVocabMaskHead(FCNMaskHead):
    """:class:`FCNMaskHead` that computes each object's mask for one category only.

    The masks of 300 detections for 1203 categories are 283 million logits, more than 1 GB, of which
    only those of the predicted categories are looked at; in training, only those of the proposals'
    ground-truth categories. So here the last layer, a 1 x 1 convolution, is applied with the filter
    of each object's category. Losses, masks, parameters and checkpoints are those of
    :class:`FCNMaskHead`.

    What ``forward`` returns are the features before that layer. ``StandardRoIHead`` hands them to
    the loss and to the prediction as they are; for a cascade use :class:`LargeVocabCascadeRoIHead`.
    A RoI head that reads the masks by label itself, as ``MaskScoringRoIHead`` and
    ``PointRendRoIHead`` do, gets a ``ValueError`` when it reads them: it needs ``FCNMaskHead``.
    With ``class_agnostic=True`` or a ``predictor_cfg`` of another kind nothing is different.

    Args:
        *args, **kwargs: Those of :class:`FCNMaskHead`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plain = self.predictor_cfg["type"] in ("Conv", "Conv2d")
        self.own_class_only = plain and not self.class_agnostic

    def forward(self, x: Tensor) -> Tensor:
        """Features of the objects.

        Args:
            x: (n, channels, h, w).

        Returns:
            (n, channels, H, W), for :meth:`own_logits`.
        """
        if not self.own_class_only:
            return super().forward(x)
        for conv in self.convs:
            x = conv(x)
        if self.upsample is not None:
            x = self.upsample(x)
            if self.upsample_method == "deconv":
                x = self.relu(x)
        return x.as_subclass(_Features)

    def own_logits(self, features: Tensor, labels: Tensor) -> Tensor:
        """The mask logits of each object for its category.

        Args:
            features: (n, channels, H, W), what :meth:`forward` returns.
            labels: (n,) int64, ground-truth categories in training, predicted ones in testing.

        Returns:
            (n, 1, H, W).
        """
        weight = self.conv_logits.weight[labels].flatten(1)
        logits = torch.bmm(weight[:, None], features.flatten(2))
        logits = logits + self.conv_logits.bias[labels][:, None, None]
        return logits.view(len(features), 1, *features.shape[2:])

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """The mask loss; see :class:`FCNMaskHead`. ``mask_preds`` is what ``forward`` gives."""
        if not self.own_class_only:
            return super().loss_and_target(
                mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg
            )
        targets = self.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        labels = torch.cat([result.pos_gt_labels for result in sampling_results])
        logits = self.own_logits(mask_preds, labels)
        if len(logits) == 0:
            loss = logits.sum()
        else:
            loss = self.loss_mask(logits, targets, torch.zeros_like(labels))
        return dict(loss_mask=dict(loss_mask=loss), mask_targets=targets)

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor:
        """Masks of an image; see :class:`FCNMaskHead`.

        Args:
            mask_preds: What :meth:`forward` returns or, with ``activate_map``, (n, 1, H, W)
                probabilities for the objects' categories, as an array.
            bboxes: (n, 4), in the input's scale; brought to the original's if ``rescale``.
            labels: (n,) int64.
            img_meta: Information about the image.
            rcnn_test_cfg: With ``mask_thr_binary``.
            rescale: Whether the masks are wanted in the size of the original image.
            activate_map: Whether the masks are probabilities already.

        Returns:
            (n, height, width), bool, or uint8 from 0 to 255 if ``mask_thr_binary`` is below 0.

        Raises:
            ValueError: If ``activate_map`` is given with masks of several categories.
        """
        if self.own_class_only:
            if not activate_map:
                mask_preds = self.own_logits(mask_preds, labels)
            elif mask_preds.shape[1] != 1:
                raise ValueError(
                    f"LargeVocabMaskHead got mask_preds of shape {tuple(mask_preds.shape)} as "
                    f"probabilities, but it needs (n, 1, H, W), those for the objects' "
                    f"categories: in a cascade, use LargeVocabCascadeRoIHead, not CascadeRoIHead"
                )
            labels = torch.zeros_like(labels)  # of the one mask that there is
        return super()._predict_by_feat_single(
            mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale, activate_map
        )
