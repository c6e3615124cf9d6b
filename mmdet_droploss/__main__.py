"""Run a program of MMDetection's own with this package imported first.

    python -m mmdet_droploss demo/image_demo.py PICTURE CONFIG --weights CHECKPOINT

Where mmcv has no compiled operators, a program that imports mmdet first stops with ``No module
named 'mmcv._ext'``: torchvision's operators stand in as soon as this package is imported.
"""

import os
import runpy
import sys


def main() -> None:
    """Run the file that the first argument names, with the other arguments."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if len(sys.argv) > 1 else 2)
    del sys.argv[0]
    if not os.path.isfile(sys.argv[0]):
        sys.exit(f"mmdet_droploss: there is no program {sys.argv[0]!r}")
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))  # where Python puts a program's own
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
