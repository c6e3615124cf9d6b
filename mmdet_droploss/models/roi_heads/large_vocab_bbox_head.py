"""The bbox head for large vocabularies."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.layers import multiclass_nms
from mmdet.models.roi_heads import Shared2FCBBoxHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor, scale_boxes
from mmengine.config import ConfigDict
from mmengine.model import bias_init_with_prob
from mmengine.structures import InstanceData
from torch import Tensor

from ..losses import LongTailLoss
from ..losses.arguments import check_loss_arguments
from .topk_nms import topk_multiclass_nms, topk_nms_is_exact

#: Proposals that are looked at first for a box that reaches the image's border.
NUM_BORDER_PROPOSALS = 16


@MODELS.register_module()
class LargeVocabBBoxHead(Shared2FCBBoxHead):
    """:class:`Shared2FCBBoxHead` that starts calmly and tests fast with a thousand categories.

    - The classifier's bias starts at -log((1 - pi) / pi), so that every sigmoid score starts at the
      prior pi. With a bias of 0, 1203 sigmoids at 0.5 make a loss in the hundreds.
    - Post-processing decodes and suppresses only the boxes that can be among the results
      (:func:`topk_multiclass_nms`), and returns what :class:`Shared2FCBBoxHead` does.

    Args:
        prior_prob: pi in (0, 1). It has no effect on a softmax classifier, nor if ``init_cfg`` is
            given.
        *args, init_cfg, **kwargs: Those of :class:`Shared2FCBBoxHead`.

    Raises:
        ValueError: If ``prior_prob`` is out of range.
        TypeError: If ``loss_cls`` is given arguments that it does not have.
    """

    def __init__(
        self,
        *args: Any,
        prior_prob: float = 0.001,
        init_cfg: dict | list[dict] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(prior_prob, (int, float)) or not 0 < prior_prob < 1:
            raise ValueError(f"prior_prob must lie in (0, 1), but it is {prior_prob!r}")
        check_loss_arguments(kwargs.get("loss_cls"))
        super().__init__(*args, init_cfg=init_cfg, **kwargs)
        if init_cfg is None:
            for cfg in self.init_cfg:
                if cfg.get("override") == dict(name="fc_cls"):
                    cfg["bias"] = bias_init_with_prob(prior_prob)

    def loss(
        self, cls_score: Tensor, bbox_pred: Tensor, rois: Tensor, *args: Any, **kwargs: Any
    ) -> dict:
        """As in :class:`BBoxHead`, but the classification loss is there for an empty batch, too.

        Without it a process with no proposals would leave the others waiting for its part of the
        gradients, and of ``DropLoss``'s synchronised statistics.
        """
        losses = super().loss(cls_score, bbox_pred, rois, *args, **kwargs)
        is_ours = isinstance(self.loss_cls, LongTailLoss)
        if is_ours and cls_score is not None and "loss_cls" not in losses:
            losses["loss_cls"] = self.loss_cls(cls_score, cls_score.new_zeros(0).long())
        return losses

    def get_scores(self, cls_score: Tensor) -> Tensor:
        """The classifier's scores.

        Args:
            cls_score: (n, outputs), its logits.

        Returns:
            (n, C + 1), the last column that of background.
        """
        if self.custom_cls_channels:
            return self.loss_cls.get_activation(cls_score)
        return F.softmax(cls_score, dim=-1)

    def _predict_by_feat_single(
        self,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor,
        img_meta: dict,
        rescale: bool = False,
        rcnn_test_cfg: ConfigDict | None = None,
    ) -> InstanceData:
        """Turn one image's outputs into detections; see :class:`BBoxHead`."""
        if len(roi) == 0 or bbox_pred is None or self.bbox_coder.encode_size != 4:
            return super()._predict_by_feat_single(
                roi, cls_score, bbox_pred, img_meta, rescale, rcnn_test_cfg
            )
        return self.predict_from_scores(
            roi, self.get_scores(cls_score), bbox_pred, img_meta, rescale, rcnn_test_cfg
        )

    def predict_from_scores(
        self,
        roi: Tensor,
        scores: Tensor,
        bbox_pred: Tensor,
        img_meta: dict,
        rescale: bool = False,
        rcnn_test_cfg: ConfigDict | None = None,
    ) -> InstanceData:
        """Turn one image's scores and box deltas into detections.

        The scores may be others than this head's own, as the mean of a cascade's stages.

        Args:
            roi: (n, 5), the boxes that the deltas belong to, with the index of the image.
            scores: (n, C + 1), after the activation; the last column is background.
            bbox_pred: (n, 4) or (n, 4 * C).
            img_meta: Information about the image.
            rescale: Whether boxes are wanted in the original image's scale.
            rcnn_test_cfg: Threshold and NMS. None for all boxes and scores, without NMS.

        Returns:
            Boxes (k, 4), scores (k,) and labels (k,) int64 or, without ``rcnn_test_cfg``, boxes
            as ``bbox_pred`` has them and all scores.
        """
        if len(roi) == 0:  # does not look at scores then
            return super()._predict_by_feat_single(
                roi, scores, bbox_pred, img_meta, rescale, rcnn_test_cfg
            )
        deltas = bbox_pred.view(len(roi), -1, 4)
        inverse_scale = [1 / s for s in img_meta["scale_factor"]] if rescale else None

        def decode(proposals: Tensor, categories: Tensor) -> Tensor:
            columns = categories * 0 if self.reg_class_agnostic else categories
            boxes = self.bbox_coder.decode(
                roi[proposals, 1:], deltas[proposals, columns], max_shape=img_meta["img_shape"]
            )
            boxes = get_box_tensor(boxes)
            return scale_boxes(boxes, inverse_scale) if rescale and len(boxes) else boxes

        if (
            rcnn_test_cfg is None
            or not getattr(self.bbox_coder, "clip_border", False)
            or not topk_nms_is_exact(rcnn_test_cfg.nms, rcnn_test_cfg.max_per_img)
        ):
            columns = torch.arange(deltas.shape[1], device=roi.device).repeat(len(roi))
            rows = torch.arange(len(roi), device=roi.device).repeat_interleave(deltas.shape[1])
            boxes = decode(rows, columns).view(len(roi), -1)
            if rcnn_test_cfg is None:
                return InstanceData(bboxes=boxes, scores=scores)
            detections, labels = multiclass_nms(
                boxes, scores, rcnn_test_cfg.score_thr, rcnn_test_cfg.nms, rcnn_test_cfg.max_per_img
            )
            return InstanceData(bboxes=detections[:, :4], scores=detections[:, 4], labels=labels)

        height, width = img_meta["img_shape"][:2]
        corner = roi.new_tensor([[0, 0, width, height]])
        if rescale:
            corner = scale_boxes(corner, inverse_scale)

        def largest_coordinate(candidates: Tensor) -> Tensor:
            if self.reg_class_agnostic:  # a box a proposal
                candidates = candidates.any(dim=1, keepdim=True)
            # No box reaches beyond the image, and most likely one of the first reaches its border.
            order = roi[:, 3:].amax(dim=1).argsort(descending=True)
            largest = corner.new_zeros(())
            for proposals in (order[:NUM_BORDER_PROPOSALS], order[NUM_BORDER_PROPOSALS:]):
                places, categories = candidates[proposals].nonzero(as_tuple=True)
                if len(places):
                    largest = torch.maximum(largest, decode(proposals[places], categories).max())
                if largest >= corner.max():
                    break
            return largest

        bboxes, scores, labels = topk_multiclass_nms(
            scores[:, :-1],
            decode,
            largest_coordinate,
            rcnn_test_cfg.score_thr,
            rcnn_test_cfg.nms,
            rcnn_test_cfg.max_per_img,
        )
        return InstanceData(bboxes=bboxes, scores=scores, labels=labels)
