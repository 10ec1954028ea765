"""`compare`: an honest race of pretrained backbones on the training and validation images of SOURCE.

read ─► every backbone and its weights ─► one decode for all input sizes ─► split, checks ─► folds of patients
     per backbone: frozen features, cached ─► nested cross-validated probe ─► out-of-fold probabilities
     ─► paired comparison ─► files ─► with finetune: the leaders trained, judged on validation ─► files again

No image of a test part decides anything here: a given one is not opened, a made one is left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medgraft.config import Config
from medgraft.data.pixels import Pixels
from medgraft.data.store import cache_folder
from medgraft.errors import Stopped, UsageError
from medgraft.evaluation.calibration import apply_temperature, fit_temperature
from medgraft.evaluation.paired import compare_scores
from medgraft.inference.scorer import Scorer
from medgraft.models.classifier import Classifier, build_classifier
from medgraft.models.engine import FrozenEngine
from medgraft.report.compare_page import OF_VALIDATION
from medgraft.training.activations import trim_cache
from medgraft.training.crossval import cross_validate, make_folds
from medgraft.training.phases import ACTIVATION_CACHE_BYTES, LabelledPixels, train_phases
from medgraft.training.plan import Plan, make_plan
from medgraft.types import Scores, Split
from medgraft.workflows.compare_entrants import Entrant, probed, resolve_entrants
from medgraft.workflows.compare_files import Finetuned, Probed, Race, describe_ranking, write_comparison
from medgraft.workflows.features import FrozenBackbone
from medgraft.workflows.machine import choose_device, machine_facts, use_threads
from medgraft.workflows.planning import read_labelled
from medgraft.workflows.prepare import Prepared, peek_prepared, prepare_all
from medgraft.workflows.progress import Progress, Silent
from medgraft.workflows.run_folder import choose_run_folder
from medgraft.workflows.scored import scores_of
from medgraft.workflows.settings import load_settings
from medgraft.workflows.stopping import StopRequest

_RATE_IMAGES = 32
_RATE_SECONDS = 0.5


@dataclass(frozen=True)
class CompareResult:
    """What a comparison ended with.

    Attributes:
        folder: the run's folder.
        report: the page to open.
        comparison: content of compare.json.
        seconds: wall time.
    """

    folder: Path
    report: Path
    comparison: Mapping[str, Any]
    seconds: float


class _StopAsked(Exception):
    """A signal came; raised where work can end."""


@dataclass(frozen=True)
class _Watch:
    """Progress that ends the work once stopping was asked for."""

    progress: Progress
    stop: StopRequest

    def say(self, line: str) -> None:
        self.progress.say(line)

    def advance(self, what: str, done: int, total: int) -> None:
        self.progress.advance(what, done, total)
        if self.stop.requested():
            raise _StopAsked

    def close(self) -> None:
        self.progress.close()


def compare(
    source: str | Path,
    backbones: str | Sequence[str],
    *,
    out: str | Path | None = None,
    finetune: int = 0,
    config: Config | str | Path | None = None,
    settings: Sequence[str] = (),
    recipe: str | None = None,
    progress: Progress | None = None,
) -> CompareResult:
    """Find out which pretrained backbone suits these images, and which ones cannot be told from it.

    Args:
        source: folder of class folders, or a CSV/TSV table.
        backbones: names, or a text with commas between: ``NAME`` or ``NAME@WEIGHTS``; or ``all-local``.
        out: folder of the run; ``runs/DATE-NAME`` when not given.
        finetune: how many of the leaders are then fine-tuned and judged on the validation part.
        config: a configuration, or a TOML file with one; its backbone is not used.
        settings: ``section.field=value`` changes on top.
        recipe: name of an installed recipe that stands under all of these.
        progress: receives what is going on; silent when not given.

    Returns:
        Where things are, and the ranking.

    Raises:
        MedgraftError: see `medgraft.errors`; every backbone that cannot take part is named before any image is opened.
        Stopped: on Ctrl-C or SIGTERM; features computed so far stay in the cache.
    """
    began = time.perf_counter()
    folder = choose_run_folder(Path(source), None if out is None else Path(out))
    loaded = load_settings(config, settings, recipe=recipe)
    written: Path | None = None
    with StopRequest() as stop:
        watch = _Watch(progress or Silent(), stop)
        try:
            race = _line_up(Path(source), backbones, loaded, finetune, watch)
            results = [_run(race, number, watch) for number in range(len(race.entrants))]
            trim_cache(_activations(race.config), ACTIVATION_CACHE_BYTES)
            ranking = compare_scores([result.scores for result in results], **_rules(race))
            comparison = write_comparison(folder, race, results, ranking, seconds=time.perf_counter() - began)
            written = folder
            _tell(describe_ranking(comparison["backbones"]), watch)
            if finetune:
                finetuned = _finetune(race, ranking.order[:finetune], watch)
                seconds = time.perf_counter() - began
                comparison = write_comparison(folder, race, results, ranking, finetuned=finetuned, seconds=seconds)
                _tell(["fine-tuned, on the validation part:", *describe_ranking(comparison["finetuned"])], watch)
        except _StopAsked:
            raise _stopped(written) from None
    return CompareResult(folder, folder / "compare.html", comparison, time.perf_counter() - began)


def _tell(lines: Sequence[str], progress: Progress) -> None:
    for line in lines:
        progress.say(line)


def _stopped(written: Path | None) -> Stopped:
    if written is None:
        what = "stopped on request; nothing was written, and features computed so far stay in the cache"
        return Stopped("STOPPED", what, fix="the same command goes on from there")
    what = "stopped on request while leaders were fine-tuned; the comparison itself is complete"
    return Stopped("STOPPED", what, where=str(written))


def _rules(race: Race) -> dict[str, Any]:
    evaluation = race.config.evaluation
    return {
        "n_resamples": evaluation.bootstrap,
        "level": evaluation.level,
        "seed": race.config.training.seed,
        "patients_known": race.manifest.patients_known,
    }


def _line_up(source: Path, backbones: str | Sequence[str], config: Config, finetune: int, progress: Progress) -> Race:
    """Read, resolve, decode, split, check and fold."""
    manifest = read_labelled(source, config, progress)
    entrants = resolve_entrants(backbones, config, classes=manifest.classes, finetune=finetune > 0)
    if not 0 <= finetune <= len(entrants):
        raise UsageError(
            "COMPARE_FINETUNE",
            f"{finetune} leaders cannot be fine-tuned: {len(entrants)} backbones are compared",
            where="finetune",
            fix=f"use 0 to {len(entrants)}",
        )
    progress.say(f"{len(entrants)} backbones: {', '.join(entrant.label for entrant in entrants)}")
    device = choose_device(config.training.device)
    threads = use_threads(config.training.threads)
    preprocesses = [entrant.preprocess for entrant in entrants]
    prepared = prepare_all(manifest, config, preprocesses, purpose="select", progress=progress)
    first = prepared[0]
    for check in first.checks:
        if check.severity != "note" and (finetune or check.code not in OF_VALIDATION):
            progress.say(f"{check.severity}: {check.title} [{check.code}]")
    rows = np.flatnonzero(np.isin(first.manifest.table["split"].to_numpy(), ("train", "val")) & first.readable)
    samples = first.manifest.take(rows)
    images = first.images()
    group = images.group[images.rows_of("train", "val")]
    fold = make_folds(group, samples.class_indices(), classes=manifest.classes, seed=config.training.seed)
    facts = first.facts(peek_prepared(first), source, config)
    return Race(source, config, device, threads, entrants, prepared, facts, rows, fold)


def _run(race: Race, number: int, progress: Progress) -> Probed:
    """Features, rate and out-of-fold probabilities of one backbone."""
    entrant, config = race.entrants[number], race.config
    began = time.perf_counter()
    features, rate, cached = _features(race, entrant, race.prepared[number], progress)
    extracted = time.perf_counter()
    n = len(race.rows)
    found = cross_validate(
        features,
        race.manifest.class_indices(),
        race.fold,
        n_classes=len(race.classes),
        balanced=config.training.class_weights == "balanced",
        threads=race.threads,
        on_fit=lambda done, total: progress.advance(f"probe of {entrant.label}", done * n, total * n),
    )
    seconds = {"features": extracted - began, "probe": time.perf_counter() - extracted}
    progress.say(
        f"{entrant.label}: {entrant.features:,} features of {n:,} images in {seconds['features']:.1f} s"
        f"{' (cached)' if cached else ''}, probe in {seconds['probe']:.1f} s, {rate:,.0f} images/s"
    )
    scores = scores_of(race.manifest, found.proba, race.classes)
    return Probed(entrant, scores, found.strengths, rate, seconds, cached)


def _features(
    race: Race, entrant: Entrant, prepared: Prepared, progress: Progress
) -> tuple[npt.NDArray[np.float16], float, bool]:
    """Pooled features (N, D), images per second, and whether the cache had them.

    The cache is that of the probe of `train`, part by part, so either finds what the other has computed.
    """
    training = race.config.training.model_copy(update={"phases": "auto"})  # those asked for are no matter here
    config = race.config.model_copy(update={"model": probed(entrant.model), "training": training})
    classifier = build_classifier(config.model, race.classes, seed=training.seed)
    plan = _plan(race, config, classifier)
    backbone = FrozenBackbone.of(classifier, device=plan.device, precision=plan.precision)
    if backbone.engine.reason:
        progress.say(f"note: {entrant.label}: {backbone.engine.reason}; torch computes the frozen part")
    features = np.zeros((len(race.rows), entrant.features), dtype=np.float16)
    splits = race.manifest.table["split"].to_numpy()
    computed = 0

    def tell(split: Split, done: int, total: int) -> None:
        nonlocal computed
        computed += 1
        progress.advance(f"features of {entrant.label}, {split}", done, total)

    parts: tuple[Split, ...] = ("train", "val")
    for split in parts:
        _, pixels = prepared.part(split)
        features[splits == split] = backbone.features(
            pixels, folder=_activations(race.config), progress=partial(tell, split)
        )
    return features, _rate(backbone.engine, prepared.pixels.subset(race.rows[:_RATE_IMAGES])), not computed


def _rate(engine: FrozenEngine, pixels: Pixels) -> float:
    """Images per second of the frozen part on real pixels: the best of several rounds, after one to warm up."""
    batch = np.ascontiguousarray(pixels.read(np.arange(len(pixels))).transpose(0, 3, 1, 2))
    engine.run(batch)
    rounds: list[float] = []
    while sum(rounds) < _RATE_SECONDS:
        began = time.perf_counter()
        engine.run(batch)
        rounds.append(time.perf_counter() - began)
    return len(batch) / min(rounds)


def _plan(race: Race, config: Config, classifier: Classifier) -> Plan:
    """What `train` would plan."""
    return make_plan(config, race.facts, machine_facts(classifier, *race.device, race.threads, config))


def _activations(config: Config) -> Path:
    return cache_folder(config.data.cache_dir) / "activations"


def _finetune(race: Race, leaders: Sequence[int], watch: _Watch) -> Finetuned:
    """Train the leaders as `train` does and judge them on the validation part; test images stay unread."""
    scores: list[Scores] = []
    seconds: list[float] = []
    for place, number in enumerate(leaders, start=1):
        entrant, prepared = race.entrants[number], race.prepared[number]
        watch.say(f"fine-tuning {place} of {len(leaders)}: {entrant.label}")
        began = time.perf_counter()
        config = race.config.model_copy(update={"model": entrant.model})
        classifier = build_classifier(config.model, race.classes, seed=config.training.seed)
        train, val = LabelledPixels(*prepared.part("train")), LabelledPixels(*prepared.part("val"))
        trained = train_phases(
            classifier,
            _plan(race, config, classifier),
            train,
            val,
            config=config,
            progress=watch,
            should_stop=watch.stop.requested,
            on_epochs=lambda rows: None,
        )
        if trained.stopped:
            raise _StopAsked
        logits = Scorer(classifier, device=race.device[0]).logits(
            val.pixels, progress=lambda done, total: watch.advance("scoring validation", done, total)
        )
        proba = apply_temperature(logits, fit_temperature(logits, val.manifest.class_indices()))
        scores.append(scores_of(val.manifest, proba, race.classes))
        seconds.append(time.perf_counter() - began)
    known = race.manifest.patients_known
    return Finetuned(
        [race.entrants[number] for number in leaders],
        compare_scores(scores, **_rules(race)),
        seconds,
        len(scores[0]),
        scores[0].n_patients if known else None,
    )
