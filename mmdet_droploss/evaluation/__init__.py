"""Metrics."""

from .fast_lvis_metric import FastLVISMetric
from .lvis_evaluator import METRIC_KEYS

__all__ = ["METRIC_KEYS", "FastLVISMetric"]
