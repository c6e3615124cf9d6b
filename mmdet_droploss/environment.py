"""Says in one sentence what is wrong with an installation, and which command mends it.

The packages below this one fail in ways that do not name the cause: an mmcv without its compiled
ops dies with ``No module named 'mmcv._ext'`` deep inside mmdet, one compiled against another torch
with an undefined symbol, a version that mmdet refuses with an assertion. :func:`check_environment`
runs before anything of this package needs them. :func:`gather_facts` looks, :func:`diagnose`
judges.

Nothing is imported here that importing mmdet would not import anyway.
"""

import importlib
import importlib.util
import re
import warnings
from collections.abc import Mapping
from importlib import metadata
from typing import NamedTuple

#: The names to import, in the order in which they need each other.
PACKAGES = ("numpy", "torch", "mmengine", "mmcv", "mmdet")

#: Distributions that provide a package besides the one of its own name.
FORKS = {"mmengine": "onedl-mmengine", "mmcv": "onedl-mmcv", "mmdet": "onedl-mmdetection"}

#: What is needed to compile mmcv's ops, and the build itself. With build isolation pip would hide
#: torch from the build, and the ops would be left out in silence.
MMCV_PREREQUISITES = 'pip install "setuptools<81" wheel ninja psutil'
MMCV_BUILD = (
    "MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir --no-binary {name} "
    "--force-reinstall --no-deps {name}=={version}"
)


class Requirement(NamedTuple):
    """The versions that this package works with, lowest included, ``below`` excluded."""

    lowest: str  # older cannot work
    below: str | None  # from here on it cannot work
    tested_below: str  # from here on nobody has tried
    install: str  # the command that gives a version in range


MMCV_INSTALL = f"{MMCV_PREREQUISITES} && " + MMCV_BUILD.format(name="mmcv", version="2.1.0")

REQUIREMENTS = {
    "numpy": Requirement("1.26", "3", "2.3", 'pip install "numpy>=1.26,<2.3"'),
    "torch": Requirement("2.1", None, "2.15", 'pip install "torch>=2.1" (then build mmcv again)'),
    "mmengine": Requirement("0.10.7", "1", "0.11", 'pip install "mmengine>=0.10.7,<1.0"'),
    # Wide bounds: mmdet knows which mmcv it accepts, and the forks' mmdet accepts another.
    "mmcv": Requirement("2.0.0", "3", "2.4", MMCV_INSTALL),
    "mmdet": Requirement("3.3.0", "4", "3.6", 'pip install "mmdet>=3.3.0,<4"'),
}


#: What torch says, at the first array, if it was built for another major version of numpy.
NUMPY_NOT_AVAILABLE = "Numpy is not available"


class IncompatibleEnvironmentError(ImportError):
    """The installed packages cannot work together; the message says which command mends it."""


class UntestedVersionWarning(UserWarning):
    """A package is newer than every version that this one was tested with."""


class Facts(NamedTuple):
    """What an environment looks like. The mappings have the names of :data:`PACKAGES` as keys."""

    #: Installed versions; None for a package that is not there.
    versions: Mapping[str, str | None]
    #: What a package that is there said instead of being imported; torch: of making an array.
    failures: Mapping[str, str] = {}
    #: ``"ok"``, ``"missing"``, or what loading the compiled ops said.
    mmcv_ops: str = "ok"
    #: The distribution that provides mmcv: ``"mmcv"``, ``"mmcv-lite"`` or ``"onedl-mmcv"``.
    mmcv_distribution: str = "mmcv"


class Diagnosis(NamedTuple):
    """One sentence for each thing that cannot work, and for each that was merely never tried."""

    errors: list[str]
    warnings: list[str]


def release(version: str) -> tuple[int, ...]:
    """Turn a version into what can be compared: ``"2.13.0+cpu"`` into ``(2, 13, 0)``."""
    match = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in match.group().split(".")] if match else [0]
    while len(parts) > 1 and parts[-1] == 0:  # 3 and 3.0.0 are the same version
        parts.pop()
    return tuple(parts)


def diagnose(facts: Facts) -> Diagnosis:
    """Judge an environment by its facts alone. Pure, so that every case can be tested.

    Only the first package that cannot work is reported, in the order in which they need each other:
    the complaints of those above it are its consequences. Missing packages are all reported.
    """
    missing = [name for name in PACKAGES if facts.versions[name] is None]
    if missing:
        return Diagnosis(
            [
                f"mmdet_droploss needs {name}, which is not installed: {_install(name, facts)}"
                for name in missing
            ],
            [],
        )
    for name in PACKAGES:
        error = _range_error(name, facts) or _import_error(name, facts)
        if error:
            return Diagnosis([error], [])
    untested = [
        f"{name} {facts.versions[name]} is newer than the versions that mmdet_droploss was tested "
        f"with (below {REQUIREMENTS[name].tested_below}); if something fails, try: "
        f"{_install(name, facts)}"
        for name in PACKAGES
        if release(facts.versions[name]) >= release(REQUIREMENTS[name].tested_below)
    ]
    return Diagnosis([], untested)


def _range_error(name: str, facts: Facts) -> str | None:
    """A version that cannot work."""
    version, need = facts.versions[name], REQUIREMENTS[name]
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
    if name == "mmcv" and said is None and facts.mmcv_ops != "ok":
        installed = f"{facts.mmcv_distribution} {version}"
        if facts.mmcv_ops == "missing":
            return (
                f"{installed} is installed without its compiled ops (there is no mmcv._ext: it is "
                "mmcv-lite, or was built with build isolation); build it with them: "
                f"{_rebuild_mmcv(facts)}"
            )
        return (
            f"the compiled ops of {installed} do not load with torch {facts.versions['torch']} "
            f"({facts.mmcv_ops}), most likely because they were built for another torch; build "
            f"them again: {_rebuild_mmcv(facts)}"
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
    if name == "mmdet" and "incompatible" in said:
        mend = f"pip install mmengine==0.10.7 && {MMCV_INSTALL}"
        return f"mmdet {version} refuses what is installed ({said}): {mend}"
    return (
        f"{name} {version} is installed but cannot be imported ({said}): pip install "
        f"--force-reinstall --no-deps {_distribution(name)}=={version}"
    )


def _install(name: str, facts: Facts) -> str:
    """The command that installs a version in range, from the family that is already there."""
    if facts.mmcv_distribution == FORKS["mmcv"] and name in FORKS:
        return _rebuild_mmcv(facts) if name == "mmcv" else f"pip install {FORKS[name]}"
    return REQUIREMENTS[name].install


def _rebuild_mmcv(facts: Facts) -> str:
    """The command that compiles mmcv's ops for the torch that is installed."""
    if facts.mmcv_distribution == FORKS["mmcv"]:
        build = MMCV_BUILD.format(name=FORKS["mmcv"], version=facts.versions["mmcv"])
        return f"{MMCV_PREREQUISITES} && {build}"
    if facts.mmcv_distribution == "mmcv-lite":  # has the same files, so it has to go first
        return f"pip uninstall -y mmcv-lite && {MMCV_INSTALL}"
    return MMCV_INSTALL


def gather_facts() -> Facts:
    """Look at the environment that runs this, importing the packages in the order of need."""
    versions: dict[str, str | None] = {}
    failures: dict[str, str] = {}
    mmcv_ops = "ok"
    for name in PACKAGES:
        if not _is_there(name):
            versions[name] = None
            continue
        try:
            # What comes later needs what is missing or broken, so its complaint would say nothing.
            blocked = bool(failures) or None in versions.values() or mmcv_ops != "ok"
            module = None if blocked else importlib.import_module(name)
            if name == "torch" and module is not None:
                module.zeros(1).numpy()  # fails, after a good import, with a numpy it does not know
        except (ImportError, AssertionError, OSError, AttributeError, RuntimeError) as error:
            module = None
            failures[name] = _in_one_line(error)
        versions[name] = getattr(module, "__version__", None) or _distribution_version(name)
        if name == "mmcv" and module is not None:
            mmcv_ops = _state_of_mmcv_ops()
    return Facts(versions, failures, mmcv_ops, _distribution("mmcv"))


def _is_there(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # already in sys.modules, put there by hand
        return True
    # A spec without a loader is a namespace: an empty folder of that name on the path.
    return spec is not None and spec.loader is not None


def _state_of_mmcv_ops() -> str:
    if not _is_there("mmcv._ext"):
        return "missing"
    try:
        importlib.import_module("mmcv._ext")
    except (ImportError, OSError) as error:
        return _in_one_line(error)
    return "ok"


def _distribution(name: str) -> str:
    """The installed distribution that provides ``name``; ``name`` itself if that is unknown."""
    candidates = [name, FORKS.get(name), "mmcv-lite" if name == "mmcv" else None]
    for candidate in filter(None, candidates):
        try:
            metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
        return candidate
    return name


def _distribution_version(name: str) -> str:
    """The version that the installer wrote down, for a package that cannot say its own."""
    try:
        return metadata.version(_distribution(name))
    except metadata.PackageNotFoundError:
        return REQUIREMENTS[name].lowest  # unknown: judged by what its import says


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rstrip(".")


def check_environment() -> None:
    """Raise or warn if the installed packages are not what this package needs.

    Raises:
        IncompatibleEnvironmentError: For what cannot work, with the command that mends it.
    """
    diagnosis = diagnose(gather_facts())
    if diagnosis.errors:
        raise IncompatibleEnvironmentError("\n".join(diagnosis.errors))
    for message in diagnosis.warnings:
        # 1 is this function, 2 the package's __init__, 3 whoever imports the package: Python leaves
        # the import system's own frames out of the count.
        warnings.warn(message, UntestedVersionWarning, stacklevel=3)
