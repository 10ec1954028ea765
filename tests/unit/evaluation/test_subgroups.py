"""Groups of the images: which there are, how the model does in each, and how sure a difference is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from answers import answer, answers
from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.differences import Answers
from medgraft.evaluation.evaluate import evaluate_answers
from medgraft.evaluation.metrics import auroc
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.evaluation.subgroups import MISSING, Subgroups, group_masks, subgroup_estimates
from medgraft.types import Estimate

CONFIG = EvaluationConfig(bootstrap=300)


def grouped(model: Answers, patients: bool = True, **groups: Sequence[str | None]) -> Subgroups:
    positive = 1 if len(model.scores.classes) == 2 else None
    return subgroup_estimates(model, groups, CONFIG, positive=positive, patients_known=patients)


def limits(estimate: Estimate) -> tuple[float, float]:
    assert estimate.low is not None and estimate.high is not None
    return estimate.low, estimate.high


def names(values: Sequence[str | None]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in group_masks(values)}


def test_texts_and_few_numbers_are_groups_as_they_are() -> None:
    assert names(["b", "a10", "a2", "b"]) == {"a2": 1, "a10": 1, "b": 2}
    assert names(["1", "2", None, "1.0"]) == {"1": 1, "1.0": 1, "2": 1, MISSING: 1}
    assert names([None, None]) == {MISSING: 2} and names([]) == {}
    assert list(names(["z", None, "a"])) == ["a", "z", MISSING], "missing values come last"


def test_many_numbers_are_cut_at_quartiles() -> None:
    ages = [str(age) for age in range(20, 60)]
    assert names([*ages, None]) == {"20 to 29": 10, "30 to 39": 10, "40 to 49": 10, "50 to 59": 10, MISSING: 1}
    assert names(["1"] * 30 + [str(n) for n in range(2, 12)]) == {"1": 30, "2 to 11": 10}, "ties stay together"
    assert next(iter(names([str(20200101 + n) for n in range(9)]))) == "20200101 to 20200103"
    assert len(names([f"{n}x" for n in range(20)])) == 20


def test_metrics_of_a_group_are_those_of_its_images_alone() -> None:
    model = answers([1.5], patients=60, images=3)[0]
    sex = ["F" if number // 3 % 3 else "M" for number in range(180)]
    found = grouped(model, sex=sex)
    assert [(group.value, group.n_images, group.n_patients) for group in found.columns["sex"]] == [
        ("F", 120, 40),
        ("M", 60, 20),
    ]
    rows = np.flatnonzero(np.array(sex) == "M")
    scores = model.scores
    alone = answer(scores.y_true[rows], scores.y_proba[rows], patients=[scores.patient_ids[row] for row in rows])
    point = OperatingPoint("argmax", "b", 0.5)
    evaluation = evaluate_answers(
        alone, point, temperature=1, config=CONFIG, patients_known=True, n_declared=60, seed=0
    )
    for name, one in found.columns["sex"][1].metrics.items():
        other = evaluation.metrics[name]
        assert one.value == pytest.approx(other.value), name
        assert limits(one) == pytest.approx(limits(other)) and (one.method, one.n) == (other.method, other.n)


def test_the_difference_is_to_all_other_images_and_corrected_for_looking_often() -> None:
    model = answers([1.5], patients=120)[0]
    site = ["abcd"[number % 4] for number in range(120)]
    four = grouped(model, site=site)
    group = four.columns["site"][2]
    inside = np.array(site) == "c"
    y, proba = model.scores.y_true, model.scores.y_proba[:, 1]
    first, second = auroc(y[inside], proba[inside]), auroc(y[~inside], proba[~inside])
    assert first is not None and second is not None
    difference = group.difference["auroc"]
    assert difference.value == pytest.approx(first - second) and difference.n == 120
    assert difference.level == pytest.approx(1 - 0.05 / 16) and group.metrics["auroc"].level == 0.95
    assert "all 16 differences (4 metrics) at once with 95 % confidence: each is made at 99.69 %" in four.multiplicity
    two = grouped(model, sex=["F" if one in "ab" else "M" for one in site])
    assert "all 4 differences" in two.multiplicity, "of two groups there is one difference, seen from both sides"
    f, m = (group.difference for group in two.columns["sex"])
    for name in f:
        assert f[name].value == pytest.approx(-(m[name].value or 0))
    both = grouped(model, site=site, sex=["F" if one in "ab" else "M" for one in site])
    assert "all 20 differences" in both.multiplicity and both.n_subgroups == 6
    low, high = limits(both.columns["site"][2].difference["auroc"])
    assert low < limits(difference)[0] and high > limits(difference)[1]


def test_more_classes_have_means_over_the_classes() -> None:
    model = answers([1.5], patients=90, images=2, n_classes=3)[0]
    found = grouped(model, half=["left", "right"] * 90)
    for group in found.columns["half"]:
        assert set(group.metrics) == {"auroc", "accuracy", "balanced_accuracy"}
        rows = np.array([number % 2 == (group.value == "right") for number in range(180)])
        y, proba = model.scores.y_true[rows], model.scores.y_proba[rows]
        areas = [auroc(y == k, proba[:, k]) for k in range(3)]
        assert group.metrics["auroc"].value == pytest.approx(np.mean(areas))  # type: ignore[arg-type]
        shares = [model.right[rows][y == k].mean() for k in range(3)]
        assert group.metrics["balanced_accuracy"].value == pytest.approx(np.mean(shares))
        for one in (*group.metrics.values(), *group.difference.values()):
            low, high = limits(one)
            assert one.value is not None and low < one.value < high


def test_patients_in_both_groups_make_the_difference_surer() -> None:
    """The left and the right half of the same patients share their luck; other patients do not."""
    model = answers([1.0], patients=60, images=6)[0]
    within = grouped(model, half=["left", "right"] * 180).columns["half"][0].difference
    between = grouped(model, half=["left"] * 180 + ["right"] * 180).columns["half"][0].difference
    for name in within:
        assert "patients in both" in within[name].method and "patients in both" not in between[name].method
        assert np.ptp(limits(within[name])) < 0.75 * np.ptp(limits(between[name]))


def test_small_groups_are_flagged_with_the_reason() -> None:
    model = answers([1.0], patients=40, images=3)[0]
    value = ["tiny"] * 24 + ["rest"] * 96
    rest, tiny = grouped(model, site=value).columns["site"]
    assert rest.flagged == "" and tiny.flagged.endswith("fewer than 10 patients: 8")
    unknown = grouped(model, patients=False, site=value).columns["site"]
    assert unknown[1].n_patients is None and "patients" not in unknown[1].flagged
    y = np.array([1] * 30 + [0] * 30)
    (a, b) = grouped(answer(y, np.linspace(0, 1, 60)), g=["x"] * 33 + ["y"] * 27).columns["g"]
    assert a.flagged == "fewer than 10 images of a class: 3 of a"
    assert b.flagged == "fewer than 10 images of a class: 0 of b"
    assert b.metrics["auroc"].value is None and b.metrics["auroc"].reason == "all images are a"
    assert b.metrics["sensitivity"].reason == "0 cases" and b.difference["sensitivity"].reason == "the group: 0 cases"
    assert a.difference["sensitivity"].reason == "the rest: 0 cases"
    assert b.difference["specificity"].value is not None


def test_a_group_without_a_class_is_not_compared_by_means_over_classes() -> None:
    model = answers([1.0], patients=90, n_classes=3)[0]
    value = ["some" if k < 2 else "all" for k in model.scores.y_true]
    value[:45] = ["all"] * 45
    some = grouped(model, g=value).columns["g"][1]
    for name in ("auroc", "balanced_accuracy"):
        assert some.metrics[name].value is not None and some.difference[name].value is None
        assert "images of the same classes" in some.difference[name].reason
    assert some.difference["accuracy"].value is not None


def test_one_group_is_all_there_is_to_tell() -> None:
    found = grouped(answers([1.0])[0], sex=["F"] * 100)
    (group,) = found.columns["sex"]
    assert group.difference["accuracy"].value is None and group.difference["accuracy"].reason == "the rest: 0 images"
    assert found.multiplicity == "No differences: no column has two groups."
    assert grouped(answers([1.0])[0]).as_dict()["columns"] == {}


def test_perfect_groups_still_have_widths() -> None:
    y = np.arange(80) % 2
    found = grouped(answer(y, 0.2 + 0.6 * y), g=["x", "x", "y", "y"] * 20)
    for group in found.columns["g"]:
        for one in (*group.metrics.values(), *group.difference.values()):
            assert np.ptp(limits(one)) > 0.03


def test_as_dict_is_what_evaluation_json_says() -> None:
    found = grouped(answers([1.0])[0], sex=["F", "M"] * 50).as_dict()
    assert set(found) == {"level", "n_subgroups", "multiplicity", "columns"}
    assert (found["level"], found["n_subgroups"]) == (0.95, 2)
    group = found["columns"]["sex"][0]
    assert list(group) == ["value", "n_images", "n_patients", "flagged", "metrics", "difference"]
    assert list(group["metrics"]) == list(group["difference"]) == ["auroc", "accuracy", "sensitivity", "specificity"]
    assert set(group["metrics"]["auroc"]) >= {"value", "low", "high", "n", "method", "reason"}


def test_values_are_one_per_image() -> None:
    with pytest.raises(ValueError, match="3 values of 'sex' for 100 images"):
        grouped(answers([1.0])[0], sex=["F"] * 3)


@pytest.mark.slow
def test_groups_that_are_alike_are_told_apart_in_5_of_100_studies() -> None:
    """Any of the 20 differences of five groups; corrected intervals hold all of them at once."""
    wolf = 0
    for study in range(300):
        model = answers([1.2], patients=250, images=2, seed=study)[0]
        found = grouped(model, site=[str(number // 2 % 5) for number in range(500)])
        wolf += any(
            one.low is not None and one.high is not None and not one.low <= 0 <= one.high
            for group in found.columns["site"]
            for one in group.difference.values()
        )
    assert wolf / 300 <= 0.07
