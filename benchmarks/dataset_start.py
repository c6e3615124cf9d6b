"""Start of the LVIS v1 train data set: seconds and memory, FastLVISV1Dataset and mmdet's.

  python benchmarks/dataset_start.py                        # LVIS v1's size, 10 min on 2 cores
  python benchmarks/dataset_start.py --train-images 10000   # about a minute

Each start is in a process of its own; memory is what it takes beyond the imports. mmdet has no
cache: its second start is its first. Of --ranks processes that start at once, the memory is the sum
of the proportional set sizes, so that a shared page counts once, before and after each process has
read every image's annotations once. mmdet's is one process's times --ranks (extrapolated): eight
would need tens of GB.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from common import (
    Measurement,
    human,
    in_fresh_process,
    like_lvis,
    make_parser,
    proportional_set_size,
    report,
    table,
)

OURS, PEER = "FastLVISV1Dataset", "LVISV1Dataset"


def build(kind: str, ann_file: str) -> Any:
    """The data set as configs build it."""
    from mmdet.registry import DATASETS

    import mmdet_droploss  # noqa: F401

    return DATASETS.build(
        {
            "type": kind,
            "ann_file": ann_file,
            "data_prefix": {"img": "data/lvis_v1/"},
            "filter_cfg": {"filter_empty_gt": True, "min_size": 32},
            "pipeline": [],
        }
    )


def import_all() -> None:
    """What every training imports, whatever its data set."""
    import lvis  # noqa: F401
    import mmdet.datasets  # noqa: F401

    import mmdet_droploss  # noqa: F401


def start(kind: str, ann_file: str) -> dict:
    """One start."""
    import_all()
    with Measurement() as measurement:
        dataset = build(kind, ann_file)
        gc.collect()
    return {"images": len(dataset), **measurement.result()}


def rank(kind: str, ann_file: str, barrier: Any, queue: Any) -> None:
    """One of several processes that start at once."""
    import_all()
    gc.collect()
    barrier.wait()
    idle = proportional_set_size()
    barrier.wait()
    begin = time.perf_counter()
    dataset = build(kind, ann_file)
    barrier.wait()
    seconds = time.perf_counter() - begin
    gc.collect()
    barrier.wait()
    started = proportional_set_size() - idle
    barrier.wait()
    for index in range(len(dataset)):
        dataset.get_data_info(index)
    gc.collect()
    barrier.wait()
    read = proportional_set_size() - idle
    queue.put({"seconds": seconds, "started": started, "read": read})
    barrier.wait()


def start_ranks(kind: str, ann_file: str, count: int) -> dict:
    """Several starts at once; memory summed over the processes."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(count), context.Queue()
    arguments = (kind, ann_file, barrier, queue)
    processes = [context.Process(target=rank, args=arguments) for _ in range(count)]
    for process in processes:
        process.start()
    found = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    return {
        "seconds": max(one["seconds"] for one in found),
        "started": sum(one["started"] for one in found),
        "read": sum(one["read"] for one in found),
    }


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--train-images", type=int, default=99388, help="%(default)s: LVIS v1's")
    parser.add_argument("--ranks", type=int, default=8, help="processes at once (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="second starts (%(default)s)")
    args = parser.parse_args()
    cache = args.work_dir / "cache"
    os.environ["MMDET_DROPLOSS_CACHE"] = str(cache)  # never the user's
    folder = like_lvis(args.work_dir, args.train_images, 10)
    ann_file = str(folder / "lvis_v1_train.json")

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    def empty_cache() -> None:
        shutil.rmtree(cache, ignore_errors=True)

    say("mmdet: one start")
    peer = in_fresh_process(start, PEER, ann_file)
    say("mmdet: one process, read")
    peer_rank = start_ranks(PEER, ann_file, 1)
    say("ours: first start")
    empty_cache()
    first = in_fresh_process(start, OURS, ann_file)
    say("ours: later starts")
    later = [in_fresh_process(start, OURS, ann_file) for _ in range(args.repeats)]
    say(f"ours: {args.ranks} processes, cache filled")
    filled = start_ranks(OURS, ann_file, args.ranks)
    say(f"ours: {args.ranks} processes, cache empty")
    empty_cache()
    empty = start_ranks(OURS, ann_file, args.ranks)
    assert peer["images"] == first["images"]

    second = {key: statistics.median(one[key] for one in later) for key in later[0]}
    times = [one["seconds"] for one in later]
    spread = f"{len(times)}, {min(times):.2f} to {max(times):.2f}"
    starts = table(
        ["one process", "seconds", "mmdet / ours", "peak memory", "ours / mmdet", "kept"],
        [
            _row("mmdet, any start", peer, peer),
            _row("ours, first start", first, peer),
            _row(f"ours, second start (median of {spread})", second, peer),
        ],
    )
    whole = peer_rank["read"] * args.ranks
    ranks = table(
        [f"{args.ranks} at once", "seconds", "memory", "after reading all", "mmdet / ours"],
        [
            ["mmdet (extrapolated from one)", "", human(peer_rank["started"] * args.ranks),
             human(whole), "1.0"],
            *(
                [name, f"{one['seconds']:.2f}", human(one["started"]), human(one["read"]),
                 f"{whole / one['read']:.1f}"]
                for name, one in (("ours, cache filled", filled), ("ours, cache empty", empty))
            ),
        ],
    )  # fmt: skip
    size = human(Path(ann_file).stat().st_size)
    report(
        args,
        f"{first['images']} images, annotation file of {size}\n\n{starts}\n\n{ranks}",
        {
            "peer": peer, "peer_rank": peer_rank, "first": first, "second": second,
            "filled": filled, "empty": empty,
        },
    )  # fmt: skip


def _row(name: str, one: dict, peer: dict) -> list[str]:
    return [
        name,
        f"{one['seconds']:.2f}",
        f"{peer['seconds'] / one['seconds']:.1f}",
        human(one["peak"]),
        f"{one['peak'] / peer['peak']:.2f}",
        human(one["kept"]),
    ]


if __name__ == "__main__":
    main()
