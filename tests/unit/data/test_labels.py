"""Class weights: the published numbers, and what they promise; names of classes that are nearly the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from medgraft.config.schema import DataConfig
from medgraft.data.labels import balanced_class_weights, similar_labels
from medgraft.data.sources import read_source


def test_balanced_weights_of_a_brain_tumor_set() -> None:
    assert [round(w, 3) for w in balanced_class_weights([664, 668, 317, 647])] == [0.864, 0.859, 1.811, 0.887]


def test_balanced_weights_give_every_class_the_same_total() -> None:
    counts = (3, 50, 7)
    totals = [w * n for w, n in zip(balanced_class_weights(counts), counts, strict=True)]
    assert totals == pytest.approx([20.0] * 3)
    assert balanced_class_weights([4, 0]) == (0.5, 0.0)


def similar(*names: str, counts: tuple[int, ...] = (), classes: tuple[str, ...] | None = None) -> list[str]:
    labels = [name for name, n in zip(names, counts or (50,) * len(names), strict=True) for _ in range(n)]
    return [pair["difference"] for note in similar_labels(labels, classes=classes) for pair in note.evidence["pairs"]]


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ("tumor", "tumors", "a plural"),
        ("no_tumor", "no tumors", "a plural"),
        ("class 1", "class01", "zeros before a number"),
        ("glioma", "glioma2", "a number behind"),
        ("glioma", "Glioma (1)", "a number behind"),
        ("no_tumor", "no tumour", "British and American spelling"),
        ("haemorrhage", "hemorrhage", "British and American spelling"),
        ("meningioma", "menigioma", "one letter"),
        ("meningioma_tumor", "menignioma tumor", "one letter"),
        ("pituitary tumor", "pitutary tumor", "one letter"),
    ],
)
def test_names_that_are_probably_one_class(first: str, second: str, difference: str) -> None:
    assert similar(first, second) == similar(second, first, "other") == [difference]


@pytest.mark.parametrize(
    "names",
    [
        "grade 1|grade 2",
        "T1|T2",
        "grade ii|grade iii",
        "gradeII|gradeIII",
        "stage iia|stage iib",
        "benign|malign",
        "benign|malignant",
        "bacteria|bacterial",
        "typical|atypical",
        "symptomatic|asymptomatic",
        "inferior|interior",
        "stroma|stoma",
        "tumor|tumor 1|tumor 2",
        "1|10|100",
        "HER2+|HER2-",
        "IDH|IDH1|IDH2",
        "CN|MCI|AD|EMCI|LMCI",
        "glioma_tumor|meningioma_tumor|no_tumor|pituitary_tumor",
        "MildDemented|ModerateDemented|NonDemented|VeryMildDemented",
    ],
)
def test_names_that_are_plainly_several_classes(names: str) -> None:
    assert similar(*names.split("|")) == []


def test_another_letter_counts_where_the_name_is_rare() -> None:
    assert similar("metastasis", "metastases", counts=(500, 3)) == ["one letter"]
    assert similar("metastasis", "metastases", counts=(500, 400)) == []


def test_similar_names_are_a_warning_with_counts_unless_declared() -> None:
    (note,) = similar_labels(["meningioma"] * 300 + ["menigioma"] * 2 + ["glioma"], classes=None)
    assert (note.code, note.severity) == ("LABEL_SIMILAR", "warning") and "data.classes" in note.advice
    assert "'menigioma' (2) and 'meningioma' (300), one letter" in note.title
    assert note.evidence["pairs"][0]["labels"] == {"menigioma": 2, "meningioma": 300}
    assert similar("tumor", "tumors", classes=("tumor", "tumors")) == []
    assert similar("tumor", "tumors", classes=("tumor",)) == ["a plural"]


def test_a_column_of_many_values_is_no_list_of_classes() -> None:
    assert similar_labels([f"finding number {row}s" for row in range(5000)], classes=None) == ()


def test_tables_and_folders_say_which_names_are_similar(tmp_path: Path) -> None:
    for name in ("meningioma", "menigioma", "glioma"):
        (tmp_path / "folders" / name).mkdir(parents=True)
        (tmp_path / "folders" / name / "1.png").touch()
    table = tmp_path / "folders" / "table.csv"
    rows = [f"{name}/1.png,{name}" for name in ("meningioma", "menigioma", "glioma")]
    table.write_text("\n".join(["image,label", *rows]), encoding="utf-8")
    for source in (tmp_path / "folders", table):
        manifest = read_source(source, DataConfig())
        assert len(manifest.classes) == 3
        assert "LABEL_SIMILAR" in {note.code for note in manifest.notes}
