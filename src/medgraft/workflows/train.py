"""`train`: from SOURCE to a bundle, per-image scores and a report.

read → peek → network → decode all → split → plan → phases → temperature and operating point on
validation → bundle → test part read once, through the bundle → scores, evaluation, report
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from medgraft.config import Config, dump_config
from medgraft.data.manifest import Manifest
from medgraft.data.sources import read_source
from medgraft.errors import DataError, Stopped, UsageError
from medgraft.evaluation.calibration import apply_temperature, fit_temperature
from medgraft.evaluation.evaluate import Evaluation
from medgraft.evaluation.operating_point import OperatingPoint, choose_operating_point, choose_positive
from medgraft.inference.bundle import open_bundle, write_bundle
from medgraft.inference.predictor import Predictor
from medgraft.inference.scorer import Scorer
from medgraft.models.classifier import Classifier, build_classifier
from medgraft.models.freeze import set_trainable
from medgraft.training.phases import LabelledPixels, train_phases
from medgraft.training.plan import Plan, PlanRow, choose_size, make_plan
from medgraft.types import EpochRow, Scores
from medgraft.workflows.machine import Device, choose_device, machine_facts, use_threads
from medgraft.workflows.prepare import Prepared, peek_images, prepare
from medgraft.workflows.progress import Progress, Silent
from medgraft.workflows.results import ScoredPart, TrainingStory, patient_independence, scores_of, write_results
from medgraft.workflows.run_folder import (
    choose_run_folder,
    create_folder,
    environment,
    now,
    write_json,
    write_rows,
    write_text,
)
from medgraft.workflows.settings import load_settings
from medgraft.workflows.stopping import StopRequest


@dataclass(frozen=True)
class TrainResult:
    """What a training run ended with.

    Attributes:
        folder: the run's folder.
        bundle: folder of the model.
        report: the page to open.
        evaluation: on the test part.
        seconds: wall time.
    """

    folder: Path
    bundle: Path
    report: Path
    evaluation: Evaluation
    seconds: float


@dataclass(frozen=True)
class _Run:
    """Everything decided before the first epoch."""

    source: Path
    folder: Path
    config: Config
    device: Device
    prepared: Prepared
    classifier: Classifier
    plan: Plan
    began: float


@dataclass(frozen=True)
class _Decided:
    """What validation decided about using the trained network."""

    temperature: float
    operating_point: OperatingPoint
    scores: Scores


def train(
    source: str | Path,
    *,
    out: str | Path | None = None,
    config: Config | str | Path | None = None,
    settings: Sequence[str] = (),
    progress: Progress | None = None,
) -> TrainResult:
    """Train a classifier on labelled images and evaluate it.

    Args:
        source: folder of class folders, or a CSV/TSV table.
        out: folder of the run; ``runs/DATE-NAME`` when not given.
        config: a configuration, or a TOML file with one.
        settings: ``section.field=value`` changes on top, such as ``data.patient_preset=chest-xray``.
        progress: receives what is going on; silent when not given.

    Returns:
        Where things are, and the evaluation.

    Raises:
        MedgraftError: see `medgraft.errors`; nothing is skipped or substituted silently.
        Stopped: on Ctrl-C or SIGTERM, after the best model so far was saved as a bundle.
    """
    progress = progress or Silent()
    resolved = load_settings(config, settings)
    run = _plan_run(Path(source), None if out is None else Path(out), resolved, progress)
    with StopRequest() as stop:
        rows = _train(run, progress, stop)
        decided = _decide(run, progress)
        provenance = _provenance(run)
        write_bundle(
            run.folder / "bundle",
            run.classifier,
            operating_point=decided.operating_point,
            temperature=decided.temperature,
            provenance=provenance,
            rules=run.config.data,
        )
        if stop.requested():
            write_json(run.folder / "run.json", {**provenance, "state": "stopped"})
            raise Stopped(
                "STOPPED",
                "stopped on request; the best model so far is saved and the test part was not read",
                where=str(run.folder / "bundle"),
                fix="evaluate it with: medgraft evaluate BUNDLE SOURCE",
            )
    return _evaluate(run, rows, decided, provenance, progress)


def _plan_run(source: Path, out: Path | None, config: Config, progress: Progress) -> _Run:
    """Read, decode, split, check and plan; everything that can be refused is refused here."""
    began = time.perf_counter()
    manifest = read_source(source, config.data)
    if len(manifest.classes) < 2:
        raise DataError(
            "ONE_CLASS",
            f"all images have the label {manifest.classes[0]!r}",
            where=str(source),
            fix="add images of another class, or name the label column with --label",
        )
    folder = choose_run_folder(source, out)
    progress.say(f"{len(manifest):,} images, {len(manifest.classes)} classes: {', '.join(manifest.classes)}")
    device, device_reason = choose_device(config.training.device)
    threads = use_threads(config.training.threads)
    peek = peek_images(manifest, config)
    size, size_reason = choose_size(config, peek.side)
    model_config = config.model.model_copy(update={"size": size})
    classifier = build_classifier(model_config, manifest.classes, seed=config.training.seed)
    _refuse_early(config, classifier)
    prepared = prepare(manifest, config, classifier.preprocess, purpose="train", progress=progress)
    resolved = _resolved_rows(config, classifier, prepared, size_reason)
    machine = machine_facts(classifier, device, device_reason, threads, config)
    plan = make_plan(config, prepared.facts(peek, source, config), machine, extra=resolved)
    _write_plan(folder, config, prepared, plan, progress)
    return _Run(source, folder, config, device, prepared, classifier, plan, began)


def _refuse_early(config: Config, classifier: Classifier) -> None:
    """Names that only training would look up: refused before an hour is spent.

    Raises:
        UsageError: TRAINS_UNKNOWN for modules a phase names, POSITIVE_UNKNOWN for the positive class.
    """
    if config.training.phases != "auto":
        for phase in config.training.phases:
            set_trainable(classifier, phase.trains, freeze_norm=phase.freeze_norm)
    positive, classes = config.data.positive, classifier.classes
    if positive is not None and (positive not in classes or len(classes) != 2):
        raise UsageError(
            "POSITIVE_UNKNOWN",
            f"the positive class {positive!r} must be one of exactly two classes; there are: {', '.join(classes)}",
            where="data.positive",
            fix="name one of two classes, or leave it out",
        )


def _resolved_rows(config: Config, classifier: Classifier, prepared: Prepared, size_reason: str) -> list[PlanRow]:
    """What was settled before the planner."""
    backbone = classifier.backbone
    splits = [check for check in prepared.checks if check.code.startswith("SPLIT")]
    advice = [check.advice for check in splits]
    manifest = prepared.manifest
    rows = [
        PlanRow("data.patients", manifest.patient_source, f"data.patient_preset = {config.data.patient_preset}"),
        PlanRow(
            "data.split",
            [check.title for check in splits],
            "; ".join(["given parts are kept, others made of whole patients", *filter(None, advice)]),
        ),
        PlanRow("model.backbone", f"{backbone.name} ({backbone.spec.weights_name})", backbone.spec.description),
        PlanRow("model.weights", backbone.weights.description, f"model.weights = {config.model.weights}"),
        PlanRow("model.size", list(classifier.preprocess.size), size_reason),
    ]
    if len(classifier.classes) == 2:
        reason = "as asked" if config.data.positive else "by its name, else the last one"
        rows.append(PlanRow("data.positive", config.data.positive or choose_positive(classifier.classes), reason))
    return rows


def _write_plan(folder: Path, config: Config, prepared: Prepared, plan: Plan, progress: Progress) -> None:
    create_folder(folder)
    prepared.manifest.write_csv(folder / "manifest.csv")
    write_json(folder / "checks.json", [check.as_dict() for check in prepared.checks])
    write_json(folder / "plan.json", plan.as_dict())
    write_text(folder / "config.toml", dump_config(config))
    for check in prepared.checks:
        if check.severity != "note":
            progress.say(f"{check.severity}: {check.title} [{check.code}]")
    for row in plan.rows:
        progress.say(f"plan: {row.setting} = {_short(row.value)} ({row.reason})")


def _train(run: _Run, progress: Progress, stop: StopRequest) -> list[EpochRow]:
    """All phases; metrics.csv grows with every epoch."""
    trained = train_phases(
        run.classifier,
        run.plan,
        LabelledPixels(*run.prepared.part("train")),
        LabelledPixels(*run.prepared.part("val")),
        config=run.config,
        progress=progress,
        should_stop=stop.requested,
        on_epochs=lambda rows: write_rows(
            run.folder / "metrics.csv", [field.name for field in fields(EpochRow)], [astuple(row) for row in rows]
        ),
    )
    return trained.rows


def _decide(run: _Run, progress: Progress) -> _Decided:
    """Temperature and operating point, from validation images only."""
    manifest, pixels = run.prepared.part("val")
    logits = Scorer(run.classifier, device=run.device).logits(
        pixels, progress=lambda done, total: progress.advance("scoring validation", done, total)
    )
    temperature = fit_temperature(logits, manifest.class_indices())
    scores = scores_of(manifest, apply_temperature(logits, temperature), manifest.classes)
    point = choose_operating_point(scores, run.config.evaluation.operating_point, run.config.data.positive)
    threshold = "" if point.threshold is None else f", {point.positive} from {point.threshold:.3f}"
    progress.say(f"validation: temperature {temperature:.2f}, operating point {point.rule}{threshold}")
    return _Decided(temperature, point, scores)


def _evaluate(
    run: _Run, rows: Sequence[EpochRow], decided: _Decided, provenance: dict[str, Any], progress: Progress
) -> TrainResult:
    """Open the bundle as a user would, read the test part once, write results and report."""
    prepared = run.prepared
    predictor = Predictor(open_bundle(run.folder / "bundle"), device=run.device)
    scored, pixels = prepared.part("test")
    part = ScoredPart(
        declared=prepared.manifest.part("test"),
        scored=scored,
        logits=predictor.logits(pixels, progress=lambda done, total: progress.advance("scoring test", done, total)),
        pixels=pixels,
        errors=prepared.errors(),
        checks=prepared.checks,
    )
    story = TrainingStory(
        history=rows,
        validation_scores=decided.scores,
        class_counts=prepared.usable().counts(),
        plan_rows=[(row.setting, _short(row.value), row.reason) for row in run.plan.rows],
    )
    finished = {
        **provenance,
        "state": "finished",
        "bundle": predictor.bundle.id,
        "test_part_read": 1,
        "seconds": round(time.perf_counter() - run.began, 1),
    }
    evaluation, report = write_results(
        run.folder,
        predictor,
        part,
        config=run.config,
        story=story,
        independence=patient_independence(prepared.manifest, prepared.checks),
        provenance=finished,
        title=run.source.resolve().stem,
    )
    write_json(run.folder / "run.json", finished)
    return TrainResult(run.folder, run.folder / "bundle", report, evaluation, time.perf_counter() - run.began)


def _provenance(run: _Run) -> dict[str, Any]:
    manifest: Manifest = run.prepared.manifest
    counts = run.prepared.usable().counts()
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
        "environment": environment(),
    }


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)
