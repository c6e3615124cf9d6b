"""LVIS evaluation, box and mask: FastLVISMetric against lvis-api, with 300 detections an image.

Every measurement is in a process of its own. The detections, a third of them near the image's
objects, are drawn by a seed when they are needed, an image at a time, the same for both; the time
of drawing is measured apart and taken off. lvis-api has to have all of them in lists, as mmdet's
LVISMetric gathers them; FastLVISMetric gets them image by image, as from a val loop. Masks are
run-length encodings. lvis-api gets mask results without boxes (else it takes a box's area for the
mask's) and np.float (which NumPy no longer has). Box and mask: two evaluations with lvis-api, one
pass with FastLVISMetric. The annotations are read within the time of both.

The 26 numbers must be equal to 1e-6, else the exit code is 1. Memory is what a process takes beyond
the imports and the annotations that detections are drawn from, at its peak. For
--ours-only-images, lvis-api's time and memory are on the line through the two largest of --images,
and marked "extrapolated".

Examples:
  python benchmarks/lvis_evaluation.py                                 # 10 minutes on 2 cores
  python benchmarks/lvis_evaluation.py --images 100 200 --ours-only-images
  python benchmarks/lvis_evaluation.py --images --ours-only-images 19809
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator

import numpy as np
from common import (
    Measurement,
    at_least,
    human,
    in_fresh_process,
    like_lvis,
    limit_threads,
    make_parser,
    ratio,
    report,
    table,
)

DETECTIONS = 300
TOLERANCE = 1e-6


class Drawer:
    """Detections of an image: a third near its objects, the others anywhere."""

    def __init__(self, ann_file: str) -> None:
        from mmdet_droploss.annotations.ground_truth import GroundTruth

        self.truth = GroundTruth(ann_file)
        self.seconds = 0.0
        self._label_of = {c: label for label, c in enumerate(self.truth.category_ids.tolist())}

    def __iter__(self) -> Iterator[dict]:
        for image_id in self.truth.image_ids:
            begin = time.perf_counter()
            result = self.draw(image_id)
            self.seconds += time.perf_counter() - begin
            yield result

    def draw(self, image_id: int) -> dict:
        """What a detector could say of an image."""
        from pycocotools import mask as mask_utils

        rng = np.random.default_rng([0, image_id])
        image = self.truth.image(image_id)
        size = np.array([image["width"], image["height"]], float)
        corner = rng.uniform(0, 0.8, (DETECTIONS, 2)) * size
        extent = rng.uniform(0.02, 0.5, (DETECTIONS, 2)) * size
        labels = rng.integers(len(self.truth.categories), size=DETECTIONS)
        objects = self.truth.annotations(image_id)
        for index in range(DETECTIONS // 3 if objects else 0):
            target = objects[rng.integers(len(objects))]
            x, y, width, height = np.array(target["bbox"]) * rng.normal(1, 0.05, 4)
            corner[index], extent[index] = (x, y), (width, height)
            labels[index] = self._label_of[target["category_id"]]
        corner = corner.clip(0, size - 4)
        extent = np.minimum(extent.clip(4), size - corner)
        boxes = np.concatenate([corner, corner + extent], 1).astype(np.float32)
        xs, ys = boxes[:, [0, 2, 2, 0]], boxes[:, [1, 1, 3, 3]]
        shrink = extent[:, :1].astype(np.float32) * 0.1  # a trapezium: a mask that is not its box
        xs = xs + np.concatenate([shrink, -shrink, 0 * shrink, 0 * shrink], 1)
        polygons = np.stack([xs, ys], 2).reshape(DETECTIONS, 8).astype(float)
        masks = mask_utils.frPyObjects(polygons.tolist(), image["height"], image["width"])
        return {
            "img_id": image_id,
            "bboxes": boxes,
            "scores": rng.random(DETECTIONS).astype(np.float32),
            "labels": labels,
            "masks": masks,
        }


def evaluate_ours(ann_file: str) -> dict:
    """FastLVISMetric, fed as by a test loop."""
    import torch
    from mmengine.logging import MMLogger

    from mmdet_droploss.evaluation import FastLVISMetric

    MMLogger.get_instance("benchmark", log_level="ERROR")
    drawer = Drawer(ann_file)
    with Measurement() as measurement:
        metric = FastLVISMetric(ann_file)
        for result in drawer:
            prediction = {
                key: result[key] if key == "masks" else torch.from_numpy(result[key])
                for key in ("bboxes", "scores", "labels", "masks")
            }
            metric.process({}, [{"img_id": result["img_id"], "pred_instances": prediction}])
        begin = time.perf_counter()
        numbers = metric.evaluate(len(drawer.truth))
        end = time.perf_counter() - begin
    found = measurement.result()
    found["seconds"] -= drawer.seconds
    return {**found, "at the end": end, "numbers": {k[5:]: v for k, v in numbers.items()}}


def evaluate_peer(ann_file: str) -> dict:
    """lvis-api, with all detections in lists."""
    from lvis import LVIS, LVISEval, LVISResults

    from mmdet_droploss.evaluation.detections import Detections

    np.float = float  # lvis-api 0.5.3 uses it, NumPy no longer has it
    drawer = Drawer(ann_file)
    with Measurement() as measurement, contextlib.redirect_stdout(io.StringIO()):
        results = {"bbox": [], "segm": []}
        for result in drawer:
            sample = {"img_id": result["img_id"], "pred_instances": result}
            found = Detections.from_sample(sample, list(results))
            for iou_type, all_of_type in results.items():
                all_of_type += found.to_lvis_results(iou_type, drawer.truth.category_ids.tolist())
        truth = LVIS(ann_file)
        numbers = {}
        for iou_type, all_of_type in results.items():
            evaluation = LVISEval(truth, LVISResults(truth, all_of_type), iou_type)
            evaluation.run()
            numbers |= {f"{iou_type}_{key}": v for key, v in evaluation.get_results().items()}
    found = measurement.result()
    found["seconds"] -= drawer.seconds
    return {**found, "numbers": {key: float(value) for key, value in numbers.items()}}


def largest_difference(ours: dict[str, float], peer: dict[str, float]) -> float:
    """Of the 26 numbers; infinite if they are not the same ones, NaN if one is NaN."""
    if ours.keys() != peer.keys():
        return float("inf")
    return float(np.max([abs(peer[key] - value) for key, value in ours.items()]))


def extrapolate(measured: dict[int, dict], count: int) -> dict | None:
    """lvis-api's seconds and peak, on the line through the two largest measurements of it."""
    if len(measured) < 2:
        return None
    small, large = sorted(measured)[-2:]
    step = (count - large) / (large - small)
    return {
        key: max(measured[large][key] + step * (measured[large][key] - measured[small][key]), 0)
        for key in ("seconds", "peak")
    }


def measure(ann_file: str, with_peer: bool) -> dict:
    """One number of images."""
    found = {"ours": in_fresh_process(evaluate_ours, ann_file)}
    if with_peer:
        found["peer"] = in_fresh_process(evaluate_peer, ann_file)
        numbers = found["ours"]["numbers"], found["peer"]["numbers"]
        found["difference"] = largest_difference(*numbers)
    return found


def row(count: int, found: dict) -> list[object]:
    """A line of the table."""
    ours = found["ours"]
    cells = [count, f"{ours['seconds']:.1f}", f"{ours['at the end']:.1f}", human(ours["peak"])]
    mark = "" if "peer" in found else " (extrapolated)"
    peer = found.get("peer") or found.get("peer_extrapolated")
    if peer is None:
        return [*cells, *[""] * 5]
    return [
        *cells,
        f"{peer['seconds']:.1f}{mark}",
        human(peer["peak"]) + mark,
        ratio(peer["seconds"], ours["seconds"]) + mark,
        ratio(ours["peak"], peer["peak"], 2) + mark,
        f"{found['difference']:.0e}" if "difference" in found else "",
    ]


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--images",
        type=at_least(1),
        nargs="*",
        default=[250, 500, 1000, 2000],
        metavar="N",
        help="numbers of images for both (%(default)s)",
    )
    parser.add_argument(
        "--ours-only-images",
        type=at_least(1),
        nargs="*",
        default=[5000, 19809],
        metavar="N",
        help="for FastLVISMetric alone; 19809 is LVIS v1's val (%(default)s)",
    )
    args = parser.parse_args()
    if not args.images and not args.ours_only_images:
        parser.error("--images and --ours-only-images are both empty: nothing to measure")
    threads = limit_threads()
    found = {}
    for count in sorted({*args.images, *args.ours_only_images}):
        ann_file = str(like_lvis(args.work_dir, 1000, count) / "lvis_v1_val.json")
        print(f"{count} images", file=sys.stderr)
        found[count] = measure(ann_file, count in args.images)
    peers = {count: one["peer"] for count, one in found.items() if "peer" in one}
    for count, one in found.items():
        if "peer" not in one and (line := extrapolate(peers, count)) is not None:
            one["peer_extrapolated"] = line
    header = [
        *("images", "ours, s", "of it at the end, s", "peak"),
        *("lvis-api, s", "peak", "lvis-api / ours, time", "ours / lvis-api, peak"),
        "largest difference",
    ]
    rows = [row(count, one) for count, one in found.items()]
    text = (
        f"{DETECTIONS} detections an image, 1203 categories, at most {threads} threads\n\n"
        f"{table(header, rows)}"
    )
    report(args, text, {"by_images": found})
    differences = [one["difference"] for one in found.values() if "difference" in one]
    if not all(difference < TOLERANCE for difference in differences):  # so that NaN fails, too
        sys.exit(f"the numbers differ by {np.max(differences)}, allowed is {TOLERANCE}")


if __name__ == "__main__":
    main()
