"""Whether what is said of patients can be true.

    ids of a column ─┬─ places in the paths that hold ids of the column     ─► rows with another's id there
                     └─ folders and names that match the ids one to one,   ─► rows that break the match
                        or group as many images each

PATIENTS_CONTRADICT_FOLDERS   ids of a column that contradict the folders or file names, as when rows were shifted
PATIENT_LABELS_DIFFER         patients with several labels, where patients as a rule have one
GROUPS_TOO_FEW                a part, or a class in it, with too few patients for an interval
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medgraft.data.manifest import Manifest
from medgraft.data.names import escape
from medgraft.data.patients import PRESETS
from medgraft.types import SPLITS, CheckResult, IntArray, Severity

FEWEST_PATIENTS = 10
FEWEST_PATIENTS_PER_CLASS = 5
_SHOWN = 20
_SHOWN_IMAGES = 10  # of one patient
_LEVELS = 3  # folders above a file that are searched for ids
_LONGEST_ID = 8  # words of an id with separators in it, such as TCGA_CS_5395_19981004
_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"[0-9]+")
_LAST_NUMBER = re.compile(r"[\s_\-.]*[0-9]+$")
# Least shares: rows whose path holds an id there, ids found there, rows whose own id it is.
_ROWS_WITH_ID, _IDS_FOUND, _OWN = 0.5, 0.5, 0.5
# Of places that match ids one to one: least places, share of both that have a partner, and of rows that agree.
_PLACES, _PARTNERED, _AGREEING = 5, 0.8, 0.7
_DIFFERENT_SIZES = 5  # that equal sizes of places and ids are no accident
_ONE_LABEL = 0.9  # least share of patients with one label that makes this the rule

Where = tuple[int, int]  # folders above the file (0: its name), and the word that an id begins with


def check_patients(manifest: Manifest) -> tuple[CheckResult, ...]:
    """Contradictions between patient ids and paths, and between the labels of one patient.

    No contradiction are class or part folders, one flat folder, several folders of one patient, patients numbered anew
    at each site, and slices or visits with the numbers that patients have.

    Args:
        manifest: N samples as declared; ids are compared with the paths where they come from a column.

    Returns:
        PATIENTS_CONTRADICT_FOLDERS: an error where the paths hold the column's own ids, or where folders and ids group
        as many images each; a warning where folders go by other names and a few rows break a match that is otherwise
        one to one. PATIENT_LABELS_DIFFER: a warning.
    """
    found: list[CheckResult] = []
    if manifest.patient_source.startswith("column "):
        found += _contradictions(manifest)
    return (*found, *_differing_labels(manifest))


def check_groups(manifest: Manifest) -> tuple[CheckResult, ...]:
    """Parts with fewer than 10 patients, or fewer than 5 of a class, on which validation or test rest.

    Args:
        manifest: readable samples with parts. Nothing is said where patients are unknown or have one image each, since
            then images are counted by `medgraft.checks.sizes`.
    """
    table = manifest.table
    if not manifest.patients_known or table["patient_id"].is_unique:
        return ()
    few: list[str] = []
    counted: dict[str, dict[str, int]] = {}
    for part in SPLITS[1:]:
        rows = table[table["split"].to_numpy() == part]
        if not len(rows):
            continue
        of_class = rows.groupby("label")["patient_id"].nunique()
        per_class = {name: int(of_class[name]) for name in manifest.classes if name in of_class}
        n_patients = int(rows["patient_id"].nunique())
        counted[part] = {"patients": n_patients, **per_class}
        small = [f"{name}: {n}" for name, n in per_class.items() if n < FEWEST_PATIENTS_PER_CLASS]
        if n_patients < FEWEST_PATIENTS or small:
            of = f" ({', '.join(small)})" if small else ""
            few.append(f"{part} has {n_patients} patients{of} on {len(rows):,} images")
    if not few:
        return ()
    return (
        CheckResult(
            "GROUPS_TOO_FEW",
            "warning",
            f"few patients: {'; '.join(few)}; intervals rest on patients, not on images",
            {"parts": counted, "wanted": FEWEST_PATIENTS, "wanted_per_class": FEWEST_PATIENTS_PER_CLASS},
            "add patients; for sets as small as this cross-validation tells more than one split",
        ),
    )


def _contradictions(manifest: Manifest) -> list[CheckResult]:
    """Whether ids contradict paths, by the clearest evidence there is."""
    rows = np.flatnonzero(manifest.table["patient_id"].notna().to_numpy())
    paths = [str(path) for path in manifest.table["path"].to_numpy()[rows]]
    ids = [str(patient) for patient in manifest.table["patient_id"].to_numpy()[rows]]
    labels = [None if label is None else str(label) for label in manifest.table["label"].to_numpy()[rows]]
    source = manifest.patient_source
    if len(set(ids)) < 2:
        return []
    named = _other_ids(paths, ids, labels)
    if named:
        title = (
            f"{len(named):,} of {len(rows):,} images have another patient's id in their path than {source} gives them: "
            "were rows shifted?"
        )
        return [_contradiction("error", title, {"count": len(named), "examples": _examples(paths, ids, named)})]
    for place in _places(paths):
        match = _Match.of(place, ids)
        wrong = match.wrong
        if match.ordinary or not len(wrong) or not (match.one_to_one or match.same_sizes):
            continue
        title = (
            f"{len(wrong):,} of {len(rows):,} images lie where the images of another patient lie, by {source}: "
            "were rows shifted?"
            if match.one_to_one
            else f"folders or names group the images as {source} does, in {match.n_places:,} groups of the same sizes, "
            "but not the same images: were rows shifted or shuffled?"
        )
        examples = _examples(paths, ids, {row: match.expected(row) for row in wrong.tolist()})
        evidence = {"count": len(wrong), "places": match.n_places, "examples": examples}
        # Equal sizes are no accident; a few images in the wrong place may be a layout that is not known here.
        return [_contradiction("error" if match.same_sizes else "warning", title, evidence)]
    return []


def _examples(paths: Sequence[str], ids: Sequence[str], said: dict[int, str]) -> list[dict[str, str]]:
    return [
        {"path": escape(paths[row]), "patient": ids[row], "path_says": other}
        for row, other in list(said.items())[:_SHOWN]
    ]


def _contradiction(severity: Severity, title: str, evidence: dict[str, object]) -> CheckResult:
    advice = "find out which is right; data.patient_regex or data.patient_preset takes the patient from the path"
    return CheckResult("PATIENTS_CONTRADICT_FOLDERS", severity, title, evidence, advice)


def _comparable(text: str) -> str:
    """An id or a piece of a path: case, separators and leading zeros of numbers do not count."""
    words = _WORD.findall(text.casefold())
    return " ".join(word.lstrip("0") or "0" if _NUMBER.fullmatch(word) else word for word in words)


def _other_ids(paths: Sequence[str], ids: Sequence[str], labels: Sequence[str | None]) -> dict[int, str]:
    """Rows whose path holds another row's id where paths hold ids, and not their own anywhere; with that id."""
    own = [_comparable(patient) for patient in ids]
    known = {key: patient for key, patient in zip(own, ids, strict=True) if key}
    longest = min(_LONGEST_ID, max((key.count(" ") + 1 for key in known), default=0))
    at: dict[Where, dict[int, tuple[str, str]]] = defaultdict(dict)
    for row, path in enumerate(paths):
        for where, key, place in _pieces(path, known, longest):
            at[where][row] = key, place
    # Sites number their patients alike: 7 of another site may well be 107. So an id that is at home says nothing
    # of the places beside its homes.
    homes: dict[str, set[str]] = defaultdict(set)
    for keys in at.values():
        for row, (key, place) in keys.items():
            if key == own[row]:
                homes[key].add(place)
    found: dict[int, str] = {}
    for keys in at.values():
        if _carries_ids({row: key for row, (key, _) in keys.items()}, own, labels, n_ids=len(known)):
            astray = {row: key for row, (key, place) in keys.items() if not homes[key] or place in homes[key]}
            found |= {row: known[key] for row, key in astray.items() if not _holds(paths[row], own[row])}
    return dict(sorted(found.items()))


def _holds(path: str, key: str) -> bool:
    return f" {key} " in f" {_comparable(path)} "


def _pieces(path: str, known: dict[str, str], longest: int) -> Iterator[tuple[Where, str, str]]:
    """Ids that stand in a path as whole words, the longest from each word on; and the path up to there."""
    *folders, name = path.split("/")
    stem = name.rpartition(".")[0] or name
    for level, text in enumerate([stem, *reversed(folders)][: _LEVELS + 1]):
        words = _comparable(text).split(" ")
        for start in range(len(words)):
            for end in range(min(len(words), start + longest), start, -1):
                key = " ".join(words[start:end])
                if key in known:
                    yield (level, start), key, "/".join([*folders[: len(folders) - level], *words[:end]])
                    break


def _carries_ids(keys: dict[int, str], own: Sequence[str], labels: Sequence[str | None], *, n_ids: int) -> bool:
    """Whether what stands at a place of the paths is the patient, and not by chance a value of the column."""
    if len(keys) < _ROWS_WITH_ID * len(own):
        return False
    values = set(keys.values())
    if len(values) < max(2, _IDS_FOUND * n_ids):
        return False
    named_as_label = sum(key == _comparable(labels[row] or "") for row, key in keys.items())
    if 2 * named_as_label > len(keys):  # class folders 0 and 1, and patients 0 and 1
        return False
    if sum(key == own[row] for row, key in keys.items()) >= _OWN * len(keys):
        return True
    # Slices, images and visits are numbered as patients are.
    return sum(_NUMBER.fullmatch(value) is not None for value in values) * 2 <= len(values)


def _places(paths: Sequence[str]) -> Iterator[list[str]]:
    """Ways to group files by where they lie: by preset, by folder from the innermost out, by name without number."""
    for name, pattern in PRESETS.items():
        if name != "nih-chest" and pattern.search(paths[0]):  # other sets number their files as that one does
            found = [pattern.search(path) for path in paths]
            if all(found):
                yield ["_".join(filter(None, match.groups())) for match in found if match]
    folders = [path.rpartition("/")[0] for path in paths]
    while any(folders):
        yield folders
        folders = [folder.rpartition("/")[0] for folder in folders]
    yield [_LAST_NUMBER.sub("", path.rpartition(".")[0]) for path in paths]


@dataclass(frozen=True)
class _Match:
    """Places against ids.

    Attributes:
        place: (N,) where each image lies, 0..P-1.
        patient: (N,) who is on it, 0..I-1.
        names: I ids.
        partner: (P,) the id that a place shares most images with, where the id shares most with that place; else -1.
        home: (I,) the same the other way round.
    """

    place: IntArray
    patient: IntArray
    names: Sequence[str]
    partner: IntArray
    home: IntArray

    @classmethod
    def of(cls, places: Sequence[str], ids: Sequence[str]) -> _Match:
        place, _ = pd.factorize(np.array(places, dtype=object))
        patient, names = pd.factorize(np.array(ids, dtype=object))
        cells = pd.DataFrame({"place": place, "patient": patient}).value_counts().reset_index(name="n")
        of_place = cells.drop_duplicates("place").set_index("place")["patient"].sort_index().to_numpy()
        of_patient = cells.drop_duplicates("patient").set_index("patient")["place"].sort_index().to_numpy()
        mutual = of_patient[of_place] == np.arange(len(of_place))
        partner = np.where(mutual, of_place, -1)
        home = np.full(len(names), -1, dtype=np.int64)
        home[of_place[mutual]] = np.flatnonzero(mutual)
        return cls(place, patient, list(names), partner, home)

    @property
    def n_places(self) -> int:
        return len(self.partner)

    @property
    def ordinary(self) -> bool:
        """Too few to tell, or every place holds one patient: several places of a patient are visits."""
        n_cells = len(np.unique(self.place * len(self.home) + self.patient))
        return self.n_places < _PLACES or len(self.home) < _PLACES or n_cells == self.n_places

    @property
    def one_to_one(self) -> bool:
        n_pairs = int((self.partner >= 0).sum())
        enough = n_pairs >= _PARTNERED * max(self.n_places, len(self.home))
        agree = self.partner[self.place] == self.patient
        return enough and 2 * self.n_places <= len(self.place) and bool(agree.mean() >= _AGREEING)

    @property
    def same_sizes(self) -> bool:
        """Places and ids have the same sizes, and many different ones: the column was shuffled."""
        sizes = Counter(np.bincount(self.place).tolist())
        return len(sizes) >= _DIFFERENT_SIZES and sizes == Counter(np.bincount(self.patient).tolist())

    @property
    def wrong(self) -> IntArray:
        """Rows whose place and whose patient have other partners; all that differ where a column was shuffled."""
        wanted = self.partner[self.place]
        differ = wanted != self.patient
        if not self.same_sizes:
            differ &= (wanted >= 0) & (self.home[self.patient] >= 0)
        rows: IntArray = np.flatnonzero(differ)
        return rows

    def expected(self, row: int) -> str:
        """The patient whose images lie there."""
        partner = int(self.partner[self.place[row]])
        return self.names[partner] if partner >= 0 else "several patients"


def _differing_labels(manifest: Manifest) -> list[CheckResult]:
    """Patients with several labels, each of which is as a rule the only one of its patients."""
    table = manifest.table[manifest.table["patient_id"].notna() & manifest.table["label"].notna()]
    labels_of = {
        patient: set(part["label"]) for patient, part in table.groupby("patient_id", sort=False) if len(part) > 1
    }
    having = Counter(label for labels in labels_of.values() for label in labels)
    alone = Counter(label for labels in labels_of.values() if len(labels) == 1 for label in labels)
    ruled = {label for label, n in having.items() if alone[label] >= _ONE_LABEL * n}
    differing = [patient for patient, labels in labels_of.items() if len(labels) > 1 and labels <= ruled]
    if not differing:
        return []
    rows = table[table["patient_id"].isin(differing)]
    images = rows.groupby("patient_id", sort=False)
    examples = [dict(zip(part["sample_id"], part["label"], strict=True)) for _, part in images]
    shown = [dict(list(example.items())[:_SHOWN_IMAGES]) for example in examples[:_SHOWN]]
    title = (
        f"{len(differing):,} patients have images under several labels, "
        f"as {len(labels_of) - len(differing):,} others with several images do not"
    )
    evidence = {"patients": len(differing), "images": len(rows), "compared": len(labels_of), "examples": shown}
    advice = "a wrong label, or a wrong patient: look at them"
    return [CheckResult("PATIENT_LABELS_DIFFER", "warning", title, evidence, advice)]
