"""The folder of a run: where it is, and how its files are written."""

from __future__ import annotations

import csv
import json
import platform
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medgraft.errors import ResourceError, UsageError

_PACKAGES = ("medgraft", "torch", "timm", "openvino", "numpy", "pandas", "scikit-learn", "Pillow", "pydicom")


def make_run_folder(source: Path, out: Path | None) -> Path:
    """``out``, or ``runs/DATE-NAME`` named after the source; created empty.

    Raises:
        UsageError: RUN_FOLDER_IN_USE when it holds files, RUN_FOLDER_INVALID when it cannot be made
            or lies inside the source.
    """
    folder = out
    if folder is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.resolve().stem) or "run"
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = Path("runs") / f"{stamp}-{name}"
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            "RUN_FOLDER_INVALID", "the output is a file", where=str(folder), fix="name a folder with --out"
        )
    if source.is_dir() and source.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise UsageError(
            "RUN_FOLDER_INVALID",
            "the output lies inside the source",
            where=str(folder),
            fix="name a folder outside the images with --out",
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(
            "RUN_FOLDER_IN_USE",
            "the output folder holds files already",
            where=str(folder),
            fix="name a new folder with --out",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            "RUN_FOLDER_INVALID", f"the output folder cannot be made: {error.strerror}", where=str(folder)
        ) from error
    return folder


def write_json(path: Path, content: Any) -> None:
    """UTF-8, indented, no NaN; written under a temporary name and renamed."""
    _write(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    _write(path, text)


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV table."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def environment() -> dict[str, str]:
    """Versions and machine, for provenance; no user name and no path."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ResourceError(
            "WRITE_FAILED", f"cannot write: {error.strerror}", where=str(path), fix="free space or choose another --out"
        ) from error


def now() -> str:
    """UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
