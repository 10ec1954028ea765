"""What stands beside the numbers: who was seen in training, trivial baselines, shortcuts, subgroups, prediction sets.

scores ─► Leaks ─► all, copied, clean ─► the leading numbers are of the clean images
       ─► baselines, shortcuts, subgroups, prediction sets on the same images ─► Trust ─► evaluation.json, report
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medgraft.checks.baseline_report import summarize_baselines
from medgraft.checks.baselines import Baseline
from medgraft.checks.leaks import Leaks, concluded
from medgraft.checks.shortcuts import summarize_shortcuts
from medgraft.checks.subgroups import check_subgroups
from medgraft.config import Config
from medgraft.data.manifest import Manifest
from medgraft.evaluation.conformal import evaluate_conformal
from medgraft.evaluation.differences import Answers
from medgraft.evaluation.evaluate import Evaluation
from medgraft.evaluation.subgroups import Subgroups, subgroup_estimates
from medgraft.inference.predictor import Predictor
from medgraft.report.evaluation_content import BlankedPair
from medgraft.types import CheckResult, IntArray
from medgraft.workflows.deep_checks import Looked
from medgraft.workflows.progress import Progress
from medgraft.workflows.rescoring import Rescored, rescore
from medgraft.workflows.scored import ScoredPart


@dataclass(frozen=True)
class Trust:
    """What is known about how far an evaluation can be believed.

    Attributes:
        facts: entries of evaluation.json by name.
        checks: what it means.
        blanked: images before and after a region was blanked.
    """

    facts: dict[str, Any]
    checks: tuple[CheckResult, ...]
    blanked: tuple[BlankedPair, ...]


def judge_trust(
    predictor: Predictor,
    part: ScoredPart,
    answers: Answers,
    looked: Looked,
    *,
    config: Config,
    progress: Progress,
) -> Trust:
    """Baselines, shortcuts, subgroups and prediction sets of the images that the leading numbers are of.

    Args:
        predictor: the model.
        part: N images that it scored.
        answers: what it said of them.
        looked: trivial predictions of these images, among others.
        config: intervals, subgroups and what is scored again.
        progress: told how far scoring again is.
    """
    known, seed = part.scored.patients_known, config.training.seed
    facts, checks = facts_beside(looked, answers, config, patients_known=known)
    rescored = Rescored()
    if config.checks.deep:
        rescored = rescore(predictor, part, config=config, seed=seed, progress=progress)
    facts["shortcuts"]["rescored"] = rescored.as_dict()
    subgroups = _subgroups(part, answers, predictor, config)
    facts["subgroups"] = None if subgroups is None else subgroups.as_dict()
    facts["conformal"] = None
    if predictor.conformal is not None:
        facts["conformal"] = evaluate_conformal(
            predictor.conformal,
            answers.scores,
            predictor.bundle.operating_point,
            config=config.evaluation,
            patients_known=known,
            seed=seed,
        )
    groups = () if subgroups is None else check_subgroups(subgroups)
    return Trust(facts, (*checks, *rescored.checks, *groups), rescored.pairs)


def facts_beside(
    looked: Looked, answers: Answers, config: Config, *, patients_known: bool
) -> tuple[dict[str, Any], tuple[CheckResult, ...]]:
    """The entries ``baselines``, ``baseline_verdict``, ``shortcuts`` and ``shift`` of evaluation.json.

    Args:
        looked: trivial predictions of the same images, perhaps of more.
        answers: what the model said.
        config: intervals.
        patients_known: whether the patients of the images are known.
    """
    rules, seed = config.evaluation, config.training.seed
    same = _of_same(looked.baselines, answers)
    beside = summarize_baselines(same, rules, model=answers, patients_known=patients_known, seed=seed)
    alone = summarize_shortcuts(
        _of_same(looked.sources, answers), same, rules, patients_known=patients_known, seed=seed
    )
    baselines = beside.baselines
    if any(len(one) > len(answers.scores) for one in looked.baselines):  # some images are not among the leading ones
        whole = summarize_baselines(looked.baselines, rules, model=None, patients_known=patients_known, seed=seed)
        baselines = {name: {**of, "metrics_on_all": whole.baselines[name]["metrics"]} for name, of in baselines.items()}
    facts = {
        "baselines": baselines,
        "baseline_verdict": beside.verdict,
        "shortcuts": {"sources": alone.sources, "rescored": {}},
        "shift": None if looked.shift is None else looked.shift.as_dict(),
    }
    return facts, (*beside.checks, *alone.checks)


def _of_same(baselines: Sequence[Baseline], answers: Answers) -> list[Baseline]:
    """The baselines of those images that the model answers; none where they have no image in common."""
    ids = set(answers.scores.sample_ids)
    taken = []
    for baseline in baselines:
        kept = [row for row, name in zip(baseline.rows, baseline.scores.sample_ids, strict=True) if name in ids]
        if kept:
            taken.append(baseline.take(np.array(kept, dtype=np.int64)))
    return taken


def _subgroups(part: ScoredPart, answers: Answers, predictor: Predictor, config: Config) -> Subgroups | None:
    """Metrics by the columns that were asked for; None where none was."""
    if not part.groups:
        return None
    positive = predictor.bundle.operating_point.positive
    return subgroup_estimates(
        answers,
        part.groups,
        config.evaluation,
        positive=None if positive is None else answers.scores.classes.index(positive),
        patients_known=part.scored.patients_known,
    )


def seen_in_training(
    leaks: Leaks, scored: Manifest, headline: Evaluation, evaluate: Callable[[IntArray], Evaluation]
) -> dict[str, Any]:
    """The entries ``headline``, ``subsets`` and ``leaks`` of evaluation.json.

    Args:
        leaks: of the N scored images.
        scored: the same images.
        headline: evaluation of the images that the leading numbers are of.
        evaluate: evaluation of some of the images.
    """
    subsets, leading = {}, leaks.rows(leaks.headline)
    for name in leaks.subsets():
        rows = leaks.rows(name)
        if np.array_equal(rows, leading):
            subsets[name] = _subset(headline)
        elif len(rows):
            subsets[name] = _subset(evaluate(rows))
        else:
            subsets[name] = _empty(headline)
    return {
        "headline": leaks.headline,
        "subsets": subsets,
        "leaks": {
            "against": leaks.against,
            "exact": int(leaks.exact.sum()),
            "near": int(leaks.near.sum()),
            "patients": int(leaks.patient.sum()),
            "conclusion": concluded(leaks, scored),
        },
    }


def _subset(evaluation: Evaluation) -> dict[str, Any]:
    facts = evaluation.as_dict()
    return {name: facts[name] for name in ("n_images", "n_patients", "metrics", "confusion")}


def _empty(like: Evaluation) -> dict[str, Any]:
    n_classes = len(like.classes)
    return {
        "n_images": 0,
        "n_patients": None if like.n_patients is None else 0,
        "metrics": {},
        "confusion": [[0] * n_classes for _ in range(n_classes)],
    }
