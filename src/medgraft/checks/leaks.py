"""Which test images training has seen, so that they can be scored apart.

a split:  groups of copies and patients ─┐
a bundle: hashes it keeps of its images ─┴─► Leaks ─► rows of each Subset: all, copied, same_patient, clean

SEEN_IN_TRAINING      scored images are copies of images the model was trained on, by what its bundle remembers
LEAK_NOTHING_CLEAN    no scored image is left that training has not seen
LEAK_CLEAN_SMALL      the clean images are too few, or lack classes, to conclude much
LEAK_REFUSED          an error in place of numbers, where these were asked to be clean
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from medgraft.checks.images import CheckedImages
from medgraft.checks.sizes import SMALLEST_CLASS
from medgraft.data.fingerprint import Fingerprints
from medgraft.data.imprint import Imprint, find_in
from medgraft.data.manifest import Manifest
from medgraft.errors import DataError, Problem
from medgraft.types import CheckResult, IntArray, Split

Subset = Literal["all", "copied", "same_patient", "clean"]
BoolArray = npt.NDArray[np.bool_]

IN_SPLIT = "train and validation images"
IN_BUNDLE = "the images the model was trained on"
IN_SOME = "images that some of the models were trained on"
_ADVICE = "test on images of other patients, which training has not seen"
_SHOWN = 20
UNKNOWN = "nothing: the model does not remember its training images"


@dataclass(frozen=True)
class Leaks:
    """What training has seen of N scored images.

    Attributes:
        exact: (N,) pixel for pixel.
        near: (N,) as a near copy, not an exact one.
        patient: (N,) another image of the same patient, and no copy.
        against: what they were compared with.
    """

    exact: BoolArray
    near: BoolArray
    patient: BoolArray
    against: str

    @property
    def copied(self) -> BoolArray:
        return self.exact | self.near

    @property
    def found(self) -> bool:
        """Whether any image is not clean."""
        return bool((self.copied | self.patient).any())

    @property
    def headline(self) -> Literal["all", "clean"]:
        """The images that the leading numbers are of: the clean ones, unless there are none."""
        return "clean" if self.found and len(self.rows("clean")) else "all"

    def subsets(self) -> tuple[Subset, ...]:
        """Names of the subsets to tell apart; ``same_patient`` only where there are such images."""
        return ("all", "copied", *(("same_patient",) if self.patient.any() else ()), "clean")

    def rows(self, subset: Subset) -> IntArray:
        """Positions of the images of a subset; all but ``all`` share no image."""
        chosen = {
            "all": np.ones(len(self.exact), dtype=np.bool_),
            "copied": self.copied,
            "same_patient": self.patient,
            "clean": ~(self.copied | self.patient),
        }[subset]
        return np.flatnonzero(chosen)

    def named(self) -> list[str]:
        """``copied``, ``same_patient`` or ``clean`` of each image; empty where that is not known."""
        rest = "" if self.against in (IN_SOME, UNKNOWN) else "clean"
        names = np.full(len(self.exact), rest, dtype=object)
        names[self.patient], names[self.copied] = "same_patient", "copied"
        return [str(name) for name in names]


def leaks_in_split(images: CheckedImages, part: Split) -> Leaks:
    """What the other parts show of the images of one part.

    Validation counts as seen: it chose epochs, temperature and threshold.

    Args:
        images: all readable images with their parts, copies joined in ``group``.
        part: the part that is scored.
    """
    scored = images.rows_of(part)
    parts: tuple[Split, ...] = ("train", "val")
    seen = images.rows_of(*(other for other in parts if other != part))
    exact = _shared([record.pixel_hash for record in images.records], scored, seen)
    patient = _shared(images.manifest.table["patient_id"].tolist(), scored, seen)
    copied = np.isin(images.picture[scored], images.picture[seen])
    return Leaks(exact, copied & ~exact, patient & ~copied, IN_SPLIT)


def leaks_of_model(imprints: Sequence[Imprint | None], prints: Fingerprints, hashes: Sequence[str]) -> Leaks:
    """What finished models remember of images; patients are not remembered.

    Args:
        imprints: of each model that answers; None for one that remembers nothing.
        prints: of the N scored images.
        hashes: their pixel hashes.
    """
    exact = np.zeros(len(hashes), dtype=np.bool_)
    near, nobody = exact.copy(), exact.copy()
    known = [imprint for imprint in imprints if imprint is not None]
    for imprint in known:
        seen = find_in(imprint, prints, hashes)
        exact |= seen.exact
        near |= seen.near
    against = IN_SOME if (exact | near).any() else UNKNOWN
    return Leaks(exact, near & ~exact, nobody, IN_BUNDLE if len(known) == len(imprints) else against)


def check_leaks(leaks: Leaks, scored: Manifest) -> tuple[CheckResult, ...]:
    """What copies and patients on both sides mean for the numbers; nothing where all is clean.

    Args:
        leaks: of N images.
        scored: the same images.
    """
    if not leaks.found:
        return ()
    found = []
    ids = scored.table["sample_id"].to_numpy()
    n, copied = len(scored), int(leaks.copied.sum())
    if leaks.against != IN_SPLIT:
        title = f"{copied:,} of {n:,} images are copies of images the model was trained on"
        evidence = {
            "exact": int(leaks.exact.sum()),
            "near": int(leaks.near.sum()),
            "examples": [str(name) for name in ids[leaks.copied][:_SHOWN]],
        }
        advice = "scores on them are memory; the leading numbers are of the others"
        found.append(CheckResult("SEEN_IN_TRAINING", "error", title, evidence, advice))
    conclusion = concluded(leaks, scored)
    evidence = {"clean": len(leaks.rows("clean")), "per_class": _clean_counts(leaks, scored)}
    if leaks.headline == "all":
        found.append(CheckResult("LEAK_NOTHING_CLEAN", "error", conclusion, evidence, _ADVICE))
    elif _weak(leaks, scored):
        found.append(CheckResult("LEAK_CLEAN_SMALL", "warning", conclusion, evidence, _ADVICE))
    return tuple(found)


def concluded(leaks: Leaks, scored: Manifest) -> str:
    """What can be said of new images, and what cannot, in a sentence or two."""
    n, clean = len(scored), len(leaks.rows("clean"))
    if leaks.against == UNKNOWN:
        return "whether the model was trained on these images is not known"
    if not leaks.found:
        return f"no copy of {leaks.against} was found among the {n:,} images"
    told = f"of {n:,} images {' and '.join(_kinds(leaks))}"
    if leaks.against == IN_SOME:
        told += ", and the other models do not remember theirs"
    if not clean:
        return f"{told}: no image is left to test on, so nothing can be concluded about new images"
    counts = _clean_counts(leaks, scored)
    absent = [name for name, count in counts.items() if count == 0]
    few = [f"{name} ({count})" for name, count in counts.items() if 0 < count < SMALLEST_CLASS]
    told = f"{told}; the leading numbers are of the {clean:,} others"
    if absent:
        told += f", among which there is no {', no '.join(absent)}: nothing can be concluded for new images of it"
    if few:
        told += f"; few are left of {', '.join(few)}: read the intervals"
    return told


def refuse_leaks(leaks: Leaks, scored: Manifest, *, where: str) -> None:
    """Stop where clean numbers were demanded.

    Raises:
        DataError: ``LEAK_REFUSED`` naming the first images.
    """
    if not leaks.found:
        return
    ids = scored.table["sample_id"].to_numpy()
    problems = [
        Problem(
            "LEAK_REFUSED",
            f"{'a copy of it' if leaks.copied[row] else 'the same patient'} is among {leaks.against}",
            where=str(ids[row]),
        )
        for row in np.flatnonzero(leaks.copied | leaks.patient)
    ]
    raise DataError(
        "LEAK_REFUSED",
        concluded(leaks, scored),
        where=where,
        fix="correct the parts, let medgraft make them (--set data.given_parts=ignore), or leave --strict out",
        problems=problems,
    )


def _kinds(leaks: Leaks) -> list[str]:
    """How many images there are of each kind that is not clean."""
    kinds = (
        (leaks.exact, "is pixel-identical to", "are pixel-identical to"),
        (leaks.near, "is a near copy of", "are near copies of"),
        (leaks.patient, "shares a patient with", "share a patient with"),
    )
    counted = [(int(mask.sum()), one, many) for mask, one, many in kinds if mask.any()]
    return [f"{count:,} {one if count == 1 else many} {leaks.against}" for count, one, many in counted]


def _clean_counts(leaks: Leaks, scored: Manifest) -> dict[str, int]:
    """Clean images of every class that the scored images hold at all."""
    labels = scored.table["label"].to_numpy()
    clean = labels[leaks.rows("clean")]
    return {name: int((clean == name).sum()) for name in scored.classes if (labels == name).any()}


def _weak(leaks: Leaks, scored: Manifest) -> bool:
    return any(count < SMALLEST_CLASS for count in _clean_counts(leaks, scored).values())


def _shared(keys: Sequence[str | None], scored: IntArray, seen: IntArray) -> BoolArray:
    """Which scored images have a key that a seen one has."""
    known = {keys[row] for row in seen.tolist()} - {None, ""}
    return np.array([keys[row] in known for row in scored.tolist()], dtype=np.bool_)
