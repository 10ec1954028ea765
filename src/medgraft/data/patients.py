"""Who is on an image: from a column, from DICOM, or from the file name.

The patient is the unit of splitting and of resampling, so a wrong rule is worse than none: a rule that was
not asked for is used only when it fits every file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medgraft.config.schema import DataConfig
from medgraft.data.labels import is_missing
from medgraft.data.listing import is_dicom
from medgraft.data.names import escape, listed, nearest
from medgraft.errors import DataError, Problem, UsageError
from medgraft.types import CheckResult

PRESETS: dict[str, re.Pattern[str]] = {
    # Kermany: person 7 with a virus and person 7 with bacteria are two children, so are IM-7 and NORMAL2-IM-7.
    "chest-xray": re.compile(
        r"(?:^|/)(?:(person\d+_(?:bacteria|virus))_\d+(?:_\d+)?|((?:NORMAL2-)?IM-\d+)-\d+(?:-\d+)?"
        r"|((?:BACTERIA|VIRUS|NORMAL)-\d+)-\d+)\.[A-Za-z]+$"
    ),
    "lgg-mri": re.compile(r"(?:^|/)(TCGA_[A-Z0-9]{2}_[A-Z0-9]{4}_\d{8})(?=[/_.])"),
    "tcga": re.compile(r"(?:^|[/_])(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?![A-Za-z0-9])"),
    "bids": re.compile(r"(?:^|/)(sub-[A-Za-z0-9]+)(?=[/_])"),
    "chexpert": re.compile(r"(?:^|/)(patient\d+)/study\d+/"),
    "mimic-cxr": re.compile(r"(?:^|/)(p\d{8})/s\d{8}/"),
    "adni": re.compile(r"(?:^|[/_])(\d{3}_S_\d{4,5})(?=[/_])"),
    "oasis": re.compile(r"(?:^|/)(OAS\d_\d{4,5})(?=_)"),
    "breakhis": re.compile(r"(?:^|/)SOB_[BM]_[A-Z]+-(\d+-[0-9A-Z]+)-\d+-\d+\.[A-Za-z]+$"),
    # Only on request: other sets number their files like this.
    "nih-chest": re.compile(r"(?:^|/)(\d{8})_\d{3}\.[A-Za-z]+$"),
}
"""Named rules on the posix path below the root; the groups are the patient."""

_ON_REQUEST = frozenset({"nih-chest"})


@dataclass(frozen=True)
class Patients:
    """Patient of every file, None where unknown; ``source`` as in `Manifest.patient_source`."""

    ids: list[str | None]
    source: str
    notes: tuple[CheckResult, ...]


def assign_patients(
    paths: Sequence[str], *, root: Path, config: DataConfig, column: tuple[str, Sequence[str]] | None, where: str
) -> Patients:
    """Decide who is on each image.

    An order given in the configuration is followed (patient column, then pattern, then preset); ``auto``
    tries the column of the table, DICOM, then the presets.

    Args:
        paths: posix, relative to ``root`` when inside it.
        root: folder that they start from.
        config: ``patient``, ``patient_regex`` and ``patient_preset``.
        column: name and cells of the recognised patient column.
        where: source, for messages.

    Raises:
        DataError: ``PATIENT_NO_MATCH`` when a rule that was asked for does not fit every file.
        UsageError: ``PRESET_UNKNOWN``.
    """
    preset = _checked_preset(config.patient_preset)
    if config.patient is not None and column is not None:
        return _from_column(column)
    if config.patient_regex is not None:
        ids = _match_all(re.compile(config.patient_regex), paths, "data.patient_regex", where)
        return _finish(ids, "pattern")
    if preset not in ("auto", "none"):
        return _finish(_match_all(PRESETS[preset], paths, f"preset {preset}", where), f"preset {preset}")
    if preset == "none":
        return _finish([None] * len(paths), "none")
    if column is not None and not all(map(is_missing, column[1])):
        return _from_column(column)
    if paths and all(is_dicom(root / path) for path in paths):
        return _finish(_from_dicom(paths, root), "DICOM PatientID")
    return _guess(paths)


def _checked_preset(name: str) -> str:
    if name in PRESETS or name in ("auto", "none"):
        return name
    raise UsageError(
        "PRESET_UNKNOWN",
        f"no patient preset {name!r}",
        where="data.patient_preset",
        fix=nearest(name, PRESETS) or f"use auto, none or one of: {', '.join(PRESETS)}",
    )


def _from_column(column: tuple[str, Sequence[str]]) -> Patients:
    name, cells = column
    ids = [None if is_missing(text) else escape(text.strip()) for text in cells]
    return _finish(ids, f"column {escape(name)}")


def _from_dicom(paths: Sequence[str], root: Path) -> list[str | None]:
    from medgraft.data.dicom import read_patient_id  # pydicom is imported only where there is DICOM

    ids = (read_patient_id(root / path) for path in paths)
    return [escape(text.strip()) if text and text.strip() else None for text in ids]


def _match(pattern: re.Pattern[str], path: str) -> str | None:
    found = pattern.search(path)
    if found is None:
        return None
    return escape("_".join(group for group in found.groups() if group)) or None


def _match_all(pattern: re.Pattern[str], paths: Sequence[str], rule: str, where: str) -> list[str | None]:
    ids = [_match(pattern, path) for path in paths]
    unmatched = [path for path, found in zip(paths, ids, strict=True) if found is None]
    if unmatched:
        raise DataError(
            "PATIENT_NO_MATCH",
            f"{rule} finds no patient in {len(unmatched):,} of {len(paths):,} paths: {listed(unmatched)}",
            where=where,
            fix="change the rule so that it fits every path below the source",
            problems=[Problem("PATIENT_NO_MATCH", "no patient in the path", escape(path)) for path in unmatched],
        )
    return ids


def _guess(paths: Sequence[str]) -> Patients:
    """The only preset that fits every file, else none."""
    fits = []
    partly: dict[str, int] = {}
    for name, pattern in PRESETS.items():
        # A preset that fits none of the first files cannot fit all: large sets are not searched to the end.
        if name in _ON_REQUEST or not any(pattern.search(path) for path in paths[:1000]):
            continue
        matched = sum(pattern.search(path) is not None for path in paths)
        if matched == len(paths):
            fits.append(name)
        elif matched:
            partly[name] = matched
    if len(fits) == 1:
        return _finish([_match(PRESETS[fits[0]], path) for path in paths], f"preset {fits[0]}")
    notes = []
    if fits or partly:
        title = (
            f"several presets fit the file names: {', '.join(fits)}"
            if fits
            else "; ".join(f"preset {name} fits {n:,} of {len(paths):,} file names" for name, n in partly.items())
        )
        notes = [
            CheckResult(
                "PATIENTS_PARTLY",
                "note",
                f"{title}: not used",
                {"fits": fits, "partly": partly, "n_images": len(paths)},
                "choose one with data.patient_preset, or write data.patient_regex",
            )
        ]
    return _finish([None] * len(paths), "none", notes)


def _finish(ids: list[str | None], source: str, notes: Sequence[CheckResult] = ()) -> Patients:
    n_unknown = sum(patient is None for patient in ids)
    if n_unknown == len(ids):
        unknown = CheckResult(
            "PATIENTS_UNKNOWN",
            "warning",
            "patient independence is NOT verified: nothing says which images show the same patient",
            {"n_images": len(ids), "looked_at": source},
            "give a patient column, data.patient_preset or data.patient_regex",
        )
        return Patients(ids, "none", (*notes, unknown))
    if n_unknown:
        some = CheckResult(
            "PATIENTS_INCOMPLETE",
            "warning",
            f"patient independence is NOT verified: {n_unknown:,} of {len(ids):,} images have no patient",
            {"n_unknown": n_unknown, "n_images": len(ids), "source": source},
            "complete the patients",
        )
        notes = (*notes, some)
    n_patients = len(set(ids) - {None})
    title = f"{n_patients:,} patients on {len(ids):,} images, from {source}"
    evidence = {"n_patients": n_patients, "n_images": len(ids), "source": source}
    return Patients(ids, source, (CheckResult("PATIENTS", "note", title, evidence), *notes))
