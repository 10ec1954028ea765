"""From SOURCE to a plan: everything that can be refused is refused before the first epoch.

read → fraction → peek → network → decode all → split → checks → plan
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from medgraft.config import Config, dump_config
from medgraft.data.fraction import take_fraction
from medgraft.data.manifest import Manifest
from medgraft.data.sources import read_source
from medgraft.errors import DataError, UsageError
from medgraft.evaluation.operating_point import choose_positive
from medgraft.models.classifier import Classifier, build_classifier
from medgraft.models.freeze import set_trainable
from medgraft.training.plan import DataFacts, MachineFacts, Plan, PlanRow, choose_size, make_plan
from medgraft.types import CheckResult
from medgraft.workflows.machine import Device, choose_device, machine_facts, use_threads
from medgraft.workflows.prepare import Prepared, peek_images, prepare
from medgraft.workflows.progress import Progress
from medgraft.workflows.run_folder import create_folder, write_json, write_text


@dataclass(frozen=True)
class PlannedRun:
    """Everything decided before the first epoch.

    Attributes:
        source: as the user named it.
        config: what was asked.
        device: where it runs.
        prepared: images, split and checked.
        facts: what the planner knew of the data.
        machine: what it knew of the machine.
        classifier: network with its starting weights.
        plan: what "auto" became.
    """

    source: Path
    config: Config
    device: Device
    prepared: Prepared
    facts: DataFacts
    machine: MachineFacts
    classifier: Classifier
    plan: Plan


def read_labelled(source: Path, config: Config, progress: Progress) -> Manifest:
    """The samples to learn from: of two classes at least, and the share of them that was asked for.

    Raises:
        DataError: ONE_CLASS, or what reading and sampling refuse.
    """
    manifest = read_source(source, config.data, keep=config.evaluation.by)
    if len(manifest.classes) < 2:
        raise DataError(
            "ONE_CLASS",
            f"all images have the label {manifest.classes[0]!r}",
            where=str(source),
            fix="add images of another class, or name the label column with --label",
        )
    manifest = take_fraction(manifest, config.data.fraction, seed=config.training.seed)
    progress.say(f"{len(manifest):,} images, {len(manifest.classes)} classes: {', '.join(manifest.classes)}")
    return manifest


def plan_run(
    source: Path, config: Config, progress: Progress, *, purpose: Literal["train", "select", "folds"] = "train"
) -> PlannedRun:
    """Read, decode, split, check and plan.

    Args:
        source: folder of class folders, or a CSV/TSV table.
        config: what was asked.
        progress: told what is there.
        purpose: ``select`` does not touch a given test part: for choosing among models or settings. ``folds`` does
            not either, and makes no parts: for cross-validation, which makes its own.

    Raises:
        MedgraftError: whatever is wrong with the data, the configuration or the weights.
    """
    manifest = read_labelled(source, config, progress)
    device, device_reason = choose_device(config.training.device)
    threads = use_threads(config.training.threads)
    peek = peek_images(manifest, config)
    size, size_reason = choose_size(config, peek.side)
    model_config = config.model.model_copy(update={"size": size})
    classifier = build_classifier(model_config, manifest.classes, seed=config.training.seed)
    refuse_early(config, classifier)
    prepared = prepare(manifest, config, classifier.preprocess, purpose=purpose, progress=progress)
    facts = prepared.facts(peek, source, config)
    machine = machine_facts(classifier, device, device_reason, threads, config)
    plan = make_plan(config, facts, machine, extra=_resolved_rows(config, classifier, prepared, size_reason))
    return PlannedRun(source, config, device, prepared, facts, machine, classifier, plan)


def replan(run: PlannedRun, config: Config) -> PlannedRun:
    """The same images under another configuration: a fresh network and a new plan.

    Args:
        run: of the same backbone and reading rules.
        config: differs from that of the run in ``training``, ``augment`` or the head only.
    """
    size = run.classifier.preprocess.size[0]
    model_config = config.model.model_copy(update={"size": size})
    classifier = build_classifier(model_config, run.classifier.classes, seed=config.training.seed)
    refuse_early(config, classifier)
    plan = make_plan(config, run.facts, run.machine)
    return replace(run, config=config, classifier=classifier, plan=plan)


def refuse_early(config: Config, classifier: Classifier) -> None:
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


def write_plan(folder: Path, run: PlannedRun, progress: Progress, *, further: Sequence[CheckResult] = ()) -> None:
    """Make the folder of a run, and write what was asked, found and decided.

    Args:
        folder: of the run.
        run: what was decided.
        progress: told of warnings and decisions.
        further: results of checks beside those of reading and splitting.
    """
    create_folder(folder)
    checks = (*run.prepared.checks, *further)
    run.prepared.manifest.write_csv(folder / "manifest.csv")
    write_json(folder / "checks.json", [check.as_dict() for check in checks])
    write_json(folder / "plan.json", run.plan.as_dict())
    write_text(folder / "config.toml", dump_config(run.config))
    for check in checks:
        if check.severity != "note":
            progress.say(f"{check.severity}: {check.title} [{check.code}]")
    for row in run.plan.rows:
        progress.say(f"plan: {row.setting} = {shown(row.value)} ({row.reason})")
    for line in class_weight_lines(run):
        progress.say(line)


def class_weight_lines(run: PlannedRun) -> list[str]:
    """Class, training images and weight as a table; nothing when classes are not weighted."""
    if run.plan.class_weights is None:
        return []
    width = max(len("class"), *(len(name) for name in run.classifier.classes))
    lines = [f"class weights, total / (classes * count):\n  {'class':<{width}}  images  weight"]
    for name, weight in zip(run.classifier.classes, run.plan.class_weights, strict=True):
        lines.append(f"  {name:<{width}}  {run.facts.counts[name].get('train', 0):>6,}  {weight:.3f}")
    return lines


def shown(value: Any) -> str:
    """A value of the plan as one line."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)
