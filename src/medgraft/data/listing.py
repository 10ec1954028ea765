"""What lies in a folder, without opening or following anything that could hurt.

    list_folder(root) → Listing: regular files per folder, and what was left aside with the reason

Links that leave the root are refused unless allowed; loops end; pipes, sockets and devices are counted
and never opened. Every folder is listed once with `os.scandir`: no call per file.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medgraft.data.names import escape, listed, natural_key
from medgraft.errors import DataError
from medgraft.types import CheckResult

_DECODED = "jpg jpeg jpe jfif png apng bmp dib gif tif tiff webp dcm dicom"
# Not decoded, but images all the same: left to the decoder to refuse by name, never dropped in silence.
_REFUSED = "jp2 j2k jpx avif heic heif svg eps ppm pgm pbm pnm tga psd ico jxl"
IMAGE_ENDINGS = frozenset(f"{_DECODED} {_REFUSED}".split())
DICOM_ENDINGS = frozenset({"dcm", "dicom"})
_JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir", "dicomdir", "$recycle.bin"})
_MASK_SUFFIXES = ("_mask", "-mask", ".mask", "_seg", "_segmentation")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\x00", b"MM\x00*")
_HEAD_BYTES = 132


@dataclass
class Folder:
    """One folder: names in natural order, regular files and sub-folders apart."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


@dataclass
class Listing:
    """A folder tree; keys and paths are posix, relative to ``root``, the root itself is ``""``."""

    root: Path
    folders: dict[str, Folder] = field(default_factory=dict)
    junk: Counter[str] = field(default_factory=Counter)
    special: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def below(self, path: str) -> Iterator[tuple[str, Folder]]:
        """The folder and every folder below it, in natural order."""
        stack = [path]
        while stack:
            current = stack.pop()
            folder = self.folders.get(current)
            if folder is not None:
                yield current, folder
                stack += [join(current, name) for name in reversed(folder.folders)]

    def notes(self) -> list[CheckResult]:
        """What was left aside, as check results."""
        results = []
        if self.junk:
            title = f"{self.junk.total():,} files or folders of the operating system were left out"
            results.append(CheckResult("JUNK_IGNORED", "note", title, {"names": dict(sorted(self.junk.items()))}))
        for code, what, paths in (
            ("FILES_SPECIAL", "pipes, sockets or devices were not opened", self.special),
            ("LINKS_BROKEN", "links lead nowhere", self.broken),
            ("LINKS_REPEATED", "links lead to folders that are read already", self.repeated),
        ):
            if paths:
                evidence = {"count": len(paths), "examples": [escape(path) for path in paths[:20]]}
                results.append(CheckResult(code, "warning", f"{len(paths):,} {what}: {listed(paths)}", evidence))
        return results


def join(folder: str, name: str) -> str:
    """Posix join in which the root is ``""``."""
    return f"{folder}/{name}" if folder else name


def list_folder(
    root: Path, *, allow_outside: bool = False, max_folders: int | None = None, ordered: bool = True
) -> Listing:
    """List a folder and everything below it.

    Args:
        root: folder to list; may itself be a link.
        allow_outside: follow links that lead out of it.
        max_folders: give up after this many folders.
        ordered: put names in natural order, which takes most of the time in large folders.

    Raises:
        DataError: ``FOLDER_UNREADABLE`` when a folder cannot be listed, ``PATH_OUTSIDE`` when a link to a
            folder or image leaves the root, ``FOLDER_TOO_LARGE`` past ``max_folders``.
    """
    listing = Listing(root.resolve())
    seen: set[tuple[int, int]] = set()
    linked: deque[str] = deque()
    _walk(listing, "", linked, seen=seen, max_folders=max_folders)
    # Links come after all real folders, so that a file has its real path whenever it lies in the tree.
    while linked:
        path = linked.popleft()
        parent, _, name = path.rpartition("/")
        kind = _follow(listing, path, seen, allow_outside=allow_outside)
        if kind == "folder":
            listing.folders[parent].folders.append(name)
            _walk(listing, path, linked, seen=seen, max_folders=max_folders)
        elif kind == "file":
            listing.folders[parent].files.append(name)
    for folder in listing.folders.values() if ordered else ():
        folder.files.sort(key=natural_key)
        folder.folders.sort(key=natural_key)
    if listing.outside:
        raise DataError(
            "PATH_OUTSIDE",
            f"{len(listing.outside):,} links lead out of the source: {listed(listing.outside)}",
            where=escape(str(root)),
            fix="set data.allow_outside = true to follow them, or copy the images into the folder",
        )
    return listing


def is_inside(path: str, root: str) -> bool:
    """Whether an absolute, resolved path is the root or lies below it."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def ending(name: str) -> str:
    """Lower-case ending without the dot; ``""`` for none or a number, as in DICOM file names that are UIDs."""
    stem, dot, last = name.rpartition(".")
    return "" if not dot or not stem or last.isdigit() else last.lower()


def stem(name: str) -> str:
    """Name without its ending."""
    last = ending(name)
    return name[: -len(last) - 1] if last else name


def image_names(folder: Path, names: list[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Sort the regular files of one folder into images, their masks and the rest.

    Returns:
        Image names in the given order; mask name by image name, for masks such as ``a_mask.tif`` beside
        ``a.tif``; other names. A mask without an image is among the other names.
    """
    candidates = [name for name in names if is_image(folder, name)]
    by_stem = {stem(name): name for name in candidates}
    masks: dict[str, str] = {}
    images: list[str] = []
    others = set(names).difference(candidates)
    for name in candidates:
        base = _mask_base(stem(name))
        if base is None or (base not in by_stem and not stem(name).lower().endswith("mask")):
            images.append(name)
        elif base in by_stem:
            masks[by_stem[base]] = name
        else:
            others.add(name)
    return images, masks, [name for name in names if name in others]


def is_image(folder: Path, name: str) -> bool:
    """Whether a regular file is meant as an image: by its ending, or by its first bytes when it has none."""
    last = ending(name)
    if last:
        return last in IMAGE_ENDINGS
    head = _head(folder / name)
    return head.startswith(_MAGIC) or head[128:] == b"DICM"


def is_dicom(path: Path) -> bool:
    """Whether a regular file is DICOM: by its ending, or by its magic when it has none."""
    last = ending(path.name)
    return last in DICOM_ENDINGS or (not last and _head(path)[128:] == b"DICM")


def _mask_base(name: str) -> str | None:
    lower = name.lower()
    return next((name[: -len(suffix)] for suffix in _MASK_SUFFIXES if lower.endswith(suffix)), None)


def _head(path: Path) -> bytes:
    try:
        # O_NONBLOCK: should the file have become a pipe since it was listed, opening it must not wait.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_HEAD_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _walk(
    listing: Listing, start: str, linked: deque[str], *, seen: set[tuple[int, int]], max_folders: int | None
) -> None:
    stack = [start]
    while stack:
        path = stack.pop()
        if max_folders is not None and len(listing.folders) >= max_folders:
            raise DataError("FOLDER_TOO_LARGE", f"more than {max_folders:,} folders", where=escape(str(listing.root)))
        absolute = listing.root / path
        folder = listing.folders[path] = Folder()
        try:
            status = absolute.stat()
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(absolute) as entries:
                for entry in entries:
                    _place(listing, path, folder, entry, linked)
        except OSError as error:
            reason = f"cannot be listed: {error.strerror or error}"
            raise DataError("FOLDER_UNREADABLE", reason, where=escape(str(absolute))) from error
        stack += [join(path, name) for name in folder.folders]


def _place(listing: Listing, path: str, folder: Folder, entry: os.DirEntry[str], linked: deque[str]) -> None:
    name = entry.name
    if _is_junk(name):
        listing.junk[escape("._*" if name.startswith("._") else name)] += 1
    elif entry.is_symlink():
        linked.append(join(path, name))
    elif entry.is_file(follow_symlinks=False):
        folder.files.append(name)
    elif entry.is_dir(follow_symlinks=False):
        folder.folders.append(name)
    else:
        listing.special.append(join(path, name))


def _follow(
    listing: Listing, path: str, seen: set[tuple[int, int]], *, allow_outside: bool
) -> Literal["folder", "file", "nothing"]:
    """What a link leads to, when it is to be read; else note why not."""
    absolute = listing.root / path
    try:
        status = absolute.stat()
        real = os.path.realpath(absolute)
    except (OSError, RuntimeError):  # a loop of links is ELOOP
        listing.broken.append(path)
        return "nothing"
    name = path.rpartition("/")[2]
    is_folder = stat.S_ISDIR(status.st_mode)
    if not is_folder and not stat.S_ISREG(status.st_mode):
        listing.special.append(path)
    elif not allow_outside and not is_inside(real, str(listing.root)):
        if is_folder or ending(name) in IMAGE_ENDINGS or not ending(name):
            listing.outside.append(path)
    elif not is_folder:
        return "file"
    elif (status.st_dev, status.st_ino) not in seen:
        return "folder"
    else:
        listing.repeated.append(path)
    return "nothing"
