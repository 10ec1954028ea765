"""The page of a paired comparison: what a reader is told, and what names from strangers become."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from answers import answer, answers
from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.against_reference import against_reference
from medgraft.evaluation.differences import Answers
from medgraft.report.paired_page import Disagreement, PairedContent, p_words, write_paired_page
from medgraft.types import RESEARCH_USE_ONLY, CheckResult


def content(*models: Answers, patients: bool = True, **facts: Any) -> PairedContent:
    classes = models[0].scores.classes
    found = against_reference(
        dict(zip("ABCD", models, strict=False)),
        EvaluationConfig(bootstrap=100),
        positive=1 if len(classes) == 2 else None,
        patients_known=patients,
        seed=0,
    )
    for model in found["models"]:
        point = {"rule": "youden", "positive": "b", "threshold": 0.4} if len(classes) == 2 else {"threshold": None}
        model.update(backbone="efficientnet-lite0", bundle="0123456789abcdef", operating_point=point)
    seen: dict[str, Any] = {"models": {}, "cautions": []}
    base = {"classes": list(classes), "positive": "b", "n_declared": found["n_images"], "seen": seen}
    return PairedContent("brain", {**base, **found, **facts})


def page(content: PairedContent, folder: Path) -> str:
    return write_paired_page(content, folder).read_text(encoding="utf-8")


def test_a_better_model_is_called_better(tmp_path: Path) -> None:
    text = page(content(*answers([0.5, 2.5], images=2)), tmp_path)
    assert "B has the higher AUROC than A: the interval lies beyond 0." in text
    assert "on <b>200</b> images of <b>100</b> patients" in text and "No warning" in text
    assert "Difference in AUROC, B less A" in text and "components summed by patient" in text
    assert "&lt; 0.001" in text and RESEARCH_USE_ONLY in text and "<script" not in text
    assert "efficientnet-lite0" in text and "bundle 0123456789ab" in text and "b from 0.400" in text
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["differences_B.png"]
    assert 'alt="Differences, B less A: AUROC +0.' in text


def test_a_worse_one_too_and_what_cannot_be_told_apart_is_said(tmp_path: Path) -> None:
    assert "A has the higher AUROC than B" in page(content(*answers([2.5, 0.5])), tmp_path)
    alike = page(content(*answers([1.0, 1.05], seed=2)), tmp_path)
    assert "These images cannot tell B from A: the interval of the AUROC includes 0." in alike
    same = answers([1.0])[0]
    assert "B and A give the same answers: the answers are the same." in page(content(same, same), tmp_path)


def test_several_models_are_ranked_and_corrected(tmp_path: Path) -> None:
    text = page(content(*answers([0.5, 2.5, 2.4])), tmp_path)
    assert 'id="ranking"' in text and "simultaneous" in text and "p, corrected" in text and "Bonferroni" in text
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"differences_B.png", "differences_C.png"}


def test_more_classes_and_one_class(tmp_path: Path) -> None:
    text = page(content(*answers([0.5, 2.5], n_classes=3, patients=90)), tmp_path)
    assert "most probable class" in text and "same resamples of the patients" in text
    assert "Sensitivity is the share" in text or "Sensitivity" not in text
    y = np.zeros(30, dtype=int)
    alone = content(answer(y, np.linspace(0, 1, 30)), answer(y, np.linspace(0.6, 1, 30)))
    text = page(alone, tmp_path)
    assert "Difference in accuracy, B less A" in text and "A has the higher accuracy than B" in text
    assert "all images are a" in text and "Very small test set: 30 images" in text


def test_what_weakens_the_numbers_stands_above_them(tmp_path: Path) -> None:
    seen = {"models": {}, "cautions": [{"said": "Of 100 images models were trained on copies: B on 9.", "advice": "x"}]}
    told = replace(
        content(*answers([1.0, 1.0]), patients=False, seen=seen, n_declared=103),
        unscored=[(f"bad{number}", "[IMG_EMPTY] empty") for number in range(3)],
        checks=(CheckResult("SIZE", "warning", "few cases"), CheckResult("NOTED", "note", "by the way")),
    )
    text = page(told, tmp_path)
    head = text[: text.index('id="models"')]
    for said in (
        "trained on copies: B on 9",
        "Patients are unknown",
        "3 of 103 declared images have no score",
        "few cases",
    ):
        assert said in head
    assert "by the way" not in head and "By the way" in text and "bad2" in text
    assert head.index("trained on copies") < head.index("Patients are unknown"), "errors first"


def test_disagreements_show_who_was_right(tmp_path: Path) -> None:
    image = np.full((40, 40, 3), 90, dtype=np.uint8)
    shown = [
        Disagreement("one", "a", "a", 0.9, "b", 0.2, image),
        Disagreement("two", "a", "b", 0.1, "a", 0.7, image),
        Disagreement("<b>three</b>", "a", "b", 0.1, "b", 0.4, image),
    ]
    text = page(replace(content(*answers([1.0, 1.0])), disagreements={"B": shown}), tmp_path)
    for said in ("only B right", "only A right", "neither right", "&lt;b&gt;three&lt;/b&gt;", "data:image/jpeg"):
        assert said in text


def test_names_from_strangers_stay_text(tmp_path: Path) -> None:
    hostile = replace(content(*answers([1.0, 1.2])), title="<script>alert(1)</script>", provenance=[("<i>", "\u202e")])
    text = page(hostile, tmp_path)
    assert "<script" not in text and "&lt;script&gt;" in text and "\u202e" not in text


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    made = content(*answers([1.0, 1.2]))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert page(made, tmp_path / "a") == page(made, tmp_path / "b")


@pytest.mark.parametrize(
    ("p", "said"), [(0.0312, "0.031"), (0.0004, "< 0.001"), (1.0, "1"), (0.5, "0.5"), (0.9999, "1"), (None, "–")]
)
def test_p_as_usually_written(p: float | None, said: str) -> None:
    assert p_words(p) == said
