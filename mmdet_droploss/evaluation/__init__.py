"""Metrics."""

from .fast_lvis_metric import METRIC_KEYS, FastLVISMetric

__all__ = ["METRIC_KEYS", "FastLVISMetric"]
