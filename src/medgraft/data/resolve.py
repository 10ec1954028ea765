"""From cells of a table to files: ids, relative paths, absolute paths; nothing outside the root.

cell → path below a base folder → listing of its folder (one scandir per folder, no call per row)
     → exact name, else the only image with that name and any ending
no cell found at all → every folder below the base is searched for the names
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from medgraft.data.listing import IMAGE_ENDINGS, ending, is_inside, join, list_folder, stem
from medgraft.data.names import escape, listed
from medgraft.errors import DataError, Problem
from medgraft.types import CheckResult

MAX_FOLDERS = 20_000
"""Folders searched for images beside a table, before asking for data.images."""

_REMOTE = re.compile(r"^(?:[A-Za-z][A-Za-z0-9+.-]+://|file:|\\\\|//)")
_DRIVE = re.compile(r"^[A-Za-z]:[\\/]")
# Relative, plain, no blank at either end: no second reading is possible, and nothing to normalize.
_SIMPLE = re.compile(r"[^\s/\\.:~](?:[^\\:]*[^\s\\:])?")


@dataclass(frozen=True)
class Resolved:
    """Files of the cells.

    Attributes:
        paths: path per cell, relative to the root when inside it, else absolute; ``""`` when there is none.
        problems: what is wrong, by row: index of the cell and a problem without its place.
        notes: where files were found, when it was not where the table says.
    """

    paths: list[str]
    problems: list[tuple[int, Problem]]
    notes: list[CheckResult]


@dataclass
class _FolderIndex:
    """Names in one folder; ``refused`` says why a name must not be read."""

    exists: bool = False
    files: set[str] = field(default_factory=set)
    refused: dict[str, Problem] = field(default_factory=dict)

    @cached_property
    def by_stem(self) -> dict[str, str | list[str]]:
        """Image names by name without ending; made only for tables that need it."""
        found: dict[str, str | list[str]] = {}
        for name in self.files:
            if ending(name) in IMAGE_ENDINGS:
                _add_name(found, stem(name), name)
        return found


class Resolver:
    """Finds the files that cells of one table mean.

    Args:
        bases: absolute, resolved folders that relative paths start from, tried in order; the first is the root.
        allow_outside: allow files outside these folders.
    """

    def __init__(self, bases: Sequence[Path], *, allow_outside: bool) -> None:
        self.root = bases[0]
        self._bases = [str(base) for base in bases]
        self._allow_outside = allow_outside
        self._folders: dict[str, _FolderIndex] = {}
        self._tree: dict[str, str | list[str]] | None = None

    def resolve(self, cells: Sequence[str], *, code: str, hint: str = "") -> Resolved:
        """Resolve one column.

        Args:
            cells: file names, ids without ending, or paths; ``""`` stays ``""``.
            code: code of the problem when a file is not there, such as ``FILE_MISSING``.
            hint: name of the table, whose words (train, test) choose between folders that both hold an id.

        Raises:
            DataError: ``FOLDER_TOO_LARGE`` when the files are nowhere near and the folder is too large to search.
        """
        paths: list[str] = []
        problems: list[tuple[int, Problem]] = []
        absent: list[int] = []
        for row, cell in enumerate(cells):
            found = self._locate(cell) if cell else ""
            if isinstance(found, Problem):
                problems.append((row, found))
            elif found is None:
                absent.append(row)
            paths.append(found if isinstance(found, str) else "")
        notes: list[CheckResult] = []
        if absent and not any(paths):
            absent, found_problems, notes = self._search(cells, absent, paths, hint)
            problems += found_problems
        problems += [(row, self._missing(cells[row], code)) for row in absent]
        return Resolved(paths, sorted(problems, key=lambda item: item[0]), notes)

    def _locate(self, cell: str) -> str | Problem | None:
        """Path of the file, the reason to refuse it, or None when it is not there."""
        if _SIMPLE.fullmatch(cell) and "/." not in cell and "//" not in cell:
            for base in self._bases:
                folder, _, name = f"{base}/{cell}".rpartition("/")
                found = self._in_folder(self._index(folder), folder, name)
                if found is not None:
                    return found
            return None
        variants = _variants(cell)
        return variants if isinstance(variants, Problem) else self._locate_unusual(variants)

    def _locate_unusual(self, variants: list[str]) -> str | Problem | None:
        outside: Problem | None = None
        for variant in variants:
            for base in self._bases:
                folder, name = posixpath.split(posixpath.normpath(posixpath.join(base, variant)))
                if not self._is_allowed(folder):
                    folder = os.path.realpath(folder)  # an absolute path that goes through a link
                if not self._is_allowed(folder):
                    outside = _outside("leads out of the folder of the table")
                    continue
                found = self._in_folder(self._index(folder), folder, name)
                if found is not None:
                    return found
        return outside

    def _in_folder(self, index: _FolderIndex, folder: str, name: str) -> str | Problem | None:
        if name in index.refused:
            return index.refused[name]
        if name in index.files:
            return self._relative(folder, name)
        same_stem = index.by_stem.get(name)
        if isinstance(same_stem, list):
            what = f"several files have this name: {listed(sorted(same_stem))}"
            return Problem("IMAGE_AMBIGUOUS", what, fix="write the file ending in the table")
        if same_stem is None:
            return None
        return index.refused.get(same_stem) or self._relative(folder, same_stem)

    def _relative(self, folder: str, name: str) -> str:
        root = self._bases[0]
        if folder == root:
            return name
        path = f"{folder}/{name}"
        return path[len(root) + 1 :] if folder.startswith(root + "/") else path

    def _is_allowed(self, path: str) -> bool:
        return self._allow_outside or any(is_inside(path, base) for base in self._bases)

    def _index(self, folder: str) -> _FolderIndex:
        index = self._folders.get(folder)
        if index is None:
            index = self._folders[folder] = self._scan(folder)
        return index

    def _scan(self, folder: str) -> _FolderIndex:
        index = _FolderIndex()
        try:
            real = os.path.realpath(folder)
            if not os.path.isdir(real):
                return index
            if not self._is_allowed(real):
                index.exists = True
                index.refused = _RefusesAll(_outside("lies behind a link that leads out of the folder of the table"))
                return index
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._place(index, entry)
            index.exists = True
        except (OSError, ValueError) as error:
            problem = Problem("FOLDER_UNREADABLE", f"folder cannot be listed: {error}", fix="check its permissions")
            index.refused = _RefusesAll(problem)
        return index

    def _place(self, index: _FolderIndex, entry: os.DirEntry[str]) -> None:
        name = entry.name
        if entry.is_symlink():
            problem = self._link_problem(entry)
            if problem is not None:
                index.refused[name] = problem
        elif entry.is_dir(follow_symlinks=False):
            return
        elif not entry.is_file(follow_symlinks=False):
            index.refused[name] = Problem("FILE_SPECIAL", "is a pipe, socket or device", fix="give a regular file")
        index.files.add(name)

    def _link_problem(self, entry: os.DirEntry[str]) -> Problem | None:
        try:
            mode = entry.stat().st_mode
            real = os.path.realpath(entry.path)
        except (OSError, RuntimeError):
            return Problem("FILE_MISSING", "is a link that leads nowhere")
        if not self._is_allowed(real):
            return _outside("is a link that leads out of the folder of the table")
        if not stat.S_ISREG(mode):
            return Problem("FILE_SPECIAL", "is not a regular file", fix="give a regular file")
        return None

    def _search(
        self, cells: Sequence[str], absent: list[int], paths: list[str], hint: str
    ) -> tuple[list[int], list[tuple[int, Problem]], list[CheckResult]]:
        """Look for names anywhere below the root; fills ``paths``, gives what is still absent."""
        tree = self._names_below()
        words = set(re.split(r"[\W_]+", hint.casefold()))
        problems: list[tuple[int, Problem]] = []
        still: list[int] = []
        folders: Counter[str] = Counter()
        for row in absent:
            cell = cells[row].replace("\\", "/")
            name = cell.rpartition("/")[2]
            known = tree.get(name, [])
            hits = [path for path in ([known] if isinstance(known, str) else known) if _ends_with(path, cell)]
            if len(hits) > 1:
                hits = [path for path in hits if words & set(path.casefold().split("/")[:-1])] or hits
            if len(hits) == 1:
                paths[row] = hits[0]
                folders[hits[0].rpartition("/")[0]] += 1
            elif hits:
                what = f"files of this name lie in several places: {listed(hits)}"
                fix = "say which folder with data.images, or write the path in the table"
                problems.append((row, Problem("IMAGE_AMBIGUOUS", what, fix=fix)))
            else:
                still.append(row)
        if not folders:
            return still, problems, []
        title = f"files of the table were found in {listed(folders)}"
        evidence = {"folders": {escape(name): n for name, n in folders.most_common(50)}}
        return still, problems, [CheckResult("IMAGES_FOUND_IN", "note", title, evidence)]

    def _names_below(self) -> dict[str, str | list[str]]:
        """Relative paths of all files below the root, by name and, for images, by name without ending."""
        if self._tree is None:
            self._tree = {}
            try:
                listing = list_folder(
                    self.root, allow_outside=self._allow_outside, max_folders=MAX_FOLDERS, ordered=False
                )
            except DataError as error:
                fix = "say where the images are with data.images"
                raise DataError(error.code, error.problem.what, where=error.problem.where, fix=fix) from error
            for folder, names in listing.folders.items():
                for name in names.files:
                    path = join(folder, name)
                    _add_name(self._tree, name, path)
                    if ending(name) in IMAGE_ENDINGS:
                        _add_name(self._tree, stem(name), path)
        return self._tree

    def _missing(self, cell: str, code: str) -> Problem:
        folder, _, name = posixpath.normpath(posixpath.join(self._bases[0], cell.replace("\\", "/"))).rpartition("/")
        index = self._index(folder)
        if not index.exists:
            return Problem(code, f"no file '{escape(cell)}'", fix="data.images says where the images are")
        folded = _folded(name)
        near = next((other for other in index.files if _folded(other) == folded), None)
        return Problem(code, f"no file '{escape(cell)}'", fix=f"there is '{escape(near)}'" if near else "")


class _RefusesAll(dict[str, Problem]):
    """Every name is refused for the same reason."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self._problem = problem

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> Problem:
        return self._problem


def _variants(cell: str) -> list[str] | Problem:
    """Readings of an unusual cell, most literal first."""
    if _REMOTE.match(cell):
        what = f"'{escape(cell)}' is not on this machine"
        return Problem("PATH_REMOTE", what, fix="download the images; medgraft reads local files only")
    if _DRIVE.match(cell):
        return _outside(f"'{escape(cell)}' is a path of another machine")
    readings = [cell, cell.strip(), cell.replace("\\", "/")]
    return list(dict.fromkeys(reading for reading in readings if reading))


def _add_name(names: dict[str, str | list[str]], key: str, name: str) -> None:
    # Most keys are there once: a str takes half the memory of a list that holds it.
    known = names.get(key)
    if known is None:
        names[key] = name
    elif isinstance(known, str):
        names[key] = [known, name]
    else:
        known.append(name)


def _outside(what: str) -> Problem:
    return Problem(
        "PATH_OUTSIDE",
        what,
        fix="name the folder with data.images, or set data.allow_outside = true",
    )


def _ends_with(path: str, cell: str) -> bool:
    """Whether a found path ends in the cell, with or without its file ending, at a folder border."""
    for text in (path, f"{path.rpartition('/')[0]}/{stem(path.rpartition('/')[2])}".lstrip("/")):
        if text == cell or text.endswith(f"/{cell}"):
            return True
    return False


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
