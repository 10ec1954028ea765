"""One bundle out of a planned run: what `train` does once and cross-validation once per fold.

    fit             all phases on train, validation stops and selects ─► the trained network, metrics.csv
    write_decided   validation logits ─► temperature ─► operating point ─► checks ─► Decided ─► bundle

What a bundle knows beside its weights is decided here: from validation in `_decide`, from training images in
`write_decided`. The test part is not touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.checks.answers import check_answers
from medgraft.data.imprint import Imprint, take_imprint
from medgraft.evaluation.calibration import apply_temperature, fit_temperature
from medgraft.evaluation.conformal import Conformal, fit_conformal
from medgraft.evaluation.operating_point import OperatingPoint, choose_operating_point
from medgraft.inference.bundle import write_bundle
from medgraft.inference.scorer import Scorer
from medgraft.training.phases import Engines, LabelledPixels, Pool, TrainedModel, train_phases
from medgraft.types import CheckResult, EpochRow, FloatArray, Scores, Split
from medgraft.workflows.planning import PlannedRun
from medgraft.workflows.progress import Progress
from medgraft.workflows.run_folder import environment, now, write_rows
from medgraft.workflows.scored import patient_independence, scores_of


@dataclass(frozen=True)
class Decided:
    """What validation decided about using the trained network.

    Attributes:
        temperature: divides the logits.
        operating_point: how probabilities become a label.
        conformal: how they become a set of classes.
        scores: the validation part, calibrated.
        logits: (N, C) of the validation part, before the temperature.
        checks: what is wrong with the answers.
    """

    temperature: float
    operating_point: OperatingPoint
    conformal: Conformal
    scores: Scores
    logits: FloatArray
    checks: tuple[CheckResult, ...]


@dataclass
class Shared:
    """What trainings on parts of the same images, all of them readable, do only once.

    Attributes:
        seed: of the augmented views of the frozen part.
        engines: compiled frozen parts; changed.
    """

    seed: int
    engines: Engines = field(default_factory=dict)


def fit(
    run: PlannedRun,
    folder: Path,
    *,
    progress: Progress,
    should_stop: Callable[[], bool],
    shared: Shared | None = None,
) -> TrainedModel:
    """Train all phases in place; metrics.csv grows with every epoch.

    Args:
        run: planned; its classifier holds the trained weights afterwards.
        folder: receives metrics.csv.
        progress: told of epochs and rates.
        should_stop: asked after each batch.
        shared: by many trainings that follow each other; None for a single one.
    """
    return train_phases(
        run.classifier,
        run.plan,
        _labelled(run, "train", shared),
        _labelled(run, "val", shared),
        config=run.config,
        progress=progress,
        should_stop=should_stop,
        on_epochs=lambda rows: write_rows(
            folder / "metrics.csv", [field.name for field in fields(EpochRow)], [astuple(row) for row in rows]
        ),
        engines=None if shared is None else shared.engines,
    )


def _labelled(run: PlannedRun, split: Split, shared: Shared | None) -> LabelledPixels:
    """One part, and where it was taken from if other trainings take from there too."""
    manifest, pixels = run.prepared.part(split)
    if shared is None:
        return LabelledPixels(manifest, pixels)
    rows = np.flatnonzero(run.prepared.manifest.table["split"].to_numpy() == split)
    return LabelledPixels(manifest, pixels, Pool(run.prepared.pixels, rows, shared.seed))


def write_decided(run: PlannedRun, bundle: Path, *, provenance: dict[str, Any], progress: Progress) -> Decided:
    """Let validation decide how the trained network is used, and write all of it as a bundle.

    Args:
        run: with the trained network.
        bundle: folder to write.
        provenance: JSON-ready facts about the run.
        progress: told what was decided.
    """
    decided = _decide(run, progress)
    write_bundle(
        bundle,
        run.classifier,
        operating_point=decided.operating_point,
        temperature=decided.temperature,
        provenance=provenance,
        rules=run.config.data,
        conformal=decided.conformal,
        imprint=_remembered(run),
    )
    return decided


def _remembered(run: PlannedRun) -> Imprint:
    """Hashes of all images that had a part in the model: validation chose epochs, temperature and threshold."""
    images = run.prepared.images()
    rows = images.rows_of("train", "val")
    # the same run gives the same bytes, and nobody without the images knows this digest
    salt = hashlib.blake2b(f"{run.plan.seed} {images.pixels.row_digest()}".encode(), digest_size=16).digest()
    hashes = [images.records[row].pixel_hash for row in rows.tolist()]
    return take_imprint(run.prepared.copies.prints_of(rows), hashes, salt=salt)


def _decide(run: PlannedRun, progress: Progress) -> Decided:
    """Temperature and operating point, from validation images only."""
    manifest, pixels = run.prepared.part("val")
    logits = Scorer(run.classifier, device=run.device).logits(
        pixels, progress=lambda done, total: progress.advance("scoring validation", done, total)
    )
    temperature = fit_temperature(logits, manifest.class_indices())
    scores = scores_of(manifest, apply_temperature(logits, temperature), manifest.classes)
    asked = run.config.evaluation
    point = choose_operating_point(
        scores, asked.operating_point, run.config.data.positive, config=asked, seed=run.config.training.seed
    )
    threshold = "" if point.threshold is None else f", {point.positive} from {point.threshold:.3f}"
    progress.say(f"validation: temperature {temperature:.2f}, operating point {point.rule}{threshold}")
    conformal = fit_conformal(scores, asked.coverage, patients_known=manifest.patients_known)
    told = conformal.reason or f"{conformal.coverage:g} asked, classes from a probability of {conformal.threshold:.3f}"
    progress.say(f"prediction sets: {told}")
    checks = check_answers(scores)
    for check in checks:
        progress.say(f"{check.severity}: {check.title} [{check.code}]")
    return Decided(temperature, point, conformal, scores, logits, checks)


def provenance_of(run: PlannedRun) -> dict[str, Any]:
    """What a run and its bundle record about themselves."""
    manifest, counts = run.prepared.manifest, run.prepared.usable().counts()
    return {
        "verb": "train",
        "date": now(),
        "source": run.source.resolve().name,
        "images": {part: sum(row[part] for row in counts.values()) for part in ("train", "val", "test")},
        "images_unreadable": int((~run.prepared.readable).sum()),
        "images_digest": run.prepared.pixels.row_digest(),
        "patients": manifest.patient_source,
        "patient_independence": patient_independence(manifest, run.prepared.checks),
        "backbone": run.classifier.backbone.name,
        "weights": run.classifier.backbone.weights.description,
        "seed": run.plan.seed,
        "device": f"{run.device}, {run.plan.threads} threads, {run.plan.precision}",
        "phases": [phase.name for phase in run.plan.phases],
        "augmentation": run.plan.augmentation.changes(),
        "environment": environment(),
    }
