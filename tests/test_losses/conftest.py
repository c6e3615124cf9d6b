"""Models are built here without a runner."""

from __future__ import annotations

import pytest
from mmengine.registry import init_default_scope


@pytest.fixture(autouse=True)
def _scope():
    """Whatever scope a test elsewhere has left."""
    init_default_scope("mmdet")
