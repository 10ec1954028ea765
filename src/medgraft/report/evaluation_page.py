"""The report of an evaluation: one HTML file that opens anywhere, offline, and asks nothing of the network.

ReportContent ──► wording, trust (what it says) ──────┐
              ──► evaluation_figures, trust_figures ──┼──► templates/evaluation.html.j2 ──► report.html, plots/*.png
              ──► pictures (≤ 160 pixels) ────────────┘
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.report import trust, trust_figures, wording
from medgraft.report.checks_table import PicturedExample, check_rows
from medgraft.report.drawing import Chart
from medgraft.report.evaluation_content import BlankedPair, Case, FoldRow, ReportContent, Thumb
from medgraft.report.evaluation_figures import evaluation_charts
from medgraft.report.history import best_rows
from medgraft.report.page import write_page
from medgraft.types import SPLITS, EpochRow

__all__ = ["BlankedPair", "Case", "FoldRow", "PicturedExample", "ReportContent", "Thumb", "write_report"]

LISTED = 30
PARTS_SHOWN = ("auroc", "accuracy", "sensitivity", "specificity", "ppv")
PER_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "auprc")


def write_report(content: ReportContent, folder: Path) -> Path:
    """Write ``report.html`` and ``plots/*.png`` into a folder, which is made when missing.

    Args:
        content: what to show.
        folder: the run's folder.

    Returns:
        Path of the page. The same content gives the same bytes.
    """
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    return write_page(folder / "report.html", "evaluation.html.j2", _context(content, plots))


def _context(content: ReportContent, plots: Path) -> dict[str, Any]:
    evaluation, classes = content.evaluation, content.scores.classes
    positive = None if content.positive is None else classes[content.positive]
    readings = (
        wording.multiclass_readings(evaluation)
        if positive is None
        else wording.binary_readings(evaluation, positive, next(name for name in classes if name != positive))
    )
    n_unscored = len(content.unscored)
    n_declared = len(content.scores) + n_unscored if content.n_declared is None else content.n_declared
    leading, secondary = _headline(evaluation, positive)
    counts, splits = _class_counts(content)
    wrong = _wrong_rows(content)
    return {
        **_trust(content, leading, plots),
        "content": content, "evaluation": evaluation, "classes": classes, "positive": positive,
        "secondary": secondary, "readings": readings, "sentences": wording.sentences(evaluation, positive),
        "n_declared": n_declared, "threshold": content.threshold,
        "cautions": wording.cautions(evaluation, content.checks, n_declared=n_declared, n_unscored=n_unscored),
        "class_counts": counts, "splits": splits, "grid": _by_label(content.sample_grid, classes),
        "wrong": wrong[:LISTED], "n_wrong": len(wrong), "per_class_metrics": _class_metrics(evaluation),
        "metrics": {name: e for name, e in evaluation["metrics"].items() if not name.startswith("macro_")},
        "kept": _kept(evaluation), "phases": _phases(content.history), "part_table": _part_table(content),
        "level": next((e["level"] for e in evaluation["metrics"].values() if e.get("level")), 0.95),
        "check_rows": check_rows(content.checks), "check_pictures": content.check_pictures,
    }  # fmt: skip


def _trust(content: ReportContent, leading: str, plots: Path) -> dict[str, Any]:
    """What the page says of whether the numbers can be trusted; and every figure."""
    evaluation = content.evaluation
    seen, shortcuts, groups = trust.seen(evaluation), trust.shortcuts(evaluation), trust.subgroups(evaluation)
    versus = trust.versus(
        evaluation.get("baselines"), verdict=evaluation.get("baseline_verdict"), model=evaluation["metrics"]
    )
    charts: dict[str, Chart] = {
        **trust_figures.seen_charts(seen, plots),
        **trust_figures.versus_charts(versus, plots),
        **trust_figures.shortcut_charts(shortcuts, plots),
        **trust_figures.subgroup_charts(groups, evaluation["metrics"], plots),
        **evaluation_charts(content, plots),
    }
    return {
        "head": trust.headline(evaluation, leading), "seen": seen, "versus": versus, "shortcuts": shortcuts,
        "groups": groups, "charts": charts, "sets": evaluation.get("conformal"), "scored": _scored_words(content),
        "crossed": evaluation.get("cross_validation") if content.folds else None,
        "tested": content.trained and not content.folds,
    }  # fmt: skip


def _scored_words(content: ReportContent) -> str:
    """What the numbers are of, in a few words."""
    if content.evaluation.get("headline") == "clean" and wording.leak_count(content.evaluation):
        return "Only images that training has not seen"
    if content.folds:
        return "Every image answered by models that have not seen it"
    return "Test part only" if content.trained else "These images only"


def _phases(history: Sequence[EpochRow]) -> list[tuple[str, EpochRow | None]]:
    """Each phase with the epoch whose weights it kept; None where it kept those from before."""
    best = best_rows(history)
    return [
        (name, history[best[name]] if name in best else None) for name in dict.fromkeys(row.phase for row in history)
    ]


def _headline(evaluation: Mapping[str, Any], positive: str | None) -> tuple[str, list[tuple[str, Mapping[str, Any]]]]:
    """Name of the leading metric and up to four more with their estimates."""
    metrics = evaluation["metrics"]
    tiles = (
        ("sensitivity", "specificity", "ppv", "accuracy")
        if positive
        else ("accuracy", "balanced_accuracy", "f1", "auprc")
    )
    leading = next(name for name in ("auroc", "balanced_accuracy", "accuracy", *metrics) if name in metrics)
    return leading, [(name, metrics[name]) for name in tiles if name in metrics and name != leading]


def _part_table(content: ReportContent) -> list[tuple[str, int, list[Mapping[str, Any]], list[int]]]:
    """Part, its images, estimates of `PARTS_SHOWN`, and the four counts where there are two classes."""
    rows: list[tuple[str, int, list[Mapping[str, Any]], list[int]]] = []
    for name in (split for split in SPLITS if split in content.parts):
        evaluation = content.parts[name]
        cells, positive = evaluation["confusion"], content.positive
        counts = []
        if positive is not None:
            no = 1 - positive
            counts = [cells[positive][positive], cells[no][positive], cells[no][no], cells[positive][no]]
        rows.append((name, evaluation["n_images"], [evaluation["metrics"][m] for m in PARTS_SHOWN], counts))
    return rows


def _kept(evaluation: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Metric, its estimate on validation when the operating point was chosen, and on test."""
    point = evaluation["operating_point"]
    return [(name, estimate, point["realized"][name]) for name, estimate in point["promised"].items()]


def _class_metrics(evaluation: Mapping[str, Any]) -> list[str]:
    """Per-class metrics that fit a table; the rest is in evaluation.json."""
    return [name for name in PER_CLASS if any(name in row for row in evaluation["per_class"].values())]


def _class_counts(content: ReportContent) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Images by class and split, and the splits that have any."""
    if content.class_counts:
        counts = {name: dict(content.class_counts.get(name, {})) for name in content.scores.classes}
    else:
        of_test = np.bincount(content.scores.y_true, minlength=len(content.scores.classes))
        counts = {name: {"test": int(n)} for name, n in zip(content.scores.classes, of_test, strict=True)}
    return counts, [split for split in SPLITS if any(split in row for row in counts.values())]


def _by_label(thumbs: Iterable[Thumb], classes: Sequence[str]) -> list[tuple[str, list[Thumb]]]:
    groups: dict[str, list[Thumb]] = {name: [] for name in classes}
    for thumb in thumbs:
        groups.setdefault(thumb.label, []).append(thumb)
    return [(name, group) for name, group in groups.items() if group]


def _wrong_rows(content: ReportContent) -> list[tuple[str, str, str, float]]:
    """(sample id, true, predicted, probability of the predicted class), the surest mistake first."""
    scores = content.scores
    members = np.flatnonzero(content.predicted != scores.y_true)
    given = scores.y_proba[members, content.predicted[members]]
    return [
        (scores.sample_ids[i], scores.classes[scores.y_true[i]], scores.classes[content.predicted[i]], float(p))
        for p, i in sorted(zip(given, members, strict=True), key=lambda pair: (-pair[0], pair[1]))
    ]
