"""Differences of two sets of answers: values, widths and what they are called."""

from __future__ import annotations

import numpy as np
import pytest

from answers import answer, answers
from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.differences import ALIKE, Answers, paired_differences
from medgraft.evaluation.metrics import auroc
from medgraft.types import Estimate

CONFIG = EvaluationConfig(bootstrap=300)


def differences(first: Answers, second: Answers, config: EvaluationConfig = CONFIG) -> dict[str, Estimate]:
    return paired_differences(first, second, config, patients_known=True, seed=0)


def limits(estimate: Estimate) -> tuple[float, float]:
    assert estimate.low is not None and estimate.high is not None
    return estimate.low, estimate.high


def width(estimate: Estimate) -> float:
    low, high = limits(estimate)
    return high - low


def test_values_are_those_of_the_first_less_those_of_the_second() -> None:
    first, second = answers([1.5, 1.0], images=3)
    found = differences(first, second)
    areas = [auroc(one.scores.y_true, one.scores.y_proba[:, 1]) for one in (first, second)]
    assert found["auroc"].value == pytest.approx(areas[0] - areas[1])  # type: ignore[operator]
    shares = [(one.predicted == one.scores.y_true).mean() for one in (first, second)]
    assert found["accuracy"].value == pytest.approx(shares[0] - shares[1])
    balanced = [
        np.mean([(one.predicted == k)[one.scores.y_true == k].mean() for k in range(2)]) for one in (first, second)
    ]
    assert found["balanced_accuracy"].value == pytest.approx(balanced[0] - balanced[1])
    assert [one.method for one in found.values()] == [
        "delong, paired, by patient",
        "wilson, paired, effective n by patient",
        "patient bootstrap, paired",
    ]
    for one in found.values():
        low, high = limits(one)
        assert one.value is not None and low < one.value < high and (one.n, one.level) == (300, 0.95)


def test_the_other_way_round_everything_has_the_other_sign() -> None:
    first, second = answers([1.5, 1.0], images=2, n_classes=3)
    there, back = differences(first, second), differences(second, first)
    for name, one in there.items():
        assert one.value == pytest.approx(-(back[name].value or 0))
        assert limits(one) == pytest.approx(tuple(-limit for limit in limits(back[name])[::-1]))


def test_three_classes_are_averaged_each_against_the_rest() -> None:
    first, second = answers([1.5, 1.0], n_classes=3, patients=90)
    found = differences(first, second)["auroc"]
    areas = [
        np.mean([auroc(one.scores.y_true == k, one.scores.y_proba[:, k]) for k in range(3)])  # type: ignore[misc]
        for one in (first, second)
    ]
    assert found.value == pytest.approx(areas[0] - areas[1]) and found.method == "patient bootstrap, paired"


def test_images_are_resampled_where_patients_are_unknown() -> None:
    first, second = answers([1.5, 1.0])
    found = paired_differences(first, second, CONFIG, patients_known=False, seed=0)
    assert [one.method for one in found.values()] == ["delong, paired", "wilson, paired", "image bootstrap, paired"]


def test_models_that_share_their_luck_are_told_apart_more_easily() -> None:
    first, second = answers([1.5, 1.2], images=2)
    y = second.scores.y_true
    order = np.arange(len(y))
    for k in range(2):  # the same answers of the second model, about other patients of the class
        order[y == k] = np.roll(order[y == k], 20)
    moved = answer(y, second.scores.y_proba[order], patients=second.scores.patient_ids)
    for name, one in differences(first, second).items():
        other = differences(first, moved)[name]
        assert one.value == pytest.approx(other.value) and width(one) < 0.9 * width(other)


def test_images_of_a_patient_stand_and_fall_together() -> None:
    first, second = answers([1.5, 1.0], patients=20, images=10)
    apart = [answer(one.scores.y_true, one.scores.y_proba) for one in (first, second)]
    for name, one in differences(first, second).items():
        assert width(one) > 1.2 * width(differences(*apart)[name])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_same_answers_differ_by_nothing_and_that_is_said(n_classes: int) -> None:
    first = answers([1.0], n_classes=n_classes)[0]
    for one in differences(first, first).values():
        assert (one.value, one.low, one.high, one.method) == (0, 0, 0, ALIKE)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_two_perfect_models_are_equal_as_far_as_these_images_tell(n_classes: int) -> None:
    """No width of 0 for models that give different probabilities."""
    y = np.arange(60) % n_classes
    first, second = (answer(y, np.eye(n_classes)[y] * (1 - n_classes * e) + e) for e in (0.1, 0.2))
    for name, one in differences(first, second).items():
        low, high = limits(one)
        assert one.value == 0 and -0.35 < low < -0.03 and 0.03 < high < 0.35, name
        assert "n = patients" in one.method


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_perfect_and_a_constant_model_have_no_spread_and_still_differ(n_classes: int) -> None:
    y = np.arange(60) % n_classes
    perfect = answer(y, np.eye(n_classes)[y] * 0.5 + 0.5 / n_classes)
    constant = answer(y, np.full((60, n_classes), 1 / n_classes))
    found = differences(perfect, constant)
    assert found["auroc"].value == 0.5 and found["auroc"].method == "newcombe of each, n = patients"
    assert found["balanced_accuracy"].value == pytest.approx(1 - 1 / n_classes)
    for one in found.values():
        assert limits(one)[0] > 0.2 and width(one) > 0.1


def test_the_same_right_answers_bound_the_difference_by_how_often_they_might_disagree() -> None:
    y = np.arange(40) % 2
    rng = np.random.default_rng(0)
    first, second = (answer(y, np.clip(0.5 + 0.3 * (2 * y - 1) + 0.05 * rng.normal(size=40), 0, 1)) for _ in range(2))
    found = differences(first, second)
    assert limits(found["accuracy"]) == pytest.approx((-0.0876, 0.0876), abs=1e-4)  # Wilson's limit of 0 of 40
    assert limits(found["balanced_accuracy"]) == pytest.approx((-0.1611, 0.1611), abs=1e-4)  # of 0 of 20, twice
    assert found["accuracy"].method == "wilson on disagreement, n = patients"


def test_one_class_has_no_ranking_and_no_balance_but_an_accuracy() -> None:
    first, second = (answer(np.zeros(20, dtype=int), np.linspace(a, 0.9, 20)) for a in (0.1, 0.3))
    found = differences(first, second)
    for name in ("auroc", "balanced_accuracy"):
        assert found[name].value is None and found[name].reason == "all images are a" and found[name].low is None
    assert found["accuracy"].value is not None and found["accuracy"].value > 0


def test_classes_without_an_image_are_left_out_and_that_is_said() -> None:
    made = answers([1.5, 0.5], n_classes=2)
    first, second = (answer(one.scores.y_true, np.pad(one.scores.y_proba, ((0, 0), (0, 1)))) for one in made)
    found = differences(first, second)
    two = differences(*made)
    assert found["auroc"].reason == found["balanced_accuracy"].reason == "over 2 of 3 classes"
    assert found["balanced_accuracy"].value == pytest.approx(two["balanced_accuracy"].value)
    alone = [answer(np.zeros(9, dtype=int), np.full((9, 3), 1 / 3), predicted=[k] * 9) for k in (0, 1)]
    assert differences(*alone)["auroc"].reason == "all images are a"


def test_no_images_have_no_difference() -> None:
    nothing = answer(np.zeros(0, dtype=int), np.zeros((0, 2)))
    assert {one.reason for one in differences(nothing, nothing).values()} == {"0 images"}


def test_one_patient_and_a_class_of_one_patient_tell_little() -> None:
    first, second = answers([0.0, 3.0], patients=20)
    lumped = [answer(one.scores.y_true, one.scores.y_proba, patients=["p"] * 20) for one in (first, second)]
    for one in differences(*lumped).values():
        assert width(one) > 0.9
    y = np.array([1] + [0] * 30)
    rng = np.random.default_rng(1)
    rare = [answer(y, rng.random(31)) for _ in range(2)]
    found = differences(*rare)
    assert "n = patients" in found["auroc"].method and "n = patients" in found["balanced_accuracy"].method
    assert width(found["auroc"]) > 0.7


def test_level_interval_and_seed_are_those_asked_for() -> None:
    first, second = answers([1.5, 1.2], images=2)
    wide = differences(first, second, EvaluationConfig(bootstrap=300, level=0.99))
    assert all(width(wide[name]) > 1.2 * width(one) for name, one in differences(first, second).items())
    assert wide["auroc"].level == 0.99
    bca = differences(first, second, EvaluationConfig(bootstrap=300, interval="bca"))
    assert bca["balanced_accuracy"].method == "patient bootstrap, BCa, paired"
    other = paired_differences(first, second, CONFIG, patients_known=True, seed=1)
    assert limits(other["balanced_accuracy"]) != limits(differences(first, second)["balanced_accuracy"])
    assert limits(other["auroc"]) == limits(differences(first, second)["auroc"])


def test_only_the_metrics_asked_for() -> None:
    first, second = answers([1.5, 1.2])
    asked = paired_differences(first, second, CONFIG, patients_known=True, seed=0, metrics=("accuracy",))
    assert list(asked) == ["accuracy"]
    with pytest.raises(ValueError, match="no difference is defined for ece; there are: auroc, accuracy"):
        paired_differences(first, second, CONFIG, patients_known=True, seed=0, metrics=("ece",))


def test_other_images_patients_classes_or_truths_are_refused() -> None:
    first = answers([1.0], images=2)[0]
    scores = first.scores
    others = {
        "sample_ids": answers([1.0], images=2, patients=50)[0],
        "patient_ids": answer(scores.y_true, scores.y_proba),
        "classes": answers([1.0], images=2, n_classes=3)[0],
        "y_true": answer(1 - scores.y_true, scores.y_proba, patients=scores.patient_ids),
    }
    for name, other in others.items():
        with pytest.raises(ValueError, match=f"not of the same images: {name} differ"):
            differences(first, other)


def test_answers_are_one_class_index_per_image() -> None:
    scores = answers([1.0])[0].scores
    with pytest.raises(ValueError, match="for 100 images"):
        Answers(scores, np.zeros(99, dtype=np.int64))
    with pytest.raises(ValueError, match=r"0\.\.1"):
        Answers(scores, np.full(100, 2))
    with pytest.raises(ValueError, match="read-only"):
        answers([1.0])[0].predicted[0] = 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patients", "images", "n_classes", "skills"),
    [(20, 1, 2, (1.0, 1.2)), (100, 1, 2, (2.0, 1.5)), (40, 10, 2, (2.0, 1.5)), (60, 3, 4, (2.0, 1.5))],
)
def test_intervals_hold_the_true_difference(
    patients: int, images: int, n_classes: int, skills: tuple[float, float]
) -> None:
    truth = {
        name: one.value or 0.0
        for name, one in paired_differences(
            *answers(skills, patients=20000, images=images, n_classes=n_classes, seed=10**6),
            EvaluationConfig(bootstrap=100),
            patients_known=True,
            seed=0,
        ).items()
    }
    held, studies = dict.fromkeys(truth, 0), 400
    for study in range(studies):
        first, second = answers(skills, patients=patients, images=images, n_classes=n_classes, seed=study)
        for name, one in differences(first, second).items():
            low, high = limits(one)
            held[name] += low <= truth[name] <= high
    for name, count in held.items():
        assert 0.9 <= count / studies <= 0.99, (name, count)
