"""The log of a run: all warnings, each once, and none that other packages cause by themselves."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from types import FrameType
from typing import TextIO

from mmengine.logging import MMLogger, print_log
from mmengine.runner import Runner

#: Python warnings of other packages about their own use of others: the message's beginning, the
#: category, and the module that is to blame. The same from a module of the user's is shown.
PACKAGES_OWN = [
    ("pkg_resources is deprecated", UserWarning, r"(mmengine|mmcv|mmdet|pkg_resources)\b"),
    ("torch.meshgrid: in an upcoming release", UserWarning, r"torch\.functional$"),
    (r"`?torch\.(cuda|cpu)\.amp\.", FutureWarning, r"(mmengine|mmcv|mmdet)\."),
    (r"You are using `torch\.load` with `weights_only=False`", FutureWarning, r"mmengine\."),
    ("`broadcast_buffers` is deprecated", FutureWarning, r"mmengine\.model\.wrappers\."),
]
#: The same of what MMEngine logs.
LOGGED_BY_MMENGINE = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')

_early: list[str] = []
_show = warnings.showwarning


class _NotOfItsOwn(logging.Filter):
    """Hides MMEngine's deprecation notices where MMEngine's own code causes them."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith(LOGGED_BY_MMENGINE):
            return True
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if not module.startswith(("logging", "mmengine.logging", "mmengine.fileio")):
                return module.split(".")[0] not in ("mmengine", "mmcv", "mmdet")
            frame = frame.f_back
        return True


def _log(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Takes the place of :func:`warnings.showwarning`."""
    text = f"{filename}:{lineno}: {category.__name__}: {message}"
    is_first = os.environ.get("RANK", "0") == "0"
    if file is None and is_first and MMLogger._instance_dict:
        print_log(text, "current", logging.WARNING)
        return
    _show(message, category, filename, lineno, file, line)
    if is_first:
        _early.append(text)


def log_warnings() -> None:
    """Send warnings to MMEngine's logger, and so to the log file, and hide the packages' own.

    ``-W`` and ``PYTHONWARNINGS`` come first. The other processes of a distributed run keep to
    Python's way, because MMEngine's logger is silent there.
    """
    for message, category, module in PACKAGES_OWN:
        warnings.filterwarnings("ignore", message, category, module, append=True)
    if warnings.showwarning is not _log:
        global _show
        _show = warnings.showwarning
        warnings.showwarning = _log


def complete_log(runner: Runner) -> None:
    """Put what was warned of before there was a log file into it, and quieten MMEngine's notices.

    Args:
        runner: The runner, as it was built.
    """
    runner.logger.addFilter(_NotOfItsOwn())
    for handler in runner.logger.handlers:
        if isinstance(handler, logging.FileHandler):
            for text in _early:
                handler.handle(
                    runner.logger.makeRecord("mmengine", logging.WARNING, "", 0, text, (), None)
                )
    _early.clear()
