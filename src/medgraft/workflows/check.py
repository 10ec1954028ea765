"""`check`: what is wrong with the data, before any training.

read → decode all → copies → split → patients, sizes → baselines, shortcuts, labels, shift → checks.json, check.html
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.checks.baseline_report import summarize_baselines
from medgraft.checks.images import CheckedImages
from medgraft.checks.shift import check_shift
from medgraft.checks.shortcuts import summarize_shortcuts
from medgraft.config import Config
from medgraft.data.manifest import Manifest
from medgraft.data.sources import read_source
from medgraft.errors import DataError
from medgraft.report.check_page import write_check_page
from medgraft.report.checks_table import PicturedExample
from medgraft.types import CheckResult, Preprocess
from medgraft.workflows.deep_checks import Looked, look_deeper, shift_between
from medgraft.workflows.gallery import copy_pictures, suspect_pictures
from medgraft.workflows.machine import choose_device, use_threads
from medgraft.workflows.prepare import Prepared, prepare
from medgraft.workflows.progress import Progress, Silent
from medgraft.workflows.run_folder import choose_run_folder, create_folder, write_json
from medgraft.workflows.settings import load_settings

# Only decoding matters here; the size is that of the default backbone, so training finds the pixels cached.
_CHECK_SIZE = 224


@dataclass(frozen=True)
class CheckReport:
    """What was found in a source.

    Attributes:
        folder: holds checks.json, manifest.csv and check.html.
        page: the page to open.
        manifest: the source as read and split; None when classes are spelled in several ways, so that it was not.
        checks: everything found.
        seconds: wall time.
    """

    folder: Path
    page: Path
    manifest: Manifest | None
    checks: tuple[CheckResult, ...]
    seconds: float

    @property
    def usable(self) -> bool:
        """Whether nothing found makes numbers untrue."""
        return not any(check.severity == "error" for check in self.checks)


def check(
    source: str | Path,
    *,
    out: str | Path | None = None,
    against: str | Path | None = None,
    config: Config | str | Path | None = None,
    settings: Sequence[str] = (),
    progress: Progress | None = None,
) -> CheckReport:
    """Read, decode and split a source as training would, and report.

    Args:
        source: folder of class folders, or a CSV/TSV table.
        out: folder of the results; ``runs/DATE-NAME`` when not given.
        against: another source, with the same classes, to compare this one with.
        config: a configuration, or a TOML file with one.
        settings: ``section.field=value`` changes on top.
        progress: receives what is going on; silent when not given.

    Raises:
        DataError: a source that cannot be read at all.
    """
    began = time.perf_counter()
    progress = progress or Silent()
    source = Path(source)
    folder = choose_run_folder(source, None if out is None else Path(out))
    resolved = load_settings(config, settings)
    declared, misspelled = _read(source, resolved)
    if declared is None:
        found = _Found(checks=misspelled)
    else:
        found = _look(declared, resolved, progress)
        if against is not None and found.images is not None:
            found = _compare(found, (source, Path(against)), resolved, progress)
    create_folder(folder)
    page = _write(folder, found, title=source.resolve().stem)
    manifest = None if found.prepared is None else found.prepared.manifest
    return CheckReport(folder, page, manifest, found.checks, time.perf_counter() - began)


@dataclass(frozen=True)
class _Found:
    """What is known of a source so far.

    Attributes:
        checks: results.
        prepared: the source, decoded and split; None when it was not read.
        images: its readable images; None when there are none.
        looked: what the slower checks found.
        baselines: as in evaluation.json, without a model.
        sources: of shortcuts, likewise.
        shift: between its parts, or to another source.
    """

    checks: tuple[CheckResult, ...]
    prepared: Prepared | None = None
    images: CheckedImages | None = None
    looked: Looked = field(default_factory=Looked)
    baselines: Mapping[str, Any] | None = None
    sources: Mapping[str, Any] | None = None
    shift: Mapping[str, Any] | None = None


def _read(source: Path, config: Config) -> tuple[Manifest | None, tuple[CheckResult, ...]]:
    """The samples; nothing where classes are spelled in several ways, which is reported like everything else."""
    try:
        return read_source(source, config.data), ()
    except DataError as error:
        if error.problem.code != "LABEL_VARIANTS":
            raise
        problem, examples = error.problem, [one.as_dict() for one in error.problems]
        return None, (CheckResult(problem.code, "error", problem.what, {"examples": examples}, problem.fix),)


def _prepare(manifest: Manifest, config: Config, progress: Progress) -> Prepared:
    side = (_CHECK_SIZE, _CHECK_SIZE)
    preprocess = Preprocess(side, config.model.resize, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return prepare(manifest, config, preprocess, purpose="check", progress=progress)


def _look(declared: Manifest, config: Config, progress: Progress) -> _Found:
    """Everything about one source; baselines on the given test part, else by cross-validation over all images."""
    prepared = _prepare(declared, config, progress)
    images = prepared.images()
    if not len(images):
        return _Found(prepared.checks, prepared)
    every, known = np.arange(len(images)), images.rows_of("train", "val")
    given_test = bool((declared.table["split"].to_numpy() == "test").any()) and len(known) > 0
    device, _ = choose_device(config.training.device)
    use_threads(config.training.threads)
    looked = look_deeper(
        images,
        scored=images.rows_of("test") if given_test else every,
        fit=known if given_test else None,
        labelled=every,
        config=config,
        device=device,
        progress=progress,
    )
    patients_known, seed, asked = images.manifest.patients_known, config.training.seed, config.evaluation
    beside = summarize_baselines(looked.baselines, asked, model=None, patients_known=patients_known, seed=seed)
    alone = summarize_shortcuts(looked.sources, looked.baselines, asked, patients_known=patients_known, seed=seed)
    return _Found(
        (*prepared.checks, *looked.checks, *beside.checks, *alone.checks),
        prepared,
        images,
        looked,
        beside.baselines or None,
        alone.sources or None,
        None if looked.shift is None else looked.shift.as_dict(),
    )


def _compare(found: _Found, sources: tuple[Path, Path], config: Config, progress: Progress) -> _Found:
    """Whether another source looks like this one."""
    assert found.images is not None
    own, against = found.images, sources[1]
    other = _prepare(read_source(against, config.data, classes=own.manifest.classes), config, progress).images()
    if not len(other):
        raise DataError("AGAINST_EMPTY", "no image of the other source can be read", where=str(against))
    device, _ = choose_device(config.training.device)
    names = _told_apart(sources[0].resolve(), against.resolve())
    shift = shift_between((own, other), names, config=config, device=device, progress=progress)
    if shift is None:
        title = f"too few patients or independent images to compare {names[0]} with {names[1]}"
        told = CheckResult("SHIFT_TOO_FEW", "note", title, {"n_images": [len(own), len(other)]})
        return replace(found, checks=(*found.checks, told))
    return replace(found, checks=(*found.checks, *check_shift(shift)), shift=shift.as_dict())


def _told_apart(one: Path, other: Path) -> tuple[str, str]:
    """Names of two sources, with their folders where the files are called alike."""
    for parts in (1, 2):
        names = ["/".join(path.parts[-parts:]) for path in (one, other)]
        if names[0] != names[1]:
            return names[0], names[1]
    return "this source", "the other source"


def _write(folder: Path, found: _Found, *, title: str) -> Path:
    """checks.json, manifest.csv and the page."""
    write_json(folder / "checks.json", [result.as_dict() for result in found.checks])
    counts: Mapping[str, Mapping[str, int]] = {}
    pictures: dict[str, list[PicturedExample]] = {}
    if found.prepared is not None:
        found.prepared.manifest.write_csv(folder / "manifest.csv")
        counts = found.prepared.manifest.counts()
        if found.images is not None:
            pictures = {
                **copy_pictures(found.images, found.prepared.copies),
                **suspect_pictures(found.images, found.looked.labels),
            }
    return write_check_page(
        folder / "check.html",
        title=title,
        counts=counts,
        checks=found.checks,
        pictures=pictures,
        baselines=found.baselines,
        sources=found.sources,
        shift=found.shift,
    )
