"""`evaluate`: a finished bundle on labelled images it has not seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.checks.leaks import leaks_of_model, refuse_leaks
from medgraft.config import Config
from medgraft.data.manifest import Manifest
from medgraft.data.pixels import Pixels, ingest
from medgraft.data.sources import read_source
from medgraft.evaluation.evaluate import Evaluation
from medgraft.inference.ensemble import Ensemble, Folders, open_ensemble
from medgraft.inference.files import same_fit
from medgraft.inference.passes import Passes
from medgraft.types import Preprocess
from medgraft.workflows.deep_checks import look_deeper
from medgraft.workflows.gallery import copy_pictures, suspect_pictures
from medgraft.workflows.machine import choose_device, use_threads
from medgraft.workflows.prepare import Prepared, prepare
from medgraft.workflows.progress import Progress, Silent
from medgraft.workflows.reading import Part, declared_part, reading_as_trained
from medgraft.workflows.results import Story, write_results
from medgraft.workflows.run_folder import choose_run_folder, create_folder, environment, now, write_json
from medgraft.workflows.scored import ScoredPart, subgroups_of
from medgraft.workflows.settings import load_settings


@dataclass(frozen=True)
class EvaluateResult:
    """Where an evaluation lies, and its numbers.

    Attributes:
        folder: of the evaluation.
        report: the page to open.
        evaluation: of the images that the models have not seen, if any.
        facts: content of evaluation.json.
        seconds: wall time.
    """

    folder: Path
    report: Path
    evaluation: Evaluation
    facts: dict[str, Any]
    seconds: float


def evaluate(  # a verb: its arguments are the options of the command line
    bundle: Folders,
    source: str | Path,
    *,
    out: str | Path | None = None,
    part: Part = "all",
    tta: str | None = None,
    mc: int | None = None,
    config: Config | str | Path | None = None,
    settings: Sequence[str] = (),
    progress: Progress | None = None,
) -> EvaluateResult:
    """Score a bundle, or several as one ensemble, on labelled images.

    Args:
        bundle: bundle folder, or a run folder that holds one; several answer together, images being read by the
            rules of the first.
        source: folder of class folders or table; classes are matched by name.
        out: folder for evaluation.json, scores.csv and report.html; ``runs/DATE-NAME`` when not given.
        part: which part of a source that declares parts.
        tta: ``flips`` or ``affine:K``: average over views of each image.
        mc: average over this many draws of the head's dropout.
        config: reading rules and interval settings.
        settings: ``section.field=value`` changes on top.
        progress: receives what is going on; silent when not given.

    Raises:
        ModelError: a damaged bundle; ``ENSEMBLE_CLASSES``.
        DataError: labels the bundle does not know.
        UsageError: ``TTA_UNKNOWN``, ``MC_RANGE``, ``MC_NO_DROPOUT``.

    A bundle remembers its training images as hashes: those among the images here are scored apart, or refused with
    ``checks.strict`` (DataError ``LEAK_REFUSED``).
    """
    began = time.perf_counter()
    progress = progress or Silent()
    source = Path(source)
    passes = Passes.parse(tta, mc)
    asked = load_settings(config, settings)
    device, _ = choose_device(asked.training.device)
    use_threads(asked.training.threads)
    model = open_ensemble(bundle, device=device, passes=passes)
    resolved = reading_as_trained(asked, model.members[0].bundle)
    by = resolved.evaluation.by
    manifest = declared_part(read_source(source, resolved.data, classes=model.classes, keep=by), part, source)
    folder = choose_run_folder(source, None if out is None else Path(out))
    progress.say(f"{len(manifest):,} images, model {', '.join(one[:12] for one in model.ids)}")
    described = [*model.described(), *_one_reading(model)]
    for line in described:
        progress.say(line)
    prepared = prepare(manifest, resolved, model.members[0].bundle.preprocess, purpose="evaluate", progress=progress)
    images = prepared.images()
    groups = subgroups_of(images, by)
    leaks = leaks_of_model(
        [member.bundle.imprint for member in model.members],
        prepared.copies.prints,
        [record.pixel_hash for record in images.records],
    )
    if resolved.checks.strict:
        refuse_leaks(leaks, images.manifest, where=str(source))
    scored = replace(_scored(model, prepared, manifest, resolved, progress), leaks=leaks, groups=groups)
    every = np.arange(len(images))
    looked = look_deeper(
        images, scored=every, fit=None, labelled=every, config=resolved, device=device, progress=progress
    )
    create_folder(folder)
    # whether these patients were in training is not known from here
    scored = replace(scored, checks=(*scored.checks, *looked.checks))
    provenance = {**_provenance(model, source, began), "patient_independence": "not verified"}
    if described:
        provenance["inference"] = "; ".join(described)
    story = Story(
        title=source.resolve().stem,
        independence="not verified",
        provenance=provenance,
        looked=looked,
        pictures={**copy_pictures(images, prepared.copies), **suspect_pictures(images, looked.labels)},
    )
    results = write_results(folder, model.as_one(), scored, config=resolved, story=story, progress=progress)
    write_json(folder / "run.json", provenance)
    return EvaluateResult(folder, results.report, results.evaluation, results.facts, time.perf_counter() - began)


def _scored(model: Ensemble, prepared: Prepared, manifest: Manifest, config: Config, progress: Progress) -> ScoredPart:
    """The readable images at each member's size, and what the members say of them."""
    rows = np.flatnonzero(prepared.readable)
    readable = manifest.take(rows)
    known: list[tuple[Preprocess, Pixels]] = [(model.members[0].bundle.preprocess, prepared.pixels.subset(rows))]

    def at_size(preprocess: Preprocess) -> Pixels:
        found = next((pixels for other, pixels in known if same_fit(preprocess, other)), None)
        if found is None:
            advance = progress.advance
            found = ingest(
                readable.image_paths(),
                preprocess,
                config.data,
                progress=lambda done, total: advance("reading images", done, total),
            ).pixels
            known.append((preprocess, found))
        return found

    pixels = [at_size(member.bundle.preprocess) for member in model.members]
    logits, spread = model.score(pixels, progress=lambda done, total: progress.advance("scoring", done, total))
    return ScoredPart(
        manifest,
        readable,
        logits,
        pixels[0],
        prepared.errors(),
        prepared.checks,
        spread=spread,
        inference=model.summary,
    )


def _one_reading(model: Ensemble) -> list[str]:
    """Said where members would read files by other rules than the first."""
    rules = [member.bundle.rules for member in model.members]
    if all(own == rules[0] for own in rules):
        return []
    return ["all members read images by the rules of the first bundle, though theirs differ"]


def _provenance(model: Ensemble, source: Path, began: float) -> dict[str, Any]:
    trained = [member.bundle.provenance for member in model.members]
    single = len(trained) == 1
    return {
        "verb": "evaluate",
        "date": now(),
        **({"bundle": model.ids[0]} if single else {"bundles": list(model.ids)}),
        "source": source.resolve().name,
        "trained": trained[0] if single else trained,
        "environment": environment(),
        "seconds": round(time.perf_counter() - began, 1),
    }
