"""`train`: from SOURCE to a bundle, per-image scores and a report.

read → peek → network → decode all → split → plan → checks → phases → temperature and operating point on
validation → bundle → test part read once, through the bundle → scores, evaluation, report
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medgraft.checks.images import CheckedImages
from medgraft.checks.leaks import Leaks, leaks_in_split, refuse_leaks
from medgraft.config import Config
from medgraft.errors import Stopped
from medgraft.evaluation.evaluate import Evaluation
from medgraft.inference.bundle import open_bundle
from medgraft.inference.predictor import Predictor
from medgraft.types import PatientIndependence, Split
from medgraft.workflows.deep_checks import Looked, look_deeper
from medgraft.workflows.fitting import Decided, fit, provenance_of, write_decided
from medgraft.workflows.gallery import copy_pictures, suspect_pictures
from medgraft.workflows.planning import PlannedRun, plan_run, shown, write_plan
from medgraft.workflows.progress import Progress, Silent
from medgraft.workflows.results import Story, write_results
from medgraft.workflows.run_folder import choose_run_folder, write_json
from medgraft.workflows.scored import ScoredPart, subgroups_of
from medgraft.workflows.settings import load_settings
from medgraft.workflows.stopping import StopRequest


@dataclass(frozen=True)
class TrainResult:
    """What a training run ended with.

    Attributes:
        folder: the run's folder.
        bundle: folder of the model.
        report: the page to open.
        evaluation: on the images of the test part that training has not seen.
        facts: content of evaluation.json.
        seconds: wall time.
    """

    folder: Path
    bundle: Path
    report: Path
    evaluation: Evaluation
    facts: dict[str, Any]
    seconds: float


def train(
    source: str | Path,
    *,
    out: str | Path | None = None,
    recipe: str | None = None,
    config: Config | str | Path | None = None,
    settings: Sequence[str] = (),
    progress: Progress | None = None,
) -> TrainResult:
    """Train a classifier on labelled images and evaluate it.

    Args:
        source: folder of class folders, or a CSV/TSV table.
        out: folder of the run; ``runs/DATE-NAME`` when not given.
        recipe: name of a published system to start from, such as ``pneumonia-vgg``.
        config: a configuration, or a TOML file with one, on top of the recipe.
        settings: ``section.field=value`` changes on top, such as ``data.patient_preset=chest-xray``.
        progress: receives what is going on; silent when not given.

    Returns:
        Where things are, and the evaluation.

    Raises:
        MedgraftError: see `medgraft.errors`; nothing is skipped or substituted silently. With ``checks.strict``
            LEAK_REFUSED when a given test part shares pictures or patients with training.
        Stopped: on Ctrl-C or SIGTERM, after the best model so far was saved as a bundle.
    """
    began = time.perf_counter()
    progress = progress or Silent()
    folder = choose_run_folder(Path(source), None if out is None else Path(out))
    run = plan_run(Path(source), load_settings(config, settings, recipe=recipe), progress)
    images = run.prepared.images()
    leaks = leaks_in_split(images, "test")
    if run.config.checks.strict:
        refuse_leaks(leaks, images.manifest.take(images.rows_of("test")), where=str(source))
    groups = subgroups_of(images.take(images.rows_of("test")), run.config.evaluation.by)
    looked = _look(run, images, progress)
    write_plan(folder, run, progress, further=looked.checks)
    with StopRequest() as stop:
        trained = fit(run, folder, progress=progress, should_stop=stop.requested)
        provenance = provenance_of(run)
        decided = write_decided(run, folder / "bundle", provenance=provenance, progress=progress)
        if stop.requested():
            write_json(folder / "run.json", {**provenance, "state": "stopped"})
            raise Stopped(
                "STOPPED",
                "stopped on request; the best model so far is saved and the test part was not read",
                where=str(folder / "bundle"),
                fix="evaluate it with: medgraft evaluate BUNDLE SOURCE",
            )
    predictor = Predictor(open_bundle(folder / "bundle"), device=run.device)
    finished = {
        **provenance,
        "state": "finished",
        "bundle": predictor.bundle.id,
        "test_part_read": 1,
        "seconds": round(time.perf_counter() - began, 1),
    }
    part, others = _score(run, predictor, decided, looked, progress)
    part = replace(part, leaks=leaks, groups=groups)
    story = Story(
        title=run.source.resolve().stem,
        independence=_independence(run, leaks),
        provenance=finished,
        looked=looked,
        pictures={**copy_pictures(images, run.prepared.copies), **suspect_pictures(images, looked.labels)},
        history=trained.rows,
        validation_scores=decided.scores,
        class_counts=run.prepared.usable().counts(),
        plan_rows=[(row.setting, shown(row.value), row.reason) for row in run.plan.rows],
        other_parts=others,
    )
    results = write_results(folder, predictor, part, config=run.config, story=story, progress=progress)
    write_json(folder / "run.json", finished)
    seconds = time.perf_counter() - began
    return TrainResult(folder, folder / "bundle", results.report, results.evaluation, results.facts, seconds)


def _look(run: PlannedRun, images: CheckedImages, progress: Progress) -> Looked:
    """The slower checks: baselines learn from what the model learns from; test labels are not doubted."""
    known = images.rows_of("train", "val")
    return look_deeper(
        images,
        scored=images.rows_of("test"),
        fit=known,
        labelled=known,
        config=run.config,
        device=run.device,
        progress=progress,
    )


def _independence(run: PlannedRun, leaks: Leaks) -> PatientIndependence:
    """Of the images that the leading numbers are of."""
    if not run.prepared.manifest.patients_known:
        return "not verified"
    return "violated" if leaks.headline == "all" and leaks.patient.any() else "verified"


def _score(
    run: PlannedRun, predictor: Predictor, decided: Decided, looked: Looked, progress: Progress
) -> tuple[ScoredPart, dict[Split, ScoredPart]]:
    """Read the test part once, through the bundle as a user would open it; and the parts to be shown beside it."""
    prepared = run.prepared

    def score(split: Split) -> ScoredPart:
        scored, pixels = prepared.part(split)
        logits = decided.logits
        if split != "val":
            logits = predictor.logits(pixels, progress=lambda done, n: progress.advance(f"scoring {split}", done, n))
        checks = (*prepared.checks, *looked.checks, *decided.checks)
        return ScoredPart(prepared.manifest.part(split), scored, logits, pixels, prepared.errors(), checks)

    return score("test"), {split: score(split) for split in run.config.evaluation.parts}
