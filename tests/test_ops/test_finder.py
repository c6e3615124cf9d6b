"""Whose ``mmcv._ext`` Python finds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import mmcv
import pytest
from mmcv.utils.ext_loader import check_ops_exist
from mmengine.utils.dl_utils.misc import mmcv_full_available

import mmdet_droploss.ops
from mmdet_droploss.ops import is_compiled, stand_in
from mmdet_droploss.ops.finder import StandInFinder

EXTENSION = str(Path(mmdet_droploss.ops.__file__).with_name("extension.py"))


@pytest.fixture
def mmcv_in(monkeypatch, tmp_path):
    """An mmcv whose compiled module is looked for in an empty folder."""
    monkeypatch.setattr(mmcv, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mmcv._ext", raising=False)
    importlib.invalidate_caches()
    return tmp_path


def test_where_mmcv_has_none_ours_is_found(mmcv_in):
    assert importlib.util.find_spec("mmcv._ext").origin == EXTENSION
    assert importlib.import_module("mmcv._ext").nms.__module__ == "mmdet_droploss.ops.nms"
    assert not is_compiled()


def test_mmcvs_own_comes_first(mmcv_in):
    (mmcv_in / "_ext.py").write_text("raise ImportError('undefined symbol')\n")
    importlib.invalidate_caches()
    assert importlib.util.find_spec("mmcv._ext").origin == str(mmcv_in / "_ext.py")
    assert is_compiled()
    with pytest.raises(ImportError, match="undefined symbol"):  # broken, but not hidden
        importlib.import_module("mmcv._ext")


def test_other_modules_are_not_its_matter():
    assert StandInFinder().find_spec("mmcv.ops") is None
    assert importlib.util.find_spec("mmcv._ext_of_another_kind") is None


def test_it_is_there_once():
    stand_in()
    kinds = [type(finder) for finder in sys.meta_path]
    assert kinds.count(StandInFinder) == 1
    # After Python's own, which finds what is compiled.
    assert kinds.index(StandInFinder) > sys.meta_path.index(PathFinder)


def test_mmcv_and_mmengine_believe_it():
    assert check_ops_exist()
    assert mmcv_full_available()


def test_a_program_that_imports_mmdet_first_can_be_run(tmp_path):
    """As ``python -m mmdet_droploss PROGRAM``."""
    program = tmp_path / "demo.py"
    program.write_text(
        "import mmdet.apis, beside_it, sys\n"
        "if __name__ == '__main__':\n"
        "    print(beside_it.VALUE, sys.argv[1:], 'mmdet_droploss' in sys.modules)\n"
    )
    (tmp_path / "beside_it.py").write_text("VALUE = 3\n")
    command = [sys.executable, "-m", "mmdet_droploss"]
    root = Path(mmdet_droploss.__file__).parents[1]
    done = subprocess.run(
        [*command, program, "-x"], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3 ['-x'] True"
    missing = subprocess.run(
        [*command, tmp_path / "none.py"], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert missing.returncode == 1
    assert "there is no program" in missing.stderr
