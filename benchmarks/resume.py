"""Time to the first new iteration after a resume: ours, and MMEngine's own loop.

A training of 16 images an iteration in aspect-ratio batches goes on at iteration 1,000, 10,000 and
60,000, with and without repeat factor sampling. The clock runs from the loop's beginning to the
first new iteration. The images are one JPEG of 640 x 480, decoded and resized as LVIS's are; the
model does nothing. MMEngine's loop loads all images that were seen: it is measured at a few
iterations, and the rest is on the line through them (--peer-really measures it all, which takes
hours).

Examples:
  python benchmarks/resume.py                                   # LVIS v1's size
  python benchmarks/resume.py --train-images 2000 --iterations 100 1000 --threshold 0.005
"""

from __future__ import annotations

import tempfile
import time

from common import (
    add_train_options,
    at_least,
    in_fresh_process,
    limit_threads,
    make_parser,
    private_cache,
    report,
    table,
    train_annotations,
)

OURS, PEER = "ResumableIterBasedTrainLoop", "IterBasedTrainLoop"
BATCH_SIZE = 16


def register_parts() -> None:
    """What the measured training consists of, besides MMEngine's and our parts."""
    import cv2
    import numpy as np
    import torch
    from mmengine.hooks import Hook
    from mmengine.model import BaseModel
    from mmengine.registry import HOOKS, MODELS, TRANSFORMS

    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    _, jpeg = cv2.imencode(".jpg", cv2.resize(noise, (640, 480)))

    @TRANSFORMS.register_module()
    class DecodeOneJPEG:
        """As LoadImageFromFile, without files."""

        def __call__(self, results: dict) -> dict:
            results["img"] = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
            results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
            return results

    @TRANSFORMS.register_module()
    class ImageOnly:
        """As PackDetInputs, without annotations."""

        def __call__(self, results: dict) -> dict:
            return {"img": torch.from_numpy(results["img"])}

    @MODELS.register_module()
    class NoModel(BaseModel):
        """Its loss needs no image."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, mode: str, **_: object) -> dict:
            return {"loss": self.weight * 0}

    @HOOKS.register_module()
    class ResumeAtHook(Hook):
        """Have the loop begin at an iteration, and stop the time to the first one."""

        def __init__(self, iteration: int) -> None:
            self.iteration = iteration

        def before_train(self, runner) -> None:
            runner.train_loop._iter = self.iteration
            self.begin = time.perf_counter()

        def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
            runner.message_hub.update_info("seconds", time.perf_counter() - self.begin)


def seconds_to_first(
    ann_file: str, loop: str, iteration: int, threshold: float | None, workers: int
) -> dict:
    """Resume at an iteration, in a process of its own."""
    from mmengine.runner import Runner

    import mmdet_droploss  # noqa: F401

    register_parts()
    sampler = dict(type="InfiniteSampler")
    if threshold is not None:
        sampler = dict(type="RepeatFactorSampler", threshold=threshold, infinite=True)
    pipeline = [
        dict(type="DecodeOneJPEG"),
        dict(type="Resize", scale=(1333, 800), keep_ratio=True),
        dict(type="ImageOnly"),
    ]
    with tempfile.TemporaryDirectory() as work_dir:
        runner = Runner(
            model=dict(type="NoModel"),
            work_dir=work_dir,
            train_dataloader=dict(
                batch_size=BATCH_SIZE,
                num_workers=workers,
                sampler=sampler,
                batch_sampler=dict(type="AspectRatioBatchSampler"),
                dataset=dict(
                    type="FastLVISV1Dataset",
                    ann_file=ann_file,
                    data_prefix=dict(img=""),
                    pipeline=pipeline,
                ),
            ),
            train_cfg=dict(type=loop, max_iters=iteration + 1),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
            custom_hooks=[dict(type="ResumeAtHook", iteration=iteration)],
            default_hooks=dict(checkpoint=None),
            default_scope="mmdet",
            log_level="ERROR",
            randomness=dict(seed=0),
        )
        runner.train()
        return {"seconds": runner.message_hub.get_info("seconds")}


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    add_train_options(parser)
    number = at_least(1)
    parser.add_argument(
        "--iterations", type=number, nargs="+", default=[1000, 10000, 60000], metavar="N"
    )
    parser.add_argument(
        "--peer-iterations",
        type=number,
        nargs=2,
        default=[10, 40],
        metavar="N",
        help="where MMEngine's loop is measured (%(default)s)",
    )
    parser.add_argument("--peer-really", action="store_true", help="measure MMEngine's everywhere")
    parser.add_argument("--threshold", type=float, default=5e-4, help="t of RFS (%(default)s)")
    parser.add_argument("--workers", type=at_least(0), default=2, help="(%(default)s)")
    args = parser.parse_args()
    threads = limit_threads()
    ann_file = train_annotations(parser, args)
    rows, numbers = [], {}
    with private_cache(args.work_dir):

        def measure(loop: str, iteration: int, threshold: float | None) -> float:
            arguments = (ann_file, loop, iteration, threshold, args.workers)
            return in_fresh_process(seconds_to_first, *arguments)["seconds"]

        measure(OURS, 1, None)  # fills the annotation cache
        near, far = args.peer_iterations
        near_seconds, far_seconds = (measure(PEER, i, None) for i in (near, far))
        of_a_batch = (far_seconds - near_seconds) / (far - near)
        for name, threshold in (("", None), (" with RFS", args.threshold)):
            for iteration in args.iterations:
                ours = measure(OURS, iteration, threshold)
                if args.peer_really:
                    peer = measure(PEER, iteration, threshold)
                else:
                    peer = near_seconds + (iteration - near) * of_a_batch
                rows.append(
                    [f"{iteration:,}{name}", f"{ours:.1f}", f"{peer:,.0f}", f"{peer / ours:,.0f}"]
                )
                numbers[f"{iteration}{name}"] = {"ours": ours, "peer": peer}
    extrapolated = "" if args.peer_really else f" (extrapolated from {near} and {far} iterations)"
    header = ["resume at iteration", "ours, seconds", f"MMEngine's, seconds{extrapolated}", "ratio"]
    report(
        args,
        f"{BATCH_SIZE} images an iteration, {args.workers} workers, at most {threads} threads\n\n"
        f"{table(header, rows)}",
        {"seconds": numbers, "peer_measured": {str(near): near_seconds, str(far): far_seconds}},
    )


if __name__ == "__main__":
    main()
