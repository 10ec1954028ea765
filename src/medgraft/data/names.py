r"""Names as text: natural order, and an escaping that keeps any file name printable and writable.

File names are bytes. Python shows bytes that are not UTF-8 as lone surrogates (``os.fsdecode``), which
cannot be written as UTF-8; names may also hold newlines. The escaping is injective, so it reads back:

    ``\\``       a backslash
    ``\xNN``     the undecodable byte NN (80..ff)
    ``\uNNNN``   a control, line separator, text-direction mark or other lone surrogate
    the rest    unchanged, so ordinary names look as they are
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

SHOWN = 5
"""Examples named in a message or in evidence."""

_UNSAFE = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4}))")
_DIGITS = re.compile(r"([0-9]+)")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")


def escape(text: str) -> str:
    """Text on one line that UTF-8 can always hold; `unescape` gives the original back."""
    return _UNSAFE.sub(_escape_one, text)


def unescape(text: str) -> str:
    """Inverse of `escape`."""
    return _ESCAPED.sub(_unescape_one, text)


def cell(text: str) -> str:
    """`escape` for a table cell: a leading ``= + - @`` is escaped too, so that no spreadsheet runs it."""
    escaped = escape(text)
    if escaped[:1] in ("=", "+", "-", "@") and not _NUMBER.fullmatch(escaped):
        return f"\\u{ord(escaped[0]):04x}{escaped[1:]}"
    return escaped


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that reads runs of digits as numbers: 1, 2, 10; upper and lower case side by side."""
    # Digits are compared as (length, text): the same order as numbers, for runs of any length.
    parts: list[tuple[int, int, str]] = []
    for position, part in enumerate(_DIGITS.split(text)):
        if position % 2:
            number = part.lstrip("0")
            parts.append((0, len(number), number))
        elif part:
            parts.append((1, 0, part.casefold()))
    return (*parts, (-1, 0, text))


def listed(names: Iterable[str], *, limit: int = SHOWN) -> str:
    """The first names, escaped and quoted, and how many more there are."""
    every = list(names)
    shown = ", ".join(f"'{escape(name)}'" for name in every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit:,} more"


def nearest(name: str, known: Iterable[str]) -> str:
    """A ``did you mean`` clause, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(repr(match) for match in found)}?" if found else ""


def _escape_one(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code == ord("\\"):
        return "\\\\"
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _unescape_one(match: re.Match[str]) -> str:
    byte, code = match.groups()
    if byte is not None:
        return chr(0xDC00 + int(byte, 16))
    return chr(int(code, 16)) if code is not None else "\\"
