"""Where the picture of an image lies, and whether it is what the annotation file says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

#: EXIF's tag of the orientation, and its values that turn a picture by a quarter.
_ORIENTATION, _QUARTER_TURNS = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True)
class PictureRule:
    """How a data set names its pictures.

    Args:
        key: The key of an image's entry that names the picture.
        path: The picture's path under the folder of pictures, from that key's value.
    """

    key: str
    path: Callable[[str], str]


def _of_2014(name: str) -> str:
    return name[-16:] if name.startswith("COCO") else name


#: COCO format: the name as it is.
PLAIN = PictureRule("file_name", lambda name: name)

#: LVIS v0.5 names images as COCO 2014 did, COCO_train2014_000000000009.jpg.
LVIS_V05 = PictureRule("file_name", _of_2014)

#: LVIS v1: the images of a set lie in train2017 and in val2017; only the URL says where.
LVIS_V1 = PictureRule("coco_url", lambda url: url.replace("http://images.cocodataset.org/", ""))

#: All of them.
RULES = (PLAIN, LVIS_V05, LVIS_V1)


@dataclass(frozen=True)
class PictureProblem:
    """A picture that is not what the annotation file says: where, and what is wrong."""

    image_id: int
    path: str
    text: str


def check_pictures(
    images: Sequence[dict[str, Any]],
    folder: str | os.PathLike,
    rules: Sequence[PictureRule] = RULES,
) -> Iterator[PictureProblem | None]:
    """Look at the size of each picture as OpenCV loads it, that is, turned as EXIF says.

    Only the pictures' headers are read.

    Args:
        images: The entries of ``images``, with ``width`` and ``height``.
        folder: Where the pictures lie.
        rules: Where to look for a picture; the first that exists is taken.

    Yields:
        For each image what is wrong with its picture, or None.
    """
    for image in images:
        paths = [
            os.path.join(folder, rule.path(image[rule.key]))
            for rule in rules
            if image.get(rule.key)
        ]
        path = next(filter(os.path.isfile, paths), None)
        if not paths:
            keys = " nor ".join(sorted({rule.key for rule in rules}))
            yield PictureProblem(image["id"], os.fspath(folder), f"the image has no {keys}")
        elif path is None:
            yield PictureProblem(image["id"], paths[0], "there is no such file")
        else:
            text = _compare(path, image)
            yield PictureProblem(image["id"], path, text) if text else None


def _compare(path: str, image: dict[str, Any]) -> str | None:
    try:
        with Image.open(path) as picture:
            size = picture.size
            turned = _orientation(picture) in _QUARTER_TURNS
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        return f"it cannot be read: {error}"
    return describe_size(size[::-1] if turned else size, (image["width"], image["height"]), turned)


def _orientation(picture: Image.Image) -> int | None:
    """What OpenCV goes by: EXIF's. ``getexif()`` would also take XMP's, which OpenCV does not."""
    if picture.format == "AVIF":  # OpenCV loads it as it lies
        return None
    exif = Image.Exif()
    exif.load(picture.info.get("exif", b""))  # TIFF has none here: Pillow turns it by itself
    return exif.get(_ORIENTATION)


def describe_size(
    found: tuple[int, int], said: tuple[int, int], turned: bool | None = None
) -> str | None:
    """How a picture's size differs from that in the annotation file, or None if it does not.

    Args:
        found: Width and height in pixels, as loaded.
        said: Those of the annotation file.
        turned: Whether EXIF turned it by a quarter; None if that is not known.
    """
    if tuple(found) == tuple(said):
        return None
    text = (
        f"it is {found[0]} wide and {found[1]} high, but the annotation file says width {said[0]} "
        f"and height {said[1]}"
    )
    if tuple(found)[::-1] == tuple(said):
        text += (
            "; EXIF turns it when it is loaded, and its boxes may be those of the picture before "
            "that"
            if turned
            else "; width and height are swapped"
            if turned is False
            else "; width and height are swapped, or EXIF turns the picture when it is loaded"
        )
    return text
