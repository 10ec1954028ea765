"""Which columns make subgroups of the images: those of a table, and a few that every source has.

    evaluation.by ─► read_source(keep=…) ─► Manifest.attributes ─┐
    split, size: known of every image ───────────────────────────┴► group_values ─► column: value of each image

BY_UNKNOWN    a name that is neither a column nor one of the built-in ones
BY_USELESS    a column of which every group would hold one class, one patient or one image
BY_TOO_MANY   more groups than numbers could be told of
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from medgraft.data.columns import Role, plain
from medgraft.data.labels import is_missing
from medgraft.data.manifest import Manifest
from medgraft.data.names import escape, listed, nearest
from medgraft.errors import DataError, Problem

BuiltIn = Literal["split", "size"]
BUILT_IN: tuple[BuiltIn, ...] = ("split", "size")
MOST_GROUPS = 50
MOST_SIZES = 20

_USELESS: dict[Role, str] = {
    "label": "is the label itself: every group would hold one class",
    "patient": "names the patients: every group would hold one, from whom nothing follows for others",
    "image": "names the images: every group would hold one image",
    "mask": "names the masks: every group would hold one image",
}
_OWN: dict[str, Role] = {"label": "label", "patientid": "patient", "sampleid": "image", "path": "image", "mask": "mask"}


def find_columns(names: Sequence[str], header: Sequence[str]) -> dict[str, int]:
    """Position of each named column of a table; names that are built in and no column have none.

    Args:
        names: as in ``evaluation.by``.
        header: column names of the table.
    """
    found: dict[str, int] = {}
    for name in names:
        for same in (str, plain):
            positions = [position for position, column in enumerate(header) if same(column) == same(name)]
            if len(positions) == 1:
                found[name] = positions[0]
                break
    return found


def require_columns(names: Sequence[str], header: Sequence[str], roles: Mapping[Role, int], *, where: str) -> None:
    """Refuse names that cannot make subgroups.

    Args:
        names: as in ``evaluation.by``.
        header: column names of the table.
        roles: what columns are already.
        where: the table.

    Raises:
        DataError: ``BY_UNKNOWN`` with the columns there are, ``BY_USELESS`` for labels, patients, images and masks;
            every name that is wrong is listed.
    """
    found = find_columns(names, header)
    role_at = {position: role for role, position in roles.items()}
    problems = []
    for name in dict.fromkeys(names):
        role = role_at.get(found[name]) if name in found else None
        if role in _USELESS:
            problems.append(Problem("BY_USELESS", f"'{escape(name)}' {_USELESS[role]}", fix="name another column"))
        elif name not in found and name not in BUILT_IN:
            fix = nearest(name, [*header, *BUILT_IN]) or "name one of the columns"
            problems.append(Problem("BY_UNKNOWN", f"no column '{escape(name)}'", fix=fix))
    _raise(problems, f"the columns are {listed(header, limit=50)}; every source has {', '.join(BUILT_IN)}", where)


def require_built_in(names: Sequence[str], *, where: str) -> None:
    """Refuse what a folder of images cannot know.

    Raises:
        DataError: ``BY_UNKNOWN`` or ``BY_USELESS``.
    """
    problems = []
    for name in dict.fromkeys(names):
        role = _OWN.get(plain(name))
        if role is not None:
            problems.append(Problem("BY_USELESS", f"'{escape(name)}' {_USELESS[role]}", fix="name another column"))
        elif name not in BUILT_IN:
            fix = nearest(name, BUILT_IN) or f"give a table with a column '{escape(name)}' as the source"
            problems.append(Problem("BY_UNKNOWN", f"a folder of images has no column '{escape(name)}'", fix=fix))
    _raise(problems, f"every source has {', '.join(BUILT_IN)}", where)


def clean_values(cells: Sequence[str]) -> list[str | None]:
    """Cells without blanks around them; None where a cell says that there is no value."""
    return [None if is_missing(cell) else escape(cell.strip()) for cell in cells]


def group_values(
    manifest: Manifest, names: Sequence[str], *, sizes: Sequence[tuple[int, int]] = ()
) -> dict[str, tuple[str | None, ...]]:
    """Value of every image in each column that was asked for.

    A column of the table goes before a built-in one of the same name.

    Args:
        manifest: read with ``keep=names``; N samples.
        names: as in ``evaluation.by``.
        sizes: (height, width) in pixels of each image as it lies on disk; needed for ``size`` only.

    Returns:
        By name, N texts or None where an image has no value. Numbers are still numbers as text.

    Raises:
        DataError: ``BY_TOO_MANY`` for texts with more than 50 values, or sizes with more than 20.
    """
    groups: dict[str, tuple[str | None, ...]] = {}
    problems = []
    for name in dict.fromkeys(names):
        values = _values(manifest, name, sizes)
        limit = MOST_SIZES if name == "size" and name not in manifest.attributes else MOST_GROUPS
        n_values = len({value for value in values if value is not None})
        if n_values > limit and numbers(values) is None:
            what = (
                f"'{escape(name)}' has {n_values:,} values; at most {limit} make subgroups that numbers can be told of"
            )
            problems.append(Problem("BY_TOO_MANY", what, fix="name a column of fewer values, or join values in it"))
        groups[name] = values
    _raise(problems, "subgroups of few images each say nothing", escape(str(manifest.root)))
    return groups


def numbers(values: Sequence[str | None]) -> list[float | None] | None:
    """Values as finite numbers, None staying None; None as a whole when one of them is no number."""
    found: list[float | None] = []
    for value in values:
        if value is None:
            found.append(None)
            continue
        try:
            number = float(value)
        except ValueError:
            return None
        if not math.isfinite(number):
            return None
        found.append(number)
    return found


def _values(manifest: Manifest, name: str, sizes: Sequence[tuple[int, int]]) -> tuple[str | None, ...]:
    if name in manifest.attributes:
        return tuple(manifest.attributes[name])
    if name == "size":
        if len(sizes) != len(manifest):
            raise ValueError(f"{len(sizes)} sizes for {len(manifest)} samples")
        return tuple(f"{height} x {width}" for height, width in sizes)
    if name not in BUILT_IN:
        raise ValueError(f"the manifest was read without {name!r}")
    return tuple(manifest.table[name])


def _raise(problems: Sequence[Problem], known: str, where: str) -> None:
    if not problems:
        return
    if len(problems) == 1:
        only = problems[0]
        raise DataError(only.code, f"evaluation.by: {only.what}; {known}", where=where, fix=only.fix)
    raise DataError(
        "BY_UNKNOWN", f"evaluation.by names what makes no subgroups; {known}", where=where, problems=problems
    )
