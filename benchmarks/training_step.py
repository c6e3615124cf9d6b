"""A training step of Mask R-CNN R-50: DropLoss against softmax, mmdet's own heads, and cascades.

Forward and backward with LVIS v0.5's 1230 categories on random images with random objects, from the
configs here. "mmdet's parts" are Shared2FCBBoxHead, FCNMaskHead and mmcv's RoIAlign, "loss" is the
time in the classification loss's forward pass. All take turns with the same random numbers and, but
for the classifier of softmax, which has one output more, the same weights: so all Mask R-CNNs have
the same proposals, on which RoIAlign's time depends more than on anything in the losses. The
cascades' RPN keeps 2000 of them instead of 1000; "loss" is that of all their stages. In the end it
says what CategoryGradientHook takes of DropLoss's step (train.py --record-gradients).

Examples:
  python benchmarks/training_step.py                                # 5 minutes on 2 cores
  python benchmarks/training_step.py --size 128 160 --repeats 2
  python benchmarks/training_step.py --device cuda --size 800 1088
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
import warnings

from common import (
    ROOT,
    Measurement,
    add_device_option,
    at_least,
    human,
    limit_threads,
    make_parser,
    ratio,
    report,
    table,
)

MODELS = {
    "DropLoss": ("configs/droploss/mask_rcnn_r50_fpn_lvis.py", {}),
    "EQL": ("configs/eql/mask_rcnn_r50_fpn_eql_lvis.py", {}),
    "softmax": ("configs/softmax/mask_rcnn_r50_fpn_softmax_lvis.py", {}),
    "softmax, mmdet's parts": (
        "configs/softmax/mask_rcnn_r50_fpn_softmax_lvis.py",
        {
            "bbox_head": "Shared2FCBBoxHead",
            "mask_head": "FCNMaskHead",
            "bbox_roi_extractor": "SingleRoIExtractor",
            "mask_roi_extractor": "SingleRoIExtractor",
        },
    ),
}
CASCADES = {
    "DropLoss, the paper's cascade": "configs/droploss/cascade_mask_rcnn_r50_fpn_lvis.py",
    "DropLoss, MMDetection's cascade": "configs/droploss/cascade_mask_rcnn_mmdet_r50_fpn_lvis.py",
}
MODELS |= {name: (path, {}) for name, path in CASCADES.items()}
BASE = "softmax"
IMAGES, OBJECTS = 2, 10


def build(name: str, device: str) -> object:
    """A model in training."""
    import torch
    from mmdet.registry import MODELS as REGISTRY
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    import mmdet_droploss  # noqa: F401  (registers losses and heads)

    logging.disable(logging.INFO)  # what each parameter is initialised with
    warnings.filterwarnings("ignore", category=UserWarning)
    path, parts = MODELS[name]
    config = Config.fromfile(ROOT / path)
    init_default_scope("mmdet")
    config.model.backbone.init_cfg = None
    for part, kind in parts.items():
        config.model.roi_head[part].type = kind
    if parts:
        config.model.roi_head.bbox_head.pop("prior_prob", None)
    torch.manual_seed(0)
    model = REGISTRY.build(config.model)
    model.init_weights()
    return model.train().to(device)


def with_weights_of(base: object, model: object) -> object:
    """The model with the other's weights, wherever there are such of the same shape."""
    own = model.state_dict()
    same = {k: v for k, v in base.state_dict().items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(same, strict=False)
    return model


def make_batch(model: object, size: tuple[int, int]) -> dict:
    """Images and objects, preprocessed."""
    import numpy as np
    import torch
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    rng = np.random.default_rng(0)
    inputs, samples = [], []
    for index in range(IMAGES):
        corner = rng.uniform(0, 0.7, (OBJECTS, 2)) * size[::-1]
        boxes = np.concatenate([corner, corner + rng.uniform(16, 0.3 * min(size), (OBJECTS, 2))], 1)
        masks = np.zeros((OBJECTS, *size), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
            mask[y1:y2, x1:x2] = 1
        shape = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size)
        sample = DetDataSample(metainfo=dict(img_id=index, scale_factor=(1.0, 1.0), **shape))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32),
            labels=torch.from_numpy(rng.integers(1230, size=OBJECTS)),
            masks=BitmapMasks(masks, *size),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        inputs.append(torch.from_numpy(rng.integers(256, size=(3, *size), dtype=np.uint8)))
        samples.append(sample)
    return model.data_preprocessor(dict(inputs=inputs, data_samples=samples), training=True)


def step(model: object, batch: dict, device: str) -> tuple[float, float]:
    """Seconds of a step, and of the classification loss in it."""
    import torch

    spent = 0.0
    heads = model.roi_head.bbox_head
    heads = heads if isinstance(heads, torch.nn.ModuleList) else [heads]

    def timed(forward: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal spent
            begin = time.perf_counter()
            result = forward(*args, **kwargs)
            if device == "cuda":
                torch.cuda.synchronize()
            spent += time.perf_counter() - begin
            return result

        return call

    for head in heads:
        head.loss_cls.forward = timed(head.loss_cls.forward)
    torch.manual_seed(0)
    begin = time.perf_counter()
    losses = model(**batch, mode="loss")
    model.parse_losses(losses)[0].backward()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    for head in heads:
        del head.loss_cls.forward
    model.zero_grad(set_to_none=True)
    return seconds, spent


def peak(model: object, batch: dict, device: str) -> int:
    """Memory that a step takes beyond model and images, in bytes."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(model, batch, device)
        return torch.cuda.max_memory_allocated() - before
    with Measurement() as measurement:
        step(model, batch, device)
    return measurement.peak


def recording(model: object, batch: dict, device: str, repeats: int) -> tuple[float, float]:
    """Medians over some steps: seconds that CategoryGradientHook takes in one, and of the whole."""
    import torch

    from mmdet_droploss.engine.category_gradient_hook import CategorySums

    class Timed(CategorySums):
        """Knows how long it took."""

        spent = 0.0

        def _watch(self, *args: object) -> None:
            self._time(super()._watch, *args)

        def _add(self, *args: object) -> None:
            self._time(super()._add, *args)

        def _time(self, function: object, *args: object) -> None:
            begin = time.perf_counter()
            function(*args)
            if device == "cuda":
                torch.cuda.synchronize()
            self.spent += time.perf_counter() - begin

    sums = Timed(model.roi_head.bbox_head)
    measured = []
    for _ in range(repeats):
        sums.spent = 0.0
        seconds, _ = step(model, batch, device)
        measured.append((sums.spent, seconds))
    sums.remove()
    return tuple(map(statistics.median, zip(*measured, strict=True)))


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    add_device_option(parser)
    parser.add_argument(
        "--size",
        type=at_least(64),
        nargs=2,
        default=(320, 416),
        metavar=("HEIGHT", "WIDTH"),
        help="of the images; divisible by 32 (%(default)s)",
    )
    parser.add_argument("--repeats", type=at_least(1), default=9, help="turns (%(default)s)")
    args = parser.parse_args()
    threads, size = limit_threads(), tuple(args.size)
    import torch

    torch.set_num_threads(threads)
    base = build(BASE, args.device)
    models = {name: with_weights_of(base, build(name, args.device)) for name in MODELS}
    batch = make_batch(models[BASE], size)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for turn in range(-1, args.repeats):
        print(f"turn {turn + 1} of {args.repeats}", file=sys.stderr)
        for name, model in models.items():
            seconds = step(model, batch, args.device)
            if turn >= 0:  # the one before loads what is loaded at the first use
                times[name].append(seconds)
    rows, numbers = [], {}
    medians = {name: statistics.median(s for s, _ in of_one) for name, of_one in times.items()}
    for name, of_one in times.items():
        spent = statistics.median(loss for _, loss in of_one)
        memory = peak(models[name], batch, args.device)
        numbers[name] = {"seconds": medians[name], "loss": spent, "peak": memory}
        spread = [seconds for seconds, _ in of_one]
        rows.append(
            [
                name,
                f"{medians[name]:.3f}",
                f"{min(spread):.3f} to {max(spread):.3f}",
                ratio(medians[name], medians[BASE], 2),
                f"{1e3 * spent:.1f}",
                human(memory),
            ]
        )
    spent, seconds = recording(models["DropLoss"], batch, args.device, args.repeats)
    header = ["", "seconds (median)", "range", f"/ {BASE}", "loss, ms", "peak memory"]
    text = (
        f"{IMAGES} images of {size[0]} x {size[1]} on {args.device}, at most {threads} threads, "
        f"{args.repeats} turns\n\n{table(header, rows)}\n\n"
        f"CategoryGradientHook takes {1e3 * spent:.1f} ms of DropLoss's step, "
        f"{100 * spent / seconds:.2f} %"
    )
    recorded = {"seconds": spent, "step": seconds}
    report(args, text, {"training_step": numbers, "recording": recorded})


if __name__ == "__main__":
    main()
