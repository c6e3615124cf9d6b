"""Losses for long-tailed classification in detection: equations.py first, then losses.py."""

from .losses import BEQL, EQL, DropLoss, FixedDropLoss, LongTailLoss, SigmoidBCELoss

__all__ = ["BEQL", "EQL", "DropLoss", "FixedDropLoss", "LongTailLoss", "SigmoidBCELoss"]
