"""Whether two lists of categories are the same: a label is a place in such a list."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

#: LVIS's files misspell a name (v0.5 id 669, v1 id 655) that MMDetection's METAINFO spells right.
_SPELLINGS = {"speaker_(stero_equipment)": "speaker_(stereo_equipment)"}


@dataclass(frozen=True)
class Categories:
    """The categories of a file, a data set, a metric or a loss, in label order.

    Args:
        source: What messages call it.
        number: C.
        names: C names; None if they are not known.
        ids: C ids; None if they are not known.
    """

    source: str
    number: int
    names: tuple[str, ...] | None = None
    ids: tuple[int, ...] | None = None

    @classmethod
    def of_file(cls, source: str, categories: Sequence[dict]) -> Categories:
        """Those of an annotation file.

        Args:
            source: What messages call it.
            categories: The entries of ``categories``.
        """
        names = [category.get("name") for category in categories]
        ids = tuple(category["id"] for category in categories)
        return cls(source, len(ids), None if None in names else tuple(map(str, names)), ids)


def repeated_name(categories: Categories) -> str | None:
    """What is wrong with names that occur twice, or None."""
    first: dict[str, int] = {}
    for label, name in enumerate(categories.names or ()):
        if name in first:
            return (
                f"{categories.source} has two categories with the name {name!r}: number "
                f"{first[name]} and number {label} (counted from 0)"
            )
        first[name] = label
    return None


def difference(a: Categories, b: Categories) -> str | None:
    """The first difference in words, or None.

    Names are compared if both are known, else ids if both are known, else only the numbers.
    """
    if a.names is not None and b.names is not None:
        return _difference_of_names(a, b)
    if a.ids is not None and b.ids is not None:
        for label, (one, other) in enumerate(zip(a.ids, b.ids, strict=False)):
            if one != other:
                return (
                    f"category number {label} (counted from 0) has the id {one} in {a.source}, but "
                    f"{other} in {b.source}"
                )
    if a.number != b.number:
        return f"{a.source} has {a.number} categories, but {b.source} has {b.number}"
    return None


def _difference_of_names(a: Categories, b: Categories) -> str | None:
    ours, theirs = ([_SPELLINGS.get(name, name) for name in each.names or ()] for each in (a, b))
    if ours == theirs:
        return None
    pairs = enumerate(zip(ours, theirs, strict=False))
    label = next((label for label, (one, other) in pairs if one != other), None)
    if label is None:  # one is the beginning of the other
        (longer, names), shorter = ((a, ours), b) if len(ours) > len(theirs) else ((b, theirs), a)
        return (
            f"{a.source} has {a.number} categories, but {b.source} has {b.number}: the first that "
            f"is missing in {shorter.source} is number {shorter.number} (counted from 0) of "
            f"{longer.source}, {names[shorter.number]!r}"
        )
    text = (
        f"category number {label} (counted from 0) is {ours[label]!r} in {a.source}, but "
        f"{theirs[label]!r} in {b.source}"
    )
    return f"{text}{_hint(ours, theirs, label, a, b)}"


def _hint(ours: list[str], theirs: list[str], label: int, a: Categories, b: Categories) -> str:
    one, other = ours[label], theirs[label]
    if way := _differ_only_in(one, other):
        return f" (they differ only in {way})"
    if sorted(ours) == sorted(theirs):
        return " (the same names in another order)"
    if len(ours) != len(theirs):
        return f" ({a.source} has {a.number} categories, {b.source} has {b.number})"
    return ""


def _differ_only_in(one: str, other: str) -> str | None:
    """How two names differ, if that is hardly to be seen."""
    ways = {
        "a byte order mark": lambda name: name.replace("\ufeff", ""),
        "blanks": lambda name: "".join(name.split()),
        "blanks and underscores": lambda name: "".join(name.replace("_", " ").split()),
        "the form of Unicode's letters": lambda name: unicodedata.normalize("NFKC", name),
        "upper and lower case": str.casefold,
    }
    for way, change in ways.items():
        if change(one) == change(other):
            return way
    for change in ways.values():
        one, other = change(one), change(other)
    return "a byte order mark, blanks, letters' forms or case" if one == other else None
