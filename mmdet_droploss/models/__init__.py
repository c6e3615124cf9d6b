"""Modules that MMDetection builds by name: losses and heads."""

from .losses import BEQL, EQL, DropLoss, FixedDropLoss, SigmoidBCELoss
from .roi_heads import (
    DoubleConvFCBBoxHead,
    FastRoIExtractor,
    LargeVocabBBoxHead,
    LargeVocabCascadeRoIHead,
    LargeVocabMaskHead,
)

__all__ = [
    "BEQL",
    "EQL",
    "DoubleConvFCBBoxHead",
    "DropLoss",
    "FastRoIExtractor",
    "FixedDropLoss",
    "LargeVocabBBoxHead",
    "LargeVocabCascadeRoIHead",
    "LargeVocabMaskHead",
    "SigmoidBCELoss",
]
