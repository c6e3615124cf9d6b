"""prove_configs.py on a representative subset; all configs take most of an hour."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".dev_scripts" / "prove_configs.py"
LEAVES = {
    path.stem
    for path in (ROOT / "configs").rglob("*.py")
    if not {"_base_", "mini_lvis"} & set(path.parts)
}


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=1200,
    )


def test_the_list_has_all_configs_and_the_papers_rows():
    done = run("--list")
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in done.stdout.splitlines() if "fpn" in line]
    rows = {cells[1].strip(): cells[2].strip() for cells in lines}
    assert set(rows) == LEAVES
    assert rows["mask_rcnn_r50_fpn_lvis"] == "Table 1"
    assert rows["mask_rcnn_r50_fpn_seesaw_lvis"] == ""


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("proof")


@pytest.mark.parametrize(
    "name", ["cascade_mask_rcnn_r50_fpn_rfs_lvis_v1", "mask_rcnn_r50_fpn_eqlv2_lvis"]
)
def test_a_config_is_proved(name, work_dir, tmp_path):
    done = run("--only", name, "--work-dir", work_dir, "--json", tmp_path / "proof.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 configs are proved" in done.stdout
    found = json.loads((tmp_path / "proof.json").read_text())
    assert set(found) == {name} and len(found[name]["losses"]) == 2


def test_a_config_that_cannot_train_is_said_to_fail(work_dir, tmp_path):
    """The tool's own process of one config; its end is what the table takes for a failure."""
    broken = tmp_path / "broken.py"
    broken.write_text(
        f'_base_ = "{ROOT.as_posix()}/configs/droploss/mask_rcnn_r50_fpn_lvis.py"\n'
        "model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(num_classes=7))))\n"
    )
    done = run("--one", broken, "--work-dir", work_dir)
    assert done.returncode != 0
    assert "num_classes=7 does not agree with class_freq" in done.stderr


def test_a_name_of_nothing():
    done = run("--only", "resnet*")
    assert done.returncode == 2 and "--list says which there are" in done.stderr
