"""Entries of an annotation file in LVIS v1's format, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from .options import GENERATOR_VERSION

INFO = {
    "description": "mini LVIS: synthetic data in LVIS v1 format (make_mini_lvis.py)",
    "url": "",
    "version": str(GENERATOR_VERSION),
    "year": 2026,
    "contributor": "make_mini_lvis.py",
    "date_created": "2026-01-01",
}
LICENSES = [{"id": 1, "name": "No known copyright restrictions", "url": ""}]


def category_records(
    names: Sequence[str],
    definitions: Sequence[str],
    letters: Sequence[str],
    image_count: np.ndarray,
    instance_count: np.ndarray,
) -> list[dict[str, Any]]:
    """The entries of ``categories``; ids count from 1."""
    return [
        {
            "id": index + 1,
            "name": name,
            "synset": f"{name}.n.01",
            "synonyms": [name],
            "def": definitions[index],
            "frequency": letters[index],
            "image_count": int(image_count[index]),
            "instance_count": int(instance_count[index]),
        }
        for index, name in enumerate(names)
    ]


def image_path(split: str, index: int) -> str:
    """Relative to the data set; ids count from 1."""
    return f"{split}2017/{index + 1:012d}.jpg"


def image_record(
    split: str,
    index: int,
    width: int,
    height: int,
    negatives: Iterable[int],
    not_exhaustive: Iterable[int],
) -> dict[str, Any]:
    """An entry of ``images``; categories count from 0 here, and from 1 in the file."""
    return {
        "id": index + 1,
        "width": width,
        "height": height,
        "coco_url": f"http://images.cocodataset.org/{image_path(split, index)}",
        "flickr_url": "",
        "license": 1,
        "date_captured": "2026-01-01 00:00:00",
        "neg_category_ids": [c + 1 for c in negatives],
        "not_exhaustive_category_ids": [c + 1 for c in not_exhaustive],
    }


def annotation_record(
    number: int, image: int, category: int, area: float, box: list[float], polygons: list[Any]
) -> dict[str, Any]:
    """An entry of ``annotations``; ``image`` and ``category`` count from 0."""
    return {
        "id": number,
        "image_id": image + 1,
        "category_id": category + 1,
        "area": area,
        "bbox": box,
        "segmentation": polygons,
    }


def write_annotation_file(
    path: Path,
    images: Iterable[list[dict]],
    annotations: Iterable[list[dict]],
    categories: list[dict],
) -> None:
    """Write the lists in the pieces that they come in, so that no file is held in memory."""
    with path.open("wb") as file:
        file.write(b'{"info":' + orjson.dumps(INFO) + b',"licenses":' + orjson.dumps(LICENSES))
        for name, chunks in (("images", images), ("annotations", annotations)):
            file.write(b',"' + name.encode() + b'":[')
            separator = b""
            for chunk in chunks:
                if chunk:
                    text = orjson.dumps(chunk, option=orjson.OPT_SERIALIZE_NUMPY)
                    file.write(separator)
                    file.write(memoryview(text)[1:-1])
                    separator = b","
            file.write(b"]")
        file.write(b',"categories":' + orjson.dumps(categories) + b"}")
