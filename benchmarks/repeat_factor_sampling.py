"""Building RFS: RepeatFactorSampler against mmdet's ClassBalancedDataset.

Both get a data set that is loaded already. ClassBalancedDataset is built on mmdet's LVISV1Dataset
and, in a second line, on FastLVISV1Dataset, which knows the labels without decoding the images. The
three take turns, --repeats times, after one turn that is not counted; what is printed are medians.
The mean repeats differ: ClassBalancedDataset rounds every factor up. With few --train-images give a
larger --threshold, else nothing is repeated: below 1 / t images no category is rare enough.

Examples:
  python benchmarks/repeat_factor_sampling.py                       # LVIS v1's size
  python benchmarks/repeat_factor_sampling.py --train-images 2000 --threshold 0.005
  python benchmarks/repeat_factor_sampling.py --ann data/lvis_v1/annotations/lvis_v1_train.json
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from common import (
    add_train_options,
    at_least,
    limit_threads,
    make_parser,
    private_cache,
    ratio,
    report,
    table,
    train_annotations,
)
from dataset_start import OURS, PEER, build


def seconds_of(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """The times of some calls that take turns, so that a noisy moment strikes all of them."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - begin)
    return times


def mean_repeats(built: Any) -> float:
    """How often an image comes on average."""
    if hasattr(built, "factors"):
        return float(built.factors.mean())
    return len(built) / len(built.dataset)


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    add_train_options(parser)
    parser.add_argument("--threshold", type=float, default=5e-4, help="t (%(default)s)")
    parser.add_argument("--repeats", type=at_least(1), default=5, help="turns (%(default)s)")
    args = parser.parse_args()
    threads = limit_threads()
    ann_file = train_annotations(parser, args)

    from mmengine.dataset import ClassBalancedDataset

    from mmdet_droploss.datasets import RepeatFactorSampler

    with private_cache(args.work_dir):
        fast, plain = build(OURS, ann_file), build(PEER, ann_file)
        functions = {
            "RepeatFactorSampler": lambda: RepeatFactorSampler(fast, args.threshold, seed=0),
            f"ClassBalancedDataset on {PEER}": lambda: ClassBalancedDataset(plain, args.threshold),
            f"ClassBalancedDataset on {OURS}": lambda: ClassBalancedDataset(fast, args.threshold),
        }
        means = {name: mean_repeats(function()) for name, function in functions.items()}
        times = seconds_of(functions, args.repeats)
    medians = {name: statistics.median(of_one) for name, of_one in times.items()}
    ours = medians["RepeatFactorSampler"]
    rows = [
        [
            name,
            f"{median:.4f}",
            f"{min(times[name]):.4f} to {max(times[name]):.4f}",
            ratio(median, ours),
            f"{means[name]:.3f}",
        ]
        for name, median in medians.items()
    ]
    header = ["", "seconds (median)", "range", "relative", "mean repeats of an image"]
    report(
        args,
        f"{len(fast)} images, t = {args.threshold:g}, {args.repeats} turns, at most {threads} "
        f"threads\n\n{table(header, rows)}",
        {"images": len(fast), "seconds": medians, "mean_repeats": list(means.values())},
    )


if __name__ == "__main__":
    main()
