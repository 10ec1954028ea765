"""Prediction sets: as mapie has them, as promised for new patients, and as told when they say nothing."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.conformal import Conformal, evaluate_conformal, fit_conformal, refer_band
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.types import FloatArray, IntArray, Scores

CONFIG = EvaluationConfig(bootstrap=100)
ARGMAX = OperatingPoint("argmax", None, None)


def scores_of(y: Any, proba: Any, patients: Any = None, classes: tuple[str, ...] = ()) -> Scores:
    table = np.asarray(proba, dtype=float)
    ids = tuple(f"s{i}" for i in range(len(table)))
    names = classes or tuple("abcdefgh"[: table.shape[1]])
    return Scores(ids, ids if patients is None else tuple(map(str, patients)), names, np.asarray(y, dtype=int), table)


def binary(y: list[int], of_yes: list[float], patients: Any = None) -> Scores:
    p = np.array(of_yes, dtype=float)
    return scores_of(y, np.stack([1 - p, p], axis=1), patients, ("no", "yes"))


def conformal(threshold: float, *, classes: tuple[str, ...] = ("no", "yes"), unit: str = "image") -> Conformal:
    return Conformal(0.9, threshold, 40, unit, 40, classes)  # type: ignore[arg-type]


def called(proba: FloatArray) -> IntArray:
    return proba.argmax(axis=1).astype(np.int64)


class Known(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose inputs are its probabilities."""

    def __init__(self, n_classes: int = 2) -> None:
        self.n_classes = n_classes
        self.classes_ = np.arange(n_classes)

    def fit(self, x: FloatArray, y: IntArray) -> Known:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, x: FloatArray) -> FloatArray:
        return x

    def predict(self, x: FloatArray) -> IntArray:
        return called(x)


def test_sets_are_those_of_mapie_with_one_image_per_patient() -> None:
    generator = np.random.default_rng(0)
    for _ in range(100):
        n_classes, n = int(generator.integers(2, 6)), int(generator.integers(20, 200))
        coverage = float(generator.choice([0.6, 0.75, 0.8, 0.9, 0.95]))
        proba = generator.dirichlet(np.full(n_classes, generator.uniform(0.2, 2)), size=n + 50)
        if generator.random() < 0.3:  # many ties
            proba = np.round(proba * 8) + 1
            proba /= proba.sum(axis=1, keepdims=True)
        y = np.array([generator.choice(n_classes, p=row) for row in proba])
        y[:n_classes] = np.arange(n_classes)
        found = fit_conformal(scores_of(y[:n], proba[:n]), coverage, patients_known=True)
        oracle = SplitConformalClassifier(Known(n_classes), confidence_level=coverage, conformity_score="lac")
        oracle.conformalize(proba[:n], y[:n])
        _, expected = oracle.predict_set(proba[n:])
        np.testing.assert_array_equal(found.sets(proba[n:]), expected[:, :, 0])
        assert found == fit_conformal(scores_of(y[:n], proba[:n], range(n)), coverage, patients_known=True)


def study(generator: np.random.Generator, patients: int) -> Scores:
    """Patients of 1 or 25 images that share an effect; those with many images are the easy ones."""
    many = generator.random(patients) < 0.3
    images = np.where(many, 25, 1)
    shared = np.where(many, 2.5, 0.7) + 0.8 * generator.normal(size=patients)
    logit = np.repeat(shared, images) + 0.5 * generator.normal(size=images.sum())
    y = np.repeat(generator.integers(0, 2, size=patients), images)
    of_truth = 1 / (1 + np.exp(-logit))
    proba = np.where(np.arange(2) == y[:, None], of_truth[:, None], 1 - of_truth[:, None])
    return scores_of(y, proba, np.repeat(np.arange(patients), images))


def covered(found: Conformal, fresh: Scores) -> float:
    """Share of random images of random patients."""
    held = found.sets(fresh.y_proba)[np.arange(len(fresh)), fresh.y_true]
    _, unit = np.unique(fresh.patient_ids, return_inverse=True)
    return float((np.bincount(unit, weights=held) / np.bincount(unit)).mean())


@pytest.mark.parametrize(("coverage", "patients"), [(0.9, 60), (0.8, 25)])
def test_new_patients_are_covered_as_promised_and_images_alone_would_undercover(coverage: float, patients: int) -> None:
    generator = np.random.default_rng(7)
    fresh = study(generator, 3000)
    by_patient, by_image = [], []
    for _ in range(200):
        validation = study(generator, patients)
        by_patient.append(covered(fit_conformal(validation, coverage, patients_known=True), fresh))
        by_image.append(covered(fit_conformal(validation, coverage, patients_known=False), fresh))
    mean, error = float(np.mean(by_patient)), float(np.std(by_patient)) / math.sqrt(200)
    # 3000 fresh patients are a sample too
    error = math.hypot(error, math.sqrt(coverage * (1 - coverage) / 3000))
    print(f"asked {coverage}, {patients} patients: {mean:.4f} +- {error:.4f}, by image {np.mean(by_image):.4f}")
    assert coverage - 2.6 * error <= mean <= coverage + 2 / (patients + 1) + 2.6 * error
    assert np.mean(by_image) < coverage - 0.05


def test_every_patient_weighs_the_same() -> None:
    # nine patients with one image at 0.9, one with a hundred images at 0.2
    y, p = [1] * 109, [0.9] * 9 + [0.2] * 100
    patients = [*range(9), *[9] * 100]
    found = fit_conformal(binary(y, p, patients), 0.8, patients_known=True)
    assert (found.threshold, found.n_units, found.unit, found.n_images) == (0.9, 10, "patient", 109)
    alone = fit_conformal(binary(y, p, patients), 0.8, patients_known=False)
    assert (alone.threshold, alone.n_units, alone.unit) == (0.2, 109, "image")


def test_too_few_patients_put_every_class_in_every_set_and_say_so() -> None:
    scores = binary([0, 1] * 20, [0.1, 0.9] * 20, [i // 5 for i in range(40)])
    found = fit_conformal(scores, 0.9, patients_known=True)
    assert found.threshold == 0 and found.sets(scores.y_proba).all()
    assert "8 validation patients are too few for a coverage of 0.9, which needs 9" in found.reason
    assert "Nothing useful is promised" in found.promise
    facts = evaluate_conformal(found, scores, OperatingPoint("argmax", "yes", 0.5), config=CONFIG,
                               patients_known=True, seed=0)  # fmt: skip
    assert facts["verdict"] == "empty" and "too few" in facts["text"]
    assert facts["realized"]["referred"]["value"] == 1 and facts["realized"]["set_size"]["value"] == 2
    assert facts["realized"]["error_answered"]["value"] is None
    nine = fit_conformal(binary([1] * 9, [0.5 + i / 100 for i in range(9)]), 0.9, patients_known=True)
    assert nine.threshold == 0.5 and nine.reason == ""
    one = fit_conformal(binary([1], [0.7]), 0.9, patients_known=False)
    assert "1 validation image is too few" in one.reason


def test_no_validation_image_at_all() -> None:
    found = fit_conformal(scores_of([], np.zeros((0, 3))), 0.9, patients_known=True)
    assert found.reason and found.sets(np.full((2, 3), 1 / 3)).all()
    facts = evaluate_conformal(found, scores_of([], np.zeros((0, 3))), ARGMAX, config=CONFIG, patients_known=True,
                               seed=0)  # fmt: skip
    assert facts["verdict"] == "not estimable" and facts["realized"]["sizes"] == [0, 0, 0, 0]
    assert facts["realized"]["set_size"]["reason"] == "0 images"


def test_ties_at_the_threshold_are_inside() -> None:
    found = fit_conformal(binary([1] * 20, [0.75] * 20), 0.9, patients_known=True)
    assert found.threshold == 0.75
    np.testing.assert_array_equal(found.sets(np.array([[0.25, 0.75], [0.75, 0.25]])), [[False, True], [True, False]])
    below = np.nextafter(0.75, 0)
    assert not found.sets(np.array([[1 - below, below]])).any()


def test_one_class_only_in_validation() -> None:
    generator = np.random.default_rng(3)
    proba = generator.dirichlet([8, 1, 1], size=50)
    found = fit_conformal(scores_of(np.zeros(50), proba), 0.9, patients_known=False)
    facts = evaluate_conformal(found, scores_of(np.zeros(50), proba), ARGMAX, config=CONFIG, patients_known=False,
                               seed=0)  # fmt: skip
    assert facts["realized"]["coverage"]["value"] >= 0.9
    assert facts["realized"]["per_class"]["a"]["n"] == 50
    assert facts["realized"]["per_class"]["b"]["value"] is None and facts["realized"]["per_class"]["b"]["reason"]


def test_sets_of_both_classes_are_referred_and_the_band_says_where() -> None:
    found, point = conformal(0.375), OperatingPoint("argmax", "yes", 0.5)
    p = np.array([0.1, 0.374, 0.375, 0.5, 0.625, 0.626, 0.9])
    proba = np.stack([1 - p, p], axis=1)
    assert found.names(proba) == [("no",), ("no",), *[("no", "yes")] * 3, ("yes",), ("yes",)]
    np.testing.assert_array_equal(found.refer(proba, called(proba)), [False, False, True, True, True, False, False])
    band = refer_band(found, point)
    assert band is not None
    assert band["text"] == "referred: probability of yes from 0.375 and up to 0.625"


def test_empty_sets_are_referred() -> None:
    found = conformal(0.8)
    p = np.array([0.1, 0.2, 0.3, 0.79, 0.8])
    proba = np.stack([1 - p, p], axis=1)
    assert found.names(proba) == [("no",), ("no",), (), (), ("yes",)]
    np.testing.assert_array_equal(found.refer(proba, called(proba)), [False, False, True, True, False])
    facts = evaluate_conformal(found, binary([0, 0, 0, 1, 1], p.tolist()), OperatingPoint("argmax", "yes", 0.5),
                               config=CONFIG, patients_known=False, seed=0)  # fmt: skip
    assert facts["realized"]["sizes"] == [2, 3, 0]
    assert facts["band"]["text"] == "referred: probability of yes above 0.200 and below 0.800"


@pytest.mark.parametrize("threshold", [0.0, 0.125, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("at", [0.03125, 0.25, 0.5, 0.625, 0.875])
def test_the_band_is_where_images_are_referred(threshold: float, at: float) -> None:
    found, point = conformal(threshold), OperatingPoint("youden", "yes", at)
    p = np.arange(0, 65) / 64  # exact, as its mirror image is
    proba = np.stack([1 - p, p], axis=1)
    referred = found.refer(proba, point.predict(proba, ("no", "yes")))
    band = refer_band(found, point)
    assert band is not None
    above = p >= band["low"] if band["low_included"] else p > band["low"]
    below = p <= band["high"] if band["high_included"] else p < band["high"]
    np.testing.assert_array_equal(referred, above & below)
    mirrored = conformal(threshold, classes=("yes", "no"))
    np.testing.assert_array_equal(
        mirrored.refer(proba[:, ::-1], point.predict(proba[:, ::-1], ("yes", "no"))), referred
    )


def test_a_label_that_its_set_does_not_hold_is_referred() -> None:
    found, point = conformal(0.4), OperatingPoint("sensitivity:0.95", "yes", 0.2)
    proba = np.array([[0.7, 0.3]])
    assert found.names(proba) == [("no",)]
    assert found.refer(proba, point.predict(proba, ("no", "yes"))).all()
    assert refer_band(found, point)["low"] == 0.2  # type: ignore[index]


def test_facts_of_an_evaluation() -> None:
    generator = np.random.default_rng(1)
    validation, test = study(generator, 60), study(generator, 80)
    found = fit_conformal(validation, 0.9, patients_known=True)
    point = OperatingPoint("argmax", "b", 0.5)
    facts = evaluate_conformal(found, test, point, config=CONFIG, patients_known=True, seed=0)
    realized = facts["realized"]
    assert realized["coverage"]["value"] == pytest.approx(covered(found, test))
    assert realized["coverage"]["low"] < realized["coverage"]["value"] < realized["coverage"]["high"]
    assert realized["coverage"]["method"] == "mean of patients, wilson, effective n by patient"
    inside, predicted = found.sets(test.y_proba), called(test.y_proba)
    answered = ~found.refer(test.y_proba, predicted)
    assert realized["referred"]["value"] == pytest.approx(1 - answered.mean())
    assert realized["error_answered"]["value"] == pytest.approx((predicted != test.y_true)[answered].mean())
    assert realized["error_answered"]["n"] == answered.sum()
    assert realized["answered_wrong"]["value"] == pytest.approx(((predicted != test.y_true) & answered).mean())
    assert realized["set_size"]["value"] == pytest.approx(inside.sum(axis=1).mean())
    assert sum(realized["sizes"]) == len(test) and sum(one["n"] for one in realized["per_class"].values()) == len(test)
    assert facts["verdict"] == "in line" and "each patient counting once; 0.9 was asked" in facts["text"]
    assert "random image of a new patient" in facts["promise"] and facts["reason"] == ""
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    # the same where test patients are unknown: images count
    unknown = evaluate_conformal(found, test, point, config=CONFIG, patients_known=False, seed=0)
    held = inside[np.arange(len(test)), test.y_true]
    assert unknown["realized"]["coverage"]["value"] == pytest.approx(held.mean())


def test_images_unlike_validation_are_said_to_be_covered_less_than_asked() -> None:
    validation = binary([0, 1] * 50, [0.1, 0.9] * 50)
    found = fit_conformal(validation, 0.9, patients_known=False)
    flipped = binary([1, 0] * 50, [0.1, 0.9] * 50)
    facts = evaluate_conformal(found, flipped, OperatingPoint("argmax", "yes", 0.5), config=CONFIG,
                               patients_known=False, seed=0)  # fmt: skip
    assert facts["verdict"] == "below" and "less than asked" in facts["text"]
    assert facts["realized"]["coverage"]["value"] == 0 and facts["realized"]["coverage"]["high"] > 0
    assert "Patients are unknown" in facts["promise"]


def test_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be evaluated"):
        evaluate_conformal(conformal(0.3), scores_of([0], [[0.5, 0.5]]), ARGMAX, config=CONFIG, patients_known=False,
                           seed=0)  # fmt: skip
    with pytest.raises(ValueError, match="for 2 classes"):
        conformal(0.3).sets(np.ones((3, 3)) / 3)
    assert refer_band(conformal(0.3, classes=("a", "b", "c")), ARGMAX) is None


def test_patient_intervals_hold_the_truth() -> None:
    generator = np.random.default_rng(11)
    found = fit_conformal(study(generator, 400), 0.85, patients_known=True)
    truth, kept = covered(found, study(generator, 20000)), 0
    point = OperatingPoint("argmax", "b", 0.5)
    for _ in range(200):
        facts = evaluate_conformal(found, study(generator, 50), point, config=CONFIG, patients_known=True, seed=0)
        estimate = facts["realized"]["coverage"]
        kept += estimate["low"] <= truth <= estimate["high"]
    assert 0.91 <= kept / 200 <= 0.99


def test_a_dictionary_there_and_back() -> None:
    found = Conformal(0.9, 1 / 3, 31, "patient", 77, ("no", "yes"))
    assert Conformal.from_dict(json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.parametrize(
    "changes",
    [
        {"coverage": 1.0}, {"coverage": "high"}, {"coverage": float("nan")}, {"threshold": -0.1}, {"threshold": None},
        {"threshold": float("nan")}, {"n_units": 2}, {"n_units": 78}, {"n_units": True}, {"n_units": 30.5},
        {"unit": "scan"}, {"unit": "image"}, {"n_images": -1}, {"classes": ["no"]}, {"classes": "no"},
        {"classes": ["no", "no"]}, {"classes": [1, 2]},
    ],
)  # fmt: skip
def test_content_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    values = Conformal(0.9, 1 / 3, 31, "patient", 77, ("no", "yes")).as_dict()
    with pytest.raises((TypeError, ValueError)):
        Conformal.from_dict({**values, **changes})
    with pytest.raises(KeyError):
        Conformal.from_dict({name: value for name, value in values.items() if name != next(iter(changes))})
