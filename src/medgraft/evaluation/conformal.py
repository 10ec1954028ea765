"""Prediction sets with a stated guarantee, and which images are left to a person.

    validation scores ─► fit_conformal ─► Conformal ─┬─ sets: the classes that are not too improbable
                         1/n of each image of        └─ refer: the set is not exactly the predicted class
                         a patient with n images
    test scores ─► evaluate_conformal ─► what became of the promise

The score of an image is the probability of its true class (LAC). Images of one patient are alike, so it is patients
that are exchangeable: each has the same weight, whatever its number of images, and the new patient has that weight too.

A set may be empty: no class is as probable as true classes usually are. That happens where the network is right more
often than was asked; such images are referred, and a higher coverage refers fewer of them.

Source:
    Sadinle, Lei and Wasserman, JASA 2019; 114:223-234 (the score); Dunn, Wasserman and Ramdas, JASA 2023;
    118:2491-2502, and Lee, Barber and Willett, arXiv:2306.06342, theorem 1 (patients with several images).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy.special import ndtri, stdtrit

from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.bootstrap import Bootstrap, Mask
from medgraft.evaluation.estimates import share_estimate
from medgraft.evaluation.intervals import Limits, wilson
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.types import Estimate, FloatArray, IntArray, Scores

Unit = Literal["patient", "image"]

_ROUNDING = 1e-9  # 0.9 x 10 patients is 9, not a little more


@dataclass(frozen=True, slots=True)
class Conformal:
    """The rule by which probabilities become a set of classes, fixed on validation.

    Attributes:
        coverage: asked share of sets that hold the truth, within (0, 1).
        threshold: a class is in the set at this calibrated probability or above, 0..1; 0 puts every class in.
        n_units: patients, or images where patients are unknown, the threshold rests on.
        unit: what they are.
        n_images: validation images.
        classes: C class names, in the order of the probabilities.
    """

    coverage: float
    threshold: float
    n_units: int
    unit: Unit
    n_images: int
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0 < self.coverage < 1:
            raise ValueError(f"coverage must lie within (0, 1), got {self.coverage}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"the threshold of prediction sets must lie within 0..1, got {self.threshold}")
        if self.unit not in get_args(Unit):
            raise ValueError(f"the unit of prediction sets must be patient or image, got {self.unit!r}")
        if not 0 <= self.n_units <= self.n_images or (self.unit == "image" and self.n_units != self.n_images):
            raise ValueError(f"{self.n_units} {self.unit}s cannot have {self.n_images} images")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be at least two different names, got {self.classes}")
        if self.reason and self.threshold != 0:
            raise ValueError(f"{self.reason}, but the threshold is {self.threshold}")

    @property
    def reason(self) -> str:
        """Why every set holds all classes; empty when sets say something."""
        needed = math.ceil(self.coverage / (1 - self.coverage) - _ROUNDING)
        if self.n_units >= needed:
            return ""
        counted = f"{self.unit} is" if self.n_units == 1 else f"{self.unit}s are"
        return (
            f"{self.n_units} validation {counted} too few for a coverage of {self.coverage:g}, which needs "
            f"{needed}: every set holds all classes"
        )

    @property
    def promise(self) -> str:
        """What is guaranteed and what is not, in sentences."""
        if self.reason:
            return f"Nothing useful is promised: {self.reason}."
        drawn = "random image of a new patient" if self.unit == "patient" else "new image"
        unknown = (
            " Patients are unknown: where images of one patient stand in validation together, this does not hold "
            "for new patients."
            if self.unit == "image"
            else ""
        )
        varies = math.sqrt(self.coverage * (1 - self.coverage) / (self.n_units + 2))
        return (
            f"The set of a {drawn} holds the true class with a probability of at least {self.coverage:g}, provided "
            f"that new {self.unit}s are drawn like the {self.n_units:,} of validation and that validation had no part "
            "in making the network; having chosen epochs and temperature too, validation may be somewhat kinder than "
            f"new images are.{unknown} This holds on average over validation parts: with this one coverage may lie "
            f"higher or lower by about {varies:.1g} (one standard deviation). It holds for all classes together, not "
            f"for each of them. In the same sense at most {1 - self.coverage:.6g} of all images are answered and "
            "wrong; among the answered ones alone the error can be higher."
        )

    def sets(self, proba: FloatArray) -> Mask:
        """Which classes are in the set of each image (N, C), from calibrated probabilities (N, C)."""
        values = np.asarray(proba, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.classes):
            raise ValueError(f"probabilities {values.shape} for {len(self.classes)} classes")
        inside: Mask = values >= self.threshold
        return inside

    def names(self, proba: FloatArray) -> list[tuple[str, ...]]:
        """The set of each image as class names."""
        return [tuple(self.classes[index] for index in np.flatnonzero(row)) for row in self.sets(proba)]

    def refer(self, proba: FloatArray, predicted: IntArray) -> Mask:
        """Which images are left to a person (N,): those whose set is not exactly the predicted class.

        Args:
            proba: (N, C) calibrated probabilities.
            predicted: (N,) class indices at the operating point. They matter with two classes only, where a threshold
                can call an image what its set does not hold.
        """
        inside = self.sets(proba)
        alone: Mask = (inside.sum(axis=1) == 1) & inside[np.arange(len(inside)), predicted]
        return ~alone

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Conformal:
        """Inverse of :meth:`as_dict`.

        Raises:
            KeyError, TypeError, ValueError: for content that describes no prediction sets.
        """
        coverage, threshold = (_number(values[name], float) for name in ("coverage", "threshold"))
        n_units, n_images = (int(_number(values[name], int)) for name in ("n_units", "n_images"))
        classes = values["classes"]
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise TypeError(f"classes of prediction sets must be a list of names, got {classes!r}")
        return cls(coverage, threshold, n_units, values["unit"], n_images, tuple(classes))


def _number(value: object, kind: type[int] | type[float]) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, kind)):
        raise TypeError(f"prediction sets need a number, got {value!r}")
    return value


def fit_conformal(scores: Scores, coverage: float, *, patients_known: bool) -> Conformal:
    """Fix prediction sets on validation scores.

    With K units and weights 1/n for the n images of a unit, the threshold is the largest probability t for which
    true classes at t or above weigh coverage x (K + 1) or more. A new patient's random image is then covered with
    a probability of coverage to coverage + 2 / (K + 1), or + 1 / (K + 1) with one image per unit; ties only add to it.

    Args:
        scores: validation images with calibrated probabilities.
        coverage: asked, within (0, 1).
        patients_known: whether ``scores.patient_ids`` are patients; else every image is a unit.
    """
    units = scores.patient_ids if patients_known else scores.sample_ids
    _, unit, sizes = np.unique(np.array(units, dtype=object), return_inverse=True, return_counts=True)
    of_truth = scores.y_proba[np.arange(len(scores)), scores.y_true]
    falling = np.argsort(-of_truth, kind="stable")
    weight = np.cumsum(1 / sizes[unit[falling]])
    enough = np.flatnonzero(weight >= (coverage - _ROUNDING) * (len(sizes) + 1))
    threshold = float(of_truth[falling[enough[0]]]) if len(enough) else 0.0
    kind: Unit = "patient" if patients_known else "image"
    return Conformal(float(coverage), threshold, len(sizes), kind, len(scores), scores.classes)


def refer_band(conformal: Conformal, point: OperatingPoint) -> dict[str, Any] | None:
    """The images that are referred, as an interval of the positive's probability.

    Between the threshold of the sets and its mirror image, sets hold both classes (threshold up to 0.5) or none
    (above); between that and the operating point, the only class of the set is not the predicted one.

    Args:
        conformal: of two classes.
        point: of the same classes.

    Returns:
        ``positive, low, high, low_included, high_included, text``; None with more than two classes.
    """
    if point.positive is None or point.threshold is None:
        return None
    inner, called = conformal.threshold, point.threshold
    low, high, closed = min(inner, 1 - inner), max(inner, 1 - inner), inner <= 0.5
    low_included, high_included = closed or called <= low, closed and called <= high
    low, high = min(low, called), max(high, called)
    first, last = ("from" if low_included else "above"), ("up to" if high_included else "below")
    return {
        "positive": point.positive,
        "low": low,
        "high": high,
        "low_included": low_included,
        "high_included": high_included,
        "text": f"referred: probability of {point.positive} {first} {low:.3f} and {last} {high:.3f}",
    }


def evaluate_conformal(
    conformal: Conformal,
    scores: Scores,
    point: OperatingPoint,
    *,
    config: EvaluationConfig,
    patients_known: bool,
    seed: int,
) -> dict[str, Any]:
    """What was promised and what became of it on other images: the entry ``conformal`` of evaluation.json.

    Coverage is that of a random image of a random patient, as the promise is, where both sides know patients; all
    else counts images.

    Args:
        conformal: fixed on validation.
        scores: N images with calibrated probabilities of the same passes as in validation.
        point: the operating point.
        config: level and number of resamples.
        patients_known: whether ``scores.patient_ids`` are patients.
        seed: of the resamples.

    Returns:
        The facts of `Conformal.as_dict` with ``promise, reason, band, realized, verdict, text``. ``realized`` has
        estimates of ``coverage``, of ``per_class`` coverage, ``set_size`` (classes per image), ``referred`` (share),
        ``error_answered`` (share of wrong among the images not referred), ``answered_wrong`` (share of all images that
        are not referred and wrong), and ``sizes``: images by the number of classes in their set, 0 to C.

    Raises:
        ValueError: when the classes differ.
    """
    if conformal.classes != scores.classes:
        raise ValueError(f"prediction sets of {conformal.classes} cannot be evaluated on {scores.classes}")
    predicted = point.predict(scores.y_proba, scores.classes)
    inside = conformal.sets(scores.y_proba)
    held: Mask = inside[np.arange(len(scores)), scores.y_true]
    answered = ~conformal.refer(scores.y_proba, predicted)
    wrong: Mask = predicted != scores.y_true
    bootstrap = Bootstrap(scores, config, seed=seed, kind="patient" if patients_known else "image")
    share = _patient_share if patients_known and conformal.unit == "patient" else share_estimate
    everything = np.ones(len(scores), dtype=np.bool_)
    coverage = share(held, everything, bootstrap)
    verdict, text = _verdict(conformal, coverage)
    return {
        **conformal.as_dict(),
        "promise": conformal.promise,
        "reason": conformal.reason,
        "band": refer_band(conformal, point),
        "realized": {
            "coverage": coverage.as_dict(),
            "per_class": {
                name: share(held, scores.y_true == index, bootstrap).as_dict()
                for index, name in enumerate(scores.classes)
            },
            "set_size": _mean_size(inside.sum(axis=1), bootstrap, most=len(scores.classes)).as_dict(),
            "referred": share_estimate(~answered, everything, bootstrap).as_dict(),
            "error_answered": share_estimate(wrong, answered, bootstrap).as_dict(),
            "answered_wrong": share_estimate(wrong & answered, everything, bootstrap).as_dict(),
            "sizes": np.bincount(inside.sum(axis=1), minlength=len(scores.classes) + 1).tolist(),
        },
        "verdict": verdict,
        "text": text,
    }


def _verdict(conformal: Conformal, coverage: Estimate) -> tuple[str, str]:
    """``below``, ``in line``, ``empty`` (every set holds all classes) or ``not estimable``, and a sentence."""
    if coverage.value is None:
        return "not estimable", f"There is no image to check the promised coverage of {conformal.coverage:g} on."
    if conformal.reason:
        return "empty", f"Prediction sets say nothing: {conformal.reason}."
    counted = "images, each patient counting once" if coverage.method.startswith("mean of patients") else "images"
    seen = f"Sets held the truth in {coverage} of the {counted}; {conformal.coverage:g} was asked."
    if coverage.high is None or coverage.high >= conformal.coverage:
        return "in line", seen
    return "below", (
        f"{seen} That is less than asked: these images are not like those of validation, or validation was too small "
        "or too kind to the network."
    )


def _patient_share(right: Mask, group: Mask, bootstrap: Bootstrap) -> Estimate:
    """Mean over patients of the share of right images of each, with a score interval.

    Wilson's with the effective number of patients: value x (1 - value) / variance of the mean, times the squared
    ratio of the normal to Student's quantile with the patients less one.

    Source:
        Korn and Graubard, Survey Methodology 1998; 24:193-201.
    """
    if bootstrap.singles or not group.any():
        return share_estimate(right, group, bootstrap)
    _, unit = np.unique(bootstrap.unit[group], return_inverse=True)
    shares: FloatArray = np.bincount(unit, weights=right[group]) / np.bincount(unit)
    value, n_units = min(1.0, max(0.0, float(shares.mean()))), len(shares)
    limits, method = _effective_limits(value, shares, level=bootstrap.level), "wilson, effective n by patient"
    if limits is None:
        limits, method = wilson(value, n_units, level=bootstrap.level), "wilson, n = patients"
    return Estimate(value, *limits, bootstrap.level, int(group.sum()), f"mean of patients, {method}")


def _effective_limits(value: float, shares: FloatArray, *, level: float) -> Limits | None:
    variance = float(shares.var(ddof=1)) / len(shares) if len(shares) > 1 else 0.0
    if variance <= 1e-18:
        return None
    ratio = float(ndtri(0.5 + level / 2) / stdtrit(len(shares) - 1, 0.5 + level / 2))
    return wilson(value, max(1, int(value * (1 - value) / variance * ratio**2)), level=level)


def _mean_size(sizes: IntArray, bootstrap: Bootstrap, *, most: int) -> Estimate:
    """Mean number of classes in a set, 0..most."""
    n, level = len(sizes), bootstrap.level
    if n == 0:
        return Estimate(None, None, None, level, 0, "", "0 images")
    images, classes = (np.bincount(bootstrap.unit, weights=each) for each in (np.ones(n), sizes))
    found = bootstrap.of(lambda weights: {"size": (weights @ classes) / (weights @ images)})
    value, limits, method = found.value("size"), found.limits("size"), bootstrap.method
    if limits is None:
        low, high = wilson(min(1.0, value / most), bootstrap.n_units, level=level)
        limits, method = (min(value, most * low), max(value, most * high)), f"wilson, n = {bootstrap.kind}s"
    return Estimate(value, *limits, level, n, method)
