"""`check`: what is wrong with the data, before any training.

read → decode all → copies → split → patients, sizes → baselines, shortcuts, labels, shift → checks.json, check.html
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.checks.baseline_report import summarize_baselines
from medgraft.checks.shift import check_shift
from medgraft.checks.shortcuts import summarize_shortcuts
from medgraft.config import Config
from medgraft.data.manifest import Manifest
from medgraft.data.sources import read_source
from medgraft.errors import DataError, UsageError
from medgraft.report.check_page import write_check_page
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
    found = _Found(source, resolved, progress)
    manifest = found.read()
    if manifest is not None and len(found.prepared.usable()):
        found.look()
        if against is not None:
            found.compare(Path(against))
    create_folder(folder)
    page = found.write(folder)
    return CheckReport(folder, page, manifest, tuple(found.checks), time.perf_counter() - began)


class _Found:
    """A source under examination."""

    def __init__(self, source: Path, config: Config, progress: Progress) -> None:
        self.source, self.config, self.progress = source, config, progress
        self.checks: list[CheckResult] = []
        self.looked = Looked()
        self.baselines: dict[str, Any] = {}
        self.sources: dict[str, Any] = {}
        self.shift: dict[str, Any] | None = None
        self.prepared: Prepared

    def read(self) -> Manifest | None:
        """Read, decode and split; what is spelled in several ways is reported like everything else."""
        try:
            declared = read_source(self.source, self.config.data)
        except DataError as error:
            if error.problem.code != "LABEL_VARIANTS":
                raise
            problem, problems = error.problem, [one.as_dict() for one in error.problems]
            self.checks.append(CheckResult(problem.code, "error", problem.what, {"examples": problems}, problem.fix))
            return None
        self.given_test = bool((declared.table["split"].to_numpy() == "test").any())
        self.prepared = self._prepare(declared)
        self.checks += self.prepared.checks
        return self.prepared.manifest

    def look(self) -> None:
        """Baselines, shortcuts, labels, shift: on the given test part, else by cross-validation over all images."""
        images = self.prepared.images()
        every, fit = np.arange(len(images)), images.rows_of("train", "val")
        judged = self.given_test and len(fit) > 0
        device, _ = choose_device(self.config.training.device)
        use_threads(self.config.training.threads)
        self.looked = look_deeper(
            images,
            scored=images.rows_of("test") if judged else every,
            fit=fit if judged else None,
            labelled=every,
            config=self.config,
            device=device,
            progress=self.progress,
        )
        self.checks += self.looked.checks
        known, seed = images.manifest.patients_known, self.config.training.seed
        asked = self.config.evaluation
        beside = summarize_baselines(self.looked.baselines, asked, model=None, patients_known=known, seed=seed)
        alone = summarize_shortcuts(self.looked.sources, self.looked.baselines, asked, patients_known=known, seed=seed)
        self.baselines, self.sources = beside.baselines, alone.sources
        self.checks += [*beside.checks, *alone.checks]
        self.shift = None if self.looked.shift is None else self.looked.shift.as_dict()

    def compare(self, against: Path) -> None:
        """Whether another source looks like this one."""
        own = self.prepared.images()
        other = self._prepare(read_source(against, self.config.data, classes=own.manifest.classes)).images()
        if not len(other):
            raise UsageError("AGAINST_EMPTY", "no image of the other source can be read", where=str(against))
        device, _ = choose_device(self.config.training.device)
        names = _told_apart(self.source.resolve(), against.resolve())
        shift = shift_between((own, other), names, config=self.config, device=device, progress=self.progress)
        if shift is None:
            title = f"too few patients or independent images to compare {names[0]} with {names[1]}"
            self.checks.append(CheckResult("SHIFT_TOO_FEW", "note", title, {"n_images": [len(own), len(other)]}))
            return
        self.checks += check_shift(shift)
        self.shift = shift.as_dict()

    def write(self, folder: Path) -> Path:
        """checks.json, manifest.csv and the page."""
        write_json(folder / "checks.json", [result.as_dict() for result in self.checks])
        counts, pictures = {}, {}
        if hasattr(self, "prepared"):
            self.prepared.manifest.write_csv(folder / "manifest.csv")
            images = self.prepared.images()
            counts = self.prepared.manifest.counts()
            pictures = {
                **copy_pictures(images, self.prepared.copies),
                **suspect_pictures(images, self.looked.labels),
            }
        return write_check_page(
            folder / "check.html",
            title=self.source.resolve().stem,
            counts=counts,
            checks=self.checks,
            pictures=pictures,
            baselines=self.baselines or None,
            sources=self.sources or None,
            shift=self.shift,
        )

    def _prepare(self, manifest: Manifest) -> Prepared:
        preprocess = Preprocess(
            (_CHECK_SIZE, _CHECK_SIZE), self.config.model.resize, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        )
        return prepare(manifest, self.config, preprocess, purpose="check", progress=self.progress)


def _told_apart(one: Path, other: Path) -> tuple[str, str]:
    """Names of two sources, with their folders where the files are called alike."""
    for parts in (1, 2):
        names = ["/".join(path.parts[-parts:]) for path in (one, other)]
        if names[0] != names[1]:
            return names[0], names[1]
    return "this source", "the other source"
