"""Prediction files: one row per input, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from medgraft.errors import UsageError
from medgraft.inference.output import Format, as_json_content, choose_format, write_predictions
from medgraft.types import RESEARCH_USE_ONLY, Prediction

CLASSES = ("=cmd()", "normal")
ROWS = [
    Prediction("a", "x/a.png", CLASSES, proba=(0.25, 0.75), label="normal"),
    Prediction("=1+1", "@x,\n.png", CLASSES, error="[IMG_EMPTY] the file is empty"),
    Prediction("b\udcff", "b\udcff", CLASSES, proba=(0.999999999, 1e-9), label="=cmd()"),
]


def test_csv_keeps_every_row_in_order_and_no_formula(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_predictions(path, ROWS)
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *rows = csv.reader(file)
    assert header == ["sample_id", "path", "predicted", "status", "proba_=cmd()", "proba_normal", "error"]
    assert rows[0] == ["a", "x/a.png", "normal", "ok", "0.25", "0.75", ""]
    assert rows[1] == ["'=1+1", "'@x,\n.png", "", "unscored", "", "", "[IMG_EMPTY] the file is empty"]
    assert rows[2][0] == "b\udcff" and rows[2][2] == "'=cmd()"
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in [header, *rows] for cell in row)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


def test_json_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out.JSON"
    write_predictions(path, ROWS, bundle_id="ab12")
    content = json.loads(path.read_text())
    assert content["notice"] == RESEARCH_USE_ONLY and content["bundle_id"] == "ab12"
    assert content["classes"] == list(CLASSES) and [row["sample_id"] for row in content["rows"]] == [
        "a",
        "=1+1",
        "b\udcff",
    ]
    assert content["rows"][0]["proba"] == {"=cmd()": 0.25, "normal": 0.75}
    assert content["rows"][1]["proba"] is None and content["rows"][1]["status"] == "unscored"


def test_no_rows_is_a_file_with_a_header(tmp_path: Path) -> None:
    write_predictions(tmp_path / "out.csv", [])
    assert (tmp_path / "out.csv").read_text() == "sample_id,path,predicted,status,error\n"


@pytest.mark.parametrize(
    ("name", "code"), [("out.xlsx", "OUTPUT_FORMAT"), ("out", "OUTPUT_FORMAT"), ("no/out.csv", "OUTPUT_NOT_WRITABLE")]
)
def test_other_endings_and_missing_folders_are_refused(tmp_path: Path, name: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        write_predictions(tmp_path / name, ROWS)
    assert caught.value.code == code
    assert not list(tmp_path.iterdir())


def test_several_passes_add_their_spread_and_number(tmp_path: Path) -> None:
    rows = [replace(one, spread=0.125 if one.proba else None, passes=64) for one in ROWS]
    write_predictions(tmp_path / "out.csv", rows)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *cells = csv.reader(file)
    assert header[-3:] == ["proba_normal", "spread", "error"]
    assert [row[-2] for row in cells] == ["0.125", "", "0.125"]
    content = as_json_content(rows, bundle_id=["ab", "cd"])
    assert content["passes"] == 64 and content["bundle_ids"] == ["ab", "cd"] and "bundle_id" not in content
    assert [row["spread"] for row in content["rows"]] == [0.125, None, 0.125]
    plain = as_json_content(ROWS, bundle_id="ab")
    assert list(plain) == ["notice", "bundle_id", "classes", "rows"] and "spread" not in plain["rows"][0]


def test_prediction_sets_are_columns_where_the_bundle_has_them(tmp_path: Path) -> None:
    sets = [("normal",), None, ()]
    rows = [
        replace(one, prediction_set=names, refer=None if names is None else names != ("normal",))
        for one, names in zip(ROWS, sets, strict=True)
    ]
    rows.append(replace(rows[0], prediction_set=("=cmd()", "normal"), refer=True))
    write_predictions(tmp_path / "out.csv", rows)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *cells = csv.reader(file)
    assert header[-4:] == ["proba_normal", "prediction_set", "refer", "error"]
    assert [row[-3:-1] for row in cells] == [["normal", "no"], ["", ""], ["", "yes"], ["'=cmd()|normal", "yes"]]
    write_predictions(tmp_path / "out.json", rows)
    content = json.loads((tmp_path / "out.json").read_text())
    assert [row["prediction_set"] for row in content["rows"]] == [["normal"], None, [], ["=cmd()", "normal"]]
    assert [row["refer"] for row in content["rows"]] == [False, None, True, True]
    assert "refer" not in as_json_content(ROWS)["rows"][0]


def test_the_format_is_asked_for_or_follows_the_ending(tmp_path: Path) -> None:
    assert choose_format(None) is None
    expected: list[tuple[str, Format | None, Format]] = [
        ("a.csv", None, "csv"), ("a.JSON", None, "json"), ("a.txt", "csv", "csv"), ("a", "json", "json"),
        ("a.csv", "submission", "submission"), ("a.csv", "csv", "csv"),
    ]  # fmt: skip
    for name, asked, found in expected:
        assert choose_format(tmp_path / name, asked) == found
    write_predictions(tmp_path / "table.txt", ROWS, form="csv")
    assert (tmp_path / "table.txt").read_text(errors="surrogateescape").startswith("sample_id,path")


@pytest.mark.parametrize(
    ("name", "asked", "code"),
    [
        (None, "submission", "OUTPUT_MISSING"),
        (None, "csv", "OUTPUT_MISSING"),
        ("a.json", "csv", "OUTPUT_FORMAT"),
        ("a.json", "submission", "OUTPUT_FORMAT"),
        ("a.csv", "json", "OUTPUT_FORMAT"),
        ("a.csv", "xml", "OUTPUT_FORMAT"),
        ("no/a.csv", "submission", "OUTPUT_NOT_WRITABLE"),
    ],
)
def test_formats_that_do_not_fit_the_file_are_refused(
    tmp_path: Path, name: str | None, asked: Format, code: str
) -> None:
    with pytest.raises(UsageError) as caught:
        choose_format(None if name is None else tmp_path / name, asked)
    assert caught.value.code == code
    if code == "OUTPUT_MISSING":
        assert "--out" in caught.value.problem.fix
