"""Heads for large vocabularies, and their post-processing."""

from .cascade_roi_head import LargeVocabCascadeRoIHead
from .double_bbox_head import DoubleConvFCBBoxHead
from .large_vocab_bbox_head import LargeVocabBBoxHead
from .large_vocab_mask_head import LargeVocabMaskHead
from .roi_extractor import FastRoIExtractor

__all__ = [
    "DoubleConvFCBBoxHead",
    "FastRoIExtractor",
    "LargeVocabBBoxHead",
    "LargeVocabCascadeRoIHead",
    "LargeVocabMaskHead",
]
