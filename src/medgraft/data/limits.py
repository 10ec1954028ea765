"""What may be opened and how large it may be: asked before any decoder sees a byte."""

from __future__ import annotations

import errno
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from medgraft.config.schema import DataConfig
from medgraft.errors import DataError

MEGABYTE = 1_000_000


def shown(path: Path | str) -> str:
    """The path as the caller gave it, with line breaks, escapes and undecodable bytes made visible."""
    text = str(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; never waits on a pipe, never touches a device.

    Raises:
        DataError: ``IMG_UNREADABLE``, with the name of the system's error.
    """
    try:
        # Looked at before it is opened, because opening a device can already act on it; and again
        # afterwards, because the file may have been swapped in between.
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            flags = (
                os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
            )
            handle = open(os.open(path, flags), "rb")  # noqa: SIM115 (returned open)
            mode = os.fstat(handle.fileno()).st_mode
            if stat.S_ISREG(mode):
                return handle
            handle.close()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    kind = "folder" if stat.S_ISDIR(mode) else "pipe, socket or device"
    raise DataError(
        "IMG_UNREADABLE",
        f"is a {kind}, not a file",
        where=shown(path),
        fix="name an image file or take it out of the list",
    )


def read_file(path: Path, rules: DataConfig) -> bytes:
    """All bytes of an image file.

    Raises:
        DataError: ``IMG_UNREADABLE``, or ``IMG_FILE_TOO_LARGE`` above ``rules.max_file_mb``.
    """
    limit = int(rules.max_file_mb * MEGABYTE)
    with open_regular(path) as handle:
        try:
            size = os.fstat(handle.fileno()).st_size
            data = handle.read(size) if size <= limit else b""
        except OSError as error:
            raise _unreadable(path, error) from error
    if size > limit:
        raise DataError(
            "IMG_FILE_TOO_LARGE",
            f"has {size / MEGABYTE:.1f} MB, more than the {rules.max_file_mb:g} MB allowed",
            where=shown(path),
            fix="raise data.max_file_mb if the file is what it should be",
        )
    return data


def check_size(width: int, height: int, rules: DataConfig) -> None:
    """Refuse sizes that cannot be a picture worth decoding; called with the header's numbers.

    Raises:
        DataError: ``IMG_TOO_MANY_PIXELS``, ``IMG_ASPECT``, ``IMG_TOO_SMALL`` or ``IMG_CORRUPT``.
    """
    if width < 1 or height < 1:
        raise DataError("IMG_CORRUPT", f"declares {width}x{height} pixels")
    shape = f"{width}x{height} pixels"
    if width * height > rules.max_megapixels * 1e6:
        raise DataError(
            "IMG_TOO_MANY_PIXELS",
            f"declares {shape}, more than the {rules.max_megapixels:g} megapixels allowed",
            fix="raise data.max_megapixels if the file is what it should be",
        )
    aspect = max(width, height) / min(width, height)
    if aspect > rules.max_aspect:
        raise DataError(
            "IMG_ASPECT",
            f"has {shape}, sides in ratio {aspect:.0f}:1 where {rules.max_aspect:g}:1 is allowed",
            fix="raise data.max_aspect if the file is what it should be",
        )
    if min(width, height) < rules.min_side:
        raise DataError(
            "IMG_TOO_SMALL",
            f"has {shape}, a side below {rules.min_side}",
            fix="lower data.min_side if the file is what it should be",
        )
    if max(width, height) > rules.max_side:
        raise DataError(
            "IMG_TOO_MANY_PIXELS",
            f"has {shape}, a side above {rules.max_side}",
            fix="raise data.max_side if the file is what it should be",
        )


def _unreadable(path: Path, error: Exception) -> DataError:
    number = error.errno if isinstance(error, OSError) else None
    name = errno.errorcode.get(number or 0, type(error).__name__)
    reason = os.strerror(number) if number else "the name cannot be used"
    return DataError(
        "IMG_UNREADABLE",
        f"cannot be read: {reason} ({name})",
        where=shown(path),
        fix="check the path and the permissions",
    )


class _Quiet:
    """``warnings.catch_warnings`` swaps global state and so breaks when threads overlap.

    Here the first thread in installs the filters and the last one out restores what was there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._filters = warnings.catch_warnings()

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                # The module is that of the line blamed for the warning, which for some is our own call.
                warnings.filterwarnings("ignore", module=r"(PIL|pydicom|tifffile|medgraft\.data)(\.|$)")

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._filters.__exit__(None, None, None)


_quiet = _Quiet()


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keep the image libraries' own warnings from the user, who gets our codes instead."""
    _quiet.enter()
    try:
        yield
    finally:
        _quiet.leave()
