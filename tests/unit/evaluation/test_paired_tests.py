"""Tests for two models: against other implementations, and how often they cry wolf."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binom, binomtest, chi2, norm, t

from answers import answer, answers
from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.differences import Answers
from medgraft.evaluation.paired_limits import delong_difference
from medgraft.evaluation.paired_tests import PairedTest, exact_swap, holm, paired_tests

CONFIG = EvaluationConfig(bootstrap=200)


def judged(first: Answers, second: Answers, *, patients: bool = True) -> dict[tuple[str, str], PairedTest]:
    found = paired_tests(first, second, CONFIG, patients_known=patients, seed=0)
    return {(test.name, test.metric): test for test in found}


def calls(first: list[bool], second: list[bool], patients: list[str] | None = None) -> tuple[Answers, Answers]:
    """Two models that are right where told."""
    y = np.arange(len(first)) % 2
    made = [np.where(right, y, 1 - y) for right in (first, second)]
    one, other = (answer(y, 0.2 + 0.6 * called, patients=patients) for called in made)
    return one, other


def test_mcnemar_is_the_binomial_test_in_1000_random_tables() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        b, c = rng.integers(0, 40, size=2).tolist()
        surplus = np.array([1] * b + [-1] * c + [0] * 5)
        p, mid = exact_swap(surplus)
        expected = binomtest(b, b + c).pvalue if b + c else 1.0
        assert p == pytest.approx(expected, abs=1e-9)
        at = binom.pmf(b, b + c, 0.5)
        assert mid == pytest.approx(1 - at / 2 if b == c else expected - at, abs=1e-9)


def test_swapping_patients_counts_every_way_to_swap_them() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        surplus = rng.integers(-4, 5, size=8)
        sums = [
            abs(sum(s * d for s, d in zip(signs, surplus, strict=True)))
            for signs in itertools.product((-1, 1), repeat=8)
        ]
        seen = abs(int(surplus.sum()))
        p, mid = exact_swap(surplus)
        assert p == pytest.approx(np.mean([one >= seen for one in sums]))
        assert mid == pytest.approx(np.mean([(one > seen) + 0.5 * (one == seen) for one in sums]))


def test_many_images_take_no_time_and_stay_exact() -> None:
    surplus = np.concatenate([np.ones(4000, dtype=int), -np.ones(3800, dtype=int), np.full(300, 2), np.full(300, -2)])
    assert exact_swap(surplus)[0] == pytest.approx(2 * norm.sf(199.5 / np.sqrt(7800 + 4 * 600)), abs=2e-3)
    assert exact_swap(np.ones(3000, dtype=int))[0] < 1e-300


def test_singles_give_plain_tests() -> None:
    first, second = answers([2.0, 1.2], patients=80)
    found = judged(first, second)
    assert set(found) == {("delong", "auroc"), ("mcnemar", "accuracy"), ("bootstrap", "balanced_accuracy")}
    area = delong_difference(
        first.scores.y_true, first.scores.y_proba[:, 1], second.scores.y_proba[:, 1], unit=np.arange(80)
    )
    assert area is not None
    z = area.value / np.sqrt(area.variance)
    test = found["delong", "auroc"]
    assert test.statistic == pytest.approx(z) and test.p == pytest.approx(2 * norm.sf(abs(z)), abs=1e-12)
    assert (test.method, test.n, test.n_units, test.detail) == ("DeLong", 80, 80, {})
    b = int((first.right & ~second.right).sum())
    c = int((second.right & ~first.right).sum())
    test = found["mcnemar", "accuracy"]
    assert test.p == pytest.approx(binomtest(b, b + c).pvalue) and test.statistic == b - c
    assert test.detail["only_first"] == b and test.detail["only_second"] == c and test.method == "McNemar, exact"
    assert test.detail["mid_p"] < test.p


def test_patients_with_several_images_are_the_unit_of_every_test() -> None:
    first, second = answers([2.0, 1.2], patients=40, images=5)
    found = judged(first, second)
    assert set(found) - {("durkalski", "accuracy")} == set(judged(*answers([1.0, 1.0])))
    assert all((test.n, test.n_units) == (200, 40) for test in found.values())
    delong = found["delong", "auroc"]
    assert delong.detail == {"freedom": 19.0} and "summed by patient" in delong.method
    assert delong.statistic is not None
    assert delong.p == pytest.approx(2 * t.sf(abs(delong.statistic), 19))
    assert "swapped by patient" in found["mcnemar", "accuracy"].method
    apart = judged(
        answer(first.scores.y_true, first.scores.y_proba), answer(second.scores.y_true, second.scores.y_proba)
    )
    for name, test in apart.items():
        assert test.p is not None and (found[name].p or 0) > test.p


def test_durkalski_by_hand() -> None:
    """Patients of 2, 3 and 1 images: surplus 2, -1 and 1, so (2/2 - 1/3 + 1/1)^2 over the sum of their squares."""
    first, second = calls(
        [True, True, False, True, True, True], [False, False, True, True, True, False], list("aabbbc")
    )
    test = judged(first, second)["durkalski", "accuracy"]
    statistic = (1 - 1 / 3 + 1) ** 2 / (1 + 1 / 9 + 1)
    assert test.statistic == pytest.approx(statistic) and test.p == pytest.approx(chi2.sf(statistic, 1))


def test_more_classes_have_the_bootstrap_in_place_of_delong() -> None:
    found = judged(*answers([2.5, 0.5], patients=90, n_classes=3))
    assert set(found) == {("bootstrap", "auroc"), ("mcnemar", "accuracy"), ("bootstrap", "balanced_accuracy")}
    for test in found.values():
        assert test.p is not None and test.p < 0.001
    assert found["bootstrap", "auroc"].detail == {"freedom": pytest.approx(87)}


def test_the_same_answers_give_no_reason_to_doubt() -> None:
    first = answers([1.0], images=2)[0]
    assert {test.p for test in judged(first, first).values()} == {1.0}


def test_what_cannot_be_tested_says_why() -> None:
    y = np.arange(40) % 2
    found = judged(answer(y, 0.2 + 0.6 * y), answer(y, np.full(40, 0.5)))
    assert found["delong", "auroc"].p is None and found["delong", "auroc"].reason == "the difference shows no variance"
    alone = judged(answer(np.zeros(9, dtype=int), np.linspace(0, 1, 9)), answer(np.zeros(9, dtype=int), np.zeros(9)))
    assert alone["delong", "auroc"].reason == "all images are a" and alone["mcnemar", "accuracy"].p is not None
    rare = np.array([1] + [0] * 9)
    found = judged(answer(rare, np.linspace(0, 1, 10)), answer(rare, np.linspace(1, 0, 10)), patients=False)
    assert found["delong", "auroc"].reason == "fewer than two images of a class"
    assert found["bootstrap", "balanced_accuracy"].reason == "a class of one image"
    nothing = answer(np.zeros(0, dtype=int), np.zeros((0, 2)))
    assert {test.reason for test in judged(nothing, nothing).values()} == {"0 images"}


def test_a_test_as_json() -> None:
    found = judged(*answers([1.0, 1.2]))["mcnemar", "accuracy"].as_dict()
    assert found["name"] == "mcnemar" and set(found["detail"]) == {"only_first", "only_second", "mid_p"}


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([]) == [] and holm([0.7, 0.9]) == [1.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "images"), [(60, 1), (40, 5), (24, 12)])
def test_equal_models_are_called_different_in_5_of_100_studies(patients: int, images: int) -> None:
    wolf: dict[tuple[str, str], list[bool]] = {}
    for study in range(500):
        for name, test in judged(*answers([1.2, 1.2], patients=patients, images=images, seed=study)).items():
            wolf.setdefault(name, []).append(test.p is not None and test.p < 0.05)
    for name, cries in wolf.items():
        assert 0.015 <= np.mean(cries) <= 0.08, (name, np.mean(cries))
