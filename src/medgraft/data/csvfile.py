"""A delimited text file, read strictly: encoding, delimiter, quotes and field counts are checked, never guessed over.

bytes → encoding (byte order mark, UTF-16, UTF-8) → delimiter → header → columns of text, with line numbers
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import stat
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from medgraft.data.names import escape, listed
from medgraft.data.problems import raise_problems
from medgraft.errors import DataError, Problem, UsageError

DELIMITERS = (",", ";", "\t", "|")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the one of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MAX_PROBLEMS = 1000


@dataclass(frozen=True)
class TextTable:
    """Cells as text.

    Attributes:
        path: the file.
        header: all column names, stripped.
        columns: cells of the columns that were asked for, by position in the header.
        lines: line of the file where each row starts, counted from 1.
    """

    path: Path
    header: tuple[str, ...]
    columns: dict[int, list[str]]
    lines: Sequence[int]

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        """Where a row stands, for messages."""
        return f"{escape(self.path.name)} line {self.lines[row]}"


def read_text_table(
    path: Path, *, encoding: str | None, wanted: Callable[[tuple[str, ...]], Sequence[int]]
) -> TextTable:
    """Read the wanted columns.

    Args:
        path: a regular file.
        encoding: as the user named it; None detects byte order marks and UTF-16, else takes UTF-8.
        wanted: positions of the columns to keep, given the header; the others cost no memory.

    Raises:
        DataError: ``CSV_*`` with the line, ``TABLE_UNREADABLE``.
        UsageError: ``ENCODING_UNKNOWN``.
    """
    data = _read_bytes(path)
    encoding = _checked_encoding(data, encoding, path)
    delimiter = _delimiter(data, encoding, path)
    rows = _records(data, encoding, delimiter, path)
    first = next(rows, None)
    if first is None:
        raise _empty(path, "the table is empty")
    header = tuple(name.strip() for name in first[1])
    repeated = [name for name, n in Counter(header).items() if n > 1 and name]
    if repeated:
        what = f"columns stand more than once: {listed(repeated)}"
        raise DataError("CSV_DUP_COLUMN", what, where=f"{escape(str(path))} line 1", fix="rename or remove one of them")
    return _columns(rows, path, header, sorted(set(wanted(header))))


def _columns(
    rows: Iterator[tuple[int, list[str]]], path: Path, header: tuple[str, ...], positions: list[int]
) -> TextTable:
    lines = array("q")
    columns: dict[int, list[str]] = {position: [] for position in positions}
    known: dict[str, str] = {}
    problems: list[Problem] = []
    pairs = [(itemgetter(position), columns[position].append) for position in positions]
    for line, row in rows:
        if len(row) != len(header):
            what = f"{len(row)} fields where the header has {len(header)}"
            problems.append(Problem("CSV_FIELD_COUNT", what, f"line {line}"))
            if len(problems) >= _MAX_PROBLEMS:
                break
            continue
        lines.append(line)
        for pick, append in pairs:
            value = pick(row)
            # Short cells repeat (labels, parts, patients): one object for all of them.
            append(known.setdefault(value, value) if len(value) < 24 and len(known) < 100_000 else value)
    fix = "every row needs as many fields as the header; put text that holds the delimiter in double quotes"
    raise_problems(problems, what="rows with the wrong number of fields", where=escape(str(path)), fix=fix)
    if not lines:
        raise _empty(path, "the table has a header and no rows")
    return TextTable(path, header, columns, lines)


def _read_bytes(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(
                "TABLE_UNREADABLE", "not a regular file", where=escape(str(path)), fix="give a CSV or TSV file"
            )
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            "TABLE_UNREADABLE", f"cannot be read: {error.strerror or error}", where=escape(str(path))
        ) from error
    if not data.strip():
        raise _empty(path, "the table is empty")
    return data


def _checked_encoding(data: bytes, asked: str | None, path: Path) -> str:
    encoding = asked or _detect_encoding(data)
    try:
        text = data.decode(encoding)
    except LookupError as error:
        fix = "use a name such as utf-8, utf-16, latin-1 or cp1252"
        raise UsageError("ENCODING_UNKNOWN", f"no encoding {asked!r}", where="data.encoding", fix=fix) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            "CSV_ENCODING",
            f"byte 0x{data[error.start]:02x} is not {encoding}",
            where=f"{escape(str(path))} line {line}",
            fix="save the table as UTF-8, or name its encoding: --set data.encoding=latin-1",
        ) from error
    bad = _CONTROL.search(text)
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        raise DataError(
            "CSV_BAD_CHAR",
            f"control character U+{ord(bad.group()):04X}",
            where=f"{escape(str(path))} line {line}",
            fix="remove it; is this a text file?",
        )
    return encoding


def _detect_encoding(data: bytes) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    # UTF-16 without a mark: text in Latin letters has a zero in every other byte.
    head = data[:4096]
    pairs = max(len(head) // 2, 1)
    if head[1::2].count(0) > 0.4 * pairs and not head[0::2].count(0):
        return "utf-16-le"
    if head[0::2].count(0) > 0.4 * pairs and not head[1::2].count(0):
        return "utf-16-be"
    return "utf-8"


def _delimiter(data: bytes, encoding: str, path: Path) -> str:
    """The delimiter that cuts the header into most columns; ties go to the order of `DELIMITERS`."""
    counts = {delimiter: len(_first_record(data, encoding, delimiter, path)) for delimiter in DELIMITERS}
    return max(DELIMITERS, key=counts.__getitem__)


def _first_record(data: bytes, encoding: str, delimiter: str, path: Path) -> list[str]:
    try:
        return next(_records(data, encoding, delimiter, path))[1]
    except (DataError, StopIteration):
        return []


def _records(data: bytes, encoding: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line where it starts, and fields, of every record that is not blank."""
    # A stream, not one str: io.StringIO would hold four bytes per character.
    lines = io.TextIOWrapper(io.BytesIO(data), encoding=encoding, newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in reader:
            if row:
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise _csv_error(error, start, reader.line_num, path) from error


def _csv_error(error: csv.Error, start: int, end: int, path: Path) -> DataError:
    where = f"{escape(str(path))} line {start}"
    # A field past the limit that spans lines is a quote that was never closed.
    if "field larger" in str(error) and end <= start:
        fix = "a field may hold 131,072 characters; is this the right file?"
        return DataError("CSV_FIELD_TOO_LONG", "a field is too long", where=where, fix=fix)
    fix = 'close the quote; a double quote inside a quoted field is written twice ("")'
    return DataError(
        "CSV_QUOTE", f"a double quote opens here and is not closed properly ({error})", where=where, fix=fix
    )


def _empty(path: Path, what: str) -> DataError:
    return DataError("CSV_EMPTY", what, where=escape(str(path)), fix="give a table with a header and rows")
