"""The annotations that runs were tested on, and the detections of the runs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..annotations import ClassFrequency, GroundTruth
from ..evaluation.lvis_evaluator import evaluate_results
from .runs import KEYS, InputError, Run, require


@dataclass(frozen=True)
class Protocol:
    """Which categories a detection is judged for in an image.

    Args:
        shown: Categories that are annotated in an image, on average.
        listed: Categories that an image lists as absent, on average.
        num_classes: All categories, C.
        exhaustive: Whether every image judges all of them.
    """

    shown: float
    listed: float
    num_classes: int
    exhaustive: bool

    @property
    def name(self) -> str:
        """In one word."""
        return "exhaustive" if self.exhaustive else "federated"

    def __str__(self) -> str:
        """What it means, in one sentence."""
        if self.exhaustive:
            return (
                "Exhaustive validation: a detection of a category that an image does not show is "
                "false in every image. LVIS's own validation is federated and judges fewer."
            )
        return (
            f"Federated validation, as LVIS's: an image judges detections of the categories that "
            f"it shows ({self.shown:.1f} on average) and of those that it lists as absent "
            f"({self.listed:.1f} on average), out of {self.num_classes}; others do not count."
        )


class Detections:
    """Detections and evaluations of runs, read once and only when they are needed.

    Args:
        ann_file: The annotations that the runs were tested on.
        frequency: Category frequencies of the training set; they give the categories' groups.
        iou_types: What is compared, ``'bbox'``, ``'segm'`` or both.

    Attributes:
        content: Images, annotations and categories, see :meth:`.GroundTruth.content`.
        names: C category names; the id where the file has no name.
        annotations: What a test writes of the annotation file: its name and its digest.

    Raises:
        ValueError: If the annotations cannot be evaluated; the message names the culprit.
    """

    def __init__(self, ann_file: Path, frequency: ClassFrequency, iou_types: Sequence[str]) -> None:
        require(ann_file, "give the annotations that the runs were tested on (--ann)")
        self.ann_file = ann_file
        self._truth = GroundTruth(str(ann_file), frequency, iou_types)
        self.content = self._truth.content()
        self.annotations = {"file": str(ann_file), "sha256": self._truth.sha256}
        self.names = [
            str(category["id"]) if name is None else name
            for name, category in zip(self._truth.names, self._truth.categories, strict=True)
        ]
        # With many runs of LVIS's size all of them would not fit into memory.
        self.read = functools.lru_cache(maxsize=1)(self._read)
        self.evaluation = functools.lru_cache(maxsize=2)(self._evaluation)

    def check_runs(self, runs: Iterable[Run]) -> None:
        """Refuse runs of another data set, which would give a plot of nonsense."""
        for run in runs:
            found = [row.get("name") for row in run.categories]
            has_names = None not in found and None not in self._truth.names
            if len(found) != len(self.names) or (has_names and found != self.names):
                raise InputError(
                    f"{run.metrics_file} is about other categories than --ann {self.ann_file}"
                )

    def check_metrics(self, run: Run, iou_type: str) -> None:
        """Refuse a run whose metrics are not those of its detections on these annotations.

        Args:
            run: One that passes :meth:`check_runs`.
            iou_type: ``'segm'`` or ``'bbox'``.

        Raises:
            InputError: If a metric differs by more than 1e-6.
        """
        evaluation = self.evaluation(run.results_file(iou_type), iou_type)
        evaluation.summary_lines()  # this computes what get_results() returns
        numbers = evaluation.get_results()
        for key in KEYS:
            expected = run.metrics.get(f"{iou_type}_{key}", -1.0)
            if abs(numbers[key] - expected) > 1e-6:
                raise InputError(
                    f"{run.metrics_file} says {iou_type} {key} {expected:.4f}, but with --ann "
                    f"{self.ann_file} it is {numbers[key]:.4f}: the run was tested on other "
                    f"annotations, --train-ann makes other groups of the categories, or "
                    f"{run.results_file(iou_type)} is no longer that of the test; give those, or "
                    f"test it again"
                )

    def protocol(self) -> Protocol:
        """How the annotations judge a detection, from what their images list."""
        known = set(self._truth.label_of)
        shown: dict[int, set] = {image["id"]: set() for image in self.content["images"]}
        for annotation in self.content["annotations"]:
            shown[annotation["image_id"]].add(annotation["category_id"])
        listed = {
            image["id"]: known.intersection(image["neg_category_ids"]) - shown[image["id"]]
            for image in self.content["images"]
        }
        number = len(shown)
        return Protocol(
            sum(map(len, shown.values())) / number,
            sum(map(len, listed.values())) / number,
            len(self.names),
            all(len(shown[i]) + len(listed[i]) == len(self.names) for i in shown),
        )

    def of_images(self, run: Run, iou_type: str, image_ids: set[int]) -> list[dict]:
        """The detections in some images."""
        found = self.read(run.results_file(iou_type), iou_type)
        return [detection for detection in found if detection["image_id"] in image_ids]

    def _read(self, file: Path, iou_type: str) -> list[dict]:
        try:
            found = orjson.loads(file.read_bytes())
        except orjson.JSONDecodeError as error:
            raise InputError(
                f"{file} is not valid JSON, perhaps cut short: {error}; test the run again"
            ) from None
        if not isinstance(found, list):
            raise InputError(
                f"{file} must hold a list of detections, but it holds a {type(found).__name__}; "
                f"test the run again"
            )
        shape = "bbox" if iou_type == "bbox" else "segmentation"
        for index, detection in enumerate(found):
            trouble = self._trouble_with(detection, shape)
            if trouble:
                raise InputError(f"{file}: detection {index} {trouble}")
        return found

    def _trouble_with(self, detection: Any, shape: str) -> str | None:
        """What keeps a detection from being compared, and the remedy."""
        if not isinstance(detection, dict):
            return f"must be an object, but it is {str(detection)[:40]!r}; test the run again"
        for key in ("image_id", "category_id", "score", shape):
            if key not in detection:
                return f"has no {key}; test the run again"
        remedy = f"that --ann {self.ann_file} does not have; give the annotations of the test"
        image_id, category_id = detection["image_id"], detection["category_id"]
        if not isinstance(image_id, int) or image_id not in self._truth:
            return f"is in image id {image_id!r}, {remedy}"
        if not isinstance(category_id, int) or category_id not in self._truth.label_of:
            return f"is of category id {category_id!r}, {remedy}"
        if not isinstance(detection["score"], (int, float)):
            return f"has {detection['score']!r} as score; test the run again"
        if shape == "bbox":
            is_box = isinstance(detection["bbox"], list) and len(detection["bbox"]) == 4
            return None if is_box else "has no box of four numbers; test the run again"
        mask = detection["segmentation"]
        if not isinstance(mask, dict) or not {"size", "counts"} <= mask.keys():
            return "has no run-length encoding as segmentation; test the run again"
        size = self._truth.size(image_id)
        if tuple(mask["size"]) != size:
            return (
                f"has a mask of height and width {mask['size']}, but --ann {self.ann_file} says "
                f"{list(size)} of image id {image_id}; test the run again"
            )
        return None

    def _evaluation(self, file: Path, iou_type: str) -> Any:
        return evaluate_results(self._truth, self.read(file, iou_type), iou_type)
