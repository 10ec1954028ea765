"""Tests of "the two models are equally good" on the same patients.

    ranking            ─► DeLong, components summed by patient
    right or wrong     ─► McNemar, exact: whose answers are whose is swapped patient by patient
                       └► Durkalski's chi-square, where patients have several images
    balanced accuracy  ─┬► standard error of the paired bootstrap of patients
    ranking            ─┘

A p value says how often chance alone would make the difference seen or a larger one. It is no size of a difference:
that is in the interval (`differences.py`). Several models against one reference multiply the chances; `holm` corrects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.special import chdtrc, ndtr, stdtr
from scipy.stats import binom

from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.bootstrap import Bootstrap
from medgraft.evaluation.differences import AnswerPair, Answers
from medgraft.evaluation.intervals import NO_SPREAD
from medgraft.evaluation.paired_limits import NO_VARIANCE, delong_difference, few_units
from medgraft.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class PairedTest:
    """One test of no difference, two-sided.

    Attributes:
        name: ``delong``, ``mcnemar``, ``durkalski`` or ``bootstrap``.
        metric: what is compared: ``auroc``, ``accuracy`` or ``balanced_accuracy``.
        p: 0..1; None where the test has nothing to say.
        statistic: z, t, chi-square, or the surplus of images that only the first has right; None without a test.
        method: what was computed, in words.
        n: images.
        n_units: patients, or images where patients are unknown.
        detail: counts and further values, such as ``mid_p`` or degrees of ``freedom``.
        reason: why there is no p.
    """

    name: str
    metric: str
    p: float | None
    statistic: float | None
    method: str
    n: int
    n_units: int
    detail: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def paired_tests(
    first: Answers, second: Answers, config: EvaluationConfig, *, patients_known: bool, seed: int
) -> tuple[PairedTest, ...]:
    """All tests that fit the answers.

    Args:
        first: answers to N images.
        second: answers to the same images in the same order.
        config: number of resamples.
        patients_known: whether ``patient_ids`` are patients; only named in the methods.
        seed: of the resamples.

    Returns:
        ``delong`` (two classes), ``mcnemar``, ``durkalski`` (patients with several images), and ``bootstrap`` of the
        AUROC of more than two classes and of balanced accuracy.

    Raises:
        ValueError: the answers are not of the same images.
    """
    kind = "patient" if patients_known else "image"
    pair = AnswerPair(first, second, Bootstrap(first.scores, config, seed=seed, kind=kind))
    tests = [_delong(pair)] if pair.n_classes == 2 else []
    tests.append(_mcnemar(pair))
    if not pair.bootstrap.singles:
        tests.append(_durkalski(pair))
    if pair.n_classes > 2:
        tests.append(_bootstrap(pair, "auroc"))
    return (*tests, _bootstrap(pair, "balanced_accuracy"))


def exact_swap(surplus: IntArray) -> tuple[float, float]:
    """Exact two-sided p, and mid-p, of a sum whose terms had either sign with equal chance.

    With terms of -1, 0 and 1 this is McNemar's exact test. The distribution is convolved, not drawn.

    Args:
        surplus: (U,) whole numbers: of each patient, images that only the first model has right less those that
            only the second has right.

    Returns:
        p and mid-p, which counts half of the chance of exactly this sum and is less conservative.

    Source:
        Fisher, The Design of Experiments, 1935, section 21 (paired randomization); Fagerland, Lydersen and Laake,
        BMC Medical Research Methodology 2013; 13:91 (mid-p).
    """
    sizes, counts = np.unique(np.abs(surplus[surplus != 0]), return_counts=True)
    chance = np.ones(1)  # of every sum of the positive terms
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        own = np.zeros(size * count + 1)
        own[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chance = np.convolve(chance, own)
    total = len(chance) - 1
    distance, seen = np.abs(2 * np.arange(total + 1) - total), abs(int(surplus.sum()))
    at, beyond = (max(0.0, float(chance[mask].sum())) for mask in (distance == seen, distance > seen))
    return min(1.0, at + beyond), min(1.0, at / 2 + beyond)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for being several, so that any error among them has the level asked for.

    Source:
        Holm, Scandinavian Journal of Statistics 1979; 6:65-70.
    """
    known = sorted((p, number) for number, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, number) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - place)))
        corrected[number] = largest
    return corrected


def _delong(pair: AnswerPair) -> PairedTest:
    kind = pair.bootstrap.kind
    method = "DeLong" if pair.bootstrap.singles else f"DeLong, components summed by {kind} (Obuchowski)"
    if pair.missing("auroc"):
        return _silent(pair, "delong", "auroc", method, pair.missing("auroc"))
    index = pair.ranked[0]
    scores = [one.scores.y_proba[:, index] for one in pair.both]
    found = delong_difference(pair.y_true == index, scores[0], scores[1], unit=pair.unit)
    if found is None:
        return _silent(pair, "delong", "auroc", method, f"fewer than two {kind}s of a class")
    if found.variance <= NO_VARIANCE:
        return _no_variance(pair, "delong", "auroc", method, found.value)
    z = found.value / math.sqrt(found.variance)
    detail = {} if found.freedom is None else {"freedom": float(found.freedom)}
    return _test(pair, "delong", "auroc", two_sided(z, found.freedom), z, method, detail)


def _mcnemar(pair: AnswerPair) -> PairedTest:
    first, second = (one.right for one in pair.both)
    detail = {"only_first": float((first & ~second).sum()), "only_second": float((second & ~first).sum())}
    singles = pair.bootstrap.singles
    method = "McNemar, exact" if singles else f"McNemar, exact, answers swapped by {pair.bootstrap.kind}"
    if pair.n == 0:
        return _silent(pair, "mcnemar", "accuracy", method, "0 images")
    p, mid = exact_swap(_surplus(pair))
    seen = detail["only_first"] - detail["only_second"]
    return _test(pair, "mcnemar", "accuracy", p, seen, method, {**detail, "mid_p": mid})


def _durkalski(pair: AnswerPair) -> PairedTest:
    """Patients count the same whatever their number of images.

    Source:
        Durkalski, Palesch, Lipsitz and Rust, Statistics in Medicine 2003; 22:2417-2428, equation 5.
    """
    method = f"Durkalski, chi-square over {pair.bootstrap.kind}s"
    shares = _surplus(pair) / np.bincount(pair.unit)
    squares = float((shares**2).sum())
    if squares == 0:
        return _no_variance(pair, "durkalski", "accuracy", method, 0.0)
    statistic = float(shares.sum()) ** 2 / squares
    return _test(pair, "durkalski", "accuracy", float(chdtrc(1, statistic)), statistic, method, {"freedom": 1.0})


def _bootstrap(pair: AnswerPair, metric: str) -> PairedTest:
    method = f"standard error of the paired {pair.bootstrap.plain_method}"
    if pair.missing(metric):
        return _silent(pair, "bootstrap", metric, method, pair.missing(metric))
    if pair.units.min() < 2:
        return _silent(pair, "bootstrap", metric, method, f"a class of one {pair.bootstrap.kind}")
    value, drawn = pair.resampled.value(metric), pair.resampled.drawn[metric]
    error = float(np.nanstd(drawn))
    if error <= NO_SPREAD:
        return _no_variance(pair, "bootstrap", metric, method, value)
    freedom, stretch = few_units(pair.units)
    t = value / (error * stretch)
    return _test(pair, "bootstrap", metric, two_sided(t, freedom), t, method, {"freedom": freedom})


def two_sided(statistic: float, freedom: float | None) -> float:
    """Two-sided p of a z, or of a t with these degrees of freedom."""
    lower = -abs(statistic)
    return float(2 * (ndtr(lower) if freedom is None else stdtr(freedom, lower)))


def _surplus(pair: AnswerPair) -> IntArray:
    """(U,) images that only the first has right less those that only the second has right, of each patient."""
    gain: FloatArray = pair.both[0].right.astype(np.float64) - pair.both[1].right
    return np.bincount(pair.unit, weights=gain).round().astype(np.int64)


def _test(
    pair: AnswerPair, name: str, metric: str, p: float, statistic: float, method: str, detail: dict[str, float]
) -> PairedTest:
    return PairedTest(name, metric, p, statistic, method, pair.n, pair.bootstrap.n_units, detail)


def _silent(pair: AnswerPair, name: str, metric: str, method: str, reason: str) -> PairedTest:
    return PairedTest(name, metric, None, None, method, pair.n, pair.bootstrap.n_units, reason=reason)


def _no_variance(pair: AnswerPair, name: str, metric: str, method: str, value: float) -> PairedTest:
    """Equal values never speak against equality; different ones without any variance cannot be judged this way."""
    if abs(value) <= NO_SPREAD:
        return _test(pair, name, metric, 1.0, 0.0, method, {})
    return _silent(pair, name, metric, method, "the difference shows no variance")
