"""`evaluate A B --paired`: finished bundles on the same labelled images, each against the first.

open each bundle ─► classes must match ─► source, read by each bundle's own rules ─► images that all can read
logits of each ─► probabilities, labels by each one's own rule ─► Answers
               ─► images that none was trained on ─► against_reference ─► paired.json, paired.csv, paired.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from medgraft.checks.leaks import Leaks, leaks_of_model, refuse_leaks
from medgraft.config import Config
from medgraft.data.manifest import Manifest
from medgraft.data.names import listed
from medgraft.data.pixels import ingest
from medgraft.data.sources import read_source
from medgraft.errors import DataError, ModelError, Problem, UsageError
from medgraft.evaluation.differences import Answers
from medgraft.inference.bundle import Bundle, open_bundle
from medgraft.inference.files import same_fit
from medgraft.inference.predictor import Predictor
from medgraft.workflows.machine import choose_device, use_threads
from medgraft.workflows.paired_files import Contest, write_paired
from medgraft.workflows.prepare import prepare
from medgraft.workflows.progress import Progress, Silent
from medgraft.workflows.reading import Part, declared_part, reading_as_trained
from medgraft.workflows.run_folder import choose_run_folder
from medgraft.workflows.scored import scores_of
from medgraft.workflows.settings import load_settings

MOST_MODELS = len(ascii_uppercase)


@dataclass(frozen=True)
class PairedResult:
    """Where a comparison lies, and what is in it.

    Attributes:
        folder: paired.json, paired.csv, paired.html, checks.json, run.json and plots/.
        report: the page.
        facts: content of paired.json.
        seconds: wall time.
    """

    folder: Path
    report: Path
    facts: dict[str, Any]
    seconds: float


def evaluate_paired(
    bundles: Sequence[str | Path],
    source: str | Path,
    *,
    out: str | Path | None = None,
    part: Part = "all",
    config: Config | str | Path | None = None,
    settings: Sequence[str] = (),
    progress: Progress | None = None,
) -> PairedResult:
    """Score bundles on the same labelled images and compare each with the first.

    Args:
        bundles: two or more bundle folders, or run folders that hold one; the first is the reference. They are called
            A, B, … in this order.
        source: folder of class folders or table; classes are matched by name.
        out: folder for the results; ``runs/DATE-NAME`` when not given.
        part: which part of a source that declares parts.
        config: reading rules and interval settings.
        settings: ``section.field=value`` changes on top.
        progress: receives what is going on; silent when not given.

    Raises:
        UsageError: ``PAIRED_COUNT``, ``PAIRED_TWICE``.
        ModelError: a damaged bundle; ``PAIRED_CLASSES``.
        DataError: labels the bundles do not know; ``PART_EMPTY``, ``NOTHING_SCORED``; ``LEAK_REFUSED`` with
            ``checks.strict`` when a model was trained on some of the images.
    """
    began = time.perf_counter()
    progress = progress or Silent()
    source = Path(source)
    asked = load_settings(config, settings)
    device, _ = choose_device(asked.training.device)
    use_threads(asked.training.threads)
    opened = _open([bundles] if isinstance(bundles, str) else bundles)
    configs = {name: reading_as_trained(asked, bundle) for name, bundle in opened.items()}
    first = next(iter(opened))
    manifest = declared_part(read_source(source, configs[first].data, classes=opened[first].classes), part, source)
    folder = choose_run_folder(source, None if out is None else Path(out))
    progress.say(f"{len(manifest):,} images, {len(opened)} models")
    for name, bundle in opened.items():
        progress.say(f"{name}: {bundle.classifier.backbone.name}, bundle {bundle.id[:12]}")
    models = {name: Predictor(bundle, device=device) for name, bundle in opened.items()}
    contest = _read(models, configs, manifest, progress)
    answers = _answers(contest, progress)
    leaks = _seen(contest)
    if asked.checks.strict:
        for one in leaks.values():
            refuse_leaks(one, contest.scored, where=str(source))
    report, facts = write_paired(folder, contest, answers, leaks, title=source.resolve().stem, began=began)
    return PairedResult(folder, report, facts, time.perf_counter() - began)


def _open(folders: Sequence[str | Path]) -> dict[str, Bundle]:
    """The bundles by letter, once they can be compared.

    Raises:
        UsageError: PAIRED_COUNT, PAIRED_TWICE.
        ModelError: PAIRED_CLASSES.
    """
    if not 2 <= len(folders) <= MOST_MODELS:
        raise UsageError(
            "PAIRED_COUNT",
            f"a paired comparison needs 2 to {MOST_MODELS} bundles, {len(folders)} given",
            where="bundle",
            fix="name the reference first, then what is compared with it",
        )
    opened = dict(zip(ascii_uppercase, (open_bundle(Path(folder)) for folder in folders), strict=False))
    by_id: dict[str, str] = {}
    for name, bundle in opened.items():
        other = by_id.setdefault(bundle.id, name)
        if other != name:
            raise UsageError(
                "PAIRED_TWICE",
                f"the bundle {bundle.id[:12]} is given twice: it would be compared with itself",
                where=f"{opened[other].folder}, {bundle.folder}",
                fix="name each bundle once",
            )
    expected = opened["A"].classes
    problems = []
    for bundle in opened.values():
        missing = [name for name in expected if name not in bundle.classes]
        extra = [name for name in bundle.classes if name not in expected]
        parts = [f"{word} {listed(names)}" for word, names in (("lacks", missing), ("adds", extra)) if names]
        if parts:
            problems.append(Problem("PAIRED_CLASSES", " and ".join(parts), str(bundle.folder)))
    if problems:
        raise ModelError(
            "PAIRED_CLASSES",
            f"the bundles know different classes; the first one's are {listed(expected, limit=20)}",
            where=str(opened["A"].folder),
            fix="compare bundles trained on the same classes",
            problems=problems,
        )
    return opened


def _read(models: dict[str, Predictor], configs: dict[str, Config], manifest: Manifest, progress: Progress) -> Contest:
    """Every image as each model reads it; what one of them cannot read is left out for all.

    Raises:
        DataError: NOTHING_SCORED.
    """
    first = next(iter(models))
    prepared = prepare(manifest, configs[first], models[first].bundle.preprocess, purpose="evaluate", progress=progress)
    errors, readable = prepared.errors(), prepared.readable.copy()
    ids = list(manifest.table["sample_id"])
    known = {first: prepared.pixels}
    for name, model in models.items():
        same = next((other for other in known if _reads_alike(models, configs, name, other)), None)
        if same is not None:
            known[name] = known[same]
            continue
        found = ingest(
            manifest.image_paths(),
            model.bundle.preprocess,
            configs[name].data,
            progress=_advance(progress, "reading images"),
        )
        known[name] = found.pixels
        for row, record in enumerate(found.records):
            if record.error is not None:
                readable[row] = False
                errors.setdefault(ids[row], f"[{record.error.code}] {record.error.what} (as {name} reads it)")
    rows = np.flatnonzero(readable)
    if not len(rows):
        raise DataError("NOTHING_SCORED", "no image can be read by every model", fix="are these images?")
    pixels = {name: known[name].subset(rows) for name in models}
    return Contest(models, configs, prepared, errors, manifest.take(rows), rows, pixels)


def _reads_alike(models: Mapping[str, Predictor], configs: Mapping[str, Config], one: str, other: str) -> bool:
    bundles = models[one].bundle, models[other].bundle
    return same_fit(bundles[0].preprocess, bundles[1].preprocess) and configs[one].data == configs[other].data


def _answers(contest: Contest, progress: Progress) -> dict[str, Answers]:
    """What each model says of the N images, its classes in the order of the reference."""
    classes = contest.reference.classes
    answers = {}
    for name, model in contest.models.items():
        own = model.bundle.classes
        logits = model.logits(contest.pixels[name], progress=_advance(progress, f"scoring {name}"))
        proba = model.proba(logits)
        predicted = model.bundle.operating_point.predict(proba, own)
        order = [own.index(one) for one in classes]
        place = np.array([classes.index(one) for one in own], dtype=np.int64)
        answers[name] = Answers(scores_of(contest.scored, proba[:, order], classes), place[predicted])
    return answers


def _seen(contest: Contest) -> dict[str, Leaks]:
    """What each model remembers of the N images."""
    places = np.flatnonzero(contest.prepared.readable)
    prints = contest.prepared.copies.prints_of(np.searchsorted(places, contest.rows))
    hashes = [contest.prepared.records[row].pixel_hash for row in contest.rows.tolist()]
    return {name: leaks_of_model([model.bundle.imprint], prints, hashes) for name, model in contest.models.items()}


def _advance(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress.advance(what, done, total)
