"""Differences between two sets of answers to the same images, each with its interval.

    answers A, answers B ─┬─ AUROC, two classes     ─► DeLong's covariance, summed by patient
                          ├─ AUROC, more classes ───┬► the same resamples of patients for both
                          ├─ balanced accuracy ─────┘
                          └─ accuracy               ─► limits of both shares and their correlation

Both sets share their images and most of their luck, so a difference is known better than either value. Where
resampling shows no spread although the answers differ, the interval is made wider than needed, never of width 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.bootstrap import Bootstrap, Mask, Resampled
from medgraft.evaluation.estimates import share_limits
from medgraft.evaluation.intervals import Limits, auroc_pulls, clustered_delong, delong, newcombe_auroc, wilson
from medgraft.evaluation.metrics import rank_scores, ranking_metrics
from medgraft.evaluation.paired_limits import NO_VARIANCE, combine_limits, delong_difference, expanded_level
from medgraft.types import Estimate, FloatArray, IntArray, Scores

DifferenceMetric = Literal["auroc", "accuracy", "balanced_accuracy"]
METRICS: tuple[DifferenceMetric, ...] = ("auroc", "accuracy", "balanced_accuracy")
ALIKE = "the answers are the same"


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model, or one rule, said of N images.

    Attributes:
        scores: probabilities and truth.
        predicted: (N,) class indices, at whatever operating point.
    """

    scores: Scores
    predicted: IntArray

    def __post_init__(self) -> None:
        predicted = np.array(self.predicted, dtype=np.int64)
        if predicted.shape != (len(self.scores),):
            raise ValueError(f"predicted is {predicted.shape} for {len(self.scores)} images")
        if len(predicted) and not 0 <= predicted.min() <= predicted.max() < len(self.scores.classes):
            raise ValueError(f"predicted must be in 0..{len(self.scores.classes) - 1}")
        predicted.setflags(write=False)
        object.__setattr__(self, "predicted", predicted)

    @property
    def right(self) -> Mask:
        """(N,) True where the answer is the truth."""
        return np.equal(self.predicted, self.scores.y_true)

    def take(self, rows: IntArray) -> Answers:
        """The answers to the images at these positions, in this order."""
        scores, places = self.scores, np.asarray(rows, dtype=np.int64)
        ids, patients = ([names[row] for row in places.tolist()] for names in (scores.sample_ids, scores.patient_ids))
        kept = Scores(tuple(ids), tuple(patients), scores.classes, scores.y_true[places], scores.y_proba[places])
        return Answers(kept, self.predicted[places])


def require_same_images(first: Scores, second: Scores) -> None:
    """Refuse answers that cannot be paired.

    Raises:
        ValueError: naming what differs.
    """
    for name in ("sample_ids", "patient_ids", "classes"):
        if getattr(first, name) != getattr(second, name):
            raise ValueError(f"the two sets of answers are not of the same images: {name} differ")
    if not np.array_equal(first.y_true, second.y_true):
        raise ValueError("the two sets of answers are not of the same images: y_true differ")


def paired_differences(
    first: Answers,
    second: Answers,
    config: EvaluationConfig,
    *,
    patients_known: bool,
    seed: int,
    metrics: Sequence[str] = METRICS,
) -> dict[str, Estimate]:
    """First minus second, metric by metric.

    Answers that are the same on every image differ by 0 with an interval of width 0. Other answers never have an
    interval of width 0.

    Args:
        first: answers to N images.
        second: answers to the same images in the same order.
        config: level, resamples and kind of interval of the bootstrap.
        patients_known: whether ``patient_ids`` are patients; only named in the methods.
        seed: of the resamples; the same seed and patients give the same ones.
        metrics: any of `METRICS`. ``auroc`` is that of two classes, of more the mean of each against the rest;
            ``balanced_accuracy`` is the mean over the classes of the share found.

    Returns:
        By metric, each from -1 to 1; without a value, with the reason, where it is not estimable.

    Raises:
        ValueError: the answers are not of the same images, or a metric is none of these.

    Source:
        AUROC of two classes: `combine_limits` of DeLong's limits on the logit scale with the correlation of
        `delong_difference`; DeLong's symmetric limits hold a small difference of two high AUROCs too rarely (83 of 100
        with 40 patients). Accuracy: the same of Wilson's limits with the correlation of both shares by patient,
        Newcombe's method 8 (Statistics in Medicine 1998; 17:2635-2650) where patients have one image. The others:
        bootstrap of patients at `expanded_level`.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ValueError(f"no difference is defined for {', '.join(unknown)}; there are: {', '.join(METRICS)}")
    kind = "patient" if patients_known else "image"
    pair = AnswerPair(first, second, Bootstrap(first.scores, config, seed=seed, kind=kind))
    return {name: pair.estimate(name) for name in metrics}


class AnswerPair:
    """Two sets of answers to the same images, prepared for any weighting of the patients.

    Args:
        first: answers to N images.
        second: answers to the same images.
        bootstrap: of their patients.

    Raises:
        ValueError: they are not of the same images.
    """

    def __init__(self, first: Answers, second: Answers, bootstrap: Bootstrap) -> None:
        require_same_images(first.scores, second.scores)
        self.both, self.bootstrap = (first, second), bootstrap
        self.y_true, self.unit, self.level = first.scores.y_true, bootstrap.unit, bootstrap.level
        self.n, self.n_classes = len(first.scores), len(first.scores.classes)
        counts = np.bincount(self.y_true, minlength=self.n_classes)
        self.present = [k for k in range(self.n_classes) if counts[k]]
        self.ranked = [k for k in self.present if counts[k] < self.n]
        if self.n_classes == 2:
            self.ranked = self.ranked[-1:]  # either class gives the same AUROC
        self.same_scores = np.array_equal(first.scores.y_proba, second.scores.y_proba)
        self.same_answers = self.same_scores and np.array_equal(first.predicted, second.predicted)
        self._rankings = [
            [rank_scores(self.y_true == k, one.scores.y_proba[:, k], unit=self.unit) for k in self.ranked]
            for one in self.both
        ]

    def estimate(self, metric: str) -> Estimate:
        """First minus second."""
        reason = self.missing(metric)
        if reason:
            return Estimate(None, None, None, self.level, self.n, "", reason)
        if self.same_scores if metric == "auroc" else self.same_answers:
            return Estimate(0.0, 0.0, 0.0, self.level, self.n, ALIKE)
        if metric == "accuracy":
            return self._accuracy()
        if metric == "auroc" and self.n_classes == 2:
            return self._area()
        values = [self._values(one, metric) for one in self.both]
        limits, method = self._percentiles(metric), f"{self.bootstrap.method}, paired"
        if limits is None:
            limits, method = self._without_spread(metric, values)
        kept = len(self.ranked) if metric == "auroc" else len(self.present)
        reason = f"over {kept} of {self.n_classes} classes" if kept < self.n_classes else ""
        return Estimate(values[0] - values[1], *limits, self.level, self.n, method, reason)

    @cached_property
    def units(self) -> FloatArray:
        """Patients of each class that has an image."""
        return np.array([self.bootstrap.count(self.y_true == k) for k in self.present], dtype=np.float64)

    @cached_property
    def resampled(self) -> Resampled[str]:
        """AUROC and balanced accuracy, first minus second, of the images and of every resample of their patients."""
        return self.bootstrap.of(self._compute)

    def _percentiles(self, metric: str) -> Limits | None:
        """None without spread, or where a class has a single patient, whose spread nothing shows."""
        if self.units.min() < 2:
            return None
        return replace(self.resampled, level=expanded_level(self.level, self.units)).limits(metric)

    def _compute(self, weights: FloatArray) -> dict[str, FloatArray]:
        """Differences (B,) under weights (B, U); NaN where a weighting has lost a class."""
        first, second = (self._weighted(one, weights) for one in (0, 1))
        return {name: first[name] - second[name] for name in first}

    def _weighted(self, number: int, weights: FloatArray) -> dict[str, FloatArray]:
        answers, found = self.both[number], {}
        cases = np.zeros((len(self.present), self.bootstrap.n_units))
        hits = np.zeros_like(cases)
        for row, k in enumerate(self.present):
            of_class = self.y_true == k
            cases[row] = np.bincount(self.unit[of_class], minlength=cases.shape[1])
            hits[row] = np.bincount(self.unit[of_class & answers.right], minlength=cases.shape[1])
        total = weights @ cases.T
        found["balanced_accuracy"] = (weights @ hits.T / np.where(total > 0, total, np.nan)).mean(axis=1)
        if self.ranked:
            areas = [ranking_metrics(ranking, weights)[0] for ranking in self._rankings[number]]
            found["auroc"] = np.mean(areas, axis=0)
        return found

    def _values(self, answers: Answers, metric: str) -> float:
        if metric == "auroc":
            areas = [auroc_pulls(self.y_true == k, answers.scores.y_proba[:, k])[0] for k in self.ranked]
            return float(np.mean(areas))
        return float(np.mean([answers.right[self.y_true == k].mean() for k in self.present]))

    def missing(self, metric: str) -> str:
        """Why there is no value; an empty text where there is one."""
        if self.n == 0:
            return "0 images"
        if metric == "accuracy" or len(self.present) > 1:
            return ""
        if metric == "auroc" or self.n_classes == 2:
            name = self.both[0].scores.classes[self.present[0]]
            return f"all images are {name}"
        return ""

    def _area(self) -> Estimate:
        index, kind = self.ranked[0], self.bootstrap.kind
        case, scores = self.y_true == index, [one.scores.y_proba[:, index] for one in self.both]
        found = delong_difference(case, scores[0], scores[1], unit=self.unit)
        if found is None or found.variance <= NO_VARIANCE:
            values = [self._values(one, "auroc") for one in self.both]
            limits, method = self._without_spread("auroc", values)
            return Estimate(values[0] - values[1], *limits, self.level, self.n, method)
        of_each = [
            self._delong(case, score) or self._newcombe(value)
            for score, value in zip(scores, (found.first, found.second), strict=True)
        ]
        limits = combine_limits(found.first, found.second, *of_each, correlation=found.correlation)
        method = "delong, paired" if self.bootstrap.singles else f"delong, paired, by {kind}"
        return Estimate(found.value, *limits, self.level, self.n, method)

    def _delong(self, case: Mask, score: FloatArray) -> Limits | None:
        positive = case.astype(np.int64)
        if self.bootstrap.singles:
            return delong(positive, score, level=self.level)
        return clustered_delong(positive, score, self.unit, level=self.level)

    def _accuracy(self) -> Estimate:
        first, second = (one.right for one in self.both)
        everything = np.ones(self.n, dtype=np.bool_)
        value = float(first.mean()) - float(second.mean())
        if np.array_equal(first, second):
            limits, method = self._never_apart([everything])
            return Estimate(0.0, *limits, self.level, self.n, method)
        of_each = [share_limits(right, everything, self.bootstrap)[0] for right in (first, second)]
        limits = combine_limits(
            float(first.mean()), float(second.mean()), *of_each, correlation=self._correlation(first, second)
        )
        method = "wilson, paired" + ("" if self.bootstrap.singles else f", effective n by {self.bootstrap.kind}")
        return Estimate(value, *limits, self.level, self.n, method)

    def _correlation(self, first: Mask, second: Mask) -> float:
        """Of two shares, from their deviations summed by patient."""
        sums = [np.bincount(self.unit, weights=one - one.mean()) for one in (first, second)]
        product = math.sqrt(float((sums[0] ** 2).sum() * (sums[1] ** 2).sum()))
        return float(sums[0] @ sums[1]) / product if product > NO_VARIANCE else 0.0

    def _without_spread(self, metric: str, values: Sequence[float]) -> tuple[Limits, str]:
        """Limits that are wider than needed, with patients as n."""
        first, second = self.both
        if metric == "auroc":
            of_each, method = [self._newcombe(value) for value in values], "newcombe"
        elif np.array_equal(first.right, second.right):
            return self._never_apart([self.y_true == k for k in self.present])
        else:
            of_each, method = [self._wilson(one) for one in self.both], "wilson"
        limits = combine_limits(values[0], values[1], of_each[0], of_each[1], correlation=0.0)
        return limits, f"{method} of each, n = {self.bootstrap.kind}s"

    def _newcombe(self, value: float) -> Limits:
        counts = [(self.bootstrap.count(self.y_true == k), self.bootstrap.count(self.y_true != k)) for k in self.ranked]
        return _mean([newcombe_auroc(value, n_cases, n_rest, level=self.level) for n_cases, n_rest in counts])

    def _wilson(self, answers: Answers) -> Limits:
        cases = [self.y_true == k for k in self.present]
        shares = [(float(answers.right[case].mean()), self.bootstrap.count(case)) for case in cases]
        return _mean([wilson(share, n_units, level=self.level) for share, n_units in shares])

    def _never_apart(self, groups: Sequence[Mask]) -> tuple[Limits, str]:
        """Limits where both are right on the same images: a share of right answers differs by no more than they do."""
        reach = _mean([wilson(0.0, self.bootstrap.count(group), level=self.level) for group in groups])[1]
        return (-reach, reach), f"wilson on disagreement, n = {self.bootstrap.kind}s"


def _mean(limits: Sequence[Limits]) -> Limits:
    return float(np.mean([low for low, _ in limits])), float(np.mean([high for _, high in limits]))
