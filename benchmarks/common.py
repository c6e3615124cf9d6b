"""What the benchmarks share: fresh processes, their memory, tables, the machine."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

#: The pools of threads of OpenMP, MKL, OpenBLAS and Rust's rayon (hotcoco) are kept to this.
MAX_THREADS = 2

SPAWN = multiprocessing.get_context("spawn")


def limit_threads() -> int:
    """Have this process's children use few threads, and say how many."""
    count = min(MAX_THREADS, len(os.sched_getaffinity(0)))
    for library in ("OMP", "MKL", "OPENBLAS", "RAYON"):
        os.environ[f"{library}_NUM_THREADS"] = str(count)
    return count


def in_fresh_process(function: Callable[..., dict], *arguments: Any) -> dict:
    """Run a function of a module in an interpreter of its own, so that memory is only its."""
    return in_fresh_processes(function, [arguments])[0]


def in_fresh_processes(
    function: Callable[..., dict], arguments: Sequence[Sequence[Any]]
) -> list[dict]:
    """The same, several at once, one for each tuple of arguments.

    Raises:
        RuntimeError: If one of them fails; the others, which may be waiting for it, are ended.
    """
    processes, readers = [], []
    try:
        for of_one in arguments:
            reader, writer = SPAWN.Pipe(duplex=False)
            process = SPAWN.Process(target=_send_result, args=(writer, function, *of_one))
            process.start()
            writer.close()  # so that a process that dies is an end of file here, no endless wait
            processes.append(process)
            readers.append(reader)
        results = _receive(readers, processes)
        for process in processes:
            process.join()
        return results
    finally:
        for process in processes:
            process.terminate()  # nothing, if it has ended
            process.join()


def _send_result(writer: Connection, function: Callable[..., dict], *arguments: Any) -> None:
    writer.send(function(*arguments))


def _receive(readers: Sequence[Connection], processes: Sequence[Any]) -> list[dict]:
    found: dict[int, dict] = {}
    while len(found) < len(readers):
        for reader in wait([r for i, r in enumerate(readers) if i not in found]):
            index = readers.index(reader)
            try:
                found[index] = reader.recv()
            except EOFError:
                processes[index].join()
                raise RuntimeError(
                    f"a measured process ended with exit code {processes[index].exitcode}; its "
                    f"message is above (-9: killed, perhaps because memory ran out)"
                ) from None
    return [found[index] for index in range(len(readers))]


def settle() -> None:
    """Give back what is not needed, so that memory is compared, not the allocators' habits."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # a C library without malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


class Measurement:
    """Seconds, and the memory that a block takes beyond what the process had before.

    ``peak`` is the largest resident size within the block, ``kept`` the one after it, when garbage
    is collected and free memory is given back (neither is timed); both in bytes and less the size
    at the start. ``peak_whole`` is the peak with what the process had before. Pages of mapped files
    count.
    """

    def __enter__(self) -> Measurement:
        settle()
        self._before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.peak_whole = _status("VmHWM")
        settle()
        self.peak = max(self.peak_whole - self._before, 0)
        self.kept = max(_status("VmRSS") - self._before, 0)

    def result(self) -> dict:
        """As a dictionary, for another process."""
        return {
            "seconds": self.seconds,
            "peak": self.peak,
            "peak_whole": self.peak_whole,
            "kept": self.kept,
        }


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
    done = subprocess.run([str(part) for part in command], stdout=sys.stderr)
    if done.returncode:  # it has said why
        sys.exit(done.returncode)
    return target / "annotations"


@contextlib.contextmanager
def private_cache(folder: Path) -> Iterator[Callable[[], None]]:
    """Keep the annotation cache in a new folder within ``folder``, never in the user's.

    It is deleted in the end. The function that is given makes the cache an empty one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cache-", dir=folder) as root:

        def empty() -> None:
            os.environ["MMDET_DROPLOSS_CACHE"] = tempfile.mkdtemp(dir=root)

        empty()
        yield empty


def train_annotations(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """The annotation file that ``--ann`` names, or one that is generated."""
    if args.ann is None:
        return str(like_lvis(args.work_dir, args.train_images, 10) / "lvis_v1_train.json")
    if not args.ann.is_file():
        parser.error(f"--ann {args.ann} does not exist")
    return str(args.ann)


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which train data set."""
    parser.add_argument(
        "--train-images",
        type=at_least(1),
        default=99388,
        metavar="N",
        help="images to generate annotations of (default: %(default)s, LVIS v1's)",
    )
    parser.add_argument(
        "--ann",
        type=Path,
        metavar="FILE",
        help="an annotation file in LVIS v1 format, instead of a generated one",
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Where models are measured."""

    def device(text: str) -> str:
        import torch

        if text not in ("cpu", "cuda"):
            raise argparse.ArgumentTypeError(f"got {text!r}, allowed are cpu and cuda")
        if text == "cuda" and not torch.cuda.is_available():
            raise argparse.ArgumentTypeError("torch finds no GPU")
        return text

    parser.add_argument(
        "--device", type=device, default="cpu", metavar="{cpu,cuda}", help="(%(default)s)"
    )


def at_least(least: int) -> Callable[[str], int]:
    """A whole number for argparse."""

    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"got {value}, allowed is at least {least}")
        return value

    return number


def make_parser(documentation: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have.

    Args:
        documentation: What the benchmark measures, and after a line ``examples:`` how to call it.
    """
    description, examples = re.split(r"[Ee]xamples:\n", documentation, maxsplit=1)
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path(tempfile.gettempdir()) / "mmdet_droploss_benchmarks",
        help="where generated data go, and stay (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, too")
    return parser


def human(size: float) -> str:
    """Bytes, to be read."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def ratio(over: float, under: float, digits: int = 1) -> str:
    """A ratio, to be read; nothing where it says nothing, as at tiny sizes."""
    return f"{over / under:.{digits}f}" if over > 0 and under > 0 else ""


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
    import mmdet  # whichever distribution it is of

    names = ("torch", "numpy", "hotcoco", "lvis", "msgspec")
    versions = [
        f"mmdet {mmdet.__version__}",
        *(f"{name} {metadata.version(name)}" for name in names),
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return f"{cores} cores of {cpu}, {human(memory)}; Python {python}, {', '.join(versions)}"


def report(arguments: argparse.Namespace, text: str, numbers: dict) -> None:
    """Print the tables, and write the numbers if that is asked for."""
    print(f"{machine()}\n\n{text}")
    if arguments.json is not None:
        from mmdet_droploss.utils import write_atomically

        write_atomically(arguments.json, json.dumps({"machine": machine(), **numbers}, indent=1))
