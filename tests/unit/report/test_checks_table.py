"""Results of checks in words."""

from __future__ import annotations

from typing import Any

import pytest

from medgraft.report.checks_table import check_rows, code_words, verdict_words
from medgraft.types import CheckResult


def row(evidence: dict[str, Any]) -> tuple[dict[str, str], tuple[str, ...], int]:
    (found,) = check_rows([CheckResult("A_CODE", "warning", "title", evidence)])
    return dict((*found.facts, *found.further)), found.examples, found.n_more


def test_errors_come_first_and_equals_keep_their_order() -> None:
    checks = [CheckResult(code, severity, code) for code, severity in (("A", "note"), ("B", "warning"), ("C", "error"))]  # type: ignore[arg-type]
    assert [found.check.code for found in check_rows([*checks, CheckResult("D", "warning", "D")])] == list("CBDA")


@pytest.mark.parametrize(
    ("severities", "line"),
    [
        (["error", "error", "warning"], "2 errors, 1 warning"),
        (["warning"], "no error, 1 warning"),
        (["note"], "Nothing suspicious found"),
        ([], "Nothing suspicious found"),
    ],
)
def test_the_verdict_counts(severities: list[Any], line: str) -> None:
    assert verdict_words([CheckResult("A", severity, "a") for severity in severities]) == line


def test_counts_become_facts_and_what_is_empty_is_left_out() -> None:
    facts, examples, more = row({
        "n_images": 3264, "share": 0.01324, "also_in_train": {"val": 0, "test": 251}, "whole": True, "none": None,
        "empty": [], "limits": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3},
        "pairs": [{"given": "a_b", "images": 12}, {"given": "c", "images": 9}],
    })  # fmt: skip
    assert facts == {
        "images": "3,264", "share": "0.0132", "also in train": "val 0, test 251", "whole": "yes",
        "limits": "0.500 (0.400–0.600)", "pairs": "given a_b, images 12; given c, images 9",
    }  # fmt: skip
    assert (examples, more) == ((), 0)


def test_file_pairs_are_named_first_and_the_rest_is_counted() -> None:
    pair = {"first": "a.png", "second": "b.png", "kind": "mirrored", "distance": 0.01234, "parts": ["train", "test"]}
    _, examples, more = row({"examples": [pair] * 20})
    assert examples == ("a.png and b.png: kind mirrored, distance 0.0123, parts train and test",) * 3 and more == 17
    _, examples, _ = row({"examples": [["a.png", "b.png"], ["a", "b", "c"], "alone.png"]})
    assert examples == ("a.png and b.png", "a, b, c", "alone.png")
    _, examples, _ = row({"files": [{"code": "IMG_EMPTY", "what": "0 bytes", "where": "x.png", "fix": ""}]})
    assert examples == ("x.png: [IMG_EMPTY] 0 bytes",)


def test_long_evidence_is_cut() -> None:
    facts, _, _ = row({"ids": [f"s{n}" for n in range(50)], "per_class": {f"c{n}": n for n in range(1, 30)}})
    assert facts["ids"].startswith("s0, s1") and facts["ids"].endswith("s7 and 42 more")
    assert facts["per class"].endswith("c8 8 and 21 more")


def test_codes_have_headings() -> None:
    assert code_words("COPIES_NEAR_ACROSS_PARTS") == "Near copies in two parts"
    assert code_words("SOMETHING_NEW") == "Something new"
