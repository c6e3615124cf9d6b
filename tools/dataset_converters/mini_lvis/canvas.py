"""The ground that objects are drawn on, and the file that it is written to."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

JPEG_QUALITY = 92


def random_texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A ground of noise at several scales, gradient, stripes, blobs and distractor strokes."""
    image = np.empty((height, width, 3), np.float32)
    image[:] = rng.uniform(50, 205, 3)
    for cell, strength in ((3, 7), (12, 14), (40, 22)):
        shape = (height // cell + 2, width // cell + 2, 3)
        noise = rng.normal(0, strength, shape).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.04, 0.3) * max(height, width)
    along = (math.cos(angle) * xs + math.sin(angle) * ys)[..., None]
    image += rng.normal(0, 30, 3).astype(np.float32) * (along / max(height, width) - 0.5)
    wave = np.sin(along * np.float32(2 * math.pi / period))
    image += rng.normal(0, 12, 3).astype(np.float32) * wave
    canvas = np.clip(image, 0, 255).astype(np.uint8)
    draw_distractors(canvas, rng)
    return canvas


def draw_distractors(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Blobs and strokes that are no object, in colours near the ground's."""
    height, width = canvas.shape[:2]
    side = min(height, width)
    ground = canvas.mean((0, 1))
    for _ in range(int(rng.integers(2, 6))):
        colour = np.clip(ground + rng.normal(0, 30, 3), 0, 255).tolist()
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = tuple(int(v) for v in rng.uniform(0.03, 0.16, 2) * side)
        cv2.ellipse(canvas, centre, axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
    for _ in range(int(rng.integers(1, 5))):
        colour = np.clip(ground + rng.normal(0, 50, 3), 0, 255).tolist()
        start = rng.uniform(0, 1, 2) * (width, height)
        steps = rng.normal(0, 0.12 * side, (int(rng.integers(2, 4)), 2)).cumsum(0)
        points = np.vstack([start, start + steps]).astype(np.int32)
        thickness = max(1, round(side * rng.uniform(0.006, 0.018)))
        cv2.polylines(canvas, [points], False, colour, thickness, cv2.LINE_AA)


def write_jpeg(path: str, image: np.ndarray) -> None:
    """Encode an image, and write it in one go."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise RuntimeError(f"cannot encode {path}")
    Path(path).write_bytes(data.tobytes())
