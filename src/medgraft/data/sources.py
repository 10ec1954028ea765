"""What the user gives, as a manifest: a folder of class folders, or a table.

SOURCE ── folder → `folders.read_folder` ──┐
       └─ table  → `tables.read_table`  ───┴→ Manifest
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from medgraft.config.schema import DataConfig
from medgraft.data.folders import read_folder
from medgraft.data.labels import require_two_classes
from medgraft.data.listing import image_names, list_folder
from medgraft.data.manifest import Manifest
from medgraft.data.names import escape
from medgraft.data.tables import TABLE_ENDINGS, read_table
from medgraft.errors import DataError
from medgraft.types import CheckResult


def read_source(
    source: Path,
    config: DataConfig,
    *,
    classes: tuple[str, ...] | None = None,
    labels: Literal["required", "optional"] = "required",
    keep: Sequence[str] = (),
) -> Manifest:
    """Read a source; no image is opened.

    Args:
        source: folder of class folders (with or without part folders), or a CSV or TSV table.
        config: columns, folder of images, patient rule.
        classes: class names of a bundle, in its order: labels must be among them, classes may be missing.
            None takes ``config.classes``, else the labels found in natural order.
        labels: ``optional`` lets images without a label through.
        keep: names of columns (``evaluation.by``) that become `Manifest.attributes`, see `subgroups`.

    Raises:
        DataError: naming every row or file that is in the way; ``ONE_CLASS`` when labels are required, no
            classes are declared and the source has fewer than two.
    """
    mode = _mode(source)
    declared = classes if classes is not None else config.classes
    label_needed = labels == "required"
    if stat.S_ISDIR(mode):
        folder = read_folder(source, config, classes=declared, label_needed=label_needed, keep=keep)
        return _without_parts(replace(folder, notes=(*_unused_options(config), *folder.notes)), config)
    if not stat.S_ISREG(mode):
        fix = "give a folder or a table"
        raise DataError("SOURCE_UNREADABLE", "is a pipe, socket or device", where=escape(str(source)), fix=fix)
    if source.suffix.lower() not in TABLE_ENDINGS:
        fix = "give a folder of class folders, or a .csv or .tsv table"
        raise DataError("SOURCE_UNKNOWN", "neither a folder nor a table", where=escape(str(source)), fix=fix)
    manifest = read_table(source, config, classes=declared, label_needed=label_needed, keep=keep)
    if declared is None and label_needed:
        require_two_classes(manifest.table["label"], where=escape(str(source)))
    return _without_parts(manifest, config)


def _without_parts(manifest: Manifest, config: DataConfig) -> Manifest:
    """Given parts are forgotten where that was asked for, and it is said."""
    if config.given_parts == "keep" or not manifest.table["split"].notna().any():
        return manifest
    note = CheckResult(
        "SPLIT_IGNORED", "note", "the given parts are ignored", {}, "leave data.given_parts out to keep them"
    )
    return replace(manifest.with_splits([None] * len(manifest)), notes=(*manifest.notes, note))


def find_images(paths: Sequence[Path], *, allow_outside: bool = False) -> list[Path]:
    """Images to predict on: files as given, even if they do not exist; folders walked in natural order.

    Args:
        paths: files and folders, as the user named them.
        allow_outside: follow links that lead out of a folder.

    Raises:
        DataError: ``NO_IMAGES`` when a folder holds none, and the codes of `listing`.
    """
    images: list[Path] = []
    for path in paths:
        if not path.is_dir():
            images.append(path)
            continue
        listing = list_folder(path, allow_outside=allow_outside)
        before = len(images)
        for at, folder in listing.below(""):
            names, _, _ = image_names(listing.root / at, folder.files)
            images += [path / at / name for name in names]
        if len(images) == before:
            raise DataError(
                "NO_IMAGES", "the folder holds no image", where=escape(str(path)), fix="give another folder"
            )
    return images


def _unused_options(config: DataConfig) -> list[CheckResult]:
    """Options that say something about tables do nothing for a folder: said, not dropped in silence."""
    options = ("label", "image", "patient", "split", "mask", "images", "encoding")
    given = [f"data.{name}" for name in options if getattr(config, name) is not None]
    if not given:
        return []
    title = f"the source is a folder: {', '.join(given)} not used"
    return [CheckResult("OPTIONS_UNUSED", "warning", title, {"options": given}, "give the table as the source")]


def _mode(source: Path) -> int:
    try:
        return source.stat().st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        fix = "give a folder of class folders, or a .csv or .tsv table"
        raise DataError("SOURCE_MISSING", f"cannot be read: {reason}", where=escape(str(source)), fix=fix) from error
