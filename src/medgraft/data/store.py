"""Where decoded pixels are kept: one file of equal rows, and an index from content to row.

    <cache>/pixels/<rules digest>/
        rules.json      input size and decoding rules the rows were made with, for people
        rows.bin        (n, h, w, 3) uint8, row after row, only ever appended to
        index.sqlite    content hash -> row, checksum, what was said about the image

Any number of processes may read and write at once. A writer reserves rows in one transaction, writes
them, flushes them to the disk and only then enters them in the index: a killed writer leaves unused rows
and never a wrong one. Nothing is overwritten, so a reader needs no lock.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.data.limits import shown
from medgraft.errors import ResourceError
from medgraft.types import PixelArray

_LOCK_SECONDS = 120.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS image(content TEXT PRIMARY KEY, row INTEGER, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reserved(only INTEGER PRIMARY KEY CHECK (only = 0), rows INTEGER NOT NULL);
INSERT OR IGNORE INTO reserved VALUES (0, 0);
"""
_OTHER_FOLDER = "set data.cache_dir or the environment variable MEDGRAFT_CACHE to a folder you can write to"


def cache_folder(cache_dir: Path | None) -> Path:
    """The folder of all caches: as configured, else ``MEDGRAFT_CACHE``, else the user's cache folder.

    Raises:
        ResourceError: ``CACHE_NO_FOLDER`` when there is no home folder to fall back to.

    Source: XDG Base Directory Specification, ``XDG_CACHE_HOME``.
    """
    if cache_dir is not None:
        return cache_dir
    if chosen := os.environ.get("MEDGRAFT_CACHE"):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "medgraft"
    try:
        return Path.home() / ".cache" / "medgraft"
    except RuntimeError as error:
        raise ResourceError(
            "CACHE_NO_FOLDER", "there is no home folder to keep decoded pixels in", fix=_OTHER_FOLDER
        ) from error


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of the index.

    Attributes:
        row: position in the data file; None for an image that could not be decoded.
        record: JSON-ready facts about the image.
    """

    row: int | None
    record: dict[str, Any]


class PixelStore:
    """Rows of one size, made by one set of rules.

    Args:
        root: folder of all caches.
        rules: JSON-ready facts that decide what the rows hold; their digest names the folder.
        size: (height, width) of a row in pixels.

    Raises:
        ResourceError: ``CACHE_NOT_WRITABLE``, ``CACHE_DAMAGED``, ``CACHE_LOCKED`` or ``DISK_FULL``.
    """

    def __init__(self, root: Path, rules: dict[str, Any], *, size: tuple[int, int]) -> None:
        text = json.dumps(rules, sort_keys=True, indent=1)
        self.digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        self.folder = root / "pixels" / self.digest
        self.data_path = self.folder / "rows.bin"
        self.size = size
        self.row_bytes = size[0] * size[1] * 3
        self._lock = threading.Lock()
        with self._failures():
            # Medical images: for the user alone, whatever the umask.
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.data_path.touch(mode=0o600)
            (self.folder / "rules.json").write_text(text, encoding="utf-8")
            # The journal is the default one: write-ahead logging needs shared memory, which network disks lack.
            self._index = sqlite3.connect(
                self.folder / "index.sqlite", timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._index.executescript(_SCHEMA)

    def __enter__(self) -> PixelStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self._index.close()

    def find(self, content: str) -> Entry | None:
        """The image with this content hash, or None when it has to be decoded."""
        with self._failures(), self._lock:
            found = self._index.execute("SELECT row, record FROM image WHERE content = ?", (content,)).fetchone()
        if found is None:
            return None
        row, record = found
        # A data file that was cut or deleted is not an error: the image is decoded again.
        if row is not None and (row + 1) * self.row_bytes > self.data_path.stat().st_size:
            return None
        return Entry(row, json.loads(record))

    def add(self, images: Sequence[tuple[str, dict[str, Any], PixelArray | None]]) -> list[int | None]:
        """Keep images.

        Args:
            images: content hash, facts, and (h, w, 3) uint8 pixels or None.

        Returns:
            The row of each, None where there are no pixels.
        """
        pixels = [array for _, _, array in images if array is not None]
        with self._failures(), self._lock:
            with self._transaction():
                first = int(self._index.execute("SELECT rows FROM reserved").fetchone()[0])
                self._index.execute("UPDATE reserved SET rows = ?", (first + len(pixels),))
            with self.data_path.open("r+b") as file:
                file.seek(first * self.row_bytes)
                for array in pixels:
                    file.write(np.ascontiguousarray(array).data)
                file.flush()
                os.fsync(file.fileno())
            free = iter(range(first, first + len(pixels)))
            rows = [None if array is None else next(free) for _, _, array in images]
            entries = [(content, row, json.dumps(facts)) for (content, facts, _), row in zip(images, rows, strict=True)]
            with self._transaction():
                self._index.executemany("INSERT OR REPLACE INTO image VALUES (?, ?, ?)", entries)
        return rows

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._index.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._index.execute("ROLLBACK")
            raise
        self._index.execute("COMMIT")

    @contextmanager
    def _failures(self) -> Iterator[None]:
        where = shown(self.folder)
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "full" in text:
                raise self._disk_full() from error
            if "locked" in text:
                what = f"the pixel cache has been in use by another process for {_LOCK_SECONDS:.0f} s"
                raise ResourceError(
                    "CACHE_LOCKED", what, where=where, fix="wait for it, or " + _OTHER_FOLDER
                ) from error
            raise ResourceError(
                "CACHE_NOT_WRITABLE", f"the pixel cache cannot be used: {text}", where=where, fix=_OTHER_FOLDER
            ) from error
        except sqlite3.DatabaseError as error:
            raise damaged(self.folder, "its index cannot be read") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise self._disk_full() from error
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            raise ResourceError(
                "CACHE_NOT_WRITABLE", f"the pixel cache cannot be written: {reason}", where=where, fix=_OTHER_FOLDER
            ) from error

    def _disk_full(self) -> ResourceError:
        free = shutil.disk_usage(self.folder).free
        return ResourceError(
            "DISK_FULL",
            f"no room for decoded pixels: {self.row_bytes} bytes per image needed, {free} bytes free",
            where=shown(self.folder),
            fix="free some space, or " + _OTHER_FOLDER,
        )


def damaged(folder: Path, what: str) -> ResourceError:
    return ResourceError(
        "CACHE_DAMAGED",
        f"the pixel cache is damaged: {what}",
        where=shown(folder),
        fix="delete this folder; it is made again",
    )
