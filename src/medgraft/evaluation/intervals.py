"""Intervals: exact ones where they exist, resampling of patients elsewhere.

No interval here has zero width because a score is perfect: Wilson for shares, Newcombe's score
interval for an AUROC of 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from scipy.optimize import brentq
from scipy.stats import rankdata

from medgraft.types import FloatArray, IntArray

Limits = tuple[float, float]
BLOCK_VALUES = 4_000_000  # weights held at a time: 32 MB


def _z(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)


def wilson(value: float, n: int, *, level: float = 0.95) -> Limits:
    """Score interval of a share.

    Args:
        value: share seen, 0..1. For the mean of values within 0..1 that are not all 0 or 1 the
            interval is wider than needed, since no such mean varies more than a share.
        n: independent units behind it, at least 1.
        level: coverage, 0..1.

    Source:
        Wilson, JASA 1927. 18 of 20: 0.699 to 0.972.

    Example:
        >>> "{:.2f}-{:.2f}".format(*wilson(18 / 20, 20))
        '0.70-0.97'
    """
    if n < 1 or not 0 <= value <= 1:
        raise ValueError(f"wilson needs a share within 0..1 of at least one unit, got {value} of {n}")
    z2 = _z(level) ** 2
    center = (value + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (value * (1 - value) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if value == 0 else max(0.0, center - half)
    high = 1.0 if value == 1 else min(1.0, center + half)
    return low, high


def wilson_f1(value: float, n: int, *, level: float = 0.95) -> Limits:
    """Score interval of an F1, through the share F* = TP / (TP + FP + FN) with F1 = 2 F* / (1 + F*).

    Source:
        Hand, Christen & Kirielle, Machine Learning 2021, for F*.
    """
    low, high = wilson(value / (2 - value), n, level=level)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def delong(positive: IntArray, score: FloatArray, *, level: float = 0.95) -> Limits | None:
    """Interval of an AUROC from independent images, on the logit scale so that it stays within 0..1.

    Args:
        positive: (N,) 0 or 1.
        score: (N,) higher means more positive.
        level: coverage, 0..1.

    Returns:
        None where the method has nothing to say: fewer than two positives or negatives, a variance
        of 0, an AUROC of 0 or 1. Use `newcombe_auroc` then.

    Source:
        DeLong, DeLong & Clarke-Pearson, Biometrics 1988; midranks as in Sun & Xu, IEEE SPL 2014;
        logit limits as in Pepe, 2003, section 5.2.
    """
    mask = np.asarray(positive, dtype=bool)
    n_positive, n_negative = int(mask.sum()), int((~mask).sum())
    if min(n_positive, n_negative) < 2:
        return None
    rank_all = rankdata(score)
    of_positive = (rank_all[mask] - rankdata(score[mask])) / n_negative
    of_negative = 1 - (rank_all[~mask] - rankdata(score[~mask])) / n_positive
    area = float(of_positive.mean())
    variance = float(of_positive.var(ddof=1) / n_positive + of_negative.var(ddof=1) / n_negative)
    if variance <= 1e-18 or not 0 < area < 1:
        return None
    center, half = math.log(area / (1 - area)), _z(level) * math.sqrt(variance) / (area * (1 - area))
    return _expit(center - half), _expit(center + half)


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def newcombe_auroc(value: float, n_positive: int, n_negative: int, *, level: float = 0.95) -> Limits:
    """Score interval of an AUROC that has a width even at 0 and 1, where DeLong and resampling have none.

    Args:
        value: AUROC seen, 0..1.
        n_positive: independent positives, at least 1.
        n_negative: independent negatives, at least 1.
        level: coverage, 0..1.

    Source:
        Newcombe, Statistics in Medicine 2006; 25:559-573, method 5: the Hanley-McNeil variance at the
        limit itself, as Wilson's interval does for shares, with (m + n) / 2 - 1 in it for both sizes.
    """
    if min(n_positive, n_negative) < 1 or not 0 <= value <= 1:
        raise ValueError(f"needs an AUROC within 0..1 and both kinds, got {value}, {n_positive}, {n_negative}")
    z2 = _z(level) ** 2
    extra = (n_positive + n_negative) / 2 - 1

    def excess(theta: float) -> float:
        shape = 1 + extra * (1 - theta) / (2 - theta) + extra * theta / (1 + theta)
        return (value - theta) ** 2 - z2 * theta * (1 - theta) * shape / (n_positive * n_negative)

    tiny = 1e-12  # 0 and 1 are roots of their own when the value is 0 or 1
    low = float(brentq(excess, 0.0, min(value, 1 - tiny))) if value > tiny else 0.0
    high = float(brentq(excess, max(value, tiny), 1.0)) if value < 1 - tiny else 1.0
    return low, high


def unit_weights(n_units: int, *, n_resamples: int, seed: int) -> Iterator[FloatArray]:
    """Bootstrap of units: how often each is drawn, in blocks (b, U) that sum to U per row.

    The rows together are ``n_resamples`` and depend on the seed and U only.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, min(n_resamples, BLOCK_VALUES // max(1, n_units)))
    for begin in range(0, n_resamples, rows):
        count = min(rows, n_resamples - begin)
        drawn = generator.integers(0, n_units, size=(count, n_units))
        drawn += np.arange(count)[:, None] * n_units
        yield np.bincount(drawn.ravel(), minlength=count * n_units).reshape(count, n_units).astype(np.float64)


def percentile_limits(value: float, resampled: FloatArray, *, level: float = 0.95) -> Limits | None:
    """Percentile interval (Efron), widened to hold the value when resampling is biased away from it.

    Args:
        value: the estimate.
        resampled: (B,) the estimate in each resample; NaN where it was not estimable, left out.
        level: coverage, 0..1.

    Returns:
        None when no two resamples differ: resampling then says nothing about the width.
    """
    usable = resampled[~np.isnan(resampled)]
    if len(usable) < 2 or np.ptp(usable) <= 1e-12:
        return None
    low, high = np.quantile(usable, [0.5 - level / 2, 0.5 + level / 2])
    return min(float(low), value), max(float(high), value)


def calibration_limits(value: float, resampled: FloatArray, noise: FloatArray, *, level: float = 0.95) -> Limits | None:
    """Interval of a calibration error that can reach 0, which the plain percentile interval cannot.

    A sum of absolute gaps grows with noise, so resamples lie above the estimate and the estimate
    above the truth. The upper limit is the percentile; the lower one is the estimate less the upper
    quantile of ``noise``, the summed absolute *change* of the gaps in each resample, since by the
    triangle inequality the error moves by no more than that. Conservative.

    Args:
        value: calibration error seen.
        resampled: (B,) the error in each resample.
        noise: (B,) summed absolute change of the bins' gaps in each resample.
        level: coverage, 0..1.
    """
    limits = percentile_limits(value, resampled, level=level)
    if limits is None:
        return None
    return max(0.0, value - float(np.nanquantile(noise, 0.5 + level / 2))), limits[1]
