"""Models against a reference: one dictionary that a file and a page are made of."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from answers import answer, answers
from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.against_reference import against_reference
from medgraft.evaluation.differences import Answers, paired_differences

CONFIG = EvaluationConfig(bootstrap=200)


def compared(*models: Answers, patients: bool = True) -> dict[str, Any]:
    positive = 1 if len(models[0].scores.classes) == 2 else None
    found = against_reference(
        dict(zip("ABCD", models, strict=False)), CONFIG, positive=positive, patients_known=patients, seed=0
    )
    json.dumps(found, allow_nan=False)
    return found


def test_two_models_have_metrics_differences_and_tests() -> None:
    first, second = answers([0.8, 1.6], images=2)
    found = compared(first, second)
    assert (found["n_images"], found["n_patients"], found["ranking"]) == (200, 100, [])
    assert [model["name"] for model in found["models"]] == ["A", "B"]
    assert found["models"][0]["metrics"]["accuracy"]["value"] == pytest.approx(first.right.mean())
    (one,) = found["differences"]
    assert (one["model"], one["reference"]) == ("B", "A") and one["simultaneous"] == one["metrics"]
    assert list(one["metrics"]) == ["auroc", "accuracy", "balanced_accuracy", "sensitivity", "specificity"]
    expected = paired_differences(second, first, CONFIG, patients_known=True, seed=0)
    assert {name: one["metrics"][name] for name in expected} == {
        name: estimate.as_dict() for name, estimate in expected.items()
    }
    cases = first.scores.y_true == 1
    assert one["metrics"]["sensitivity"]["n"] == 100
    assert one["metrics"]["sensitivity"]["value"] == pytest.approx(
        second.right[cases].mean() - first.right[cases].mean()
    )
    assert sum(one["agreement"][name] for name in ("both_right", "only_model", "only_reference", "neither")) == 200
    assert one["agreement"]["only_model"] == int((second.right & ~first.right).sum())
    assert one["agreement"]["same_answer"] == int((first.predicted == second.predicted).sum())
    assert [test["name"] for test in one["tests"]] == ["delong", "mcnemar", "durkalski", "bootstrap"]
    assert all(test["p"] == test["p_corrected"] for test in one["tests"])
    assert "nothing is corrected" in found["multiplicity"]


def test_more_models_are_corrected_and_ranked() -> None:
    found = compared(*answers([0.8, 1.6, 1.5, 0.9]))
    assert [one["model"] for one in found["differences"]] == ["B", "C", "D"]
    for one in found["differences"]:
        for name, alone in one["metrics"].items():
            together = one["simultaneous"][name]
            assert together["level"] == pytest.approx(1 - 0.05 / 3) and together["value"] == alone["value"]
            assert together["low"] < alone["low"] and together["high"] > alone["high"]
    p_values = [next(test["p"] for test in one["tests"]) for one in found["differences"]]
    corrected = [next(test["p_corrected"] for test in one["tests"]) for one in found["differences"]]
    assert min(corrected) == pytest.approx(min(1, 3 * min(p_values)))
    assert "3 models are compared" in found["multiplicity"] and "98.33 %, Bonferroni" in found["multiplicity"]
    assert [row["rank"] for row in found["ranking"]] == [1, 2, 3, 4]
    assert found["ranking"][0]["name"] in "BC" and found["ranking"][0]["difference"] is None


def test_more_classes_and_unknown_patients() -> None:
    found = compared(*answers([0.8, 1.6], n_classes=3, patients=90), patients=False)
    assert found["n_patients"] is None
    assert list(found["differences"][0]["metrics"]) == ["auroc", "accuracy", "balanced_accuracy"]
    assert list(found["models"][0]["metrics"]) == ["auroc", "accuracy", "balanced_accuracy", "brier", "ece"]
    assert found["models"][0]["metrics"]["auroc"]["method"] == "image bootstrap"


def test_one_class_leaves_what_can_be_said() -> None:
    y = np.zeros(30, dtype=int)
    rng = np.random.default_rng(0)
    found = compared(*(answer(y, rng.random(30)) for _ in range(3)))
    one = found["differences"][0]
    assert one["metrics"]["sensitivity"]["value"] is None and one["metrics"]["sensitivity"]["reason"] == "0 cases"
    assert one["metrics"]["specificity"]["value"] == one["metrics"]["accuracy"]["value"]
    assert one["metrics"]["auroc"]["value"] is None and found["ranking"] == []


def test_one_model_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="two models"):
        compared(*answers([1.0]))
