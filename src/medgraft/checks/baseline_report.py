"""Trivial baselines beside a model, or alone: numbers, a verdict, and what to make of them.

    baselines, answers of the model ─► metrics, paired gains ─► best baseline ─► beats, not shown, worse

BASELINE_STRONG       a trivial baseline tells the classes apart well
BASELINE_NOT_BEATEN   that the model is better than the best trivial baseline is not shown, or it is worse
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medgraft.checks.baselines import METRICS, Baseline, estimate_metrics
from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.differences import Answers, paired_differences
from medgraft.types import CheckResult, Estimate

Verdict = Literal["beats", "not shown", "worse"]

STRONG = 0.7
"""AUROC that the lower limit of a trivial baseline exceeds when it is called strong."""
WORDS = {
    "majority": "always the most frequent class",
    "thumbnail_1nn": "the most alike 32x32 thumbnail",
    "thumbnail_logistic": "logistic regression on 32x32 thumbnails",
    "metadata": "size, format and border of the file",
    "position": "the slice's place in the stack",
}
"""What a baseline is, in words."""
_MEANING = {
    "thumbnail_1nn": "images of one class are alike at a glance, or have copies",
    "thumbnail_logistic": "coarse light and dark tell the classes apart",
    "metadata": "files of the classes were made differently, which a model may learn in place of the disease",
    "position": "where a slice lies tells its label, so a model may learn anatomy in place of the disease",
}
_METRIC = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}


@dataclass(frozen=True)
class BaselineReport:
    """What evaluation.json says of baselines.

    Attributes:
        baselines: by name ``protocol``, ``metrics`` and, with a model, ``gain``: model less baseline, paired.
        verdict: ``best, metric, gain, verdict, text``; None without a model or without baselines.
        checks: what stands out.
    """

    baselines: dict[str, dict[str, Any]]
    verdict: dict[str, Any] | None
    checks: tuple[CheckResult, ...]


@dataclass(frozen=True)
class _Judged:
    """One baseline in numbers."""

    baseline: Baseline
    n: int
    metrics: dict[str, Estimate]
    gain: dict[str, Estimate] | None

    def as_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "protocol": self.baseline.protocol,
            "metrics": {name: estimate.as_dict() for name, estimate in self.metrics.items()},
        }
        if self.gain is not None:
            told["gain"] = {name: estimate.as_dict() for name, estimate in self.gain.items()}
        return told

    def value(self, metric: str) -> float:
        found = self.metrics[metric].value
        return -1.0 if found is None else found


def summarize_baselines(
    baselines: Sequence[Baseline],
    config: EvaluationConfig,
    *,
    model: Answers | None,
    patients_known: bool,
    seed: int,
) -> BaselineReport:
    """Numbers of the baselines, what the model gains on each, and whether it beats the best of them.

    With a model everything is about the images that both answer. The best baseline is the one with the highest AUROC,
    or balanced accuracy where AUROC is not estimable. Being picked for its luck it is a little too good, so the verdict
    errs against the model.

    Args:
        baselines: of `trivial_baselines`, or a part of each (`Baseline.take`).
        config: level, resamples and kind of interval.
        model: what the model says of the same images, in any order; None when there is no model.
        patients_known: whether the patients of the images are known.
        seed: of the resamples.
    """
    judged = [_judge(one, config, model, patients_known, seed) for one in baselines]
    verdict = None if model is None or not judged else _verdict(judged)
    checks = [*_strong(judged), *_not_beaten(verdict)]
    return BaselineReport({one.baseline.name: one.as_dict() for one in judged}, verdict, tuple(checks))


def _judge(
    baseline: Baseline, config: EvaluationConfig, model: Answers | None, patients_known: bool, seed: int
) -> _Judged:
    if model is None:
        metrics = estimate_metrics(baseline.answers, config, patients_known=patients_known, seed=seed)
        return _Judged(baseline, len(baseline), metrics, None)
    theirs, own = baseline.matched(model)
    metrics = estimate_metrics(own, config, patients_known=patients_known, seed=seed)
    gain = paired_differences(theirs, own, config, patients_known=patients_known, seed=seed, metrics=METRICS)
    return _Judged(baseline, len(own.scores), metrics, gain)


def _verdict(judged: Sequence[_Judged]) -> dict[str, Any]:
    ranked = all(one.gain is not None and one.gain["auroc"].value is not None for one in judged)
    metric = "auroc" if ranked else "balanced_accuracy"
    best = max(judged, key=lambda one: one.value(metric))
    assert best.gain is not None
    gain, verdict = best.gain[metric], _called(best.gain[metric])
    return {
        "best": best.baseline.name,
        "metric": metric,
        "gain": gain.as_dict(),
        "verdict": verdict,
        "text": _told(best, metric, gain, verdict),
    }


def _called(gain: Estimate) -> Verdict:
    if gain.low is not None and gain.low > 0:
        return "beats"
    return "worse" if gain.high is not None and gain.high < 0 else "not shown"


def _told(best: _Judged, metric: str, gain: Estimate, verdict: Verdict) -> str:
    name = f"{best.baseline.name}: {WORDS.get(best.baseline.name, best.baseline.features)}"
    if gain.value is None:
        return f"Whether the model beats the best trivial baseline ({name}) cannot be estimated: {gain.reason}."
    start = {
        "beats": f"The model beats the best trivial baseline ({name})",
        "not shown": f"That the model beats the best trivial baseline ({name}) is not shown",
        "worse": f"The model is worse than the best trivial baseline ({name})",
    }[verdict]
    reached = f"{_METRIC[metric]} {best.value(metric) + gain.value:.3f} against {best.value(metric):.3f}"
    return f"{start}: {reached} on {best.n:,} images, a gain of {signed(gain)}."


def signed(estimate: Estimate) -> str:
    """A difference with its interval, in words."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return str(estimate)
    return f"{estimate.value:+.3f} ({estimate.level:.0%} interval {estimate.low:+.3f} to {estimate.high:+.3f})"


def _strong(judged: Sequence[_Judged]) -> list[CheckResult]:
    strong = [
        one
        for one in judged
        if one.baseline.name != "majority" and (low := one.metrics["auroc"].low) is not None and low > STRONG
    ]
    if not strong:
        return []
    strong.sort(key=lambda one: -one.value("auroc"))
    told = "; ".join(f"{WORDS[one.baseline.name]}: AUROC {one.metrics['auroc']}" for one in strong)
    meaning = {one.baseline.name: _MEANING[one.baseline.name] for one in strong}
    evidence = {
        "auroc": {one.baseline.name: one.metrics["auroc"].as_dict() for one in strong},
        "protocol": strong[0].baseline.protocol,
        "meaning": meaning,
    }
    return [
        CheckResult(
            "BASELINE_STRONG",
            "warning",
            f"{len(strong)} of {len(judged)} trivial baselines tell the classes apart ({told})",
            evidence,
            f"{'; '.join(meaning.values())}; count what a model gains beyond them, and test it on other images",
        )
    ]


def _not_beaten(verdict: dict[str, Any] | None) -> list[CheckResult]:
    if verdict is None or verdict["verdict"] == "beats" or verdict["gain"]["value"] is None:
        return []
    return [
        CheckResult(
            "BASELINE_NOT_BEATEN",
            "warning",
            verdict["text"],
            {name: verdict[name] for name in ("best", "metric", "gain", "verdict")},
            "do not say that the model has learned the disease: it needs more images or patients, or another backbone, "
            "or the data give the label away",
        )
    ]
