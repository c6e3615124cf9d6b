"""Keep the small results of the mini-LVIS study in docs/evidence/, and write the tables from them.

Run ``python .dev_scripts/evidence.py --help`` for what it writes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import mmengine
import numpy as np
from pages import write_pages

from mmdet_droploss.analysis.gradient_figure import group_medians
from mmdet_droploss.analysis.protocols import is_made_of
from mmdet_droploss.analysis.runs import Method, Run, deviation, group_by_name, load_run
from mmdet_droploss.analysis.study import folder_name, load_study
from mmdet_droploss.analysis.tables import cell, format_cell
from mmdet_droploss.annotations import ClassFrequency
from mmdet_droploss.engine.gradient_record import load_gradient_record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "evidence"
STUDIES = [ROOT / "configs" / "mini_lvis" / f"{name}.yml" for name in ("study", "study_hidden")]
PAGES = [ROOT / "docs" / "evidence.md", ROOT / "README.md"]
COMMAND = "python .dev_scripts/evidence.py"

DESCRIPTION = """\
Writes the tables between lines such as "evidence methods: begin" and "evidence methods: end" in
docs/evidence.md and README.md from the results in docs/evidence/. With --collect it first copies
there what is done of configs/mini_lvis/study.yml and study_hidden.yml, and draws the figures.
"""

EPILOG = f"""\
examples:
  {COMMAND} --collect work_dirs/study   # new results: keep them, and write the tables
  {COMMAND}                             # write the tables
  {COMMAND} --check                     # exit status 1 if a table is not up to date
"""

KEYS = ("AP", "APr", "APc", "APf")
#: The folders of each protocol's results.
PROTOCOLS = {
    "federated": RESULTS,
    "exhaustive": RESULTS / "protocols" / "exhaustive",
}
#: What is subtracted from what, seed by seed.
PAIRS = [
    ("EQL", "sigmoid BCE"),
    ("DropLoss", "sigmoid BCE"),
    ("DropLoss", "EQL"),
    ("DropLoss", "BEQL, b = 4"),
    ("FederatedLoss", "sigmoid BCE"),
    ("FederatedLoss", "DropLoss"),
    ("Seesaw", "sigmoid BCE"),
    ("Seesaw", "DropLoss"),
    ("EQLv2", "sigmoid BCE"),
    ("DropLoss, keep frequent", "DropLoss"),
    ("sigmoid BCE + RFS", "sigmoid BCE"),
    ("EQL + RFS", "EQL"),
    ("BEQL + RFS", "BEQL, b = 4"),
    ("DropLoss + RFS", "DropLoss"),
    ("DropLoss + RFS", "sigmoid BCE"),
    ("DropLoss + RFS", "sigmoid BCE + RFS"),
    ("EQL + RFS", "sigmoid BCE + RFS"),
    ("BEQL + RFS", "sigmoid BCE + RFS"),
    ("DropLoss, half hidden", "sigmoid BCE, half hidden"),
    ("DropLoss, none hidden", "sigmoid BCE, none hidden"),
]
#: Whose gradients are shown.
RECORDED = (
    "sigmoid BCE",
    "EQL",
    "DropLoss",
    "FederatedLoss",
    "BEQL, b = 4",
    "BEQL, b = 1000",
    "sigmoid BCE, half hidden",
    "DropLoss, half hidden",
    "sigmoid BCE, none hidden",
    "DropLoss, none hidden",
)
#: The names of the methods in Figures 2 and 3 begin so, and end in nothing that says other data.
TRADED = ("sigmoid BCE", "EQL", "DropLoss", "FederatedLoss", "Seesaw", "BEQL", "fixed drop")
OTHER_DATA = ("RFS", "hidden")
#: README's rows.
MAIN = (
    "sigmoid BCE",
    "EQL",
    "DropLoss",
    "FederatedLoss",
    "Seesaw",
    "sigmoid BCE + RFS",
    "DropLoss + RFS",
)


# ---- what is kept --------------------------------------------------------------------------------


def collect(work_dir: Path) -> None:
    """Copy the small results of all jobs that are done, and draw the figures."""
    for file in STUDIES:
        for job in load_study(file, work_dir).jobs:
            if not job.is_done():
                print(job.stale() or f"{job.title} is not done")
                continue
            if conflict := job.conflict():
                sys.exit(f"evidence.py: {conflict}")
            place = job.folder.relative_to(work_dir)
            exhaustive = Path("protocols") / "exhaustive" / place / "val.metrics.json"
            if (work_dir / exhaustive).is_file() and not is_made_of(
                (work_dir / exhaustive).with_name("made_of.json"), job.metrics_file
            ):
                sys.exit(
                    f"evidence.py: {work_dir / exhaustive} is of an earlier test than "
                    f"{job.metrics_file}; python tools/study.py {file.relative_to(ROOT)} "
                    f"--work-dir {work_dir} --report evaluates it again"
                )
            names = ("job.json", "val.metrics.json", "category_gradients.npz")
            for path in [*(place / name for name in names), exhaustive]:
                if not (work_dir / path).is_file():
                    sys.exit(
                        f"evidence.py: {work_dir / path} does not exist; python tools/study.py "
                        f"{file.relative_to(ROOT)} --work-dir {work_dir} --report writes it"
                    )
                (RESULTS / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(work_dir / path, RESULTS / path)
    draw()


def draw() -> None:
    """Figure 1 of sigmoid BCE and DropLoss, Figures 2 and 3 of what is kept."""
    tools = ROOT / "tools" / "analysis_tools"
    frequency = ROOT / "data" / "mini_lvis" / "annotations" / "lvis_v1_train.json"
    for name in ("sigmoid BCE", "DropLoss"):
        place = Path(folder_name(name)) / "seed_0"
        subprocess.run(
            [
                *(sys.executable, tools / "gradient_figure.py"),
                *(RESULTS / place / "category_gradients.npz", "--class-freq", frequency),
                *("--out", RESULTS / f"figure1_{folder_name(name)}"),
            ],
            check=True,
        )
    arguments: list[str] = []
    for name, method in kept_methods("federated").items():
        if name.startswith(TRADED) and not name.endswith(OTHER_DATA):
            arguments += [f"--run={name}={run.folder}" for run in method.runs]
    figures = [sys.executable, tools / "tradeoff_figures.py", *arguments, "--out", RESULTS]
    subprocess.run(figures, check=True)


# ---- tables --------------------------------------------------------------------------------------


def kept_methods(protocol: str) -> dict[str, Method]:
    """The methods with results, in the order of the study files."""
    names = [m["name"] for file in STUDIES for m in mmengine.load(file)["methods"]]
    runs: list[Run] = []
    for name in dict.fromkeys(names):
        folder = PROTOCOLS[protocol] / folder_name(name)
        seeds = sorted(file.parent for file in folder.glob("seed_*/val.metrics.json"))
        runs += [load_run(name, seed) for seed in seeds]
    return {method.name: method for method in group_by_name(runs)}


def spread(values: Sequence[float], form: str) -> str:
    """A mean, with the standard deviation if there are several values."""
    return format_cell(statistics.fmean(values), deviation(values), form)


def method_rows(names: Sequence[str] | None = None) -> str:
    """APs of the methods under both protocols."""
    found = {protocol: kept_methods(protocol) for protocol in PROTOCOLS}
    lines = [
        "| mask | seeds | AP | APr | APc | APf | exhaustive: AP | APr | APc | APf |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, method in found["federated"].items():
        if names is None or name in names:
            cells = [
                cell(methods[name], f"segm_{key}") for methods in found.values() for key in KEYS
            ]
            lines.append(f"| {name} | {len(method.runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference_rows() -> str:
    """What one method has beyond another, seed by seed, under both protocols."""
    found = {protocol: kept_methods(protocol) for protocol in PROTOCOLS}
    lines = [
        "| mask, difference | validation | seeds | AP | APr | APc | APf |",
        "|:--|:--|--:|--:|--:|--:|--:|",
    ]
    for name, base in PAIRS:
        for protocol, methods in found.items():
            if not {name, base} <= methods.keys():
                continue
            runs = [
                {run.folder.name: run.metrics for run in methods[which].runs}
                for which in (name, base)
            ]
            seeds = sorted(runs[0].keys() & runs[1].keys())
            cells = [
                spread(
                    [100 * (runs[0][s][f"segm_{key}"] - runs[1][s][f"segm_{key}"]) for s in seeds],
                    "+.1f",
                )
                for key in KEYS
            ]
            title = f"{name} − {base}"  # noqa: RUF001  (a minus)
            lines.append(f"| {title} | {protocol} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gradient_rows() -> str:
    """Figure 1 in numbers: medians over the categories of a group, means over the seeds."""
    lines = [
        "| training | categories | seeds | background's share of the discouraging gradient, % | "
        "mean score on background, first quarter of the training | last quarter |",
        "|:--|:--|--:|--:|--:|--:|",
    ]
    for name, method in kept_methods("federated").items():
        if name not in RECORDED:
            continue
        medians = []
        for run in method.runs:
            counts = np.array([category["image_count"] for category in run.categories])
            record = load_gradient_record(run.folder / "category_gradients.npz")
            medians.append(group_medians(record.with_frequency(ClassFrequency(counts))))
        for group in medians[0]:
            shares, first, last = (
                [getattr(of_run[group], part) for of_run in medians]
                for part in ("share", "first", "last")
            )
            cells = [spread(shares, ".0f"), spread(first, ".1e"), spread(last, ".1e")]
            lines.append(f"| {name} | {group} | {len(medians)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def make_page(path: Path) -> str:
    """A page with its tables replaced."""
    text = path.read_text(encoding="utf-8")
    tables = {
        "methods": method_rows,
        "main methods": lambda: method_rows(MAIN),
        "differences": difference_rows,
        "gradients": gradient_rows,
    }
    for name, make in tables.items():
        begin, end = f"<!-- evidence {name}: begin -->\n", f"<!-- evidence {name}: end -->\n"
        if begin in text:
            head, _, rest = text.partition(begin)
            text = f"{head}{begin}\n{make()}\n\n{end}{rest.partition(end)[2]}"
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--collect", type=Path, metavar="WORK_DIR", help="copy the results of a study first"
    )
    how.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(argv)
    if args.collect is not None:
        collect(args.collect)
    return write_pages({path: make_page(path) for path in PAGES}, args.check, COMMAND)


if __name__ == "__main__":
    sys.exit(main())
