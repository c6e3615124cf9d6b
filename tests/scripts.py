"""Programs of the repository, called in this process: another would spend seconds on imports."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def load_script(path):
    """A program as a module of its own; its path is seen from the root of the repository."""
    path = ROOT / path
    spec = importlib.util.spec_from_file_location(f"{path.stem}_script", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # as for a program
    sys.modules[spec.name] = module  # where a dataclass looks for it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
        del sys.modules[spec.name]
    return module
