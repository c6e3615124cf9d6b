"""Which tested runs a user names, and which of them can be compared."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path

from .runs import (
    IOU_TITLES,
    METHOD_COLOURS,
    InputError,
    Method,
    Run,
    group_by_name,
    load_run,
    load_scalars,
)
from .training_config import other_settings, seed_of


def load_methods(arguments: Sequence[str]) -> list[Method]:
    """Read all ``NAME=DIR`` arguments; the same name again is another seed.

    Raises:
        InputError: If there are fewer than two names or too many, or a run cannot be used: it is
            not tested, given twice, or no other seed of the first run of its name.
    """
    folders = parse_arguments(arguments)
    if len(folders) < 2:
        raise InputError("there is nothing to compare: give --run with two or more names")
    if len(folders) > len(METHOD_COLOURS):
        raise InputError(f"at most {len(METHOD_COLOURS)} names can be compared, not {len(folders)}")
    runs: list[Run] = []
    for name, paths in folders.items():
        for folder in paths:
            run = load_run(name, folder)
            check_is_another(run, runs)
            runs.append(run)
    return group_by_name(runs)


def parse_arguments(arguments: Sequence[str]) -> dict[str, list[Path]]:
    """The work dirs of each name, from ``NAME=DIR`` arguments.

    Both may contain ``=`` ("BEQL, b = 4"): the first split that leaves an existing folder counts,
    else the last one.
    """
    folders: dict[str, list[Path]] = {}
    for argument in arguments:
        parts = argument.split("=")
        splits = [
            (name.strip(), folder)
            for k in range(1, len(parts))
            if (name := "=".join(parts[:k])).strip() and (folder := "=".join(parts[k:]))
        ]
        if not splits:
            raise InputError(f'--run must be "NAME=DIR", but it is {argument!r}')
        name, folder = next((s for s in splits if Path(s[1]).is_dir()), splits[-1])
        folders.setdefault(name, []).append(Path(folder))
    return folders


def load_tested(
    arguments: Sequence[str], iou_type: str | None = None
) -> tuple[list[Method], list[str]]:
    """Read all ``NAME=DIR`` arguments, and leave out what cannot be used.

    Left out are runs without results, with results that cannot be read, given twice, no other seed
    of the first run of their name, of other categories, or groups of them, than most runs have (the
    earlier ones if there are as many), tested on other annotations than most, or without what is
    asked for.

    Args:
        arguments: In any number; the same name again is another seed.
        iou_type: ``'segm'`` or ``'bbox'``: what they have to be tested for; None takes any.

    Returns:
        The methods in order, each with one run or more; and what was left out, a sentence each.

    Raises:
        InputError: If an argument is not ``NAME=DIR``, or nothing can be used.
    """
    runs: list[Run] = []
    problems: list[str] = []
    for name, folders in parse_arguments(arguments).items():
        for folder in folders:
            try:
                run = load_if_tested(name, folder)
                check_is_another(run, runs)
            except (InputError, OSError) as error:
                problems.append(f"a run of {name} is left out: {error}")
            else:
                runs.append(run)
    runs, others = drop_other_categories(runs)
    problems += others
    for other, sentence in on_other_annotations(runs):
        runs = [run for run in runs if run is not other]
        problems.append(f"a run of {other.name} is left out: {sentence}")
    if not runs:
        raise InputError("there is no tested run: " + "; ".join(problems))
    if iou_type is not None:
        runs, untested = tested_for(runs, iou_type)
        problems += untested
    return group_by_name(runs), problems


def load_if_tested(name: str, folder: Path) -> Run:
    """A run, or a sentence that says how far it is."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    if not (folder / "val.metrics.json").is_file():
        steps = [record["step"] for record in load_scalars(folder)]
        state = f"its log is at iteration {steps[-1]}" if steps else "it has no log either"
        raise InputError(
            f"{folder} has no results yet ({state}); when it is trained, test it with: python "
            f"tools/test.py CONFIG {folder}/iter_N.pth --results {folder}/val"
        )
    run = load_run(name, folder)
    if not any(f"{iou_type}_AP" in run.metrics for iou_type in IOU_TITLES):
        raise InputError(f"{run.metrics_file} has neither segm_AP nor bbox_AP; test the run again")
    return run


def check_is_another(run: Run, others: Sequence[Run]) -> None:
    """Refuse a run that is among the others, or no other seed of the same training."""
    for other in others:
        if run.folder.resolve() == other.folder.resolve():
            raise InputError(f"{run.folder} is given twice; each seed has its own work dir")
        if run.name == other.name:
            check_is_another_seed(run, other)


def check_is_another_seed(run: Run, other: Run) -> None:
    """Refuse a run that is of another training than the other, or of the same seed."""
    if run.config is None or other.config is None:
        return
    who = f"{run.folder} and {other.folder} have the same name, but"
    if differences := other_settings(run.config, other.config):
        key, (mine, first) = next(iter(differences.items()))
        more = f", and {len(differences) - 1} settings more" * (len(differences) > 1)
        raise InputError(
            f"{who} were trained with {key} {mine!r} and {first!r}{more}; give each training a "
            f"name of its own"
        )
    if seed_of(run.config) == seed_of(other.config) is not None:
        raise InputError(f"{who} both have seed {seed_of(run.config)}; give one of them")


def drop_other_categories(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs with the categories that most have, and a sentence for each of the others."""
    categories = [
        tuple((category.get("name"), category.get("frequency")) for category in run.categories)
        for run in runs
    ]
    if not categories:
        return [], []
    usual, _ = collections.Counter(categories).most_common(1)[0]
    kept = [run for run, own in zip(runs, categories, strict=True) if own == usual]
    problems = []
    for run, own in zip(runs, categories, strict=True):
        if own != usual:
            other = kept[0].metrics_file
            if len(own) != len(usual):
                what = f"{len(own)} categories, but {other} has {len(usual)}"
            elif [name for name, _ in own] != [name for name, _ in usual]:
                what = f"other names of the categories than {other}"
            else:
                what = (
                    f"other groups (rare, common, frequent) of the categories than {other}; test "
                    f"both with the same FastLVISMetric(class_freq=...)"
                )
            problems.append(f"a run of {run.name} is left out: {run.metrics_file} has {what}")
    return kept, problems


def on_other_annotations(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """The runs that were tested on other annotations than most, with a sentence for each."""
    known = [(run, run.annotations) for run in runs if run.annotations is not None]
    if not known:
        return []
    usual, _ = collections.Counter(of.sha256 for _, of in known).most_common(1)[0]
    first, of_first = next(pair for pair in known if pair[1].sha256 == usual)
    return [
        (
            run,
            f"{run.metrics_file} is of {of.file} (sha256 {of.sha256[:8]}...), but "
            f"{first.metrics_file} of {of_first.file} ({usual[:8]}...): only numbers by the same "
            f"annotations can be compared; test it again on these",
        )
        for run, of in known
        if of.sha256 != usual
    ]


def tested_for(runs: Sequence[Run], iou_type: str) -> tuple[list[Run], list[str]]:
    """Those that were tested for ``'segm'`` or ``'bbox'``, and a sentence for each that was not.

    Raises:
        InputError: If no run was.
    """
    key = f"{iou_type}_AP"
    kept = [run for run in runs if key in run.metrics]
    problems = [
        f"a run of {run.name} is left out: {run.metrics_file} has no {key}; it was tested without"
        for run in runs
        if key not in run.metrics
    ]
    if not kept:
        other = "bbox" if iou_type == "segm" else "segm"
        raise InputError(f"no run was tested for {iou_type}; give --iou-type {other}")
    return kept, problems


def common_iou_types(methods: Sequence[Method]) -> list[str]:
    """What all runs were tested for."""
    runs = [run for method in methods for run in method.runs]
    found = [t for t in IOU_TITLES if all(f"{t}_AP" in run.metrics for run in runs)]
    if not found:
        raise InputError("the runs have no metric in common: test all with the same evaluator")
    return found
