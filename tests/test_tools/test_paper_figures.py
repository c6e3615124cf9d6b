"""tools/analysis_tools/{paper_tables,tradeoff_figures}.py on made-up runs with known numbers."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scripts import ROOT, load_script

from mmdet_droploss.analysis import paper_tables, tradeoff_figures
from mmdet_droploss.analysis.comparable_runs import load_tested
from mmdet_droploss.analysis.runs import InputError, facts_of
from mmdet_droploss.analysis.settings import Setting, from_name, setting_of
from mmdet_droploss.analysis.tradeoff_figures import background_weight, pareto_frontier
from mmdet_droploss.evaluation import METRIC_KEYS

CONFIG = """
model = dict(
    backbone=dict(depth={depth}),
    roi_head=dict(type='{roi_head}', bbox_head=dict(loss_cls=dict({loss}))))
train_dataloader = dict(sampler=dict(type='{sampler}'))
"""


def tool(name: str):
    return load_script(f"tools/analysis_tools/{name}.py")


def make_run(folder: Path, loss: str = "", num_classes: int = 3, kinds=("segm", "bbox"), **values):
    """A work dir; ``values`` are metrics of masks in percent, those of boxes are 1 lower."""
    folder.mkdir(parents=True)
    metrics = {}
    for kind in kinds:
        shift = 0 if kind == "segm" else 1
        for key in METRIC_KEYS:
            value = values.get(key, 20.0)
            metrics[f"{kind}_{key}"] = -1.0 if value is None else (value - shift) / 100
    rows = [
        {"name": f"thing{k}", **{f"{kind}_AP": 0.5 for kind in kinds}} for k in range(num_classes)
    ]
    content = dict(metrics=metrics, per_category=rows)
    (folder / "val.metrics.json").write_text(json.dumps(content))
    if loss:
        write_config(folder, loss)
    return folder


def write_config(folder, loss, depth=50, roi_head="StandardRoIHead", sampler="InfiniteSampler"):
    config = folder / "20260101_000000" / "vis_data" / "config.py"
    config.parent.mkdir(parents=True)
    config.write_text(CONFIG.format(loss=loss, depth=depth, roi_head=roi_head, sampler=sampler))
    config.with_name("scalars.json").write_text('{"step": 50, "loss": 1.0}\n')


@pytest.fixture
def study(tmp_path) -> list[str]:
    """Arguments for a small study: two seeds of DropLoss, two families, EQL."""
    runs = {
        "EQL=eql": ("type='EQL'", 8, 40, 50),
        "BEQL, b = 2=b2": ("type='BEQL', log_base=2", 20, 45, 40),
        "BEQL, b = 4=b4": ("type='BEQL'", 15, 44, 46),
        "fixed drop 0.5=d5": ("type='FixedDropLoss', drop_ratio=0.5", 12, 43, 45),
        "fixed drop 0.9=d9": ("type='FixedDropLoss', drop_ratio=0.9", 18, 44, 38),
        "DropLoss=drop_0": ("type='DropLoss'", 16, 46, 48),
        "DropLoss=drop_1": ("type='DropLoss'", 18, 48, 47),
    }
    for argument, (loss, rare, common, frequent) in runs.items():
        folder = tmp_path / argument.rpartition("=")[2]
        make_run(folder, loss, APr=rare, APc=common, APf=frequent)
    return [f"{a.rpartition('=')[0]}={tmp_path / a.rpartition('=')[2]}" for a in runs]


def as_arguments(runs, out, *more):
    return [*(part for run in runs for part in ("--run", run)), "--out", str(out), *more]


# ---- reading runs --------------------------------------------------------------------------------


def test_what_cannot_be_used_is_named_and_the_rest_is_kept(tmp_path):
    good = [make_run(tmp_path / f"good{k}") for k in range(2)]
    going = tmp_path / "going"
    write_config(going, "type='EQL'")
    log = going / "20260101_000000" / "vis_data" / "scalars.json"
    log.write_text('{"step": 40, "loss": 1.0}\n{"step": 60, "lo')
    short = make_run(tmp_path / "short")
    text = (short / "val.metrics.json").read_text()
    (short / "val.metrics.json").write_text(text[: len(text) // 2])
    other = make_run(tmp_path / "other", num_classes=4)
    empty = make_run(tmp_path / "empty", kinds=())
    runs = [f"other={other}", *(f"good={g}" for g in good), f"good={tmp_path / 'gone'}"]
    runs += [f"going={going}", f"short={short}", f"again={good[0]}", f"empty={empty}"]
    methods, problems = load_tested(runs)
    assert [(m.name, [run.folder for run in m.runs]) for m in methods] == [("good", good)]
    said = {problem.split()[3]: problem for problem in problems}
    assert set(said) == {"other", "good", "going", "short", "again", "empty"}
    assert f"{tmp_path / 'gone'} is no folder" in said["good"]
    assert f"{going} has no results yet (its log is at iteration 40)" in said["going"]
    assert f"{short}/val.metrics.json" in said["short"] and "cut short" in said["short"]
    assert "4 categories" in said["other"] and f"{good[0]}/val.metrics.json has 3" in said["other"]
    assert f"{good[0]} is given twice" in said["again"]
    assert "neither segm_AP nor bbox_AP" in said["empty"]


def test_a_run_of_another_loss_is_no_other_seed(tmp_path):
    runs = [make_run(tmp_path / "a", "type='EQL'"), make_run(tmp_path / "b", "type='BEQL'")]
    methods, (problem,) = load_tested([f"mine={folder}" for folder in runs])
    assert [run.folder for run in methods[0].runs] == runs[:1]
    assert str(runs[1]) in problem and "BEQL" in problem and "EQL" in problem


def test_the_config_of_a_test_in_the_same_work_dir_is_not_the_training_s(tmp_path):
    folder = make_run(tmp_path / "a", "type='BEQL', log_base=8")
    with (folder / "20260101_000000" / "vis_data" / "config.py").open("a") as config:
        config.write("randomness = dict(seed=1)")
    for start in ("20260102_000000", "20260103_000000"):
        later = folder / start / "vis_data"
        later.mkdir(parents=True)
        later.joinpath("config.py").write_text("model = dict(type='DetTTAModel', module=dict())")
    # That of a test has no log, or one without a loss, if it is a training's validation alone.
    later.joinpath("scalars.json").write_text('{"lvis/segm_AP": 0.2, "step": 0}\n')
    (method,), _ = load_tested([f"mine={folder}"])
    assert setting_of(method) == Setting("BEQL", 8, cascade=False, depth=50)
    assert facts_of(method.runs[0])["seed"] == "1"


def test_a_work_dir_with_a_test_only_does_not_tell_the_training_s_config(tmp_path):
    folder = make_run(tmp_path / "a", "type='BEQL'")
    (folder / "20260101_000000" / "vis_data" / "scalars.json").unlink()
    (method,), _ = load_tested([f"BEQL, b = 8={folder}"])
    assert method.runs[0].config is None
    assert setting_of(method) == Setting("BEQL", 8)
    facts = facts_of(method.runs[0])
    assert (facts["loss"], facts["seed"]) == ("unknown", "unknown")


@pytest.mark.parametrize("argument", ["no_separator", "=dir", "name=", ""])
def test_an_argument_that_is_no_run_is_refused(argument):
    with pytest.raises(InputError, match="NAME=DIR"):
        load_tested([argument])


def test_names_and_folders_may_have_equals_signs(tmp_path):
    runs = [make_run(tmp_path / "lr=0.1"), make_run(tmp_path / "plain")]
    methods, _ = load_tested([f"b = 2={runs[0]}", f"b = 4={runs[1]}"])
    assert [(m.name, m.runs[0].folder) for m in methods] == [("b = 2", runs[0]), ("b = 4", runs[1])]


def test_more_names_than_colours(tmp_path):
    runs = [f"m{k}={make_run(tmp_path / str(k))}" for k in range(20)]
    methods, problems = load_tested(runs)
    assert [m.name for m in methods] == [f"m{k}" for k in range(20)] and not problems


def test_settings_come_from_the_config(tmp_path, study):
    methods, _ = load_tested(study)
    found = [(s.loss, s.parameter) for s in map(setting_of, methods)]
    assert found == [
        ("EQL", None),
        ("BEQL", 2),
        ("BEQL", 4),  # the loss's default
        ("FixedDropLoss", 0.5),
        ("FixedDropLoss", 0.9),
        ("DropLoss", None),
    ]
    folder = make_run(tmp_path / "rfs")
    write_config(folder, "type='EQL'", 101, "CascadeRoIHead", "RepeatFactorSampler")
    (method,), _ = load_tested([f"softmax={folder}"])
    assert setting_of(method) == Setting("EQL", None, True, True, 101)


def test_types_may_have_a_scope_or_a_module(tmp_path):
    folder = make_run(tmp_path / "a")
    write_config(folder, "type='mmdet.BEQL', log_base=8", sampler="mmdet_droploss.a.RepeatFactorB")
    (method,), _ = load_tested([f"mine={folder}"])
    assert setting_of(method) == Setting("BEQL", 8, True, False, 50)
    config = folder / "20260101_000000" / "vis_data" / "config.py"
    config.write_text(
        "train_dataloader = dict(dataset=dict(type='mmdet.ClassBalancedDataset'))\n"
        "model = dict(bbox_head=dict(loss_cls=dict(type='my.losses.DropLoss')))"
    )
    (method,), _ = load_tested([f"mine={folder}"])
    assert setting_of(method) == Setting("DropLoss", None, True, False)


@pytest.mark.parametrize(
    "name, setting",
    [
        ("BEQL, b = 4", Setting("BEQL", 4)),
        ("beql_b8", Setting("BEQL", 8)),
        ("BEQL, b = 1e4", Setting("BEQL", 1e4)),
        ("BEQL-b=2.5E+2, lr 1e-3", Setting("BEQL", 250)),
        ("fixed-drop-5e-1", Setting("FixedDropLoss", 0.5)),
        ("BEQL + RFS", Setting("BEQL", rfs=True)),
        ("fixed drop, 0.5", Setting("FixedDropLoss", 0.5)),
        ("Fixed ratio 0.9 + RFS", Setting("FixedDropLoss", 0.9, True)),
        ("DropLoss, lambda 0.01", Setting("DropLoss")),
        ("EQLv2", Setting("EQLV2BBoxLoss")),
        ("EQL", Setting("EQL")),
        ("sigmoid BCE", Setting("SigmoidBCELoss")),
        ("softmax", Setting("CrossEntropyLoss")),
        ("mine", Setting("unknown")),
    ],
)
def test_settings_come_from_the_name_without_a_config(name, setting):
    assert from_name(name) == setting


# ---- tables --------------------------------------------------------------------------------------


def test_tables_have_mean_deviation_and_number_of_seeds(tmp_path, capsys):
    values = [10.0, 12.0, 17.0]
    runs = [f"a|b={make_run(tmp_path / str(k), APr=v, APl=None)}" for k, v in enumerate(values)]
    runs.append(f"x_1 & y={make_run(tmp_path / 'single')}")
    assert tool("paper_tables").main(as_arguments(runs, tmp_path / "out")) == 0
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    markdown = (tmp_path / "out" / "tables.md").read_text()
    assert markdown in capsys.readouterr().out
    head, rule, first, second = markdown.splitlines()
    assert head.count("|") == rule.count("|") == second.count("|") == 14
    assert first.startswith(r"| a\|b | 3 | 20.0 ± 0.0 |")
    assert f"| {mean:.1f} ± {deviation:.1f} |" in first and "| – |" in first
    assert second.endswith("| 20.0 | 20.0 | 19.0 |")
    with (tmp_path / "out" / "tables.csv").open() as file:
        row, single = csv.DictReader(file)
    assert float(row["APr mean"]) == pytest.approx(mean)
    assert float(row["APr std"]) == pytest.approx(deviation)
    assert (row["seeds"], row["APl mean"], single["APr std"]) == ("3", "", "")
    assert float(row["AP box mean"]) == pytest.approx(19.0)
    latex = (tmp_path / "out" / "tables.tex").read_text()
    assert r"x\_1 \& y & 1 & 20.0" in latex
    assert rf"{mean:.1f} $\pm$ {deviation:.1f}" in latex
    rows = [paper_tables.Row(title, 1, {}, {}) for title in ("[2pt] x", "*best", "a [b]")]
    for row in rows:
        row.means.update(dict.fromkeys(paper_tables.columns("bbox").values(), 1.0))
        row.deviations.update(dict.fromkeys(paper_tables.columns("bbox").values(), math.nan))
    begins = [line[:5] for line in paper_tables.to_latex(rows, "bbox").splitlines()[5:8]]
    assert begins == ["{}[2p", "{}*be", "a [b]"], "else LaTeX takes them for arguments of the row"
    lines = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {12}
    assert r"AP$_{\mathrm{r}}$" in lines[0] and r"AP$_{\mathrm{box}}$" in lines[0]


def test_boxes_alone_have_a_table_of_their_own(tmp_path):
    program = tool("paper_tables")
    arguments = as_arguments([f"a={make_run(tmp_path / 'a', kinds=('bbox',))}"], tmp_path / "out")
    with pytest.raises(SystemExit, match="no run was tested for segm; give --iou-type bbox"):
        program.main(arguments)
    assert program.main([*arguments, "--iou-type", "bbox"]) == 0
    assert "AP box" not in (tmp_path / "out" / "tables.md").read_text()


def test_a_run_left_out_is_named_and_the_status_says_so(tmp_path, capsys):
    runs = [f"a={make_run(tmp_path / 'a')}", f"b={make_run(tmp_path / 'b', kinds=('bbox',))}"]
    runs.append(f"c={tmp_path / 'c'}")
    for name in ("paper_tables", "tradeoff_figures"):
        assert tool(name).main(as_arguments(runs, tmp_path / "out")) == 1
        problems = capsys.readouterr().err.splitlines()
        assert [line.split()[4] for line in problems] == ["c", "b"]
    assert (tmp_path / "out" / "tables.md").read_text().count("\n") == 3
    assert (tmp_path / "out" / "figure3.svg").is_file()
    with pytest.raises(SystemExit, match="there is no tested run"):
        tool("paper_tables").main(as_arguments(runs[2:], tmp_path / "out"))


def test_the_paper_s_row_stands_below_the_same_loss(tmp_path):
    folder = make_run(tmp_path / "c")
    write_config(folder, "type='DropLoss'", 101, "Detectron2CascadeRoIHead")
    runs = [f"DropLoss={make_run(tmp_path / 'a')}", f"EQL + RFS={make_run(tmp_path / 'b')}"]
    runs += [f"mine={folder}", f"Seesaw={make_run(tmp_path / 'd')}"]
    methods, _ = load_tested(runs)
    rows = paper_tables.build_rows(methods, "segm", "LVIS v0.5")
    assert [row.seeds for row in rows] == [1, 0, 1, 0, 1, 0, 1]
    assert [row.cell("segm_AP") for row in rows[1::2]] == ["25.5", "25.5", "26.4"]
    assert [row.cell("segm_APr") for row in rows[1::2]] == ["13.2", "16.7", "11.5"]
    assert "Cascade R-CNN R-101-FPN, LVIS v0.5" in rows[5].title
    assert math.isnan(rows[3].means["segm_AR@300"])  # Table 2 has no AR
    baseline = paper_tables.paper_row(Setting("SigmoidBCELoss"), "LVIS v1.0")
    assert baseline["title"] == "Baseline" and baseline["metrics"]["segm_AP"] == 16.2


def test_rows_of_the_paper_are_those_of_the_documentation():
    page = (ROOT / "docs" / "paper_results.md").read_text(encoding="utf-8")
    losses = dict(bce="SigmoidBCELoss", sigmoid="SigmoidBCELoss", baseline="SigmoidBCELoss")
    losses |= dict(softmax="CrossEntropyLoss", eql="EQL", droploss="DropLoss")
    seen, numbers = set(), 0
    tables = re.findall(r"(?:^\|.*\|\n)+", page, re.M)
    for table, data in zip(tables, ("v0.5", "v0.5", "v1.0", "v0.5"), strict=True):
        head, _, *lines = (
            [c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines()
        )
        for line in lines:
            row = dict(zip(head, line, strict=True))
            base = re.fullmatch(r"BEQL \(b = (\d)\)", row["loss"])
            setting = Setting(
                "BEQL" if base else losses[row["loss"].lower()],
                float(base[1]) if base else None,
                row.get("RFS") == "yes",
                row.get("detector") == "Cascade R-CNN",
                101 if row.get("backbone") == "R-101-FPN" else 50,
            )
            found = paper_tables.paper_row(setting, f"LVIS {data}")
            seen.add(json.dumps(found))
            for title in set(row) - {"loss", "RFS", "detector", "backbone"}:
                key = paper_tables.columns("segm")[{"box AP": "AP box"}.get(title, title)]
                assert found["metrics"][key] == float(row[title]), (row, title)
                numbers += 1
    assert len(seen) == len(paper_tables.paper_results())
    assert numbers == 12 * 8 + 14 * 10 + 3 * 6


# ---- figures -------------------------------------------------------------------------------------


def test_pareto_frontier():
    nan = math.nan
    points = [[5, 1], [4, 2], [4, 1], [1, 4], [1, 4], [1, 3], [0, 4], [nan, 9], [9, nan], [3, 3]]
    on = pareto_frontier(np.array(points, dtype=float))
    assert [points[k] for k in np.flatnonzero(on)] == [[5, 1], [4, 2], [1, 4], [1, 4], [3, 3]]
    assert pareto_frontier(np.empty((0, 2))).shape == (0,)
    assert not pareto_frontier(np.full((2, 2), nan)).any()


@pytest.mark.parametrize("base", [2, 4, 1000])
def test_weights_are_equation_4(base):
    p = np.array([1e-6, 0.01, 0.3, 0.5, 0.8, 0.999])
    expected = 1 - np.minimum(-np.log(p) / np.log(base), 1)
    np.testing.assert_allclose(background_weight(p, base), expected, atol=1e-9)
    np.testing.assert_array_equal(background_weight(p), 1)


def test_figure_3_draws_every_method_families_and_the_frontier(study):
    methods, _ = load_tested(study)
    figure = tradeoff_figures.draw_tradeoff(methods)
    common, rare = figure.axes
    assert (common.get_title(), rare.get_title()) == ("common vs. frequent", "rare vs. frequent")
    lines = {line.get_label(): line.get_xydata().tolist() for line in rare.lines}
    assert np.allclose(lines["BEQL, bases b"], [[40, 20], [46, 15]])
    assert np.allclose(lines["fixed drop ratios"], [[45, 12], [38, 18]])
    steps = np.array(lines["Pareto frontier"])
    assert np.allclose(steps[1:-1], [[40, 20], [47.5, 17], [50, 8]])
    bars = {bar.get_label(): bar for bar in rare.containers}
    (drop,) = bars["DropLoss"].lines[0].get_xydata()
    assert np.allclose(drop, [47.5, 17])
    assert bars["DropLoss"].has_yerr and not bars["EQL"].has_yerr
    horizontal = bars["DropLoss"].lines[2][0].get_segments()[0]
    assert np.allclose(horizontal[:, 0], 47.5 + np.std([48, 47], ddof=1) * np.array([-1, 1]))
    assert {text.get_text() for text in rare.texts} == {"b = 2", "b = 4", "0.5", "0.9"}


def test_figure_2b_ends_at_eql(study):
    methods, _ = load_tested(study)
    (axes,) = tradeoff_figures.draw_base_tradeoff(methods).axes
    assert np.allclose(axes.lines[0].get_xydata(), [[40, 20], [46, 15], [50, 8]])
    with pytest.raises(ValueError, match="no run is of BEQL"):
        tradeoff_figures.draw_base_tradeoff(methods[:1])


def test_a_group_without_a_measurement_is_not_drawn(tmp_path):
    runs = [f"BEQL b={k}={make_run(tmp_path / str(k), APr=v)}" for k, v in ((2, None), (4, 9))]
    methods, _ = load_tested(runs)
    _, rare = tradeoff_figures.draw_tradeoff(methods).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in rare.lines}
    assert np.allclose(lines["BEQL, bases b"], [[20, 9]])
    sentences = tradeoff_figures.frontier_sentences(methods, "segm_APf", "segm_APr")
    assert sentences == ["Pareto frontier of APr and APf: BEQL b=4"]


def test_what_is_not_drawn_is_said(tmp_path):
    runs = [f"_a={make_run(tmp_path / 'a', APc=None)}", f"BEQL + RFS={make_run(tmp_path / 'b')}"]
    methods, _ = load_tested(runs)
    first, second = tradeoff_figures.not_drawn(methods, "segm")
    assert first == "_a is not drawn where APc cannot be measured"
    assert second.startswith("BEQL + RFS is not on the line of BEQL") and "log_base" in second
    (legend,) = tradeoff_figures.draw_tradeoff(methods).legends
    assert {" _a", "BEQL + RFS"} <= {text.get_text() for text in legend.get_texts()}


def test_repeat_factor_sampling_has_a_frontier_of_its_own(study, tmp_path):
    folder = make_run(tmp_path / "rfs", APr=60, APf=60)
    methods, _ = load_tested([*study, f"EQL + RFS={folder}"])
    assert tradeoff_figures.frontier_sentences(methods, "segm_APf", "segm_APr") == [
        "Pareto frontier of APr and APf: EQL; BEQL, b = 2; DropLoss",
        "Pareto frontier of APr and APf, with RFS: EQL + RFS",
    ]
    rare = tradeoff_figures.draw_tradeoff(methods).axes[1]
    lines = {line.get_label(): line.get_xydata() for line in rare.lines}
    assert np.allclose(lines["Pareto frontier"][1:-1], [[40, 20], [47.5, 17], [50, 8]])
    assert np.allclose(lines["Pareto frontier, RFS"][1:-1], [[60, 60]])


def test_styles_of_many_methods_differ(tmp_path):
    names = ["DropLoss", "DropLoss, keep frequent", "EQL", "sigmoid", "softmax", "mine", "Seesaw"]
    names += [f"other {k}" for k in range(12)]
    runs = [f"{name}={make_run(tmp_path / name)}" for name in names]
    points = tradeoff_figures.points_of(load_tested(runs)[0], "segm_APf", "segm_APr")
    styles = tradeoff_figures.assign_styles(points)
    assert len(set(styles)) == len(names)
    assert styles[0] == (tradeoff_figures.VERMILION, "*")


def test_the_tool_writes_the_same_files_each_time(study, tmp_path, capsys):
    program = tool("tradeoff_figures")
    contents = []
    for name in ("first", "second"):
        assert program.main(as_arguments(study, tmp_path / name)) == 0
        files = sorted((tmp_path / name).iterdir())
        contents.append({file.name: file.read_bytes() for file in files})
    names = {f"figure{n}.{kind}" for n in ("2a", "2b", "3") for kind in ("png", "svg")}
    assert set(contents[0]) == names and contents[0] == contents[1]
    assert "Pareto frontier of APr and APf: EQL; BEQL, b = 2; DropLoss" in capsys.readouterr().out


def test_without_beql_the_bases_can_be_given(tmp_path, capsys):
    program = tool("tradeoff_figures")
    arguments = as_arguments([f"EQL={make_run(tmp_path / 'a')}"], tmp_path / "out")
    assert program.main(arguments) == 0
    assert "no Figure 2(a)" in capsys.readouterr().out
    assert program.main([*arguments, "--bases", "2", "10"]) == 0
    assert (tmp_path / "out" / "figure2a.svg").is_file()
    with pytest.raises(SystemExit):
        program.main([*arguments, "--bases", "1"])
    assert "--bases must be numbers > 1" in capsys.readouterr().err
