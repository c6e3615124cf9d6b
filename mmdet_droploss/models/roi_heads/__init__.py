"""Heads for large vocabularies, and their post-processing."""

from .cascade_roi_head import LargeVocabCascadeRoIHead
from .detectron2_cascade_roi_head import Detectron2CascadeRoIHead
from .double_bbox_head import CustomLossDoubleConvFCBBoxHead
from .large_vocab_bbox_head import LargeVocabBBoxHead
from .large_vocab_mask_head import LargeVocabMaskHead
from .roi_extractor import FastRoIExtractor

__all__ = [
    "Detectron2CascadeRoIHead",
    "CustomLossDoubleConvFCBBoxHead",
    "FastRoIExtractor",
    "LargeVocabBBoxHead",
    "LargeVocabCascadeRoIHead",
    "LargeVocabMaskHead",
]
