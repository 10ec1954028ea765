"""`check`: what is wrong with the data, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medgraft.config import Config
from medgraft.data.manifest import Manifest
from medgraft.data.sources import read_source
from medgraft.types import CheckResult, Preprocess
from medgraft.workflows.prepare import prepare
from medgraft.workflows.progress import Progress, Silent
from medgraft.workflows.run_folder import write_json
from medgraft.workflows.settings import load_settings

# Only decoding matters here; the size is that of the default backbone, so training finds the pixels cached.
_CHECK_SIZE = 224


@dataclass(frozen=True)
class CheckReport:
    """The source as read and split, and everything found in it."""

    manifest: Manifest
    checks: tuple[CheckResult, ...]

    @property
    def usable(self) -> bool:
        """Whether nothing found forbids training."""
        return not any(check.severity == "error" for check in self.checks)


def check(
    source: str | Path,
    *,
    out: str | Path | None = None,
    config: Config | str | Path | None = None,
    settings: Sequence[str] = (),
    progress: Progress | None = None,
) -> CheckReport:
    """Read, decode and split a source as training would, and report.

    Args:
        source: folder of class folders, or a CSV/TSV table.
        out: file for the results as JSON; none when not given.
        config: a configuration, or a TOML file with one.
        settings: ``section.field=value`` changes on top.
        progress: receives what is going on; silent when not given.

    Raises:
        DataError: a source that cannot be read at all.
    """
    resolved = load_settings(config, settings)
    manifest = read_source(Path(source), resolved.data)
    preprocess = Preprocess(
        (_CHECK_SIZE, _CHECK_SIZE), resolved.model.resize, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    )
    prepared = prepare(manifest, resolved, preprocess, purpose="check", progress=progress or Silent())
    if out is not None:
        write_json(Path(out), [result.as_dict() for result in prepared.checks])
    return CheckReport(prepared.manifest, prepared.checks)
