"""What several test files share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from small_run import make_data

import mmdet_droploss  # noqa: F401  (registers everything)

ROOT = Path(__file__).resolve().parents[1]

# "ci" gives the same examples every time, so that a red run is red for a reason; "thorough" looks
# further: HYPOTHESIS_PROFILE=thorough pytest tests
_SUPPRESSED = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=_SUPPRESSED,
    print_blob=True,
)
settings.register_profile(
    "thorough", deadline=None, max_examples=1000, suppress_health_check=_SUPPRESSED
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

#: Files that take minutes. Two processes share the files, and a long one that is left for the end
#: is run by one process while the other has nothing to do.
_LONG = (
    "test_quickstart",
    "test_benchmarks",
    "test_mim",
    "test_prove_configs",
    "test_slurm",
    "test_distributed_training",
    "test_study",
    "test_two_machines",
    "test_kill_and_resume",
    "test_other_launchers",
)


def pytest_configure(config: pytest.Config) -> None:
    """The user's cache stays as it is, also in programs; MMEngine's logger is one for a process."""
    folder = tempfile.TemporaryDirectory(prefix="mmdet_droploss_cache_")
    config.add_cleanup(folder.cleanup)
    os.environ["MMDET_DROPLOSS_CACHE"] = folder.name
    MMLogger.get_instance("tests", logger_name="tests", log_level="INFO")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files go first; the rest stays in its order."""
    items.sort(
        key=lambda item: _LONG.index(item.path.stem) if item.path.stem in _LONG else len(_LONG)
    )


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread():
    """Thread pools of parallel test processes fight over the cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _scope():
    """Models are built without a runner, and no runner leaves its scope to the next test."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The test's own folder for caches of annotations."""
    monkeypatch.setenv("MMDET_DROPLOSS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def mini_lvis_dir(tmp_path_factory) -> Path:
    """A tiny data set in LVIS format: 9 categories, 150 train and 12 val images of 96 x 96."""
    return make_data(tmp_path_factory.mktemp("data") / "mini_lvis")
