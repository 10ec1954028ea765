"""Dots with intervals: what they show, and that anything can be drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from medgraft.report.interval_plots import interval_figure, said


def estimate(value: float | None, low: float | None, high: float | None, n: int = 394) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "level": 0.95, "n": n, "method": "", "reason": ""}


def words(figure: Figure) -> str:
    return " | ".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


def test_values_stand_beneath_their_names_and_a_shared_n_below_the_axis() -> None:
    rows = [("This model", estimate(0.871, 0.835, 0.901)), ("Thumbnails", estimate(0.764, 0.72, 0.8))]
    figure = interval_figure(rows, x="AUROC", reference=0.5, marks=["lead", "plain"])
    assert "This model | 0.871 (0.835–0.901) |" in words(figure)
    assert "AUROC, n = 394" in words(figure)
    lines = {tuple(np.ravel(line.get_xdata())) for line in figure.axes[0].lines}
    assert {(0.835, 0.901), (0.871,), (0.72, 0.8), (0.764,), (0.5, 0.5)} <= lines
    low, high = figure.axes[0].get_xlim()
    assert low < 0.5 and high > 0.901


def test_an_n_that_differs_stands_with_each_row() -> None:
    figure = interval_figure([("a", estimate(0.9, 0.8, 1.0, 20)), ("b", estimate(0.7, 0.6, 0.8, 1200))], x="AUROC")
    assert "0.900 (0.800–1.000), n = 20" in words(figure) and "0.700 (0.600–0.800), n = 1,200" in words(figure)


def test_differences_carry_a_sign() -> None:
    figure = interval_figure([("gain", estimate(0.1, -0.02, 0.22))], x="gained", reference=0.0)
    assert "+0.100 (−0.020 to +0.220)" in words(figure)
    assert said(estimate(-0.0001, -0.2, 0.1), signed=True) == "+0.000 (−0.200 to +0.100), n = 394"


@pytest.mark.parametrize("given", [None, estimate(None, None, None, 0), estimate(0.5, None, None)])
def test_rows_without_a_value_or_an_interval_keep_their_place(given: dict[str, Any] | None) -> None:
    figure = interval_figure([("empty", given), ("full", estimate(0.9, 0.8, 1.0))], x="AUROC", marks=["quiet", "plain"])
    expected = "0.500" if given is not None and given["value"] is not None else "not estimable"
    assert f"empty | {expected}" in words(figure) and "full" in words(figure)


def test_nothing_and_hostile_names_can_be_drawn() -> None:
    interval_figure([], x="AUROC").canvas.draw()
    figure = interval_figure([("$\\frac{1}{$ \U0001f480" + "long " * 20, estimate(0.5, 0.5, 0.5))], x="x " * 60)
    figure.canvas.draw()
    assert r"\$" in words(figure) and "…" in words(figure) and "□" in words(figure)
