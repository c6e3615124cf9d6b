"""Data sets, the sampler that chooses their next image, and how often each category occurs."""

from ..annotations import BUNDLED, GROUP_NAMES, ClassFrequency, load_class_frequency
from .coco import FastCocoDataset
from .lvis import FastLVISV05Dataset, FastLVISV1Dataset
from .repeat_factor_sampler import RepeatFactorSampler, repeat_factors

__all__ = [
    "BUNDLED",
    "GROUP_NAMES",
    "ClassFrequency",
    "FastCocoDataset",
    "FastLVISV05Dataset",
    "FastLVISV1Dataset",
    "RepeatFactorSampler",
    "load_class_frequency",
    "repeat_factors",
]
