"""Which scored images training has seen: told apart without a gap, and put in words that hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from made_images import Stored, checked
from medgraft.checks.images import CheckedImages
from medgraft.checks.leaks import (
    IN_BUNDLE,
    IN_SPLIT,
    UNKNOWN,
    Leaks,
    check_leaks,
    concluded,
    leaks_in_split,
    leaks_of_model,
    refuse_leaks,
)
from medgraft.data.fingerprint import Fingerprints, fingerprints
from medgraft.data.imprint import take_imprint
from medgraft.data.phantom import draw_patient
from medgraft.errors import DataError
from medgraft.types import PixelArray, Split


def sources(
    splits: Sequence[str],
    *,
    hashes: Sequence[str] | None = None,
    patients: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    near: Sequence[tuple[int, int]] = (),
) -> CheckedImages:
    """Images of which only parts, hashes, patients and pairs of near copies matter."""
    n = len(splits)
    blank = np.zeros((n, 8, 8), dtype=np.uint8)
    named = [f"i{row}" for row in range(n)]
    made = checked(blank, labels or ["ab"[row % 2] for row in range(n)], patients=patients, paths=named)
    records = [
        replace(record, pixel_hash=pixel_hash) for record, pixel_hash in zip(made.records, hashes or named, strict=True)
    ]
    manifest = made.manifest.with_splits(cast(Sequence[Split], splits))
    return CheckedImages.of(manifest, records, made.pixels, near_copies=near)


def leaks_of(kinds: str, against: str = IN_SPLIT) -> Leaks:
    """One letter per image: e(xact), n(ear), p(atient) or c(lean)."""
    given = np.array(list(kinds))
    return Leaks(given == "e", given == "n", given == "p", against)


def test_exact_copies_and_patients_of_train_and_validation_are_told_apart() -> None:
    images = sources(
        ["train", "val", "test", "test", "test", "test"],
        hashes=["one", "two", "one", "two", "five", "six"],
        patients=["p", "q", "r", "q", "p", "s"],
    )
    leaks = leaks_in_split(images, "test")
    assert leaks.exact.tolist() == [True, True, False, False]
    assert leaks.patient.tolist() == [False, False, True, False]  # the copy of its own patient is a copy
    assert not leaks.near.any() and leaks.copied.tolist() == leaks.exact.tolist()
    assert leaks.against == IN_SPLIT and leaks.found and leaks.headline == "clean"
    assert leaks.named() == ["copied", "copied", "same_patient", "clean"]


def test_a_copy_is_found_through_a_third_image() -> None:
    """The second test image is like the first, and that one like a training image."""
    images = sources(["train", "test", "test", "test"], near=[(0, 1), (1, 2)])
    leaks = leaks_in_split(images, "test")
    assert leaks.near.tolist() == [True, True, False] and not leaks.exact.any() and not leaks.patient.any()
    # also where the one between is an exact copy of the training image
    images = sources(["train", "test", "test", "test"], hashes=["x", "x", "y", "z"], near=[(1, 2)])
    leaks = leaks_in_split(images, "test")
    assert leaks.exact.tolist() == [True, False, False] and leaks.near.tolist() == [False, True, False]


def test_copies_within_the_test_part_are_no_leak() -> None:
    images = sources(["train", "test", "test", "test"], hashes=["w", "x", "x", "z"], near=[(2, 3)])
    leaks = leaks_in_split(images, "test")
    assert not leaks.found and leaks.headline == "all" and leaks.named() == ["clean"] * 3
    assert leaks.rows("clean").tolist() == [0, 1, 2] and not len(leaks.rows("copied"))


def test_validation_is_compared_with_train_only() -> None:
    images = sources(["train", "val", "test", "val"], hashes=["x", "x", "y", "y"])
    assert leaks_in_split(images, "val").exact.tolist() == [True, False]


def test_unknown_patients_are_not_one_patient() -> None:
    images = sources(["train", "train", "test", "test"])
    assert images.manifest.table["patient_id"].isna().all()
    assert not leaks_in_split(images, "test").found


@pytest.mark.parametrize("kinds", ["cccc", "encpcc", "eeee", "pcpc", "nnec"])
def test_subsets_share_no_image_and_leave_none_out(kinds: str) -> None:
    leaks = leaks_of(kinds)
    names = leaks.subsets()
    assert names[0] == "all" and ("same_patient" in names) == ("p" in kinds)
    apart = np.concatenate([leaks.rows(name) for name in names[1:]])
    assert sorted(apart.tolist()) == leaks.rows("all").tolist() == list(range(len(kinds)))
    assert leaks.named() == [{"c": "clean", "p": "same_patient"}.get(kind, "copied") for kind in kinds]


def test_the_leading_numbers_are_of_the_clean_images_if_there_are_any() -> None:
    assert [leaks_of(kinds).headline for kinds in ("cc", "ec", "pc", "ep", "ee")] == [
        "all", "clean", "clean", "all", "all",
    ]  # fmt: skip


def manifest_of(labels: str, classes: str = "ab") -> CheckedImages:
    return checked(
        np.zeros((len(labels), 8, 8), dtype=np.uint8),
        list(labels),
        paths=[f"i{row}" for row in range(len(labels))],
        classes=tuple(classes),
    )


def test_the_conclusion_says_what_was_seen_and_of_what_the_numbers_are() -> None:
    told = concluded(leaks_of("eennnp" + "c" * 94), manifest_of("ab" * 50).manifest)
    assert told == (
        "of 100 images 2 are pixel-identical to train and validation images and 3 are near copies of train and "
        "validation images and 1 shares a patient with train and validation images; the leading numbers are of the "
        "94 others"
    )
    none = concluded(leaks_of("c" * 4), manifest_of("abab").manifest)
    assert none == "no copy of train and validation images was found among the 4 images"


def test_the_conclusion_ends_where_a_class_or_everything_is_gone() -> None:
    gone = concluded(leaks_of("eee" + "c" * 40), manifest_of("bbb" + "a" * 40).manifest)
    assert gone.endswith("among which there is no b: nothing can be concluded for new images of it")
    few = concluded(leaks_of("e" + "c" * 42), manifest_of("b" + "a" * 40 + "bb").manifest)
    assert few.endswith("few are left of b (2): read the intervals")
    nothing = concluded(leaks_of("eeep"), manifest_of("abab").manifest)
    assert "3 are pixel-identical" in nothing
    assert nothing.endswith("no image is left to test on, so nothing can be concluded about new images")


def test_a_class_that_was_never_there_is_not_missed() -> None:
    told = concluded(leaks_of("e" + "c" * 60), manifest_of("a" + "ab" * 30, classes="abc").manifest)
    assert "no c" not in told and told.endswith("the leading numbers are of the 60 others")


def test_the_checks_follow_from_what_is_left() -> None:
    images = manifest_of("ab" * 50)
    assert check_leaks(leaks_of("c" * 100), images.manifest) == ()
    assert check_leaks(leaks_of("e" + "c" * 99), images.manifest) == ()  # told by the split already
    (small,) = check_leaks(leaks_of("e" * 60 + "c" * 40), images.manifest)
    assert (small.code, small.severity) == ("LEAK_CLEAN_SMALL", "warning")
    assert small.evidence == {"clean": 40, "per_class": {"a": 20, "b": 20}} and "a (20), b (20)" in small.title
    (nothing,) = check_leaks(leaks_of("e" * 100), images.manifest)
    assert (nothing.code, nothing.severity) == ("LEAK_NOTHING_CLEAN", "error") and "other patients" in nothing.advice


def test_what_a_model_has_seen_is_an_error_that_names_images() -> None:
    images = manifest_of("ab" * 50)
    (seen,) = check_leaks(leaks_of("een" + "c" * 97, IN_BUNDLE), images.manifest)
    assert (seen.code, seen.severity) == ("SEEN_IN_TRAINING", "error")
    assert seen.title == "3 of 100 images are copies of images the model was trained on"
    assert seen.evidence == {"exact": 2, "near": 1, "examples": ["i0", "i1", "i2"]}
    both = check_leaks(leaks_of("e" * 100, IN_BUNDLE), images.manifest)
    assert [check.code for check in both] == ["SEEN_IN_TRAINING", "LEAK_NOTHING_CLEAN"]


def test_refusing_lists_every_image_with_its_reason() -> None:
    images = manifest_of("ababab")
    refuse_leaks(leaks_of("cccccc"), images.manifest, where="table.csv")
    with pytest.raises(DataError) as caught:
        refuse_leaks(leaks_of("ecnpcc"), images.manifest, where="table.csv")
    error = caught.value
    assert error.code == "LEAK_REFUSED" and error.exit_code == 3 and error.problem.where == "table.csv"
    assert "--strict" in error.problem.fix and "data.given_parts=ignore" in error.problem.fix
    assert "of 6 images 1 is pixel-identical" in error.problem.what
    assert [(one.where, one.what) for one in error.problems] == [
        ("i0", "a copy of it is among train and validation images"),
        ("i2", "a copy of it is among train and validation images"),
        ("i3", "the same patient is among train and validation images"),
    ]


def drawn(patients: int, seed: int) -> PixelArray:
    """Three slices of each head, (n, 64, 64, 3)."""
    images = [draw_patient(np.random.default_rng([seed, at]), slices=3, size=64)[0] for at in range(patients)]
    return np.repeat(np.concatenate(images)[..., None], 3, axis=3)


def printed(images: PixelArray) -> Fingerprints:
    return fingerprints(Stored(images))


def test_a_model_knows_its_images_and_no_others() -> None:
    own, others = drawn(12, seed=0), drawn(4, seed=1)
    hashes = [f"own {row}" for row in range(len(own))]
    imprint = take_imprint(printed(own), hashes, salt=bytes(16))
    scored = np.concatenate([own[:2], own[2:3, :, ::-1], others])
    names = [*hashes[:2], "mirrored", *(f"other {row}" for row in range(len(others)))]
    leaks = leaks_of_model([imprint], printed(scored), names)
    assert leaks.against == IN_BUNDLE and not leaks.patient.any()
    assert np.flatnonzero(leaks.exact).tolist() == [0, 1] and np.flatnonzero(leaks.near).tolist() == [2]
    assert leaks.named()[:4] == ["copied", "copied", "copied", "clean"] and leaks.headline == "clean"


def test_an_ensemble_has_seen_what_any_member_has() -> None:
    one, other = drawn(3, seed=0), drawn(3, seed=1)
    names = [f"one {row}" for row in range(9)], [f"other {row}" for row in range(9)]
    imprints = [take_imprint(printed(images), hashes) for images, hashes in zip((one, other), names, strict=True)]
    scored = np.concatenate([one[:2], other[:1], drawn(1, seed=2)])
    leaks = leaks_of_model(imprints, printed(scored), [*names[0][:2], names[1][0], "a", "b", "c"])
    assert leaks.exact.tolist() == [True, True, True, False, False, False] and leaks.against == IN_BUNDLE


def test_without_an_imprint_nothing_is_claimed() -> None:
    scored = drawn(2, seed=0)
    names = [f"own {row}" for row in range(6)]
    leaks = leaks_of_model([None], printed(scored), names)
    assert leaks.against == UNKNOWN and not leaks.found and leaks.headline == "all"
    assert leaks.named() == [""] * 6  # not "clean"
    told = concluded(leaks, manifest_of("ababab").manifest)
    assert told == "whether the model was trained on these images is not known"
    assert check_leaks(leaks, manifest_of("ababab").manifest) == ()


def test_one_member_that_remembers_is_enough_to_find_and_too_little_to_clear() -> None:
    scored = drawn(2, seed=0)
    names = [f"own {row}" for row in range(6)]
    imprint = take_imprint(printed(scored[:3]), names[:3])
    leaks = leaks_of_model([imprint, None], printed(scored), names)
    assert leaks.exact.tolist() == [True] * 3 + [False] * 3 and leaks.named() == ["copied"] * 3 + [""] * 3
    manifest = manifest_of("ababab").manifest
    told = concluded(leaks, manifest)
    assert "3 are pixel-identical to images that some of the models were trained on" in told
    assert "the other models do not remember theirs" in told
    assert next(check.code for check in check_leaks(leaks, manifest)) == "SEEN_IN_TRAINING"
    with pytest.raises(DataError, match="LEAK_REFUSED") as caught:
        refuse_leaks(leaks, manifest, where="images")
    assert [problem.where for problem in caught.value.problems] == ["i0", "i1", "i2"]
    none = leaks_of_model([imprint, None], printed(scored[3:]), names[3:])
    assert none.against == UNKNOWN and not none.found
