"""Reading a TOML file of unknown origin, with the place of every fault, in bounded time."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from medgraft.config import keys
from medgraft.errors import Problem

_MAX_BYTES = 256_000
# tomllib takes quadratic time in the parts of a dotted key, so long chains are refused before it reads them.
_LONG_CHAIN = re.compile(
    r"""(?<![\w-])(?:(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){32}""",
)
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_DUPLICATE = ("Cannot overwrite a value", "Cannot declare", "Cannot mutate immutable", "Duplicate inline table key")
_KEY = re.compile(r"""[ \t]*+([\w."' \t-]++)=""")
_HEADER = re.compile(r"""[ \t]*+(\[\[?)([\w."' \t-]++)\]""")


def read_toml(file: Path, faults: list[Problem]) -> tuple[str, dict[str, Any]]:
    """The text and the table of a file; both empty, with a fault added, when it cannot be read.

    A byte order mark, CRLF line ends and tabs are accepted.
    """
    text = _read_text(file, faults)
    if text is None:
        return "", {}
    if not text.strip():
        faults.append(
            Problem("CONFIG_EMPTY", "the file is empty", f"{file}, line 1", "write a section, such as [model]")
        )
        return text, {}
    if chain := _LONG_CHAIN.search(text):
        line = text.count("\n", 0, chain.start()) + 1
        faults.append(Problem("CONFIG_SYNTAX", "a key of more than 32 parts", f"{file}, line {line}"))
        return text, {}
    try:
        return text, tomllib.loads(text)
    except RecursionError:
        faults.append(Problem("CONFIG_SYNTAX", "values are nested too deeply", str(file)))
    except ValueError as error:  # TOMLDecodeError, and numbers of more digits than Python converts
        faults.append(_syntax_problem(file, text, str(error)))
    return text, {}


def key_lines(text: str) -> dict[keys.KeyPath, int]:
    """The line (from 1) on which each key and section header stands."""
    section: keys.KeyPath = ()
    lists: dict[keys.KeyPath, int] = {}
    found: dict[keys.KeyPath, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            section = _parts(header.group(2))
            if header.group(1) == "[[":
                lists[section] = lists.get(section, -1) + 1
                section = (*section, lists[section])
            found.setdefault(section, number)
        elif key := _KEY.match(line):
            found.setdefault(section + _parts(key.group(1)), number)
    return found


def line_of(lines: dict[keys.KeyPath, int], path: keys.KeyPath) -> int | None:
    """The line of a key, else of the nearest section around it, else None."""
    around = (lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines)
    return next(around, None)


def _read_text(file: Path, faults: list[Problem]) -> str | None:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            faults.append(Problem("CONFIG_MISSING", "not a file", str(file), "name a TOML file"))
            return None
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        faults.append(Problem("CONFIG_MISSING", f"cannot be read: {reason}", str(file), "name a TOML file"))
        return None
    if len(data) > _MAX_BYTES:
        what = "the file is larger than 256 kB"
        faults.append(Problem("CONFIG_TOO_LARGE", what, str(file), "a configuration is a few kilobytes"))
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        faults.append(Problem("CONFIG_ENCODING", "the file is not UTF-8", f"{file}, line {line}", "save it as UTF-8"))
        return None


def _syntax_problem(file: Path, text: str, message: str) -> Problem:
    place = _PLACE.search(message)
    what = message[: place.start()] if place else message
    lines = text.splitlines()
    line = int(place.group(1)) if place and place.group(1) else len(lines)
    where = f"{file}, line {line}" + (f", column {place.group(2)}" if place and place.group(2) else "")
    if what.startswith(_DUPLICATE):
        named = lines[line - 1].partition("=")[0].strip() if line <= len(lines) else ""
        return Problem("CONFIG_DUP_KEY", f"{keys.shown(named)} is given twice", where, "keep one of them")
    fix = "configurations are TOML: [section], then key = value, with texts in quotes"
    if file.suffix.lower() in (".yaml", ".yml", ".json"):
        fix = f"medgraft reads TOML, not {file.suffix[1:].upper()}: [section], then key = value"
    return Problem("CONFIG_SYNTAX", what, where, fix)


def _parts(key: str) -> keys.KeyPath:
    return tuple(part.strip(" \t\"'") for part in key.split("."))
