"""Validation images with their ground truth and the predictions of each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pycocotools import mask as mask_utils

from ..annotations import ClassFrequency
from .detections import Detections
from .figures import GROUP_COLOURS
from .runs import InputError, Method
from .training_config import picture_root

#: A prediction is drawn as right if a ground truth of its category overlaps it this much.
MATCH_IOU = 0.5
#: More predictions in one picture cannot be read.
MAX_SHOWN = 12


@dataclass(frozen=True)
class Shape:
    """One object to draw."""

    label: int
    rle: dict
    text: str
    right: bool = True


class Gallery:
    """Val images with their ground truth and every method's predictions, side by side.

    Args:
        detections: The annotations and the detections of the runs.
        frequency: Category frequencies of the training set.
        roots: Folders that the images' paths may start from; the first that has an image counts.
    """

    def __init__(self, detections: Detections, frequency: ClassFrequency, *roots: Path) -> None:
        self.detections = detections
        self.roots = roots
        content = detections.content
        self.label_of = {c["id"]: k for k, c in enumerate(content["categories"])}
        self.names = detections.names
        self.groups = frequency.groups
        self.annotations: dict[int, list[dict]] = {}
        for annotation in content["annotations"]:
            self.annotations.setdefault(annotation["image_id"], []).append(annotation)

    def choose(self, count: int) -> list[dict]:
        """The images with the most rare, then common categories in the ground truth."""

        def order(image: dict) -> tuple[int, int, int]:
            labels = {
                self.label_of[a["category_id"]] for a in self.annotations.get(image["id"], [])
            }
            groups = [int(self.groups[label]) for label in labels]
            return -groups.count(0), -groups.count(1), image["id"]

        return sorted(self.detections.content["images"], key=order)[:count]

    def pixels(self, image: dict) -> np.ndarray:
        """The picture as the data pipeline loads it, RGB.

        It is turned by its EXIF orientation, unless only as it is stored it has the annotated size.
        """
        file = find_image(image, *self.roots)
        # The second is mmcv's color_type='color_ignore_orientation'.
        flags = cv2.IMREAD_COLOR, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        found = [p for flag in flags if (p := cv2.imread(str(file), flag)) is not None]
        if not found:
            raise InputError(
                f"{file} is no picture that can be read. Replace it, or leave the pictures out "
                f"with --images 0"
            )
        for pixels in found:
            if pixels.shape[:2] == (image["height"], image["width"]):
                return pixels[..., ::-1]
        raise InputError(
            f"{file} has height and width {list(found[0].shape[:2])}, but --ann "
            f"{self.detections.ann_file} says {[image['height'], image['width']]}. Give the "
            f"folder of the right pictures with --img-root, or leave them out with --images 0"
        )

    def truth(self, image: dict) -> list[Shape]:
        """The annotated objects of an image."""
        height, width = image["height"], image["width"]
        shapes = []
        for annotation in self.annotations.get(image["id"], []):
            label = self.label_of[annotation["category_id"]]
            try:
                rle = as_rle(annotation["segmentation"], height, width)
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"--ann {self.detections.ann_file}: the segmentation of annotation id "
                    f"{annotation['id']} of image id {image['id']} cannot be drawn: {error}. "
                    f"Correct it, or leave the pictures out with --images 0"
                ) from None
            shapes.append(Shape(label, rle, self.names[label]))
        return shapes

    def predictions(self, found: list[dict], truth: list[Shape], threshold: float) -> list[Shape]:
        """The best predictions of one image, marked as right or wrong."""
        found = sorted((d for d in found if d["score"] >= threshold), key=lambda d: -d["score"])
        free = list(truth)
        shapes = []
        for detection in found[:MAX_SHOWN]:
            label, rle = self.label_of[detection["category_id"]], detection["segmentation"]
            match = best_match(label, rle, free)
            if match is not None:
                free.remove(match)
            text = f"{self.names[label]} {detection['score']:.2f}"
            shapes.append(Shape(label, rle, text, right=match is not None))
        return shapes

    def draw(self, methods: Sequence[Method], count: int, threshold: float) -> Figure:
        """One row an image: ground truth, then one picture a method (its first seed)."""
        images = self.choose(count)
        ids = {image["id"] for image in images}
        found: list[dict[int, list[dict]]] = []
        for method in methods:
            by_image: dict[int, list[dict]] = {}
            for detection in self.detections.of_images(method.runs[0], "segm", ids):
                by_image.setdefault(detection["image_id"], []).append(detection)
            found.append(by_image)
        columns = len(methods) + 1
        figure = Figure(figsize=(3.6 * columns, 3.7 * len(images)), layout="constrained")
        panels = figure.subplots(len(images), columns, squeeze=False)
        for row, image in zip(panels, images, strict=True):
            pixels = self.pixels(image)
            truth = self.truth(image)
            self.draw_panel(row[0], pixels, truth, f"image {image['id']}: ground truth")
            for axes, method, by_image in zip(row[1:], methods, found, strict=True):
                shapes = self.predictions(by_image.get(image["id"], []), truth, threshold)
                right = sum(shape.right for shape in shapes)
                outcome = f"{right} of {len(shapes)} right" if shapes else "nothing found"
                title = f"{method.name}: {outcome}"
                self.draw_panel(axes, pixels, shapes, title)
        return figure

    def draw_panel(self, axes: Axes, pixels: np.ndarray, shapes: list[Shape], title: str) -> None:
        """One picture with outlines in the colours of the frequency groups."""
        axes.imshow(pixels)
        axes.set_axis_off()
        axes.set_title(title, fontsize=9, parse_math=False)  # a name may have a $
        height, width = pixels.shape[:2]
        for shape in shapes:
            colour = GROUP_COLOURS[self.groups[shape.label]]
            mask = mask_utils.decode(shape.rle)
            if not mask.any():
                continue
            # With a margin, so that the outline closes where the object touches the border.
            field = np.arange(-1, width + 1), np.arange(-1, height + 1), np.pad(mask, 1)
            style = "solid" if shape.right else "dashed"
            axes.contour(*field, levels=[0.5], colors="white", linewidths=2.8)
            axes.contour(*field, levels=[0.5], colors=[colour], linewidths=1.6, linestyles=style)
            rows, cols = np.nonzero(mask)
            axes.text(
                np.clip(cols.mean(), 0.02 * width, 0.98 * width),
                max(rows.min(), 0.05 * height),
                shape.text,
                fontsize=6,
                color="white",
                ha="center",
                va="bottom",
                clip_on=True,
                parse_math=False,
                bbox=dict(facecolor=colour, alpha=0.85, linewidth=0, pad=0.8),
            )
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def best_match(label: int, rle: dict, truth: list[Shape]) -> Shape | None:
    """The ground truth of a category that a prediction hits, if there is one."""
    candidates = [shape for shape in truth if shape.label == label]
    if not candidates:
        return None
    overlaps = mask_utils.iou([rle], [shape.rle for shape in candidates], [0] * len(candidates))[0]
    best = int(np.argmax(overlaps))
    return candidates[best] if overlaps[best] >= MATCH_IOU else None


def as_rle(segmentation: Any, height: int, width: int) -> dict:
    """Any of COCO's forms of a mask as compressed run lengths."""
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        return mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_utils.frPyObjects(segmentation, height, width)
    return segmentation


def picture_roots(methods: Sequence[Method], ann_file: Path) -> list[Path]:
    """Where pictures lie: where the runs' tests took them from, else above the annotations."""
    configs = [run.config for method in methods for run in method.runs if run.config is not None]
    roots = [root for config in configs if (root := picture_root(config)) is not None]
    return [*dict.fromkeys(roots), ann_file.resolve().parent.parent]


def find_image(image: dict, *roots: Path) -> Path:
    """The file of an image, by LVIS v1's rule (coco_url), v0.5's or COCO's (file_name)."""
    names = []
    if isinstance(image.get("coco_url"), str):
        names.append(image["coco_url"].replace("http://images.cocodataset.org/", ""))
    if isinstance(image.get("file_name"), str):
        # LVIS v0.5 writes COCO_val2014_000000397133.jpg for 000000397133.jpg.
        file_name = image["file_name"]
        bare = file_name[-16:] if file_name.startswith("COCO") else file_name
        names += [bare, f"val2017/{bare}", f"train2017/{bare}"]
    files = [root / name for root in roots for name in names]
    for file in files:
        if file.is_file():
            return file
    raise InputError(
        f"image {files[0] if files else image['id']} does not exist; give the folder that the "
        f"images' paths start from with --img-root, or leave the pictures out with --images 0"
    )
