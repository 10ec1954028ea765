"""Values with their intervals, one below the other on a common axis: the forest plot of every page.

(name, estimate), … ──► interval_figure ──► drawing.save
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medgraft.report.drawing import ACCENT, BAND, DOTTED, GUESS, INK, MUTED, WRONG, canvas, plot_text, style

Mark = Literal["plain", "lead", "quiet", "doubtful"]

# inches
WIDTH = 4.3
_NAMES, _ROW, _ABOVE, _BELOW = 2.1, 0.48, 0.06, 0.45
_LABEL, _WRAPPED = 26, 30  # characters
_LEAST_SPAN = 0.1
# Marker, size, fill, edge: shape and fill tell the kinds apart, not color alone.
_MARKS: dict[Mark, tuple[str, float, str, str]] = {
    "plain": ("o", 6.5, ACCENT, ACCENT),
    "lead": ("D", 7.5, ACCENT, ACCENT),
    "quiet": ("o", 5.5, "white", GUESS),
    "doubtful": ("s", 6.5, "white", WRONG),
}


def interval_figure(
    rows: Sequence[tuple[str, Mapping[str, Any] | None]],
    *,
    x: str,
    reference: float | None = None,
    marks: Sequence[Mark] = (),
) -> Figure:
    """One row per estimate: a dot at the value, a line over the interval, both in figures beneath the name.

    A row without a value keeps its place and says so. An n that all share stands below the axis. Around a reference
    of 0 values are differences and carry a sign.

    Args:
        rows: (name, estimate as in evaluation.json or None), from top to bottom.
        x: what the axis shows.
        reference: value of no skill or no difference, drawn as a line; or None.
        marks: one per row, or empty for all plain. ``lead`` is what the others are compared with, ``quiet`` rests on
            few images, ``doubtful`` cannot be believed.
    """
    chosen = list(marks) or ["plain"] * len(rows)
    counts = {int(e["n"]) for _, e in rows if e is not None and e.get("value") is not None and e.get("n")}
    words = f"{x}, n = {counts.pop():,}" if len(counts) == 1 else x
    figure, axes = _frame(max(len(rows), 1), fill(plot_text(words, limit=3 * _WRAPPED), _WRAPPED))
    low, high = _range([estimate for _, estimate in rows], reference)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=3, steps=[1, 2, 2.5, 5, 10]))
    if reference == 0.0:
        axes.xaxis.set_major_formatter(_signed_tick)
    if reference is not None:
        axes.axvline(reference, color=MUTED, linewidth=1.1, linestyle="-" if reference == 0.0 else DOTTED, zorder=1)
    for place, ((name, estimate), mark) in enumerate(zip(rows, chosen, strict=True)):
        if place % 2 == 0:
            axes.axhspan(place - 0.5, place + 0.5, color=BAND, linewidth=0, zorder=0)
        _draw(axes, place, estimate, mark)
        _name(axes, place, name, said(estimate, signed=reference == 0.0, count=words == x), mark)
    axes.set_yticks([])
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    return figure


def _frame(n_rows: int, x: str) -> tuple[Figure, Axes]:
    """Names have the same room in every figure, so that figures below each other line up."""
    below = _BELOW + 0.14 * x.count("\n")
    height = _ABOVE + _ROW * n_rows + below
    figure = canvas(size=(WIDTH, height))
    figure.set_layout_engine("none")
    axes = figure.add_axes((_NAMES / WIDTH, below / height, 1 - (_NAMES + 0.12) / WIDTH, _ROW * n_rows / height))
    style(axes, "", x=x, grid="x")
    return figure, axes


def said(estimate: Mapping[str, Any] | None, *, signed: bool = False, count: bool = True) -> str:
    """An estimate in a few characters: ``0.304 (0.22–0.39), n = 135``, or that there is none.

    Example:
        >>> said({"value": 0.12, "low": 0.02, "high": 0.2, "n": 40}, signed=True)
        '+0.120 (+0.020 to +0.200), n = 40'
    """
    if estimate is None or estimate.get("value") is None:
        return "not estimable"
    form, link = ("+z.3f", " to ") if signed else ("z.3f", "–")
    text = format(estimate["value"], form)
    if estimate.get("low") is not None and estimate.get("high") is not None:
        text += f" ({link.join(format(estimate[side], form) for side in ('low', 'high'))})"
    text = text.replace("-", "\N{MINUS SIGN}")
    return text + (f", n = {estimate['n']:,}" if count and estimate.get("n") else "")


def _signed_tick(value: float, _: object) -> str:
    return "0" if abs(value) < 1e-9 else f"{value:+.2g}".replace("-", "\N{MINUS SIGN}")


def _range(estimates: Sequence[Mapping[str, Any] | None], reference: float | None) -> tuple[float, float]:
    """Limits of the axis: all intervals and the reference, with some air."""
    ends = [e[side] for e in estimates if e is not None for side in ("value", "low", "high") if e.get(side) is not None]
    ends += [] if reference is None else [reference]
    if not ends:
        return 0.0, 1.0
    low, high = min(ends), max(ends)
    air = max(0.06 * (high - low), (_LEAST_SPAN - (high - low)) / 2, 0.01)
    return low - air, high + air


def _draw(axes: Axes, place: int, estimate: Mapping[str, Any] | None, mark: Mark) -> None:
    if estimate is None or estimate.get("value") is None:
        return
    shape, size, fill, edge = _MARKS[mark]
    if estimate.get("low") is not None and estimate.get("high") is not None:
        axes.plot(
            [estimate["low"], estimate["high"]], [place, place], color=edge, linewidth=2.6 if mark == "lead" else 2,
            solid_capstyle="butt", zorder=2,
        )  # fmt: skip
    axes.plot(
        estimate["value"], place, shape, markersize=size, markerfacecolor=fill, markeredgecolor=edge,
        markeredgewidth=1.5, zorder=3,
    )  # fmt: skip


def _name(axes: Axes, place: int, name: str, value: str, mark: Mark) -> None:
    where = axes.get_yaxis_transform()
    color, weight = (MUTED if mark == "quiet" else INK), ("bold" if mark == "lead" else "normal")
    text = plot_text(name, limit=_LABEL)
    axes.text(
        -0.03, place - 0.02, text, transform=where, ha="right", va="bottom", fontsize=9, color=color, fontweight=weight
    )
    axes.text(-0.03, place + 0.05, value, transform=where, ha="right", va="top", fontsize=7.8, color=MUTED)
