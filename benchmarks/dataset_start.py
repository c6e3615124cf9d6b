"""Start of the LVIS v1 train data set: seconds and memory, FastLVISV1Dataset and mmdet's.

One process: each start is in a fresh process. "First start" is with an empty cache, "second
start" with a filled one. mmdet has no cache, so its second start is its first. Memory is what a
start takes beyond the imports: at its peak, and kept when garbage is collected and free memory is
given back; "with imports" is the peak of the whole process.

--ranks processes that start together, behind a barrier: seconds until all are ready, and the sum of
their proportional set sizes, in which a page that n processes share counts n times 1/n, less that
of the same processes before, idle with the same imports. It is taken while all are alive, once
after the start, and once when each process has read every image's annotations, so that pages that
are mapped from the cache are counted. mmdet's are one process's times --ranks and marked
"extrapolated", for eight would need tens of GB; --peer-ranks really starts some.

The annotation file is in the page cache by the time that the first start is measured.

Examples:
  python benchmarks/dataset_start.py                        # LVIS v1's size, 10 min on 2 cores
  python benchmarks/dataset_start.py --train-images 10000   # about a minute
  python benchmarks/dataset_start.py --train-images 10000 --ranks 4 --peer-ranks 4
  python benchmarks/dataset_start.py --ann data/lvis_v1/annotations/lvis_v1_train.json
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from common import (
    SPAWN,
    Measurement,
    add_train_options,
    at_least,
    human,
    in_fresh_process,
    in_fresh_processes,
    limit_threads,
    make_parser,
    private_cache,
    proportional_set_size,
    ratio,
    report,
    settle,
    table,
    train_annotations,
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

    import mmdet_droploss  # noqa: F401


def start(kind: str, ann_file: str) -> dict:
    """One start."""
    import_all()
    with Measurement() as measurement:
        dataset = build(kind, ann_file)
    return {"images": len(dataset), **measurement.result()}


def rank(kind: str, ann_file: str, barrier: Any) -> dict:
    """One of several processes that start at once; nobody looks before all are ready."""

    def size_now() -> int:
        settle()
        barrier.wait()
        size = proportional_set_size()
        barrier.wait()
        return size

    import_all()
    idle = size_now()
    begin = time.perf_counter()
    dataset = build(kind, ann_file)
    seconds = time.perf_counter() - begin
    started = size_now() - idle
    for index in range(len(dataset)):
        dataset.get_data_info(index)
    return {"seconds": seconds, "idle": idle, "started": started, "read": size_now() - idle}


def start_ranks(kind: str, ann_file: str, count: int) -> dict:
    """Several starts at once: the seconds of the last, and memory summed over the processes."""
    barrier = SPAWN.Barrier(count)
    found = in_fresh_processes(rank, [(kind, ann_file, barrier)] * count)
    return {
        "seconds": max(one["seconds"] for one in found),
        **{key: sum(one[key] for one in found) for key in ("idle", "started", "read")},
    }


def measure(ann_file: str, work_dir: Path, ranks: int, peer_ranks: int, repeats: int) -> dict:
    """All numbers."""

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    found = {}
    with private_cache(work_dir) as empty_cache:
        say("mmdet: one start")
        found["peer"] = in_fresh_process(start, PEER, ann_file)
        say("mmdet: one process, read")
        found["peer_rank"] = start_ranks(PEER, ann_file, 1)
        if peer_ranks:
            say(f"mmdet: {peer_ranks} processes")
            found["peer_ranks"] = start_ranks(PEER, ann_file, peer_ranks)
        say("ours: first start")
        found["first"] = in_fresh_process(start, OURS, ann_file)
        say("ours: later starts")
        later = [in_fresh_process(start, OURS, ann_file) for _ in range(repeats)]
        found["second"] = {key: statistics.median(one[key] for one in later) for key in later[0]}
        found["second"]["fastest"] = min(one["seconds"] for one in later)
        found["second"]["slowest"] = max(one["seconds"] for one in later)
        say(f"ours: {ranks} processes, cache filled")
        found["filled"] = start_ranks(OURS, ann_file, ranks)
        say(f"ours: {ranks} processes, cache empty")
        empty_cache()
        found["empty"] = start_ranks(OURS, ann_file, ranks)
    if found["peer"]["images"] != found["first"]["images"]:
        sys.exit(f"mmdet has {found['peer']['images']} images, ours {found['first']['images']}")
    return found


def starts_table(found: dict, repeats: int) -> str:
    """One process."""
    peer, second = found["peer"], found["second"]
    spread = f"{repeats}, {second['fastest']:.2f} to {second['slowest']:.2f}"
    named = {
        "mmdet, any start": peer,
        "ours, first start": found["first"],
        f"ours, second start (median of {spread})": second,
    }
    header = [
        *("one process", "seconds", "mmdet / ours"),
        *("peak memory", "ours / mmdet", "with imports", "kept", "ours / mmdet"),
    ]
    rows = [
        [
            name,
            f"{one['seconds']:.2f}",
            ratio(peer["seconds"], one["seconds"]),
            human(one["peak"]),
            ratio(one["peak"], peer["peak"], 3),
            human(one["peak_whole"]),
            human(one["kept"]),
            ratio(one["kept"], peer["kept"], 3),
        ]
        for name, one in named.items()
    ]
    return table(header, rows)


def ranks_table(found: dict, ranks: int, peer_ranks: int) -> str:
    """Several processes; the ratios are to mmdet's that was extrapolated."""
    peer = {key: found["peer_rank"][key] * ranks for key in ("started", "read")}
    named = {f"mmdet, {ranks} (extrapolated from one)": peer}
    if peer_ranks:
        named[f"mmdet, {peer_ranks}"] = found["peer_ranks"]
    named |= {f"ours, {ranks}, cache {state}": found[state] for state in ("filled", "empty")}
    rows = [
        [
            name,
            f"{one['seconds']:.2f}" if "seconds" in one else "",
            human(one["started"]),
            ratio(peer["started"], one["started"]) if name.startswith("ours") else "",
            human(one["read"]),
            ratio(peer["read"], one["read"]) if name.startswith("ours") else "",
            human(one["read"] + one["idle"]) if "idle" in one else "",
        ]
        for name, one in named.items()
    ]
    header = [
        *("processes at once", "seconds", "memory", "mmdet / ours"),
        *("after reading all", "mmdet / ours", "with imports"),
    ]
    return table(header, rows)


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    add_train_options(parser)
    number = at_least(1)
    parser.add_argument("--ranks", type=number, default=8, help="processes at once (%(default)s)")
    parser.add_argument(
        "--peer-ranks",
        type=at_least(0),
        default=0,
        metavar="K",
        help="also start so many of mmdet's at once; each takes 8 GB at LVIS's size (%(default)s)",
    )
    parser.add_argument("--repeats", type=number, default=5, help="second starts (%(default)s)")
    args = parser.parse_args()
    threads = limit_threads()
    ann_file = train_annotations(parser, args)
    found = measure(ann_file, args.work_dir, args.ranks, args.peer_ranks, args.repeats)
    text = (
        f"{found['first']['images']} images, annotation file of "
        f"{human(Path(ann_file).stat().st_size)}, at most {threads} threads\n\n"
        f"{starts_table(found, args.repeats)}\n\n{ranks_table(found, args.ranks, args.peer_ranks)}"
    )
    report(args, text, found)


if __name__ == "__main__":
    main()
