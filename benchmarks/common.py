"""What the benchmarks share: fresh processes, their memory, tables, the machine."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def in_fresh_process(function: Callable[..., dict], *arguments: Any) -> dict:
    """Run a function of a module in an interpreter of its own, so that memory is only its."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


class Measurement:
    """Seconds, and the memory that a block takes beyond what the process had before.

    ``peak`` is the largest resident size within the block, ``kept`` the one after it; both in bytes
    and less the size at the start. Pages of mapped files count.
    """

    def __enter__(self) -> Measurement:
        self._before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.peak = max(_status("VmHWM") - self._before, 0)
        self.kept = max(_status("VmRSS") - self._before, 0)

    def result(self) -> dict:
        """As a dictionary, for another process."""
        return {"seconds": self.seconds, "peak": self.peak, "kept": self.kept}


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def proportional_set_size() -> int:
    """Bytes of this process, a page that n processes share counted as 1/n."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    raise KeyError("Pss")


def like_lvis(folder: Path, train_images: int, val_images: int) -> Path:
    """The annotation folder of a data set of LVIS's shape, made if it is not there."""
    target = folder / f"like_lvis_{train_images}_{val_images}"
    if not (target / "mini_lvis.json").exists():
        print(f"making {target}, once", file=sys.stderr)
    script = ROOT / "tools" / "dataset_converters" / "make_mini_lvis.py"
    arguments = ["--like-lvis", "--no-images", "--train-images", train_images]
    command = [sys.executable, script, target, *arguments, "--val-images", val_images]
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
    return target / "annotations"


def make_parser(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path(tempfile.gettempdir()) / "mmdet_droploss_benchmarks",
        help="where generated data and the cache go, and stay (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, too")
    return parser


def human(size: float) -> str:
    """Bytes, to be read."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["--"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def machine() -> str:
    """What the numbers were made on."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    names = ("torch", "numpy", "mmdet", "hotcoco", "lvis", "msgspec")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores of {cpu}, {human(memory)}; Python {platform.python_version()}, {versions}"
    )


def report(arguments: argparse.Namespace, text: str, numbers: dict) -> None:
    """Print the tables, and write the numbers if that is asked for."""
    print(f"{machine()}\n\n{text}")
    if arguments.json is not None:
        from mmdet_droploss.utils import write_atomically

        write_atomically(arguments.json, json.dumps({"machine": machine(), **numbers}, indent=1))
