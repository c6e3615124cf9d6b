"""mim, as released, on this package: installed by mim into an environment made for these tests.

The environment sees the packages of the one that runs the tests, except this one, so that what mim
installs is what is found. openmim goes into it alone: it pins old versions of setuptools, requests
and rich, which have no place in an environment that someone works in.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import mmdet
import pytest
import yaml
from small_run import environment, options

ROOT = Path(__file__).resolve().parents[1]
OPENMIM = "openmim==0.3.9"
# openmim needs pkg_resources, which setuptools has lost since; the old setuptools that it pins is
# refused by newer versions of torch and does not run on Python 3.12.
SETUPTOOLS = "setuptools>=77,<81"
MINI = "mask_rcnn_r18_fpn_droploss_mini_lvis"
IGNORED = shutil.ignore_patterns(
    ".*_cache", ".git", ".hypothesis", ".mim", ".venv", "*.egg-info", "__pycache__",
    "build", "data", "dist", "docs", "tests", "work_dirs",
)  # fmt: skip


class Mim(NamedTuple):
    """An environment with mim, a clone of the repository, and an unrelated folder to work in."""

    bin: Path
    clone: Path
    folder: Path

    def call(self, program, *arguments, cwd=None):
        """Run a program of the environment, and say what it printed."""
        env = environment()
        env.pop("PYTHONPATH", None)  # the installation has to be enough
        env["PATH"] = f"{self.bin}{os.pathsep}{env['PATH']}"
        env["VIRTUAL_ENV"] = str(self.bin.parent)
        # mim makes pip look for builds of mmcv, which is installed, on a server of OpenMMLab.
        env["MMCV_BASE_URL"] = self.folder.as_uri()
        env["COLUMNS"] = "200"
        return subprocess.run(
            [str(self.bin / program), *map(str, arguments)],
            cwd=cwd or self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=900,
        )

    def ok(self, program, *arguments, cwd=None) -> str:
        done = self.call(program, *arguments, cwd=cwd)
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout


@pytest.fixture(scope="module")
def mim(tmp_path_factory) -> Mim:
    """mim, where this package is not installed yet."""
    folder = tmp_path_factory.mktemp("mim")
    prefix = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", prefix], check=True, timeout=120)
    layer = folder / "packages"
    layer.mkdir()
    for site in map(Path, sys.path):
        if site.name not in ("site-packages", "dist-packages") or not site.is_dir():
            continue
        for entry in site.iterdir():
            link = layer / entry.name
            if "mmdet_droploss" not in entry.name and not link.is_symlink():
                link.symlink_to(entry)
    (own,) = prefix.glob("lib/python*/site-packages")
    (own / "packages_of_the_tests.pth").write_text(f"{layer}\n")
    clone = folder / "clone"
    shutil.copytree(ROOT, clone, ignore=IGNORED)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    made = Mim(prefix / "bin", clone, elsewhere)
    for requirement in (OPENMIM, SETUPTOOLS):
        done = made.call("pip", "install", "--quiet", "--no-compile", requirement)
        if done.returncode and not os.environ.get("CI"):
            pytest.skip(f"pip cannot install {requirement}: {done.stdout[-300:]}")
        assert done.returncode == 0, done.stdout
    return made


@pytest.fixture(scope="module", params=["normal", "editable"])
def installed(mim, request) -> Mim:
    """The package, installed by mim from a clone; most tests run with both kinds."""
    kind = {"normal": [], "editable": ["-e"]}[request.param]
    mim.ok("mim", "install", *kind, ".", cwd=mim.clone)
    code = "import mmdet_droploss; print(mmdet_droploss.__file__)"
    found = Path(mim.ok("python", "-c", code).splitlines()[-1])
    assert found.is_relative_to(mim.clone) == (request.param == "editable")
    assert found.is_relative_to(mim.folder.parent)
    return mim


# ---- looking things up ---------------------------------------------------------------------------


def test_search_finds_models_by_loss_and_by_name(installed):
    found = installed.ok("mim", "search", "mmdet_droploss", "--model", "droploss", "--valid-config")
    assert "'mask_rcnn_r50_fpn_lvis'" in found
    assert "eql_lvis'" not in found
    found = installed.ok("mim", "search", "mmdet_droploss", "--config", "mask_rcnn_r50_fpn_lvis")
    assert "configs/droploss/mask_rcnn_r50_fpn_lvis.py" in found
    assert "not measured with this repository" in found


def test_run_finds_tools_in_folders(installed):
    printed = installed.ok("mim", "run", "mmdet_droploss", "class_frequency", "lvis_v1")
    assert "1203" in printed.replace(",", "")
    assert "The script finished successfully" in printed
    done = installed.call("mim", "run", "mmdet_droploss", "no_such_tool")
    assert done.returncode != 0
    assert "No script in codebase mmdet_droploss" in done.stdout


def test_download_says_that_there_are_no_weights(installed):
    """mim's own words are not good, but it stops before it writes anything."""
    name = "mask_rcnn_r50_fpn_lvis"
    target = installed.folder / "no_weights"
    arguments = ("--config", name, "--dest", target)
    done = installed.call("mim", "download", "mmdet_droploss", *arguments)
    assert done.returncode != 0
    assert "Expected fields" in done.stdout and "'weight'" in done.stdout
    assert not list(target.iterdir())


# ---- configs -------------------------------------------------------------------------------------

BASE = "mmdet_droploss::droploss/mask_rcnn_r50_fpn_lvis.py"
# What a detector is made of, without weights from the network.
BUILD = """
import mmdet_droploss
from mmengine import Config
from mmengine.runner import Runner

# A part of a config is in no metafile: mmengine finds it by its path.
print("part:", Config.fromfile("part.py").model.type)
config = Config.fromfile("{config}")
config.model.backbone.init_cfg = None
model = Runner.build_model(Runner.__new__(Runner), config.model)
print(type(model).__name__, type(model.roi_head.bbox_head.loss_cls).__name__)
print(config.train_dataloader.dataset.type)
"""


@pytest.fixture
def config(installed):
    """Write a config in the unrelated folder."""

    def write(name, text):
        (installed.folder / name).write_text(text)
        return name

    return write


def test_base_by_package_name(installed, config):
    name = config("by_name.py", f'_base_ = "{BASE}"\nrandomness = dict(seed=3)\n')
    config("part.py", '_base_ = "mmdet_droploss::_base_/models/mask_rcnn_r50_fpn.py"\n')
    printed = installed.ok("python", "-c", BUILD.format(config=name))
    assert "part: MaskRCNN\n" in printed
    assert "MaskRCNN DropLoss\nFastLVISV05Dataset\n" in printed
    # A scope of its own must not make mmengine look in the wrong registries, and say so.
    assert "Failed to" not in printed and "WARNING" not in printed


@pytest.mark.parametrize("installed", ["normal"], indirect=True)
def test_base_by_package_name_in_a_tool_that_does_not_import_the_package(installed, config):
    """mmdet's print_config; not through mim, which knows no fork of mmdet."""
    tool = Path(mmdet.__file__).parent / ".mim" / "tools" / "misc" / "print_config.py"
    plain = config("by_name_only.py", f'_base_ = "{BASE}"\n')
    done = installed.call("python", tool, plain)
    assert done.returncode != 0
    assert "mmengine does not support to load mmdet_droploss config" in done.stdout

    name = config("imports.py", f'_base_ = __import__("mmdet_droploss") and "{BASE}"\n')
    printed = installed.ok("python", tool, name)
    assert "type='DropLoss'" in printed


# ---- training and testing ------------------------------------------------------------------------


def test_train_and_test(installed, mini_lvis_dir, config, request):
    """By name from a normal installation; on two processes by ``::`` from an editable one."""
    editable = request.node.callspec.params["installed"] == "editable"
    overrides = options(mini_lvis_dir, iterations=2)
    work_dir = installed.folder / ("two" if editable else "one")
    if editable:
        name = config("mine.py", f'_base_ = "mmdet_droploss::mini_lvis/{MINI}.py"\n')
        launch = ("--launcher", "pytorch", "--gpus", 2)
    else:
        name = f"{MINI}.py"
        launch = ("--gpus", 0)
    arguments = (*launch, "--work-dir", work_dir, *overrides)
    printed = installed.ok("mim", "train", "mmdet_droploss", name, *arguments)
    assert "Training finished successfully" in printed
    assert "Failed to" not in printed
    checkpoint = work_dir / "iter_2.pth"
    assert checkpoint.is_file()

    if not editable:
        tested = ("--checkpoint", checkpoint, "--gpus", 0, "--work-dir", work_dir, *overrides)
        printed = installed.ok("mim", "test", "mmdet_droploss", name, *tested)
        assert "Testing finished successfully" in printed
        assert "lvis/segm_APr" in printed


@pytest.mark.parametrize("installed", ["normal"], indirect=True)
def test_gridsearch(installed, mini_lvis_dir, config):
    """Two learning rates, of a config that any program can read."""
    base = f"mmdet_droploss::mini_lvis/{MINI}.py"
    name = config("searched.py", f'_base_ = __import__("mmdet_droploss") and "{base}"\n')
    work_dir = installed.folder / "search"
    rates = ("--search-args", "--optim_wrapper.optimizer.lr 0.001 0.002")
    arguments = (name, "--gpus", 0, "--work-dir", work_dir, *rates)
    overrides = options(mini_lvis_dir, iterations=2)
    printed = installed.ok("mim", "gridsearch", "mmdet_droploss", *arguments, *overrides)
    assert "hyper parameter search finished successfully" in printed
    for rate in ("0.001", "0.002"):
        (folder,) = installed.folder.glob(f"search*lr_{rate}")
        assert (folder / "iter_2.pth").is_file()
        (written,) = folder.glob("*.py")
        assert f"lr={rate}" in written.read_text()


# ---- weights, once there are some ----------------------------------------------------------------


@pytest.mark.parametrize("installed", ["normal"], indirect=True)
def test_download_gets_weights_that_a_metafile_names(installed, tmp_path, request):
    """From a server on this machine, with an entry in the metafile as a release would have it."""
    (tmp_path / "droploss.pth").write_bytes(b"weights")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    request.addfinalizer(server.server_close)
    request.addfinalizer(server.shutdown)

    (package,) = installed.bin.parent.glob("lib/python*/site-packages/mmdet_droploss")
    metafile = package / ".mim" / "configs" / "droploss" / "metafile.yml"
    before = metafile.read_text(encoding="utf-8")
    request.addfinalizer(lambda: metafile.write_text(before, encoding="utf-8"))
    content = yaml.safe_load(before)
    (model,) = [m for m in content["Models"] if m["Name"] == "mask_rcnn_r50_fpn_lvis"]
    model["Weights"] = f"http://127.0.0.1:{server.server_port}/droploss.pth"
    metafile.write_text(yaml.safe_dump(content), encoding="utf-8")

    target = tmp_path / "target"
    arguments = ("--config", "mask_rcnn_r50_fpn_lvis", "--dest", target)
    installed.ok("mim", "download", "mmdet_droploss", *arguments)
    assert (target / "droploss.pth").read_bytes() == b"weights"
    assert "DropLoss" in (target / "mask_rcnn_r50_fpn_lvis.py").read_text()
