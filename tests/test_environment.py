"""The check that runs before anything else: each case by its facts, and the worst ones for real."""

import os
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
    UntestedVersionWarning,
    check_environment,
    diagnose,
    gather_facts,
    release,
)

ROOT = Path(__file__).resolve().parents[1]
ORIGINALS = {
    "numpy": "2.2.6",
    "torch": "2.13.0+cpu",
    "mmengine": "0.10.7",
    "mmcv": "2.1.0",
    "mmdet": "3.3.0",
}
FORKS = {**ORIGINALS, "mmengine": "0.10.12", "mmcv": "2.3.6", "mmdet": "3.5.1"}


def facts(versions=ORIGINALS, failures=None, **others) -> Facts:
    return Facts(versions, failures or {}, **others)


def only_error(given: Facts) -> str:
    errors, warnings = diagnose(given)
    assert warnings == []
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
        assert diagnose(facts()) == ([], [])

    def test_forks(self):
        assert diagnose(facts(FORKS, mmcv_distribution="onedl-mmcv")) == ([], [])

    @pytest.mark.parametrize(
        ("name", "version"),
        [
            ("numpy", "1.26.0"),
            ("numpy", "2.2.6"),
            ("torch", "2.1.0"),
            ("mmengine", "0.10.12"),
            ("mmcv", "2.0.0rc4"),
        ],
    )
    def test_edges_of_the_ranges(self, name, version):
        assert diagnose(facts({**ORIGINALS, name: version})) == ([], [])


class TestMissing:
    @pytest.mark.parametrize("name", environment.PACKAGES)
    def test_each_is_named_with_the_command(self, name):
        error = only_error(facts({**ORIGINALS, name: None}))
        assert f"needs {name}, which is not installed: " in error
        assert environment.REQUIREMENTS[name].install in error

    def test_all_that_are_missing_are_reported_at_once(self):
        errors, _ = diagnose(facts(dict.fromkeys(environment.PACKAGES)))
        assert len(errors) == len(environment.PACKAGES)

    def test_mmcv_is_to_be_built_without_isolation(self):
        error = only_error(facts({**ORIGINALS, "mmcv": None}))
        assert "MMCV_WITH_OPS=1 pip install --no-build-isolation" in error
        assert '"setuptools<81"' in error

    def test_beside_a_fork_the_fork_is_named(self):
        given = facts({**FORKS, "mmdet": None}, mmcv_distribution="onedl-mmcv")
        assert only_error(given).endswith("pip install onedl-mmdetection")


class TestVersionsThatCannotWork:
    @pytest.mark.parametrize(
        ("name", "version", "accepted"),
        [
            ("numpy", "1.23.5", "numpy>=1.26,<3"),
            ("numpy", "3.0.0", "numpy>=1.26,<3"),
            ("torch", "2.0.1", "torch>=2.1"),
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
        assert "mmcv==2.1.0" in error


class TestOps:
    def test_built_with_isolation(self):
        error = only_error(facts(mmcv_ops="missing"))
        assert "mmcv 2.1.0 is installed without its compiled ops" in error
        assert "--no-build-isolation --no-cache-dir" in error
        assert error.endswith("mmcv==2.1.0")

    def test_lite_has_to_go_first(self):
        error = only_error(facts(mmcv_ops="missing", mmcv_distribution="mmcv-lite"))
        assert "pip uninstall -y mmcv-lite && " in error
        assert error.endswith("mmcv==2.1.0")

    def test_fork_is_rebuilt_as_the_fork(self):
        error = only_error(facts(FORKS, mmcv_ops="missing", mmcv_distribution="onedl-mmcv"))
        assert error.endswith("onedl-mmcv==2.3.6")

    def test_built_for_another_torch(self):
        said = "_ext.so: undefined symbol: _ZN3c1017RegisterOperatorsD1Ev"
        error = only_error(facts(mmcv_ops=said))
        assert "do not load with torch 2.13.0+cpu" in error
        assert said in error
        assert "--force-reinstall" in error


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


class TestUntested:
    @pytest.mark.parametrize(
        ("name", "version"),
        [
            ("numpy", "2.3.0"),
            ("torch", "2.15.0"),
            ("mmengine", "0.11.0"),
            ("mmcv", "2.4.0"),
            ("mmdet", "3.6.0"),
        ],
    )
    def test_newer_than_tested_is_a_warning(self, name, version):
        errors, warnings = diagnose(facts({**ORIGINALS, name: version}))
        assert errors == []
        assert len(warnings) == 1
        assert warnings[0].startswith(f"{name} {version} is newer than the versions")

    def test_is_raised_or_warned_by_the_check(self, monkeypatch):
        monkeypatch.setattr(
            environment, "gather_facts", lambda: facts({**ORIGINALS, "numpy": "2.9"})
        )
        with pytest.warns(UntestedVersionWarning, match="numpy 2.9"):
            check_environment()
        monkeypatch.setattr(environment, "gather_facts", lambda: facts(mmcv_ops="missing"))
        with pytest.raises(IncompatibleEnvironmentError, match="without its compiled ops"):
            check_environment()

    def test_error_is_an_import_error(self):
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
def fake_mmcv(tmp_path):
    """A folder with an mmcv that has no ops, as a build with isolation leaves it."""

    def make(version="2.1.0") -> Path:
        (tmp_path / "mmcv").mkdir()
        (tmp_path / "mmcv" / "__init__.py").write_text(f"__version__ = {version!r}\n")
        return tmp_path / "mmcv"

    return make


def test_this_environment_is_fine():
    found = gather_facts()
    assert None not in found.versions.values()
    assert found.failures == {}
    assert found.mmcv_ops == "ok"
    assert diagnose(found).errors == []


def test_real_import_without_ops(fake_mmcv):
    last = last_line_of_failed_import(fake_mmcv().parent)
    assert "without its compiled ops" in last
    assert "--no-build-isolation" in last


def test_real_import_with_ops_that_do_not_load(fake_mmcv):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    mmcv = fake_mmcv()
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


def test_real_import_with_an_mmcv_that_mmdet_refuses(fake_mmcv):
    mmcv = fake_mmcv("2.9.0")
    (mmcv / "_ext.py").touch()
    result = run("import mmdet", mmcv.parent)
    if result.returncode == 0:
        pytest.skip("this mmdet accepts every mmcv")
    last = last_line_of_failed_import(mmcv.parent)
    assert "refuses what is installed (MMCV==2.9.0 is used but incompatible" in last


@pytest.mark.parametrize("name", environment.PACKAGES)
def test_real_import_with_a_package_missing(name):
    last = last_line_of_failed_import(before=f"import sys; sys.modules[{name!r}] = None")
    assert f"needs {name}, which is not installed" in last


def test_empty_folder_is_not_a_package(tmp_path):
    (tmp_path / "mmdet").mkdir()
    code = "from mmdet_droploss.environment import _is_there; print(_is_there('mmdet_nothing'))"
    (tmp_path / "mmdet_nothing").mkdir()
    assert run(code, tmp_path).stdout.splitlines()[-1] == "False"


def test_warning_points_at_the_importing_code():
    code = (
        "import warnings, mmengine\n"
        "mmengine.__version__ = '0.99.0'\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    import mmdet_droploss\n"
        "    import mmdet_droploss.environment\n"
        "ours = [w for w in seen if w.category.__name__ == 'UntestedVersionWarning']\n"
        "print(len(ours), ours[0].filename)\n"
    )
    result = run(code)
    # The maintained fork of mmdet has something to say of its own.
    assert result.stdout.splitlines()[-1].split() == ["1", "<string>"], result.stderr
