"""What a cross-validation leaves: of each fit its parts, plan and scores; of all fits the pooled evaluation.

folds/rR-fF/   bundle/, manifest.csv, plan.json, metrics.csv, scores.csv        one fit
folds.csv      one row per fit                                                  grows with each
scores.csv, evaluation.json, report.html, plots/                                all fits
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.data.manifest import Manifest
from medgraft.evaluation.calibration import apply_temperature
from medgraft.evaluation.differences import Answers
from medgraft.evaluation.evaluate import Evaluation, write_evaluation
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.evaluation.out_of_fold import CrossValidation, evaluate_out_of_fold
from medgraft.evaluation.scores import ScoreRow, harmless, table_line, write_scores_csv
from medgraft.inference.bundle import open_bundle
from medgraft.inference.predictor import Predictor
from medgraft.report.evaluation_content import Case, FoldRow, ReportContent
from medgraft.report.evaluation_page import write_report
from medgraft.types import CheckResult, Estimate, FloatArray, IntArray, Scores
from medgraft.workflows.crossval_folds import Fold
from medgraft.workflows.deep_checks import Looked
from medgraft.workflows.gallery import choose_cases, explained_cases, sample_grid
from medgraft.workflows.planning import PlannedRun, shown
from medgraft.workflows.results import Results
from medgraft.workflows.run_folder import write_json, write_rows, write_text
from medgraft.workflows.scored import patient_independence
from medgraft.workflows.trust import facts_beside

_HEADER = ("sample_id", "path", "patient_id", "label", "predicted", "correct", "status")
_FOLD_HEADER = (
    "repeat", "fold", "train_images", "val_images", "images", "patients", "auroc", "auroc_low", "auroc_high",
    "accuracy", "accuracy_low", "accuracy_high", "threshold", "temperature", "seconds",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class FitScores:
    """One fit and what it said of the images that were held out.

    Attributes:
        fold: which fit, and who was held out.
        logits: (n, C), in the order of ``fold.held_out``.
        proba: (n, C) calibrated.
        predicted: (n,) class indices at the fit's own operating point.
        point: that operating point.
        temperature: of the fit.
        evaluation: of its held-out images alone.
        bundle_id: of its bundle.
        checks: what is wrong with its answers.
        seconds: wall time.
    """

    fold: Fold
    logits: FloatArray
    proba: FloatArray
    predicted: IntArray
    point: OperatingPoint
    temperature: float
    evaluation: Evaluation
    bundle_id: str
    checks: tuple[CheckResult, ...] = ()
    seconds: float = 0.0

    @property
    def line(self) -> str:
        """The fit in a line."""
        metrics = self.evaluation.metrics
        threshold = "" if self.point.threshold is None else f", {self.point.positive} from {self.point.threshold:.3f}"
        return (
            f"repeat {self.fold.repeat}, fold {self.fold.number}: {len(self.predicted):,} images, AUROC "
            f"{metrics['auroc']}, accuracy {metrics['accuracy']}{threshold}, {self.seconds:.0f} s"
        )


def write_fit(folder: Path, run: PlannedRun, scored: FitScores) -> None:
    """Parts, plan and scores of one fit, beside its bundle."""
    run.prepared.manifest.write_csv(folder / "manifest.csv")
    write_json(folder / "plan.json", run.plan.as_dict())
    manifest, _ = run.prepared.part("test")
    classes = manifest.classes
    table = manifest.table
    cells = zip(*(table[name].tolist() for name in ("sample_id", "path", "patient_id", "label")), strict=True)
    rows = [
        ScoreRow(sample_id, path, patient, label, predicted=classes[predicted], proba=tuple(proba))
        for (sample_id, path, patient, label), predicted, proba in zip(
            cells, scored.predicted, scored.proba.tolist(), strict=True
        )
    ]
    write_scores_csv(folder / "scores.csv", rows, classes=classes)


def write_folds(path: Path, fits: Sequence[FitScores]) -> None:
    """folds.csv: one row per fit; its intervals are those of its held-out images, for this one model."""
    rows = []
    for one in fits:
        auroc, accuracy = one.evaluation.metrics["auroc"], one.evaluation.metrics["accuracy"]
        sizes = [one.fold.split.count(part) for part in ("train", "val", "test")]
        rows.append((
            one.fold.repeat, one.fold.number, *sizes, one.evaluation.n_patients, *_limits(auroc), *_limits(accuracy),
            one.point.threshold, one.temperature, round(one.seconds, 1),
        ))  # fmt: skip
    write_rows(path, _FOLD_HEADER, rows)


def _limits(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    return estimate.value, estimate.low, estimate.high


@dataclass(frozen=True, eq=False)
class _Pooled:
    """All fits, as R x N rows, repeat after repeat, images in the order of the manifest.

    Attributes:
        manifest: N readable images.
        repeats: R.
        logits: (R x N, C).
        proba: (R x N, C) calibrated.
        predicted: (R x N,) class indices.
        fit: (R x N,) number of the fit that scored the row.
    """

    manifest: Manifest
    repeats: int
    logits: FloatArray
    proba: FloatArray
    predicted: IntArray
    fit: IntArray

    @classmethod
    def of(cls, manifest: Manifest, fits: Sequence[FitScores]) -> _Pooled:
        n, repeats, n_classes = len(manifest), fits[-1].fold.repeat, len(manifest.classes)
        logits, proba = np.zeros((repeats * n, n_classes)), np.zeros((repeats * n, n_classes))
        predicted, fit = np.zeros(repeats * n, dtype=np.int64), np.full(repeats * n, -1, dtype=np.int64)
        for number, one in enumerate(fits):
            rows = (one.fold.repeat - 1) * n + one.fold.held_out
            logits[rows], proba[rows], predicted[rows], fit[rows] = one.logits, one.proba, one.predicted, number
        if (fit < 0).any():
            raise ValueError("not every image was scored in every repeat")
        return cls(manifest, repeats, logits, proba, predicted, fit)

    def answers(self, cluster: Sequence[str]) -> Answers:
        """Rows whose ids hold the repeat; names have no newline, so they cannot meet."""
        names = self.manifest.table["sample_id"]
        ids = tuple(f"{name}\n{repeat}" for repeat in range(self.repeats) for name in names)
        y_true = np.tile(self.manifest.class_indices(), self.repeats)
        scores = Scores(ids, tuple(cluster) * self.repeats, self.manifest.classes, y_true, self.proba)
        return Answers(scores, self.predicted)

    def first(self, cluster: Sequence[str]) -> Answers:
        """The rows of the first repeat, in which each image stands once."""
        n = len(self.manifest)
        ids = tuple(self.manifest.table["sample_id"])
        scores = Scores(ids, tuple(cluster), self.manifest.classes, self.manifest.class_indices(), self.proba[:n])
        return Answers(scores, self.predicted[:n])


def write_pooled(
    folder: Path,
    run: PlannedRun,
    fits: Sequence[FitScores],
    *,
    group: IntArray,
    looked: Looked,
    provenance: Mapping[str, Any],
) -> Results:
    """Evaluate the out-of-fold scores of all fits, and write what a reader needs.

    Args:
        folder: receives scores.csv, evaluation.json, checks.json, report.html and plots/; bundles lie in its folds/.
        run: all images, all checks, and the plan of the first fit.
        fits: all K x R of them, repeat after repeat.
        group: (N,) what was never torn apart, of the readable images.
        looked: trivial baselines of the same images, among others.
        provenance: names and values for the end of the report.
    """
    prepared, config = run.prepared, run.config
    manifest = prepared.usable()
    known = manifest.patients_known
    # copies count as one image where nobody is known; numbers hold no sample's name
    cluster = manifest.unit_ids() if known else tuple(str(number) for number in group.tolist())
    pooled = _Pooled.of(manifest, fits)
    unit = "patients, joined where they share a picture" if known else "images joined with their copies"
    evaluation = evaluate_out_of_fold(
        pooled.answers(cluster),
        CrossValidation(fits[-1].fold.number, pooled.repeats, len(manifest), unit),
        points=[one.point for one in fits],
        temperatures=[one.temperature for one in fits],
        logits=pooled.logits,
        config=config.evaluation,
        patients_known=known,
        n_declared=len(prepared.manifest),
        seed=config.training.seed,
    ).with_patient_independence(patient_independence(manifest, prepared.checks))
    evaluation = replace(
        evaluation, cross_validation={**(evaluation.cross_validation or {}), "mean_of_folds": _means(fits)}
    )
    first = pooled.first(cluster)
    facts, told = facts_beside(looked, first, config, patients_known=known)
    checks = (*prepared.checks, *told)
    beside = {**facts, "checks": [check.as_dict() for check in checks]}
    write_evaluation(evaluation, folder / "evaluation.json", beside=beside)
    write_json(folder / "checks.json", beside["checks"])
    errors = prepared.errors()
    write_text(folder / "scores.csv", "".join(_score_lines(pooled, prepared.manifest, fits, errors)))
    whole = {**evaluation.as_dict(), **beside}
    page = replace(_page(folder, run, fits, pooled, first, evaluation, provenance), evaluation=whole, checks=checks)
    return Results(evaluation, whole, write_report(page, folder))


def _means(fits: Sequence[FitScores]) -> dict[str, float | None]:
    """Mean over the fits of what each achieved on its own images: no ranking across models."""
    means: dict[str, float | None] = {}
    for name in ("auroc", "accuracy"):
        values = [one.evaluation.metrics[name].value for one in fits]
        known = [value for value in values if value is not None]
        means[name] = float(np.mean(known)) if len(known) == len(values) else None
    return means


def _score_lines(
    pooled: _Pooled, declared: Manifest, fits: Sequence[FitScores], errors: Mapping[str, str]
) -> list[str]:
    """scores.csv: one row per image and repeat, then the images that could not be read, which no fit scored."""
    classes = pooled.manifest.classes
    lines = [table_line([*_HEADER, *(f"proba_{name}" for name in classes), "repeat", "fold"])]
    columns = ["sample_id", "path", "patient_id", "label"]
    images = list(pooled.manifest.table[columns].itertuples(index=False, name=None))
    for row, (cells, number) in enumerate(zip(images * pooled.repeats, pooled.fit.tolist(), strict=True)):
        fold, predicted = fits[number].fold, classes[pooled.predicted[row]]
        correct = "true" if predicted == cells[3] else "false"
        texts = [*(harmless(cell) for cell in (*cells, predicted)), correct, "ok"]
        proba = [repr(value) for value in pooled.proba[row].tolist()]
        lines.append(table_line([*texts, *proba, str(fold.repeat), str(fold.number)]))
    for cells in declared.table[columns].itertuples(index=False, name=None):
        if (error := errors.get(cells[0])) is not None:
            texts = [*(harmless(cell) for cell in cells), "", "", f"unscored: {error}"]
            lines.append(table_line([*texts, *[""] * (len(classes) + 2)]))
    return lines


def _page(
    folder: Path,
    run: PlannedRun,
    fits: Sequence[FitScores],
    pooled: _Pooled,
    first: Answers,
    evaluation: Evaluation,
    provenance: Mapping[str, Any],
) -> ReportContent:
    """Numbers of all repeats; figures, lists and pictures of the first, in which each image stands once."""
    wrong, typical = choose_cases(first.scores, first.predicted, run.config.evaluation.gallery)
    errors = run.prepared.errors()
    return ReportContent(
        title=run.source.resolve().stem,
        evaluation=evaluation.as_dict(),
        scores=first.scores,
        predicted=first.predicted,
        class_counts={name: {"test": sum(row.values())} for name, row in pooled.manifest.counts().items()},
        sample_grid=sample_grid(*run.prepared.part("train")),
        errors=_cases(folder, run, fits, pooled, first, wrong),
        typical=_cases(folder, run, fits, pooled, first, typical),
        checks=run.prepared.checks,
        folds=[_fold_row(one) for one in fits],
        plan_rows=[(row.setting, shown(row.value), row.reason) for row in run.plan.rows],
        uncalibrated=apply_temperature(pooled.logits[: len(first.scores)], 1.0),
        decision=evaluation.decision_curve,
        risk=evaluation.risk_coverage,
        provenance=[(name, shown(value)) for name, value in provenance.items()],
        n_declared=len(run.prepared.manifest),
        unscored=list(errors.items()),
    )


def _fold_row(one: FitScores) -> FoldRow:
    metrics = one.evaluation.metrics
    return FoldRow(
        one.fold.repeat,
        one.fold.number,
        len(one.predicted),
        metrics["auroc"].as_dict(),
        metrics["accuracy"].as_dict(),
        one.point.threshold,
    )


def _cases(
    folder: Path, run: PlannedRun, fits: Sequence[FitScores], pooled: _Pooled, first: Answers, rows: IntArray
) -> list[Case]:
    """Images with the map of the model that had not seen them, in the order of ``rows``."""
    _, pixels = run.prepared.part("train")  # `purpose="folds"` puts all readable images there
    made: dict[int, Case] = {}
    for number in np.unique(pooled.fit[rows]).tolist():
        predictor = Predictor(open_bundle(folder / "folds" / fits[number].fold.name / "bundle"), device=run.device)
        own = rows[pooled.fit[rows] == number]
        cases = explained_cases(predictor, pixels, first.scores, first.predicted, own)
        made |= dict(zip(own.tolist(), cases, strict=True))
    return [made[row] for row in rows.tolist()]
