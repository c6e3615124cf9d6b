"""Plain random shapes, in numbers as LVIS has them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import random_texture, write_jpeg
from .options import rng_for


@dataclass
class Polygons:
    """Star-like polygons, one an object, their vertices one after the other."""

    points: np.ndarray  # (vertices, 2)
    start: np.ndarray
    stop: np.ndarray
    area: np.ndarray
    box: np.ndarray

    def vertices(self, index: int) -> np.ndarray:
        """(vertices, 2) of one polygon."""
        return self.points[self.start[index] : self.stop[index]]

    def flat(self, index: int) -> np.ndarray:
        """The same as LVIS has it: x, y, x, y, ..."""
        return self.vertices(index).reshape(-1)


def star_polygons(sizes: np.ndarray, rng: np.random.Generator) -> Polygons:
    """One polygon for each (width, height) of ``sizes``, wholly inside it."""
    num = len(sizes)
    vertices = np.clip(rng.lognormal(3.6, 0.6, num), 8, 160).astype(int)
    stop = np.cumsum(vertices)
    start = stop - vertices
    owner = np.repeat(np.arange(num), vertices)
    step = np.arange(stop[-1]) - start[owner]
    angle = 2 * np.pi * (step + rng.uniform(0, 0.8, len(owner))) / vertices[owner]
    phase = rng.uniform(0, 2 * np.pi, (num, 2))[owner]
    radius = (
        0.78
        + 0.12 * np.sin(2 * angle + phase[:, 0])
        + 0.06 * np.sin(5 * angle + phase[:, 1])
        + rng.uniform(-0.04, 0.04, len(owner))
    )
    extent = np.exp(rng.uniform(np.log(0.012), np.log(0.45), (num, 1)))
    half = np.maximum(sizes * extent * np.exp(rng.normal(0, 0.25, (num, 2))), 4)
    half = np.minimum(half, sizes * 0.48)
    centre = half + rng.random((num, 2)) * (sizes - 2 * half)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
    points = (centre[owner] + half[owner] * circle).round(2)
    low, high = np.minimum.reduceat(points, start), np.maximum.reduceat(points, start)
    after = np.arange(1, len(owner) + 1)
    after[stop - 1] = start
    cross = points[:, 0] * points[after, 1] - points[after, 0] * points[:, 1]
    area = (np.abs(np.add.reduceat(cross, start)) / 2).round(2)
    return Polygons(points, start, stop, area, np.hstack([low, high - low]).round(2))


@dataclass(frozen=True)
class ShapesTask:
    """One --like-lvis image for a worker."""

    path: str
    width: int
    height: int
    polygons: tuple[np.ndarray, ...]
    seed: int
    split: int
    index: int


def render_shapes(task: ShapesTask) -> None:
    """Draw and write one image of plain coloured shapes."""
    rng = rng_for(task.seed, 7, task.split, task.index)
    canvas = random_texture(task.height, task.width, rng)
    for points in task.polygons:
        colour = rng.uniform(0, 255, 3).tolist()
        cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], colour, cv2.LINE_AA)
    write_jpeg(task.path, canvas)
