"""`evaluate`: a finished bundle on labelled images it has not seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medgraft.config import Config
from medgraft.data.manifest import Manifest
from medgraft.data.sources import read_source
from medgraft.errors import DataError
from medgraft.evaluation.evaluate import Evaluation
from medgraft.inference.bundle import Bundle, open_bundle
from medgraft.inference.predictor import Predictor
from medgraft.types import SPLITS
from medgraft.workflows.machine import choose_device, use_threads
from medgraft.workflows.prepare import prepare
from medgraft.workflows.progress import Progress, Silent
from medgraft.workflows.results import ScoredPart, TrainingStory, write_results
from medgraft.workflows.run_folder import choose_run_folder, create_folder, environment, now, write_json
from medgraft.workflows.settings import load_settings

Part = Literal["all", "train", "val", "test"]


@dataclass(frozen=True)
class EvaluateResult:
    """Where an evaluation lies, and its numbers."""

    folder: Path
    report: Path
    evaluation: Evaluation
    seconds: float


def evaluate(
    bundle: str | Path,
    source: str | Path,
    *,
    out: str | Path | None = None,
    part: Part = "all",
    config: Config | str | Path | None = None,
    settings: Sequence[str] = (),
    progress: Progress | None = None,
) -> EvaluateResult:
    """Score a bundle on labelled images.

    Args:
        bundle: bundle folder, or a run folder that holds one.
        source: folder of class folders or table; classes are matched by name.
        out: folder for evaluation.json, scores.csv and report.html; ``runs/DATE-NAME`` when not given.
        part: which part of a source that declares parts.
        config: reading rules and interval settings.
        settings: ``section.field=value`` changes on top.
        progress: receives what is going on; silent when not given.

    Raises:
        ModelError: a damaged bundle.
        DataError: labels the bundle does not know.
    """
    began = time.perf_counter()
    progress = progress or Silent()
    source = Path(source)
    opened = open_bundle(Path(bundle))
    resolved = _reading_as_trained(load_settings(config, settings), opened)
    device, _ = choose_device(resolved.training.device)
    use_threads(resolved.training.threads)
    manifest = _declared(read_source(source, resolved.data, classes=opened.classes), part, source)
    folder = choose_run_folder(source, None if out is None else Path(out))
    progress.say(f"{len(manifest):,} images, model {opened.id[:12]}")
    prepared = prepare(manifest, resolved, opened.preprocess, purpose="evaluate", progress=progress)
    rows = np.flatnonzero(prepared.readable)
    predictor = Predictor(opened, device=device)
    pixels = prepared.pixels.subset(rows)
    logits = predictor.logits(pixels, progress=lambda done, total: progress.advance("scoring", done, total))
    scored = ScoredPart(manifest, manifest.take(rows), logits, pixels, prepared.errors(), prepared.checks)
    create_folder(folder)
    write_json(folder / "checks.json", [check.as_dict() for check in prepared.checks])
    # whether these patients were in training is not known from here
    provenance = {**_provenance(opened, source, began), "patient_independence": "not verified"}
    evaluation, report = write_results(
        folder,
        predictor,
        scored,
        config=resolved,
        story=TrainingStory(),
        independence="not verified",
        provenance=provenance,
        title=source.resolve().stem,
    )
    write_json(folder / "run.json", provenance)
    return EvaluateResult(folder, report, evaluation, time.perf_counter() - began)


def _reading_as_trained(config: Config, bundle: Bundle) -> Config:
    """The bundle's reading rules, except those the user sets on purpose."""
    asked = config.data.model_fields_set
    rules = {name: value for name, value in bundle.rules.model_dump(exclude_unset=True).items() if name not in asked}
    return config.model_copy(update={"data": config.data.model_copy(update=rules)})


def _declared(manifest: Manifest, part: Part, source: Path) -> Manifest:
    """The rows of the part asked for.

    Raises:
        DataError: PART_EMPTY.
    """
    if part == "all":
        return manifest
    chosen = manifest.part(part)
    if len(chosen) == 0:
        sizes = {name: len(manifest.part(name)) for name in SPLITS}
        raise DataError(
            "PART_EMPTY",
            f"the source declares no image of the part {part}; it has: {sizes}",
            where=str(source),
            fix="leave --part out to evaluate on all images",
        )
    return chosen


def _provenance(bundle: Bundle, source: Path, began: float) -> dict[str, Any]:
    return {
        "verb": "evaluate",
        "date": now(),
        "bundle": bundle.id,
        "source": source.resolve().name,
        "trained": bundle.provenance,
        "environment": environment(),
        "seconds": round(time.perf_counter() - began, 1),
    }
