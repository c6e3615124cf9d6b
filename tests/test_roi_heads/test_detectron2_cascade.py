"""The paper's cascade: its stages against a small NumPy program, and the whole of it in use."""

from __future__ import annotations

# isort: off
import mmdet_droploss  # noqa: F401  (before mmdet, also in the processes that are spawned)
# isort: on

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from mmdet.apis import DetInferencer
from mmdet.models.layers import multiclass_nms
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from processes import in_processes
from small_run import CONFIG, changes
from test_losses_in_heads import COUNTS, NUM_CLASSES, cascade, config
from test_whole_detectors import data, detector, step
from torch import distributed as dist
from torch import nn

from mmdet_droploss.ops import is_compiled

HEIGHT, WIDTH = 80, 100
BASE = "cascade_mask_rcnn_r50_fpn.py"
NMS = ConfigDict(score_thr=1e-4, nms=dict(type="nms", iou_threshold=0.5), max_per_img=50)
#: Two objects.
A, B = [10.0, 10.0, 30.0, 30.0], [60.0, 40.0, 80.0, 60.0]
#: Stage by stage: the IoU of foreground, and what Detectron2 multiplies box deltas by.
STAGES = [(0.5, (10, 10, 5, 5)), (0.6, (20, 20, 10, 10)), (0.7, (30, 30, 15, 15))]


def train_cfg(num=512, iou=0.5):
    assigner = dict(
        type="MaxIoUAssigner",
        pos_iou_thr=iou,
        neg_iou_thr=iou,
        min_pos_iou=iou,
        match_low_quality=False,
    )
    sampler = dict(type="RandomSampler", num=num, pos_fraction=0.25, add_gt_as_proposals=True)
    return ConfigDict(assigner=assigner, sampler=sampler, pos_weight=-1, mask_size=28)


def roi_head(loss="DropLoss", num=512, head_changes=None, **changes):
    """A head for boxes, on one feature map of 4 channels and a stride of 4."""
    bbox_head = config("LargeVocabBBoxHead", loss)
    bbox_head.update(reg_class_agnostic=True, **(head_changes or {}))
    cfg = cascade(type="Detectron2CascadeRoIHead", bbox_head=bbox_head, train_cfg=train_cfg(num))
    del cfg["stage_loss_weights"]
    head = MODELS.build(ConfigDict({**cfg, "test_cfg": NMS, **changes}))
    head.init_weights()
    for each in head.bbox_head:  # else all boxes and scores are nearly the same
        nn.init.normal_(each.fc_reg.weight, std=0.3)
        nn.init.normal_(each.fc_cls.weight, std=0.5)
    return head


def random_boxes(count, least=10):
    corner = torch.rand(count, 2) * torch.tensor([WIDTH - 30.0, HEIGHT - 30.0])
    return torch.cat([corner, corner + least + torch.rand(count, 2) * (30 - least)], dim=1)


def sample(boxes, labels):
    shape = (HEIGHT, WIDTH)
    found = DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
    found.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    found.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    return found


def batch(num_proposals=(30, 20), num_objects=(3, 2)):
    """Feature maps, proposals and ground truth of images."""
    x = (torch.randn(len(num_proposals), 4, HEIGHT // 4, WIDTH // 4),)
    proposals = [InstanceData(bboxes=random_boxes(count)) for count in num_proposals]
    truth = [
        sample(random_boxes(count), torch.randint(NUM_CLASSES, (count,))) for count in num_objects
    ]
    return x, proposals, truth


def total(losses):
    return sum(value for key, value in losses.items() if "loss" in key)


# ---------------------------------------------------------------- the stages, in NumPy


def overlaps(one, other):
    """IoU of (m, 4) with (n, 4) boxes."""
    low = np.maximum(one[:, None, :2], other[:, :2])
    high = np.minimum(one[:, None, 2:], other[:, 2:])
    common = (high - low).clip(min=0).prod(2)
    area_one, area_other = ((b[:, 2:] - b[:, :2]).prod(1) for b in (one, other))
    return common / (area_one[:, None] + area_other - common)


def decoded(boxes, deltas, weights):
    """The boxes that deltas mean, clipped to the image."""
    dx, dy, dw, dh = (deltas / weights).T
    dw, dh = (d.clip(-np.log(1000 / 16), np.log(1000 / 16)) for d in (dw, dh))
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = boxes[:, 0] + width / 2 + dx * width, boxes[:, 1] + height / 2 + dy * height
    width, height = width * np.exp(dw), height * np.exp(dh)
    corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)
    return corners.clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])


def stages_in_numpy(proposals, truth, labels, predict):
    """Boxes and labels of each stage for one image, and how near an IoU comes to a threshold.

    Args:
        proposals: (n, 4).
        truth: (m, 4).
        labels: (m,).
        predict: Takes a stage and (k, 4) boxes, returns (k, 4) deltas.
    """
    boxes, found, nearest = np.concatenate([truth, proposals]), [], 1.0
    for stage, (threshold, weights) in enumerate(STAGES):
        if len(truth):
            iou = overlaps(truth, boxes)
            nearest = min(nearest, np.abs(iou.max(0) - threshold).min(initial=1))
            # Of two objects that a box overlaps alike, rounding may choose either.
            second, first = np.sort(np.vstack([iou, 0 * iou[:1] - 1]), 0)[-2:]
            nearest = min(nearest, (first - second)[first >= threshold].min(initial=1))
            label = np.where(iou.max(0) >= threshold, labels[iou.argmax(0)], NUM_CLASSES)
        else:
            label = np.full(len(boxes), NUM_CLASSES)
        # Samplers put foreground first.
        order = np.argsort(label == NUM_CLASSES, kind="stable")
        boxes, label = boxes[order], label[order]
        found.append((boxes, label))
        boxes = decoded(boxes, predict(stage, boxes), weights)
        boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    return found, nearest


def spied_stages(head, x, proposals, truth, predict=None):
    """The losses of a head, and what reaches each stage: boxes and labels of all images."""
    seen = []
    for each in head.bbox_head:
        original = type(each).loss

        def spy(cls_score, bbox_pred, rois, labels, *args, each=each, original=original):
            seen.append((rois, labels))
            return original(each, cls_score, bbox_pred, rois, labels, *args)

        each.loss = lambda *args, spy=spy, **kwargs: spy(*args)
    if predict is not None:

        def forward(stage, x, rois):
            deltas = torch.as_tensor(predict(stage, rois[:, 1:].numpy())).float()
            logits = torch.zeros(len(rois), NUM_CLASSES, requires_grad=True)
            return dict(cls_score=logits, bbox_pred=deltas, bbox_feats=None)

        head._bbox_forward = forward
    return head.loss(x, proposals, truth), seen


@pytest.fixture(scope="module")
def plain_head():
    return roi_head("SigmoidBCELoss")


@st.composite
def images(draw):
    return [
        dict(
            proposals=draw(st.integers(0, 40)),
            objects=draw(st.integers(0, 6)),
            seed=draw(st.integers(0, 2**31)),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]


@given(
    images=images(),
    amplitudes=st.tuples(*[st.sampled_from([0.0, 1.0, 3.0, 25.0])] * 3),
    phase=st.floats(0, 6),
)
@example(images=[dict(proposals=0, objects=0, seed=0)] * 2, amplitudes=(1, 1, 1), phase=0)
@example(images=[dict(proposals=40, objects=6, seed=1)], amplitudes=(25, 25, 25), phase=1)
def test_matching_and_labels_of_all_stages(plain_head, images, amplitudes, phase):
    """Boxes near an object, so that there is foreground, refined well or out of the image."""

    def predict(stage, boxes):
        return amplitudes[stage] * np.sin(0.1 * boxes + phase)

    proposals, truth = [], []
    for image in images:
        rng = np.random.default_rng(image["seed"])
        corner = rng.uniform(0, [WIDTH - 30, HEIGHT - 30], (image["objects"], 2))
        objects = np.concatenate([corner, corner + rng.uniform(10, 30, corner.shape)], 1)
        boxes = np.concatenate([rng.uniform(0, 40, (image["proposals"], 2))] * 2, 1) + [0, 0, 9, 9]
        near = rng.random(len(boxes)) < (0.8 if len(objects) else 0)
        boxes[near] = objects[rng.integers(max(len(objects), 1), size=near.sum())]
        boxes[near] += rng.normal(0, 2, (near.sum(), 4))
        boxes = boxes.clip(0, [WIDTH, HEIGHT] * 2)
        labels = rng.integers(NUM_CLASSES, size=len(objects))
        proposals.append(boxes.astype(np.float32).astype(float))
        truth.append((objects.astype(np.float32).astype(float), labels))
    expected = []
    for boxes, (objects, labels) in zip(proposals, truth, strict=True):
        stages, nearest = stages_in_numpy(boxes, objects, labels, predict)
        assume(nearest > 1e-3)
        expected.append(stages)

    x = (torch.zeros(len(images), 4, HEIGHT // 4, WIDTH // 4),)
    losses, seen = spied_stages(
        plain_head,
        x,
        [InstanceData(bboxes=torch.tensor(boxes).float()) for boxes in proposals],
        [sample(torch.tensor(o).float(), torch.tensor(labels)) for o, labels in truth],
        predict,
    )
    assert len(seen) == 3
    assert {f"s{stage}.{key}" for stage in range(3) for key in ("loss_cls", "loss_bbox")} <= set(
        losses
    )
    for stage, (rois, labels) in enumerate(seen):
        of_images = [stages[stage] for stages in expected]
        assert rois[:, 0].tolist() == [i for i, (b, _) in enumerate(of_images) for _ in b]
        boxes = np.concatenate([boxes for boxes, _ in of_images])
        np.testing.assert_allclose(rois[:, 1:].numpy(), boxes, atol=0.02)
        assert labels.tolist() == np.concatenate([label for _, label in of_images]).tolist()


def test_only_the_first_stage_samples():
    """All boxes are refined to the place of an object: far more foreground than a sampler takes."""
    target = np.array([A])

    def predict(stage, boxes):
        size, of_target = boxes[:, 2:] - boxes[:, :2], target[:, 2:] - target[:, :2]
        shift = (target[:, :2] + of_target / 2 - boxes[:, :2] - size / 2) / size
        return np.concatenate([shift, np.log(of_target / size)], 1) * STAGES[stage][1]

    x, proposals, _ = batch((100,), (0,))
    truth = [sample(torch.tensor([A]), torch.tensor([0]))]
    _, seen = spied_stages(roi_head(num=16), x, proposals, truth, predict)
    assert [len(labels) for _, labels in seen] == [16, 16, 16]
    foreground = [int((labels == 0).sum()) for _, labels in seen]
    assert 1 <= foreground[0] <= 4 and foreground[1:] == [16, 16]


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("num_stages", [2, 3])
def test_the_gradient_of_the_pooled_features_is_scaled(num_stages):
    stds = [[0.1, 0.1, 0.2, 0.2]] * num_stages
    head = roi_head(
        num_stages=num_stages,
        stage_loss_weights=[1] * num_stages,
        stage_iou_thrs=[0.5, 0.6, 0.7][:num_stages],
        stage_target_stds=stds,
    )
    rois = bbox2roi([random_boxes(8)])
    for stage, each in enumerate(head.bbox_head):
        gradients = []
        for scaled in (True, False):
            x = torch.randn(
                1, 4, HEIGHT // 4, WIDTH // 4, generator=torch.Generator().manual_seed(1)
            )
            x.requires_grad_()
            head.zero_grad()
            if scaled:
                outputs = list(head._bbox_forward(stage, (x,), rois).values())[:2]
            else:
                outputs = each(head.bbox_roi_extractor[stage]((x,), rois))
            sum(output.square().sum() for output in outputs).backward()
            gradients.append((x.grad, [p.grad.clone() for p in each.parameters()]))
        (scaled, own), (whole, expected) = gradients
        assert whole.abs().max() > 0
        torch.testing.assert_close(scaled, whole / num_stages)
        torch.testing.assert_close(own, expected)


def test_refined_boxes_carry_no_gradient():
    head = roi_head("SigmoidBCELoss")
    losses, seen = spied_stages(head, *batch())
    assert not any(rois.requires_grad for rois, _ in seen)
    assert len(seen[2][0]) > 0
    (losses["s2.loss_cls"] + losses["s2.loss_bbox"]).backward()
    has_gradient = [
        any(p.grad is not None and p.grad.abs().sum() > 0 for p in each.parameters())
        for each in head.bbox_head
    ]
    assert has_gradient == [False, False, True]


def test_the_weights_of_the_stages_are_those_of_their_losses():
    found = []
    for weights in ([1, 1, 1], [1, 2, 0.5]):
        torch.manual_seed(0)
        head = roi_head("SigmoidBCELoss", stage_loss_weights=weights)
        found.append(head.loss(*batch()))
    for key, value in found[1].items():
        factor = {"s0": 1, "s1": 2, "s2": 0.5}[key[:2]] if "loss" in key else 1
        torch.testing.assert_close(value, factor * found[0][key], msg=key)


# ---------------------------------------------------------------- boxes that are not there


@pytest.mark.parametrize("objects", [(3, 2), (0, 2), (0, 0)])
@pytest.mark.parametrize("proposals", [(30, 20), (0, 20), (0, 0)])
def test_images_without_objects_or_proposals(objects, proposals):
    head = roi_head()
    losses = head.loss(*batch(proposals, objects))
    for stage in range(3):
        for key in ("loss_cls", "loss_bbox"):
            assert losses[f"s{stage}.{key}"].isfinite()
    total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())

    x, results, truth = batch(proposals, objects)
    with torch.no_grad():
        found = head.eval().predict(x, results, truth)
    for count, result in zip(proposals, found, strict=True):
        assert (len(result) > 0) == (count > 0)
        assert result.bboxes.shape[1:] == (4,)


def push_out(head):
    """Every box of the first stage is moved to the right, out of the image."""
    nn.init.zeros_(head.bbox_head[0].fc_reg.weight)
    head.bbox_head[0].fc_reg.bias.data = torch.tensor([1e4, 0.0, 0.0, 0.0])
    return head


def test_empty_boxes_are_left_out_in_training():
    head = push_out(roi_head())
    losses, seen = spied_stages(head, *batch())
    assert [len(labels) for _, labels in seen] == [55, 0, 0]
    assert losses["s1.loss_cls"] == losses["s2.loss_cls"] == 0
    total(losses).backward()  # all parameters have gradients: processes keep step
    assert all(p.grad is not None for p in head.parameters())


def test_empty_boxes_are_kept_at_test():
    """Else the scores of the stages would be those of different proposals."""
    head = push_out(roi_head()).eval()
    x, results, truth = batch()
    metas = [each.metainfo for each in truth]
    with torch.no_grad():
        rois, scores, deltas = head._refine_roi(
            x, bbox2roi([r.bboxes for r in results]), metas, [30, 20]
        )
    assert (
        [len(r) for r in rois] == [len(s) for s in scores] == [len(d) for d in deltas] == [30, 20]
    )
    assert all((r[:, 1] == WIDTH).all() and (r[:, 3] == WIDTH).all() for r in rois)


def test_boxes_that_are_nan_stop_the_training():
    head = roi_head()
    nn.init.constant_(head.bbox_head[1].fc_reg.bias, torch.nan)
    with pytest.raises(ValueError, match="stage 1 of the cascade predicts boxes that are NaN"):
        head.loss(*batch(num_objects=(0, 0)))


# ---------------------------------------------------------------- test


@pytest.mark.parametrize("loss", ["DropLoss", "softmax"])
@pytest.mark.parametrize("nms", ["nms", "nms of all categories"])
def test_detections_are_of_mean_scores_and_the_last_stages_boxes(loss, nms):
    changes = dict(loss_cls=dict(type="CrossEntropyLoss")) if loss == "softmax" else {}
    head = roi_head(head_changes=changes).eval()
    cfg = ConfigDict(NMS, nms=dict(NMS.nms, class_agnostic=True) if "all" in nms else NMS.nms)
    x, results, truth = batch((12,), (0,))
    outputs, original = [], head._bbox_forward

    def spy(stage, x, rois):
        result = original(stage, x, rois)
        outputs.append((rois[:, 1:].numpy(), result))
        return result

    head._bbox_forward = spy
    with torch.no_grad():
        (found,) = head.predict_bbox(x, [truth[0].metainfo], results, cfg)
    boxes = results[0].bboxes.numpy()
    scores = []
    for (_, weights), (seen, result) in zip(STAGES, outputs, strict=True):
        np.testing.assert_allclose(seen, boxes, atol=1e-3)
        logits = result["cls_score"].double().numpy()
        if loss == "softmax":
            exp = np.exp(logits - logits.max(1, keepdims=True))
            scores.append(exp / exp.sum(1, keepdims=True))
        else:
            scores.append(np.pad(1 / (1 + np.exp(-logits)), ((0, 0), (0, 1))))
        boxes = decoded(boxes, result["bbox_pred"].double().numpy(), weights)
    mean = sum(scores) / 3
    detections, labels = multiclass_nms(
        torch.tensor(boxes).float(), torch.tensor(mean).float(), 1e-4, cfg.nms, 50
    )
    assert len(found) > 5
    assert torch.equal(found.labels, labels)
    torch.testing.assert_close(found.bboxes, detections[:, :4], atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(found.scores, detections[:, 4])


def test_the_one_mask_head_learns_from_the_first_stage_only(repository):
    model = detector(repository, BASE, "DropLoss")
    counts = []
    model.roi_head.mask_head.register_forward_hook(lambda _, args, out: counts.append(len(args[0])))
    _, seen = [], []
    for each in model.roi_head.bbox_head:
        each.loss_cls.register_forward_hook(
            lambda _, args, out: seen.append(int((args[1] < NUM_CLASSES).sum()))
        )
    step(model, data())
    assert counts == [seen[0]] and len(seen) == 3 and seen[0] > 0

    model.eval()
    counts.clear()
    with torch.no_grad():
        found = model.test_step(data())
    assert counts == [sum(len(result.pred_instances) for result in found)]


def test_outputs_without_post_processing(repository):
    model = detector(repository, BASE, "DropLoss").eval()
    with torch.no_grad():
        inputs = model.data_preprocessor(data(), training=False)
        scores, deltas, masks = model(**inputs, mode="tensor")[-1]
    assert scores[0].shape[1] == NUM_CLASSES + 1 and deltas[0].shape[1] == 4
    assert len(masks) == sum(map(len, scores)) == sum(map(len, deltas)) > 0


# ---------------------------------------------------------------- DropLoss


TAIL = np.array(COUNTS) <= 100


def test_each_stage_has_statistics_of_its_own():
    """Stage 2 sees foreground of the tail only, stage 3 of frequent categories only.

    So the probabilities of eq. (7) are 0 and 1 there, and nothing is left to the draws.
    """
    head = roi_head()
    rare, frequent = int(np.flatnonzero(TAIL)[0]), int(np.flatnonzero(~TAIL)[0])

    def predict(stage, boxes):
        left = boxes[:, 0] < 45  # A's
        away = {0: ~left, 1: left, 2: ~left & ~left}[stage]
        weight = STAGES[stage][1][0]
        shift = np.zeros((len(boxes), 4))
        shift[:, 1] = weight * 0.5 * away  # half a height down: an IoU of 1/3
        if stage == 1:
            shift[:, 1] -= weight * 0.5 * ~left  # B's go back
        return shift

    x, _, _ = batch((1,), (0,))
    truth = [sample(torch.tensor([A, B]), torch.tensor([rare, frequent]))]
    proposals = [InstanceData(bboxes=torch.tensor([A, B, [0.0, 60.0, 9.0, 70.0]]))]
    losses, seen = spied_stages(head, x, proposals, truth, predict)
    foreground = [sorted(set(labels[labels < NUM_CLASSES].tolist())) for _, labels in seen]
    assert foreground == [sorted([rare, frequent]), [rare], [frequent]]
    log2 = np.log(2)  # of a logit of 0
    for stage, kept in ((1, TAIL), (2, ~TAIL)):
        labels = seen[stage][1].numpy()
        background = (labels == NUM_CLASSES).sum() * kept.sum()
        # A foreground proposal has its own term and those of other frequent categories.
        own = sum(1 + (~TAIL).sum() - (not TAIL[label]) for label in labels if label < NUM_CLASSES)
        expected = (background + own) * log2 / len(labels)
        assert losses[f"s{stage}.loss_cls"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss, equal", [("SigmoidBCELoss", True), ("DropLoss", False)])
def test_each_stage_draws_for_itself(loss, equal):
    """With equal boxes, labels and logits, only the draws can be different."""
    head = roi_head(loss)
    x, _, _ = batch((1,), (0,))
    truth = [sample(torch.tensor([A, B]), torch.tensor([0, 4]))]
    proposals = [InstanceData(bboxes=torch.tensor([[0.0, 60.0, 9.0, 70.0]] * 40))]
    losses, seen = spied_stages(
        head, x, proposals, truth, lambda stage, boxes: np.zeros((len(boxes), 4))
    )
    assert all(torch.equal(labels, seen[0][1]) for _, labels in seen)
    values = [losses[f"s{stage}.loss_cls"].item() for stage in range(3)]
    assert (len(set(values)) == 1) == equal


# ---------------------------------------------------------------- two processes


class Trained(nn.Module):
    """The head as a module whose forward pass is its loss."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, x, proposals, truth):
        return total(self.head.loss(x, proposals, truth))


def part_of(rank):
    """The second process has neither proposals nor objects."""
    torch.manual_seed(rank)
    return batch((20,), (3,)) if rank == 0 else batch((0,), (0,))


def gradients(model, rank):
    model(*part_of(rank)).backward()
    return {name.split("head.", 1)[1]: p.grad.clone() for name, p in model.named_parameters()}


def build_for_processes(loss):
    torch.manual_seed(0)
    sync = dict(sync_statistics=True) if loss == "DropLoss" else {}
    head = roi_head(loss)
    for each in head.bbox_head:
        for key, value in sync.items():
            setattr(each.loss_cls, key, value)
    return Trained(head)


def process():
    rank, found = dist.get_rank(), {}
    for loss in ("SigmoidBCELoss", "DropLoss"):
        model = nn.parallel.DistributedDataParallel(build_for_processes(loss))
        found[loss] = gradients(model, rank)
    torch.save(found, f"{rank}.pth")


def test_two_processes_keep_step(tmp_path):
    in_processes(2, tmp_path, process, method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    for loss in ("SigmoidBCELoss", "DropLoss"):
        torch.testing.assert_close(first[loss], second[loss])
    alone = [gradients(build_for_processes("SigmoidBCELoss"), rank) for rank in range(2)]
    mean = {name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]}
    torch.testing.assert_close(first["SigmoidBCELoss"], mean)


# ---------------------------------------------------------------- mixed precision


def test_mixed_precision():
    """Boxes are refined in float32: half precision would move them by pixels."""
    head = roi_head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, seen = spied_stages(head, *batch())
    assert all(rois.dtype == torch.float32 for rois, _ in seen)
    assert len(seen[2][0]) > 0
    assert total(losses).isfinite()
    total(losses).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    head.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = head.predict(*batch())
    assert all(len(result) > 0 and result.scores.isfinite().all() for result in found)


@pytest.mark.skipif(
    is_compiled(), reason="mmcv has compiled no NMS of bfloat16, for MMDetection's RPN"
)
def test_mixed_precision_of_a_whole_detector(repository):
    model = detector(repository, BASE, "DropLoss")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = step(model, data())
        with torch.no_grad():
            found = model.eval().test_step(data())
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "roi_head" in name:
            assert parameter.grad.isfinite().all(), name
    for result in found:
        assert len(result.pred_instances) > 0
        assert result.pred_instances.bboxes.dtype == torch.float32


# ---------------------------------------------------------------- a run


def small_config(data_dir, work_dir, iterations):
    """The mini-LVIS config with the cascade in place of its RoI head."""
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(changes(data_dir, iterations))
    cfg.model.type = "CascadeRCNN"
    cfg.model.roi_head.type = "Detectron2CascadeRoIHead"
    cfg.launcher, cfg.work_dir, cfg.experiment_name = "none", str(work_dir), work_dir.name
    return cfg


def test_a_run_is_trained_resumed_tested_and_used(mini_lvis_dir, tmp_path):
    work_dir = tmp_path / "cascade"
    runner = Runner.from_cfg(small_config(mini_lvis_dir, work_dir, 2))
    runner.train()
    scalars = runner.message_hub.log_scalars
    for name in ("s0.loss_cls", "s1.loss_bbox", "s2.loss_cls", "loss_mask"):
        assert np.isfinite(scalars[f"train/{name}"].data[0]).all()
    trained = state_of(runner)

    cfg = small_config(mini_lvis_dir, work_dir, 3)
    cfg.resume = True
    runner = Runner.from_cfg(cfg)
    before = []
    runner.register_hook(
        type("Look", (Hook,), {"before_train": lambda _, r: before.append(state_of(r))})()
    )
    runner.train()
    torch.testing.assert_close(before[0], trained, rtol=0, atol=0)
    assert runner.iter == 3

    cfg = small_config(mini_lvis_dir, work_dir, 3)
    cfg.load_from = (work_dir / "last_checkpoint").read_text()
    cfg.test_dataloader.dataset.indices = 2
    metrics = Runner.from_cfg(cfg).test()
    assert {"lvis/bbox_AP", "lvis/segm_AP"} <= set(metrics)

    inferencer = DetInferencer(weights=cfg.load_from, device="cpu", show_progress=False)
    picture = str(min((mini_lvis_dir / "val2017").iterdir()))
    (found,) = inferencer(picture, no_save_vis=True)["predictions"]
    assert len(found["scores"]) == len(found["masks"]) == len(found["bboxes"]) > 0


def state_of(runner):
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


# ---------------------------------------------------------------- arguments

WRONG = {
    "a list of box heads": (
        dict(bbox_head=[config("LargeVocabBBoxHead")] * 3),
        r"bbox_head of \w+ is one dict for all stages",
    ),
    "a list of mask heads": (
        dict(mask_head=[{}] * 3, mask_roi_extractor={}),
        "mask_head of Detectron2CascadeRoIHead is one dict.*list.*LargeVocabCascadeRoIHead",
    ),
    "a list of training configs": (
        dict(train_cfg=[train_cfg()] * 3),
        "train_cfg.rcnn of Detectron2CascadeRoIHead is one dict.*list",
    ),
    "a mask head without extractor": (
        dict(mask_head={}),
        "mask_head and mask_roi_extractor .* belong together",
    ),
    "too few weights": (
        dict(stage_loss_weights=[1, 1]),
        "stage_loss_weights must have one entry .* num_stages=3 stages, but it has 2",
    ),
    "too many thresholds": (
        dict(stage_iou_thrs=[0.5, 0.6, 0.7, 0.8]),
        "stage_iou_thrs must have one entry .* num_stages=3 stages, but it has 4",
    ),
    "another threshold in the assigner": (
        dict(train_cfg=train_cfg(iou=0.4)),
        "stage_iou_thrs starts with 0.5, but pos_iou_thr of train_cfg.rcnn.assigner is 0.4",
    ),
    "another box head": (
        dict(bbox_head=dict(config("Shared2FCBBoxHead"), reg_class_agnostic=True)),
        "must be a LargeVocabBBoxHead.*is a Shared2FCBBoxHead",
    ),
    "boxes of each category": (
        dict(bbox_head=config("LargeVocabBBoxHead")),
        "needs reg_class_agnostic=True",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused(case):
    changes, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        roi_head(**changes)


def test_other_thresholds_and_no_training():
    cfg = dict(stage_iou_thrs=[0.4, 0.5, 0.9], train_cfg=train_cfg(iou=0.4))
    head = roi_head(**cfg)
    for attribute in ("pos_iou_thr", "neg_iou_thr", "min_pos_iou"):
        assert [getattr(each, attribute) for each in head.bbox_assigner] == [0.4, 0.5, 0.9]
    assert roi_head(train_cfg=None).bbox_assigner == []
