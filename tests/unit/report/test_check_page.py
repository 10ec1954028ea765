"""The page of a check: the verdict first, evidence with pictures, and only what was found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.report.check_page import PicturedExample, write_check_page
from medgraft.types import CheckResult

COUNTS = {"glioma": {"train": 700, "test": 100}, "none": {"test": 105, "train": 300}}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{7*7}} \u202e"


def estimate(value: float, n: int = 394) -> dict[str, Any]:
    return {
        "value": value,
        "low": value - 0.04,
        "high": value + 0.04,
        "level": 0.95,
        "n": n,
        "method": "",
        "reason": "",
    }


def facts(value: float) -> dict[str, Any]:
    names = ("auroc", "accuracy", "balanced_accuracy")
    return {"protocol": "5-fold cross-validation", "metrics": {name: estimate(value) for name in names}}


def result(code: str, severity: Any, title: str, **evidence: Any) -> CheckResult:
    return CheckResult(code, severity, title, evidence, f"what to do about {code}")


CHECKS = (
    result("SPLIT_GIVEN", "note", "parts as given"),
    result("LABEL_SUSPECTED", "warning", "31 labels are probably wrong", suspects=31),
    result("COPIES_NEAR_ACROSS_PARTS", "error", "8 pairs of images in two parts", pairs=8, examples=[["a", "b"]] * 8),
)
GRAY = np.full((32, 48, 3), 90, dtype=np.uint8)
SHIFT = {
    "sets": ["train", "test"], "n_images": [2870, 394], "n_groups": [2600, 390], "left_out": 259, "auroc": 0.713,
    "chance": 0.543, "p": 0.005, "permutations": 199, "class_shares": {"glioma": [0.29, 0.25]}, "mixed": 0.04,
    "p_mixed": 0.3,
    "attributes": [{"name": "height", "means": [512.0, 377.25], "difference": -1.234, "auroc": 0.22}],
}  # fmt: skip


def text_of(path: Path) -> str:
    html = re.sub(r"<style>.*?</style>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def page(folder: Path, **given: Any) -> Path:
    values: dict[str, Any] = {"title": "brain", "counts": COUNTS, "checks": CHECKS, "pictures": {}, **given}
    return write_check_page(folder / "check.html", **values)


def test_the_verdict_stands_above_errors_warnings_and_notes(tmp_path: Path) -> None:
    path = page(tmp_path)
    text = text_of(path)
    assert "1,205 images of 2 classes" in text and "none 300 105 405" in text
    order = ["1 error, 1 warning", "COPIES_NEAR_ACROSS_PARTS", "LABEL_SUSPECTED", "SPLIT_GIVEN"]
    assert sorted(order, key=text.index) == order
    assert "1 note besides" in text and "1 note severity, code" in text
    assert "pairs 8 3 of 8 examples a and b" in text and "What to do about LABEL_SUSPECTED" in text
    assert 'class="headline distrust"' in path.read_text(encoding="utf-8")


def test_nothing_found_is_said_without_promising_too_much(tmp_path: Path) -> None:
    path = page(tmp_path, checks=CHECKS[:1])
    assert "Nothing suspicious found" in text_of(path) and "no proof" in text_of(path)
    assert 'class="headline"' in path.read_text(encoding="utf-8")


def test_pictures_stand_side_by_side_under_the_check_they_show(tmp_path: Path) -> None:
    pictures = {
        "COPIES_NEAR_ACROSS_PARTS": [PicturedExample("a.png and b.png: mirrored", (GRAY, GRAY[:, ::-1]))],
        "LABEL_SUSPECTED": [PicturedExample("c.png: given glioma, suggested none", (GRAY,))],
        "LABEL_CONFLICT": [],
    }
    html = page(tmp_path, pictures=pictures).read_text(encoding="utf-8")
    assert "<h2>Near copies in two parts</h2>" in html and "<h2>Suspected labels</h2>" in html
    assert "a.png and b.png: mirrored: image 2 of 2" in html and "c.png: given glioma, suggested none" in html
    assert html.count("data:image/jpeg") == 3 and "under two labels" not in html


def test_baselines_sources_and_shift(tmp_path: Path) -> None:
    baselines = {"majority": facts(0.5), "thumbnail_1nn": facts(0.764), "metadata": facts(0.6)}
    text = text_of(page(tmp_path, baselines=baselines, sources={"borders": facts(0.7)}, shift=SHIFT))
    assert text.index("Nearest thumbnail") < text.index("Most frequent class"), "the best first"
    assert "0.764 0.724–0.804" in text and text.count("5-fold cross-validation.") == 2
    assert "Borders alone 394 0.700" in text and "Facts of the files size, format" in text
    assert "2,870 images of train from 394 of test" in text and "0.713" in text and "p = 0.005, 199 shuffles" in text
    assert "height 512 377.2 −1.23 0.22" in text and "glioma 29.0 % 25.0 %" in text
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"baselines.png", "sources.png"}


def test_what_was_not_looked_at_has_no_section_and_no_folder(tmp_path: Path) -> None:
    text = text_of(page(tmp_path))
    for absent in ("almost nothing", "Shortcuts", "look alike"):
        assert absent not in text
    assert not (tmp_path / "plots").exists()


def test_hostile_text_stays_text_and_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    evil = {
        "title": EVIL,
        "counts": {EVIL: {EVIL: 3}},
        "checks": [CheckResult(EVIL, "error", EVIL, {EVIL: EVIL, "examples": [EVIL, {EVIL: EVIL}]}, EVIL)],
        "pictures": {EVIL: [PicturedExample(EVIL, (GRAY,))], "other" + EVIL: [PicturedExample(EVIL, (GRAY,))]},
        "baselines": {EVIL: {**facts(0.7), "protocol": EVIL}},
        "sources": {EVIL: facts(0.7)},
        "shift": {**SHIFT, "sets": [EVIL, EVIL], "attributes": [{**SHIFT["attributes"][0], "name": EVIL}]},  # type: ignore[index]
    }
    first = page(tmp_path, **evil).read_bytes()
    html = first.decode("utf-8")
    assert "<script" not in html and "<img src=x" not in html and "\u202e" not in html
    assert "&lt;script&gt;" in html and "{{7*7}}" in html and "default-src 'none'" in html
    assert page(tmp_path, **evil).read_bytes() == first
