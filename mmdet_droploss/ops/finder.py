"""Where Python finds ``mmcv._ext`` if mmcv has none."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

NAME = "mmcv._ext"
EXTENSION = Path(__file__).with_name("extension.py")


class StandInFinder(MetaPathFinder):
    """Finds ``extension.py`` under the name of mmcv's compiled module.

    It is the last one that Python asks, so mmcv's own comes first, also if it is broken: then it
    has to be mended, not hidden. mmcv and MMEngine look for the module's spec before they import
    it, which is why a module put into ``sys.modules`` would not do.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of ``extension.py`` for mmcv's compiled module, None for all others."""
        return importlib.util.spec_from_file_location(NAME, EXTENSION) if fullname == NAME else None


def stand_in() -> None:
    """Let torchvision's operators stand in where mmcv has none compiled."""
    if not any(isinstance(finder, StandInFinder) for finder in sys.meta_path):
        sys.meta_path.append(StandInFinder())


def is_compiled() -> bool:
    """Whether the installed mmcv has operators of its own, be they broken."""
    spec = importlib.util.find_spec(NAME)
    return spec is not None and spec.origin != str(EXTENSION)
