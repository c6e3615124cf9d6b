"""A cascade whose stages are written once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import InstanceList
from torch import Tensor


@MODELS.register_module()
class LargeVocabCascadeRoIHead(CascadeRoIHead):
    """MMDetection's :class:`CascadeRoIHead` with one config for the box heads of all stages.

    Lists don't merge when configs inherit, so a config that changes the loss of a cascade has to
    write out its three heads. Here ``bbox_head`` is one dict, as in Mask R-CNN, and what differs
    between the stages stands apart. A change of the loss then reads the same for both detectors::

        model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(type='DropLoss'))))

    With :class:`LargeVocabMaskHead`, its stages' masks for the objects' categories are averaged;
    :class:`CascadeRoIHead` averages those of all categories.

    Args:
        bbox_head: The config of every stage's box head.
        stage_target_stds: For each stage, the ``target_stds`` of its box coder. The defaults are
            those of Cascade R-CNN.
        *args, **kwargs: Those of :class:`CascadeRoIHead`.

    Raises:
        ValueError: If ``bbox_head`` is a list, or ``stage_target_stds`` does not have an entry for
            each stage.
    """

    def __init__(
        self,
        *args: Any,
        bbox_head: dict,
        stage_target_stds: Sequence[Sequence[float]] = (
            (0.1, 0.1, 0.2, 0.2),
            (0.05, 0.05, 0.1, 0.1),
            (0.033, 0.033, 0.067, 0.067),
        ),
        num_stages: int = 3,
        **kwargs: Any,
    ) -> None:
        if not isinstance(bbox_head, dict):
            raise ValueError(
                f"bbox_head of LargeVocabCascadeRoIHead is one dict for all stages, but it is a "
                f"{type(bbox_head).__name__}; CascadeRoIHead takes a list"
            )
        if len(stage_target_stds) != num_stages:
            raise ValueError(
                f"stage_target_stds must have one entry for each of the num_stages={num_stages} "
                f"stages, but it has {len(stage_target_stds)}"
            )
        heads = [copy.deepcopy(bbox_head) for _ in range(num_stages)]
        for head, stds in zip(heads, stage_target_stds, strict=True):
            coder = {"type": "DeltaXYWHBBoxCoder", **head.get("bbox_coder", {})}
            head["bbox_coder"] = {**coder, "target_stds": list(stds)}
        super().__init__(*args, num_stages=num_stages, bbox_head=heads, **kwargs)

    def predict_mask(
        self,
        x: tuple[Tensor],
        batch_img_metas: list[dict],
        results_list: InstanceList,
        rescale: bool = False,
    ) -> InstanceList:
        """Masks of the detections; see :class:`CascadeRoIHead`."""
        rois = bbox2roi([result.bboxes for result in results_list])
        if len(rois) == 0 or not all(
            getattr(head, "own_class_only", False) for head in self.mask_head
        ):
            return super().predict_mask(x, batch_img_metas, results_list, rescale)
        labels = torch.cat([result.labels for result in results_list])
        of_stages = [
            head.own_logits(self._mask_forward(stage, x, rois)["mask_preds"], labels).sigmoid()
            for stage, head in enumerate(self.mask_head)
        ]
        masks = torch.stack(of_stages).mean(dim=0).split([len(r) for r in results_list])
        masks = [mask.cpu().numpy() for mask in masks]  # what activate_map=True stands for
        return self.mask_head[-1].predict_by_feat(
            masks, results_list, batch_img_metas, self.test_cfg, rescale, activate_map=True
        )
