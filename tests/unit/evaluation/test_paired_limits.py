"""DeLong's covariance against its definition, and limits of differences against published ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, t

from medgraft.evaluation.intervals import wilson
from medgraft.evaluation.paired_limits import combine_limits, delong_difference, expanded_level, few_units
from medgraft.types import FloatArray, IntArray


def naive(y: IntArray, scores: list[FloatArray], unit: IntArray) -> tuple[list[float], FloatArray]:
    """AUROCs and covariance (2, 2) as Obuchowski writes them: every pair of images compared, patient by patient."""
    cases, rest = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    areas, of_cases, of_rest = [], [], []
    for score in scores:
        kernel = np.array([[(score[i] > score[j]) + 0.5 * (score[i] == score[j]) for j in rest] for i in cases])
        areas.append(float(kernel.mean()))
        of_cases.append(kernel.mean(axis=1))
        of_rest.append(kernel.mean(axis=0))
    units, m, n = sorted(set(unit.tolist())), len(cases), len(rest)
    i10, i01 = len(set(unit[cases].tolist())), len(set(unit[rest].tolist()))

    def summed(values: list[FloatArray], model: int, which: IntArray, one: int) -> float:
        inside = unit[which] == one
        return float(values[model][inside].sum() - inside.sum() * areas[model])

    covariance = np.zeros((2, 2))
    for a in range(2):
        for b in range(2):
            s10 = sum(summed(of_cases, a, cases, u) * summed(of_cases, b, cases, u) for u in units)
            s01 = sum(summed(of_rest, a, rest, u) * summed(of_rest, b, rest, u) for u in units)
            s11 = sum(summed(of_cases, a, cases, u) * summed(of_rest, b, rest, u) for u in units)
            s11 += sum(summed(of_cases, b, cases, u) * summed(of_rest, a, rest, u) for u in units)
            covariance[a, b] = (
                s10 * i10 / ((i10 - 1) * m) / m
                + s01 * i01 / ((i01 - 1) * n) / n
                + s11 * len(units) / ((len(units) - 1) * m * n)
            )
    return areas, covariance


def test_delong_agrees_with_every_pair_compared_in_1000_cases() -> None:
    """With ties, patients of several images and of both kinds, and a class of few."""
    rng = np.random.default_rng(0)
    compared = 0
    while compared < 1000:
        n = int(rng.integers(6, 24))
        y = (rng.random(n) < rng.uniform(0.2, 0.8)).astype(np.int64)
        unit = np.arange(n) if compared % 4 == 0 else rng.integers(0, n // 2, size=n)
        unit = np.unique(unit, return_inverse=True)[1]
        scores = [np.round(rng.normal(size=n) + y, int(rng.integers(0, 3))) for _ in range(2)]
        found = delong_difference(y, scores[0], scores[1], unit=unit)
        if min(len(set(unit[y == 1].tolist())), len(set(unit[y == 0].tolist()))) < 2:
            assert found is None
            continue
        assert found is not None
        areas, covariance = naive(y, scores, unit)
        assert (found.first, found.second) == pytest.approx(areas, abs=1e-12)
        assert np.array(found.covariance) == pytest.approx(covariance, abs=1e-9)
        expected = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        assert found.variance == pytest.approx(max(0.0, expected), abs=1e-9)
        compared += 1


def test_one_image_per_patient_is_delongs_own_variance() -> None:
    rng = np.random.default_rng(1)
    y = np.arange(40) % 2
    scores = [rng.normal(size=40) + y for _ in range(2)]
    found = delong_difference(y, scores[0], scores[1], unit=np.arange(40))
    kernels = [np.greater.outer(score[y == 1], score[y == 0]).astype(float) for score in scores]
    moved = kernels[0] - kernels[1]
    expected = moved.mean(axis=1).var(ddof=1) / 20 + moved.mean(axis=0).var(ddof=1) / 20
    assert found is not None and found.freedom is None
    assert found.variance == pytest.approx(expected) and found.value == pytest.approx(moved.mean())
    assert -1 < found.correlation < 1


def test_a_perfect_model_is_correlated_with_nothing() -> None:
    y = np.arange(20) % 2
    found = delong_difference(y, y.astype(float), np.random.default_rng(0).normal(size=20), unit=np.arange(20))
    assert found is not None and found.correlation == 0 and found.variance > 0


def test_copies_of_an_image_change_nothing_when_they_belong_to_one_patient() -> None:
    rng = np.random.default_rng(2)
    y = np.arange(30) % 2
    scores = [rng.normal(size=30) + y for _ in range(2)]
    once = delong_difference(y, scores[0], scores[1], unit=np.arange(30))
    thrice = delong_difference(
        np.repeat(y, 3), np.repeat(scores[0], 3), np.repeat(scores[1], 3), unit=np.repeat(np.arange(30), 3)
    )
    assert once is not None and thrice is not None
    assert thrice.variance == pytest.approx(once.variance) and thrice.freedom == 14


@pytest.mark.parametrize(
    ("table", "expected"),
    [((36, 12, 2, 0), (0.0569, 0.3404)), ((54, 0, 0, 0), (-0.0664, 0.0664))],
)
def test_limits_of_paired_shares_are_newcombes(table: tuple[int, int, int, int], expected: tuple[float, float]) -> None:
    """Counts: both right, only the first, only the second, neither. Expected: examples of Newcombe 1998."""
    a, b, c, _ = table
    n = sum(table)
    first = np.repeat([1.0, 1.0, 0.0, 0.0], table)
    second = np.repeat([1.0, 0.0, 1.0, 0.0], table)
    product = first.std() * second.std()
    phi = float(np.mean((first - first.mean()) * (second - second.mean())) / product) if product else 0.0
    limits = [wilson(share, n) for share in ((a + b) / n, (a + c) / n)]
    found = combine_limits((a + b) / n, (a + c) / n, limits[0], limits[1], correlation=phi)
    assert found == pytest.approx(expected, abs=5e-4)


def test_limits_stay_within_one() -> None:
    assert combine_limits(1.0, 0.0, (0.2, 1.0), (0.0, 0.8), correlation=0.0) == pytest.approx(
        (1 - 1.1314, 1.0), abs=1e-4
    )


def test_a_few_patients_raise_the_level_and_many_do_not() -> None:
    freedom, stretch = few_units(np.array([10.0, 10.0]))
    assert freedom == pytest.approx(18) and stretch == pytest.approx(np.sqrt(10 / 9))
    reach = norm.ppf(0.5 + expanded_level(0.95, np.array([10.0, 10.0])) / 2)
    assert reach == pytest.approx(np.sqrt(10 / 9) * t.ppf(0.975, 18))
    assert expanded_level(0.95, np.array([1e6, 1e6])) == pytest.approx(0.95, abs=1e-5)
