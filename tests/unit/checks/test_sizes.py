"""How many cases an interval needs, and what is said where there are fewer."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from medgraft.checks.sizes import cases_needed, check_half_width
from medgraft.data.manifest import Manifest
from medgraft.evaluation.intervals import wilson


def manifest(labels: list[str], patients: list[str] | None = None) -> Manifest:
    names = [f"image-{row}" for row in range(len(labels))]
    columns = {"sample_id": names, "path": names, "label": labels, "patient_id": patients or []}
    source = "column patient" if patients else "none"
    return Manifest.from_columns(columns, root=Path("/data"), classes=("a", "b", "c"), patient_source=source)


def half_width(share: float, n: int, level: float) -> float:
    low, high = wilson(share, n, level=level)
    return (high - low) / 2


def test_cases_needed_is_what_a_search_finds() -> None:
    for expected, wanted, level in product(
        (0, 0.02, 0.3, 0.5, 0.9, 1), (0.02, 0.05, 0.1, 0.3, 0.49), (0.8, 0.95, 0.99)
    ):
        found = 1
        while half_width(expected, found, level) > wanted:
            found += 1
        assert cases_needed(expected, wanted, level) == found, (expected, wanted, level)


def test_known_numbers_and_large_ones() -> None:
    assert cases_needed(0.9, 0.05) == 141
    n = cases_needed(0.9, 0.0005)
    assert half_width(0.9, n, 0.95) <= 0.0005 < half_width(0.9, n - 1, 0.95)


@pytest.mark.parametrize(
    ("expected", "wanted", "level"), [(1.1, 0.1, 0.95), (0.9, 0, 0.95), (0.9, 0.5, 0.95), (0.9, 0.1, 1)]
)
def test_impossible_wishes_are_refused(expected: float, wanted: float, level: float) -> None:
    with pytest.raises(ValueError, match="no such interval"):
        cases_needed(expected, wanted, level)


def test_enough_cases_are_a_note_without_advice() -> None:
    (result,) = check_half_width(manifest(["a"] * 141 + ["b"] * 200), half_width=0.05)
    assert (result.code, result.severity, result.advice) == ("SIZE_HALF_WIDTH", "note", "")
    assert "141 independent images" in result.title and "every class has as many" in result.title


def test_fewer_cases_are_counted_by_class_in_one_note() -> None:
    (result,) = check_half_width(manifest(["a"] * 141 + ["b"] * 60 + ["c"] * 12), half_width=0.05)
    assert result.severity == "note"  # 12 images of a class are warned of already
    assert "b (60), c (12)" in result.title and "a (" not in result.title and result.advice
    assert result.evidence["needed"] == 141
    assert result.evidence["classes"]["b"] == {"cases": 60, "images": 60, "design_effect": 1.0}


def test_less_than_a_quarter_is_a_warning() -> None:
    assert check_half_width(manifest(["a"] * 200 + ["b"] * 34), half_width=0.05)[0].severity == "warning"
    assert check_half_width(manifest(["a"] * 200 + ["b"] * 36), half_width=0.05)[0].severity == "note"


def test_images_of_one_patient_count_once() -> None:
    labels = ["a"] * 300 + ["b"] * 300
    patients = [f"p{row // 15}" for row in range(600)]
    (result,) = check_half_width(manifest(labels, patients), half_width=0.05)
    assert result.severity == "warning" and "141 patients" in result.title and "a (20), b (20)" in result.title
    assert result.evidence["classes"]["a"] == {"cases": 20, "images": 300, "design_effect": 15.0}
    # so few that they are warned of as groups
    few = [f"p{row // 100}" for row in range(600)]
    assert check_half_width(manifest(labels, few), half_width=0.05)[0].severity == "note"


def test_nothing_tested_nothing_said() -> None:
    assert check_half_width(manifest([]), half_width=0.05) == ()
