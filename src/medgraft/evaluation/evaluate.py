"""From scores to evaluation.json: every metric with its interval, its n and how both were made.

Answers ─► Bootstrap of patients ┬─ metrics (estimates)
                                 ├─ calibration before and after (probabilities) ──┐
uncalibrated logits ─────────────┘                                                 ├─► Evaluation ─► evaluation.json
                                 ├─ decision_curve, of two classes ────────────────┤
                                 └─ risk_coverage ─────────────────────────────────┘
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.bootstrap import Bootstrap
from medgraft.evaluation.calibration import apply_temperature
from medgraft.evaluation.decision_curve import DecisionCurve, decision_curve
from medgraft.evaluation.differences import Answers
from medgraft.evaluation.estimates import MetricEstimates
from medgraft.evaluation.metrics import METRICS, confusion_matrix
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.evaluation.probabilities import Calibration, estimate_calibration
from medgraft.evaluation.resample import WeightedMetrics
from medgraft.evaluation.risk_coverage import RiskCoverage, risk_coverage
from medgraft.types import RESEARCH_USE_ONLY, Estimate, FloatArray, PatientIndependence, Scores


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
        calibration: before and after the temperature.
        decision_curve: net benefit over thresholds, of two classes.
        risk_coverage: error against the share of images answered.
        inference: what probabilities were averaged over (``tta, mc, members, passes``); None for one pass.
        cross_validation: how the scores came about, where no single model made them; else None.
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
    calibration: Calibration
    decision_curve: DecisionCurve
    risk_coverage: RiskCoverage
    inference: dict[str, Any] | None = None
    cross_validation: dict[str, Any] | None = None

    def with_patient_independence(self, value: PatientIndependence) -> Evaluation:
        """The same numbers with what is known about patients shared with training."""
        return replace(self, patient_independence=value)

    @property
    def realized(self) -> dict[str, Estimate]:
        """What became of the promises: of two classes sensitivity and specificity, of more accuracy."""
        if self.operating_point.positive is None:
            return {"accuracy": self.metrics["accuracy"]}
        return {name: self.metrics[name] for name in ("sensitivity", "specificity")}

    def as_dict(self) -> dict[str, Any]:
        """Exactly evaluation.json; ``cross_validation`` stands there only where there was one."""
        crossed = {} if self.cross_validation is None else {"cross_validation": self.cross_validation}
        return {
            **crossed,
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
            "operating_point": {
                **self.operating_point.as_dict(),
                "realized": {name: estimate.as_dict() for name, estimate in self.realized.items()},
            },
            "temperature": self.temperature,
            "calibration": self.calibration.as_dict(),
            "decision_curve": self.decision_curve.as_dict(),
            "risk_coverage": self.risk_coverage.as_dict(),
            "inference": self.inference,
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
    inference: dict[str, Any] | None = None,
    logits: FloatArray | None = None,
) -> Evaluation:
    """Evaluate calibrated probabilities at a fixed operating point, see `evaluate_answers`.

    Args:
        scores: the images that could be scored; ``patient_ids`` are the resampling units.
        operating_point: chosen on validation; makes the predictions.
        temperature: as for `evaluate_answers`.
        config: as for `evaluate_answers`.
        patients_known: as for `evaluate_answers`.
        n_declared: as for `evaluate_answers`.
        seed: as for `evaluate_answers`.
        inference: as for `evaluate_answers`.
        logits: as for `evaluate_answers`.

    Raises:
        ModelError: OPERATING_POINT_MISMATCH.
    """
    return evaluate_answers(
        Answers(scores, operating_point.predict(scores.y_proba, scores.classes)),
        operating_point,
        temperature=temperature,
        config=config,
        patients_known=patients_known,
        n_declared=n_declared,
        seed=seed,
        inference=inference,
        logits=logits,
    )


def evaluate_answers(
    answers: Answers,
    operating_point: OperatingPoint,
    *,
    temperature: float,
    config: EvaluationConfig,
    patients_known: bool,
    n_declared: int,
    seed: int,
    inference: dict[str, Any] | None = None,
    logits: FloatArray | None = None,
) -> Evaluation:
    """Evaluate calibrated probabilities and the predictions made of them, by whatever rule.

    Intervals: shares have Wilson's and AUROC DeLong's on the logit scale, with the patients as clusters where they
    have several images; all else is a bootstrap of patients (of images where patients are unknown), percentile or BCa.
    Where resampling shows no spread, such as at a perfect score, the interval is exact with the patients as n.
    ``patient_independence`` begins as "not verified".

    Args:
        answers: of the images that could be scored; their ``patient_ids`` are the resampling units.
        operating_point: recorded; of two classes its positive one is what the metrics are of.
        temperature: what the probabilities were made with; recorded.
        config: level, number of resamples and kind of interval.
        patients_known: whether the units are patients.
        n_declared: images declared, scored or not; at least ``len(scores)``.
        seed: of the bootstrap.
        inference: what the probabilities were averaged over; recorded.
        logits: (N, C) before the temperature, for calibration before it; None leaves that out.
    """
    scores, y_pred = answers.scores, answers.predicted
    if n_declared < len(scores):
        raise ValueError(f"{n_declared} images declared but {len(scores)} scored")
    positive = operating_point.positive
    index = None if positive is None else scores.classes.index(positive)
    bootstrap = Bootstrap(scores, config, seed=seed, kind="patient" if patients_known else "image")
    maker = MetricEstimates(scores, y_pred, WeightedMetrics(scores, y_pred, positive=index), bootstrap)
    metrics, per_class = _all_metrics(maker, positive)
    uncalibrated = None if logits is None else replace(scores, y_proba=apply_temperature(logits, 1.0))
    confusion = confusion_matrix(scores.y_true, y_pred, n_classes=len(scores.classes))
    return Evaluation(
        classes=scores.classes,
        n_images=len(scores),
        n_declared=n_declared,
        n_patients=scores.n_patients if patients_known else None,
        patient_independence="not verified",
        metrics=metrics,
        per_class=per_class,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        operating_point=operating_point,
        temperature=float(temperature),
        calibration=estimate_calibration(
            scores, uncalibrated, bootstrap, positive=index, temperature=float(temperature), metrics=metrics
        ),
        decision_curve=decision_curve(scores, positive, bootstrap),
        risk_coverage=risk_coverage(scores, y_pred, bootstrap),
        inference=inference,
    )


def _all_metrics(
    maker: MetricEstimates, positive: str | None
) -> tuple[dict[str, Estimate], dict[str, dict[str, Estimate]]]:
    """Estimates of the task, those of the positive class for two, and of every class."""
    per_class = {name: {metric: maker.of_class(name, metric) for metric in METRICS} for name in maker.scores.classes}
    macro = {f"macro_{metric}": maker.of_task(f"macro_{metric}", per_class) for metric in METRICS}
    if positive is not None:
        return {**per_class[positive], **macro}, per_class
    return {**{metric: maker.of_task(metric, per_class) for metric in METRICS}, **macro}, per_class


def write_evaluation(evaluation: Evaluation, path: Path, *, beside: Mapping[str, Any] | None = None) -> None:
    """Write evaluation.json: UTF-8, keys sorted, no NaN (what is not estimable is null with a reason).

    Args:
        evaluation: of the images that the leading numbers are of.
        path: file to write; replaced.
        beside: further entries, of what is known about how far the numbers can be believed.
    """
    content = {**evaluation.as_dict(), **(beside or {})}
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
