"""A table as source: one row per image.

table → roles of the columns → files → labels → patients → Manifest
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medgraft.config.schema import DataConfig
from medgraft.data.columns import Role, assign_roles, candidate_columns, read_splits
from medgraft.data.csvfile import TextTable, read_text_table
from medgraft.data.labels import clean_labels, is_missing, order_classes, similar_labels
from medgraft.data.manifest import Manifest
from medgraft.data.names import escape
from medgraft.data.patients import assign_patients
from medgraft.data.problems import raise_problems
from medgraft.data.resolve import Resolved, Resolver
from medgraft.data.subgroups import clean_values, find_columns, require_columns
from medgraft.errors import DataError, Problem
from medgraft.types import Split

TABLE_ENDINGS = frozenset({".csv", ".tsv", ".txt", ".tab"})


def read_table(
    path: Path, config: DataConfig, *, classes: tuple[str, ...] | None, label_needed: bool, keep: Sequence[str] = ()
) -> Manifest:
    """Read a CSV or TSV whose columns are recognised or named in the configuration.

    Args:
        path: the table.
        config: names columns, the folder of images, encoding and patient rule.
        classes: declared class names, or None to take the labels found.
        label_needed: every row needs a label.
        keep: columns that become attributes of the manifest, see `subgroups`.

    Raises:
        DataError: any of the codes of `csvfile`, `columns`, `resolve`, `labels`, `patients` and `subgroups`, or
            ``IMAGE_BLANK``, ``LABEL_MISSING``, ``DUP_ROW``, ``LABEL_CONFLICT``; all rows are listed.
    """
    where = escape(str(path))
    text = read_text_table(
        path,
        encoding=config.encoding,
        wanted=lambda header: [*candidate_columns(header, config), *find_columns(keep, header).values()],
    )
    kept = find_columns(keep, text.header)
    roles, notes = assign_roles(text.header, text.columns, config, where=where, label_needed=label_needed, kept=kept)
    require_columns(keep, text.header, roles, where=where)
    resolver = Resolver(_bases(path, config), allow_outside=config.allow_outside)
    cells = text.columns[roles["image"]]
    images = resolver.resolve(cells, code="FILE_MISSING", hint=path.stem)
    masks = _resolve_masks(text, roles, resolver, hint=path.stem)
    raw = text.columns[roles["label"]] if "label" in roles else None
    labels = [None] * len(text) if raw is None else [None if is_missing(label) else label for label in raw]
    problems = [
        *_row_problems(text, cells, images),
        *((row, problem) for row, problem in (masks.problems if masks else [])),
        *(_label_problems(labels, raw) if label_needed and raw is not None else []),
        *_repeated_rows(images.paths, labels, text.lines),
    ]
    problems.sort(key=lambda item: item[0])
    placed = [Problem(item.code, item.what, text.place(row), item.fix) for row, item in problems]
    raise_problems(
        placed, what=f"{len({row for row, _ in problems}):,} of {len(text):,} rows cannot be used", where=where
    )
    labels = clean_labels(labels, classes=classes, where=where)
    patients = assign_patients(
        images.paths, root=resolver.root, config=config, column=_patient_column(text, roles), where=where
    )
    columns: dict[str, Sequence[str | None]] = {
        "sample_id": _sample_ids(cells, images.paths),
        "path": images.paths,
        "patient_id": patients.ids,
        "label": labels,
        "split": _splits(text, roles, where=where),
        "mask": [mask or None for mask in masks.paths] if masks else [],
    }
    return Manifest.from_columns(
        columns,
        root=resolver.root,
        classes=order_classes(labels, classes=classes, where=where),
        patient_source=patients.source,
        notes=(*notes, *images.notes, *similar_labels(labels, classes=classes), *patients.notes),
        attributes={name: clean_values(text.columns[position]) for name, position in kept.items()},
    )


def _bases(path: Path, config: DataConfig) -> list[Path]:
    """Folders that relative paths start from: data.images first, then the folder of the table."""
    parent = path.resolve().parent
    if config.images is None:
        return [parent]
    images = config.images.resolve()
    if not images.is_dir():
        raise DataError("FOLDER_MISSING", "no such folder", where=f"data.images = {escape(str(config.images))}")
    return list(dict.fromkeys([images, parent]))


def _resolve_masks(text: TextTable, roles: dict[Role, int], resolver: Resolver, *, hint: str) -> Resolved | None:
    if "mask" not in roles:
        return None
    cells = ["" if is_missing(cell) else cell for cell in text.columns[roles["mask"]]]
    return resolver.resolve(cells, code="MASK_MISSING", hint=hint)


def _row_problems(text: TextTable, cells: Sequence[str], images: Resolved) -> list[tuple[int, Problem]]:
    blank = [(row, Problem("IMAGE_BLANK", "names no image")) for row, cell in enumerate(cells) if not cell.strip()]
    return [*blank, *((row, problem) for row, problem in images.problems if cells[row].strip())]


def _label_problems(labels: Sequence[str | None], raw: Sequence[str]) -> list[tuple[int, Problem]]:
    fix = "give the row a label, or remove it"
    return [
        (row, Problem("LABEL_MISSING", f"the label is '{escape(raw[row])}'", fix=fix))
        for row, label in enumerate(labels)
        if label is None
    ]


def _repeated_rows(
    paths: Sequence[str], labels: Sequence[str | None], lines: Sequence[int]
) -> list[tuple[int, Problem]]:
    """Rows that name a file which an earlier row names already."""
    first: dict[str, int] = {}
    problems = []
    for row, path in enumerate(paths):
        if not path:
            continue
        earlier = first.setdefault(path, row)
        if earlier == row:
            continue
        if labels[earlier] == labels[row]:
            what = f"'{escape(path)}' is in line {lines[earlier]} already"
            problems.append((row, Problem("DUP_ROW", what, fix="name every image once")))
        else:
            names = [f"'{escape(str(labels[one]))}'" for one in (earlier, row)]
            what = f"'{escape(path)}' is {names[0]} in line {lines[earlier]} and {names[1]} here"
            problems.append((row, Problem("LABEL_CONFLICT", what, fix="decide which label is right")))
    return problems


def _splits(text: TextTable, roles: dict[Role, int], *, where: str) -> Sequence[Split | None]:
    if "split" not in roles:
        return []
    position = roles["split"]
    return read_splits(text.columns[position], text.lines, where=where, column=text.header[position])


def _patient_column(text: TextTable, roles: dict[Role, int]) -> tuple[str, Sequence[str]] | None:
    if "patient" not in roles:
        return None
    return text.header[roles["patient"]], text.columns[roles["patient"]]


def _sample_ids(cells: Sequence[str], paths: Sequence[str]) -> list[str]:
    """What the table calls the images; the paths where two spellings of the table mean different files."""
    ids = [escape(cell.strip()) for cell in cells]
    return ids if len(set(ids)) == len(ids) else [escape(path) for path in paths]
