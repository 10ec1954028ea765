"""Division into folds: whole groups, every class in its share, and refusals before anything is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.config.schema import DataConfig
from medgraft.data.manifest import Manifest
from medgraft.errors import DataError
from medgraft.workflows.crossval_folds import make_folds

NAMES = ("no", "yes")


def manifest(labels: list[int], *, patients: list[int] | None = None) -> Manifest:
    columns: dict[str, list[str | None]] = {
        "sample_id": [f"s{i}" for i in range(len(labels))],
        "path": [f"s{i}.png" for i in range(len(labels))],
        "label": [NAMES[k] for k in labels],
    }
    if patients is not None:
        columns["patient_id"] = [f"p{i}" for i in patients]
    source = "none" if patients is None else "column patient"
    return Manifest.from_columns(columns, root=Path("/images"), classes=NAMES, patient_source=source)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(0, 10_000))
def test_groups_stay_whole_and_every_image_is_held_out_once(folds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_groups = int(rng.integers(2 * folds + 6, 60))
    group = np.repeat(np.arange(n_groups), rng.integers(1, 6, size=n_groups))
    label = np.where(rng.random(len(group)) < 0.1, rng.integers(0, 2, size=len(group)), group % 2)
    images = manifest(label.tolist())
    made, checks = make_folds(images, group, DataConfig(), folds=folds, repeats=2, seed=seed)
    assert [(one.repeat, one.number) for one in made] == [(r, f + 1) for r in (1, 2) for f in range(folds)]
    for repeat in (1, 2):
        held = np.concatenate([one.held_out for one in made if one.repeat == repeat])
        assert sorted(held.tolist()) == list(range(len(group)))
    for one in made:
        parts = np.array(one.split)
        for number in range(n_groups):
            assert len(set(parts[group == number])) == 1
        for part in ("train", "val"):
            assert set(label[parts == part].tolist()) == {0, 1}
    assert checks[0].code == "SPLIT_FOLDS" and checks[0].evidence["n_groups"] == n_groups


def test_folds_hold_each_class_in_its_share_and_differ_between_repeats() -> None:
    label = [0] * 98 + [1] * 155
    made, _ = make_folds(manifest(label), np.arange(253), DataConfig(), folds=5, repeats=2, seed=7)
    for one in made:
        parts = np.array(one.split)
        assert [int((parts[:98] == "test").sum()), int((parts[98:] == "test").sum())] in ([19, 31], [20, 31], [19, 32])
        assert (parts == "val").sum() == pytest.approx(0.15 * (parts != "test").sum(), abs=2)
    assert {one.seed for one in made} == {7, 8}
    assert made[0].split != made[5].split
    again, _ = make_folds(manifest(label), np.arange(253), DataConfig(), folds=5, repeats=2, seed=7)
    assert again == made
    later, _ = make_folds(manifest(label), np.arange(253), DataConfig(), folds=5, repeats=1, seed=8)
    assert [one.split for one in later] == [one.split for one in made[5:]]


def test_groups_of_copies_and_patients_are_joined_by_who_calls() -> None:
    group = np.arange(40) // 2
    images = manifest([0, 0, 1, 1] * 10, patients=list(range(40)))
    made, _ = make_folds(images, group, DataConfig(), folds=4, repeats=1, seed=0)
    for one in made:
        assert all(one.split[i] == one.split[i + 1] for i in range(0, 40, 2))


def test_too_many_folds_name_class_groups_and_the_largest_number() -> None:
    images = manifest([0] * 50 + [1] * 4)
    with pytest.raises(DataError) as caught:
        make_folds(images, np.arange(54), DataConfig(), folds=5, repeats=1, seed=0)
    problem = caught.value.problem
    assert caught.value.code == "FOLDS_TOO_MANY"
    assert problem.what == (
        "5 folds need at least 5 independent images of every class; there are fewer of yes (4): "
        "at most 4 folds are possible"
    )
    assert problem.fix == "use --folds 4 or fewer"
    made, _ = make_folds(images, np.arange(54), DataConfig(), folds=4, repeats=1, seed=0)
    assert len(made) == 4


def test_two_groups_of_a_class_allow_no_cross_validation() -> None:
    images = manifest([0] * 20 + [1] * 20, patients=[*range(20), *[20] * 10, *[21] * 10])
    group = np.array([*range(20), *[20] * 10, *[21] * 10])
    with pytest.raises(DataError) as caught:
        make_folds(images, group, DataConfig(), folds=2, repeats=1, seed=0)
    assert caught.value.code == "FOLDS_TOO_MANY" and "no cross-validation is possible" in caught.value.problem.what
    assert "patients of every class" in caught.value.problem.what and "yes (2)" in caught.value.problem.what


def test_too_few_folds_leave_nobody_to_validate() -> None:
    images = manifest([0] * 20 + [1] * 3)
    with pytest.raises(DataError) as caught:
        make_folds(images, np.arange(23), DataConfig(), folds=2, repeats=1, seed=0)
    assert caught.value.code == "FOLDS_TOO_FEW" and "yes (3)" in caught.value.problem.what
    assert caught.value.problem.fix == "use --folds 3"
    made, _ = make_folds(images, np.arange(23), DataConfig(), folds=3, repeats=1, seed=0)
    assert all(
        {"train", "val"} <= {part for part, y in zip(one.split, [0] * 20 + [1] * 3, strict=True) if y} for one in made
    )


def test_remarks_on_fits_are_said_once() -> None:
    images = manifest([0] * 30 + [1] * 30)
    _, checks = make_folds(images, np.arange(60), DataConfig(), folds=3, repeats=2, seed=0)
    (small,) = [check for check in checks if check.code == "SPLIT_SMALL_VALIDATION"]
    assert small.title.startswith("in 6 of 6 fits: the validation part has only 6 images")
    assert small.severity == "warning" and small.evidence["fits"] == 6
