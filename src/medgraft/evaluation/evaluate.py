"""From scores to evaluation.json: every metric with its interval, its n and how both were made.

Scores + OperatingPoint → WeightedMetrics (all ones: the estimates; bootstrap: the intervals)
                        → Evaluation → evaluation.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.intervals import (
    Limits,
    calibration_limits,
    delong,
    newcombe_auroc,
    percentile_limits,
    unit_weights,
    wilson,
    wilson_f1,
)
from medgraft.evaluation.metrics import METRICS, confusion_matrix
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.evaluation.resample import MetricTable, WeightedMetrics
from medgraft.types import RESEARCH_USE_ONLY, Estimate, IntArray, PatientIndependence, Scores

_SHARES = ("accuracy", "sensitivity", "specificity", "ppv", "npv")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What evaluation.json holds.

    Attributes:
        classes: C class names.
        n_images: images scored.
        n_declared: images declared, scored or not.
        n_patients: patients of the scored images, or None when unknown.
        patient_independence: whether training shares no patient with these images; set by who knows.
        metrics: by metric name and ``macro_`` name. Two classes: of the positive class; more: macro
            averages, except accuracy (share of right images), balanced_accuracy (mean
            sensitivity), brier (summed over classes) and ece (of the predicted class).
        per_class: by class and metric name, each class against the rest.
        confusion: (C, C) counts at the operating point; row true, column predicted.
        operating_point: fixed on validation.
        temperature: fitted on validation.
    """

    classes: tuple[str, ...]
    n_images: int
    n_declared: int
    n_patients: int | None
    patient_independence: PatientIndependence
    metrics: dict[str, Estimate]
    per_class: dict[str, dict[str, Estimate]]
    confusion: tuple[tuple[int, ...], ...]
    operating_point: OperatingPoint
    temperature: float

    def with_patient_independence(self, value: PatientIndependence) -> Evaluation:
        """The same numbers with what is known about patients shared with training."""
        return replace(self, patient_independence=value)

    def as_dict(self) -> dict[str, Any]:
        """Exactly evaluation.json."""
        return {
            "task": "classification",
            "classes": list(self.classes),
            "n_images": self.n_images,
            "n_declared": self.n_declared,
            "n_patients": self.n_patients,
            "patient_independence": self.patient_independence,
            "metrics": {name: estimate.as_dict() for name, estimate in self.metrics.items()},
            "per_class": {
                name: {metric: estimate.as_dict() for metric, estimate in estimates.items()}
                for name, estimates in self.per_class.items()
            },
            "confusion": [list(row) for row in self.confusion],
            "operating_point": self.operating_point.as_dict(),
            "temperature": self.temperature,
            "notice": RESEARCH_USE_ONLY,
        }


def evaluate_scores(
    scores: Scores,
    operating_point: OperatingPoint,
    *,
    temperature: float,
    config: EvaluationConfig,
    patients_known: bool,
    n_declared: int,
    seed: int,
) -> Evaluation:
    """Evaluate calibrated probabilities at a fixed operating point.

    Intervals: when every unit is one image, shares have Wilson's interval and AUROC DeLong's on
    the logit scale; all else is a percentile bootstrap of patients (of images where patients are
    unknown). Where resampling shows no spread, such as at a perfect score, the interval is exact
    with the patients as n. ``patient_independence`` begins as "not verified".

    Args:
        scores: the images that could be scored; ``patient_ids`` are the resampling units.
        operating_point: chosen on validation.
        temperature: what the probabilities were made with; recorded.
        config: level and number of resamples.
        patients_known: whether the units are patients.
        n_declared: images declared, scored or not; at least ``len(scores)``.
        seed: of the bootstrap.

    Raises:
        ModelError: OPERATING_POINT_MISMATCH.
    """
    if n_declared < len(scores):
        raise ValueError(f"{n_declared} images declared but {len(scores)} scored")
    y_pred = operating_point.predict(scores.y_proba, scores.classes)
    positive = operating_point.positive
    weighted = WeightedMetrics(scores, y_pred, positive=None if positive is None else scores.classes.index(positive))
    maker = _Estimates(scores, y_pred, weighted, config, patients_known=patients_known, seed=seed)
    per_class = {name: {metric: maker.of_class(name, metric) for metric in METRICS} for name in scores.classes}
    macro = {f"macro_{metric}": maker.of_task(f"macro_{metric}", per_class) for metric in METRICS}
    if positive is not None:
        top = per_class[positive]
    else:
        top = {metric: maker.of_task(metric, per_class) for metric in METRICS}
    confusion = confusion_matrix(scores.y_true, y_pred, n_classes=len(scores.classes))
    return Evaluation(
        classes=scores.classes,
        n_images=len(scores),
        n_declared=n_declared,
        n_patients=scores.n_patients if patients_known else None,
        patient_independence="not verified",
        metrics={**top, **macro},
        per_class=per_class,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        operating_point=operating_point,
        temperature=float(temperature),
    )


class _Estimates:
    """Makes the estimate of any metric of one set of scores."""

    def __init__(
        self,
        scores: Scores,
        y_pred: IntArray,
        weighted: WeightedMetrics,
        config: EvaluationConfig,
        *,
        patients_known: bool,
        seed: int,
    ) -> None:
        self.scores, self.y_pred, self.weighted, self.level = scores, y_pred, weighted, config.level
        self.singles = weighted.n_units == len(scores)
        self.kind = "patient" if patients_known else "image"
        self.point = weighted.compute(np.ones((1, weighted.n_units)))
        self.resampled: MetricTable = {}
        if weighted.n_units > 1:
            blocks = [
                weighted.compute(weights)
                for weights in unit_weights(weighted.n_units, n_resamples=config.bootstrap, seed=seed)
            ]
            self.resampled = {key: np.concatenate([block[key] for block in blocks]) for key in self.point}

    def of_class(self, name: str, metric: str) -> Estimate:
        """Metric of one class against the rest."""
        index = self.scores.classes.index(name)
        case, called = self.scores.y_true == index, self.y_pred == index
        n = int(_support(metric, case, called).sum())
        value = float(self.point[name, metric][0])
        if np.isnan(value):
            return Estimate(None, None, None, self.level, n, "", _reason(case, called, metric))
        if self.singles and metric in _SHARES:
            return self._estimate(value, wilson(value, n, level=self.level), n, "wilson")
        if self.singles and metric == "auroc":
            limits = delong(case, self.scores.y_proba[:, index], level=self.level)
            if limits is not None:
                return self._estimate(value, limits, n, "delong, logit scale")
        elif (limits := self._bootstrap(name, metric, value)) is not None:
            return self._estimate(value, limits, n, f"{self.kind} bootstrap")
        limits, method = self._exact(metric, value, case, called)
        return self._estimate(value, limits, n, f"{method}, n = {self.kind}s")

    def of_task(self, metric: str, per_class: dict[str, dict[str, Estimate]]) -> Estimate:
        """Metric of all classes together; ``macro_NAME`` averages NAME over the classes that have one."""
        n = len(self.scores)
        value = float(self.point[None, metric][0])
        averaged = _averaged(metric)
        parts = [] if averaged is None else [per_class[name][averaged] for name in self.weighted.estimable[averaged]]
        n_classes = len(self.scores.classes)
        reason = f"over {len(parts)} of {n_classes} classes" if averaged and len(parts) < n_classes else ""
        if np.isnan(value):
            return Estimate(None, None, None, self.level, n, "", reason or "0 images")
        if metric == "accuracy" and self.singles:
            return self._estimate(value, wilson(value, n, level=self.level), n, "wilson")
        limits = self._bootstrap(None, metric, value)
        if limits is not None:
            return self._estimate(value, limits, n, f"{self.kind} bootstrap", reason)
        if parts:
            low, high = (float(np.mean([getattr(part, side) for part in parts])) for side in ("low", "high"))
            return self._estimate(value, (low, high), n, "mean of the classes' limits", reason)
        low, high = wilson(value / _largest(metric), self.weighted.n_units, level=self.level)
        limits = (low * _largest(metric), high * _largest(metric))
        return self._estimate(value, limits, n, f"wilson, n = {self.kind}s")

    def _estimate(self, value: float, limits: Limits, n: int, method: str, reason: str = "") -> Estimate:
        return Estimate(value, limits[0], limits[1], self.level, n, method, reason)

    def _bootstrap(self, name: str | None, metric: str, value: float) -> Limits | None:
        if not self.resampled:
            return None
        resampled = self.resampled[name, metric]
        if metric.endswith("ece"):
            noise = self.resampled[name, f"{metric}_noise"]
            return calibration_limits(value, resampled, noise, level=self.level)
        return percentile_limits(value, resampled, level=self.level)

    def _exact(self, metric: str, value: float, case: IntArray, called: IntArray) -> tuple[Limits, str]:
        """Interval that resampling could not give, with independent units as n."""
        level = self.level
        if metric == "auroc":
            return newcombe_auroc(value, self._units(case), self._units(~case), level=level), "newcombe"
        if metric == "balanced_accuracy":
            parts = []
            for name, group, right in (("sensitivity", case, called), ("specificity", ~case, ~called)):
                parts.append(wilson(float(right[group].mean()), self._units(_support(name, case, called)), level=level))
            return (sum(p[0] for p in parts) / 2, sum(p[1] for p in parts) / 2), "mean of two wilson"
        n = self._units(case if metric == "auprc" else _support(metric, case, called))
        if metric == "f1":
            return wilson_f1(value, n, level=level), "wilson on f*"
        return wilson(min(1.0, max(0.0, value)), n, level=level), "wilson"

    def _units(self, mask: IntArray) -> int:
        return len(np.unique(self.weighted.unit[mask]))


def _support(metric: str, case: IntArray, called: IntArray) -> IntArray:
    """(N,) True for the images a metric of one class rests on."""
    masks = {"sensitivity": case, "specificity": ~case, "ppv": called, "npv": ~called, "f1": case | called}
    return masks.get(metric, np.ones_like(case))


def _reason(case: IntArray, called: IntArray, metric: str) -> str:
    """Why one class has no value of a metric."""
    if len(case) == 0:
        return "0 images"
    if metric != "specificity" and not case.any():
        return "0 cases"
    if metric not in ("sensitivity", "f1") and case.all():
        return "0 non-cases"
    return "never predicted" if metric == "ppv" else "always predicted"


def _averaged(metric: str) -> str | None:
    """Metric of the classes that a metric of the task averages; None when it is no average."""
    if metric.startswith("macro_"):
        return metric.removeprefix("macro_")
    if metric in ("accuracy", "brier", "ece"):
        return None
    return "sensitivity" if metric == "balanced_accuracy" else metric


def _largest(metric: str) -> float:
    return 2.0 if metric == "brier" else 1.0


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write evaluation.json: UTF-8, keys sorted, no NaN (what is not estimable is null with a reason)."""
    text = json.dumps(evaluation.as_dict(), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
