"""A folder as source: the folders are the classes, with or without part folders above them.

    SOURCE/class/…/image            SOURCE/{train,val,test}/class/…/image

Folders below a class folder belong to the class. Files that are no images are counted and named by ending.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medgraft.config.schema import DataConfig
from medgraft.data.columns import split_in, split_of
from medgraft.data.labels import clean_labels, order_classes, require_two_classes, similar_labels
from medgraft.data.listing import Folder, Listing, ending, image_names, is_image, join, list_folder
from medgraft.data.manifest import Manifest
from medgraft.data.names import escape, listed
from medgraft.data.patients import PRESETS, assign_patients
from medgraft.data.subgroups import require_built_in
from medgraft.data.tables import TABLE_ENDINGS
from medgraft.errors import DataError
from medgraft.types import SPLITS, CheckResult, Split


@dataclass
class _Found:
    """What the walk collects, one entry per image."""

    paths: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    splits: list[Split | None] = field(default_factory=list)
    masks: list[str | None] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    orphans: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    unlabelled_parts: dict[str, int] = field(default_factory=dict)


def read_folder(
    root: Path, config: DataConfig, *, classes: tuple[str, ...] | None, label_needed: bool, keep: Sequence[str] = ()
) -> Manifest:
    """Read a folder of class folders.

    Args:
        root: the folder; a folder that only wraps one with part folders works too.
        config: patient rule and ``allow_outside``.
        classes: declared class names, or None to take the folder names.
        label_needed: refuse folders without class folders.
        keep: columns that are to make subgroups; a folder has the built-in ones only.

    Raises:
        DataError: ``NO_IMAGES``, ``NO_CLASSES``, ``ONE_CLASS``, ``FOLDER_LAYOUT``, ``FOLDERS_ARE_PATIENTS``, or any
            code of `listing`, `labels`, `patients` and `subgroups`.
    """
    where = escape(str(root))
    require_built_in(keep, where=where)
    listing = list_folder(root, allow_outside=config.allow_outside)
    start, parts = _layout(listing, where)
    found = _Found()
    for split, name in parts or [(None, start)]:
        _collect(listing, name, split, found, label_needed=label_needed)
    if parts:
        _collect_stray(listing, start, found)
    if not found.paths:
        raise _no_images(listing, found, where)
    if label_needed:
        tops = [name for _, name in parts] or [start]
        _refuse_patients(listing, found, where)
        _refuse_nested_copy(listing, tops, found, where)
        if classes is None:
            _require_two(listing, tops, found, where)
    labels = clean_labels(found.labels, classes=classes, where=where)
    patients = assign_patients(found.paths, root=listing.root, config=config, column=None, where=where)
    columns: dict[str, Sequence[str | None]] = {
        "sample_id": [escape(path) for path in found.paths],
        "path": found.paths,
        "patient_id": patients.ids,
        "label": labels,
        "split": found.splits,
        "mask": found.masks,
    }
    return Manifest.from_columns(
        columns,
        root=listing.root,
        classes=order_classes(labels, classes=classes, where=where),
        patient_source=patients.source,
        notes=(*listing.notes(), *_notes(found), *similar_labels(labels, classes=classes), *patients.notes),
    )


def _layout(listing: Listing, where: str) -> tuple[str, list[tuple[Split | None, str]]]:
    """Folder where classes or parts begin, and the part folders (none: class folders)."""
    start = ""
    while True:
        folder = listing.folders[start]
        parts = _parts(listing, start, where)
        inner = join(start, folder.folders[0]) if len(folder.folders) == 1 else ""
        if parts or not inner:
            return start, parts
        # One folder that only wraps train/ and test/, as archives unpack; anything else stays as given.
        if not _parts(listing, inner, where):
            return start, []
        start = inner


def _parts(listing: Listing, start: str, where: str) -> list[tuple[Split | None, str]]:
    """Part folders: named like a part, and at least one of them holding folders."""
    folders = listing.folders[start].folders
    meant = _meant(folders)
    named = [name for name in folders if name in meant]
    if not any(listing.folders[join(start, name)].folders for name in named):
        return []  # folders of images: ``test`` may well be a class
    by_split: dict[Split | None, str] = {}
    for name in named:
        other = by_split.setdefault(meant[name], name)
        if other != name:
            what = f"'{escape(other)}' and '{escape(name)}' are both the {meant[name]} part"
            raise DataError("FOLDER_LAYOUT", what, where=where, fix="rename or merge one of them")
    others = [name for name in folders if name not in named and _has_images(listing, join(start, name))]
    if others:
        what = f"part folders ({listed(named)}) stand beside other folders with images ({listed(others)})"
        fix = "move the others out of the source; are they a second copy of the data?"
        raise DataError("FOLDER_LAYOUT", what, where=where, fix=fix)
    return [(split, join(start, by_split[split])) for split in SPLITS if split in by_split]


def _meant(folders: Sequence[str]) -> dict[str, Split]:
    """Which folders are named like a part; ``seg_train`` and ``seg_test`` only when all their neighbours are too."""
    exact = {name: split for name in folders if (split := split_of(name)) is not None}
    loose = {name: split for name in folders if (split := split_in(name)) is not None}
    all_loose = len(loose) == len(folders) == len(set(loose.values())) > 1 and "train" in loose.values()
    return loose if all_loose and not exact else exact


def _has_images(listing: Listing, path: str) -> bool:
    return any(is_image(listing.root / at, name) for at, folder in listing.below(path) for name in folder.files)


def _collect(listing: Listing, start: str, split: Split | None, found: _Found, *, label_needed: bool) -> None:
    """Images of every class folder below a part, or below the source itself."""
    top = listing.folders[start]
    for name in top.folders:
        path = join(start, name)
        before = len(found.paths)
        for at, folder in listing.below(path):
            _add(listing, at, folder, found, label=name, split=split)
        if len(found.paths) == before:
            found.empty.append(path)
    if not top.folders and not top.files:
        found.empty.append(start)
    direct = _Found()
    _add(listing, start, top, direct, label=None, split=split)
    found.ignored += direct.ignored
    found.orphans += direct.orphans
    if not label_needed:
        found.paths += direct.paths
        found.labels += direct.labels
        found.splits += direct.splits
        found.masks += direct.masks
    elif direct.paths and split is not None:
        found.unlabelled_parts[start] = len(direct.paths)
    else:
        found.stray += direct.paths


def _add(listing: Listing, at: str, folder: Folder, found: _Found, *, label: str | None, split: Split | None) -> None:
    absolute = listing.root / at
    images, masks, others = image_names(absolute, folder.files)
    found.paths += [join(at, name) for name in images]
    found.labels += [label] * len(images)
    found.splits += [split] * len(images)
    found.masks += [join(at, masks[name]) if name in masks else None for name in images]
    for name in others:
        if is_image(absolute, name):
            found.orphans.append(join(at, name))
        else:
            found.ignored[ending(name) or "no ending"] += 1


def _collect_stray(listing: Listing, start: str, found: _Found) -> None:
    """Files beside the part folders, at every level above them."""
    levels = start.split("/") if start else []
    for depth in range(len(levels) + 1):
        at = "/".join(levels[:depth])
        direct = _Found()
        _add(listing, at, listing.folders[at], direct, label=None, split=None)
        found.stray += direct.paths
        found.orphans += direct.orphans
        found.ignored += direct.ignored


def _class_names(found: _Found) -> list[str]:
    return list(dict.fromkeys(label for label in found.labels if label is not None))


def _refuse_patients(listing: Listing, found: _Found, where: str) -> None:
    names = _class_names(found)
    for preset in ("lgg-mri", "tcga", "bids"):
        if len(names) > 1 and all(PRESETS[preset].search(f"{name}/") for name in names):
            what = f"the {len(names):,} folders are patients ({listed(names)}), not classes"
            fix = _table_hint(listing) or "give a table with the labels as the source"
            raise DataError("FOLDERS_ARE_PATIENTS", what, where=where, fix=fix)


def _refuse_nested_copy(listing: Listing, tops: list[str], found: _Found, where: str) -> None:
    """A class folder that holds folders named like its neighbours is a second copy of the data."""
    names = set(_class_names(found))
    for top in tops:
        for name in listing.folders[top].folders:
            same = (set(listing.folders[join(top, name)].folders) & names) - {name}
            if same:
                what = f"'{escape(name)}' holds folders named like those beside it ({listed(sorted(same))})"
                fix = "is it a second copy of the data? Move it out of the source"
                raise DataError("FOLDER_LAYOUT", what, where=where, fix=fix)


def _require_two(listing: Listing, tops: list[str], found: _Found, where: str) -> None:
    names = _class_names(found)
    inside = listing.folders.get(join(tops[0], names[0]), Folder()).folders if len(names) == 1 else []
    hint = f"if {listed(inside)} are the classes, give the folder '{escape(names[0])}' itself" if inside else ""
    require_two_classes(found.labels, where=where, hint=hint or _table_hint(listing))


def _no_images(listing: Listing, found: _Found, where: str) -> DataError:
    n_stray = len(found.stray) + sum(found.unlabelled_parts.values())
    hint = _table_hint(listing)
    if n_stray:
        what = f"{n_stray:,} images but no folder per class"
        return DataError(
            "NO_CLASSES", what, where=where, fix=hint or "put the images of each class in a folder of its own"
        )
    contents = ", ".join(f"{n:,} x {name}" for name, n in found.ignored.most_common(10))
    what = f"no image; found {contents or 'no file'} in {len(listing.folders):,} folders"
    return DataError("NO_IMAGES", what, where=where, fix=hint or "give a folder of class folders, or a CSV table")


def _table_hint(listing: Listing) -> str:
    tables = [name for name in listing.folders[""].files if Path(name).suffix.lower() in TABLE_ENDINGS]
    return f"give the table as the source: {listed(str(listing.root / name) for name in tables)}" if tables else ""


def _notes(found: _Found) -> list[CheckResult]:
    results = []
    if found.ignored:
        title = f"{found.ignored.total():,} files that are no images were left out: " + ", ".join(
            f"{n:,} x {escape(name)}" for name, n in found.ignored.most_common(5)
        )
        results.append(CheckResult("FILES_IGNORED", "note", title, {"endings": dict(found.ignored)}))
    for code, what, paths, advice in (
        ("CLASS_EMPTY", "folders hold no image", found.empty, "fill or remove them"),
        ("STRAY_FILES", "files beside the folders are not read", found.stray, "move them into a class folder"),
        ("MASKS_ORPHANED", "masks have no image beside them", found.orphans, "add the images, or remove the masks"),
    ):
        if paths:
            evidence = {"count": len(paths), "examples": [escape(path) for path in paths[:20]]}
            results.append(CheckResult(code, "warning", f"{len(paths):,} {what}: {listed(paths)}", evidence, advice))
    for path, n in found.unlabelled_parts.items():
        title = f"part '{escape(path)}' holds {n:,} images outside class folders: they have no label and are left out"
        advice = "put them into class folders to use them"
        results.append(CheckResult("PART_WITHOUT_CLASSES", "warning", title, {"path": escape(path), "n": n}, advice))
    return results
