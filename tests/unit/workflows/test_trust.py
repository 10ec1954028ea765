"""What stands beside the numbers: each subset has its own, whatever its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medgraft.checks.leaks import IN_SPLIT, Leaks
from medgraft.config import Config
from medgraft.data.manifest import Manifest
from medgraft.evaluation.evaluate import Evaluation, evaluate_scores
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.types import IntArray, Scores
from medgraft.workflows.trust import seen_in_training

LABELS = ["a", "b"] * 4
RIGHT = np.array([1, 1, 1, 1, 1, 0, 0, 1])


def evaluated(rows: IntArray) -> Evaluation:
    """Two classes, eight images of eight patients; the first four are right, and half of the rest."""
    truth = np.array([0, 1] * 4)
    second = np.where((truth == 1) == (RIGHT == 1), 0.9, 0.1)
    names = tuple(f"i{row}" for row in rows.tolist())
    scores = Scores(names, names, ("a", "b"), truth[rows], np.stack([1 - second, second], axis=1)[rows])
    config = Config.model_validate({"evaluation": {"bootstrap": 100}}).evaluation
    return evaluate_scores(
        scores, OperatingPoint("youden", "b", 0.5), temperature=1.0, config=config, patients_known=True,
        n_declared=8, seed=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kinds", "headline", "accuracy"),
    [
        ("eeeecccc", "clean", {"all": 0.75, "copied": 1.0, "clean": 0.5}),  # as many copies as clean images
        ("enppcccc", "clean", {"all": 0.75, "copied": 1.0, "same_patient": 1.0, "clean": 0.5}),
        ("cccccccc", "all", {"all": 0.75, "copied": None, "clean": 0.75}),
        ("eeeeeeee", "all", {"all": 0.75, "copied": 0.75, "clean": None}),
    ],
)
def test_every_subset_has_its_own_numbers(kinds: str, headline: str, accuracy: dict[str, float | None]) -> None:
    given = np.array(list(kinds))
    leaks = Leaks(given == "e", given == "n", given == "p", IN_SPLIT)
    columns = {"sample_id": [f"i{row}" for row in range(8)], "path": ["x"] * 8, "label": LABELS}
    manifest = Manifest.from_columns(columns, root=Path("/made"), classes=("a", "b"), patient_source="none")
    found = seen_in_training(leaks, manifest, evaluated(leaks.rows(leaks.headline)), evaluated)
    assert found["headline"] == headline and set(found["subsets"]) == set(accuracy)
    for name, value in accuracy.items():
        subset = found["subsets"][name]
        rows = leaks.rows("all" if name == "all" else name)  # type: ignore[arg-type]
        assert subset["n_images"] == np.sum(subset["confusion"]) == len(rows)
        if value is None:
            assert subset["metrics"] == {} and subset["n_patients"] == 0
        else:
            assert subset["metrics"]["accuracy"]["value"] == pytest.approx(value)
    counts = [int((given == kind).sum()) for kind in "enp"]
    assert [found["leaks"][name] for name in ("exact", "near", "patients")] == counts
