""".dev_scripts/model_zoo.py: the page is up to date, and has what the metafiles have."""

from __future__ import annotations

import re

import pytest
from scripts import ROOT, load_script


@pytest.fixture
def model_zoo():
    """The script as a module of its own, so that a test can change where it writes."""
    return load_script(".dev_scripts/model_zoo.py")


def test_the_pages_are_up_to_date(model_zoo, capsys):
    status = model_zoo.main(["--check"])
    assert status == 0, capsys.readouterr().err


def test_check_says_what_to_run_and_writes_nothing(model_zoo, tmp_path, monkeypatch, capsys):
    page = tmp_path / "model_zoo.md"
    monkeypatch.setattr(model_zoo, "make_pages", lambda: {page: "new\n"})
    assert model_zoo.main(["--check"]) == 1
    assert "out of date; run: python .dev_scripts/model_zoo.py" in capsys.readouterr().err
    assert not page.exists()

    page.write_text("old\n")
    assert model_zoo.main(["--check"]) == 1
    assert page.read_text() == "old\n"

    assert model_zoo.main([]) == 0
    assert page.read_text() == "new\n"
    assert model_zoo.main(["--check"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [page.name]


def test_help_teaches(model_zoo, capsys):
    with pytest.raises(SystemExit):
        model_zoo.main(["--help"])
    text = capsys.readouterr().out
    for word in ("docs/model_zoo.md", "metafile", "--check", "exit status 1", "examples:"):
        assert word in text


def test_a_row_says_what_the_config_and_the_metafile_say(model_zoo):
    page = model_zoo.make_page(model_zoo.make_rows())
    assert "the paper's, not ours" in page
    lines = [line for line in page.splitlines() if line.startswith("| [")]
    assert len(lines) == len(model_zoo.read_models())
    rows = {re.match(r"\| \[(.+?)\]", line)[1]: line.split(" | ") for line in lines}
    assert rows["cascade_mask_rcnn_r101_fpn_eql_lvis"][1:] == (
        ["Cascade Mask R-CNN", "R-101-FPN", "EQL", "LVIS v0.5", "no"]
        + ["25.4", "7.2", "26.6", "31.0", "27.2", "Table 1 |"]
    )
    assert rows["mask_rcnn_r50_fpn_sigmoid_rfs_lvis_v1"][4:7] == ["LVIS v1.0", "yes", "18.8"]
    assert rows["mask_rcnn_r50_fpn_sigmoid_rfs_lvis_v1"][-1] == 'Table 2, row "Baseline" |'
    assert rows["mask_rcnn_r50_fpn_beql_b5_lvis"][3] == "BEQL, `log_base=5`"
    assert rows["mask_rcnn_r50_torchvision_fpn_lvis"][2] == "R-50-FPN, torchvision"
    # Nothing is claimed where the paper has no row.
    assert not re.search(r"\d\.\d", " ".join(rows["mask_rcnn_r50_fpn_beql_b8_lvis"][5:]))


def test_each_metafile_has_a_readme_with_its_rows(model_zoo):
    pages = model_zoo.make_pages()
    folders = sorted(path.parent for path in (ROOT / "configs").glob("*/metafile.yml"))
    assert sorted(path.parent for path in pages if path.name == "README.md") == folders
    rows = [line for path, page in pages.items() if path.name == "README.md"
            for line in page.splitlines() if line.startswith("| [")]  # fmt: skip
    assert len(rows) == len(model_zoo.read_models())
    for path, page in pages.items():
        for target in re.findall(r"^\| \[.+?\]\((.+?)\)", page, re.M):
            assert (path.parent / target).is_file(), (path, target)
