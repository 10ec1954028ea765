"""Results of checks as a page shows them: the worst first, evidence in words, pictures by kind.

CheckResult, … ──► check_rows ──┐
PicturedExample by code ────────┴──► templates/checks.html.j2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medgraft.types import CheckResult, PixelArray, Severity

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

_EXAMPLE_LISTS = ("examples", "files")
_FACTS, _EXAMPLES = 3, 3
_ENTRIES = 8  # of a mapping
_DEPTH = 3


@dataclass(frozen=True, slots=True)
class PicturedExample:
    """Images that show what a check is about, side by side.

    Attributes:
        caption: which images, and what is the matter with them.
        images: each (h, w, 3) uint8.
    """

    caption: str
    images: tuple[PixelArray, ...]


@dataclass(frozen=True, slots=True)
class CheckRow:
    """A check as the table shows it.

    Attributes:
        check: the result.
        facts: the first (name, value) of its evidence.
        further: the rest of them.
        examples: the first few, as text.
        n_more: examples that are left to checks.json.
    """

    check: CheckResult
    facts: tuple[tuple[str, str], ...]
    further: tuple[tuple[str, str], ...]
    examples: tuple[str, ...]
    n_more: int


def check_rows(checks: Sequence[CheckResult]) -> list[CheckRow]:
    """Rows of the table, errors first, then warnings, then notes; else in the order given."""
    return [_row(check) for check in sorted(checks, key=lambda check: SEVERITIES.index(check.severity))]


def severity_counts(checks: Sequence[CheckResult]) -> dict[Severity, int]:
    """How many errors, warnings and notes."""
    return {severity: sum(check.severity == severity for check in checks) for severity in SEVERITIES}


def verdict_words(checks: Sequence[CheckResult]) -> str:
    """How many of what, such as ``2 errors, 3 warnings``; or that nothing was found.

    Example:
        >>> verdict_words([CheckResult("A", "error", "a"), CheckResult("B", "note", "b")])
        '1 error, no warning'
    """
    counts = severity_counts(checks)
    if not counts["error"] and not counts["warning"]:
        return "Nothing suspicious found"
    return ", ".join(f"{counts[name] or 'no'} {name}{'s' if counts[name] > 1 else ''}" for name in SEVERITIES[:2])


def code_words(code: str) -> str:
    """A code as a heading.

    Example:
        >>> code_words("COPIES_NEAR_LABELS")
        'Copies near labels'
    """
    return _HEADINGS.get(code, code.replace("_", " ").capitalize())


_HEADINGS = {
    "COPIES_EXACT": "Exact copies",
    "COPIES_ACROSS_PARTS": "Exact copies in two parts",
    "COPIES_NEAR_WITHIN": "Near copies within one part",
    "COPIES_NEAR_ACROSS_PARTS": "Near copies in two parts",
    "COPIES_NEAR_LABELS": "Near copies under two labels",
    "LABEL_SUSPECTED": "Suspected labels",
    "LABEL_CONFLICT": "One picture under two labels",
    "SEEN_IN_TRAINING": "Images that training has seen",
}


def _row(check: CheckResult) -> CheckRow:
    facts: list[tuple[str, str]] = []
    examples: list[str] = []
    n_more = 0
    for name, value in check.evidence.items():
        if name in _EXAMPLE_LISTS and isinstance(value, (list, tuple)):
            examples += [_example(item) for item in value[:_EXAMPLES]]
            n_more += len(value[_EXAMPLES:])
        elif value not in (None, [], {}, ()):
            facts.append((name.removeprefix("n_").replace("_", " "), _text(value)))
    return CheckRow(check, tuple(facts[:_FACTS]), tuple(facts[_FACTS:]), tuple(examples), n_more)


def _example(item: object) -> str:
    """A line for one example: a file, files that belong together, a problem or any facts."""
    if isinstance(item, Mapping):
        rest = dict(item)
        if {"code", "what"} <= rest.keys():
            where = f"{rest['where']}: " if rest.get("where") else ""
            return f"{where}[{rest['code']}] {rest['what']}"
        if {"first", "second"} <= rest.keys():
            named = f"{rest.pop('first')} and {rest.pop('second')}"
            told = _text(rest, depth=1)
            return f"{named}: {told}" if told else named
    return _text(item)


def _text(value: object, depth: int = 0) -> str:
    """Any JSON value in words, a few entries deep."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
        return _estimate(value)
    if depth < _DEPTH and isinstance(value, Mapping):
        entries = [(str(name), item) for name, item in value.items() if item not in (None, [], {})]
        told = [f"{name} {_text(item, depth + 1)}" for name, item in entries[:_ENTRIES]]
        return ("; " if depth == 0 and _nested(value) else ", ").join(told) + _more(len(entries))
    if depth < _DEPTH and isinstance(value, (list, tuple)):
        shown = list(dict.fromkeys(_text(item, depth + 1) for item in value[:_ENTRIES] if item is not None))
        link = "; " if any(isinstance(item, Mapping) for item in value) else " and " if len(shown) == 2 else ", "
        return link.join(shown) + _more(len(value))
    return str(value)


def _estimate(value: Mapping[str, Any]) -> str:
    if value["value"] is None:
        return "not estimable"
    interval = "" if value["low"] is None or value["high"] is None else f" ({value['low']:.3f}–{value['high']:.3f})"
    return f"{value['value']:.3f}{interval}"


def _nested(value: Mapping[Any, Any]) -> bool:
    return any(isinstance(item, (Mapping, list, tuple)) for item in value.values())


def _more(n: int) -> str:
    return f" and {n - _ENTRIES:,} more" if n > _ENTRIES else ""
