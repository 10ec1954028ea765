"""From what a file says to what validation takes: known keys, right kinds, variables filled in.

A faulty value is reported and left out, so that one pass finds all faults.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medgraft.config import keys
from medgraft.errors import Problem

Where = Callable[[keys.KeyPath], str]

VARIABLE = re.compile(r"\$?\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_UNSET = object()
_MAX_UNKNOWN = 20  # looking for near matches takes time; a file of another kind has thousands


def clean(tree: dict[str, Any], where: Where, faults: list[Problem]) -> dict[str, Any]:
    """The tree without what cannot be used; each thing left out is added to the faults."""
    return _section(tree, keys.root(), (), where, faults)


def _section(
    tree: dict[str, Any], node: keys.Node, path: keys.KeyPath, where: Where, faults: list[Problem]
) -> dict[str, Any]:
    cleaned: dict[str, Any] = {}
    children = node.children
    unknown = [(*path, name) for name in tree if name not in children]
    for at in unknown[:_MAX_UNKNOWN]:
        what = f"unknown key {keys.shown(keys.dotted(at))}"
        faults.append(Problem("CONFIG_UNKNOWN", what, where(at), keys.unknown_fix(at)))
    if len(unknown) > _MAX_UNKNOWN:
        what = f"{len(unknown) - _MAX_UNKNOWN} more unknown keys in {keys.dotted(path) or 'the configuration'}"
        faults.append(Problem("CONFIG_UNKNOWN", what, where(unknown[_MAX_UNKNOWN])))
    for name, child in children.items():
        if name not in tree:
            continue
        value, at = tree[name], (*path, name)
        if child.children and isinstance(value, dict):
            cleaned[name] = _section(value, child, at, where, faults)
        elif child.item is not None and isinstance(value, list):
            cleaned[name] = [_item(one, child.item, (*at, i), where, faults) for i, one in enumerate(value)]
        elif (leaf := _leaf(value, child, at, where, faults)) is not _UNSET:
            cleaned[name] = leaf
    return cleaned


def _item(value: object, node: keys.Node, path: keys.KeyPath, where: Where, faults: list[Problem]) -> object:
    return _section(value, node, path, where, faults) if isinstance(value, dict) else value


def _leaf(value: object, node: keys.Node, path: keys.KeyPath, where: Where, faults: list[Problem]) -> object:
    """The value as validation takes it, or _UNSET when it is faulty or not given."""
    texts = "text" in node.kinds or ("array" in node.kinds and node.item is None)
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and not value.strip() and "null" in node.kinds:
        return None
    if isinstance(value, list | tuple):
        items = [_filled(item, path, where, faults) for item in value]
        return _UNSET if _UNSET in items else [_as_text(item) if texts else item for item in items]
    # true would pass as the number 1, a date as a text
    wrong = isinstance(value, bool) and "boolean" not in node.kinds
    if wrong or isinstance(value, dict | datetime.date | datetime.time) or (node.children and not wrong):
        what = f"{keys.dotted(path)} must be {node.allowed}, got {keys.shown(value)}"
        faults.append(Problem("CONFIG_TYPE", what, where(path)))
        return _UNSET
    filled = _filled(value, path, where, faults)
    return _as_text(filled) if "text" in node.kinds else filled


def _as_text(value: object) -> object:
    """Whole numbers are names too: a column called 3, the classes 0 and 1."""
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18
    return str(value) if whole else value


def _filled(value: object, path: keys.KeyPath, where: Where, faults: list[Problem]) -> object:
    """The text with variables of the environment filled in."""
    if not isinstance(value, str):
        return value
    missing = [
        match.group(1)
        for match in VARIABLE.finditer(value)
        if not match.group().startswith("$$") and match.group(1) not in os.environ
    ]
    for name in missing:
        what = f"{keys.dotted(path)} needs the environment variable {name}, which is not set"
        faults.append(
            Problem("CONFIG_ENV", what, where(path), f"set {name}, or write $${{{name}}} for the text itself")
        )
    if missing:
        return _UNSET
    filled = VARIABLE.sub(_replacement, value)
    if any("\ud800" <= character <= "\udfff" or character == "\0" for character in filled):
        what = f"{keys.dotted(path)} holds characters that are not text"
        faults.append(Problem("CONFIG_ENCODING", what, where(path), "use valid UTF-8"))
        return _UNSET
    return filled


def _replacement(match: re.Match[str]) -> str:
    return match.group()[1:] if match.group().startswith("$$") else os.environ[match.group(1)]
