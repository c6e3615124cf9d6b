"""Write generated pages, or say whether they are up to date."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from mmdet_droploss.utils import write_atomically


def write_pages(pages: Mapping[Path, str], check: bool, command: str) -> int:
    """Write the pages that are not as they should be.

    Args:
        pages: What they should be, by path.
        check: Only say which are not, and that ``command`` writes them.
        command: How the user calls the script.

    Returns:
        The exit status: 1 if ``check`` found one that is out of date.
    """
    status = 0
    for path, page in pages.items():
        if path.is_file() and path.read_text(encoding="utf-8") == page:
            print(f"{path} is up to date")
        elif check:
            print(f"{path} is out of date; run: {command}", file=sys.stderr)
            status = 1
        else:
            write_atomically(path, page)
            print(f"wrote {path}")
    return status
