"""What MMEngine's logger says, for tests to look at."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

from mmengine.logging import MMLogger


@contextlib.contextmanager
def logged() -> Iterator[io.StringIO]:
    """What MMEngine's logger says; pytest's caplog does not see it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        yield stream
    finally:
        logger.removeHandler(handler)
