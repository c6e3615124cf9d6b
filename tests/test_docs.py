"""README and documentation: they build, paths exist, examples run, numbers agree."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "configs").glob("*/README.md"),
        *(path for path in DOCS.rglob("*.md") if "_build" not in path.parts),
    ]
)
FENCE = re.compile(r"^(`{3,})([^\n]*)\n(.*?)^\1$", re.M | re.S)
#: A path of this repository, wherever in a page it stands.
REPOSITORY_PATH = re.compile(
    r"(?<![\w./:-])(?:\.dev_scripts|benchmarks|configs|docs|mmdet_droploss|requirements|tests|tools)/[\w./-]*[\w/]"
)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings as GitHub makes them, and MyST's explicit ones."""
    text = page.read_text(encoding="utf-8")
    explicit = set(re.findall(r"^\(([\w-]+)\)=$", text, re.M))
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return explicit | {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}


# ---- the site ------------------------------------------------------------------------------------


def test_site_builds_without_a_warning_from_the_source_alone(tmp_path):
    """Offline, and with the package found by conf.py, not by an installation."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html"]
        + ["-d", str(tmp_path / "trees"), str(DOCS), str(tmp_path / "html")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    for page in DOCS.glob("*.md"):
        assert (tmp_path / "html" / f"{page.stem}.html").is_file()
    api = (tmp_path / "html" / "api.html").read_text(encoding="utf-8")
    for name in ("DropLoss", "LargeVocabBBoxHead", "FastLVISMetric", "drop_keep_probability"):
        assert f'.{name}"' in api


def test_every_page_is_reachable():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = set("\n".join(re.findall(r"```\{toctree\}(.*?)```", index, re.S)).split())
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} <= listed


# ---- links and paths -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_relative_links_lead_somewhere(page):
    text = without_code(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} in {relative(page)}"
        assert linked.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(linked), f"{target} in {relative(page)}"
    for name in re.findall(r"\{doc\}`(\w+)`", page.read_text(encoding="utf-8")):
        assert (page.parent / f"{name}.md").is_file()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_named_paths_exist(page):
    text = re.sub(r"https?://\S+", "", page.read_text(encoding="utf-8"))
    text = text.replace("docs/_build", "")  # made by the command beside it
    for match in REPOSITORY_PATH.finditer(text):
        if text[match.end() : match.end() + 1] not in ("$", "*", "{"):  # a pattern, not a path
            assert (ROOT / match[0]).exists(), f"{match[0]} in {relative(page)}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_options_of_the_tools_exist(page):
    """An option in a shell block is one that the tool, or a script that it calls, knows."""
    tools = {path.name: path for path in (ROOT / "tools").rglob("*") if path.is_file()}
    calls = {
        "dist_train.sh": "train.py",
        "dist_test.sh": "test.py",
        "quickstart.sh": "quickstart.py",
    }
    for _, language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language != "bash":
            continue
        code = re.sub(r"#.*", "", code.replace("\\\n", " "))
        for line in code.splitlines():
            match = re.search(r"tools/(?:\w+/)?(\w+\.(?:py|sh))(.*)", line)
            if match is None or match[1] == "run_tests.sh":  # passes them on to pytest
                continue
            source = tools[calls.get(match[1], match[1])].read_text(encoding="utf-8")
            if "make_parser" in source:  # the options that train.py and test.py share
                shared = ROOT / "mmdet_droploss" / "engine" / "command_line.py"
                source += shared.read_text(encoding="utf-8")
            for option in re.findall(r"(?<=\s)--[a-z][\w-]*", match[2]):
                assert option in source, f"{option} of {match[1]} in {relative(page)}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_shell_blocks_parse(page):
    for _, language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "bash":
            result = subprocess.run(["bash", "-n"], input=code, text=True, capture_output=True)
            assert result.returncode == 0, f"{result.stderr}\n{code}"


# ---- the examples --------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_python_blocks_parse(page):
    for _, language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            ast.parse(code)


@pytest.fixture
def mmdet_scope():
    """What a runner sets: names are looked up in mmdet's registries."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def readme_example(name: str) -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"<!-- example: {name} -->\n```python\n(.*?)```", readme, re.S)
    return code


def load(code: str, folder: Path) -> Config:
    """Save an example as a user would, and read it."""
    path = folder / "my_config.py"
    path.write_text(code.replace('_base_ = "configs/', f'_base_ = "{ROOT.as_posix()}/configs/'))
    return Config.fromfile(path)


def test_example_for_an_own_config_builds(tmp_path, mmdet_scope):
    code = readme_example("own config")
    cfg = load(code, tmp_path)
    head = MODELS.build(cfg.model.roi_head.bbox_head)
    assert type(head).__name__ == "LargeVocabBBoxHead"
    assert type(head.loss_cls).__name__ == "DropLoss"
    assert head.fc_cls.out_features == 1203
    assert int(head.loss_cls.tail.sum()) == 337 + 461
    assert cfg.val_evaluator.type == cfg.test_evaluator.type == "FastLVISMetric"
    # The documentation shows the same one.
    assert code in (DOCS / "own_config.md").read_text(encoding="utf-8")


def test_the_readme_s_commands_for_own_data_are_the_page_s():
    """tests/test_datasets/test_own_dataset.py follows the page."""
    page = (DOCS / "own_dataset.md").read_text(encoding="utf-8")
    commands = next(code for _, language, code in FENCE.findall(page) if language == "bash")
    assert commands in (ROOT / "README.md").read_text(encoding="utf-8")


def test_head_with_a_prior_by_hand_keeps_its_other_layers(mmdet_scope):
    """The documentation's init_cfg for MMDetection's heads: only the classifier's bias changes."""
    page = (DOCS / "own_config.md").read_text(encoding="utf-8")
    (code,) = (c for _, _, c in FENCE.findall(page) if c.startswith("bbox_head = "))
    names: dict = {}
    exec(code, names)
    loss = dict(type="DropLoss", num_classes=5, class_freq=[1, 20, 200, 300, 5])
    own = MODELS.build(dict(names["bbox_head"], num_classes=5, loss_cls=loss))
    default = MODELS.build(dict(type=own.__class__.__name__, num_classes=5, loss_cls=loss))
    for head in (own, default):
        head.init_weights()
    assert own.fc_cls.bias.tolist() == pytest.approx([-6.9] * 5)
    for layer in ("fc_cls", "fc_reg"):
        spread = getattr(own, layer).weight.std().item()
        assert spread == pytest.approx(getattr(default, layer).weight.std().item(), rel=0.1)
    spread = own.shared_fcs[0].weight.std().item()
    assert spread == pytest.approx(default.shared_fcs[0].weight.std().item(), rel=0.1)


def test_configs_page_quotes_the_configs():
    page = (DOCS / "configs.md").read_text(encoding="utf-8")
    for name in (
        "eql/mask_rcnn_r50_fpn_eql_lvis.py",
        "sigmoid/mask_rcnn_r50_fpn_sigmoid_lvis.py",
        "sigmoid/mask_rcnn_r50_fpn_sigmoid_1x_lvis_v1.py",
    ):
        lines = (ROOT / "configs" / name).read_text(encoding="utf-8").splitlines(keepends=True)
        code = "".join(line for line in lines if not line.startswith("#"))
        assert f"```python\n{code}```" in page, name


# ---- numbers -------------------------------------------------------------------------------------


def tables(text: str) -> list[list[dict[str, str]]]:
    """The Markdown tables of a text, each a list of rows by column title."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        lines = [
            [cell.strip() for cell in line.strip()[1:-1].split("|")] for line in block.splitlines()
        ]
        header, _, *rows = lines
        found.append([dict(zip(header, row, strict=True)) for row in rows])
    return found


def reported() -> dict[str, dict[str, float]]:
    """The numbers of the metafiles, by config."""
    numbers = {}
    for metafile in (ROOT / "configs").rglob("metafile.yml"):
        for model in yaml.safe_load(metafile.read_text(encoding="utf-8"))["Models"]:
            metrics: dict = {}
            for result in model.get("Results", []):
                metrics |= result["Metrics"]
            if metrics:
                numbers[model["Config"]] = metrics
    return numbers


def agrees(row: dict[str, str], metrics: dict[str, float]) -> bool:
    """Whether a row of a table has a metafile's numbers; APs, APm and APl are in the page only."""
    columns = set(row) & {"AP", "AP50", "AP75", "APr", "APc", "APf", "AR"}
    return float(row["box AP"]) == metrics["box AP"] and all(
        float(row[column]) == metrics[f"mask {column}"] for column in columns
    )


def test_readme_and_metafiles_report_the_same_numbers():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(
        r"<!-- paper table 1: begin -->(.*?)<!-- paper table 1: end", readme, re.S
    )
    (rows,) = tables(block)
    assert len(rows) == 12
    numbers = reported()
    configs = [re.search(r"\]\((.+?)\)", row["config"])[1] for row in rows]
    assert len(set(configs)) == 12
    for config, row in zip(configs, rows, strict=True):
        assert agrees(row, numbers[config]), row


def config_of(row: dict[str, str], data: str) -> str:
    """The config of a row of the paper's tables. Tables 2 and 3 are of Mask R-CNN R-50-FPN."""
    detector = {"Mask R-CNN": "mask_rcnn", "Cascade R-CNN": "cascade_mask_rcnn"}[
        row.get("detector", "Mask R-CNN")
    ]
    backbone = row.get("backbone", "R-50-FPN").lower().replace("-", "", 1).replace("-", "_")
    rfs = "rfs_" if row.get("RFS") == "yes" else ""
    loss = row["loss"].lower()
    base = re.fullmatch(r"beql \(b = (\d)\)", loss)
    if base:
        # 4 is the default, so its config says no base.
        folder, loss = "beql", "beql_" if base[1] == "4" else f"beql_b{base[1]}_"
    else:
        # What the paper's "baseline" is, it does not say; docs/model_zoo.md says so.
        folder = {"bce": "sigmoid", "baseline": "sigmoid"}.get(loss, loss)
        loss = "" if folder == "droploss" else f"{folder}_"
    return f"configs/{folder}/{detector}_{backbone}_{loss}{rfs}{data}.py"


def test_tables_of_the_paper_and_metafiles_report_the_same_numbers():
    """Each row of the paper has a config, and no other config has a number."""
    page = tables((DOCS / "paper_results.md").read_text(encoding="utf-8"))
    assert [len(rows) for rows in page] == [12, 8, 6, 3]
    numbers = reported()
    named = set()
    for rows, data in zip(page, ("lvis", "lvis", "lvis_v1", "lvis"), strict=True):
        for row in rows:
            config = config_of(row, data)
            assert agrees(row, numbers[config]), (config, row)
            named.add(config)
    assert named == set(numbers)


def test_counts_in_the_text_are_those_of_the_package():
    from mmdet_droploss.annotations import load_class_frequency

    page = " ".join((DOCS / "method.md").read_text(encoding="utf-8").split())
    v05, v1 = load_class_frequency("lvis_v0.5"), load_class_frequency("lvis_v1")
    assert v05.tail().sum() == v05.tail(0.00177).sum() == 915 and "same 915 categories" in page
    assert (v1.tail().sum(), v1.tail(0.00177).sum()) == (798, 876)
    assert "78 frequent categories: 876 instead of 798" in page


# ---- the figure ----------------------------------------------------------------------------------


def test_figure_is_drawn_from_the_package(tmp_path):
    spec = importlib.util.spec_from_file_location("make_figures", DOCS / "make_figures.py")
    make_figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_figures)
    make_figures.main(["--out", str(tmp_path)])
    for folder in (tmp_path, DOCS / "images"):
        picture = folder / "weights.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 200_000
