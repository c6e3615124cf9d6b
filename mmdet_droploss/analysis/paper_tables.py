"""The columns of the paper's Tables 1 to 3, from tested runs: mean and deviation over the seeds."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .runs import Method
from .settings import Setting, setting_of
from .tables import NOT_MEASURED, format_cell

#: What the paper's tables have, as titles and as metrics of the kind that is asked for.
COLUMNS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "APr": "APr",
    "APc": "APc",
    "APf": "APf",
    "APs": "APs",
    "APm": "APm",
    "APl": "APl",
    "AR": "AR@300",
}
#: Data sets that the paper has tables of.
PAPER_DATA = ("LVIS v0.5", "LVIS v1.0")
PAPER_RESULTS = Path(__file__).with_name("paper_results.json")

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "±": r"$\pm$",
    "<": "$<$",
    ">": "$>$",
}


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        title: The method's name, or where in the paper the row is.
        seeds: How many runs there are; 0 of a row of the paper, which has means of three.
        means: In percent, by metric; NaN where there is nothing to measure.
        deviations: In percentage points; NaN for a single run and for rows of the paper.
    """

    title: str
    seeds: int
    means: dict[str, float]
    deviations: dict[str, float]

    @property
    def seeds_text(self) -> str:
        """For the column of seeds."""
        return str(self.seeds) if self.seeds else NOT_MEASURED

    def cell(self, key: str) -> str:
        """Mean and deviation of a metric, with one decimal as the paper has them."""
        return format_cell(self.means[key], self.deviations[key])


def columns(iou_type: str) -> dict[str, str]:
    """The metric of each column.

    Args:
        iou_type: ``'segm'``, as in the paper, whose tables also have the AP of boxes; or ``'bbox'``
            for detectors without masks.
    """
    found = {title: f"{iou_type}_{key}" for title, key in COLUMNS.items()}
    if iou_type == "segm":
        found["AP box"] = "bbox_AP"
    return found


@cache
def paper_results() -> list[dict]:
    """The rows of the paper's tables, by the loss's registered name; numbers in percent."""
    return json.loads(PAPER_RESULTS.read_text(encoding="utf-8"))


def paper_row(setting: Setting, data: str) -> dict | None:
    """The row of the paper for the same loss, parameter, detector and sampling; None without one.

    Small backbones and other detectors are given the row of the paper's main setting, Mask R-CNN
    with R-50-FPN; the row says what it is of.

    Args:
        setting: Of one's own method.
        data: One of :data:`PAPER_DATA`.
    """
    wanted = dict(
        data=data,
        detector="Cascade R-CNN" if setting.cascade else "Mask R-CNN",
        backbone="R-101-FPN" if setting.depth == 101 else "R-50-FPN",
        loss=setting.loss,
        parameter=setting.parameter,
        rfs=setting.rfs,
    )
    return next((row for row in paper_results() if wanted.items() <= row.items()), None)


def build_rows(methods: Sequence[Method], iou_type: str, paper: str | None = None) -> list[Row]:
    """A row for each method, and below it the paper's.

    Args:
        methods: In the order of the rows.
        iou_type: ``'segm'`` or ``'bbox'``.
        paper: One of :data:`PAPER_DATA`; None for no rows of the paper.
    """
    keys = columns(iou_type).values()
    rows = []
    for method in methods:
        means = {key: method.mean(key) for key in keys}
        deviations = {key: method.deviation(key) for key in keys}
        rows.append(Row(method.name, len(method.runs), means, deviations))
        found = paper_row(setting_of(method), paper) if paper else None
        if found is not None:
            numbers = ", ".join(map(str, found["tables"]))
            place = f"Table{'s' * (len(found['tables']) > 1)} {numbers}"
            if "title" in found:
                place += f', row "{found["title"]}"'
            title = f"paper, {place}: {found['detector']} {found['backbone']}, {found['data']}"
            means = {key: found["metrics"].get(key, math.nan) for key in keys}
            rows.append(Row(title, 0, means, dict.fromkeys(keys, math.nan)))
    return rows


def to_markdown(rows: Sequence[Row], iou_type: str) -> str:
    """The table for documentation."""
    keys = columns(iou_type)
    lines = [["method", "seeds", *keys]]
    lines += [[row.title, row.seeds_text, *map(row.cell, keys.values())] for row in rows]
    text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    text.insert(1, "|:--|" + "--:|" * (len(keys) + 1))
    return "\n".join(text) + "\n"


def to_latex(rows: Sequence[Row], iou_type: str) -> str:
    """The table for a paper, with the package ``booktabs``."""
    keys = columns(iou_type)
    titles = [_subscript(title) for title in keys]
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (len(keys) + 1)}}}",
        r"\toprule",
        " & ".join(["Method", "Seeds", *titles]) + r" \\",
        r"\midrule",
    ]
    for row in rows:
        cells = [row.title, row.seeds_text, *map(row.cell, keys.values())]
        lines.append(" & ".join(map(_latex, cells)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex(text: str) -> str:
    # Behind the end of a row, LaTeX takes these for its arguments.
    guard = "{}" if text.startswith(("[", "*")) else ""
    return guard + "".join(_LATEX.get(character, character) for character in text)


def _subscript(title: str) -> str:
    """``APr`` becomes AP with the index r."""
    index = title[2:].strip()
    return title if not index else rf"{title[:2]}$_{{\mathrm{{{index}}}}}$"


def to_csv(rows: Sequence[Row], iou_type: str) -> str:
    """The table for programs: a mean and a deviation of each column, in full precision.

    Empty where there is nothing to measure, and as deviation of a single run.
    """
    keys = columns(iou_type)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["method", "seeds", *(f"{t} {kind}" for t in keys for kind in ("mean", "std"))])
    for row in rows:
        numbers = [n[key] for key in keys.values() for n in (row.means, row.deviations)]
        cells = ["" if math.isnan(number) else repr(float(number)) for number in numbers]
        writer.writerow([row.title, row.seeds or "", *cells])
    return buffer.getvalue()
