"""List or clear the cache of parsed annotations.

Run ``python annotation_cache.py --help`` for what it is and where.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mmdet_droploss.datasets.annotation_cache import (
    CACHE_VARIABLE,
    Entry,
    cache_root,
    list_entries,
    remove_entry,
)

DESCRIPTION = f"""\
FastCocoDataset, FastLVISV1Dataset and FastLVISV05Dataset parse an annotation file once per machine
and keep the result in a cache, which all processes map into memory. An entry is used only for the
very content and options it was made of, so that clearing is never needed for correctness; it makes
room. Running trainings are not disturbed.

The cache is in the user's cache folder, or where {CACHE_VARIABLE} says.
"""

EPILOG = """\
examples:
  python tools/misc/annotation_cache.py list
  python tools/misc/annotation_cache.py clear
  python tools/misc/annotation_cache.py clear lvis_v1_train    # of files with this in their path
"""


def human(size: float) -> str:
    """A size in bytes, to be read."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def describe(entry: Entry) -> str:
    """One line about an entry."""
    if entry.key is None:
        return f"{human(entry.size):>8}  {entry.folder.name[:8]}  incomplete or damaged"
    kind = entry.key["dataset"].rsplit(".", 1)[-1]
    return f"{human(entry.size):>8}  {entry.folder.name[:8]}  {kind}  {entry.key['ann_file']}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("list", "clear"), help="what to do")
    parser.add_argument(
        "pattern", nargs="?", default="", help="only entries whose annotation file's path has this"
    )
    args = parser.parse_args(argv)
    chosen = [
        entry
        for entry in list_entries()
        if args.pattern in (entry.key["ann_file"] if entry.key else "")
    ]
    for entry in chosen:
        print(describe(entry))
        if args.action == "clear":
            remove_entry(entry)
    total = human(sum(entry.size for entry in chosen))
    verb = "removed from" if args.action == "clear" else "in"
    print(f"{len(chosen)} entries, {total}, {verb} {cache_root()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
