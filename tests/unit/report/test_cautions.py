"""What a reader must know first: errors before warnings, and nothing twice."""

from __future__ import annotations

from typing import Any

from medgraft.report.wording import Caution, cautions, leak_count, nothing_known
from medgraft.types import CheckResult

TITLES = {
    "COPIES_ACROSS_PARTS": "251 images with exact copies stand in more than one part",
    "LEAK_CLEAN_SMALL": "of 394 images 251 are copies",
    "COPIES_EXACT": "289 images are copies of another one",
}


def check(code: str, severity: Any = "error") -> CheckResult:
    return CheckResult(code, severity, TITLES.get(code, code), {}, "do something")


def evaluation(**given: Any) -> dict[str, Any]:
    counts = [[40, 60], [10, 120]]
    return {
        "classes": ["no", "yes"], "confusion": counts, "n_images": 230, "patient_independence": "verified",
        "metrics": {}, **given,
    }  # fmt: skip


def leaky(*, clean: list[list[int]], headline: str = "clean", patients: int = 0) -> dict[str, Any]:
    subsets = {
        "all": {"n_images": 394, "confusion": [[100, 64], [10, 220]]},
        "copied": {"n_images": 164, "confusion": [[60, 4], [0, 100]]},
        "clean": {"n_images": sum(map(sum, clean)), "confusion": clean},
    }
    leaks = {"against": "train and validation images", "exact": 160, "near": 4, "patients": patients}
    leaks["conclusion"] = "of 394 images 164 are copies; the leading numbers are of the others"
    return evaluation(
        headline=headline, subsets=subsets, leaks=leaks, confusion=clean, n_images=sum(map(sum, clean)),
        patient_independence="violated" if patients else "verified",
    )  # fmt: skip


def said(evaluation: dict[str, Any], *checks: CheckResult, n_declared: int = 230) -> list[Caution]:
    return cautions(evaluation, checks, n_declared=n_declared, n_unscored=0)


def test_the_conclusion_about_copies_stands_for_all_checks_that_say_it() -> None:
    found = said(
        leaky(clean=[[40, 60], [10, 120]]), check("COPIES_ACROSS_PARTS"), check("COPIES_EXACT", "warning"),
        n_declared=394,
    )  # fmt: skip
    assert [(one.severity, one.title) for one in found] == [
        ("warning", "Of 394 images 164 are copies; the leading numbers are of the others."),
        ("warning", TITLES["COPIES_EXACT"]),
    ]


def test_too_little_that_is_clean_is_an_error_and_comes_first() -> None:
    for given in (
        said(leaky(clean=[[0, 0], [10, 120]]), check("COPIES_EXACT", "warning"), n_declared=394),
        said(leaky(clean=[[40, 60], [10, 120]]), check("LEAK_CLEAN_SMALL", "warning"), n_declared=394),
        said(leaky(clean=[[40, 60], [10, 120]], headline="all"), n_declared=394),
    ):
        assert given[0].severity == "error" and given[0].title.startswith("Of 394 images 164 are copies")
        assert not [one for one in given if "no case of" in one.title], "the conclusion says it"


def test_patients_on_both_sides_are_said_once() -> None:
    found = said(leaky(clean=[[40, 60], [10, 120]], patients=12), check("PATIENTS_ACROSS_PARTS"), n_declared=394)
    assert len(found) == 1 and "independence" not in found[0].title
    alone = said(evaluation(patient_independence="violated"))
    assert "Patient independence is violated" in alone[0].title


def test_images_left_out_of_the_headline_do_have_a_score() -> None:
    assert not [one for one in said(leaky(clean=[[40, 60], [10, 120]]), n_declared=394) if "no score" in one.title]
    missing = said(leaky(clean=[[40, 60], [10, 120]]), n_declared=400)
    assert any("6 of 400 declared images have no score" in one.title for one in missing)


def test_nobody_knows_what_the_model_has_seen() -> None:
    leaks = {
        "against": "nothing: the model does not remember its training images",
        "exact": 0,
        "near": 0,
        "patients": 0,
    }
    given = evaluation(leaks={**leaks, "conclusion": "whether the model was trained on these images is not known"})
    assert nothing_known(given) and leak_count(given) == 0
    assert [one.title for one in said(given)] == ["Whether the model was trained on these images is not known."]
    known = {**leaks, "against": "the images the model was trained on", "conclusion": "none is a copy"}
    assert said(evaluation(leaks=known)) == []


def test_few_images_of_a_class_are_said_once() -> None:
    small = evaluation(confusion=[[5, 3], [10, 212]])
    assert any("Fewer than 20 test images of no (8)" in one.title for one in said(small))
    again = said(small, check("SIZE_TEST_CLASS", "warning"))
    assert not [one for one in again if "Fewer than 20" in one.title]


def test_the_verdict_on_baselines_stands_with_the_number_and_not_here() -> None:
    verdict = {"verdict": "worse", "text": "the model is worse than the nearest thumbnail"}
    unbeaten = check("BASELINE_NOT_BEATEN", "warning")
    assert said(evaluation(baseline_verdict=verdict), unbeaten) == []
    assert [one.title for one in said(evaluation(), unbeaten)] == ["BASELINE_NOT_BEATEN"]
