"""Losses for long-tailed classification in detection: equations.py first, then losses.py."""

from .eqlv2 import EQLV2Loss
from .losses import BEQL, EQL, DropLoss, FixedDropLoss, LongTailLoss, SigmoidBCELoss

__all__ = [
    "BEQL",
    "EQL",
    "DropLoss",
    "EQLV2Loss",
    "FixedDropLoss",
    "LongTailLoss",
    "SigmoidBCELoss",
]
