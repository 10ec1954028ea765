"""The seal of a bundle: which files it has, how large they are, what their bytes hash to.

    manifest.json   {"format", "format_version", "files": {name: {"sha256", "size"}}, "digest"}

``digest`` covers the manifest's own content and the file must be byte for byte what medgraft writes,
so every changed byte is found, also one in white space. The bundle's id is the sha256 of manifest.json.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container
from pathlib import Path
from typing import Any

from medgraft.errors import ModelError, Problem
from medgraft.models.safefile import sha256_of

FORMAT = "medgraft bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
BUNDLE_FILES = ("README.md", "bundle.json", "golden.safetensors", "weights.safetensors")
SEEN = "seen.safetensors"  # only in a bundle that remembers its training images

_MANIFEST_BYTES = 64 * 1024
_RESTORE = "restore the bundle from where it was made; a changed bundle is never opened"


def canonical_json(values: dict[str, Any]) -> bytes:
    """The one way medgraft writes JSON into a bundle: sorted, ASCII, no NaN."""
    return (json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def write_seal(folder: Path) -> str:
    """Hash the bundle's files and write manifest.json; returns the bundle's id."""
    names = [*BUNDLE_FILES, *([SEEN] if (folder / SEEN).exists() else [])]
    files = {name: {"sha256": sha256_of(folder / name), "size": (folder / name).stat().st_size} for name in names}
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "files": files}
    data = canonical_json({**content, "digest": hashlib.sha256(canonical_json(content)).hexdigest()})
    write_flushed(folder / MANIFEST, data)
    return hashlib.sha256(data).hexdigest()


def write_flushed(path: Path, data: bytes) -> None:
    """Write bytes and wait until the disk has them."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the disk has the folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_seal(folder: Path) -> str:
    """Refuse a bundle in which any file was changed, added, removed or renamed.

    Args:
        folder: the bundle.

    Returns:
        The bundle's id: 64 hexadecimal digits.

    Raises:
        ModelError: ``BUNDLE_NOT_BUNDLE``, ``BUNDLE_FORMAT``, ``BUNDLE_MANIFEST``, ``BUNDLE_FILE_MISSING``,
            ``BUNDLE_FILE_UNLISTED``, ``MODEL_EMPTY``, ``MODEL_TRUNCATED`` or ``MODEL_HASH_MISMATCH``, with
            every file concerned among the problems.
    """
    entries = {entry.name: entry for entry in os.scandir(folder)}
    if MANIFEST not in entries:
        if "bundle.json" in entries or "weights.safetensors" in entries:
            raise ModelError(
                "BUNDLE_FILE_MISSING", f"{MANIFEST} is missing", where=str(folder / MANIFEST), fix=_RESTORE
            )
        raise ModelError(
            "BUNDLE_NOT_BUNDLE",
            f"the folder is not a medgraft bundle: it has no {MANIFEST}",
            where=str(folder),
            fix="give the bundle folder of a run, or the run folder",
        )
    data, files = _read_manifest(folder / MANIFEST, plain=entries[MANIFEST].is_file(follow_symlinks=False))
    missing = [name for name in files if name not in entries]
    found = [Problem("BUNDLE_FILE_MISSING", f"{name} is missing", str(folder / name), _RESTORE) for name in missing]
    others = (entry for name, entry in sorted(entries.items()) if name != MANIFEST)
    found += [problem for entry in others if (problem := _entry_problem(entry, files)) is not None]
    if not found:
        found = [p for name, facts in files.items() if (p := _content_problem(folder / name, facts)) is not None]
    if found:
        first = found[0]
        raise ModelError(first.code, first.what, where=first.where, fix=first.fix, problems=found[1:])
    return hashlib.sha256(data).hexdigest()


def _read_manifest(path: Path, *, plain: bool) -> tuple[bytes, dict[str, dict[str, Any]]]:
    if not plain:
        raise ModelError("BUNDLE_FILE_NOT_PLAIN", f"{MANIFEST} is not a plain file", where=str(path), fix=_RESTORE)
    with path.open("rb") as file:
        data = file.read(_MANIFEST_BYTES + 1)
    broken = ModelError("BUNDLE_MANIFEST", f"{MANIFEST} is damaged or was edited", where=str(path), fix=_RESTORE)
    if not data:
        raise ModelError("MODEL_EMPTY", f"{MANIFEST} is empty", where=str(path), fix=_RESTORE)
    if len(data) > _MANIFEST_BYTES:
        raise broken
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise broken from error
    if not isinstance(values, dict):
        raise broken
    check_format(values, path)
    content = {key: value for key, value in values.items() if key != "digest"}
    digest = hashlib.sha256(canonical_json(content)).hexdigest()
    if values.get("digest") != digest or data != canonical_json(values):
        raise broken
    files = values.get("files")
    if set(values) != {"format", "format_version", "files", "digest"} or not _names_our_files(files):
        raise broken
    assert isinstance(files, dict)
    return data, files


def check_format(values: dict[str, Any], path: Path) -> None:
    """Refuse another format or a version this medgraft does not know.

    Raises:
        ModelError: ``BUNDLE_NOT_BUNDLE`` or ``BUNDLE_FORMAT``.
    """
    if values.get("format") != FORMAT:
        raise ModelError(
            "BUNDLE_NOT_BUNDLE", f"{path.name} does not say that it is a {FORMAT}", where=str(path), fix=_RESTORE
        )
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise ModelError(
            "BUNDLE_FORMAT",
            f"the bundle has format version {version!r}; this medgraft reads version {FORMAT_VERSION}",
            where=str(path),
            fix="use the medgraft that wrote it, or a newer one",
        )


def _names_our_files(files: object) -> bool:
    if not isinstance(files, dict) or set(files) not in ({*BUNDLE_FILES}, {*BUNDLE_FILES, SEEN}):
        return False
    return all(
        isinstance(facts, dict)
        and set(facts) == {"sha256", "size"}
        and isinstance(facts["sha256"], str)
        and isinstance(facts["size"], int)
        for facts in files.values()
    )


def _entry_problem(entry: os.DirEntry[str], listed: Container[str]) -> Problem | None:
    where = entry.path
    if not entry.is_file(follow_symlinks=False):
        kind = "a link" if entry.is_symlink() else "a folder" if entry.is_dir() else "a special file"
        what = f"{entry.name!r} is {kind}; a bundle holds plain files only"
        return Problem("BUNDLE_FILE_NOT_PLAIN", what, where, _RESTORE)
    if entry.name not in listed:
        what = f"{entry.name!r} does not belong to the bundle"
        return Problem("BUNDLE_FILE_UNLISTED", what, where, "remove it, if nothing else was changed")
    return None


def _content_problem(path: Path, facts: dict[str, Any]) -> Problem | None:
    size = path.stat().st_size
    if size == 0:
        return Problem("MODEL_EMPTY", f"{path.name} is empty", str(path), _RESTORE)
    if size < facts["size"]:
        what = f"{path.name} is cut short: {size} of {facts['size']} bytes"
        return Problem("MODEL_TRUNCATED", what, str(path), _RESTORE)
    if size > facts["size"] or sha256_of(path) != facts["sha256"]:
        what = f"{path.name} is not the file that was sealed: its sha256 differs"
        return Problem("MODEL_HASH_MISMATCH", what, str(path), _RESTORE)
    return None
