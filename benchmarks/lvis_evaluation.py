"""LVIS evaluation, box and mask: FastLVISMetric against lvis-api, with 300 detections an image.

  python benchmarks/lvis_evaluation.py                                 # some minutes
  python benchmarks/lvis_evaluation.py --images 100 200 --ours-only-images

Every measurement is in a process of its own. The detections are drawn by a seed when they are
needed, an image at a time, and the time of drawing is measured apart and taken off. lvis-api has to
have all of them in lists, as mmdet's LVISMetric gathers them; FastLVISMetric gets them image by
image. Box and mask: two evaluations with lvis-api, one pass with FastLVISMetric. The 26 numbers
must be equal to 1e-6, else the exit code is 1. Memory is what a process takes beyond the imports.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator

import numpy as np
from common import Measurement, human, in_fresh_process, like_lvis, make_parser, report, table

DETECTIONS = 300


class Drawer:
    """Detections of an image: a third near its objects, the others anywhere."""

    def __init__(self, ann_file: str) -> None:
        from mmdet_droploss.evaluation.ground_truth import GroundTruth

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

    from mmdet_droploss.evaluation.results_file import to_lvis_results

    np.float = float  # lvis-api 0.5.3 uses it, NumPy no longer has it
    drawer = Drawer(ann_file)
    with Measurement() as measurement, contextlib.redirect_stdout(io.StringIO()):
        results = {"bbox": [], "segm": []}
        for result in drawer:
            for iou_type, all_of_type in results.items():
                all_of_type += to_lvis_results(result, iou_type, drawer.truth.category_ids)
        truth = LVIS(ann_file)
        numbers = {}
        for iou_type, all_of_type in results.items():
            evaluation = LVISEval(truth, LVISResults(truth, all_of_type), iou_type)
            evaluation.run()
            numbers |= {f"{iou_type}_{key}": v for key, v in evaluation.get_results().items()}
    found = measurement.result()
    found["seconds"] -= drawer.seconds
    return {**found, "numbers": {key: float(value) for key, value in numbers.items()}}


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--images",
        type=int,
        nargs="*",
        default=[250, 500, 1000, 2000],
        help="for both (%(default)s)",
    )
    parser.add_argument(
        "--ours-only-images",
        type=int,
        nargs="*",
        default=[5000, 19809],
        help="for FastLVISMetric alone; 19809 is LVIS v1's val (%(default)s)",
    )
    args = parser.parse_args()
    rows, numbers, worst = [], {}, 0.0
    for count in sorted({*args.images, *args.ours_only_images}):
        ann_file = str(like_lvis(args.work_dir, 1000, count) / "lvis_v1_val.json")
        print(f"{count} images", file=sys.stderr)
        ours = in_fresh_process(evaluate_ours, ann_file)
        row = [count, f"{ours['seconds']:.1f}", f"{ours['at the end']:.1f}", human(ours["peak"])]
        numbers[count] = {"ours": ours}
        if count in args.images:
            peer = in_fresh_process(evaluate_peer, ann_file)
            assert peer["numbers"].keys() == ours["numbers"].keys()
            difference = max(abs(peer["numbers"][k] - v) for k, v in ours["numbers"].items())
            worst = max(worst, difference)
            numbers[count] |= {"peer": peer, "difference": difference}
            row += [
                f"{peer['seconds']:.1f}",
                human(peer["peak"]),
                f"{peer['seconds'] / ours['seconds']:.1f}",
                f"{ours['peak'] / peer['peak']:.2f}",
                f"{difference:.0e}",
            ]
        else:
            row += ["", "", "", "", ""]
        rows.append(row)
    header = [
        *("images", "ours, s", "of it at the end, s", "peak"),
        *("lvis-api, s", "peak", "lvis-api / ours, time", "ours / lvis-api, peak"),
        "largest difference",
    ]
    text = f"{DETECTIONS} detections an image, 1203 categories\n\n{table(header, rows)}"
    report(args, text, {"by_images": numbers})
    if worst > 1e-6:
        sys.exit(f"the numbers differ by {worst}")


if __name__ == "__main__":
    main()
