"""The cascade of the paper's Table 1: Detectron2's, made of MMDetection's parts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi, get_box_tensor
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from .cascade_roi_head import LargeVocabCascadeRoIHead
from .large_vocab_bbox_head import LargeVocabBBoxHead


@MODELS.register_module()
class Detectron2CascadeRoIHead(LargeVocabCascadeRoIHead):
    """Cascade R-CNN (Cai and Vasconcelos, CVPR 2018) as Detectron2's ``CascadeROIHeads`` builds it.

    The paper was trained with Detectron2. What is different from :class:`CascadeRoIHead`:

    ===================  ==========================  ===========================================
    what                 ``CascadeRoIHead``          here, as in Detectron2
    ===================  ==========================  ===========================================
    losses of stages     weighted 1, 0.5, 0.25       weighted 1, 1, 1
                         (its configs)
    gradient on the      whole                       divided by the number of stages; that of
    pooled features                                  the stages' own layers is not
    of boxes
    proposals of stage   512 sampled at 1:3, anew    sampled in stage 1 only; then all refined
    2 and 3, training    in each stage               boxes, matched at the stage's IoU
    ground-truth boxes   added in each stage, left   added in stage 1; stay, refined
    as proposals         out when boxes are refined
    empty refined        kept                        left out in training, kept at test
    boxes
    no proposals at      the later stages have no    each stage has its losses, so that the
    all, training        losses                      processes keep step
    stds of the box      0.033, 0.067 in stage 3     1/30, 1/15: the inverse of Detectron2's
    coder                                            weights 30 and 15
    mask head            one for each stage, their   one; trained on the proposals of stage 1,
                         masks averaged at test      applied to the detections at test
    scores at test       activation of the stages'   mean of the stages' activations
                         mean logits
    box regression       any                         class-agnostic only
    ===================  ==========================  ===========================================

    The boxes at test are those of the last stage, in both. The box heads' loss of Detectron2's
    configs is the L1 loss, and its RPN keeps 2000 proposals in training: that is in
    ``configs/_base_/models/cascade_mask_rcnn_r50_fpn.py``.

    Every stage has a classification loss of its own. So with :class:`DropLoss` every stage counts
    its own proposals in eq. (7), and draws for itself.

    Args:
        bbox_head: The config of every stage's box head, a :class:`LargeVocabBBoxHead` with
            ``reg_class_agnostic=True``.
        mask_roi_extractor: The config of the mask head's RoI extractor.
        mask_head: The config of the one mask head; None for a detector of boxes.
        num_stages: The number of stages.
        stage_loss_weights: A factor for the box head's losses of each stage. By default 1 for all.
        stage_iou_thrs: The IoU with a ground-truth box from which on a box is foreground, for each
            stage. The defaults are those of Cascade R-CNN.
        stage_target_stds: For each stage, the ``target_stds`` of its box coder.
        train_cfg: ``train_cfg.rcnn`` of Mask R-CNN: one dict, whose assigner and sampler are those
            of the first stage. The later stages have the same assigner with their IoU, and no
            sampler.
        **kwargs: Those of :class:`CascadeRoIHead`.

    Raises:
        ValueError: If a list is given where there is one dict for all stages, if an argument does
            not have an entry for each stage, if the box head is of another kind, if its boxes are
            not class-agnostic, or if the assigner's ``pos_iou_thr`` is not the first stage's.
    """

    def __init__(
        self,
        *,
        bbox_head: dict,
        mask_roi_extractor: dict | None = None,
        mask_head: dict | None = None,
        num_stages: int = 3,
        stage_loss_weights: Sequence[float] = (1, 1, 1),
        stage_iou_thrs: Sequence[float] = (0.5, 0.6, 0.7),
        stage_target_stds: Sequence[Sequence[float]] = (
            (1 / 10, 1 / 10, 1 / 5, 1 / 5),
            (1 / 20, 1 / 20, 1 / 10, 1 / 10),
            (1 / 30, 1 / 30, 1 / 15, 1 / 15),
        ),
        train_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        one_for_all = {
            "mask_head": mask_head,
            "mask_roi_extractor": mask_roi_extractor,
            "train_cfg.rcnn": train_cfg,
        }
        for name, value in one_for_all.items():
            if value is not None and not isinstance(value, dict):
                raise ValueError(
                    f"{name} of Detectron2CascadeRoIHead is one dict for all stages, but it is a "
                    f"{type(value).__name__}; LargeVocabCascadeRoIHead, MMDetection's cascade, "
                    f"takes a list"
                )
        if (mask_head is None) != (mask_roi_extractor is None):
            raise ValueError(
                "mask_head and mask_roi_extractor of Detectron2CascadeRoIHead belong together, "
                "but only one of them is given"
            )
        for name, values in (
            ("stage_loss_weights", stage_loss_weights),
            ("stage_iou_thrs", stage_iou_thrs),
        ):
            if len(values) != num_stages:
                raise ValueError(
                    f"{name} must have one entry for each of the num_stages={num_stages} stages, "
                    f"but it has {len(values)}"
                )
        of_stages = None if train_cfg is None else train_cfgs_of_stages(train_cfg, stage_iou_thrs)
        super().__init__(
            bbox_head=bbox_head,
            mask_roi_extractor=mask_roi_extractor,
            mask_head=mask_head,
            num_stages=num_stages,
            stage_loss_weights=stage_loss_weights,
            stage_target_stds=stage_target_stds,
            train_cfg=of_stages,
            **kwargs,
        )
        head = self.bbox_head[0]
        if not isinstance(head, LargeVocabBBoxHead):
            raise ValueError(
                f"bbox_head of Detectron2CascadeRoIHead must be a LargeVocabBBoxHead, which can "
                f"take mean scores, but it is a {type(head).__name__}"
            )
        if not head.reg_class_agnostic:
            raise ValueError(
                "Detectron2CascadeRoIHead refines one box a proposal: its bbox_head needs "
                "reg_class_agnostic=True"
            )

    # There is one mask head, as in Mask R-CNN. Of these only mask_loss is different, because
    # train_cfg has an entry for each stage.
    init_mask_head = StandardRoIHead.init_mask_head
    _mask_forward = StandardRoIHead._mask_forward
    predict_mask = StandardRoIHead.predict_mask

    def mask_loss(
        self,
        x: tuple[Tensor, ...],
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
    ) -> dict:
        """The loss of the mask head on foreground proposals.

        Args:
            x: Feature maps.
            sampling_results: The first stage's proposals of each image.
            batch_gt_instances: The ground truth of each image.

        Returns:
            What the mask head's ``loss_and_target`` does.
        """
        rois = bbox2roi([result.pos_priors for result in sampling_results])
        mask_preds = self._mask_forward(x, rois)["mask_preds"]
        return self.mask_head.loss_and_target(
            mask_preds, sampling_results, batch_gt_instances, self.train_cfg[0]
        )

    def _bbox_forward(self, stage: int, x: tuple[Tensor, ...], rois: Tensor) -> dict:
        """Outputs of a stage's box head; see :class:`CascadeRoIHead`."""
        extractor = self.bbox_roi_extractor[stage]
        features = extractor(x[: extractor.num_inputs], rois)
        if features.requires_grad:
            # Equal weights would make the features' gradient as many times larger as there are
            # stages.
            features.register_hook(lambda gradient: gradient / self.num_stages)
        cls_score, bbox_pred = self.bbox_head[stage](features)
        return dict(cls_score=cls_score, bbox_pred=bbox_pred, bbox_feats=features)

    def loss(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: InstanceList,
        batch_data_samples: SampleList,
    ) -> dict:
        """Losses of all stages and of the mask head.

        Args:
            x: Feature maps.
            rpn_results_list: The RPN's proposals of each image.
            batch_data_samples: With the ground truth of each image.

        Returns:
            Those of stage i with the prefix ``s{i}.``, from 0, and ``loss_mask``.

        Raises:
            ValueError: If a stage predicts boxes that are NaN.
        """
        truth, ignored, metas = unpack_gt_instances(batch_data_samples)
        losses = {}
        boxes = [results.bboxes for results in rpn_results_list]
        for stage, weight in enumerate(self.stage_loss_weights):
            self.current_stage: int = stage  # samplers may ask
            matched = self._match(stage, x, boxes, truth, ignored)
            results = self.bbox_loss(stage, x, matched)
            for name, value in results["loss_bbox"].items():
                losses[f"s{stage}.{name}"] = value * weight if "loss" in name else value
            if stage == 0 and self.with_mask:
                losses.update(self.mask_loss(x, matched, truth)["loss_mask"])
            if stage + 1 < self.num_stages:
                counts = [len(result.priors) for result in matched]
                boxes = self._refine(stage, results["rois"], results["bbox_pred"], counts, metas)
                boxes = without_empty(boxes, stage)
        return losses

    def _match(
        self,
        stage: int,
        x: tuple[Tensor, ...],
        boxes: list[Tensor],
        truth: InstanceList,
        ignored: InstanceList,
    ) -> list[SamplingResult]:
        """Match each image's boxes, (n, 4), with its ground truth; in stage 0, sample them."""
        found = []
        for index, priors in enumerate(InstanceData(priors=priors) for priors in boxes):
            assigned = self.bbox_assigner[stage].assign(priors, truth[index], ignored[index])
            features = [level[index][None] for level in x]
            sampler = self.bbox_sampler[stage]
            found.append(sampler.sample(assigned, priors, truth[index], feats=features))
        return found

    @torch.no_grad()
    def _refine(
        self,
        stage: int,
        rois: Tensor,
        bbox_pred: Tensor,
        counts: Sequence[int],
        metas: list[dict],
    ) -> list[Tensor]:
        """The boxes that a stage predicts, clipped to their images and without gradient.

        Args:
            stage: The stage, from 0.
            rois: (n, 5), its boxes, with the index of the image.
            bbox_pred: (n, 4), its output.
            counts: How many of the n are each image's.
            metas: Information about each image.

        Returns:
            (n_i, 4) float32 for each image.
        """
        head = self.bbox_head[stage]
        # Half precision would shift a box by whole pixels.
        parts = zip(rois.split(counts), bbox_pred.float().split(counts), metas, strict=True)
        return [
            get_box_tensor(head.regress_by_class(roi[:, 1:], None, pred, meta))
            for roi, pred, meta in parts
        ]

    def _refine_roi(
        self,
        x: tuple[Tensor, ...],
        rois: Tensor,
        batch_img_metas: list[dict],
        num_proposals_per_img: Sequence[int],
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """All stages at test.

        Args:
            x: Feature maps.
            rois: (n, 5), the RPN's proposals of all images.
            batch_img_metas: Information about each image.
            num_proposals_per_img: How many of the n are each image's.

        Returns:
            For each image the last stage's input boxes (n_i, 5), the mean scores of all stages
            (n_i, C + 1), after the activation, and the last stage's box deltas (n_i, 4).
        """
        counts = list(num_proposals_per_img)
        results = self._bbox_forward(0, x, rois)
        scores = [self.bbox_head[0].get_scores(results["cls_score"])]
        for stage in range(1, self.num_stages):
            # Empty boxes stay: a proposal's scores in all stages are averaged.
            boxes = self._refine(stage - 1, rois, results["bbox_pred"], counts, batch_img_metas)
            rois = bbox2roi(boxes)
            results = self._bbox_forward(stage, x, rois)
            scores.append(self.bbox_head[stage].get_scores(results["cls_score"]))
        mean = torch.stack(scores).mean(dim=0)
        return rois.split(counts), mean.split(counts), results["bbox_pred"].split(counts)

    def predict_bbox(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        rpn_results_list: InstanceList,
        rcnn_test_cfg: ConfigDict | None,
        rescale: bool = False,
    ) -> InstanceList:
        """Detections of each image; see :class:`CascadeRoIHead`."""
        proposals = [results.bboxes for results in rpn_results_list]
        outputs = self._refine_roi(
            x, bbox2roi(proposals), batch_img_metas, [len(boxes) for boxes in proposals]
        )
        return [
            self.bbox_head[-1].predict_from_scores(*of_image, meta, rescale, rcnn_test_cfg)
            for *of_image, meta in zip(*outputs, batch_img_metas, strict=True)
        ]

    def forward(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: InstanceList,
        batch_data_samples: SampleList,
    ) -> tuple:
        """Outputs without post-processing, as ``mode='tensor'`` gives them.

        Args:
            x: Feature maps.
            rpn_results_list: The RPN's proposals of each image.
            batch_data_samples: With information about each image.

        Returns:
            Mean scores and box deltas of each image, and the mask head's output for all proposals
            as the last stage has them.
        """
        metas = [sample.metainfo for sample in batch_data_samples]
        proposals = [results.bboxes for results in rpn_results_list]
        rois, scores, bbox_preds = self._refine_roi(
            x, bbox2roi(proposals), metas, [len(boxes) for boxes in proposals]
        )
        if not self.with_mask:
            return scores, bbox_preds
        return scores, bbox_preds, self._mask_forward(x, torch.cat(rois))["mask_preds"]


def train_cfgs_of_stages(train_cfg: dict, stage_iou_thrs: Sequence[float]) -> list[ConfigDict]:
    """The training config of each stage: the first one's, with another IoU and no sampler.

    Args:
        train_cfg: The first stage's.
        stage_iou_thrs: The IoU of each stage.

    Returns:
        One config for each stage.

    Raises:
        ValueError: If ``pos_iou_thr`` of the assigner is not the first stage's IoU.
    """
    first = ConfigDict(train_cfg)
    if first.assigner.get("pos_iou_thr") != stage_iou_thrs[0]:
        raise ValueError(
            f"stage_iou_thrs starts with {stage_iou_thrs[0]}, but pos_iou_thr of "
            f"train_cfg.rcnn.assigner is {first.assigner.get('pos_iou_thr')}: they must be the same"
        )
    stages = [first]
    for iou in stage_iou_thrs[1:]:
        stage = copy.deepcopy(first)
        stage.assigner.update(pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou)
        stage.sampler = ConfigDict(type="PseudoSampler")  # takes all
        stages.append(stage)
    return stages


def without_empty(boxes: list[Tensor], stage: int) -> list[Tensor]:
    """Leave out boxes without area, which clipping makes of those outside of their image.

    Args:
        boxes: (n, 4) for each image.
        stage: The stage that predicts them, from 0.

    Returns:
        (m, 4) for each image.

    Raises:
        ValueError: If a box is NaN.
    """
    if torch.cat(boxes).isnan().any():
        raise ValueError(
            f"stage {stage} of the cascade predicts boxes that are NaN: training has diverged. "
            f"Lower the learning rate or lengthen the warm-up"
        )
    return [each[(each[:, 2:] > each[:, :2]).all(dim=1)] for each in boxes]
