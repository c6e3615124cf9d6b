"""From a bbox head's outputs to 300 detections: LargeVocabBBoxHead against Shared2FCBBoxHead.

Outputs of 1000 proposals for LVIS v1's 1203 categories, with scores around a prior as an untrained
head has them ("untrained"), or a tenth of a percent of them high and nearly all below 1e-4, as a
trained head has them ("trained"). Both heads get the same outputs, through predict_by_feat, with
class-specific and with class-agnostic boxes, and must give the same bits, else the exit code is 1.

Examples:
  python benchmarks/post_processing.py                              # 5 minutes on 2 cores
  python benchmarks/post_processing.py --proposals 300 --categories 400 --repeats 1
  python benchmarks/post_processing.py --device cuda
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from common import add_device_option, at_least, limit_threads, make_parser, ratio, report, table

#: (height, width) of the image.
SHAPE = (800, 1088)


def outputs_of(kind: str, proposals: int, categories: int, agnostic: bool, device: str) -> tuple:
    """RoIs, logits and deltas that a head could give."""
    import torch

    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([SHAPE[1], SHAPE[0]])
    corner = torch.rand(proposals, 2, generator=generator) * size * 0.9
    extent = 8 + torch.rand(proposals, 2, generator=generator) ** 2 * size * 0.6
    boxes = torch.cat([corner, torch.minimum(corner + extent, size)], dim=1)
    rois = torch.cat([torch.zeros(proposals, 1), boxes], dim=1)
    columns = 4 if agnostic else 4 * categories
    deltas = torch.randn(proposals, columns, generator=generator) * 0.5
    noise = torch.randn(proposals, categories, generator=generator)
    if kind == "untrained":
        logits = noise - 5
    else:
        high = torch.rand(proposals, categories, generator=generator) < 1e-3
        logits = torch.where(high, 2 * noise, 1.5 * noise - 13)
    return tuple(tensor.to(device) for tensor in (rois, logits, deltas))


def make_head(kind: str, categories: int, agnostic: bool, device: str) -> object:
    """A head; its layers are not used, and so are small."""
    from mmdet.registry import MODELS

    return MODELS.build(
        dict(
            type=kind,
            in_channels=1,
            fc_out_channels=1,
            roi_feat_size=1,
            num_classes=categories,
            reg_class_agnostic=agnostic,
            loss_cls=dict(type="SigmoidBCELoss", num_classes=categories),
        )
    ).to(device)


def predict(head: object, outputs: tuple, threshold: float) -> Callable[[], object]:
    """A call that gives the detections of an image."""
    import torch
    from mmengine.config import ConfigDict

    config = ConfigDict(
        score_thr=threshold, nms=dict(type="nms", iou_threshold=0.5), max_per_img=300
    )
    meta = dict(img_shape=SHAPE, ori_shape=SHAPE, scale_factor=(1.0, 1.0))
    rois, logits, deltas = outputs

    def run() -> object:
        found = head.predict_by_feat((rois,), (logits,), (deltas,), [meta], config)[0]
        if rois.is_cuda:
            torch.cuda.synchronize()
        return found

    return run


def seconds_of(function: Callable[[], object], repeats: int) -> tuple[list[float], object]:
    """Times of some calls, and what the last one gave."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - begin)
    return times, result


def same(first: object, second: object) -> bool:
    """Whether two predictions are equal to the last bit."""
    import torch

    return all(
        torch.equal(getattr(first, key), getattr(second, key))
        for key in ("bboxes", "scores", "labels")
    )


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    add_device_option(parser)
    parser.add_argument(
        "--proposals", type=at_least(1), default=1000, metavar="N", help="(%(default)s)"
    )
    parser.add_argument(
        "--categories", type=at_least(1), default=1203, metavar="C", help="(%(default)s)"
    )
    parser.add_argument(
        "--repeats", type=at_least(1), default=5, help="of the peer; ours: 5 times as many"
    )
    args = parser.parse_args()
    threads = limit_threads()
    import torch

    import mmdet_droploss  # noqa: F401  (registers the head)

    torch.set_num_threads(threads)
    rows, numbers, equal = [], {}, True
    for kind in ("untrained", "trained"):
        for threshold in (0.0, 1e-4):
            for agnostic in (False, True):
                outputs = outputs_of(kind, args.proposals, args.categories, agnostic, args.device)
                times, found = {}, {}
                for name, more in (("LargeVocabBBoxHead", 5), ("Shared2FCBBoxHead", 1)):
                    head = make_head(name, args.categories, agnostic, args.device)
                    run = predict(head, outputs, threshold)
                    if more > 1 or args.device == "cuda":
                        run()
                    times[name], found[name] = seconds_of(run, more * args.repeats)
                ours, peer = (statistics.median(of_one) for of_one in times.values())
                is_same = same(*found.values())
                equal &= is_same
                boxes = "one a proposal" if agnostic else "one a category"
                title = f"{kind}, {boxes}, above {threshold:g}"
                numbers[title] = {"ours": ours, "peer": peer, "equal": is_same}
                candidates = int((outputs[1].sigmoid() > threshold).sum())
                spread = f"{1e3 * min(times['LargeVocabBBoxHead']):.1f} to "
                spread += f"{1e3 * max(times['LargeVocabBBoxHead']):.1f}"
                rows.append(
                    [title, candidates, f"{1e3 * ours:.1f}", spread, f"{1e3 * peer:.0f}"]
                    + [ratio(peer, ours), "yes" if is_same else "NO"]
                )
                print(f"{title}: done", file=sys.stderr)
    header = [
        "scores, boxes",
        "candidates",
        "ours, ms",
        "range",
        "mmdet, ms",
        "mmdet / ours",
        "equal",
    ]
    text = (
        f"{args.proposals} proposals, {args.categories} categories, 300 detections, on "
        f"{args.device}, at most {threads} threads\n\n{table(header, rows)}"
    )
    report(args, text, {"post_processing": numbers})
    if not equal:
        sys.exit("the detections are not the same")


if __name__ == "__main__":
    main()
