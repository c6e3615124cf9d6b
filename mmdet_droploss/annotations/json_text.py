"""JSON as it comes: what is wrong with a text, in words that say where and what to do."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF16_OR_32 = (b"\xff\xfe", b"\xfe\xff", b"{\x00", b"\x00{", b"[\x00", b"\x00[", b"\x00\x00")
_NOT_A_NUMBER = re.compile(rb"-?(?:NaN|Infinity)|-?(?:nan|inf)")
_KEY = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:')
#: How far the beginning of the entry is looked for, in bytes.
_LONGEST_ENTRY = 1 << 20


def decode_json(text: bytes | memoryview, type_: type[T], who: str, is_not: str) -> T:
    """Decode JSON, with or without a byte order mark.

    Args:
        text: UTF-8.
        type_: What msgspec makes of it.
        who: Begins the messages: which file.
        is_not: What the messages say of JSON of another type.

    Raises:
        ValueError: If the text is not valid JSON or not of the type. The message says what is wrong
            and, for NaN and infinite numbers, in which entry they are.
    """
    text = memoryview(text)
    start = bytes(text[:4])
    if start.startswith(_UTF16_OR_32):
        raise ValueError(
            f"{who} is not valid JSON: it is text in UTF-16 or UTF-32, and JSON is UTF-8. Save it "
            f"as UTF-8, for example with iconv -f UTF-16 -t UTF-8"
        )
    if start.startswith(_BYTE_ORDER_MARK):
        text = text[len(_BYTE_ORDER_MARK) :]
    try:
        return msgspec.json.decode(text, type=type_)
    except msgspec.ValidationError as error:
        raise ValueError(f"{who} {is_not}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{who} is not valid JSON{_reason(text, error)}") from None


def _reason(text: memoryview, error: Exception) -> str:
    if "utf-8" in str(error).lower():  # a UnicodeDecodeError before msgspec 0.23
        return f": it is not UTF-8 ({error}); save it as UTF-8"
    if "truncated" in str(error):
        return f", perhaps truncated ({len(text)} bytes): {error}"
    place = re.search(r"\(byte (\d+)\)", str(error))
    if place is None:
        return f": {error}"
    position = int(place[1])
    around = bytes(text[max(position - 1, 0) : position + 16])
    for offset in (0, 1):  # the minus sign of -Infinity stands before the position
        if found := _NOT_A_NUMBER.match(around, offset):
            number = found[0].decode()
            return (
                f": {number} at byte {position}{_entry(text, position)}. JSON has no NaN and no "
                f"infinite numbers; correct or remove the entry that has it"
            )
    excerpt = bytes(text[max(position - 40, 0) : position + 10]).decode("utf-8", "replace")
    return f": {error}, near {excerpt!r}"


def _entry(text: memoryview, position: int) -> str:
    """Which entry a byte is in, for people: ``, 'area' of the annotation with id 7``."""
    begin = max(position - _LONGEST_ENTRY, 0)
    window = bytes(text[begin : position + _LONGEST_ENTRY]).decode("latin-1")  # a byte a character
    place = position - begin
    decode = json.JSONDecoder().raw_decode
    start = window.rfind("{", 0, place)
    while start >= 0:
        try:
            entry, end = decode(window, start)
        except ValueError:
            return ""
        if end > place:
            keys = _KEY.findall(window, start, place)
            field = f", {keys[-1]!r}" if keys else ""
            return f"{field} of {_kind(entry)} with id {entry.get('id')!r}"
        start = window.rfind("{", 0, start)
    return ""


def _kind(entry: dict[str, Any]) -> str:
    if "image_id" in entry:
        return "the annotation"
    return "the image" if "width" in entry or "file_name" in entry else "the entry"
