"""Compares each picture with the size that the annotation file gives, when it is loaded."""

from __future__ import annotations

from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose

from ..annotations.pictures import describe_size


class CheckPictureSize:
    """A step of a pipeline, behind the one that loads the picture.

    Args:
        ann_file: What the message names.
    """

    def __init__(self, ann_file: str) -> None:
        self.ann_file = ann_file

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Compare.

        Raises:
            ValueError: If the sizes differ: boxes and masks would not lie where the objects are.
        """
        found = results["img"].shape[1::-1]
        text = describe_size(found, (results["width"], results["height"]))
        if text is not None:
            raise ValueError(
                f"ann_file={self.ann_file!r}: image id {results['img_id']}, "
                f"{results['img_path']}: {text}. So boxes and masks may not lie where the objects "
                f"are. class_frequency.py {self.ann_file} --check-images DIR finds all such "
                f"pictures; check_picture_size=False of the data set turns this check off"
            )
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(ann_file={self.ann_file!r})"


def insert_size_check(pipeline: Compose, ann_file: str) -> bool:
    """Put the check behind the step that loads the picture; False if no step does so this way."""
    for place, step in enumerate(pipeline.transforms):
        if isinstance(step, LoadImageFromFile):
            pipeline.transforms.insert(place + 1, CheckPictureSize(ann_file))
            return True
    return not pipeline.transforms
