"""mmdet's EQLv2 in a bbox head: its own outputs and its own scores."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS


def test_a_head_takes_the_scores_of_the_loss_not_a_softmax():
    head = MODELS.build(
        dict(
            type="LargeVocabBBoxHead",
            in_channels=1,
            fc_out_channels=2,
            roi_feat_size=1,
            num_classes=6,
            loss_cls=dict(type="EQLV2BBoxLoss", num_classes=6),
        )
    )
    assert head.fc_cls.out_features == 7
    logits = torch.randn(5, 7)
    rois = torch.tensor([[0.0, 1.0, 2.0, 30.0, 40.0]]).repeat(5, 1)
    meta = dict(img_shape=(50, 60), scale_factor=(1.0, 1.0))
    (found,) = head.predict_by_feat((rois,), (logits.clone(),), (torch.zeros(5, 24),), [meta])
    scores = logits.sigmoid()
    torch.testing.assert_close(found.scores[:, :-1], scores[:, :-1] * (1 - scores[:, -1:]))
    losses = head.loss(
        logits.requires_grad_(),
        torch.zeros(5, 24),
        rois,
        torch.tensor([0, 3, 6, 6, 6]),
        torch.ones(5),
        torch.zeros(5, 4),
        torch.zeros(5, 4),
    )
    assert losses["loss_cls"] > 0 and 0 <= losses["acc"] <= 100


def test_mmdets_own_eqlv2_is_as_it_was():
    """Importing this package changes nothing for the other configs of a process."""
    loss = MODELS.build(dict(type="EQLV2Loss", num_classes=6))
    assert type(loss).__module__.startswith("mmdet.")
    assert not hasattr(loss, "custom_cls_channels")


def test_no_class_of_mmdet_is_replaced():
    """A name that mmdet has registered is still the class of mmdet."""
    import mmdet.models  # noqa: F401

    replaced = {
        name
        for name, cls in MODELS.module_dict.items()
        if cls.__module__.startswith("mmdet_droploss.")
        and any(base.__name__ == name for base in cls.__mro__[1:])
    }
    assert not replaced
