"""Modules that MMDetection builds by name: losses and heads."""

from .losses import (
    BEQL,
    EQL,
    DropLoss,
    EQLV2BBoxLoss,
    FederatedLoss,
    FixedDropLoss,
    SigmoidBCELoss,
)
from .roi_heads import (
    CustomLossDoubleConvFCBBoxHead,
    Detectron2CascadeRoIHead,
    FastRoIExtractor,
    LargeVocabBBoxHead,
    LargeVocabCascadeRoIHead,
    LargeVocabMaskHead,
)

__all__ = [
    "BEQL",
    "EQL",
    "Detectron2CascadeRoIHead",
    "CustomLossDoubleConvFCBBoxHead",
    "DropLoss",
    "EQLV2BBoxLoss",
    "FastRoIExtractor",
    "FederatedLoss",
    "FixedDropLoss",
    "LargeVocabBBoxHead",
    "LargeVocabCascadeRoIHead",
    "LargeVocabMaskHead",
    "SigmoidBCELoss",
]
