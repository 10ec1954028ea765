"""A finished model scored again on test images in which a region cannot be seen: what it loses, it had read there.

    scored images ─► whole patients, at most checks.rescored ─┬─ logits as they are ──────────────► original
                                                              └─ blanked ─► Predictor ─► logits ──► blanked
    original less blanked, paired ─► drop ─► a second filling where the first shows a drop ─► flags, checks, pictures

SHORTCUT_RELIES_ON_CORNERS   the model loses with the corners of the images
SHORTCUT_RELIES_ON_BORDERS   … with the outer frame
SHORTCUT_RELIES_ON_TEXT      … with letters and digits
LESION_NOT_NEEDED            the model beats chance, and keeps doing so when the lesions are filled
SHORTCUT_NOT_RESCORED        why nothing was scored again
MASK_UNREADABLE              said by `medgraft.checks.masks`

No network has seen blanked images, so a drop may come from the filling. Corners and borders count only when they show
it with both fillings of `medgraft.checks.blanking`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medgraft.checks.masks import Masks, read_masks
from medgraft.config import Config
from medgraft.data.pixels import ingest
from medgraft.evaluation.bootstrap import Bootstrap
from medgraft.evaluation.differences import METRICS, Answers, paired_differences
from medgraft.evaluation.estimates import MetricEstimates
from medgraft.evaluation.resample import WeightedMetrics
from medgraft.inference.predictor import Predictor
from medgraft.report.evaluation_content import BlankedPair
from medgraft.types import CheckResult, Estimate, FloatArray, IntArray
from medgraft.workflows.progress import Progress
from medgraft.workflows.rescoring_questions import (
    Blank,
    Question,
    VariantName,
    draw_rows,
    questions_of_lesions,
    questions_of_places,
)
from medgraft.workflows.scored import ScoredPart, scores_of

_SHORTCUT_DROP = 0.02
_NEEDLESS_DROP = 0.05
_BATCH = 32
_PICTURES = 8
_WORDS: dict[str, str] = {
    "corners_blanked": "corners",
    "borders_blanked": "borders",
    "text_blanked": "text",
    "lesion_removed": "lesion",
    "lesion_only": "everything but the lesion",
}


@dataclass(frozen=True)
class Variant:
    """Scores with one region blanked.

    Attributes:
        n_images: images compared.
        n_changed: of these, images that the blanking changed; the others keep their score.
        metrics: with the region blanked.
        drop: original less blanked, paired; above 0 something was lost.
        flagged: corners, borders and text: the lower limit of the drop in AUROC or in balanced accuracy is above 0.02,
            with every filling. ``lesion_removed``: the upper limit of the drop in AUROC is below 0.05 though the model
            beats chance. ``lesion_only`` is never flagged.
    """

    n_images: int
    n_changed: int
    metrics: Mapping[str, Estimate]
    drop: Mapping[str, Estimate]
    flagged: bool

    def as_dict(self) -> dict[str, Any]:
        return {
            "n_images": self.n_images,
            "n_changed": self.n_changed,
            "metrics": {name: estimate.as_dict() for name, estimate in self.metrics.items()},
            "drop": {name: estimate.as_dict() for name, estimate in self.drop.items()},
            "flagged": self.flagged,
        }


@dataclass(frozen=True)
class Rescored:
    """What came of scoring again.

    Attributes:
        variants: by name; those of lesions only where masks show any.
        checks: what it means.
        pairs: at most 8 images before and after, of every variant those whose answer it changed most.
    """

    variants: Mapping[VariantName, Variant] = field(default_factory=dict)
    checks: tuple[CheckResult, ...] = ()
    pairs: tuple[BlankedPair, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The entry ``shortcuts.rescored`` of evaluation.json."""
        return {name: variant.as_dict() for name, variant in self.variants.items()}


@dataclass(frozen=True, eq=False)
class _Answered:
    """Answers with one filling.

    Attributes:
        fill: that was used.
        original: answers to the images as they are.
        blanked: answers to the copies.
        changed: places among the question's rows.
        drop: original less blanked.
    """

    fill: Blank
    original: Answers
    blanked: Answers
    changed: IntArray
    drop: dict[str, Estimate]


def rescore(predictor: Predictor, part: ScoredPart, *, config: Config, seed: int, progress: Progress) -> Rescored:
    """Score a part again with corners, borders and text blanked, and lesions removed or kept alone.

    At most ``checks.rescored`` images, drawn by whole patients with each class in its share. Images that a variant
    does not change keep their score.

    Args:
        predictor: the model that made the logits of the part.
        part: N labelled images and their logits.
        config: ``checks.rescored``, intervals, and rules for reading masks.
        seed: of the draw and of the resamples.
        progress: told how far scoring is.

    Returns:
        No variants, and a note, for averaged answers (``part.inference``), whose single passes are not what is
        delivered, and without images.

    Raises:
        ModelError: ``NONFINITE_OUTPUT``.
    """
    if part.inference is not None:
        return _not_rescored("the answers are averages over several models or passes")
    if len(part.scored) == 0:
        return _not_rescored("there are no scored images")
    rows = draw_rows(part.scored, limit=config.checks.rescored, seed=seed)
    masks = _masks_of(part, rows, predictor, config)
    labels = part.scored.take(rows).table["label"].tolist()
    questions = [*questions_of_places(rows), *questions_of_lesions(rows, labels, masks, seed=seed)]
    scoring = _Scoring(predictor, part, config, seed, progress, total=sum(len(one.rows) for one in questions))
    answered = [(question, scoring.answer(question)) for question in questions]
    progress.advance("scoring blanked images", scoring.total, scoring.total)
    found: dict[VariantName, Variant] = {}
    checks = list(masks.checks)
    for question, answer in answered:
        found[question.name] = scoring.judged(question.name, answer)
        checks += _checks_of(question.name, found[question.name])
    return Rescored(found, tuple(checks), scoring.pictures(answered))


def _masks_of(part: ScoredPart, rows: IntArray, predictor: Predictor, config: Config) -> Masks:
    manifest, preprocess = part.scored.take(rows), predictor.bundle.preprocess
    if manifest.table["mask"].isna().all():
        return Masks(np.zeros((len(rows), *preprocess.size), dtype=np.bool_), np.zeros(len(rows), dtype=np.bool_))
    # the images were decoded before, so this only tells how large they are
    records = ingest(manifest.image_paths(), preprocess, config.data).records
    return read_masks(manifest, records, preprocess, config.data)


class _Scoring:
    """Asks the questions of one model and one part."""

    def __init__(
        self, predictor: Predictor, part: ScoredPart, config: Config, seed: int, progress: Progress, *, total: int
    ) -> None:
        self.predictor, self.part, self.config, self.seed = predictor, part, config, seed
        self.progress, self.total, self.done = progress, total, 0
        predictor.expect(total)

    def answer(self, question: Question) -> _Answered:
        """Answers with the first filling or, where it shows a drop, with the one that shows the least."""
        tried = [self._filled(question, question.fills[0])]
        for fill in question.fills[1:]:
            if _lower(tried[-1].drop) > _SHORTCUT_DROP:
                tried.append(self._filled(question, fill))
        self.done += len(question.rows)
        return min(tried, key=lambda answer: _lower(answer.drop))

    def _filled(self, question: Question, fill: Blank) -> _Answered:
        rows = question.rows
        logits = self.part.logits[rows].copy()
        changed: list[int] = []
        for start in range(0, len(rows), _BATCH):
            places = np.arange(start, min(start + _BATCH, len(rows)))
            blanked = fill(self.part.pixels.read(rows[places]), places)
            hit = places[blanked.changed]
            if len(hit):
                logits[hit] = self.predictor.logits(blanked.pixels[blanked.changed])
            changed += hit.tolist()
            self.progress.advance("scoring blanked images", self.done + int(places[-1]) + 1, self.total)
        original, blanked_answers = self._answers(rows, self.part.logits[rows]), self._answers(rows, logits)
        drop = paired_differences(
            original, blanked_answers, self.config.evaluation, patients_known=self._known, seed=self.seed
        )
        return _Answered(fill, original, blanked_answers, np.array(changed, dtype=np.int64), drop)

    @property
    def _known(self) -> bool:
        return self.part.scored.patients_known

    def _answers(self, rows: IntArray, logits: FloatArray) -> Answers:
        classes = self.predictor.bundle.classes
        scores = scores_of(self.part.scored.take(rows), self.predictor.proba(logits), classes)
        return Answers(scores, self.predictor.bundle.operating_point.predict(scores.y_proba, classes))

    def judged(self, name: VariantName, answer: _Answered) -> Variant:
        """The variant as it is reported."""
        if name == "lesion_removed":
            flagged = self._needless(answer)
        else:
            flagged = name != "lesion_only" and _lower(answer.drop) > _SHORTCUT_DROP
        metrics = self._metrics(answer.blanked)
        return Variant(len(answer.original.scores), len(answer.changed), metrics, answer.drop, flagged)

    def _needless(self, answer: _Answered) -> bool:
        """Whether the model ranks better than chance and, surely, nearly as well without the lesions."""
        upper, before = answer.drop["auroc"].high, self._metrics(answer.original)["auroc"].low
        return upper is not None and before is not None and upper < _NEEDLESS_DROP and before > 0.5

    def _metrics(self, answers: Answers) -> dict[str, Estimate]:
        scores, positive = answers.scores, self.predictor.bundle.operating_point.positive
        index = None if positive is None else scores.classes.index(positive)
        weighted = WeightedMetrics(scores, answers.predicted, positive=index)
        kind = "patient" if self._known else "image"
        bootstrap = Bootstrap(scores, self.config.evaluation, seed=self.seed, kind=kind)
        maker = MetricEstimates(scores, answers.predicted, weighted, bootstrap)
        if positive is not None:
            return {metric: maker.of_class(positive, metric) for metric in METRICS}
        averaged = ("auroc", "sensitivity")
        per_class = {name: {metric: maker.of_class(name, metric) for metric in averaged} for name in scores.classes}
        return {metric: maker.of_task(metric, per_class) for metric in METRICS}

    def pictures(self, answered: Sequence[tuple[Question, _Answered]]) -> tuple[BlankedPair, ...]:
        """Images of every variant whose probability of the truth fell most."""
        shown = [(question, answer) for question, answer in answered if len(answer.changed)]
        each = _PICTURES // max(1, len(shown))
        return tuple(pair for question, answer in shown for pair in self._pairs(question, answer, each))

    def _pairs(self, question: Question, answer: _Answered, count: int) -> list[BlankedPair]:
        scores = answer.original.scores
        everyone = np.arange(len(scores))
        before, after = (one.scores.y_proba[everyone, scores.y_true] for one in (answer.original, answer.blanked))
        fallen = (before - after)[answer.changed]
        places = answer.changed[np.argsort(-fallen, kind="stable")][:count]
        images = self.part.pixels.read(question.rows[places])
        copies = answer.fill(images, places).pixels
        return [
            BlankedPair(
                f"{_WORDS[question.name]} blanked: {scores.classes[scores.y_true[place]]}, "
                f"probability {before[place]:.2f} before, {after[place]:.2f} after",
                image,
                copy,
            )
            for place, image, copy in zip(places, images, copies, strict=True)
        ]


def _leading(drop: Mapping[str, Estimate]) -> tuple[str, Estimate]:
    """The drop that decides: of AUROC, or where balanced accuracy shows more, of that; accuracy with one class only.

    A model that reads both a mark and the disease may rank as well without the mark while its answers turn wrong.
    """
    lows = {name: low for name in ("auroc", "balanced_accuracy") if (low := drop[name].low) is not None}
    if not lows:
        return "accuracy", drop["accuracy"]
    name = "auroc" if lows.get("auroc", -1.0) > _SHORTCUT_DROP else max(lows, key=lambda one: lows[one])
    return name, drop[name]


def _lower(drop: Mapping[str, Estimate]) -> float:
    low = _leading(drop)[1].low
    return -1.0 if low is None else low


def _checks_of(name: VariantName, variant: Variant) -> list[CheckResult]:
    if not variant.flagged:
        return []
    metric, drop = ("auroc", variant.drop["auroc"]) if name == "lesion_removed" else _leading(variant.drop)
    evidence = {
        "metric": metric,
        "drop": drop.value,
        "low": drop.low,
        "high": drop.high,
        "n": variant.n_images,
        "changed": variant.n_changed,
    }
    word = "AUROC" if metric == "auroc" else metric.replace("_", " ")
    if name == "lesion_removed":
        return [
            CheckResult(
                "LESION_NOT_NEEDED",
                "warning",
                f"with the lesions filled, {word} falls by {drop} only: the model reads something else",
                evidence,
                "look where it looks (Grad-CAM in the report) and what else differs between the classes; tissue around "
                "a lesion may show it too",
            )
        ]
    region = _WORDS[name]
    return [
        CheckResult(
            f"SHORTCUT_RELIES_ON_{region.upper()}",
            "warning",
            f"without the {region} of the images {word} falls by {drop}",
            evidence,
            f"look at the pictures: if marks or frames there tell the class, crop or cover the {region} in all images "
            "and train again; where the anatomy reaches that far, the loss may be honest",
        )
    ]


def _not_rescored(why: str) -> Rescored:
    title = f"images were not scored again with regions blanked: {why}"
    return Rescored(checks=(CheckResult("SHORTCUT_NOT_RESCORED", "note", title),))
