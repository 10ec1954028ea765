"""A group in which the model does worse is pointed out, and no other."""

from __future__ import annotations

import numpy as np

from answers import answer, answers
from medgraft.checks.subgroups import check_subgroups
from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.subgroups import subgroup_estimates


def test_a_group_that_is_called_wrong_is_named_with_numbers() -> None:
    y = np.arange(200) % 2
    site = np.array(["north", "south"])[np.arange(200) // 2 % 2]
    rng = np.random.default_rng(0)
    proba = np.where(site == "south", rng.random(200), 0.3 + 0.4 * y + 0.05 * rng.normal(size=200))
    found = subgroup_estimates(
        answer(y, proba), {"site": site.tolist()}, EvaluationConfig(), positive=1, patients_known=True
    )
    (result,) = check_subgroups(found)
    assert (result.code, result.severity) == ("SUBGROUP_WORSE", "warning")
    assert result.title.startswith("worse where site is south (100 images of 100 patients): auroc 0.")
    assert "below that of all other images" in result.title and "sensitivity" in result.title
    assert set(result.evidence["difference"]) == {"auroc", "accuracy", "sensitivity", "specificity"}
    assert result.evidence["multiplicity"] == found.multiplicity and result.advice
    low, high = (float(number) for number in result.title.split("(")[2].split(")")[0].split(" to "))
    assert 0 < low < high < 1


def test_groups_that_differ_by_chance_are_left_in_peace() -> None:
    model = answers([1.2], patients=100)[0]
    found = subgroup_estimates(
        model, {"sex": ["F", "M"] * 50, "one": ["x"] * 100}, EvaluationConfig(), positive=1, patients_known=False
    )
    assert check_subgroups(found) == ()
