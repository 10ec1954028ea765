"""Splits: patients and copies on one side, classes in their shares, small data defined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.config.schema import DataConfig
from medgraft.data.grouping import join_groups
from medgraft.data.manifest import Manifest
from medgraft.data.split import assign_splits
from medgraft.errors import DataError
from medgraft.types import SPLITS, CheckResult


def _manifest(
    labels: Sequence[str],
    patients: Sequence[str | None] | None = None,
    splits: Sequence[str | None] | None = None,
    classes: tuple[str, ...] | None = None,
) -> Manifest:
    ids = [str(i) for i in range(len(labels))]
    columns = {
        "sample_id": ids,
        "path": ids,
        "label": list(labels),
        "patient_id": patients or [],
        "split": splits or [],
    }
    return Manifest.from_columns(
        columns,
        root=Path("/data"),
        classes=classes or tuple(sorted(set(labels))),
        patient_source="column p" if patients else "none",
    )


def _split(
    manifest: Manifest, *, seed: int = 0, copies: Sequence[str] | None = None, **data: object
) -> tuple[list[str], dict[str, CheckResult]]:
    done, results = assign_splits(manifest, DataConfig.model_validate(data), seed=seed, copy_keys=copies)
    return done.table["split"].tolist(), {result.code: result for result in results}


def _code(manifest: Manifest, *, copies: Sequence[str] | None = None, **data: object) -> str:
    with pytest.raises(DataError) as caught:
        _split(manifest, copies=copies, **data)
    return caught.value.code


samples = st.lists(
    st.tuples(st.sampled_from("aab"), st.none() | st.integers(0, 15), st.integers(0, 40)), min_size=1, max_size=60
)


@settings(max_examples=1000, deadline=None)
@given(samples, st.integers(0, 5))
def test_d8_patients_and_copies_stand_on_one_side(rows: list[tuple[str, int | None, int]], seed: int) -> None:
    labels = [label for label, _, _ in rows]
    patients = [None if patient is None else f"p{patient}" for _, patient, _ in rows]
    copies = [f"c{copy}" if copy < 20 else "" for _, _, copy in rows]
    manifest = _manifest(labels, patients)
    try:
        parts, _ = _split(manifest, seed=seed, copies=copies)
    except DataError as error:
        if error.code not in ("ONE_CLASS", "CLASS_TOO_SMALL"):
            raise
        return
    assert set(parts) == set(SPLITS)
    for keys in (patients, copies):
        sides: dict[str, set[str]] = {}
        for key, part in zip(keys, parts, strict=True):
            if key:
                sides.setdefault(key, set()).add(part)
        assert all(len(side) == 1 for side in sides.values())
    for label in set(labels):
        held = {part for name, part in zip(labels, parts, strict=True) if name == label}
        assert held >= {"train", "val"}
    assert _split(manifest, seed=seed, copies=copies)[0] == parts


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(20, 400), min_size=2, max_size=6), st.integers(0, 100))
def test_single_images_are_stratified_within_one(sizes: list[int], seed: int) -> None:
    labels = [str(c) for c, size in enumerate(sizes) for _ in range(size)]
    done, _ = assign_splits(_manifest(labels), DataConfig(), seed=seed, copy_keys=None)
    for name, counts in done.counts().items():
        for part, fraction in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            assert abs(counts[part] - fraction * sizes[int(name)]) <= 1.0


@pytest.mark.parametrize("seed", range(5))
def test_patients_of_many_sizes_are_stratified(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels: list[str] = []
    patients: list[str] = []
    for patient, size in enumerate(rng.integers(1, 60, 300)):
        share = rng.beta(0.5, 0.5)
        labels += rng.choice(["a", "b", "c"], size, p=[share * 0.9, (1 - share) * 0.9, 0.1]).tolist()
        patients += [f"p{patient}"] * int(size)
    done, _ = assign_splits(_manifest(labels, patients), DataConfig(), seed=seed, copy_keys=None)
    for counts in done.counts().values():
        total = sum(counts.values())
        for part, fraction in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            assert abs(counts[part] / total - fraction) < 0.015


def test_seeds_differ_and_the_same_seed_repeats() -> None:
    manifest = _manifest(["a", "b"] * 100)
    assert _split(manifest, seed=1)[0] == _split(manifest, seed=1)[0]
    assert _split(manifest, seed=1)[0] != _split(manifest, seed=2)[0]


def test_fractions() -> None:
    parts, results = _split(_manifest(["a", "b"] * 500), val_fraction=0.2, test_fraction=0.3)
    assert [parts.count(part) for part in SPLITS] == [500, 200, 300]
    assert results["SPLIT_MADE"].evidence["images"] == {"train": 500, "val": 200, "test": 300}


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        (["a"], "ONE_CLASS"),
        (["a"] * 50, "ONE_CLASS"),
        (["a", "b"], "CLASS_TOO_SMALL"),
        (["a", "b"] * 2, "CLASS_TOO_SMALL"),
        (["a"] * 50 + ["b"], "CLASS_TOO_SMALL"),
    ],
)
def test_d9_tiny_sets_have_a_message(labels: list[str], code: str) -> None:
    assert _code(_manifest(labels)) == code


def test_d9_three_of_a_class_stand_in_three_parts() -> None:
    parts, results = _split(_manifest(["a", "b"] * 3))
    assert sorted(parts[0::2]) == sorted(parts[1::2]) == ["test", "train", "val"]
    assert results["SPLIT_SMALL_VALIDATION"].evidence["decision"] == "made"


def test_d9_a_class_of_two_misses_the_test_part_with_a_warning() -> None:
    labels = ["a"] * 50 + ["b"] * 2
    parts, results = _split(_manifest(labels))
    assert sorted(parts[50:]) == ["train", "val"]
    assert results["SPLIT_CLASS_MISSING"].evidence == {"part": "test", "classes": ["b"]}


def test_d9_class_with_one_patient_or_only_copies() -> None:
    labels = ["a"] * 50 + ["b"] * 20
    assert _code(_manifest(labels, [f"p{i}" for i in range(50)] + ["q"] * 20)) == "CLASS_TOO_SMALL"
    assert _code(_manifest(labels), copies=[""] * 50 + ["same"] * 20) == "CLASS_TOO_SMALL"


def test_given_parts_are_honored() -> None:
    given = ["train"] * 400 + ["val"] * 100 + ["test"] * 100
    parts, results = _split(_manifest(["a", "b"] * 300, splits=given))
    assert parts == given
    assert set(results) == {"SPLIT_GIVEN"}


def test_small_validation_is_pooled_and_made_again() -> None:
    given = ["train"] * 400 + ["val"] * 16 + ["test"] * 100
    manifest = _manifest(["a", "b"] * 258, splits=given)
    parts, results = _split(manifest)
    assert parts[416:] == ["test"] * 100
    assert parts.count("val") == 62
    assert results["SPLIT_SMALL_VALIDATION"].evidence["decision"] == "pool"
    kept, results = _split(manifest, small_validation="keep")
    assert kept == given
    assert results["SPLIT_SMALL_VALIDATION"].evidence["decision"] == "keep"


def test_small_validation_is_kept_when_pooling_gives_no_more() -> None:
    given = ["train"] * 60 + ["val"] * 20 + ["test"] * 20
    parts, results = _split(_manifest(["a", "b"] * 50, splits=given))
    assert parts == given
    assert results["SPLIT_SMALL_VALIDATION"].evidence["decision"] == "keep"


def test_missing_parts_are_made_out_of_train() -> None:
    labels = ["a", "b"] * 500
    parts, _ = _split(_manifest(labels, splits=["train"] * 800 + ["test"] * 200))
    assert parts[800:] == ["test"] * 200 and parts.count("val") == 120
    parts, _ = _split(_manifest(labels, splits=["train"] * 800 + ["val"] * 200))
    assert parts[800:] == ["val"] * 200 and parts.count("test") == 120
    parts, _ = _split(_manifest(labels, splits=["train"] * 1000))
    assert [parts.count(part) for part in SPLITS] == [700, 150, 150]


def test_patients_and_copies_across_given_parts_are_reported() -> None:
    given = ["train"] * 200 + ["test"] * 100
    patients = [f"p{i}" for i in range(200)] + [f"p{i}" for i in range(150, 250)]
    copies = [f"c{i}" for i in range(200)] + [f"c{i}" for i in range(10)] + [""] * 90
    parts, results = _split(_manifest(["a", "b"] * 150, patients, given), copies=copies)
    assert parts[200:] == ["test"] * 100
    crossing = results["PATIENTS_ACROSS_PARTS"].evidence
    assert (crossing["count"], crossing["also_in_train"]) == (50, {"val": 0, "test": 50})
    assert results["COPIES_ACROSS_PARTS"].evidence["count"] == 10
    # The new validation part takes none of the patients that are also in the test part.
    val = {patients[row] for row, part in enumerate(parts) if part == "val"}
    assert val and not val & set(patients[200:])


def test_everything_crossing_leaves_nothing_to_split() -> None:
    patients = [f"p{i}" for i in range(40)] * 2
    assert _code(_manifest(["a", "b"] * 40, patients, ["train"] * 40 + ["test"] * 40)) == "CLASS_TOO_SMALL"


def test_d4_classes_missing_in_parts() -> None:
    given = (["train"] * 60 + ["val"] * 60 + ["test"] * 60) * 3
    labels = [name for name in "abc" for _ in range(180)]
    for missing in SPLITS:
        keep = [i for i in range(540) if not (labels[i] == "b" and given[i] == missing)]
        manifest = _manifest([labels[i] for i in keep], splits=[given[i] for i in keep], classes=("a", "b", "c"))
        if missing == "train":
            assert _code(manifest) == "CLASS_NOT_IN_TRAIN"
            continue
        done, results = assign_splits(manifest, DataConfig(small_validation="keep"), seed=0, copy_keys=None)
        assert done.class_indices().max() == 2
        missed = next(result for result in results if result.code == "SPLIT_CLASS_MISSING")
        assert missed.evidence == {"part": missing, "classes": ["b"]}


def test_given_parts_must_be_complete() -> None:
    assert _code(_manifest(["a", "b"], splits=["train", None])) == "SPLIT_INCOMPLETE"
    assert _code(_manifest(["a", "b"], splits=["val", "test"])) == "SPLIT_NO_TRAIN"


def test_groups_are_joined_through_both_kinds_of_keys() -> None:
    patients = ["p", None, "q", None, "q"]
    copies = ["x", "x", "", "y", "y"]
    assert join_groups(5, [patients, copies]).tolist() == [0, 0, 1, 1, 1]
    assert join_groups(3, [None, None]).tolist() == [0, 1, 2]


def test_shared_lgg_patients_are_disjoint_and_balanced(shared_data: Path) -> None:
    from medgraft.data.sources import read_source

    manifest = read_source(shared_data / "lgg-mri" / "data_mask.csv", DataConfig())
    done, _ = assign_splits(manifest, DataConfig(), seed=0, copy_keys=None)
    assert done.table.groupby("patient_id")["split"].nunique().max() == 1
    for counts in done.counts().values():
        assert 0.05 < counts["test"] / sum(counts.values()) < 0.25
