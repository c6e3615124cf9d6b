"""Print what a machine without network needs beside torch and torchvision, as pip's requirements.

On a machine with network, in an environment that setup_env.sh has made with the same Python:

    python tools/misc/offline_packages.py > offline.txt
    pip download --only-binary :all: --no-deps --dest wheels --requirement offline.txt

On the other, in an environment with torch and torchvision:

    pip install --no-index --find-links wheels --requirement offline.txt
    pip install --no-index --no-deps --no-build-isolation --editable .
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(names: Iterable[str]) -> dict[str, str]:
    """The installed distributions that these need, themselves included, and their versions.

    Args:
        names: Requirements, such as ``"mmdet_droploss[tests]"``.

    Raises:
        PackageNotFoundError: If one of these is not installed.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    left = [Requirement(name) for name in names]
    while left:
        requirement = left.pop()
        name: str = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            # Another distribution may be there instead: opencv-python-headless.
            name = installed_name(name)
            distribution = metadata.distribution(name)
            found[name] = distribution.version
            needed = [Requirement(text) for text in distribution.requires or ()]
            left += [n for n in needed if n.marker is None or n.marker.evaluate({"extra": extra})]
    return found


def installed_name(name: str) -> str:
    """The headless OpenCV, which setup_env.sh may have put in the other's place."""
    if name != "opencv-python":
        return name
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return "opencv-python-headless"
    return name


def main() -> None:
    """Print the list."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extras", default="", help="of the package as well, e.g. tests,docs")
    args = parser.parse_args()
    stack = ("mmengine", "mmcv-lite", "mmdet", "setuptools", "wheel")
    try:
        needed = closure([f"mmdet_droploss[{args.extras}]", *stack])
        there = closure(["torch", "torchvision"])
    except metadata.PackageNotFoundError as error:
        parser.error(f"{error.name} is not installed here; source tools/setup_env.sh first")
    for name in {"mmdet-droploss", *there} & needed.keys():
        del needed[name]
    for name in sorted(needed):
        print(f"{name}=={needed[name]}")


if __name__ == "__main__":
    main()
