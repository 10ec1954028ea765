"""Models against a reference on the same patients: what each scores, by how much they differ, and how surely.

    answers of the reference ─┬─► metrics of each model
    answers of the others ────┴─► differences ─► alone, and corrected for how many models there are
                                  tests ────────► p, and p corrected (Holm)
                                  ranking of all by AUROC, when there are more than two

A difference is the other model less the reference: above 0 the other one is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.bootstrap import Bootstrap
from medgraft.evaluation.differences import Answers, paired_differences
from medgraft.evaluation.estimates import MetricEstimates
from medgraft.evaluation.paired import compare_scores
from medgraft.evaluation.paired_tests import PairedTest, holm, paired_tests
from medgraft.evaluation.resample import WeightedMetrics
from medgraft.types import Estimate

OF_TWO = ("auroc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "brier", "ece")
OF_MORE = ("auroc", "accuracy", "balanced_accuracy", "brier", "ece")


def against_reference(
    models: Mapping[str, Answers],
    config: EvaluationConfig,
    *,
    positive: int | None,
    patients_known: bool,
    seed: int,
) -> dict[str, Any]:
    """Compare models with the first of them.

    Args:
        models: answers to the same N images in the same order, by name; two or more.
        config: level, resamples and kind of interval.
        positive: index of the class that sensitivity and specificity are of when there are two classes, else None.
        patients_known: whether ``patient_ids`` are patients.
        seed: of all resamples.

    Returns:
        JSON-ready: ``n_images``, ``n_patients``, ``models`` [name, metrics], ``differences`` [model, reference,
        metrics, simultaneous, agreement, tests], ``multiplicity`` and ``ranking`` (of more than two models, else
        empty).

    Raises:
        ValueError: fewer than two models, or answers to other images.
    """
    if len(models) < 2:
        raise ValueError("a comparison needs two models")
    names, answers = list(models), list(models.values())
    n_others = len(answers) - 1
    corrected = config.model_copy(update={"level": 1 - (1 - config.level) / n_others})
    tests = [paired_tests(other, answers[0], config, patients_known=patients_known, seed=seed) for other in answers[1:]]
    adjusted = [holm(p_values) for p_values in zip(*([test.p for test in one] for one in tests), strict=True)]

    def differences(other: Answers, asked: EvaluationConfig) -> dict[str, Any]:
        return _differences(other, answers[0], asked, positive=positive, patients_known=patients_known, seed=seed)

    first = answers[0].scores
    return {
        "n_images": len(first),
        "n_patients": first.n_patients if patients_known else None,
        "models": [
            {"name": name, "metrics": _as_dicts(_metrics(one, config, positive, patients_known, seed))}
            for name, one in models.items()
        ],
        "differences": [
            {
                "model": name,
                "reference": names[0],
                "metrics": differences(other, config),
                "simultaneous": differences(other, corrected),
                "agreement": _agreement(other, answers[0]),
                "tests": [_test(test, p[number]) for test, p in zip(tests[number], adjusted, strict=True)],
            }
            for number, (name, other) in enumerate(zip(names[1:], answers[1:], strict=True))
        ],
        "multiplicity": _multiplicity(n_others, config.level, corrected.level),
        "ranking": _ranking(names, answers, config, patients_known, seed) if n_others > 1 else [],
    }


def _metrics(
    answers: Answers, config: EvaluationConfig, positive: int | None, patients_known: bool, seed: int
) -> dict[str, Estimate]:
    """Metrics of one model, as its own evaluation would have them."""
    scores = answers.scores
    bootstrap = Bootstrap(scores, config, seed=seed, kind="patient" if patients_known else "image")
    weighted = WeightedMetrics(scores, answers.predicted, positive=positive)
    maker = MetricEstimates(scores, answers.predicted, weighted, bootstrap)
    if positive is not None:
        return {metric: maker.of_class(scores.classes[positive], metric) for metric in OF_TWO}
    parts = {name: {metric: maker.of_class(name, metric) for metric in OF_TWO} for name in scores.classes}
    return {metric: maker.of_task(metric, parts) for metric in OF_MORE}


def _differences(
    other: Answers,
    reference: Answers,
    config: EvaluationConfig,
    *,
    positive: int | None,
    patients_known: bool,
    seed: int,
) -> dict[str, Any]:
    found = paired_differences(other, reference, config, patients_known=patients_known, seed=seed)
    if positive is not None:
        cases = reference.scores.y_true == positive
        for name, group, kind in (("sensitivity", cases, "cases"), ("specificity", ~cases, "non-cases")):
            rows = np.flatnonzero(group)
            if not len(rows):
                found[name] = Estimate(None, None, None, config.level, 0, "", f"0 {kind}")
                continue
            found[name] = paired_differences(
                other.take(rows),
                reference.take(rows),
                config,
                patients_known=patients_known,
                seed=seed,
                metrics=("accuracy",),
            )["accuracy"]
    return _as_dicts(found)


def _agreement(other: Answers, reference: Answers) -> dict[str, int]:
    """How often who is right; all images together."""
    right, known = other.right, reference.right
    return {
        "both_right": int((right & known).sum()),
        "only_model": int((right & ~known).sum()),
        "only_reference": int((known & ~right).sum()),
        "neither": int((~right & ~known).sum()),
        "same_answer": int((other.predicted == reference.predicted).sum()),
    }


def _test(test: PairedTest, corrected: float | None) -> dict[str, Any]:
    return {**test.as_dict(), "p_corrected": corrected}


def _multiplicity(n_others: int, level: float, corrected: float) -> str:
    if n_others == 1:
        return "One model is compared with the reference, so nothing is corrected. Several metrics and tests are shown."
    return (
        f"{n_others} models are compared with the reference: simultaneous intervals of a metric hold for all of them "
        f"at once with {100 * level:g} % confidence (each made at {100 * corrected:.4g} %, Bonferroni), and p values "
        "of a test are corrected for them (Holm). Several metrics and tests are shown."
    )


def _ranking(
    names: Sequence[str], answers: Sequence[Answers], config: EvaluationConfig, patients_known: bool, seed: int
) -> list[dict[str, Any]]:
    """All models by AUROC, best first, with simultaneous intervals of all pairs; empty where there is one class."""
    scores = [one.scores for one in answers]
    if len(np.unique(scores[0].y_true)) < 2:
        return []
    found = compare_scores(
        scores, n_resamples=config.bootstrap, level=config.level, seed=seed, patients_known=patients_known
    )
    return [
        {
            "rank": rank,
            "name": names[model],
            "auroc": found.auroc[model].as_dict(),
            "difference": None if model == found.best else found.difference(model, found.best).as_dict(),
            "verdict": found.verdict(model),
        }
        for rank, model in enumerate(found.order, start=1)
    ]


def _as_dicts(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.as_dict() for name, estimate in estimates.items()}
