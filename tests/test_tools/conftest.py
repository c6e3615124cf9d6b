"""Made-up runs that several tests read."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_runs import BAD, GOOD, make_dataset, make_run


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """Of :func:`made_up_runs.make_dataset`; not to be changed."""
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def runs(tmp_path_factory, dataset: Path) -> tuple[Path, dict[str, dict[str, float]]]:
    """A good and a bad run, two seeds each; not to be changed."""
    root = tmp_path_factory.mktemp("runs")
    made = {
        f"{name}{seed}": make_run(root / f"{name}{seed}", dataset, found, seed)
        for name, found in (("good", GOOD), ("bad", BAD))
        for seed in (1, 2)
    }
    return root, made
