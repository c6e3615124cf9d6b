"""The check that runs before anything else: each case by its facts, and the worst ones for real."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mmdet_droploss import environment
from mmdet_droploss.environment import (
    Facts,
    IncompatibleEnvironmentError,
    check_environment,
    diagnose,
    gather_facts,
    matching_torchvision,
    release,
)
from mmdet_droploss.ops import is_compiled

ROOT = Path(__file__).resolve().parents[1]
ORIGINALS = {
    "numpy": "2.2.6",
    "torch": "2.13.0+cpu",
    "torchvision": "0.28.0+cpu",
    "mmengine": "0.10.7",
    "mmcv": "2.1.0",
    "mmdet": "3.3.0",
}
FORKS = {**ORIGINALS, "mmengine": "0.10.12", "mmcv": "2.3.6", "mmdet": "3.5.1"}


def facts(versions=ORIGINALS, failures=None, **others) -> Facts:
    return Facts(versions, failures or {}, **others)


def only_error(given: Facts) -> str:
    errors = diagnose(given)
    assert len(errors) == 1, errors
    assert "\n" not in errors[0]
    return errors[0]


class TestRelease:
    @pytest.mark.parametrize(
        ("version", "expected"),
        [
            ("2.13.0+cpu", (2, 13)),
            ("3", (3,)),
            ("3.0.0", (3,)),
            ("2.0.0rc4", (2,)),
            ("0.10.12", (0, 10, 12)),
            ("2.6.0a0+git1234567", (2, 6)),
            ("unknown", (0,)),
        ],
    )
    def test_compares_numbers_only(self, version, expected):
        assert release(version) == expected

    def test_orders_by_number(self):
        assert release("0.10.7") > release("0.9.9")
        assert release("3.0.0") == release("3") < release("3.0.1")


class TestWhatWorks:
    def test_originals(self):
        assert diagnose(facts()) == []

    def test_forks(self):
        assert diagnose(facts(FORKS, mmcv_distributions=["onedl-mmcv"])) == []

    @pytest.mark.parametrize(
        ("name", "version"),
        [
            ("numpy", "1.26.0"),
            ("numpy", "2.9.0"),
            ("torch", "2.1.0"),
            ("torch", "2.99.0"),
            ("mmengine", "0.10.12"),
            ("mmcv", "2.0.0rc4"),
        ],
    )
    def test_edges_of_the_ranges(self, name, version):
        assert diagnose(facts({**ORIGINALS, name: version})) == []

    @pytest.mark.parametrize("python", [(3, 10), (3, 13)])
    def test_pythons(self, python):
        assert diagnose(facts(python=python)) == []

    @pytest.mark.parametrize(
        "torchvision",
        [dict(versions={**ORIGINALS, "torchvision": None}), dict(failures={"torchvision": "?"})],
    )
    def test_torchvision_is_not_needed_beside_compiled_operators(self, torchvision):
        given = facts(**torchvision, compiled=True, mmcv_distributions=["mmcv"])
        assert diagnose(given) == []
        assert "torchvision" in only_error(given._replace(compiled=False))


def test_python_3_14_is_too_new():
    error = only_error(facts(python=(3, 14)))
    assert "this is Python 3.14, and 3.13 is the newest that mmengine 0.10.7 runs on" in error


class TestMissing:
    @pytest.mark.parametrize("name", environment.PACKAGES)
    def test_each_is_named_with_the_command(self, name):
        error = only_error(facts({**ORIGINALS, name: None}))
        assert f"needs {name}, which is not installed: " in error
        assert "pip install " in error

    def test_all_that_are_missing_are_reported_at_once(self):
        errors = diagnose(facts(dict.fromkeys(environment.PACKAGES)))
        assert len(errors) == len(environment.PACKAGES)

    def test_mmcv_is_to_be_installed_without_compiling(self):
        error = only_error(facts({**ORIGINALS, "mmcv": None}))
        assert error.endswith("pip install mmcv-lite==2.1.0")

    def test_torchvision_is_that_of_the_torch(self):
        given = facts({**ORIGINALS, "torch": "2.5.1", "torchvision": None})
        assert only_error(given).endswith("pip install torchvision==0.20.1")

    def test_beside_a_fork_the_fork_is_named(self):
        given = facts({**FORKS, "mmdet": None}, mmcv_distributions=["onedl-mmcv"])
        assert only_error(given).endswith("pip install onedl-mmdetection")


@pytest.mark.parametrize(
    ("torch", "torchvision"),
    [("2.1.2", "0.16.2"), ("2.6.0+cu124", "0.21.0"), ("2.14.1", "0.29.1"), ("2.9", "0.24.0")],
)
def test_torchvisions_number_follows_torchs(torch, torchvision):
    assert matching_torchvision(torch) == torchvision


class TestVersionsThatCannotWork:
    @pytest.mark.parametrize(
        ("name", "version", "accepted"),
        [
            ("numpy", "1.23.5", "numpy>=1.26,<3"),
            ("numpy", "3.0.0", "numpy>=1.26,<3"),
            ("torch", "2.0.1", "torch>=2.1"),
            ("torchvision", "0.15.2", "torchvision>=0.16"),
            ("mmengine", "0.9.0", "mmengine>=0.10.7,<1"),
            ("mmengine", "1.0.0", "mmengine>=0.10.7,<1"),
            ("mmcv", "1.7.2", "mmcv>=2.0.0,<3"),
            ("mmdet", "2.28.2", "mmdet>=3.3.0,<4"),
            ("mmdet", "4.0.0", "mmdet>=3.3.0,<4"),
        ],
    )
    def test_range_and_command(self, name, version, accepted):
        error = only_error(facts({**ORIGINALS, name: version}))
        assert f"needs {accepted}, but {version} is installed: " in error
        assert "pip install" in error

    def test_the_first_in_the_order_of_need_is_the_cause(self):
        given = facts({**ORIGINALS, "numpy": "1.20", "mmdet": "2.28.2"}, {"mmcv": "whatever"})
        assert "numpy" in only_error(given)

    def test_version_of_mmdet_comes_before_what_it_says(self):
        given = facts({**ORIGINALS, "mmdet": "2.28.2"}, {"mmdet": "MMCV is incompatible"})
        assert "mmdet>=3.3.0,<4" in only_error(given)

    def test_mmcv_that_mmdet_refuses(self):
        said = "MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4, <2.2.0"
        error = only_error(facts({**ORIGINALS, "mmcv": "2.2.0"}, {"mmdet": said}))
        assert said in error
        assert "mmcv-lite==2.1.0" in error


class TestOperators:
    def test_compiled_for_another_torch(self):
        said = "_ext.so: undefined symbol: _ZN3c1017RegisterOperatorsD1Ev"
        given = facts(failures={"mmcv": said}, compiled=True, mmcv_distributions=["mmcv"])
        error = only_error(given)
        assert "do not load with torch 2.13.0+cpu" in error
        assert said in error
        assert error.endswith("pip uninstall -y mmcv && pip install mmcv-lite==2.1.0")

    def test_fork_stays_the_fork(self):
        given = facts(
            FORKS, {"mmcv": "undefined symbol"}, compiled=True, mmcv_distributions=["onedl-mmcv"]
        )
        assert only_error(given).endswith("pip uninstall -y onedl-mmcv && pip install onedl-mmcv")

    def test_torchvision_of_another_torch(self):
        said = "operator torchvision::nms does not exist"
        error = only_error(
            facts({**ORIGINALS, "torchvision": "0.20.1"}, failures={"torchvision": said})
        )
        assert f"torchvision 0.20.1 does not load with torch 2.13.0+cpu ({said})" in error
        assert "pip install --force-reinstall --no-deps torchvision==0.28.0," in error

    def test_two_mmcv_over_each_other(self):
        error = only_error(facts(mmcv_distributions=["mmcv", "mmcv-lite"]))
        assert "mmcv and mmcv-lite are installed over each other" in error
        assert "pip uninstall -y mmcv mmcv-lite && pip install mmcv-lite==2.1.0" in error


class TestImportsThatFail:
    def test_opencv_without_a_screen(self):
        said = "libGL.so.1: cannot open shared object file: No such file or directory"
        error = only_error(facts(failures={"mmcv": said}))
        assert "pip install opencv-python-headless" in error
        assert said in error

    def test_torch_for_another_numpy(self):
        given = facts({**ORIGINALS, "torch": "2.1.2"}, {"torch": "Numpy is not available"})
        error = only_error(given)
        assert "torch 2.1.2 cannot exchange arrays with numpy 2.2.6" in error
        assert error.endswith('pip install "numpy>=1.26,<2"')

    def test_anything_else_is_quoted(self):
        error = only_error(facts(failures={"torch": "libcudart.so.12: cannot open"}))
        assert "torch 2.13.0+cpu is installed but cannot be imported (libcudart" in error


def test_the_check_raises_an_import_error(monkeypatch):
    check_environment()
    monkeypatch.setattr(environment, "gather_facts", lambda: facts({**ORIGINALS, "mmcv": None}))
    with pytest.raises(IncompatibleEnvironmentError, match="needs mmcv, which is not installed"):
        check_environment()
    assert issubclass(IncompatibleEnvironmentError, ImportError)


# ---- for real ------------------------------------------------------------------------------------


def run(code: str, *first_on_path: Path) -> subprocess.CompletedProcess:
    """Run code in a Python of its own, with folders that come before everything else."""
    path = os.pathsep.join(map(str, [*first_on_path, ROOT]))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def last_line_of_failed_import(*first_on_path: Path, before: str = "pass") -> str:
    result = run(f"{before}\nimport mmdet_droploss", *first_on_path)
    assert result.returncode != 0, result.stdout
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("mmdet_droploss.environment.IncompatibleEnvironmentError: "), (
        result.stderr
    )
    # One traceback, not a chain that buries the sentence.
    assert result.stderr.count("Traceback") == 1, result.stderr
    return last


@pytest.fixture
def fake(tmp_path):
    """Put a package with nothing but a version into a folder that can come first on the path."""

    def make(name: str, version: str, code: str = "") -> Path:
        (tmp_path / name).mkdir()
        text = f"__version__ = {version!r}\n{code}\n"
        (tmp_path / name / "__init__.py").write_text(text)
        return tmp_path / name

    return make


def add_distribution(folder: Path, name: str, version: str = "2.1.0") -> None:
    """What pip leaves beside a package."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_this_environment_is_fine():
    found = gather_facts()
    assert None not in [found.versions[n] for n in environment.PACKAGES if n != "torchvision"]
    assert found.failures == {}
    assert found.compiled == is_compiled()
    assert len(found.mmcv_distributions) == 1
    assert diagnose(found) == []


def test_real_import_with_operators_that_do_not_load(fake):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    mmcv = fake("mmcv", "2.1.0")
    source = mmcv / "ext.c"
    source.write_text(
        "void gone_from_torch(void);\nvoid PyInit__ext(void) { gone_from_torch(); }\n"
    )
    library = mmcv / f"_ext{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, source],
        check=True,
        timeout=60,
    )
    last = last_line_of_failed_import(mmcv.parent)
    assert "do not load with torch" in last
    assert "gone_from_torch" in last


def test_real_import_with_a_torchvision_whose_operators_do_not_load(fake):
    """What one of another torch comes to: its Python is imported, its library is not."""
    folder = fake("mmcv", "2.1.0").parent
    real = Path(importlib.util.find_spec("torchvision").origin).parent
    (folder / "torchvision").mkdir()
    for entry in real.iterdir():
        if not entry.name.startswith("_C"):
            (folder / "torchvision" / entry.name).symlink_to(entry)
    last = last_line_of_failed_import(folder)
    assert re.search(r"torchvision \S+ does not load with torch \S+ \(.*\bnms\b", last)
    assert "pip install --force-reinstall --no-deps torchvision==0." in last


def test_real_import_with_two_mmcv_over_each_other(fake):
    folder = fake("mmcv", "2.1.0").parent
    for name in ("mmcv", "mmcv-lite"):
        add_distribution(folder, name)
    last = last_line_of_failed_import(folder)
    assert "mmcv and mmcv-lite are installed over each other" in last


def test_real_import_with_an_mmcv_that_mmdet_refuses(fake):
    mmcv = fake("mmcv", "2.9.0")
    (mmcv / "_ext.py").touch()
    result = run("import mmdet", mmcv.parent)
    if result.returncode == 0:
        pytest.skip("this mmdet accepts every mmcv")
    last = last_line_of_failed_import(mmcv.parent)
    assert "refuses what is installed (MMCV==2.9.0 is used but incompatible" in last


@pytest.mark.parametrize("name", environment.PACKAGES)
def test_real_import_with_a_package_missing(name):
    if name == "torchvision" and is_compiled():
        pytest.skip("compiled operators do without it")
    last = last_line_of_failed_import(before=f"import sys; sys.modules[{name!r}] = None")
    assert f"needs {name}, which is not installed" in last


def test_empty_folder_is_not_a_package(tmp_path):
    (tmp_path / "mmdet").mkdir()
    code = "from mmdet_droploss.environment import _is_there; print(_is_there('mmdet_nothing'))"
    (tmp_path / "mmdet_nothing").mkdir()
    assert run(code, tmp_path).stdout.splitlines()[-1] == "False"
