"""The figures of trust: what was seen in training, baselines, shortcuts and subgroups, each as dots with intervals.

Seen, Versus, Shortcuts, subgroups ──► interval_figure ──► drawing.save ──► Chart by name
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medgraft.report.drawing import Chart, save
from medgraft.report.interval_plots import interval_figure, said
from medgraft.report.trust import Facts, Row, Seen, Shortcuts, Table, Versus
from medgraft.report.wording import metric_words

Side = Literal["estimates", "others"]


def seen_charts(found: Seen | None, folder: Path) -> dict[str, Chart]:
    """The leading metric of what training has seen and has not."""
    if found is None:
        return {}
    return _chart("seen", found.table, folder, x=_label(found.table.metrics[0]), reference=_chance(found.table))


def versus_charts(found: Versus | None, folder: Path) -> dict[str, Chart]:
    """Model and baselines on one axis; and the paired gain over each."""
    if found is None:
        return {}
    at = found.table.metrics.index(found.gain_of)
    charts = _chart(
        "baselines", found.table, folder, x=_label(found.gain_of), reference=_chance(found.table, at), at=at
    )
    if found.gain_of in found.table.others:
        at = found.table.others.index(found.gain_of)
        table = Table((), tuple(row for row in found.table.rows if row.mark != "lead"), found.table.others)
        x = f"{_label(found.gain_of)} gained by this model over it"
        charts |= _chart("gain", table, folder, x=x, reference=0.0, side="others", at=at)
    return charts


def source_charts(table: Table | None, folder: Path) -> dict[str, Chart]:
    """What is told without the content of the image."""
    if table is None:
        return {}
    return _chart("sources", table, folder, x=_label(table.metrics[0]), reference=_chance(table))


def shortcut_charts(found: Shortcuts | None, folder: Path) -> dict[str, Chart]:
    """What is told without the content of the image, and what the model loses."""
    if found is None:
        return {}
    charts = source_charts(found.sources, folder)
    table = found.rescored
    if table is not None and table.others:
        x = f"{_label(table.others[0])} lost"
        charts |= _chart("blanked", table, folder, x=x, reference=0.0, side="others")
    return charts


def subgroup_charts(columns: Sequence[tuple[str, Table]], overall: Facts, folder: Path) -> dict[str, Chart]:
    """One forest plot per column, with the value over all images as a line."""
    charts: dict[str, Chart] = {}
    for number, (_, table) in enumerate(columns):
        whole = overall.get(table.metrics[0]) or {}
        charts |= _chart(
            f"subgroups_{number + 1}", table, folder, x=_label(table.metrics[0]), reference=whole.get("value")
        )
    return charts


def _chart(
    name: str,
    table: Table,
    folder: Path,
    *,
    x: str,
    reference: float | None,
    side: Side = "estimates",
    at: int = 0,
) -> dict[str, Chart]:
    rows = [(row.name, _of(row, side, at)) for row in table.rows]
    if all(estimate is None or estimate.get("value") is None for _, estimate in rows):
        return {}
    figure = interval_figure(rows, x=x, reference=reference, marks=[row.mark for row in table.rows])
    told = "; ".join(f"{label} {said(estimate, signed=reference == 0.0)}" for label, estimate in rows)
    return {name: save(figure, name, folder, alt=f"{x}: {told}.")}


def _of(row: Row, side: Side, at: int) -> Facts | None:
    return (row.estimates if side == "estimates" else row.others)[at]


def _label(metric: str) -> str:
    return metric_words(metric).label


def _chance(table: Table, at: int = 0) -> float | None:
    return metric_words(table.metrics[at]).chance
