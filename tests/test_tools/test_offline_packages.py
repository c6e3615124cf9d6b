"""The list of what a machine without network lacks."""

from __future__ import annotations

from importlib import metadata

import pytest
from scripts import load_script

try:
    metadata.version("mmengine")
except metadata.PackageNotFoundError:
    pytest.skip("the list is of OpenMMLab's packages, not of their forks", allow_module_level=True)


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/misc/offline_packages.py")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Metadata of this package, as pip would leave it, and of an mmcv-lite."""
    for name, needs in {"mmdet_droploss": ["lvis", "msgspec"], "mmcv_lite": ["addict"]}.items():
        info = tmp_path / f"{name}-2.1.0.dist-info"
        info.mkdir()
        lines = [f"Name: {name}", "Version: 2.1.0", *(f"Requires-Dist: {need}" for need in needs)]
        lines += ["Provides-Extra: tests", 'Requires-Dist: pytest; extra == "tests"']
        (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
    monkeypatch.syspath_prepend(tmp_path)


def test_what_packages_need_is_followed_to_the_end(tool):
    found = tool.closure(["mmengine"])
    assert found["mmengine"] == metadata.version("mmengine")
    assert {"addict", "matplotlib", "kiwisolver"} <= found.keys()
    assert not {"pytest", "mlflow"} & found.keys()  # of its extras


def test_list_is_without_this_package_and_what_torch_brings(tool, installed, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["offline_packages.py"])
    tool.main()
    listed = dict(line.split("==") for line in capsys.readouterr().out.splitlines())
    assert {"mmengine", "mmcv-lite", "mmdet", "lvis", "msgspec", "pycocotools"} <= listed.keys()
    assert not {"torch", "torchvision", "sympy", "mmdet-droploss", "pytest"} & listed.keys()
    assert listed["lvis"] == metadata.version("lvis")

    monkeypatch.setattr("sys.argv", ["offline_packages.py", "--extras", "tests"])
    tool.main()
    assert "\npytest==" in capsys.readouterr().out


def test_what_is_not_installed_is_named(tool, installed, monkeypatch, capsys):
    monkeypatch.setattr(tool, "installed_name", lambda name: name.replace("pycocotools", "gone"))
    monkeypatch.setattr("sys.argv", ["offline_packages.py", "--extras", "tests"])
    with pytest.raises(SystemExit):
        tool.main()
    assert "gone is not installed here; source tools/setup_env.sh first" in capsys.readouterr().err
