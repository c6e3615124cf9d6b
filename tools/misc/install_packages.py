"""Install what this repository needs into the environment of the Python that runs this.

tools/setup_env.sh makes that environment and calls this; its --help describes the variables. Only
the standard library is used, since nothing else need be there.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
#: What is installed for each module, unless the environment has it.
STACKS = {
    "openmmlab": {
        "mmengine": "mmengine==0.10.7",
        "mmcv": "mmcv-lite==2.1.0",
        "mmdet": "mmdet==3.3.0",
    },
    "onedl": {
        "mmengine": "onedl-mmengine==0.10.12",
        "mmcv": "onedl-mmcv==2.3.6",
        "mmdet": "onedl-mmdetection==3.5.1",
    },
}
#: MMEngine takes pkg_resources to find configs like mmdet::..., and setuptools has dropped it.
TOOLS = {"pkg_resources": "setuptools>=64,<81", "wheel": "wheel"}
STAMP = Path(sys.prefix) / "mmdet_droploss_setup.stamp"
CONSTRAINTS = Path(sys.prefix) / "mmdet_droploss_constraints.txt"


def say(text: str) -> None:
    """Print a line under the script's name."""
    print(f"setup_env: {text}", flush=True)


def die(text: str) -> NoReturn:
    """End with a line under the script's name."""
    sys.exit(f"setup_env: {text}")


def pip(command: str, *arguments: str, hint: str = "is the network there?") -> None:
    """Call pip, with its bars on a terminal."""
    options = ["--disable-pip-version-check", "--no-input"]
    if not sys.stdout.isatty():
        options.append("--quiet")
    if command == "install" and CONSTRAINTS.exists():
        options += ["--constraint", str(CONSTRAINTS)]
    done = subprocess.run([sys.executable, "-m", "pip", command, *arguments, *options])
    if done.returncode:
        die(f"pip could not do that, see above ({hint}); the same command goes on here")
    importlib.invalidate_caches()


def version(distribution: str) -> str | None:
    """The installed version of a distribution; None if it is not there."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def runs(code: str) -> subprocess.CompletedProcess:
    """Run code in a Python of its own, outside of the repository."""
    return subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)


def install_torch(spec: str) -> None:
    """torch, unless it is there, and from then on no other."""
    CONSTRAINTS.unlink(missing_ok=True)
    if version("torch") is None:
        say(spec)
        if platform.system() == "Linux" and not re.search(r"[+ ]", spec):
            say(
                "  for Linux this is the build for CUDA: about 3 GB to fetch and 6 GB on disk.\n"
                "  The build for CPUs takes a tenth. To have it, stop here and set\n"
                f'    TORCH_SPEC="{spec} --index-url URL"\n'
                '  with the URL that PyTorch\'s page "Get Started" gives for pip and CPU.'
            )
        pip("install", *spec.split())
    numpy = "numpy>=1.26,<3"
    # torch before 2.3 is compiled for NumPy 1, which it does not tell pip.
    if release(metadata.version("torch")) < (2, 3):
        numpy = "numpy>=1.26,<2"
    CONSTRAINTS.write_text(f"torch=={metadata.version('torch')}\n{numpy}\n")


def install_torchvision(spec: str) -> None:
    """The torchvision that belongs to the torch that is there, from the same place."""
    if version("torchvision") is not None:
        return
    torch, plus, build = metadata.version("torch").partition("+")
    minor, patch = release(torch)[1:3]
    wanted = f"torchvision==0.{minor + 15}.{patch}{plus}{build}"
    say(f"{wanted}, which belongs to torch {torch}{plus}{build}")
    options = [word for word in spec.split() if not re.match(r"torch\b", word)]
    hint = f"{wanted} has to come from where this torch did; is the network there?"
    pip("install", wanted, *options, hint=hint)


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, to compare: ``"2.13.0+cpu"`` gives (2, 13, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


def mend_opencv() -> None:
    """opencv-python wants the libraries of a screen, which servers and containers do not have."""
    said = runs("import cv2").stderr.strip()
    if not re.search(r"lib\w[\w+-]*\.so", said) or version("opencv-python") is None:
        return
    headless = f"opencv-python-headless=={version('opencv-python')}"
    say(f"{headless} in place of opencv-python ({said.splitlines()[-1]})")
    pip("uninstall", "--yes", "opencv-python")
    pip("install", "--force-reinstall", "--no-deps", headless)


def install(extras: set[str], ops: str, stack: str, torch: str) -> None:
    """Everything that is missing, in the order of need."""
    install_torch(torch)
    if ops == "torchvision" or "tests" in extras:  # the tests compare its operators with mmcv's
        install_torchvision(torch)
    packages = {**TOOLS, **STACKS[stack]}
    # An mmcv with compiled operators, and a fork in the user's own environment, stay.
    missing = [spec for name, spec in packages.items() if importlib.util.find_spec(name) is None]
    if missing:
        say(" ".join(missing))
        pip("install", *missing)
    package = str(ROOT) + (f"[{','.join(sorted(extras))}]" if extras else "")
    say(f"mmdet_droploss{package.removeprefix(str(ROOT))}, editable")
    pip("install", "--no-build-isolation", "--editable", package)
    mend_opencv()
    if ops == "compiled" and runs("import torch, mmcv._ext").returncode:
        build = ["bash", str(ROOT / "tools" / "misc" / "build_mmcv.sh")]
        if subprocess.run(build, env={**os.environ, "PYTHON": sys.executable}).returncode:
            die("mmcv could not be compiled, see above; the same command goes on here")
    done = runs("import mmdet_droploss")
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1])
        die(f"all is installed in {sys.prefix}, but it does not work, see above")


def state(ops: str, stack: str) -> str:
    """What a complete environment was made from. Nothing is imported for it: it takes no time."""
    sources = ("setup.cfg", "setup.py", "tools/setup_env.sh", "tools/misc/install_packages.py")
    digest = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in sources)).hexdigest()
    names = ("torch", "torchvision", "mmcv-lite", "mmcv", "onedl-mmcv", "mmdet_droploss")
    versions = [f"{name} {version(name)}" for name in names]
    return "\n".join([sys.version, *versions, ops, stack, digest, str(ROOT)])


def main() -> None:
    """Install what is missing, or say it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether anything is missing")
    args = parser.parse_args()
    ops, stack = os.environ["SETUP_OPS"], os.environ["SETUP_STACK"]
    for name, value, allowed in (
        ("SETUP_OPS", ops, ("torchvision", "compiled")),
        ("SETUP_STACK", stack, tuple(STACKS)),
    ):
        if value not in allowed:
            die(f"{name}={value}, allowed are {' and '.join(allowed)}")
    extras = {name for name in re.split(r"[,\s]+", os.environ["SETUP_EXTRAS"]) if name}

    had, _, made_from = STAMP.read_text().partition("\n") if STAMP.exists() else ("", "", "")
    if made_from == state(ops, stack) and extras <= set(had.split(",")):
        return
    if args.check:
        die(f"not all is there in {sys.prefix}; bash tools/setup_env.sh installs what is missing")
    extras |= set(filter(None, had.split(",")))  # what an earlier run was asked for stays wanted
    STAMP.unlink(missing_ok=True)  # an interrupted run must not leave one behind
    install(extras, ops, stack, os.environ["TORCH_SPEC"])
    new = STAMP.with_suffix(".new")
    new.write_text(",".join(sorted(extras)) + "\n" + state(ops, stack))
    new.replace(STAMP)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        die("stopped; the same command goes on here")
