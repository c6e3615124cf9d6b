"""``mmcv.ops`` with torchvision's operators, whether this mmcv has compiled ones or not."""

import sys

import mmcv.ops  # noqa: F401
import pytest

from mmdet_droploss.ops import extension


@pytest.fixture
def ours(monkeypatch):
    """Let mmcv's layers and functions call ours."""
    for name, module in list(sys.modules.items()):
        if name.startswith("mmcv.ops.") and hasattr(module, "ext_module"):
            monkeypatch.setattr(module, "ext_module", extension)
