"""LVIS's lists of an image, which say where a detection of a category is judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

#: The lists, and what it means that an image has none.
_MEANING = {
    "neg_category_ids": "every category that the image does not show is negative",
    "not_exhaustive_category_ids": "every category is annotated exhaustively",
}


def remarks_on_lists(images: Sequence[dict], known: Iterable[int], who: str) -> Iterator[str]:
    """Say what is missing, empty everywhere or not known.

    Args:
        images: The entries of ``images``.
        known: The ids of the categories.
        who: Begins the messages: which file.

    Raises:
        ValueError: If something is no list of ids.
    """
    known = set(known)  # a difference from anything else goes through all of it, for each list
    if all(image.get("neg_category_ids") == [] for image in images):
        yield (
            f"{who}: neg_category_ids of every image is empty, so a false detection of a category "
            f"counts in the images that show it, and nowhere else. If the images are annotated "
            f"exhaustively, leave the key out: then it counts in all"
        )
    for key, meaning in _MEANING.items():
        lacking = [image for image in images if key not in image]
        if 0 < len(lacking) < len(images):
            yield (
                f"{who}: {len(lacking)} of {len(images)} images have no {key}, the first is "
                f"{describe_image(lacking[0])}; for them, {meaning}"
            )
        unknown: dict[Any, dict] = {}
        for image in images:
            ids = image.get(key, [])
            if not isinstance(ids, list) or any(type(i) not in (int, float) for i in ids):
                raise ValueError(
                    f"{who}: {key} of {describe_image(image)} must be a list of category ids, but "
                    f"it is {str(ids)[:80]}. Write [] if there are none, or leave the key out: "
                    f"then {meaning}"
                )
            unknown |= dict.fromkeys(set(ids).difference(known), image)
        if unknown:
            id_, image = next(iter(unknown.items()))
            yield (
                f"{who}: {key} has {len(unknown)} category ids that the file does not list, for "
                f"example {id_} of {describe_image(image)}; they have no effect"
            )


def describe_image(image: dict) -> str:
    """What messages call an image: its id and, if the file tells it, its picture."""
    picture = image.get("file_name", image.get("coco_url"))
    return f"image id {image['id']}" + ("" if picture is None else f" ({picture!r})")
