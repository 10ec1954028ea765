"""Which cases a report shows, and what the story of a run may claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgraft.data.manifest import Manifest
from medgraft.types import CheckResult, Scores
from medgraft.workflows.gallery import choose_cases
from medgraft.workflows.scored import patient_independence, scores_of

if TYPE_CHECKING:
    from conftest import TrainedRun


def scores(proba: list[float], truth: list[int]) -> Scores:
    values = np.array(proba)
    names = tuple(f"i{row}" for row in range(len(truth)))
    return Scores(names, names, ("a", "b"), np.array(truth), np.stack([1 - values, values], axis=1))


def manifest(patients: list[str | None]) -> Manifest:
    columns: dict[str, list[Any]] = {
        "sample_id": [f"i{row}" for row in range(len(patients))],
        "path": [f"{row}.png" for row in range(len(patients))],
        "label": ["b", "a", "b"][: len(patients)],
        "patient_id": patients,
    }
    source = "column patient" if any(patients) else "none"
    return Manifest.from_columns(columns, root=Path("/data"), classes=("b", "a"), patient_source=source)


def test_the_most_confident_errors_and_the_most_typical_right_answers() -> None:
    proba = [0.99, 0.6, 0.9, 0.95, 0.8, 0.7, 0.3, 0.01]
    truth = [0, 0, 0, 1, 1, 1, 1, 0]
    given = scores(proba, truth)
    predicted = (np.array(proba) > 0.5).astype(np.int64)
    wrong, typical = choose_cases(given, predicted, 2)
    assert wrong.tolist() == [0, 2]  # 0.99 and 0.9 for the wrong class
    assert typical.tolist() == [7, 4]  # one per class: the only one, and the median of 0.95, 0.8, 0.7
    wrong, typical = choose_cases(given, predicted, 100)
    assert wrong.tolist() == [0, 2, 6, 1] and len(typical) == 4
    assert [len(rows) for rows in choose_cases(given, predicted, 0)] == [0, 0]


def test_no_errors_and_no_right_answers() -> None:
    given = scores([0.9, 0.1], [1, 0])
    assert choose_cases(given, np.array([1, 0]), 5)[0].size == 0
    assert choose_cases(given, np.array([0, 1]), 5)[1].size == 0


def test_class_indices_follow_the_model() -> None:
    proba = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]])
    found = scores_of(manifest(["p", "q", "p"]), proba, ("a", "b"))
    assert found.y_true.tolist() == [1, 0, 1] and found.patient_ids == ("p", "q", "p")
    assert scores_of(manifest([None] * 3), proba, ("a", "b")).patient_ids == ("i0", "i1", "i2")


def test_independence_is_claimed_only_where_patients_are_known() -> None:
    crossing = CheckResult("PATIENTS_ACROSS_PARTS", "error", "2 patients stand in two parts")
    assert patient_independence(manifest(["p", "q", "r"]), []) == "verified"
    assert patient_independence(manifest(["p", "q", "r"]), [crossing]) == "violated"
    assert patient_independence(manifest(["p", None, "r"]), []) == "not verified"
    assert patient_independence(manifest([None] * 3), []) == "not verified"


def test_a_run_says_what_its_temperature_did_and_what_its_threshold_promised(trained: TrainedRun) -> None:
    content = json.loads((trained.folder / "evaluation.json").read_text(encoding="utf-8"))
    calibration, point = content["calibration"], content["operating_point"]
    assert calibration["temperature"] == content["temperature"]
    assert calibration["before"]["log_loss"]["value"] >= 0
    assert calibration["after"]["ece"] == content["metrics"]["ece"]
    assert point["promised"]["sensitivity"]["value"] == point["validation"]["sensitivity"]
    assert point["realized"]["sensitivity"] == content["metrics"]["sensitivity"]
    for name in ("decision_curve", "risk_coverage"):
        assert len(content[name]["points"]) > 15
        assert (trained.folder / "plots" / f"{name}.png").exists()
