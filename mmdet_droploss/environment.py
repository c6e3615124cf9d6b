"""Says in one sentence what is wrong with an installation, and which command mends it.

The packages below this one fail in ways that do not name the cause: an mmcv compiled for another
torch with an undefined symbol, a torchvision of another torch with an operator that does not exist,
a version that mmdet refuses with an assertion. :func:`check_environment` runs before anything of
this package needs them. :func:`gather_facts` looks, :func:`diagnose` judges.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from .ops import is_compiled

#: The names to import, in the order in which they need each other.
PACKAGES = ("numpy", "torch", "mmengine", "mmcv", "torchvision", "mmdet")

#: The maintained forks of OpenMMLab's packages, which import under the same names.
FORKS = {"mmengine": "onedl-mmengine", "mmcv": "onedl-mmcv", "mmdet": "onedl-mmdetection"}

#: The newest Python that mmengine runs on: it calls ``pkgutil.find_loader``, which 3.14 lacks.
NEWEST_PYTHON = (3, 13)


class Requirement(NamedTuple):
    """The versions that work, lowest included, ``below`` excluded."""

    lowest: str
    below: str | None
    install: str  # the command that gives a version in range


REQUIREMENTS = {
    "numpy": Requirement("1.26", "3", 'pip install "numpy>=1.26,<3"'),
    "torch": Requirement("2.1", None, 'pip install "torch>=2.1"'),
    "torchvision": Requirement("0.16", None, "pip install torchvision"),
    "mmengine": Requirement("0.10.7", "1", "pip install mmengine==0.10.7"),
    # Wide bounds: mmdet knows which mmcv it accepts, and the forks' mmdet accepts another.
    "mmcv": Requirement("2.0.0", "3", "pip install mmcv-lite==2.1.0"),
    "mmdet": Requirement("3.3.0", "4", "pip install mmdet==3.3.0"),
}


#: What torch says, at the first array, if it was built for another major version of numpy.
NUMPY_NOT_AVAILABLE = "Numpy is not available"


class IncompatibleEnvironmentError(ImportError):
    """The installed packages cannot work together; the message says which command mends it."""


class Facts(NamedTuple):
    """What an environment looks like. The mappings have the names of :data:`PACKAGES` as keys."""

    #: Installed versions; None for a package that is not there.
    versions: Mapping[str, str | None]
    #: What a package that is there said instead of being imported; torch: of making an array.
    failures: Mapping[str, str] = {}
    #: Whether mmcv has compiled operators, loaded or not; if so, torchvision is not needed.
    compiled: bool = False
    #: The distributions that provide mmcv. More than one: they are installed over each other.
    mmcv_distributions: Sequence[str] = ("mmcv-lite",)
    python: tuple[int, int] = NEWEST_PYTHON

    def version(self, name: str) -> str:
        """The version of a package; 0 if it is not there."""
        return self.versions[name] or "0"


def release(version: str) -> tuple[int, ...]:
    """Turn a version into what can be compared: ``"2.13.0+cpu"`` into ``(2, 13)``."""
    match = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in match.group().split(".")] if match else [0]
    while len(parts) > 1 and parts[-1] == 0:  # 3 and 3.0.0 are the same version
        parts.pop()
    return tuple(parts)


def matching_torchvision(torch: str) -> str:
    """The torchvision of a torch from 2.1 on: ``"0.29.1"`` for ``"2.14.1+cpu"``."""
    _, minor, patch, *_ = (*release(torch), 0, 0)
    return f"0.{minor + 15}.{patch}"


def diagnose(facts: Facts) -> list[str]:
    """What cannot work, one sentence each. Pure, so that every case can be tested.

    Only the first package that cannot work is reported, in the order in which they need each other:
    the complaints of those above it are its consequences. Missing packages are all reported.
    """
    if facts.python > NEWEST_PYTHON:
        return [
            f"this is Python {facts.python[0]}.{facts.python[1]}, and 3.{NEWEST_PYTHON[1]} is the "
            "newest that mmengine 0.10.7 runs on, which mmdet_droploss needs: make an environment "
            "with that"
        ]
    names = [name for name in PACKAGES if name != "torchvision" or not facts.compiled]
    missing = [name for name in names if facts.versions[name] is None]
    if missing:
        return [
            f"mmdet_droploss needs {name}, which is not installed: {_install(name, facts)}"
            for name in missing
        ]
    for name in names:
        error = _range_error(name, facts) or _import_error(name, facts)
        if error:
            return [error]
    return []


def _range_error(name: str, facts: Facts) -> str | None:
    """A version that cannot work."""
    version, need = facts.version(name), REQUIREMENTS[name]
    too_old = release(version) < release(need.lowest)
    too_new = need.below is not None and release(version) >= release(need.below)
    if not (too_old or too_new):
        return None
    accepted = f">={need.lowest}" + (f",<{need.below}" if need.below else "")
    mend = _install(name, facts)
    return f"mmdet_droploss needs {name}{accepted}, but {version} is installed: {mend}"


def _import_error(name: str, facts: Facts) -> str | None:
    """A version in range that does not load."""
    version, said = facts.versions[name], facts.failures.get(name)
    if name == "mmcv" and len(facts.mmcv_distributions) > 1:
        return (
            f"{' and '.join(facts.mmcv_distributions)} are installed over each other: "
            f"pip uninstall -y {' '.join(facts.mmcv_distributions)} && {_install(name, facts)}"
        )
    if said is None:
        return None
    if re.search(r"libGL|libgthread|libxcb|libSM|libXext", said):
        return (
            f"OpenCV, which {name} needs, does not load on a machine without a screen ({said}): "
            "pip uninstall -y opencv-python && pip install opencv-python-headless"
        )
    if name == "torch" and said == NUMPY_NOT_AVAILABLE:
        return (
            f"torch {version} cannot exchange arrays with numpy {facts.versions['numpy']}: before "
            f'2.3, torch is built for numpy 1; pip install "numpy>=1.26,<2"'
        )
    if name == "mmcv" and facts.compiled:
        mmcv = facts.mmcv_distributions[0]
        return (
            f"the compiled operators of {mmcv} {version} do not load with torch "
            f"{facts.versions['torch']} ({said}), most likely because they were compiled for "
            f"another; to use torchvision's instead: pip uninstall -y {mmcv} && "
            f"{_install(name, facts)}"
        )
    if name == "torchvision":
        torch = facts.version("torch")
        return (
            f"torchvision {version} does not load with torch {torch} ({said}): pip install "
            f"--force-reinstall --no-deps torchvision=={matching_torchvision(torch)}, from where "
            "this torch is from, because both have to be built for the same CUDA, or for none"
        )
    if name == "mmdet" and "incompatible" in said:
        mend = f"{REQUIREMENTS['mmengine'].install} && {REQUIREMENTS['mmcv'].install}"
        return f"mmdet {version} refuses what is installed ({said}): {mend}"
    return (
        f"{name} {version} is installed but cannot be imported ({said}): pip install "
        f"--force-reinstall --no-deps {_distributions(name)[0]}=={version}"
    )


def _install(name: str, facts: Facts) -> str:
    """The command that installs a version in range, from the family that is already there."""
    if name == "torchvision" and facts.versions["torch"] is not None:
        return f"pip install torchvision=={matching_torchvision(facts.version('torch'))}"
    if "onedl-mmcv" in facts.mmcv_distributions and name in FORKS:
        return f"pip install {FORKS[name]}"
    return REQUIREMENTS[name].install


def gather_facts() -> Facts:
    """Look at the environment that runs this, importing the packages in the order of need."""
    versions: dict[str, str | None] = {}
    failures: dict[str, str] = {}
    compiled = False
    for name in PACKAGES:
        if not _is_there(name):
            versions[name] = None
            continue
        # What comes later needs what is missing or broken, so its complaint would say nothing.
        blocked = failures or None in versions.values() or (name == "torchvision" and compiled)
        try:
            module = None if blocked else importlib.import_module(name)
            if module is not None and name == "mmcv":
                compiled = is_compiled()
            if module is not None:
                _try_out(name, compiled)
        except (ImportError, AssertionError, OSError, AttributeError, RuntimeError) as error:
            module = None
            failures[name] = _in_one_line(error)
        versions[name] = getattr(module, "__version__", None) or _version(name)
    return Facts(versions, failures, compiled, _distributions("mmcv"), sys.version_info[:2])


def _try_out(name: str, compiled: bool) -> None:
    """What may fail after a good import."""
    if name == "torch":
        importlib.import_module("torch").zeros(1).numpy()
    elif name == "torchvision":
        importlib.import_module("torch").ops.torchvision.nms  # noqa: B018
    elif name == "mmcv" and compiled:
        importlib.import_module("mmcv._ext")


def _is_there(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # already in sys.modules, put there by hand
        return True
    # A spec without a loader is a namespace: an empty folder of that name on the path.
    return spec is not None and spec.loader is not None


def _distributions(name: str) -> tuple[str, ...]:
    """The installed distributions that provide the package of this name, or ``name`` itself."""
    spec = importlib.util.find_spec(name) if _is_there(name) else None
    found = []
    for candidate in filter(None, (name, f"{name}-lite", FORKS.get(name))):
        try:
            place = Path(str(metadata.distribution(candidate).locate_file(name)))
        except metadata.PackageNotFoundError:
            continue
        # Several folders on the path may have one each; only that which is imported counts.
        origin = None if spec is None else spec.origin
        if origin is None or place.resolve() == Path(origin).parent.resolve():
            found.append(candidate)
    return tuple(found) or (name,)


def _version(name: str) -> str:
    """The version that the installer wrote down, for a package that cannot say its own."""
    try:
        return metadata.version(_distributions(name)[0])
    except metadata.PackageNotFoundError:
        return REQUIREMENTS[name].lowest  # unknown: judged by what its import says


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rstrip(".")


def check_environment() -> None:
    """Raise if the installed packages are not what this package needs.

    Raises:
        IncompatibleEnvironmentError: For what cannot work, with the command that mends it.
    """
    errors = diagnose(gather_facts())
    if errors:
        raise IncompatibleEnvironmentError("\n".join(errors))
