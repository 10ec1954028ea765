"""scores.csv: one row per declared image, safe in a spreadsheet, precise enough to recompute."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from medgraft.evaluation.scores import ScoreRow, write_scores_csv


def written(path: Path, rows: list[ScoreRow]) -> list[list[str]]:
    write_scores_csv(path, rows, classes=("no", "yes"))
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_rows_and_header(tmp_path: Path) -> None:
    third = 1 / 3
    rows = [
        ScoreRow("a", "x/a.png", "p1", "yes", "yes", (third, 1 - third)),
        ScoreRow("b", "x/b,ü.png", None, "no", "yes", (0.25, 0.75)),
        ScoreRow("c", "c.png", "p2", None, "no", (1.0, 0.0)),
        ScoreRow("d", "d.png", "p2", "no", error="[IMG_TRUNCATED] the file ends early"),
    ]
    table = written(tmp_path / "scores.csv", rows)
    header = "sample_id,path,patient_id,label,predicted,correct,status,proba_no,proba_yes"
    assert ",".join(table[0]) == header
    assert table[1] == ["a", "x/a.png", "p1", "yes", "yes", "true", "ok", repr(third), repr(1 - third)]
    assert float(table[1][7]) == third
    assert table[2][1:7] == ["x/b,ü.png", "", "no", "yes", "false", "ok"]
    assert table[3][3:7] == ["", "no", "", "ok"]
    assert table[4] == ["d", "d.png", "p2", "no", "", "", "unscored: [IMG_TRUNCATED] the file ends early", "", ""]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_text_that_would_run_as_a_formula_is_neutralised(tmp_path: Path, text: str) -> None:
    row = ScoreRow(text, text, text, text, text, (1e-9, 1.0))
    cells = written(tmp_path / "scores.csv", [row])[1]
    assert cells[:5] == [f"'{text}"] * 5
    assert cells[5:] == ["true", "ok", "1e-09", "1.0"]


def test_quotes_and_line_ends_stay_within_their_cell(tmp_path: Path) -> None:
    texts = ['say "a"', "two\nlines", "mac\rline", "a,b"]
    rows = [ScoreRow(text, text, label="no", predicted="no", proba=(1.0, 0.0)) for text in texts]
    assert [row[0] for row in written(tmp_path / "scores.csv", rows)[1:]] == texts


def test_a_row_is_scored_or_has_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="either"):
        ScoreRow("a", "a.png")
    with pytest.raises(ValueError, match="either"):
        ScoreRow("a", "a.png", predicted="no", proba=(1.0, 0.0), error="[X] y")
    with pytest.raises(ValueError, match="3 probabilities for 2 classes"):
        written(tmp_path / "scores.csv", [ScoreRow("a", "a.png", predicted="no", proba=(1.0, 0.0, 0.0))])


def test_sets_and_subsets_are_columns_only_where_there_are_some(tmp_path: Path) -> None:
    rows = [
        ScoreRow("a", "a.png", predicted="no", proba=(1.0, 0.0), prediction_set=("no", "yes"), refer=True),
        ScoreRow("b", "b.png", predicted="no", proba=(1.0, 0.0), prediction_set=(), refer=True, subset="copied"),
        ScoreRow("c", "c.png", predicted="no", proba=(1.0, 0.0), prediction_set=("no",), refer=False, spread=0.5),
        ScoreRow("d", "d.png", error="[X] y", subset="clean"),
    ]
    table = written(tmp_path / "scores.csv", rows)
    assert table[0][-5:] == ["proba_yes", "spread", "prediction_set", "refer", "subset"]
    assert [line[-3:] for line in table[1:]] == [
        ["no|yes", "yes", ""],
        ["", "yes", "copied"],
        ["no", "no", ""],
        ["", "", "clean"],
    ]
    assert written(tmp_path / "subset.csv", rows[3:])[0][-2:] == ["proba_yes", "subset"]
    formula = ScoreRow("a", "a.png", predicted="no", proba=(1.0, 0.0), prediction_set=("=1+1",), refer=False)
    assert written(tmp_path / "formula.csv", [formula])[1][-2:] == ["'=1+1", "no"]


def test_the_spread_is_a_column_only_where_there_is_one(tmp_path: Path) -> None:
    rows = [
        ScoreRow("a", "a.png", label="no", predicted="no", proba=(1.0, 0.0), spread=1 / 3),
        ScoreRow("b", "b.png", label="no", error="[X] y"),
    ]
    table = written(tmp_path / "scores.csv", rows)
    assert table[0][-2:] == ["proba_yes", "spread"]
    assert table[1][-2:] == ["0.0", repr(1 / 3)] and table[2][-2:] == ["", ""]
    assert written(tmp_path / "plain.csv", rows[1:])[0][-1] == "proba_yes"
