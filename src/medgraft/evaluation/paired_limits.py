"""Pieces that intervals and tests of a difference are made of, apart from any model.

scores of two models ─► DeLong's covariance, by patient ─► correlation ─┐
limits of two values ───────────────────────────────────────────────────┴► limits of their difference
resamples of few patients ─► the level their percentiles are taken at
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from medgraft.evaluation.intervals import Limits, auroc_pulls
from medgraft.types import FloatArray, IntArray

NO_VARIANCE = 1e-18


@dataclass(frozen=True, slots=True)
class AreaDifference:
    """Two AUROCs of the same images.

    Attributes:
        first: AUROC, 0..1.
        second: AUROC, 0..1.
        covariance: of the two, ((variance of the first, covariance), (covariance, variance of the second)).
        freedom: degrees of freedom of Student's distribution; None for the normal one.
    """

    first: float
    second: float
    covariance: tuple[tuple[float, float], tuple[float, float]]
    freedom: int | None

    @property
    def value(self) -> float:
        return self.first - self.second

    @property
    def variance(self) -> float:
        """Of the difference."""
        (first, both), (_, second) = self.covariance
        return max(0.0, first - 2 * both + second)

    @property
    def correlation(self) -> float:
        """Of the two AUROCs; 0 where one of them shows no variance."""
        (first, both), (_, second) = self.covariance
        return both / math.sqrt(first * second) if min(first, second) > NO_VARIANCE else 0.0


def delong_difference(
    positive: IntArray, first: FloatArray, second: FloatArray, *, unit: IntArray
) -> AreaDifference | None:
    """Difference of two AUROCs with DeLong's variance, images of a patient taken together.

    Args:
        positive: (N,) 0 or 1.
        first: (N,) scores, higher means more positive.
        second: (N,) scores of the other model.
        unit: (N,) patient of each image, 0..U-1. With one image per patient this is DeLong's own variance.

    Returns:
        None with fewer than two patients with positives, or with negatives.

    Source:
        Obuchowski, Biometrics 1997; 53:567-578, section 3: variance and covariance of DeLong's components summed by
        patient. The distribution is Student's where patients have several images, with one degree of freedom less
        than there are patients of the rarer kind.
    """
    mask = np.asarray(positive, dtype=np.bool_)
    n_units = len(np.unique(unit))
    n_cases, n_rest = len(np.unique(unit[mask])), len(np.unique(unit[~mask]))
    if min(n_cases, n_rest) < 2:
        return None
    (area, pull), (other, other_pull) = auroc_pulls(positive, first), auroc_pulls(positive, second)
    pulls = np.stack([pull, other_pull])
    of_cases = np.stack([np.bincount(unit, weights=row) for row in np.where(mask, pulls, 0.0)])
    of_rest = np.stack([np.bincount(unit, weights=row) for row in np.where(mask, 0.0, pulls)])
    shared = of_cases @ of_rest.T
    table = (
        of_cases @ of_cases.T * n_cases / (n_cases - 1)
        + of_rest @ of_rest.T * n_rest / (n_rest - 1)
        + (shared + shared.T) * n_units / (n_units - 1)
    )
    freedom = None if n_units == len(mask) else min(n_cases, n_rest) - 1
    covariance = (float(table[0, 0]), float(table[0, 1])), (float(table[1, 0]), float(table[1, 1]))
    return AreaDifference(area, other, covariance, freedom)


def combine_limits(first: float, second: float, of_first: Limits, of_second: Limits, *, correlation: float) -> Limits:
    """Limits of a difference from the limits of both values.

    Args:
        first: value.
        second: value that is taken from it.
        of_first: its limits.
        of_second: its limits.
        correlation: of the two estimates, -1..1; 0 is conservative where they are correlated positively.

    Source:
        Zou and Donner, Statistics in Medicine 2008; 27:1693-1702, equations 12 and 13.
    """

    def reach(down: float, up: float) -> float:
        return math.sqrt(max(0.0, down**2 - 2 * correlation * down * up + up**2))

    value = first - second
    low = value - reach(first - of_first[0], of_second[1] - second)
    high = value + reach(of_first[1] - first, second - of_second[0])
    return max(-1.0, low), min(1.0, high)


def few_units(units: FloatArray) -> tuple[float, float]:
    """What a mean over groups of few patients asks for: degrees of freedom, and a factor for its standard error.

    Args:
        units: (K,) patients of each group, at least 2; groups weigh the same.

    Source:
        Welch, Biometrika 1947; 34:28-35 for the degrees of freedom, groups taken to vary alike. The factor makes up for
        resampling n patients, which gives a variance of (n - 1) / n of the unbiased one.
    """
    freedom = (1 / units).sum() ** 2 / (1 / (units**2 * (units - 1))).sum()
    return float(freedom), math.sqrt((1 / (units - 1)).sum() / (1 / units).sum())


def expanded_level(level: float, units: FloatArray) -> float:
    """Level at which percentiles of resamples reach as far as Student's quantile with `few_units` would.

    Args:
        level: asked for, 0..1.
        units: (K,) patients of each group, at least 2.

    Source:
        Hesterberg, The American Statistician 2015; 69:371-386, section 4.2 (expanded percentile interval).
    """
    freedom, stretch = few_units(units)
    return float(2 * ndtr(stretch * stdtrit(freedom, 0.5 + level / 2)) - 1)
