"""Images of characters, and the outlines of what remains visible of each."""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as mask_utils

from .canvas import random_texture, write_jpeg
from .options import UserError, rng_for

# Upright and bold, with serifs, without, and of one width: enough variety that no category is a
# template, little enough that a small network learns them in minutes.
FONTS = ("DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSerif-Bold")
GLYPH_PIXELS = 160  # height at which a font draws its master glyph
GLYPH_MIN, GLYPH_MAX = 0.18, 0.42  # glyph extent as a share of the image side
MAX_ROTATION = 15.0  # degrees
MIN_VISIBLE = 0.97  # least share of an object that later objects may leave visible


def character_name(character: str) -> str:
    """A plain name such as ``capital_a``, ``digit_two`` or ``greek_small_delta``."""
    name = unicodedata.name(character).lower().replace("latin ", "").replace(" letter", "")
    return name.replace(" ", "_").replace("-", "_")


@functools.cache
def font_directory() -> Path:
    """The folder of matplotlib's fonts."""
    import matplotlib  # for its fonts alone, and slow to import

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@functools.cache
def fonts_of(character: str) -> tuple[str, ...]:
    """The fonts that have the character."""
    from matplotlib import ft2font

    found = tuple(
        name
        for name in FONTS
        if ft2font.FT2Font(str(font_directory() / f"{name}.ttf")).get_char_index(ord(character))
    )
    if not found:
        raise UserError(f"no font of matplotlib has the character {character!r}")
    return found


@functools.lru_cache(maxsize=4096)
def master_glyph(character: str, font_name: str) -> np.ndarray:
    """The character in grey levels, large, cropped to its ink."""
    font = ImageFont.truetype(str(font_directory() / f"{font_name}.ttf"), GLYPH_PIXELS)
    canvas = Image.new("L", (4 * GLYPH_PIXELS, 4 * GLYPH_PIXELS))
    # Hairlines of a small glyph would fall between the pixels: thicken thin fonts a little.
    stroke = 2 if "Bold" in font_name else 4
    ImageDraw.Draw(canvas).text(
        (GLYPH_PIXELS, GLYPH_PIXELS), character, fill=255, font=font, stroke_width=stroke
    )
    return np.asarray(canvas.crop(canvas.getbbox()))


def turned_glyph(character: str, extent: float, rng: np.random.Generator) -> np.ndarray:
    """The character in a random font at about ``extent`` pixels, turned, stretched a little."""
    fonts = fonts_of(character)
    glyph = master_glyph(character, fonts[int(rng.integers(len(fonts)))])
    height, width = glyph.shape
    # Between the longer side and the geometric mean, so that flat glyphs do not come out tiny.
    scale = extent / (0.5 * max(height, width) + 0.5 * math.sqrt(height * width))
    stretch = math.exp(rng.uniform(-0.12, 0.12))
    size = (max(3, round(width * scale * stretch)), max(3, round(height * scale / stretch)))
    small = cv2.resize(glyph, size, interpolation=cv2.INTER_AREA)
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    side = math.ceil(math.hypot(*size)) + 2
    turn = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), angle, 1.0)
    turn[:, 2] += (side / 2 - size[0] / 2, side / 2 - size[1] / 2)
    alpha = cv2.warpAffine(small, turn, (side, side), flags=cv2.INTER_LINEAR)
    x, y, w, h = cv2.boundingRect((alpha >= 16).astype(np.uint8))
    return alpha[y : y + h, x : x + w]


def outer_contours(mask: np.ndarray, mode: int = cv2.RETR_EXTERNAL) -> list[np.ndarray]:
    """The contours of a mask; by default the outer ones only."""
    return list(cv2.findContours(mask, mode, cv2.CHAIN_APPROX_SIMPLE)[-2])


def filled(mask: np.ndarray) -> np.ndarray:
    """The mask without holes, for polygons of LVIS cannot have any; specks dropped."""
    region = np.zeros_like(mask)
    parts = [c for c in outer_contours(mask) if cv2.contourArea(c) >= 2]
    return cv2.drawContours(region, parts, -1, 1, cv2.FILLED)


def has_hole(mask: np.ndarray) -> bool:
    """Whether a mask has a hole."""
    return len(outer_contours(mask, cv2.RETR_CCOMP)) != len(outer_contours(mask))


def polygons_of(mask: np.ndarray) -> list[list[float]]:
    """The outlines of a mask, flat x, y lists as LVIS has them.

    The contours of the doubled mask run a quarter of a pixel inside the pixels' outer edges;
    those of the mask itself would run through the pixels' centres and lose half a pixel.
    """
    doubled = np.repeat(np.repeat(mask, 2, 0), 2, 1)
    polygons = []
    for contour in outer_contours(doubled):
        points = cv2.approxPolyDP(contour, 0.7, True)[:, 0, :]
        if len(points) >= 3 and cv2.contourArea(contour) >= 8:
            polygons.append(((points + 0.5) / 2).round(2).ravel().tolist())
    return polygons


def polygon_area(polygons: list[list[float]], height: int, width: int) -> float:
    """Pixels of the rasterised polygons, as pycocotools counts."""
    return float(mask_utils.area(mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))))


def polygon_box(polygons: list[list[float]]) -> list[float]:
    """The bounding box x, y, width, height."""
    points = np.concatenate([np.asarray(p).reshape(-1, 2) for p in polygons])
    low, high = points.min(0), points.max(0)
    return [round(float(v), 2) for v in (*low, *(high - low))]


def contrasting_colour(ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Any colour that can be told from the ground; it knows nothing of the category."""
    grey = np.array([0.114, 0.587, 0.299])
    while True:
        colour = rng.uniform(0, 255, 3)
        if abs(float((colour - ground) @ grey)) >= 55 and np.abs(colour - ground).sum() >= 150:
            return colour


@dataclass
class Placed:
    """A drawn object: its alpha patch, where, and the region still visible."""

    order: int
    alpha: np.ndarray
    top: int
    left: int
    region: np.ndarray
    visible: np.ndarray


def try_place(
    order: int, alpha: np.ndarray, placed: list[Placed], size: int, rng: np.random.Generator
) -> bool:
    """Put a glyph somewhere it hides little of those before it; False if that fails."""
    height, width = alpha.shape
    if height >= size or width >= size:
        return False
    patch = filled((alpha >= 110).astype(np.uint8))
    if patch.sum() < 0.0012 * size * size:
        return False
    for _ in range(12):
        top, left = int(rng.integers(size - height)), int(rng.integers(size - width))
        region = np.zeros((size, size), np.uint8)
        region[top : top + height, left : left + width] = patch
        left_over = [p.visible & ~region & 1 for p in placed]
        if all(
            new is None or remains_visible(p, new) for p, new in zip(placed, left_over, strict=True)
        ):
            for before, now in zip(placed, left_over, strict=True):
                before.visible = now
            placed.append(Placed(order, alpha, top, left, region, region.copy()))
            return True
    return False


def remains_visible(before: Placed, now: np.ndarray) -> bool:
    """Whether enough of a glyph is left to be annotated, and in no ring."""
    if np.array_equal(before.visible, now):
        return True
    return now.sum() >= MIN_VISIBLE * before.region.sum() and not has_hole(now)


def place_all(characters: Sequence[str], size: int, rng: np.random.Generator) -> list[Placed]:
    """Place all glyphs; start again with smaller ones when they do not fit."""
    largest = GLYPH_MAX
    for _ in range(60):
        placed: list[Placed] = []
        for order in rng.permutation(len(characters)).tolist():
            for _ in range(4):
                extent = size * math.exp(rng.uniform(math.log(GLYPH_MIN), math.log(largest)))
                if try_place(
                    order, turned_glyph(characters[order], extent, rng), placed, size, rng
                ):
                    break
            else:
                break
        if len(placed) == len(characters):
            return placed
        largest = max(1.2 * GLYPH_MIN, 0.93 * largest)
    raise UserError(
        f"{len(characters)} objects do not fit on an image of --size {size}: give "
        f"fewer --objects-per-image"
    )


def blend(canvas: np.ndarray, item: Placed, rng: np.random.Generator) -> None:
    """Draw one glyph, its colour uneven a little."""
    height, width = item.alpha.shape
    window = canvas[item.top : item.top + height, item.left : item.left + width]
    colour = contrasting_colour(window.mean((0, 1)), rng)
    paint = colour + rng.normal(0, 6, (height, width, 1))
    alpha = item.alpha[..., None] / 255.0
    window[:] = np.clip(window * (1 - alpha) + paint * alpha, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class RenderTask:
    """One image for a worker."""

    path: str
    characters: tuple[str, ...]
    size: int
    seed: int
    split: int
    index: int


Outline = tuple[list[list[float]], float, list[float]]  # polygons, area, bbox


def render_glyphs(task: RenderTask) -> list[Outline]:
    """Draw and write one image; the outlines of its objects, in the order of the task."""
    rng = rng_for(task.seed, 4, task.split, task.index)
    canvas = random_texture(task.size, task.size, rng)
    placed = place_all(task.characters, task.size, rng)
    for item in placed:
        blend(canvas, item, rng)
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.6))
    write_jpeg(task.path, canvas)
    outlines: list[Outline] = []
    for item in sorted(placed, key=lambda p: p.order):
        polygons = polygons_of(item.visible)
        area = polygon_area(polygons, task.size, task.size)
        outlines.append((polygons, area, polygon_box(polygons)))
    return outlines
