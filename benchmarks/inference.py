r"""A whole image, from pixels to run-length encoded masks: this package's heads against mmdet's.

Mask R-CNN and Cascade Mask R-CNN of the configs here, with LVIS v1's 1203 categories, the config's
score threshold and 300 detections, on random pixels or --image. The peer is the same model with
mmdet's heads (Shared2FCBBoxHead, FCNMaskHead, CascadeRoIHead), mmcv's RoIAlign and the same
weights. mmdet has no head for Detectron2's cascade, which the paper's configs build: there the peer
has mmdet's mask head and post-processing. MMDetection's cascade has LVIS v0.5's 1230 categories.
Without --checkpoint the weights are random, and the classifier's scores lie around 0.007,
as before a training; with --mean-logit -11 some thousand of a million are above the threshold, as
after one. In between are this package's heads with mmcv's RoIAlign, as they are on a GPU. "bbox"
and "mask" are the parts of the RoI head, "encode" is the run-length encoding, which all share.

With the same RoIAlign, boxes, scores and labels must be the same to the last bit, and masks but for
one pixel in 10,000, where a value next to the threshold is rounded otherwise; else the exit code is
1. This package's RoIAlign rounds otherwise (by some 1e-7), so among nearly equal scores others may
get into the first 300: the share of detections in common is printed.

Examples:
  python benchmarks/inference.py                                    # 10 minutes on 2 cores
  python benchmarks/inference.py --size 200 272 --repeats 1
  python benchmarks/inference.py --size 160 160 \
      --configs configs/mini_lvis/mask_rcnn_r18_fpn_droploss_mini_lvis.py \
      --checkpoint work_dirs/quickstart/droploss/iter_800.pth \
      --image data/mini_lvis/val2017/000000000001.jpg
"""

from __future__ import annotations

import copy
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import (
    ROOT,
    add_device_option,
    at_least,
    limit_threads,
    make_parser,
    ratio,
    report,
    table,
)

CONFIGS = (
    "configs/droploss/mask_rcnn_r50_fpn_lvis_v1.py",
    "configs/droploss/cascade_mask_rcnn_r50_fpn_lvis_v1.py",
    "configs/droploss/cascade_mask_rcnn_mmdet_r50_fpn_lvis.py",
)
PARTS = ("backbone", "rpn", "bbox", "mask", "encode")


def build(path: Path, checkpoint: Path | None, mean_logit: float, device: str) -> object:
    """The model of a config, with a checkpoint's weights or random ones."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmengine.runner import load_checkpoint

    config = Config.fromfile(path)
    init_default_scope("mmdet")
    config.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    if checkpoint is not None:
        load_checkpoint(model, str(checkpoint), map_location="cpu")
    else:
        for name, parameter in model.named_parameters():
            if name.endswith("fc_cls.weight"):
                torch.nn.init.normal_(parameter, std=1e-3)
            elif name.endswith("fc_cls.bias"):
                torch.nn.init.normal_(parameter, mean=mean_logit, std=0.06 * abs(mean_logit))
    return model.eval().to(device)


def with_parts_of_mmdet(model: object, heads: bool) -> object:
    """A copy that works with mmcv's RoIAlign and, if wanted, as with mmdet's heads.

    Parameters are theirs in any case.
    """
    import mmcv.ops
    from mmdet.models.layers import multiclass_nms
    from mmdet.models.roi_heads import CascadeRoIHead, FCNMaskHead, Shared2FCBBoxHead
    from mmengine.structures import InstanceData

    from mmdet_droploss.models import (
        Detectron2CascadeRoIHead,
        LargeVocabBBoxHead,
        LargeVocabCascadeRoIHead,
        LargeVocabMaskHead,
    )
    from mmdet_droploss.models.roi_heads.roi_extractor import RoIAlign

    class MMDetPostProcessing(LargeVocabBBoxHead):
        """All boxes through mmdet's NMS, with scores that are not the head's own."""

        def predict_from_scores(
            self, roi: object, scores: object, deltas: object, meta: dict, rescale: bool, cfg: dict
        ) -> InstanceData:
            every = super().predict_from_scores(roi, scores, deltas, meta, rescale, None)
            boxes, labels = multiclass_nms(
                every.bboxes, every.scores, cfg.score_thr, cfg.nms, cfg.max_per_img
            )
            return InstanceData(bboxes=boxes[:, :4], scores=boxes[:, 4], labels=labels)

    kinds = {RoIAlign: mmcv.ops.RoIAlign}
    if heads:
        mean_scores = isinstance(model.roi_head, Detectron2CascadeRoIHead)
        kinds |= {
            LargeVocabBBoxHead: MMDetPostProcessing if mean_scores else Shared2FCBBoxHead,
            LargeVocabMaskHead: FCNMaskHead,
            LargeVocabCascadeRoIHead: CascadeRoIHead,
        }
    peer = copy.deepcopy(model)
    for module in peer.modules():
        module.__class__ = kinds.get(type(module), type(module))
    return peer


@contextmanager
def clock(model: object, device: str) -> Iterator[dict[str, float]]:
    """Seconds of the parts of a model."""
    import torch

    seconds = dict.fromkeys(PARTS, 0.0)
    places = {
        "backbone": (model, "extract_feat"),
        "rpn": (model.rpn_head, "predict"),
        "bbox": (model.roi_head, "predict_bbox"),
        "mask": (model.roi_head, "predict_mask"),
    }

    def timed(name: str, function: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            begin = time.perf_counter()
            result = function(*args, **kwargs)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name] += time.perf_counter() - begin
            return result

        return call

    for name, (owner, method) in places.items():
        setattr(owner, method, timed(name, getattr(owner, method)))
    try:
        yield seconds
    finally:
        for owner, method in places.values():
            delattr(owner, method)


def pixels(path: Path | None, size: tuple[int, int]) -> object:
    """An image file in the size, or random pixels: (3, H, W) uint8."""
    import mmcv
    import torch

    if path is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8)
    image = mmcv.imread(str(path))
    if image is None:
        raise ValueError(f"--image {path} is not an image")
    return torch.from_numpy(mmcv.imresize(image, size[::-1])).permute(2, 0, 1).contiguous()


def predict(model: object, image: object, device: str) -> tuple[dict[str, float], object]:
    """Seconds of one image, by part and whole, and its detections."""
    import torch
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import encode_mask_results

    size = tuple(image.shape[1:])
    shape = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size)
    sample = DetDataSample(metainfo=dict(img_id=0, scale_factor=(1.0, 1.0), **shape))
    with torch.no_grad(), clock(model, device) as seconds:
        begin = time.perf_counter()
        found = model.test_step(dict(inputs=[image], data_samples=[sample]))[0].pred_instances
        middle = time.perf_counter()
        encode_mask_results(found.masks.cpu().numpy())
        end = time.perf_counter()
    return {**seconds, "encode": end - middle, "all": end - begin}, found


def different(first: object, second: object) -> float:
    """The share of pixels in which masks differ; infinite if anything else does."""
    import torch

    if not all(
        torch.equal(getattr(first, key), getattr(second, key))
        for key in ("bboxes", "scores", "labels")
    ):
        return float("inf")
    return float((first.masks != second.masks).float().mean()) if len(first) else 0.0


def in_common(first: object, second: object) -> float:
    """The share of the first's detections that the second has: same label, box within 0.1 pixel."""
    if len(first) == 0:
        return float(len(second) == 0)
    distance = (first.bboxes[:, None] - second.bboxes).abs().amax(dim=2)
    same = (distance < 0.1) & (first.labels[:, None] == second.labels)
    return float(same.any(dim=1).float().mean())


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    add_device_option(parser)
    parser.add_argument(
        "--configs",
        type=Path,
        nargs="+",
        default=[ROOT / config for config in CONFIGS],
        metavar="FILE",
        help="of Mask R-CNNs (three of configs/droploss)",
    )
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights for the configs")
    parser.add_argument(
        "--mean-logit",
        type=float,
        default=-5.0,
        metavar="X",
        help="of random weights (%(default)s)",
    )
    parser.add_argument("--image", type=Path, metavar="FILE", help="a picture (random pixels)")
    parser.add_argument(
        "--size",
        type=at_least(32),
        nargs=2,
        default=(800, 1088),
        metavar=("HEIGHT", "WIDTH"),
        help="of the image; divisible by 32 (%(default)s)",
    )
    parser.add_argument("--repeats", type=at_least(1), default=3, help="images (%(default)s)")
    args = parser.parse_args()
    threads = limit_threads()
    import torch

    import mmdet_droploss  # noqa: F401  (registers the heads)

    logging.disable(logging.INFO)  # what each parameter is initialised with
    warnings.filterwarnings("ignore", category=UserWarning)
    torch.set_num_threads(threads)
    image = pixels(args.image, tuple(args.size))
    rows, numbers, worst, same = [], {}, 0.0, []
    for path in args.configs:
        ours = build(path, args.checkpoint, args.mean_logit, args.device)
        models = {
            "ours": ours,
            "ours, mmcv's RoIAlign": with_parts_of_mmdet(ours, heads=False),
            "mmdet": with_parts_of_mmdet(ours, heads=True),
        }
        times: dict[str, list[dict]] = {name: [] for name in models}
        predict(ours, image, args.device)  # loads what is loaded at the first use
        for turn in range(args.repeats):
            found = {}
            for name, model in models.items():
                print(f"{path.stem}: {name}, image {turn + 1}", file=sys.stderr)
                seconds, found[name] = predict(model, image, args.device)
                times[name].append(seconds)
            worst = max(worst, different(found["ours, mmcv's RoIAlign"], found["mmdet"]))
            same.append(in_common(found["ours"], found["mmdet"]))
        medians = {
            name: {key: statistics.median(one[key] for one in of_one) for key in of_one[0]}
            for name, of_one in times.items()
        }
        numbers[path.stem] = {"detections": len(found["ours"]), **medians}
        for name, median in medians.items():
            spread = [one["all"] for one in times[name]]
            rows.append(
                [
                    f"{path.stem}: {name}",
                    *(f"{median[part]:.2f}" for part in PARTS),
                    f"{median['all']:.2f}",
                    f"{min(spread):.2f} to {max(spread):.2f}",
                    ratio(medians["mmdet"]["all"], median["all"], 2),
                ]
            )
    header = ["seconds (median)", *PARTS, "all", "range", "mmdet / this"]
    text = (
        f"{args.size[0]} x {args.size[1]} pixels on {args.device}, at most {threads} threads, "
        f"{args.repeats} images\nwith mmcv's RoIAlign, masks differ in {worst:.0e} of the pixels; "
        f"with ours, {min(same):.1%} of the detections are mmdet's\n\n{table(header, rows)}"
    )
    report(args, text, {"inference": numbers, "different": worst, "in_common": min(same)})
    if not worst <= 1e-4:
        sys.exit(f"the detections are not the same ({worst})")


if __name__ == "__main__":
    main()
