"""LargeVocabBBoxHead's detections are Shared2FCBBoxHead's, to the last bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import ConfigDict

from mmdet_droploss.models.roi_heads import large_vocab_bbox_head
from mmdet_droploss.models.roi_heads.topk_nms import topk_nms_is_exact

HEIGHT, WIDTH = 120, 160


def make_head(kind, num_classes, agnostic=False, loss=None, **coder):
    return MODELS.build(
        dict(
            type=kind,
            in_channels=1,
            fc_out_channels=2,
            roi_feat_size=1,
            num_classes=num_classes,
            reg_class_agnostic=agnostic,
            bbox_coder=dict(
                type="DeltaXYWHBBoxCoder",
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2],
                **coder,
            ),
            loss_cls=loss or dict(type="SigmoidBCELoss", num_classes=num_classes),
        )
    )


def make_outputs(
    num_proposals, num_classes, agnostic=False, scores="distinct", boxes="random", seed=0
):
    """What the two fully connected layers of a head give, without the layers."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(shape, generator=generator)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    if boxes == "inside":  # far from the image's border: the largest coordinate is not the image's
        corner = 20 + rand(num_proposals, 2) * 20
        rois = torch.cat([torch.zeros(num_proposals, 1), corner, corner + 5 + rand(1) * 20], dim=1)
    elif boxes == "identical":  # NMS leaves one a category
        rois = torch.tensor([[0.0, 30.0, 30.0, 70.0, 80.0]]).repeat(num_proposals, 1)
    else:
        corner = rand(num_proposals, 2) * torch.tensor([WIDTH, HEIGHT])
        size = 1 + rand(num_proposals, 2) * 60
        rois = torch.cat([torch.zeros(num_proposals, 1), corner, corner + size], dim=1)
    deltas = randn(num_proposals, 4 if agnostic else 4 * num_classes)
    deltas *= {"random": 1.0, "inside": 0.1, "identical": 0.0}[boxes]
    logits = {
        "distinct": lambda: distinct(num_proposals, num_classes, generator),
        # Ties, within and over categories, and at the border of the K best.
        "quantised": lambda: (randn(num_proposals, num_classes) * 2).round() - 4,
        "all equal": lambda: torch.full((num_proposals, num_classes), -3.0),
        "saturated": lambda: randn(num_proposals, num_classes).sign() * 60,
        "NaN": lambda: distinct(num_proposals, num_classes, generator).masked_fill(
            rand(num_proposals, num_classes) < 0.1, torch.nan
        ),
    }[scores]()
    return rois, logits, deltas


def distinct(num_proposals, num_classes, generator):
    """Logits in random order, no two of which give the same score."""
    number = num_proposals * num_classes
    order = torch.randperm(number, generator=generator)
    return torch.linspace(-10, 2, number)[order].reshape(num_proposals, num_classes)


def meta(scale_factor=(0.8, 0.75)):
    return dict(img_shape=(HEIGHT, WIDTH), scale_factor=scale_factor, ori_shape=(160, 200))


def predict(head, rois, logits, deltas, cfg, rescale, scale_factor=(0.8, 0.75)):
    return head.predict_by_feat(
        (rois,), (logits,), (deltas,), [meta(scale_factor)], ConfigDict(cfg), rescale=rescale
    )[0]


def assert_same(mine, theirs):
    for field in ("bboxes", "scores", "labels"):
        a, b = getattr(mine, field), getattr(theirs, field)
        assert a.dtype == b.dtype
        assert torch.equal(a, b), f"{field}: {len(a)} and {len(b)} detections"


def compare(num_proposals, num_classes, agnostic, scores, boxes, seed, cfg, rescale, scale=None):
    outputs = make_outputs(num_proposals, num_classes, agnostic, scores, boxes, seed)
    results = [
        predict(
            make_head(kind, num_classes, agnostic), *outputs, cfg, rescale, scale or (0.8, 0.75)
        )
        for kind in ("LargeVocabBBoxHead", "Shared2FCBBoxHead")
    ]
    assert_same(*results)
    return results[0]


@st.composite
def situations(draw, scores):
    num_classes = draw(st.sampled_from([1, 2, 7, 40, 150]))
    most = 300 if num_classes <= 40 else 60
    return dict(
        num_proposals=draw(st.integers(0, most)),
        num_classes=num_classes,
        agnostic=draw(st.booleans()),
        scores=draw(scores),
        boxes=draw(st.sampled_from(["random", "inside", "identical"])),
        seed=draw(st.integers(0, 2**31)),
        rescale=draw(st.booleans()),
        scale=draw(st.sampled_from([(1.0, 1.0), (0.8, 0.75), (1.7, 2.3), (3.3333333, 0.31)])),
        cfg=dict(
            score_thr=draw(st.sampled_from([0.0, 1e-4, 0.05, 0.99])),
            max_per_img=draw(st.sampled_from([1, 5, 20, 100, 300])),
            nms=dict(type="nms", iou_threshold=draw(st.sampled_from([0.0, 0.3, 0.5, 0.9]))),
        ),
    )


@settings(max_examples=max(150, settings().max_examples))
@given(situations(st.sampled_from(["distinct", "NaN"])))
def test_detections_are_those_of_mmdet(situation):
    compare(**situation)


def test_class_agnostic_nms_of_many_boxes_is_that_of_mmdet():
    """From split_thr boxes on MMCV suppresses within categories only, even so; and so does this."""
    cfg = dict(
        score_thr=0.0,
        max_per_img=100,
        nms=dict(type="nms", iou_threshold=0.5, class_agnostic=True),
    )
    compare(300, 40, False, "distinct", "random", 0, cfg, True)


def assert_greedy(result, rois, logits, deltas, head, cfg, rescale, scale_factor):
    """The result is one that greedy class-wise NMS can give, whatever it does about ties."""
    everything = head.predict_by_feat(
        (rois,), (logits,), (deltas,), [meta(scale_factor)], None, rescale=rescale
    )[0]
    num_classes = logits.shape[1]
    boxes = everything.bboxes.reshape(len(rois), -1, 4).expand(-1, num_classes, 4).reshape(-1, 4)
    scores = everything.scores[:, :-1].reshape(-1)
    labels = torch.arange(num_classes).repeat(len(rois))
    candidate = scores > cfg["score_thr"]
    boxes, scores, labels = boxes[candidate], scores[candidate], labels[candidate]
    threshold, tolerance = cfg["nms"]["iou_threshold"], 1e-3

    assert torch.equal(result.scores, result.scores.sort(descending=True).values)
    assert len(result) <= cfg["max_per_img"]
    # What was kept does not overlap.
    iou = bbox_overlaps(result.bboxes, result.bboxes)
    same = result.labels[:, None] == result.labels
    overlapping = same & (iou > threshold + tolerance)
    assert not overlapping.fill_diagonal_(False).any()
    # What was not kept was suppressed by a box of at least its score, or came after the last.
    iou = bbox_overlaps(boxes, result.bboxes)
    # A box that clipping left no area overlaps nothing, not even itself.
    itself = (boxes[:, None] == result.bboxes).all(dim=2)
    suppressed = (
        (labels[:, None] == result.labels)
        & ((iou > threshold - tolerance) | itself)
        & (result.scores >= scores[:, None])
    ).any(dim=1)
    last = result.scores[-1] if len(result) == cfg["max_per_img"] else -1
    assert (suppressed | (scores <= last)).all()


@settings(max_examples=max(80, settings().max_examples))
@given(situations(st.sampled_from(["quantised", "all equal", "saturated"])))
def test_ties_are_decided_as_greedy_nms_may(situation):
    """Sorting is not stable (nor MMCV's NMS), so mmdet's own choice among equals is arbitrary."""
    nms = situation["cfg"]["nms"]
    nms["iou_threshold"] = max(nms["iou_threshold"], 0.3)
    num_classes, agnostic = situation["num_classes"], situation["agnostic"]
    outputs = make_outputs(
        situation["num_proposals"],
        num_classes,
        agnostic,
        situation["scores"],
        situation["boxes"],
        situation["seed"],
    )
    how = (situation["cfg"], situation["rescale"], situation["scale"])
    head = make_head("LargeVocabBBoxHead", num_classes, agnostic)
    result = predict(head, *outputs, *how)
    if situation["num_proposals"]:
        assert_greedy(result, *outputs, head, *how)


LVIS_CFG = dict(score_thr=1e-4, max_per_img=300, nms=dict(type="nms", iou_threshold=0.5))


@pytest.mark.parametrize("score_thr", [0.0, 1e-4])
@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("scores, boxes", [("distinct", "random"), ("distinct", "inside")])
def test_detections_are_those_of_mmdet_at_the_size_of_lvis(score_thr, agnostic, scores, boxes):
    """More than split_thr boxes, too: there MMCV takes another way to the same result."""
    got = compare(60, 1203, agnostic, scores, boxes, 1, LVIS_CFG | dict(score_thr=score_thr), True)
    assert len(got) == 300


def test_of_equal_scores_the_first_proposal_and_then_the_first_category_goes_first():
    """So a result does not depend on the machine, as mmdet's does."""
    rois, logits, deltas = make_outputs(100, 40, True, "all equal", "inside")
    logits[50:] -= 5  # else all would go into one NMS, whose sort is not stable
    got = predict(
        make_head("LargeVocabBBoxHead", 40, True),
        rois,
        logits,
        deltas,
        LVIS_CFG | dict(max_per_img=45, nms=dict(type="nms", iou_threshold=1.0)),
        False,
    )
    assert got.labels.tolist() == [*range(40), *range(5)]
    assert got.bboxes.unique(dim=0).shape[0] == 2


def test_too_few_survivors_make_it_look_further():
    """Identical boxes: the first K of a category leave one detection, so K has to grow."""
    cfg = LVIS_CFG | dict(score_thr=0.0, max_per_img=20)
    got = compare(300, 25, True, "distinct", "identical", 2, cfg, False)
    assert len(got) == 20
    fewer = compare(300, 6, True, "distinct", "identical", 2, cfg, False)
    assert len(fewer) == 6


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.8, 0.75)])
def test_boxes_far_from_the_border_give_the_same_last_bits(scale):
    """MMCV's offset between categories depends on the largest coordinate of all boxes."""
    cfg = LVIS_CFG | dict(score_thr=0.0, max_per_img=10)
    for seed in range(20):
        compare(100, 40, False, "distinct", "inside", seed, cfg, True, scale)


def test_nothing_above_the_threshold():
    got = compare(50, 7, False, "distinct", "random", 0, LVIS_CFG | dict(score_thr=1.0), True)
    assert len(got) == 0
    assert got.bboxes.shape == (0, 4)


def test_no_proposals():
    got = compare(0, 7, False, "distinct", "random", 0, LVIS_CFG, True)
    assert got.bboxes.shape == (0, 4)


@given(seed=st.integers(0, 2**31), agnostic=st.booleans())
@settings(max_examples=15)
def test_softmax_heads_are_served_too(seed, agnostic):
    """A CrossEntropyLoss has a background column."""
    rois, _, deltas = make_outputs(80, 12, agnostic, seed=seed)
    logits = torch.randn(80, 13, generator=torch.Generator().manual_seed(seed))
    loss = dict(type="CrossEntropyLoss")
    results = [
        predict(make_head(kind, 12, agnostic, loss), rois, logits, deltas, LVIS_CFG, True)
        for kind in ("LargeVocabBBoxHead", "Shared2FCBBoxHead")
    ]
    assert_same(*results)


# ---------------------------------------------------------------- where the short way is not taken

FALLBACKS = {
    "every detection is wanted": (dict(max_per_img=-1), {}),
    "soft NMS": (dict(nms=dict(type="soft_nms", iou_threshold=0.5, min_score=0.01)), {}),
    "NMS with a limit of its own": (
        dict(nms=dict(type="nms", iou_threshold=0.5, max_num=5)),
        {},
    ),
    "NMS over all categories": (
        dict(nms=dict(type="nms", iou_threshold=0.5, class_agnostic=True)),
        {},
    ),
    "boxes are not clipped": ({}, dict(clip_border=False)),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_other_ways_of_post_processing_are_left_to_mmdet(case, monkeypatch):
    changes, coder = FALLBACKS[case]

    def refuse(*args, **kwargs):
        raise AssertionError("topk_multiclass_nms was called")

    monkeypatch.setattr(large_vocab_bbox_head, "topk_multiclass_nms", refuse)
    outputs = make_outputs(60, 7)
    results = [
        predict(make_head(kind, 7, **coder), *outputs, LVIS_CFG | changes, True)
        for kind in ("LargeVocabBBoxHead", "Shared2FCBBoxHead")
    ]
    assert_same(*results)
    assert len(results[0]) > 0


def test_the_short_way_is_taken_for_the_configs_here(monkeypatch):
    """Else the tests above would compare mmdet with itself."""
    called = []
    original = large_vocab_bbox_head.topk_multiclass_nms
    monkeypatch.setattr(
        large_vocab_bbox_head,
        "topk_multiclass_nms",
        lambda *args: called.append(1) or original(*args),
    )
    predict(make_head("LargeVocabBBoxHead", 7), *make_outputs(60, 7), LVIS_CFG, True)
    assert called


def test_raw_scores_for_test_time_augmentation():
    """rcnn_test_cfg None asks for boxes and scores without NMS."""
    rois, logits, deltas = make_outputs(20, 7)
    results = [
        make_head(kind, 7).predict_by_feat((rois,), (logits,), (deltas,), [meta()], None)[0]
        for kind in ("LargeVocabBBoxHead", "Shared2FCBBoxHead")
    ]
    assert torch.equal(results[0].bboxes, results[1].bboxes)
    assert torch.equal(results[0].scores, results[1].scores)
    assert results[0].scores.shape == (20, 8)


@pytest.mark.parametrize(
    "nms, max_per_img, expected",
    [
        (dict(type="nms", iou_threshold=0.5), 300, True),
        (dict(iou_threshold=0.5), 300, True),
        (dict(type="nms", iou_threshold=0.5, split_thr=100), 300, False),
        (dict(type="nms", iou_threshold=0.5, class_agnostic=True), 300, False),
        (dict(type="nms", iou_threshold=0.5), -1, False),
        (dict(type="nms", iou_threshold=0.5), 0, False),
        (dict(type="soft_nms", iou_threshold=0.5), 300, False),
        (dict(type="nms", iou_threshold=0.5, score_threshold=0.1), 300, False),
        (dict(type="nms"), 300, False),
        (None, 300, False),
    ],
)
def test_topk_nms_is_exact(nms, max_per_img, expected):
    assert topk_nms_is_exact(nms, max_per_img) is expected


@example(seed=0)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_images_of_a_batch_are_independent(seed):
    head = make_head("LargeVocabBBoxHead", 7)
    batch = [make_outputs(n, 7, seed=seed + n) for n in (30, 0, 12)]
    together = head.predict_by_feat(
        *(tuple(column) for column in zip(*batch, strict=True)),
        [meta()] * 3,
        ConfigDict(LVIS_CFG),
        rescale=True,
    )
    for outputs, result in zip(batch, together, strict=True):
        assert_same(result, predict(head, *outputs, LVIS_CFG, True))
