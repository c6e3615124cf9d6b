"""From the options to a complete data set on disk."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from terminaltables import AsciiTable

from mmdet_droploss.annotations import GROUP_NAMES

from . import like_lvis
from .glyphs import RenderTask, character_name, fonts_of, render_glyphs
from .like_lvis import LikeLvisPlan, Mapper, Track
from .lvis_json import (
    annotation_record,
    category_records,
    image_path,
    image_record,
    write_annotation_file,
)
from .options import CHARACTERS, SPLITS, STAMP_NAME, Options
from .plan import Plan, count_annotations, frequency_letters, make_plan
from .target import check_target, made_beside
from .workers import progress, worker_map

BY_LETTER = {name[0]: name for name in GROUP_NAMES}


@dataclass
class Result:
    """What was made: the plan holds the full truth, ``totals`` what the files hold."""

    plan: Plan | dict[str, LikeLvisPlan]
    totals: dict[str, dict[str, int]]
    table: str


def generate(
    target: Path, options: Options, workers: int = 1, overwrite: bool = False, quiet: bool = True
) -> Result | None:
    """Make the data set at ``target``, wholly or not at all; None if it is there already."""
    target = Path(target).resolve()
    if check_target(target, options, overwrite):
        return None
    track = functools.partial(progress, quiet=quiet)
    with made_beside(target) as root, worker_map(workers if options.images else 1) as mapper:
        (root / "annotations").mkdir()
        maker = build_like_lvis if options.like_lvis else build_glyphs
        result = maker(root, options, mapper, track)
        (root / STAMP_NAME).write_text(json.dumps(options.stamp(), indent=2) + "\n")
    return result


def build_glyphs(root: Path, options: Options, mapper: Mapper, track: Track) -> Result:
    """The data set of characters."""
    plan = make_plan(options)
    characters = CHARACTERS[: options.num_categories]
    for character in characters:
        fonts_of(character)  # fail before anything is drawn
    names = [character_name(c) for c in characters]
    write_names(root, names)
    categories = category_records(
        names,
        [f"the character {c} in any font and colour" for c in characters],
        frequency_letters(plan.image_count),
        plan.image_count,
        plan.instance_count,
    )
    totals = {
        s: write_glyph_split(root, s, plan, options, categories, mapper, track) for s in SPLITS
    }
    return Result(plan, totals, glyph_table(plan))


def write_glyph_split(
    root: Path,
    split: str,
    plan: Plan,
    options: Options,
    categories: list[dict],
    mapper: Mapper,
    track: Track,
) -> dict[str, int]:
    """Render one split and write its annotation file; returns what it holds."""
    plans, size = plan.split(split), options.size
    (root / f"{split}2017").mkdir()
    tasks = [
        RenderTask(
            str(root / image_path(split, index)),
            tuple(CHARACTERS[o.category] for o in image.objects),
            size,
            options.seed,
            SPLITS.index(split),
            index,
        )
        for index, image in enumerate(plans)
    ]
    images = [
        image_record(split, index, size, size, image.negatives, image.not_exhaustive)
        for index, image in enumerate(plans)
    ]
    number = 0

    def annotations() -> Iterator[list[dict]]:
        nonlocal number
        drawn = track(mapper(render_glyphs, tasks), f"{split} images", len(tasks))
        for index, (image, outlines) in enumerate(zip(plans, drawn, strict=True)):
            chunk = []
            for planned, (polygons, area, box) in zip(image.objects, outlines, strict=True):
                if planned.annotated:
                    number += 1
                    record = annotation_record(number, index, planned.category, area, box, polygons)
                    chunk.append(record)
            yield chunk

    file = root / "annotations" / f"lvis_v1_{split}.json"
    write_annotation_file(file, [images], annotations(), categories)
    return {"images": len(images), "annotations": number}


def build_like_lvis(root: Path, options: Options, mapper: Mapper, track: Track) -> Result:
    """The data set with LVIS's categories and counts."""
    names = like_lvis.lvis_names()
    plans = {s: like_lvis.make_plan(options.num_images(s), options.seed, s) for s in SPLITS}
    # The letters are LVIS's own: scaled counts would make most categories rare.
    letters = frequency_letters(like_lvis.lvis_counts()[0])
    definitions = [name.replace("_", " ") for name in names]
    counts = plans["train"].counts(len(names))
    categories = category_records(names, definitions, letters, *counts)
    write_names(root, names)
    totals = {
        s: like_lvis.write_split(root, s, plans[s], options, categories, mapper, track)
        for s in SPLITS
    }
    val_instances = plans["val"].counts(len(names))[1]
    return Result(plans, totals, group_table(letters, *counts, {"val instances": val_instances}))


def write_names(root: Path, names: list[str]) -> None:
    """The category names, one a line, in label order."""
    (root / "annotations" / "classes.txt").write_text("".join(f"{name}\n" for name in names))


def glyph_table(plan: Plan) -> str:
    """Per group: categories, annotated images and instances, instances left unannotated."""
    num = plan.num_categories
    hidden = np.bincount(
        [o.category for p in plan.train for o in p.objects if not o.annotated], minlength=num
    )
    more = {"unannotated": hidden, "val instances": count_annotations(plan.val, num)[1]}
    letters = frequency_letters(plan.image_count)
    return group_table(letters, plan.image_count, plan.instance_count, more)


def group_table(
    letters: list[str], images: np.ndarray, instances: np.ndarray, more: dict[str, np.ndarray]
) -> str:
    """What the categories of each group have in train, and sums of whatever else there is."""
    rows = [["group", "categories", "train images each", "train instances", *more]]
    for group in (*GROUP_NAMES, "all"):
        chosen = [k for k, letter in enumerate(letters) if group in ("all", BY_LETTER[letter])]
        sums = [instances[chosen].sum(), *(values[chosen].sum() for values in more.values())]
        span = f"{images[chosen].min()}-{images[chosen].max()}" if chosen else ""
        rows.append([group, str(len(chosen)), span, *map(str, sums)])
    table = AsciiTable(rows)
    table.justify_columns = {column: "right" for column in range(1, len(rows[0]))}
    return table.table
