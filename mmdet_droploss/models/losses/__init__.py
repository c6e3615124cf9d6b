"""Losses for long-tailed classification in detection: equations.py first, then paper_losses.py."""

from .eqlv2 import EQLV2BBoxLoss
from .federated_loss import FederatedLoss
from .long_tail_loss import LongTailLoss
from .paper_losses import BEQL, EQL, DropLoss, FixedDropLoss, SigmoidBCELoss

__all__ = [
    "BEQL",
    "EQL",
    "DropLoss",
    "EQLV2BBoxLoss",
    "FederatedLoss",
    "FixedDropLoss",
    "LongTailLoss",
    "SigmoidBCELoss",
]
