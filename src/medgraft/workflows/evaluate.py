"""`evaluate`: a finished bundle on labelled images it has not seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from medgraft.config import Config
from medgraft.data.sources import read_source
from medgraft.evaluation.evaluate import Evaluation
from medgraft.inference.bundle import open_bundle
from medgraft.inference.predictor import Predictor
from medgraft.workflows.machine import choose_device, use_threads
from medgraft.workflows.prepare import prepare
from medgraft.workflows.progress import Progress, Silent
from medgraft.workflows.results import ScoredPart, TrainingStory, write_results
from medgraft.workflows.run_folder import environment, make_run_folder, now, write_json
from medgraft.workflows.settings import load_settings


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
    part: Literal["all", "train", "val", "test"] = "all",
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
    resolved = load_settings(config, settings)
    opened = open_bundle(Path(bundle))
    reading = opened.rules.model_dump(exclude_unset=True)
    resolved = resolved.model_copy(update={"data": resolved.data.model_copy(update=reading)})
    device, _ = choose_device(resolved.training.device)
    use_threads(resolved.training.threads)
    manifest = read_source(source, resolved.data, classes=opened.classes)
    if part != "all":
        manifest = manifest.part(part)
    folder = make_run_folder(source, None if out is None else Path(out))
    progress.say(f"{len(manifest):,} images, model {opened.id[:12]}")
    prepared = prepare(manifest, resolved, opened.preprocess, purpose="evaluate", progress=progress)
    rows = np.flatnonzero(prepared.readable)
    predictor = Predictor(opened, device=device)
    pixels = prepared.pixels.subset(rows)
    logits = predictor.logits(pixels, progress=lambda done, total: progress.advance("scoring", done, total))
    scored = ScoredPart(
        declared=manifest,
        scored=manifest.take(rows),
        logits=logits,
        pixels=pixels,
        errors=prepared.errors(),
        checks=prepared.checks,
    )
    write_json(folder / "checks.json", [check.as_dict() for check in prepared.checks])
    provenance = {
        "verb": "evaluate",
        "date": now(),
        "bundle": opened.id,
        "source": source.resolve().name,
        "trained": opened.provenance,
        "environment": environment(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    evaluation, report = write_results(
        folder,
        predictor,
        scored,
        config=resolved,
        story=TrainingStory(),
        # whether these patients were in training is not known from here
        independence="not verified",
        provenance=provenance,
        title=f"medgraft: {source.resolve().stem}",
    )
    write_json(folder / "run.json", provenance)
    return EvaluateResult(folder, report, evaluation, time.perf_counter() - began)
