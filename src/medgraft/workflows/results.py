"""From logits of a test part to files: evaluation.json, scores.csv, report.html and plots.

ScoredPart ─► rows that training has not seen ─► Evaluation, the leading numbers ─┐
           ─► all, copied, clean; baselines; shortcuts; subgroups (`trust`) ──────┴─► evaluation.json, report.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medgraft.checks.leaks import check_leaks
from medgraft.config import Config
from medgraft.errors import DataError
from medgraft.evaluation.calibration import apply_temperature
from medgraft.evaluation.differences import Answers
from medgraft.evaluation.evaluate import Evaluation, evaluate_scores, write_evaluation
from medgraft.evaluation.parts import PART_HEADER, part_rows
from medgraft.evaluation.scores import ScoreRow, write_scores_csv
from medgraft.inference.predictor import Predictor
from medgraft.report.checks_table import PicturedExample
from medgraft.report.evaluation_content import ReportContent
from medgraft.report.evaluation_page import write_report
from medgraft.types import EpochRow, PatientIndependence, Scores, Split
from medgraft.workflows.deep_checks import Looked
from medgraft.workflows.gallery import choose_cases, explained_cases, sample_grid
from medgraft.workflows.progress import Progress
from medgraft.workflows.run_folder import write_json, write_rows
from medgraft.workflows.scored import ScoredPart, scores_of
from medgraft.workflows.trust import judge_trust, seen_in_training


@dataclass(frozen=True)
class Story:
    """What is told beside the numbers.

    Attributes:
        title: heading of the report.
        independence: whether the scored patients are known to be new to the model.
        provenance: names and values for the end of the report.
        looked: trivial baselines and what else the slower checks found.
        pictures: examples of checks, by their codes.
        history: epochs of the training, if it was here; so for all that follows.
        validation_scores: the validation part.
        class_counts: images by class and part.
        plan_rows: (setting, value, reason).
        other_parts: train and validation, scored too.
    """

    title: str
    independence: PatientIndependence
    provenance: Mapping[str, Any]
    looked: Looked = field(default_factory=Looked)
    pictures: Mapping[str, Sequence[PicturedExample]] = field(default_factory=dict)
    history: Sequence[EpochRow] = ()
    validation_scores: Scores | None = None
    class_counts: Mapping[str, Mapping[str, int]] | None = None
    plan_rows: Sequence[tuple[str, str, str]] = ()
    other_parts: Mapping[Split, ScoredPart] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """What was found, as evaluation.json holds it, and where the page lies."""

    evaluation: Evaluation
    facts: dict[str, Any]
    report: Path


def write_results(
    folder: Path,
    predictor: Predictor,
    part: ScoredPart,
    *,
    config: Config,
    story: Story,
    progress: Progress,
) -> Results:
    """Evaluate, and write everything a reader needs.

    Args:
        folder: receives evaluation.json, checks.json, scores.csv, report.html and plots/.
        predictor: the model that made the logits.
        part: what was scored; its ``leaks`` decide which images the leading numbers are of.
        config: interval level, resamples and gallery size.
        story: what is told beside the numbers.
        progress: told how far scoring again is.

    Raises:
        DataError: NOTHING_SCORED.
    """
    if len(part.scored) == 0:
        raise DataError(
            "NOTHING_SCORED", "no image of the test part could be read", fix="see checks.json for the reasons"
        )
    assert part.leaks is not None  # whoever scores a part for its own sake says what training has seen of it
    leaks, leading = part.leaks, part.take(part.leaks.rows(part.leaks.headline))
    evaluation = _evaluate(predictor, leading, config).with_patient_independence(story.independence)
    seen = seen_in_training(leaks, part.scored, evaluation, lambda rows: _evaluate(predictor, part.take(rows), config))
    answers = _answers(predictor, leading)
    trust = judge_trust(predictor, leading, answers, story.looked, config=config, progress=progress)
    checks = (*part.checks, *check_leaks(leaks, part.scored), *trust.checks)
    beside = {**seen, **trust.facts, "checks": [check.as_dict() for check in checks]}
    facts = {**evaluation.as_dict(), **beside}
    parts = _write_parts(folder, predictor, evaluation, story, config)
    write_evaluation(evaluation, folder / "evaluation.json", beside=beside)
    write_json(folder / "checks.json", facts["checks"])
    rows = score_rows(part, predictor)
    write_scores_csv(folder / "scores.csv", rows, classes=predictor.bundle.classes)
    content = _content(predictor, leading, answers, facts, evaluation, config=config, story=story)
    content = replace(
        content,
        checks=checks,
        check_pictures=story.pictures,
        blanked=trust.blanked,
        parts={name: other.as_dict() for name, other in parts.items()},
        provenance=[(name, _text(value)) for name, value in story.provenance.items()],
        n_declared=len(part.declared),
        unscored=[(row.sample_id, row.error) for row in rows if row.error is not None],
    )
    return Results(evaluation, facts, write_report(content, folder))


def _content(
    predictor: Predictor,
    part: ScoredPart,
    answers: Answers,
    facts: dict[str, Any],
    evaluation: Evaluation,
    *,
    config: Config,
    story: Story,
) -> ReportContent:
    """Numbers, curves and pictures of the images that the leading numbers are of."""
    scores, predicted = answers.scores, answers.predicted
    wrong, typical = choose_cases(scores, predicted, config.evaluation.gallery)
    return ReportContent(
        title=story.title,
        evaluation=facts,
        scores=scores,
        predicted=predicted,
        history=story.history,
        validation_scores=story.validation_scores,
        class_counts=story.class_counts,
        sample_grid=sample_grid(part.scored, part.pixels),
        errors=explained_cases(predictor, part.pixels, scores, predicted, wrong),
        typical=explained_cases(predictor, part.pixels, scores, predicted, typical),
        plan_rows=story.plan_rows,
        uncalibrated=None if part.inference is not None else apply_temperature(part.logits, 1.0),
        decision=evaluation.decision_curve,
        risk=evaluation.risk_coverage,
    )


def _write_parts(
    folder: Path, predictor: Predictor, evaluation: Evaluation, story: Story, config: Config
) -> dict[Split, Evaluation]:
    """parts.csv: train and validation, where they were scored, beside test."""
    parts: dict[Split, Evaluation] = {
        name: _evaluate(predictor, other, config) for name, other in story.other_parts.items() if len(other.scored)
    }
    if parts:
        parts["test"] = evaluation
        write_rows(folder / "parts.csv", PART_HEADER, part_rows(parts))
    return parts


def _answers(predictor: Predictor, part: ScoredPart) -> Answers:
    bundle = predictor.bundle
    proba = predictor.proba(part.logits)
    return Answers(scores_of(part.scored, proba, bundle.classes), bundle.operating_point.predict(proba, bundle.classes))


def _evaluate(predictor: Predictor, part: ScoredPart, config: Config) -> Evaluation:
    return evaluate_scores(
        _answers(predictor, part).scores,
        predictor.bundle.operating_point,
        temperature=predictor.bundle.temperature,
        config=config.evaluation,
        patients_known=part.scored.patients_known,
        n_declared=len(part.declared),
        seed=config.training.seed,
        inference=part.inference,
        # several passes are averaged after the temperature: there are no probabilities before it
        logits=part.logits if part.inference is None else None,
    )


def score_rows(part: ScoredPart, predictor: Predictor) -> list[ScoreRow]:
    """One row per declared sample, in order; an unreadable one carries its error."""
    answers, classes = _answers(predictor, part), predictor.bundle.classes
    proba, predicted = answers.scores.y_proba, answers.predicted
    conformal = predictor.conformal
    sets = None if conformal is None else conformal.names(proba)
    subset = [""] * len(predicted) if part.leaks is None else part.leaks.named()
    where = {name: row for row, name in enumerate(part.scored.table["sample_id"])}
    rows = []
    columns = ("sample_id", "path", "patient_id", "label")
    for sample_id, path, patient_id, label in part.declared.table[list(columns)].itertuples(index=False):
        row = where.get(sample_id)
        if row is None:
            rows.append(
                ScoreRow(sample_id, path, patient_id, label, predicted=None, proba=None, error=part.errors[sample_id])
            )
            continue
        named = classes[predicted[row]]
        rows.append(
            ScoreRow(
                sample_id=sample_id,
                path=path,
                patient_id=patient_id,
                label=label,
                predicted=named,
                proba=tuple(float(value) for value in proba[row]),
                error=None,
                spread=None if part.spread is None else float(part.spread[row]),
                prediction_set=None if sets is None else sets[row],
                refer=None if sets is None else sets[row] != (named,),
                subset=subset[row],
            )
        )
    return rows


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    return str(value)
