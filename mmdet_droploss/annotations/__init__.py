"""What an annotation file says, read top to bottom: reader, rule, frequencies, ground truth.

``reader`` alone reads annotation files; ``rule`` says which annotations count; ``class_frequency``
counts them; ``ground_truth`` hands them to the metric. ``segmentations``, ``pictures`` and
``names`` say what is amiss.

Nothing here needs a data set, a model or a runner; they all take what they need from here.
"""

from .class_frequency import BUNDLED, GROUP_NAMES, ClassFrequency, load_class_frequency
from .ground_truth import GroundTruth
from .pictures import check_pictures
from .reader import AnnotationFile, read_annotation_file

__all__ = [
    "BUNDLED",
    "GROUP_NAMES",
    "AnnotationFile",
    "ClassFrequency",
    "GroundTruth",
    "check_pictures",
    "load_class_frequency",
    "read_annotation_file",
]
