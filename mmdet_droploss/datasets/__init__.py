"""What the data set knows: how often each category occurs."""

from .class_frequency import BUNDLED, GROUP_NAMES, ClassFrequency, load_class_frequency

__all__ = ["BUNDLED", "GROUP_NAMES", "ClassFrequency", "load_class_frequency"]
