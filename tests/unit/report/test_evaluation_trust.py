"""The report says beside every number whether it can be trusted, and says nothing of what was not looked at."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.evaluate import evaluate_scores
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.report.evaluation_page import BlankedPair, FoldRow, PicturedExample, ReportContent, write_report
from medgraft.types import CheckResult, Scores

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $x^{2$ {{7*7}}"
GRAY = np.full((32, 32, 3), 90, dtype=np.uint8)
CONCLUSION = "of 160 images 40 are pixel-identical to train and validation images"


@cache
def plain() -> ReportContent:
    """An evaluation of 120 images that knows nothing of trust."""
    generator = np.random.default_rng(0)
    truth = np.arange(120, dtype=np.int64) % 2
    yes = np.clip(0.5 + 0.25 * (truth - 0.5) + generator.normal(0, 0.2, 120), 0.01, 0.99)
    ids = tuple(f"i{n}" for n in range(120))
    scores = Scores(ids, ids, ("no", "yes"), truth, np.stack([1 - yes, yes], axis=1))
    point = OperatingPoint("youden", "yes", 0.5)
    config = EvaluationConfig.model_validate({"bootstrap": 100})
    evaluation = evaluate_scores(
        scores, point, temperature=1.0, config=config, patients_known=True, n_declared=120, seed=0
    ).with_patient_independence("verified")
    return ReportContent("Scans", evaluation.as_dict(), scores, point.predict(scores.y_proba, scores.classes))


def estimate(value: float | None, n: int = 120, *, half: float = 0.04) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - half, value + half)
    reason = "0 cases" if value is None else ""
    return {"value": value, "low": low, "high": high, "level": 0.95, "n": n, "method": "", "reason": reason}


def three(value: float, n: int = 120) -> dict[str, Any]:
    return {name: estimate(value - 0.01 * k, n) for k, name in enumerate(("auroc", "accuracy", "balanced_accuracy"))}


def leaky(**given: Any) -> dict[str, Any]:
    own = plain().evaluation
    clean = {name: own[name] for name in ("n_images", "n_patients", "metrics", "confusion")}
    copied = {"n_images": 40, "n_patients": 40, "metrics": three(0.99, 40), "confusion": [[20, 0], [0, 20]]}
    whole = [
        [a + b for a, b in zip(*rows, strict=True)]
        for rows in zip(clean["confusion"], copied["confusion"], strict=True)
    ]
    found = {
        "headline": "clean",
        "subsets": {
            "all": {"n_images": 160, "n_patients": 160, "metrics": three(0.951, 160), "confusion": whole},
            "copied": copied,
            "clean": clean,
        },
        "leaks": {
            "against": "train and validation images", "exact": 38, "near": 2, "patients": 0, "conclusion": CONCLUSION,
        },
    }  # fmt: skip
    return {**found, **given}


def compared(verdict: str) -> dict[str, Any]:
    names = {"majority": 0.5, "thumbnail_1nn": 0.764, "metadata": 0.6}
    baselines = {
        name: {"protocol": "fitted on 900 images", "metrics": three(value), "gain": three(0.8 - value)}
        for name, value in names.items()
    }
    text = f"the model {verdict} the nearest thumbnail by 0.036"
    best = {"best": "thumbnail_1nn", "metric": "auroc", "gain": estimate(0.036), "verdict": verdict, "text": text}
    return {"baselines": baselines, "baseline_verdict": best}


SHORTCUTS = {
    "sources": {"corners": {"protocol": "5 folds", "metrics": three(0.66)}},
    "rescored": {
        "text_blanked": {
            "n_images": 80, "n_changed": 11, "metrics": three(0.79, 80), "drop": three(0.01, 80), "flagged": False,
        },
        "corners_blanked": {"n_images": 80, "metrics": three(0.7, 80), "drop": three(0.1, 80), "flagged": True},
        "borders_blanked": None,
    },
}  # fmt: skip
SUBGROUPS = {
    "level": 0.95, "n_subgroups": 2, "multiplicity": "intervals of differences hold for all 2 at once",
    "columns": {
        "sex": [
            {
                "value": "F", "n_images": 100, "n_patients": 50, "flagged": "", "metrics": three(0.9, 100),
                "difference": three(0.05),
            },
            {
                "value": "M", "n_images": 20, "n_patients": 9, "flagged": "fewer than 10 patients: 9",
                "metrics": {"auroc": estimate(None, 20)}, "difference": {},
            },
        ],
    },
}  # fmt: skip


def sets(verdict: str) -> dict[str, Any]:
    realized = {
        "coverage": estimate(0.82), "per_class": {"no": estimate(0.8, 60), "yes": estimate(0.84, 60)},
        "set_size": estimate(1.12), "referred": estimate(0.131), "error_answered": estimate(0.055, 104),
        "answered_wrong": estimate(0.048), "sizes": [1, 104, 15],
    }  # fmt: skip
    return {
        "coverage": 0.9, "promise": "With a probability of 0.9 the set holds the truth.", "reason": "",
        "band": {"text": "referred: probability of yes from 0.310 and up to 0.690"}, "realized": realized,
        "verdict": verdict, "text": "Sets held the truth in 0.820 of the images; 0.9 was asked.",
    }  # fmt: skip


def written(folder: Path, evaluation: dict[str, Any] | None = None, **content: Any) -> tuple[str, str]:
    """Markup and visible text of a page with these additions."""
    base = plain()
    shown = replace(base, evaluation={**base.evaluation, **(evaluation or {})}, **content)
    html = write_report(shown, folder).read_text(encoding="utf-8")
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return html, " ".join(re.sub(r"<[^>]*>", " ", body).split()).replace(" : ", ": ")


def test_the_leading_number_is_the_clean_one_and_the_other_is_struck_out(tmp_path: Path) -> None:
    html, text = written(tmp_path, leaky(), n_declared=160)
    auroc = plain().evaluation["metrics"]["auroc"]
    assert f"AUROC {auroc['value']:.3f} ({auroc['low']:.3f}–{auroc['high']:.3f})" in text
    assert "on 120 images that training has not seen, of 120 patients" in text
    assert (
        "On all 160 images, which include 40 copies of training images, it would read 0.951 (0.911–0.991): "
        "memory, not skill." in text
    )
    assert "<s>0.951 (0.911–0.991)</s>" in html and text.index("on 120 images") < text.index("On all 160 images")
    assert "Only images that training has not seen, positive class yes" in text


def test_scores_stand_apart_by_what_training_has_seen(tmp_path: Path) -> None:
    html, text = written(tmp_path, leaky())
    section = text[text.index("Seen in training", text.index("On all 160")) :]
    assert "Of 160 images 40 are pixel-identical" in section
    assert "Copies of training images 40 40 0.990 0.950–1.030" in section and "All images 160 160 0.951" in section
    assert "yes 60 20 80" in section, "images by class: not seen, copies, all"
    assert 'alt="AUROC: Not seen in training' in html and (tmp_path / "plots" / "seen.png").exists()


def test_without_a_clean_image_the_number_is_shown_as_memory(tmp_path: Path) -> None:
    empty = {"n_images": 0, "n_patients": 0, "metrics": {}, "confusion": [[0, 0], [0, 0]]}
    given = leaky(headline="all")
    given["subsets"] = {**given["subsets"], "clean": empty}
    html, text = written(tmp_path, given)
    assert 'class="headline distrust"' in html
    assert "These images include 40 copies of training images, which makes this number memory, not skill." in text
    assert "Not seen in training 0 0 – –" in text
    assert text.count("none left") == 2, "classes of which none is clean"


def test_images_of_known_patients_are_counted_beside_copies(tmp_path: Path) -> None:
    given = leaky()
    given["subsets"] = {
        **given["subsets"],
        "same_patient": {"n_images": 3, "n_patients": 2, "metrics": three(0.9, 3), "confusion": None},
    }
    given["leaks"] = {**given["leaks"], "patients": 3}
    _, text = written(tmp_path, given)
    assert "40 copies of training images and 3 images of patients that training has seen" in text
    assert "Patients seen in training 3 2 0.900" in text


def test_nothing_seen_is_said_in_a_line(tmp_path: Path) -> None:
    leaks = {"against": "train and validation images", "exact": 0, "near": 0, "patients": 0}
    html, text = written(tmp_path, leaky(headline="all", leaks={**leaks, "conclusion": "none of the 120 is a copy"}))
    assert (
        "None of the 120 is a copy." in text
        and 'id="seen"' not in html
        and "distrust" not in html.partition("</style>")[2]
    )


@pytest.mark.parametrize(("verdict", "red"), [("beats", False), ("not shown", True), ("worse", True)])
def test_the_page_turns_red_unless_the_model_beats_the_baselines(tmp_path: Path, verdict: str, red: bool) -> None:
    html, text = written(tmp_path, compared(verdict))
    assert ('class="headline distrust"' in html, '<section id="baselines" class="distrust">' in html) == (red, red)
    sign = "bad" if red else "good"
    assert html.count(f'<p class="verdict {sign}"><svg class="sign {sign}"') == 2, "headline and section, with a sign"
    assert text.count(f"The model {verdict} the nearest thumbnail by 0.036.") == 2


def test_baselines_stand_with_the_model_and_what_it_adds(tmp_path: Path) -> None:
    html, text = written(tmp_path, compared("beats"))
    auroc = plain().evaluation["metrics"]["auroc"]["value"]
    assert f"This model 120 {auroc:.3f}" in text
    assert "Nearest thumbnail the class of the most alike training image at 32x32 pixels 120 0.764 0.724–0.804" in text
    assert "+0.036 −0.004 to +0.076" in text and "Fitted on 900 images." in text
    assert text.index("Nearest thumbnail") < text.index("Facts of the files") < text.index("Most frequent class")
    assert 'alt="AUROC gained by this model over it: Nearest thumbnail +0.036' in html
    assert {"baselines.png", "gain.png"} <= {path.name for path in (tmp_path / "plots").iterdir()}


def test_shortcuts_show_drops_flags_and_pictures(tmp_path: Path) -> None:
    pair = BlankedPair("yes: corners blanked, 0.91 became 0.55", GRAY, 255 - GRAY)
    given = {"shortcuts": SHORTCUTS, **compared("beats")}
    html, text = written(tmp_path, given, blanked=[pair])
    assert "Corners alone 120 0.660" in text and text.count("Facts of the files") == 2, "a baseline and a source"
    assert "Corners blanked look 80 0.700 0.660–0.740" in text and "+0.100 +0.060 to +0.140" in text
    assert "Text blanked 11 of them changed by it 80 0.790" in text and "Borders blanked" not in text
    assert "corners blanked, 0.91 became 0.55" in text and html.count("data:image/jpeg") == 2


def test_subgroups_show_small_ones_in_gray_with_the_reason(tmp_path: Path) -> None:
    html, text = written(tmp_path, {"subgroups": SUBGROUPS})
    assert "Intervals of differences hold for all 2 at once" in text
    assert "F 100 50 0.900 0.860–0.940" in text and "+0.050 +0.010 to +0.090" in text
    assert 'class="quiet"' in html and "M fewer than 10 patients: 9 20 9 not estimable" in text
    assert (tmp_path / "plots" / "subgroups_1.png").exists()


@pytest.mark.parametrize(("verdict", "sign"), [("in line", "good"), ("below", "bad"), ("empty", "unsure")])
def test_prediction_sets_show_what_was_asked_and_what_became_of_it(tmp_path: Path, verdict: str, sign: str) -> None:
    html, text = written(tmp_path, {"conformal": sets(verdict)})
    assert "Truth in the set 82.0 % 78.0–86.0 %, n = 120 asked: 90 %" in text
    assert "Left to a person 13.1 % 9.1–17.1 %, n = 120" in text and "Classes per set 1.12 1.08–1.16, n = 120" in text
    assert "Wrong among the answered 5.5 % 1.5–9.5 %, n = 104" in text
    assert "Referred: probability of yes from 0.310 and up to 0.690." in text
    assert "With a probability of 0.9 the set holds the truth." in text and "0: 1, 1: 104, 2: 15" in text
    assert f'<p class="verdict {sign}">' in html and ('<section id="sets" class="distrust">' in html) == (sign == "bad")


def test_folds_of_a_cross_validation_stand_in_a_table(tmp_path: Path) -> None:
    folds = [FoldRow(1, k, 60, estimate(0.9 + k / 100, 60), estimate(0.8, 60), 0.25 * k) for k in (1, 2)]
    crossed = {"cross_validation": {"folds": 2, "repeats": 1, "text": "2 folds of whole groups", "note": "why"}}
    _, text = written(tmp_path, crossed, folds=folds, class_counts={"no": {"test": 60}, "yes": {"test": 60}})
    assert "2 folds of whole groups" in text and "1 2 60 0.920 0.880–0.960 0.800 0.760–0.840 0.5000" in text
    assert "Every image answered by models that have not seen it" in text
    assert "mean of the folds’ thresholds" in text and "test images" not in text


def test_checks_show_evidence_pictures_and_notes_behind_a_line(tmp_path: Path) -> None:
    found = CheckResult("LABEL_CONFLICT", "error", "2 pictures stand under two labels", {"pictures": 2}, "look at them")
    note = CheckResult("SPLIT_GIVEN", "note", "parts as given", {"seed": 0})
    pictures = {"LABEL_CONFLICT": [PicturedExample("a.png: no, b.png: yes", (GRAY, GRAY))], "UNKNOWN": []}
    html, text = written(tmp_path, checks=[note, found], check_pictures=pictures)
    section = text[text.rindex("Checks of the data") :]
    assert section.index("LABEL_CONFLICT") < section.index("1 note") < section.index("SPLIT_GIVEN")
    assert "pictures 2" in section and "Look at them" in section and "a.png: no, b.png: yes" in section
    assert html.count("data:image/jpeg") == 2


@pytest.mark.parametrize("value", ["absent", None, {}])
def test_what_was_not_looked_at_is_left_out(tmp_path: Path, value: Any) -> None:
    names = ("headline", "subsets", "leaks", "baselines", "baseline_verdict", "shortcuts", "subgroups", "conformal")
    html, _ = written(
        tmp_path, {} if value == "absent" else dict.fromkeys((*names, "cross_validation", "checks"), value)
    )
    for absent in ("seen", "baselines", "shortcuts", "groups", "sets", "folds", "checks"):
        assert f'id="{absent}"' not in html and f'href="#{absent}"' not in html
    assert "<s>" not in html and 'class="headline"' in html


def test_hostile_text_stays_text_and_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    verdict = {**compared("worse")["baseline_verdict"], "text": EVIL, "best": EVIL}
    group = {**SUBGROUPS["columns"]["sex"][0], "value": EVIL, "flagged": EVIL}  # type: ignore[index]
    given = {
        **leaky(leaks={**leaky()["leaks"], "conclusion": EVIL, "against": EVIL}),
        "baselines": {EVIL: {"protocol": EVIL, "metrics": three(0.7), "gain": three(0.1)}},
        "baseline_verdict": verdict,
        "shortcuts": {
            "sources": {EVIL: {"protocol": EVIL, "metrics": three(0.6)}},
            "rescored": {EVIL: {**SHORTCUTS["rescored"]["corners_blanked"]}},
        },
        "subgroups": {**SUBGROUPS, "multiplicity": EVIL, "columns": {EVIL: [group]}},
        "conformal": {**sets("below"), "promise": EVIL, "text": EVIL, "band": {"text": EVIL}},
    }  # fmt: skip
    content = {
        "blanked": [BlankedPair(EVIL, GRAY, GRAY)],
        "checks": [CheckResult(EVIL, "error", EVIL, {EVIL: EVIL, "examples": [{"first": EVIL, "second": EVIL}]}, EVIL)],
        "check_pictures": {EVIL: [PicturedExample(EVIL, (GRAY,))]},
    }
    html, text = written(tmp_path / "a", given, **content)
    assert "<script" not in html and "<img src=x" not in html and "<script>" not in text
    assert html.count("&lt;script&gt;") > 15 and "{{7*7}}" in html
    assert written(tmp_path / "b", given, **content)[0] == html
