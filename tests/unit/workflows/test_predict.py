"""One prediction per image, in the order given, unreadable ones included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medgraft.errors import DataError, UsageError
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.inference.bundle import open_bundle, write_bundle
from medgraft.workflows.predict import predict, split_inputs
from tables import read_table

if TYPE_CHECKING:
    from conftest import Heard, TrainedRun


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
    assert list(rows[0]) == [
        "sample_id", "path", "predicted", "status", "proba_no_tumor", "proba_tumor", "prediction_set", "refer", "error",
    ]  # fmt: skip
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


@pytest.fixture
def other_member(trained: TrainedRun, tmp_path: Path) -> Path:
    """The same network with another temperature and threshold: another bundle."""
    bundle, point = open_bundle(trained.bundle, check="hash"), OperatingPoint("youden", "tumor", 0.9)
    folder = tmp_path / "other"
    write_bundle(folder, bundle.classifier, operating_point=point, temperature=bundle.temperature * 3, provenance={})
    return folder


def test_views_and_draws_show_their_spread(
    trained: TrainedRun, inputs: list[Path], tmp_path: Path, heard: Heard
) -> None:
    plain = predict(trained.bundle, inputs)
    found = predict(trained.bundle, inputs, out=tmp_path / "p.csv", tta="flips", mc=8, progress=heard)
    assert {one.passes for one in found} == {16} and [one.error for one in found] == [one.error for one in plain]
    assert all((one.spread is None) == (one.proba is None) for one in found) and plain[0].spread is None
    rows = read_table(tmp_path / "p.csv")
    assert list(rows[0])[-2:] == ["spread", "error"] and rows[1]["spread"] == ""
    assert float(rows[0]["spread"]) == pytest.approx(found[0].spread)
    said = "\n".join(heard.lines)
    assert "left-right mirror" in said and "8 draws" in said and "16 passes" in said
    predict(trained.bundle, inputs, out=tmp_path / "p.json", tta="affine:3", progress=heard)
    content = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert content["passes"] == 3 and content["rows"][0]["spread"] > 0
    assert any("affine:3" in line for line in heard.lines)


def test_several_bundles_answer_together(
    trained: TrainedRun, other_member: Path, inputs: list[Path], tmp_path: Path
) -> None:
    each = [predict(bundle, inputs) for bundle in (trained.bundle, other_member)]
    found = predict([trained.folder, str(other_member)], inputs, out=tmp_path / "p.json")
    for one, first, second in zip(found, *each, strict=True):
        assert (one.error is None) == (one.spread is not None)
        if one.proba is not None and first.proba is not None and second.proba is not None:
            assert one.proba[1] == pytest.approx((first.proba[1] + second.proba[1]) / 2, abs=1e-6)
            assert one.spread == pytest.approx(abs(first.proba[1] - second.proba[1]) / 2, abs=1e-6)
    content = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert content["bundle_ids"] == [open_bundle(path, check="hash").id for path in (trained.bundle, other_member)]


def submit(trained: TrainedRun, paths: list[Path], out: Path, sample: Path | None = None) -> None:
    predict(trained.bundle, paths, out=out, format="submission", sample=sample)


def test_a_submission_has_one_probability_per_id(trained: TrainedRun, tmp_path: Path) -> None:
    images = sorted((trained.table.parent / "images").iterdir())[:4]
    proba = [one.proba[1] for one in predict(trained.bundle, images) if one.proba is not None]
    submit(trained, images, tmp_path / "s.csv")
    rows = read_table(tmp_path / "s.csv")
    assert [row["id"] for row in rows] == [image.stem for image in images] and list(rows[0]) == ["id", "label"]
    assert [float(row["label"]) for row in rows] == pytest.approx(proba)
    sample = tmp_path / "sample.csv"
    sample.write_text("image,target\n" + "".join(f"{image.name},0\n" for image in reversed(images)))
    submit(trained, images, tmp_path / "s.csv", sample)
    rows = read_table(tmp_path / "s.csv")
    assert [row["image"] for row in rows] == [image.name for image in reversed(images)]
    assert [float(row["target"]) for row in rows] == pytest.approx(proba[::-1])


def test_ids_that_do_not_match_are_refused_before_the_bundle_is_opened(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medgraft.workflows.predict.open_ensemble", None)
    images = sorted((trained.table.parent / "images").iterdir())[:3]
    sample = tmp_path / "sample.csv"
    sample.write_text(f"id,label\n{images[0].stem},0\n{images[1].stem},0\nother,0\n")
    with pytest.raises(DataError) as caught:
        submit(trained, images, tmp_path / "s.csv", sample)
    assert caught.value.code == "SUBMISSION_IDS" and "'other'" in str(caught.value)
    assert f"'{images[2].stem}'" in str(caught.value) and not (tmp_path / "s.csv").exists()


def test_an_unscored_image_leaves_no_submission(trained: TrainedRun, tmp_path: Path) -> None:
    image, broken = sorted((trained.table.parent / "images").iterdir())[0], tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    (tmp_path / "s.csv").write_text("earlier")
    with pytest.raises(DataError) as caught:
        submit(trained, [image, broken], tmp_path / "s.csv")
    assert caught.value.code == "SUBMISSION_UNSCORED" and "'broken'" in str(caught.value)
    assert (tmp_path / "s.csv").read_text() == "earlier"


def test_options_that_do_not_belong_together_are_refused(
    trained: TrainedRun, inputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medgraft.workflows.predict.open_ensemble", None)
    for options, code in (
        ({"format": "submission"}, "OUTPUT_MISSING"),
        ({"sample": tmp_path / "sample.csv"}, "SAMPLE_UNUSED"),
        ({"sample": tmp_path / "sample.csv", "out": tmp_path / "p.csv"}, "SAMPLE_UNUSED"),
        ({"tta": "mirror"}, "TTA_UNKNOWN"),
        ({"mc": 1}, "MC_RANGE"),
    ):
        with pytest.raises(UsageError) as caught:
            predict(trained.bundle, inputs, **options)  # type: ignore[arg-type]
        assert caught.value.code == code


def test_bundles_come_first_then_images(trained: TrainedRun, other_member: Path, tmp_path: Path) -> None:
    images = trained.table.parent / "images"
    assert split_inputs([trained.folder, images]) == ([trained.folder], [images])
    assert split_inputs([trained.bundle, other_member, images, tmp_path / "a.png"]) == (
        [trained.bundle, other_member],
        [images, tmp_path / "a.png"],
    )
    assert split_inputs([tmp_path / "gone", images]) == ([tmp_path / "gone"], [images])
    assert split_inputs([trained.folder]) == ([trained.folder], [])
    with pytest.raises(UsageError) as caught:
        split_inputs([trained.bundle, images, other_member])
    assert caught.value.code == "BUNDLE_ORDER" and str(other_member) in str(caught.value)
