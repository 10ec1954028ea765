"""The folder of a run: where it is, and how its files are written."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medgraft.errors import ResourceError, UsageError

_PACKAGES = ("medgraft", "torch", "timm", "openvino", "numpy", "pandas", "scikit-learn", "Pillow", "pydicom")


def choose_run_folder(source: Path, out: Path | None) -> Path:
    """``out``, or ``runs/DATE-NAME`` named after the source; not created yet, so that a refusal leaves nothing.

    Raises:
        UsageError: RUN_FOLDER_IN_USE when it holds files, RUN_FOLDER_INVALID when it is a file, lies below
            one or inside the source, or may not be written to.
    """
    folder = out
    if folder is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.resolve().stem) or "run"
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = Path("runs") / f"{stamp}-{name}"
    folder = folder.absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        what = "may not be written to" if nearest.is_dir() else "is a file"
        raise UsageError(
            "RUN_FOLDER_INVALID",
            f"{'the output' if nearest == folder else nearest} {what}",
            where=str(folder),
            fix="name a folder you may write to with --out",
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
    return folder


def create_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        UsageError: RUN_FOLDER_INVALID.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            "RUN_FOLDER_INVALID",
            f"the output folder cannot be made: {error.strerror}",
            where=str(folder),
            fix="name a folder you may write to with --out",
        ) from error


def write_json(path: Path, content: Any) -> None:
    """UTF-8, indented, no NaN; written under a temporary name and renamed."""
    _write(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    _write(path, text)


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV table; written under a temporary name and renamed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    _write(path, text.getvalue())


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
    create_folder(path.parent)
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
