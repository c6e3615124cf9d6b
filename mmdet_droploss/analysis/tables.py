"""The numbers of a comparison as rows, as Markdown and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .intervals import Difference
from .runs import IOU_TITLES, KEY_TITLES, KEYS, Method

NOT_MEASURED = "–"


def format_cell(mean: float, deviation: float, form: str = ".1f") -> str:
    """A mean, with its deviation if there is one; a dash if there is nothing to measure."""
    if math.isnan(mean):
        return NOT_MEASURED
    if math.isnan(deviation):
        return f"{mean:{form}}"
    return f"{mean:{form}} ± {deviation:{form.removeprefix('+')}}"


def cell(method: Method, key: str) -> str:
    """A metric of one name, with the deviation over its seeds if there are several."""
    return format_cell(method.mean(key), method.deviation(key))


def build_table(
    methods: Sequence[Method], deltas: dict[str, dict[str, Difference]], iou_type: str
) -> list[dict]:
    """Rows for the template: title, cells, and what kind of row it is."""
    keys = [f"{iou_type}_{key}" for key in KEYS]
    rows: list[dict[str, Any]] = []
    for method in methods:
        title = method.name + (f" ({len(method.runs)} seeds)" if len(method.runs) > 1 else "")
        cells = [dict(text=cell(method, key)) for key in keys]
        rows.append(dict(title=title, cells=cells, kind="run", colour=method.colour))
        if method.name in deltas:
            cells = []
            for key in keys:
                delta = deltas[method.name][key]
                sign = "none" if not delta.is_clear else "up" if delta.value > 0 else "down"
                cells.append(dict(text=str(delta), sign=sign))
            title = f"difference to {methods[0].name}"
            rows.append(dict(title=title, cells=cells, kind="difference", colour=None))
    return rows


def markdown(tables: dict[str, list[dict]]) -> str:
    """The tables for documentation."""
    parts = []
    for iou_type, rows in tables.items():
        lines = [f"| {IOU_TITLES[iou_type]} | " + " | ".join(KEYS) + " |"]
        lines.append("|:--|" + "--:|" * len(KEYS))
        for row in rows:
            title = row["title"].replace("|", "\\|")
            lines.append(f"| {title} | " + " | ".join(c["text"] for c in row["cells"]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def sentences(
    methods: Sequence[Method], deltas: dict[str, dict[str, Difference]], iou_type: str
) -> list[str]:
    """What was measured, in words: one sentence a name and group."""
    lines = []
    for method in methods[1:]:
        words = {key: deltas[method.name][f"{iou_type}_{key}"].words for key in KEYS}
        parts = [f"on {KEY_TITLES[key]} categories it is {words[key]}" for key in KEYS[1:]]
        lines.append(
            f"{IOU_TITLES[iou_type]} AP of {method.name} compared with {methods[0].name}: "
            f"{words['AP']}; {', '.join(parts[:-1])}, {parts[-1]}."
        )
    return lines
