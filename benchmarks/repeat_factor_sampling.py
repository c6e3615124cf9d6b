"""Building RFS: RepeatFactorSampler against mmdet's ClassBalancedDataset.

  python benchmarks/repeat_factor_sampling.py                       # LVIS v1's size
  python benchmarks/repeat_factor_sampling.py --train-images 10000

Both get a data set that is loaded already. ClassBalancedDataset is built on mmdet's LVISV1Dataset
and, in a second line, on FastLVISV1Dataset, which knows the labels without decoding the images.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import numpy as np
from common import like_lvis, make_parser, report, table
from dataset_start import OURS, PEER, build


def seconds(function: Callable[[], object], repeats: int) -> float:
    """The median time of some calls."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--train-images", type=int, default=99388, help="%(default)s: LVIS v1's")
    parser.add_argument("--threshold", type=float, default=5e-4, help="t (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="calls each (%(default)s)")
    args = parser.parse_args()
    os.environ["MMDET_DROPLOSS_CACHE"] = str(args.work_dir / "cache")  # never the user's
    ann_file = str(like_lvis(args.work_dir, args.train_images, 10) / "lvis_v1_train.json")

    from mmengine.dataset import ClassBalancedDataset

    from mmdet_droploss.datasets import RepeatFactorSampler

    fast, plain = build(OURS, ann_file), build(PEER, ann_file)
    sampler = RepeatFactorSampler(fast, args.threshold, seed=0)
    balanced = ClassBalancedDataset(plain, args.threshold)
    times = {
        "RepeatFactorSampler": seconds(
            lambda: RepeatFactorSampler(fast, args.threshold, seed=0), args.repeats
        ),
        "ClassBalancedDataset on LVISV1Dataset": seconds(
            lambda: ClassBalancedDataset(plain, args.threshold), args.repeats
        ),
        "ClassBalancedDataset on FastLVISV1Dataset": seconds(
            lambda: ClassBalancedDataset(fast, args.threshold), args.repeats
        ),
    }
    means = [
        float(np.mean(sampler.factors)),
        len(balanced) / len(plain),
        len(balanced) / len(plain),
    ]
    ours = times["RepeatFactorSampler"]
    rows = [
        [name, f"{value:.3f}", f"{value / ours:.1f}", f"{mean:.3f}"]
        for (name, value), mean in zip(times.items(), means, strict=True)
    ]
    header = ["", "seconds (median)", "relative", "mean repeats of an image"]
    report(
        args,
        f"{len(fast)} images, t = {args.threshold:g}\n\n{table(header, rows)}",
        {"images": len(fast), "seconds": times, "mean_repeats": means},
    )


if __name__ == "__main__":
    main()
