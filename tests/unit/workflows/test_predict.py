"""One prediction per image, in the order given, unreadable ones included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medgraft.errors import DataError, UsageError
from medgraft.workflows.predict import predict
from tables import read_table

if TYPE_CHECKING:
    from conftest import TrainedRun


@pytest.fixture
def inputs(trained: TrainedRun, tmp_path: Path) -> list[Path]:
    """A file, one that is missing, a broken one and a folder whose names sort naturally."""
    images = sorted((trained.table.parent / "images").iterdir())
    broken, folder = tmp_path / "broken.png", tmp_path / "folder"
    broken.write_bytes(b"no image")
    folder.mkdir()
    for name, image in (("image10.png", images[0]), ("image2.png", images[1])):
        (folder / name).write_bytes(image.read_bytes())
    return [images[5], tmp_path / "missing.png", broken, folder, images[2]]


def expected_order(inputs: list[Path]) -> list[str]:
    first, missing, broken, folder, last = inputs
    return [str(path) for path in (first, missing, broken, folder / "image2.png", folder / "image10.png", last)]


def test_order_and_errors(trained: TrainedRun, inputs: list[Path], tmp_path: Path) -> None:
    predictions = predict(trained.folder, inputs, out=tmp_path / "p.csv")
    assert [prediction.path for prediction in predictions] == expected_order(inputs)
    assert [prediction.status for prediction in predictions] == ["ok", "unscored", "unscored", "ok", "ok", "ok"]
    rows = read_table(tmp_path / "p.csv")
    assert list(rows[0]) == ["sample_id", "path", "predicted", "status", "proba_no_tumor", "proba_tumor", "error"]
    assert [row["path"] for row in rows] == expected_order(inputs)
    assert rows[1]["error"].startswith("[") and rows[2]["error"].startswith("[IMG_")
    assert rows[1]["predicted"] == rows[1]["proba_tumor"] == "" and rows[0]["error"] == ""
    for row, prediction in zip(rows, predictions, strict=True):
        if prediction.proba is not None:
            assert float(row["proba_tumor"]) == pytest.approx(prediction.proba[1])


def test_json_says_the_same(trained: TrainedRun, inputs: list[Path], tmp_path: Path) -> None:
    predictions = predict(trained.bundle, inputs, out=tmp_path / "p.json")
    content = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert content["classes"] == ["no_tumor", "tumor"] and "Research use only" in content["notice"]
    assert [row["path"] for row in content["rows"]] == expected_order(inputs)
    assert [row["predicted"] for row in content["rows"]] == [prediction.label for prediction in predictions]
    assert content["rows"][1]["proba"] is None and content["rows"][1]["error"]
    assert content["rows"][0]["proba"]["tumor"] == pytest.approx(predictions[0].proba[1])  # type: ignore[index]


def test_an_image_alone_gets_what_it_gets_among_others(trained: TrainedRun, inputs: list[Path]) -> None:
    among = predict(trained.bundle, inputs)[0]
    (alone,) = predict(trained.bundle, [inputs[0]])
    assert alone.proba == pytest.approx(among.proba, abs=1e-5) and alone.label == among.label


def test_nothing_to_predict(trained: TrainedRun, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for paths in ([], [tmp_path / "empty"]):
        with pytest.raises(DataError) as caught:
            predict(trained.bundle, paths)
        assert caught.value.code == "NO_IMAGES"


def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    trained: TrainedRun, inputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[int] = []
    monkeypatch.setattr("medgraft.inference.predictor.Predictor.predict_paths", lambda *a, **k: worked.append(1) or [])
    for name, code in (("p.xlsx", "OUTPUT_FORMAT"), ("missing/p.csv", "OUTPUT_NOT_WRITABLE")):
        with pytest.raises(UsageError) as caught:
            predict(trained.bundle, inputs, out=tmp_path / name)
        assert caught.value.code == code and not worked
