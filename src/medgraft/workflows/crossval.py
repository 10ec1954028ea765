"""Cross-validation of a whole training: `medgraft train SOURCE --folds K --repeats R`.

    read, decode, check once ─► folds of whole groups ─► each fit: all phases, temperature and operating point from a
    validation part of its own ─► bundle ─► held-out images, read through the bundle
    all fits ─► one probability per image and repeat ─► pooled evaluation, report          (`crossval_files`)

A given test part is left alone. What is frozen is computed once for all fits.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.checks.images import CheckedImages
from medgraft.config import Config
from medgraft.errors import Stopped
from medgraft.evaluation.evaluate import Evaluation, evaluate_scores
from medgraft.inference.bundle import open_bundle
from medgraft.inference.predictor import Predictor
from medgraft.training.plan import PlanRow
from medgraft.types import CheckResult
from medgraft.workflows.crossval_files import FitScores, write_fit, write_folds, write_pooled
from medgraft.workflows.crossval_folds import Fold, make_folds, require_counts
from medgraft.workflows.deep_checks import look_deeper
from medgraft.workflows.fitting import Shared, fit, provenance_of, write_decided
from medgraft.workflows.planning import PlannedRun, plan_run, replan, write_plan
from medgraft.workflows.progress import Progress, Silent
from medgraft.workflows.run_folder import choose_run_folder, create_folder, write_json
from medgraft.workflows.scored import scores_of
from medgraft.workflows.settings import load_settings
from medgraft.workflows.stopping import StopRequest


@dataclass(frozen=True)
class CrossValidationResult:
    """What a cross-validation ended with.

    Attributes:
        folder: the run's folder; the bundle of each fit lies in ``folds/rR-fF``.
        report: the page to open.
        evaluation: of the pooled out-of-fold scores.
        facts: content of evaluation.json.
        seconds: wall time.
    """

    folder: Path
    report: Path
    evaluation: Evaluation
    facts: dict[str, Any]
    seconds: float


def cross_validate_training(
    source: str | Path,
    *,
    folds: int,
    repeats: int = 1,
    out: str | Path | None = None,
    recipe: str | None = None,
    config: Config | str | Path | None = None,
    settings: Sequence[str] = (),
    progress: Progress | None = None,
) -> CrossValidationResult:
    """Train on all folds but one and score that one, until every image was scored once per repeat.

    Args:
        source: folder of class folders, or a CSV/TSV table; parts it gives are pooled, except a test part, which is
            not read.
        folds: at least 2.
        repeats: at least 1; each makes new folds.
        out: folder of the run; ``runs/DATE-NAME`` when not given.
        recipe: name of a published system to start from.
        config: a configuration, or a TOML file with one, on top of the recipe.
        settings: ``section.field=value`` changes on top.
        progress: receives what is going on; silent when not given.

    Returns:
        Where things are, and the evaluation.

    Raises:
        UsageError: FOLDS_RANGE, REPEATS_RANGE.
        DataError: FOLDS_TOO_MANY, FOLDS_TOO_FEW; what reading refuses.
        Stopped: on Ctrl-C or SIGTERM; finished fits are kept.
    """
    began = time.perf_counter()
    require_counts(folds, repeats)
    progress = progress or Silent()
    folder = choose_run_folder(Path(source), None if out is None else Path(out))
    asked = load_settings(config, settings, recipe=recipe)
    run = plan_run(Path(source), asked, progress, purpose="folds")
    work = _Work.of(run, folder, folds=folds, repeats=repeats, progress=progress)
    shown = work.shown_plan()
    every = np.arange(len(work.images))
    looked = look_deeper(
        work.images,
        scored=every,
        fit=None,
        labelled=every,
        config=run.config,
        device=run.device,
        progress=progress,
    )
    write_plan(folder, shown, progress, further=looked.checks)
    with StopRequest() as stop:
        fits = work.run_all(stop)
    checks = (*run.prepared.checks, *work.checks, *looked.checks, *_of_fits(fits))
    finished = {**work.provenance(), "state": "finished", "bundles": [one.bundle_id for one in fits]}
    finished["seconds"] = round(time.perf_counter() - began, 1)
    pooled = replace(run, plan=shown.plan, prepared=replace(run.prepared, checks=checks))
    results = write_pooled(folder, pooled, fits, group=work.images.group, looked=looked, provenance=finished)
    write_json(folder / "run.json", finished)
    seconds = time.perf_counter() - began
    return CrossValidationResult(folder, results.report, results.evaluation, results.facts, seconds)


@dataclass(frozen=True)
class _Work:
    """All fits of one cross-validation.

    Attributes:
        run: every image in train, none opened of a given test part.
        folder: of the run.
        progress: told of each fit.
        images: the readable ones, and who belongs together.
        folds: the fits to do.
        checks: what is to be said of the division.
        shared: what all fits do only once.
    """

    run: PlannedRun
    folder: Path
    progress: Progress
    images: CheckedImages
    folds: tuple[Fold, ...]
    checks: tuple[CheckResult, ...]
    shared: Shared

    @classmethod
    def of(cls, run: PlannedRun, folder: Path, *, folds: int, repeats: int, progress: Progress) -> _Work:
        images, seed = run.prepared.images(), run.config.training.seed
        made, checks = make_folds(
            images.manifest, images.group, run.config.data, folds=folds, repeats=repeats, seed=seed
        )
        return cls(run, folder, progress, images, made, checks, Shared(seed))

    def planned(self, fold: Fold) -> PlannedRun:
        """One fit: readable images with its parts, a fresh network, a plan for them."""
        images = self.images
        prepared = replace(
            self.run.prepared,
            manifest=images.manifest.with_splits(fold.split),
            records=images.records,
            pixels=images.pixels,
            readable=np.ones(len(images), dtype=np.bool_),
        )
        config = self.run.config
        config = config.model_copy(update={"training": config.training.model_copy(update={"seed": fold.seed})})
        facts = replace(self.run.facts, counts=prepared.manifest.counts())
        made = replan(replace(self.run, prepared=prepared, facts=facts), config)
        known = {row.setting for row in made.plan.rows} | {"data.split"}
        settled = [row for row in self.run.plan.rows if row.setting not in known and row.setting.count(".") == 1]
        reason = "whole groups, every class in its share; validation is made out of what is not held out"
        split = PlanRow("data.split", [self.checks[0].title], reason)
        return replace(made, plan=replace(made.plan, rows=(split, *settled, *made.plan.rows)))

    def shown_plan(self) -> PlannedRun:
        """The plan of the first fit, with the images as they were before any fold."""
        prepared = self.run.prepared
        manifest = prepared.manifest.with_splits([None] * len(prepared.manifest))
        checks = (*prepared.checks, *self.checks)
        first = self.planned(self.folds[0])
        return replace(first, config=self.run.config, prepared=replace(prepared, manifest=manifest, checks=checks))

    def provenance(self) -> dict[str, Any]:
        """What the run records; parts of single fits are in their bundles."""
        facts = provenance_of(self.run)
        return {**facts, "images": {"all": len(self.images)}, "cross_validation": self._numbers()}

    def _numbers(self) -> dict[str, int]:
        return {"folds": self.folds[-1].number, "repeats": self.folds[-1].repeat}

    def run_all(self, stop: StopRequest) -> list[FitScores]:
        """Every fit, one after another; folds.csv grows with each.

        Raises:
            Stopped: when asked to; the fit that was under way is left out.
        """
        done: list[FitScores] = []
        for fold in self.folds:
            found = None if stop.requested() else self._run(fold, stop)
            if found is None:
                write_json(self.folder / "run.json", {**self.provenance(), "state": "stopped", "fits": len(done)})
                raise Stopped(
                    "STOPPED",
                    f"stopped on request; {len(done)} of {len(self.folds)} fits are finished"
                    + (" and kept with their bundles and scores" if done else ", so nothing was scored"),
                    where=str(self.folder / "folds" if done else self.folder),
                    fix="start again with a new --out; what is frozen is in the cache",
                )
            done.append(found)
            write_folds(self.folder / "folds.csv", done)
            self.progress.say(f"{found.line}; {len(done)} of {len(self.folds)} fits")
        return done

    def _run(self, fold: Fold, stop: StopRequest) -> FitScores | None:
        """One fit in a folder that gets its name when it is complete; None when it was stopped."""
        began = time.perf_counter()
        final = self.folder / "folds" / fold.name
        partial = final.with_name(f".{fold.name}.partial")
        create_folder(partial)
        try:
            run = self.planned(fold)
            progress = _FitProgress(self.progress, f"repeat {fold.repeat}, fold {fold.number}")
            if fit(run, partial, progress=progress, should_stop=stop.requested, shared=self.shared).stopped:
                return None
            own = {**self._numbers(), "repeat": fold.repeat, "fold": fold.number}
            provenance = {**provenance_of(run), "cross_validation": own}
            found = self._score(run, fold, partial / "bundle", provenance, progress)
            found = replace(found, seconds=time.perf_counter() - began)
            write_fit(partial, run, found)
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return found

    def _score(
        self, run: PlannedRun, fold: Fold, bundle: Path, provenance: dict[str, Any], progress: Progress
    ) -> FitScores:
        """Write the bundle, open it as a user would, and read the held-out images once."""
        decided = write_decided(run, bundle, provenance=provenance, progress=progress)
        predictor = Predictor(open_bundle(bundle), device=run.device)
        manifest, pixels = run.prepared.part("test")
        logits = predictor.logits(pixels, progress=lambda done, n: progress.advance("scoring", done, n))
        proba, point = predictor.proba(logits), predictor.operating_point
        evaluation = evaluate_scores(
            scores_of(manifest, proba, predictor.classes),
            point,
            temperature=decided.temperature,
            config=run.config.evaluation,
            patients_known=manifest.patients_known,
            n_declared=len(manifest),
            seed=run.config.training.seed,
        )
        return FitScores(
            fold=fold,
            logits=logits,
            proba=proba,
            predicted=point.predict(proba, predictor.classes),
            point=point,
            temperature=decided.temperature,
            evaluation=evaluation,
            bundle_id=predictor.bundle.id,
            checks=decided.checks,
        )


def _of_fits(fits: Sequence[FitScores]) -> list[CheckResult]:
    """What is wrong with the answers of fits, with the names of these."""
    return [replace(check, title=f"{one.fold.name}: {check.title}") for one in fits for check in one.checks]


class _FitProgress:
    """Bars with the fit's name; of its lines only what concerns all fits."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name

    def say(self, line: str) -> None:
        if line.startswith(("note: ", "warning: ")) or "no room on disk" in line:
            self._progress.say(f"{self._name}: {line}")

    def advance(self, what: str, done: int, total: int) -> None:
        self._progress.advance(f"{self._name}, {what}", done, total)

    def close(self) -> None:
        """The display is that of the whole run."""
