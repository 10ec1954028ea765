"""Two sets that differ are told apart, and two that do not are not, as often as promised."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from medgraft.checks.shift import Shift, TwoSets, check_shift, find_shift
from medgraft.types import FloatArray

NAMES = ("train", "test")


def drawn(seed: int, *, patients: int = 80, moved: float = 0.0, mixed: float = 0.0) -> tuple[FloatArray, TwoSets]:
    """Images of patients of two classes; a quarter of the patients are in the second set."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    second = rng.permutation(patients) < patients // 4
    label = (rng.random(patients) < np.where(second, 0.4 + mixed, 0.4)).astype(np.int64)
    # images of one patient are alike, and classes differ much
    features = 2 * rng.standard_normal((patients, 30))[group] + rng.standard_normal((len(group), 30))
    features[:, :5] += 3 * label[group][:, None]
    features[:, 5:8] += moved * second[group][:, None]
    return features, TwoSets(NAMES, second[group], group, label[group], ("a", "b"))


def found(features: FloatArray, sets: TwoSets, **values: Any) -> Shift:
    shift = find_shift(features, sets, **values)
    assert shift is not None
    return shift


def test_p_values_are_uniform_where_nothing_differs() -> None:
    shifts = [found(*drawn(seed), permutations=99, seed=seed) for seed in range(200)]
    for values in ([shift.p for shift in shifts], [shift.p_mixed for shift in shifts]):
        below = {level: float(np.mean(np.array(values) <= level + 1e-9)) for level in (0.01, 0.05, 0.2, 0.5)}
        assert below[0.01] <= 0.04 and below[0.05] <= 0.1 and 0.12 <= below[0.2] <= 0.28 and 0.38 <= below[0.5] <= 0.62
    assert 0.45 < np.mean([shift.auroc for shift in shifts]) < 0.55
    assert 0.01 < np.mean([shift.auroc > shift.chance for shift in shifts]) < 0.1


def test_other_appearance_is_found() -> None:
    shift = found(*drawn(11, patients=200, moved=3.0))
    assert shift.auroc > 0.75 and shift.p == 1 / 200 and shift.auroc > shift.chance
    (result,) = check_shift(shift)
    assert (result.code, result.severity) == ("SHIFT", "warning")
    assert "test does not look like train" in result.title and "p = 0.005" in result.title and result.advice
    assert "mixed" not in result.title


def test_other_shares_of_classes_are_no_other_appearance() -> None:
    shift = found(*drawn(2, patients=200, mixed=0.5))
    assert shift.p > 0.01 and shift.p_mixed == 1 / 200 and shift.mixed > 0.3
    assert abs(sum(second for _, second in shift.shares.values()) - 1) < 1e-9
    (result,) = check_shift(shift)
    assert result.severity == "warning" and "not told apart" in result.title and "mixed differently" in result.title
    features, sets = drawn(2, patients=800, mixed=0.5)
    blind = found(features, TwoSets(NAMES, sets.second, sets.group))
    assert blind.p <= 0.01 and blind.p_mixed is None and blind.shares == {}


def test_the_same_is_a_note_with_numbers() -> None:
    features, sets = drawn(3)
    (result,) = check_shift(found(features, sets))
    assert result.severity == "note" and "not told apart" in result.title and "AUROC" in result.title
    assert result.evidence["n_groups"] == [60, 20] and result.evidence["permutations"] == 199 and not result.advice
    json.dumps(result.as_dict())


def test_images_of_one_patient_do_not_tell_sets_apart() -> None:
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(24), 25)
    features = 3 * rng.standard_normal((24, 40))[group] + 0.1 * rng.standard_normal((600, 40))
    second = group < 8
    assert found(features, TwoSets(NAMES, second, group)).p > 0.01
    assert found(features, TwoSets(NAMES, second, np.arange(600))).p <= 0.01


def test_groups_in_both_sets_are_left_out_and_counted() -> None:
    features, sets = drawn(5)
    twice = sets.second.copy()
    rows = np.flatnonzero(sets.group == sets.group[np.bincount(sets.group)[sets.group] > 1][0])
    twice[rows[0]], twice[rows[1:]] = True, False
    shift = found(features, TwoSets(NAMES, twice, sets.group, sets.label, sets.classes))
    assert shift.left_out == len(rows) and sum(shift.n_images) == len(features) - len(rows)


def test_too_few_groups_cannot_be_compared() -> None:
    features, sets = drawn(6, patients=9)
    assert find_shift(features, sets) is None
    features, sets = drawn(6, patients=20)
    assert find_shift(features, TwoSets(NAMES, sets.group < 2, sets.group)) is None
    assert find_shift(features, TwoSets(NAMES, np.zeros(len(sets.group), bool), sets.group)) is None


def test_the_same_seed_gives_the_same() -> None:
    features, sets = drawn(7)
    assert found(features, sets, seed=3).as_dict() == found(features, sets, seed=3).as_dict()


@pytest.mark.parametrize("width", [1, 5, 700])
def test_any_number_of_features(width: int) -> None:
    rng = np.random.default_rng(8)
    second = np.arange(150) % 3 == 0
    features = rng.standard_normal((150, width)).astype(np.float16)
    features[:, 0] += np.where(second, 8, 0).astype(np.float16)
    shift = found(features, TwoSets(NAMES, second, np.arange(150)))
    assert shift.p == 1 / 200 or width == 700
    constant = found(np.ones((150, width), np.float16), TwoSets(NAMES, second, np.arange(150)))
    assert constant.auroc == 0.5 and constant.p == 1.0


def test_the_most_different_attributes_are_named_with_their_sign() -> None:
    features, sets = drawn(9, patients=200, moved=4.0)
    rng = np.random.default_rng(9)
    n = len(features)
    values = np.column_stack(
        [
            rng.standard_normal(n),
            np.where(sets.second, 100.0, 140.0) + 20 * rng.standard_normal(n),
            np.full(n, 7.0),
            np.where(rng.random(n) < 0.2, np.nan, rng.standard_normal(n) + 0.9 * sets.second),
        ]
    )
    shift = found(features, sets, attributes=(("width", "brightness", "constant", "noise"), values))
    assert [attribute.name for attribute in shift.attributes] == ["brightness", "noise", "width"]
    brightness, noise, width = shift.attributes
    assert -2.4 < brightness.difference < -1.6 and brightness.auroc < 0.15 and brightness.means[0] > brightness.means[1]
    assert 0.6 < noise.difference < 1.2 and noise.auroc > 0.65 and abs(width.difference) < 0.3
    (result,) = check_shift(shift)
    assert "most different: brightness -" in result.title and "noise +" in result.title and "width" not in result.title
    assert result.evidence["attributes"][0]["name"] == "brightness"


def test_an_attribute_of_the_class_alone_does_not_differ() -> None:
    features, sets = drawn(10, patients=200, mixed=0.5)
    assert sets.label is not None
    of_class = sets.label * 10.0 + np.random.default_rng(0).standard_normal(len(features))
    (attribute,) = found(features, sets, attributes=(("of the class",), of_class[:, None])).attributes
    assert abs(attribute.difference) < 0.25 and abs(attribute.auroc - 0.5) < 0.1
    assert attribute.means[1] > attribute.means[0] + 2
