"""The page of ``medgraft check``: what is wrong with the data, with pictures, before anything is trained.

CheckResult, … ──► check_rows ─────────────────────┐
pictures by code ──────────────────────────────────┼──► templates/check.html.j2 ──► check.html and plots/*.png
baselines, sources, shift ──► trust, trust_figures ┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medgraft.report import trust, trust_figures
from medgraft.report.checks_table import (
    SEVERITIES,
    PicturedExample,
    check_rows,
    code_words,
    severity_counts,
    verdict_words,
)
from medgraft.report.page import write_page
from medgraft.types import SPLITS, CheckResult

__all__ = ["PicturedExample", "write_check_page"]

_BY_VERDICT = {
    "error": "Numbers on these data would be untrue until the errors are mended.",
    "warning": "Numbers on these data can be made; every report of them will carry the warnings.",
    "note": "Every check came back clean. That is no proof that the data are right.",
}


def write_check_page(
    path: Path,
    *,
    title: str,
    counts: Mapping[str, Mapping[str, int]],
    checks: Sequence[CheckResult],
    pictures: Mapping[str, Sequence[PicturedExample]],
    baselines: Mapping[str, Any] | None = None,
    sources: Mapping[str, Any] | None = None,
    shift: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page, and its figures into ``plots/`` beside it.

    Args:
        path: HTML file; its folder exists.
        title: heading.
        counts: images by class and part; a part with another name than train, val and test stands after them.
        checks: all results.
        pictures: examples of a check, by its code; a code that no check has is shown too.
        baselines: as in evaluation.json, without a model to compare with; or None.
        sources: ``sources`` of the shortcuts of evaluation.json; or None.
        shift: how two parts or sources differ, as a check of it says in its evidence; or None.

    Returns:
        The path. The same content gives the same bytes.
    """
    plots = path.parent / "plots"
    versus, alone = trust.versus(baselines), trust.source_table(sources, baselines)
    if versus or alone:
        plots.mkdir(exist_ok=True)
    charts = {**trust_figures.versus_charts(versus, plots), **trust_figures.source_charts(alone, plots)}
    found = severity_counts(checks)
    worst = next((severity for severity in SEVERITIES[:2] if found[severity]), "note")
    context = {
        "title": title, "counts": counts, "parts": _parts(counts), "verdict_line": verdict_words(checks),
        "worst": worst, "means": _BY_VERDICT[worst], "found": found, "check_rows": check_rows(checks),
        "galleries": _galleries(checks, pictures), "versus": versus, "alone": alone, "shift": shift, "charts": charts,
    }  # fmt: skip
    return write_page(path, "check.html.j2", context)


def _parts(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    named = dict.fromkeys(part for row in counts.values() for part in row)
    return [part for part in SPLITS if part in named] + [part for part in named if part not in SPLITS]


def _galleries(
    checks: Sequence[CheckResult], pictures: Mapping[str, Sequence[PicturedExample]]
) -> list[tuple[str, str, str, Sequence[PicturedExample]]]:
    """(anchor, heading, sentence, pictures), in the order of the table."""
    titles = {row.check.code: row.check.title for row in check_rows(checks)}
    order = [code for code in titles if pictures.get(code)] + [code for code in pictures if code not in titles]
    return [
        (f"pictures-{number}", code_words(code), titles.get(code, ""), pictures[code])
        for number, code in enumerate(order, start=1)
        if pictures[code]
    ]
