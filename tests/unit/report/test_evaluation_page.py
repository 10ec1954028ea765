"""The report: what it says, what it refuses to hide, and that hostile text stays text."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.calibration import apply_temperature
from medgraft.evaluation.evaluate import evaluate_scores
from medgraft.evaluation.operating_point import OperatingPoint, choose_operating_point
from medgraft.report.evaluation_page import Case, ReportContent, Thumb, write_report
from medgraft.report.page import picture, printable
from medgraft.report.wording import estimate_text
from medgraft.types import RESEARCH_USE_ONLY, CheckResult, EpochRow, PixelArray, Scores

BINARY = ("NORMAL", "PNEUMONIA")
TUMORS = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")
HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $x^{2$ {{7*7}} {% raw %}",
    "javascript:alert(3)//\u202egnp.exe & </style></title> $\\frac{",
)


def fake_scores(classes: Sequence[str], n: int, *, skill: float = 2.5, seed: int = 0, of: Sequence[int] = ()) -> Scores:
    """Scores of a classifier of some skill; ``of`` restricts the true classes, two images per patient."""
    generator = np.random.default_rng(seed)
    y_true = generator.choice(list(of) or np.arange(len(classes)), size=n)
    logits = generator.normal(size=(n, len(classes)))
    logits[np.arange(n), y_true] += skill
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = tuple(f"test/{classes[t]}/person{i // 2:04d}_{i % 2}.jpeg" for i, t in enumerate(y_true))
    return Scores(ids, tuple(f"person{i // 2}" for i in range(n)), tuple(classes), y_true.astype(np.int64), proba)


def fake_image(seed: int, *, color: bool = False) -> PixelArray:
    """A soft blob on black, 224x224."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:224, 0:224] / 224 - 0.5
    blob = np.exp(-(((x / 0.33) ** 2 + (y / 0.4) ** 2) ** 2)) * (150 + 60 * np.sin(9 * x + seed) * np.cos(8 * y))
    image = np.repeat(np.clip(blob + generator.normal(0, 5, blob.shape), 0, 255)[..., None], 3, axis=2)
    if color:
        image[..., 0] = np.maximum(image[..., 0], 255 * np.exp(-((x - 0.1) ** 2 + (y + 0.05) ** 2) / 0.01))
    return image.astype(np.uint8)


def fake_history() -> list[EpochRow]:
    rows = [
        EpochRow(
            "head", e, 0.62 / e**0.5, 0.7 + 0.02 * e, 0.55 / e**0.45, 0.74 + 0.017 * e, 0.9 + 0.006 * e, 1e-3, 0.4,
            best=e == 10,
        )
        for e in range(1, 11)
    ]  # fmt: skip
    for e, val in enumerate((0.185, 0.16, 0.142, 0.137, 0.15, 0.158), start=1):
        rows.append(
            EpochRow(
                "finetune",
                e,
                0.17 / e**0.6,
                min(0.99, 0.93 + 0.011 * e),
                val,
                0.935 + 0.006 * min(e, 4),
                0.975,
                1e-4,
                31.0,
            )
        )
    return rows


def cases(scores: Scores, predicted: np.ndarray[Any, Any], *, right: bool, n: int = 6) -> list[Case]:
    members = np.flatnonzero((predicted == scores.y_true) == right)[:n]
    return [
        Case(
            scores.sample_ids[i],
            scores.classes[scores.y_true[i]],
            scores.classes[predicted[i]],
            float(scores.y_proba[i, predicted[i]]),
            fake_image(int(i)),
            fake_image(int(i), color=True),
        )
        for i in members
    ]


def content(
    classes: Sequence[str] = BINARY, *, n: int = 300, skill: float = 2.5, of: Sequence[int] = ()
) -> ReportContent:
    """What a training run would hand over."""
    scores = fake_scores(classes, n, skill=skill, of=of)
    point = choose_operating_point(fake_scores(classes, 200, skill=skill, seed=5), "youden", None)
    point = replace(point, threshold=0.41) if len(classes) == 2 else point
    logits = 1.31 * np.log(np.maximum(scores.y_proba, 1e-300))
    evaluation = evaluate_scores(
        scores,
        point,
        temperature=1.31,
        config=EvaluationConfig.model_validate({"bootstrap": 100}),
        patients_known=True,
        n_declared=n + 2,
        seed=0,
        logits=logits,
    ).with_patient_independence("verified")
    predicted = point.predict(scores.y_proba, classes)
    return ReportContent(
        title="Pneumonia on chest X-rays",
        evaluation=evaluation.as_dict(),
        scores=scores,
        predicted=predicted,
        history=fake_history(),
        validation_scores=fake_scores(classes, 200, skill=skill, seed=5),
        class_counts={name: {"train": 900 + 300 * i, "val": 200, "test": 150} for i, name in enumerate(classes)},
        sample_grid=[Thumb(name, fake_image(k + 10 * i), "train") for i, name in enumerate(classes) for k in range(7)],
        errors=cases(scores, predicted, right=False),
        typical=cases(scores, predicted, right=True),
        checks=[
            CheckResult(
                "COPIES_NEAR",
                "warning",
                "14 test images have a near copy in train (1.8 %).",
                {},
                "Look at the pairs in checks.json.",
            ),
            CheckResult("LABELS_OK", "note", "Every image has a label.", {}),
        ],
        plan_rows=[
            ("training.views", "8", "2,870 images fit into the cache eight times"),
            ("model.size", "224", "size of the weights"),
        ],
        uncalibrated=apply_temperature(logits, 1.0),
        decision=evaluation.decision_curve,
        risk=evaluation.risk_coverage,
        provenance=[("medgraft", "0.1.0"), ("bundle sha256", "ab" * 32)],
        n_declared=n + 2,
        unscored=[("broken.png", "[IMG_TRUNCATED] file ends early"), ("empty.png", "[IMG_EMPTY] 0 bytes")],
    )


class Page(HTMLParser):
    """Tags with attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._hidden = 0
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


def render(shown: ReportContent, folder: Path) -> Page:
    path = write_report(shown, folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_binary_report_says_the_headline_with_interval_n_and_patients(tmp_path: Path) -> None:
    shown = content()
    page = render(shown, tmp_path)
    auroc = shown.evaluation["metrics"]["auroc"]
    expected = f"AUROC {auroc['value']:.3f} ({auroc['low']:.3f}–{auroc['high']:.3f}) on 300 images of 150 patients"
    assert expected in page.text
    assert page.text.count(RESEARCH_USE_ONLY) == 2
    for heading in (
        "What the numbers mean",
        "Training",
        "Errors",
        "Typical cases",
        "Plan",
        "Provenance",
        "Checks of the data",
    ):
        assert ("h2", {}) in page.tags and heading in page.text
    assert (tmp_path / "report.html").stat().st_size < 6_000_000


def test_every_figure_is_a_png_file_and_an_embedded_svg_with_alt_text(tmp_path: Path) -> None:
    page = render(content(), tmp_path)
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {
        "training_loss.png",
        "training_accuracy.png",
        "roc.png",
        "precision_recall.png",
        "calibration.png",
        "decision_curve.png",
        "probabilities.png",
        "risk_coverage.png",
        "confusion_matrix.png",
        "wrong_predictions.png",
    }
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert all(attrs["alt"] and (attrs["src"] or "").startswith("data:image/") for attrs in images)
    assert sum((attrs["src"] or "").startswith("data:image/svg+xml;base64,") for attrs in images) == len(names)


def test_every_phase_has_a_row_whether_it_found_anything_better_or_not(tmp_path: Path) -> None:
    shown = content()
    page = render(shown, tmp_path)
    assert "head 10 0.1951 0.9100 0.9600" in page.text
    assert "finetune none was better than the weights before this phase, which were kept" in page.text


def test_page_has_no_script_no_request_and_a_policy_that_forbids_them(tmp_path: Path) -> None:
    page = render(content(), tmp_path)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for _, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        assert all((attrs.get(name) or "#").startswith(("#", "data:image/")) for name in ("src", "href"))
    assert not re.search(
        r"@import|url\(|https?:", re.sub(r"data:image/[^\"]*", "", (tmp_path / "report.html").read_text("utf-8"))
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_hostile_names_stay_text_everywhere(tmp_path: Path, n_classes: int) -> None:
    names = (*HOSTILE, "=cmd|' /C calc'!A0\x1b[31m 中文 \U0001f480")[:n_classes]
    shown = content(names, skill=0.5)
    evil = HOSTILE[0]
    shown = replace(
        shown,
        title=evil,
        plan_rows=[(evil, evil, evil)],
        provenance=[(evil, evil)],
        unscored=[(evil, evil), (HOSTILE[1], evil)],
        checks=[CheckResult(evil, "warning", evil, {}, evil), CheckResult(evil, "note", evil, {evil: evil})],
        history=[replace(row, phase=evil) for row in shown.history],
        sample_grid=[Thumb(evil, fake_image(1), evil)],
    )
    clean = render(content(BINARY if n_classes == 2 else (*BINARY, "OTHER"), skill=0.5), tmp_path / "clean")
    page = render(shown, tmp_path / "hostile")
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in clean.tags}
    assert not [
        attrs
        for tag, attrs in page.tags
        if "onerror" in attrs or (tag == "img" and not (attrs["src"] or "").startswith("data:"))
    ]
    assert "<script>alert(1)</script>" in page.text and "{{7*7}}" in page.text
    assert "\u202e" not in page.text and "\x1b" not in page.text


def test_promised_and_kept_and_before_and_after_stand_side_by_side(tmp_path: Path) -> None:
    shown = content()
    page = render(shown, tmp_path)
    point, found = shown.evaluation["operating_point"], shown.evaluation["calibration"]
    for name in ("sensitivity", "specificity"):
        promised, kept = (estimate_text(point[side][name]) for side in ("promised", "realized"))
        n = [point[side][name]["n"] for side in ("promised", "realized")]
        assert f"{name.capitalize()} {promised} {n[0]} {kept} {n[1]}" in page.text
    for label, name in (("Calibration error, debiased", "ece_debiased"), ("Log loss", "log_loss")):
        row = page.text[page.text.index(label) :]
        assert f"{estimate_text(found['before'][name])} {estimate_text(found['after'][name])}" in row[:200]
    for label, name in (("Resolution", "resolution"), ("Within bins", "within_bin")):
        assert f"{label} {estimate_text(found['brier_decomposition'][name])}" in page.text


def test_what_is_not_known_of_validation_is_left_out(tmp_path: Path) -> None:
    shown = content()
    unknown = {
        **shown.evaluation,
        "operating_point": {**shown.evaluation["operating_point"], "promised": {}},
        "calibration": {**shown.evaluation["calibration"], "before": None},
    }
    page = render(replace(shown, evaluation=unknown, uncalibrated=None), tmp_path)
    assert "promised on validation" not in page.text
    assert "before the temperature" not in page.text and "than squares" not in page.text


def test_acting_on_it_is_shown_where_there_is_something_to_show(tmp_path: Path) -> None:
    two = render(content(), tmp_path)
    assert "Acting on the answers" in two.text and "up to nine false alarms for one case" in two.text
    alts = [attrs["alt"] or "" for tag, attrs in two.tags if tag == "img"]
    assert any(alt.startswith("Net benefit of acting on the model") for alt in alts)
    assert any(re.match(r"Wrong answers: \d+\.\d % among the surest 20 %", alt) for alt in alts)


def test_four_classes(tmp_path: Path) -> None:
    shown = content(TUMORS)
    page = render(shown, tmp_path)
    assert "Which of 4 classes does an image show? glioma_tumor, meningioma_tumor" in page.text
    assert "are found, the class found least often." in page.text
    assert page.text.count("macro") == 0
    assert "If only the surest images are answered" in page.text
    assert "false alarms for one case" not in page.text, "net benefit is of two classes"


def test_a_class_without_cases_is_said_to_be_not_estimable(tmp_path: Path) -> None:
    four = render(content(TUMORS, of=(0, 2, 3)), tmp_path / "four")
    assert "The test set has no case of meningioma_tumor" in four.text
    assert "not estimable" in four.text and "over 3 of 4 classes" in four.text
    two = render(content(of=(1,)), tmp_path / "two")
    assert "Not estimable" in two.text and "The test set has no case of NORMAL" in two.text
    assert "false alarms for one case" not in two.text


def test_zero_errors(tmp_path: Path) -> None:
    page = render(content(skill=40), tmp_path)
    assert "No wrong prediction among 300 test images." in page.text
    assert not (tmp_path / "plots" / "wrong_predictions.png").exists()
    assert "100 of 100 images of PNEUMONIA are found. 0 are missed." in page.text


def test_evaluation_of_new_data_leaves_out_what_there_is_not(tmp_path: Path) -> None:
    full = content()
    page = render(
        ReportContent("New data", {**full.evaluation, "n_declared": 300}, full.scores, full.predicted), tmp_path
    )
    for absent in ("Best epoch", "Typical cases", "Plan", "Provenance", "Checks of the data", "Images without a score"):
        assert absent.lower() not in " ".join(page.words).lower().replace("explanation", "")
    assert "300 images. Bars are on one scale" in page.text
    assert "test part" not in page.text.lower() and "test images" not in page.text.lower()
    assert "These images only, positive class PNEUMONIA" in page.text
    assert "No warning" in page.text
    assert not (tmp_path / "plots" / "training_loss.png").exists()


def test_no_image_at_all(tmp_path: Path) -> None:
    scores = Scores((), (), BINARY, np.zeros(0, dtype=np.int64), np.zeros((0, 2)))
    point = OperatingPoint("youden", "PNEUMONIA", 0.5)
    evaluation = evaluate_scores(
        scores,
        point,
        temperature=1.0,
        config=EvaluationConfig.model_validate({"bootstrap": 100}),
        patients_known=False,
        n_declared=1,
        seed=0,
    )
    shown = ReportContent(
        "Empty", evaluation.as_dict(), scores, point.predict(scores.y_proba, BINARY), unscored=[("a.png", "broken")]
    )
    page = render(shown, tmp_path)
    assert "Not estimable" in page.text and "1 of 1 declared images have no score" in page.text


def test_what_weakens_the_numbers_stands_before_them(tmp_path: Path) -> None:
    shown = content(n=60)
    unsure = {**shown.evaluation, "patient_independence": "not verified", "n_patients": None}
    page = render(replace(shown, evaluation=unsure), tmp_path)
    top = page.text[: page.text.index("What the numbers mean", page.text.index("on 60 images"))]
    assert "Patient independence is NOT verified" in top
    assert "of an unknown number of patients" in top
    assert "14 test images have a near copy in train" in top
    assert "2 of 62 declared images have no score" in top
    assert "Very small test set: 60 images" in top
    assert "Every image has a label." not in top
    unknown = CheckResult("PATIENTS_UNKNOWN", "warning", "nothing says which images show the same patient")
    again = render(replace(shown, evaluation=unsure, checks=(unknown,)), tmp_path)
    assert again.text.count("Nothing says which images show the same patient") == 1, (
        "among the checks; the page begins with the same in other words"
    )
    violated = render(replace(shown, evaluation={**unsure, "patient_independence": "violated"}), tmp_path)
    assert "Patient independence is violated" in violated.text


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_report(content(), tmp_path / name).read_bytes() for name in "ab")
    assert first == second
    assert (tmp_path / "a/plots/roc.png").read_bytes() == (tmp_path / "b/plots/roc.png").read_bytes()


def test_undecodable_file_names_are_written(tmp_path: Path) -> None:
    page = render(replace(content(), unscored=[("caf\udce9.png", "odd"), ("b", "c")]), tmp_path)
    assert "caf\N{REPLACEMENT CHARACTER}.png" in page.text


def test_content_that_does_not_fit_is_refused() -> None:
    full = content()
    with pytest.raises(ValueError, match="classes differ"):
        replace(full, evaluation={**full.evaluation, "classes": ["PNEUMONIA", "NORMAL"]})
    with pytest.raises(ValueError, match=r"predicted must be \(300,\)"):
        replace(full, predicted=full.predicted[:-1])
    with pytest.raises(ValueError, match=r"in 0\.\.1"):
        replace(full, predicted=full.predicted + 1)


def test_pictures_are_at_most_160_pixels_with_their_aspect() -> None:
    wide = np.zeros((100, 400, 3), dtype=np.uint8)
    data = base64.b64decode(picture(wide).partition(",")[2])
    assert Image.open(BytesIO(data)).size == (160, 40)


def test_printable_keeps_ordinary_text_of_any_script() -> None:
    assert printable("Größe 中文 عربي 🫁\tx") == "Größe 中文 عربي 🫁\tx"
    assert printable("a\u202eb\x00c") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert printable(3) == 3
