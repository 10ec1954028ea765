"""The table of samples: what is declared, where it lies, which part it belongs to."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.data.names import cell, listed, natural_key, unescape
from medgraft.errors import DataError
from medgraft.types import SPLITS, CheckResult, IntArray, Sample, Split

COLUMNS = ("sample_id", "path", "patient_id", "label", "split", "mask")


@dataclass(frozen=True, eq=False)
class Manifest:
    """All declared samples of one source.

    Attributes:
        root: absolute folder that relative paths start from.
        table: one row per sample, columns `COLUMNS`, all text or None. ``sample_id`` is unique and holds
            neither newlines nor undecodable bytes; ``path`` and ``mask`` are posix, relative to ``root``
            when inside it, else absolute; ``split`` is train, val, test or None.
        classes: class names in index order.
        patient_source: ``none``, ``column NAME``, ``preset NAME``, ``pattern`` or ``DICOM PatientID``.
        notes: what reading the source found worth saying.
        attributes: further columns that were asked for, one row per sample, text or None; they make subgroups and
            are not written to manifest.csv.
    """

    root: Path
    table: pd.DataFrame
    classes: tuple[str, ...]
    patient_source: str
    notes: tuple[CheckResult, ...] = ()
    attributes: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __post_init__(self) -> None:
        if not self.root.is_absolute():
            raise ValueError(f"root must be absolute, got {self.root}")
        if tuple(self.table.columns) != COLUMNS:
            raise ValueError(f"columns must be {COLUMNS}, got {tuple(self.table.columns)}")
        if not self.table["sample_id"].is_unique:
            raise ValueError("sample_id must be unique")
        if self.attributes.columns.empty:
            object.__setattr__(self, "attributes", pd.DataFrame(index=self.table.index))
        elif len(self.attributes) != len(self.table):
            raise ValueError(f"{len(self.attributes)} rows of attributes for {len(self.table)} samples")

    @classmethod
    def from_columns(
        cls,
        columns: Mapping[str, Sequence[str | None]],
        *,
        root: Path,
        classes: tuple[str, ...],
        patient_source: str,
        notes: tuple[CheckResult, ...] = (),
        attributes: Mapping[str, Sequence[str | None]] | None = None,
    ) -> Manifest:
        """A manifest out of lists of equal length; columns that are not named hold None."""
        n = len(columns["sample_id"])
        table = _frame({name: columns.get(name) or [None] * n for name in COLUMNS})
        return cls(root, table, classes, patient_source, notes, _frame(attributes or {}))

    def __len__(self) -> int:
        return len(self.table)

    def samples(self) -> Iterator[Sample]:
        """Samples in row order, image and mask paths absolute."""
        for sample_id, path, patient_id, label, split, mask in self._rows():
            yield Sample(
                sample_id=str(sample_id),
                image=str(self.root / str(path)),
                label=label,
                patient_id=patient_id,
                mask=None if mask is None else str(self.root / mask),
                split=_as_split(split),
            )

    def image_paths(self) -> list[Path]:
        """Absolute image paths in row order."""
        return [self.root / path for path in self.table["path"]]

    def part(self, split: Split) -> Manifest:
        """The samples of one part, in order."""
        return self.take(np.flatnonzero(self.table["split"].to_numpy() == split))

    def take(self, indices: IntArray | Sequence[int]) -> Manifest:
        """The samples at these row numbers, in this order."""
        rows = np.asarray(indices, dtype=np.int64)
        table, attributes = (one.iloc[rows].reset_index(drop=True) for one in (self.table, self.attributes))
        return replace(self, table=table, attributes=attributes)

    def class_indices(self) -> IntArray:
        """Class index of every sample.

        Returns:
            (N,) int64 in 0..C-1.

        Raises:
            DataError: ``LABEL_MISSING`` or ``LABEL_UNKNOWN`` when a label has no index.
        """
        indices: IntArray = (
            pd.Index(self.classes, dtype=object)
            .get_indexer(pd.Index(self.table["label"], dtype=object))
            .astype(np.int64)
        )
        bad = np.flatnonzero(indices < 0)
        if bad.size:
            missing = self.table["label"].isna().to_numpy()[bad]
            labels = sorted({str(label) for label in self.table["label"].iloc[bad[~missing]]}, key=natural_key)
            raise DataError(
                "LABEL_MISSING" if missing.all() else "LABEL_UNKNOWN",
                f"{bad.size:,} samples have no label among the classes {listed(self.classes, limit=20)}"
                + (f"; labels found: {listed(labels)}" if labels else ""),
                where=listed(self.table["sample_id"].iloc[bad]),
                fix="give each of them the label of a class",
            )
        return indices

    def counts(self) -> dict[str, dict[str, int]]:
        """Samples per class and part; ``unsplit`` is there only when a sample has no part yet."""
        pairs = Counter(zip(self.table["label"], self.table["split"], strict=True))
        has_unsplit = any(split is None for _, split in pairs)
        parts: tuple[Split | None, ...] = (*SPLITS, None) if has_unsplit else SPLITS
        return {name: {part or "unsplit": pairs[name, part] for part in parts} for name in self.classes}

    @property
    def patients_known(self) -> bool:
        """Whether every sample has a patient."""
        return self.patient_source != "none" and bool(self.table["patient_id"].notna().all())

    def unit_ids(self) -> tuple[str, ...]:
        """The patient of each sample, or its sample id where the patient is unknown."""
        known = self.table["patient_id"]
        return tuple(known.where(known.notna(), self.table["sample_id"]))

    def with_splits(self, splits: Sequence[Split | None]) -> Manifest:
        """The same samples with these parts, in row order."""
        if len(splits) != len(self):
            raise ValueError(f"{len(splits)} splits for {len(self)} samples")
        column = pd.Series(list(splits), dtype=object, index=self.table.index)
        return replace(self, table=self.table.assign(split=column))

    def write_csv(self, path: Path) -> None:
        """Write ``sample_id,path,patient_id,label,split,mask`` as UTF-8; None is an empty cell.

        Names are escaped as in `medgraft.data.names`, so any file name can be written and read back.
        """
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(["" if value is None else cell(value) for value in row] for row in self._rows())

    @classmethod
    def read_csv(
        cls, path: Path, *, root: Path | None = None, classes: tuple[str, ...] | None = None, patient_source: str = ""
    ) -> Manifest:
        """Inverse of `write_csv`.

        Args:
            path: file written by `write_csv`.
            root: folder that relative paths start from; default the folder of the file.
            classes: class names in index order; default the labels found, in natural order.
            patient_source: as in the attribute; default ``column patient_id`` when there is a patient.

        Raises:
            DataError: ``MANIFEST_INVALID`` when the file is not such a table.
        """
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(_checked_rows(csv.reader(file, strict=True), path))
        columns = {name: [row[position] for row in rows] for position, name in enumerate(COLUMNS)}
        if len(set(columns["sample_id"])) != len(rows):
            raise _invalid(path, "a sample_id stands twice")
        if classes is None:
            classes = tuple(sorted({label for label in columns["label"] if label is not None}, key=natural_key))
        if not patient_source:
            patient_source = "column patient_id" if any(columns["patient_id"]) else "none"
        start = (root or path.parent).resolve()
        return cls.from_columns(columns, root=start, classes=classes, patient_source=patient_source)

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        return zip(*(self.table[name].to_numpy() for name in COLUMNS), strict=True)


def _frame(columns: Mapping[str, Sequence[str | None]]) -> pd.DataFrame:
    # object, not pandas' text type: None stays None and repeated names share one object
    cells = {name: np.array(values, dtype=object) for name, values in columns.items()}
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in cells.items()})


def _checked_rows(reader: Iterable[list[str]], path: Path) -> Iterator[list[str | None]]:
    header: list[str] | None = None
    try:
        for number, row in enumerate(reader, start=1):
            if header is None:
                header = row
                if tuple(header) != COLUMNS:
                    raise _invalid(path, f"columns are {','.join(header)}, not {','.join(COLUMNS)}")
                continue
            if len(row) != len(COLUMNS) or not row[0] or not row[1] or row[4] not in ("", *SPLITS):
                raise _invalid(path, f"row {number} is not a sample")
            yield [unescape(value) if value else None for value in row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise _invalid(path, f"cannot be read: {error}") from error
    if header is None:
        raise _invalid(path, "is empty")


def _invalid(path: Path, what: str) -> DataError:
    return DataError("MANIFEST_INVALID", what, where=str(path), fix="give a manifest.csv as medgraft wrote it")


def _as_split(value: object) -> Split | None:
    return next((split for split in SPLITS if split == value), None)
