"""Which column of a table is the image, the label, the patient, the part, the mask.

Names are compared without case, blanks and separators (``PatientID`` = ``patient_id``), most telling first.
A column that the configuration names is taken as named.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from medgraft.config.schema import DataConfig
from medgraft.data.names import escape, listed, nearest
from medgraft.errors import DataError
from medgraft.types import SPLITS, CheckResult, Split

Role = Literal["image", "label", "patient", "split", "mask"]
ROLES: tuple[Role, ...] = get_args(Role)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_SPELLINGS: dict[Role, tuple[str, ...]] = {
    "image": _words(
        "imagepath imgpath imagefile imgfile imagefilepath imagefilename imgfilename filepath path filename file "
        "fullpath relativepath relpath imagename imgname image img images picture photo scan slice dicom dicompath "
        "png jpg imageindex xrayimagename imageid imgid idcode fileid sampleid sample id uid name key"
    ),
    "label": _words(
        "label labels class classname classlabel labelname labeltext classid target targets groundtruth gt truth "
        "diagnosis dx disease pathology finding findings findinglabels category outcome result y tumor tumour "
        "hastumor hastumour tumortype tumourtype istumor malignant ismalignant malignancy benignmalignant cancer "
        "iscancer hasmask abnormal pneumonia grade level"
    ),
    "patient": _words(
        "patientid patient patientname patientno patientnr patientnumber patientkey patientcode pid subjectid subject "
        "subjectno participantid participant personid person mrn ptid ptno caseid case"
    ),
    "split": _words("split datasplit splitname traintest trainvaltest set subset part partition phase datasettype"),
    "mask": _words(
        "maskpath maskfile maskfilename maskname maskimage maskid segmentationpath segmentationfile segmentation "
        "segpath segfile seg annotationpath masks mask"
    ),
}
# These names are used for other things too: such a column is a part only if every value in it is one.
_WEAK_SPLITS = frozenset({"set", "subset", "part", "partition", "phase", "datasettype"})
_FLAGS = frozenset({"0", "1", "0.0", "1.0", "true", "false", "yes", "no"})

_SPLIT_WORDS: dict[Split, tuple[str, ...]] = {
    "train": _words("train training tr trn trainset trainingset traindata trainingdata traindataset"),
    "val": _words(
        "val valid validate validation vl dev development valset validset validationset valdata validationdata "
        "devset tune tuning"
    ),
    "test": _words("test testing ts tst te testset testingset testdata testingdata holdout heldout evaluation eval"),
}
_SPLIT_OF = {word: split for split in SPLITS for word in _SPLIT_WORDS[split]}


def plain(name: str) -> str:
    """A name without case and separators, for comparison."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def split_of(name: str) -> Split | None:
    """The part that a word means, under any usual spelling; None when it means none."""
    return _SPLIT_OF.get(plain(name))


def split_in(name: str) -> Split | None:
    """The one part that the words of a longer name speak of, as in ``seg_train`` or ``images (test)``; else None."""
    found = {split for word in re.split(r"[\W_]+", name) if (split := split_of(word)) is not None}
    return found.pop() if len(found) == 1 else None


def accepted_splits() -> str:
    """The accepted spellings, for messages."""
    return "; ".join(f"{split}: {', '.join(words)}" for split, words in _SPLIT_WORDS.items())


def candidate_columns(header: Sequence[str], config: DataConfig) -> list[int]:
    """Positions of the columns that could have a role."""
    known = {spelling for spellings in _SPELLINGS.values() for spelling in spellings}
    named = {_find_named(header, role, config, where="") for role in ROLES}
    return [position for position, name in enumerate(header) if position in named or plain(name) in known]


def assign_roles(
    header: Sequence[str],
    columns: dict[int, list[str]],
    config: DataConfig,
    *,
    where: str,
    label_needed: bool,
    kept: Mapping[str, int] | None = None,
) -> tuple[dict[Role, int], list[CheckResult]]:
    """Decide the column of each role.

    Args:
        header: all column names.
        columns: cells of the candidate columns, by position.
        config: names columns explicitly.
        where: table, for messages.
        label_needed: whether a table without labels is an error.
        kept: columns that make subgroups besides, by name; only told in the note.

    Returns:
        Position by role, and a note that says what was read as what.

    Raises:
        DataError: ``COLUMN_UNKNOWN`` for a configured name that is not there, ``COLUMN_MISSING``.
    """
    roles: dict[Role, int] = {}
    for role in ROLES:
        position = _find_named(header, role, config, where=where)
        if position is not None:
            roles[role] = position
    for role in ROLES:
        if role not in roles:
            position = _recognise(role, header, columns, taken=set(roles.values()))
            if position is not None:
                roles[role] = position
    _mask_as_label(roles, header, columns, config)
    needed: tuple[Role, ...] = ("image", "label") if label_needed else ("image",)
    missing = [role for role in needed if role not in roles]
    if missing:
        raise _missing(missing, roles, header, where)
    read: dict[str, str] = {role: escape(header[position]) for role, position in roles.items()}
    kept = kept or {}
    if kept:
        read["subgroups"] = ", ".join(escape(header[position]) for position in kept.values())
    title = "columns read: " + ", ".join(f"{role} = {name}" for role, name in read.items())
    used = {*roles.values(), *kept.values()}
    others = [escape(name) for position, name in enumerate(header) if position not in used]
    notes = [CheckResult("COLUMNS_READ", "note", title, {"read": read, "not_read": others[:100]})]
    return roles, [*notes, *_masks_as_images(read["image"])]


def _masks_as_images(name: str) -> list[CheckResult]:
    """A column of masks that was named as the images: its pictures show the answer."""
    if plain(name) not in _SPELLINGS["mask"]:
        return []
    title = f"the images are taken from column {name!r}, which by its name holds masks: they would give the label away"
    return [CheckResult("IMAGES_ARE_MASKS", "warning", title, {"column": name}, "name the column of images")]


def read_splits(cells: Iterable[str], lines: Sequence[int], *, where: str, column: str) -> list[Split]:
    """Parts as values.

    Raises:
        DataError: ``SPLIT_VALUE`` listing unknown values and the accepted ones.
    """
    splits: list[Split] = []
    unknown: dict[str, int] = {}
    for line, text in zip(lines, cells, strict=True):
        split = split_of(text)
        if split is None:
            unknown.setdefault(text, line)
        else:
            splits.append(split)
    if unknown:
        raise DataError(
            "SPLIT_VALUE",
            f"column {column!r} names no known part: {listed(unknown)}, first in line {min(unknown.values())}",
            where=where,
            fix=f"accepted, in any case: {accepted_splits()}",
        )
    return splits


def _find_named(header: Sequence[str], role: Role, config: DataConfig, *, where: str) -> int | None:
    name: str | None = getattr(config, role)
    if name is None:
        return None
    for same in (str, plain):
        positions = [position for position, column in enumerate(header) if same(column) == same(name)]
        if len(positions) == 1:
            return positions[0]
    raise DataError(
        "COLUMN_UNKNOWN",
        f"data.{role} = {name!r}, but the columns are {listed(header, limit=50)}",
        where=where,
        fix=nearest(name, header) or "name one of the columns",
    )


def _recognise(role: Role, header: Sequence[str], columns: dict[int, list[str]], *, taken: set[int]) -> int | None:
    names = {plain(header[position]): position for position in columns if position not in taken}
    for spelling in _SPELLINGS[role]:
        position = names.get(spelling)
        if position is None:
            continue
        if role == "mask" and _are_flags(columns[position]):
            continue
        if role == "split" and spelling in _WEAK_SPLITS and not all(map(split_of, set(columns[position]))):
            continue
        return position
    return None


def _mask_as_label(
    roles: dict[Role, int], header: Sequence[str], columns: dict[int, list[str]], config: DataConfig
) -> None:
    """A column ``mask`` of zeros and ones says whether there is a mask: it is the label of the table."""
    if "label" in roles or config.label is not None:
        return
    for position, cells in columns.items():
        is_mask = plain(header[position]) == "mask" and position not in roles.values()
        if is_mask and _are_flags(cells):
            roles["label"] = position
            return


def _are_flags(cells: Sequence[str]) -> bool:
    return {text.strip().casefold() for text in set(cells)} <= _FLAGS


def _missing(missing: list[Role], roles: dict[Role, int], header: Sequence[str], where: str) -> DataError:
    free = [name for position, name in enumerate(header) if position not in roles.values()]
    near = [f"for {role}: {hint}" for role in missing for hint in [_near_column(role, free)] if hint]
    options = " and ".join(f"data.{role} = COLUMN" for role in missing)
    return DataError(
        "COLUMN_MISSING",
        f"no column for {' and '.join(missing)}; found: {listed(header, limit=50)}; needed: "
        + "; ".join(f"{role} (such as {', '.join(_SPELLINGS[role][:4])})" for role in missing),
        where=where,
        fix="; ".join([*near, f"name the column with {options}; the first line must hold the column names"]),
    )


def _near_column(role: Role, free: Sequence[str]) -> str:
    by_plain = {plain(name): name for name in free}
    for spelling in _SPELLINGS[role]:
        hint = nearest(spelling, by_plain)
        if hint:
            close = next(name for text, name in by_plain.items() if repr(text) in hint)
            return f"did you mean {escape(close)!r}?"
    return ""
