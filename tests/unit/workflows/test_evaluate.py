"""A bundle on new images: classes by name, every declared image, and honest gaps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from medgraft.config import Config, DataConfig, ModelConfig
from medgraft.data.phantom import write_phantoms
from medgraft.errors import DataError, ModelError, UsageError
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.inference.bundle import open_bundle, write_bundle
from medgraft.models.classifier import build_classifier
from medgraft.workflows.evaluate import evaluate
from medgraft.workflows.predict import predict
from medgraft.workflows.reading import reading_as_trained
from tables import read_table, spoil_rows, write_table

if TYPE_CHECKING:
    from conftest import Heard, TrainedRun

FAST = ("evaluation.bootstrap=100", "evaluation.gallery=2", "training.threads=1", "checks.deep=false")


@pytest.fixture
def new_patients(tmp_path: Path) -> Path:
    return write_phantoms(tmp_path / "new", patients=8, slices=3, size=64, seed=1)


def contents(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return content


def test_a_table_with_bad_images_keeps_every_declared_row(
    trained: TrainedRun, new_patients: Path, tmp_path: Path
) -> None:
    bad = spoil_rows(new_patients, (1, 7, 13, 20))
    result = evaluate(trained.folder, new_patients, out=tmp_path / "out", settings=FAST)
    assert {"evaluation.json", "scores.csv", "report.html", "checks.json", "run.json", "plots"} == {
        path.name for path in result.folder.iterdir()
    }
    rows = read_table(result.folder / "scores.csv")
    assert [row["sample_id"] for row in rows] == [row["image"] for row in read_table(new_patients)]
    unscored = [row for row in rows if row["status"] != "ok"]
    assert [row["sample_id"] for row in unscored] == bad
    assert all(row["predicted"] == row["correct"] == row["proba_tumor"] == "" for row in unscored)
    content = contents(result.folder)
    assert (content["n_images"], content["n_declared"]) == (20, 24)
    assert content["metrics"]["accuracy"]["n"] == 20
    assert content["patient_independence"] == "not verified"
    report = result.report.read_text(encoding="utf-8")
    assert "4 of 24 declared images" in report and str(tmp_path) not in report
    run = json.loads((result.folder / "run.json").read_text(encoding="utf-8"))
    assert (
        run["verb"] == "evaluate"
        and run["bundle"] == json.loads((trained.folder / "run.json").read_text(encoding="utf-8"))["bundle"]
    )


def test_the_same_images_give_the_same_scores_as_training(trained: TrainedRun, tmp_path: Path) -> None:
    scores = {row["sample_id"]: row for row in read_table(trained.folder / "scores.csv")}
    rows = [row for row in read_table(trained.table) if row["image"] in scores]
    table = write_table(trained.table.parent / "test-part.csv", rows)
    result = evaluate(trained.bundle, table, out=tmp_path / "out", settings=FAST)
    for row in read_table(result.folder / "scores.csv"):
        expected = scores[row["sample_id"]]
        assert float(row["proba_tumor"]) == pytest.approx(float(expected["proba_tumor"]), abs=1e-5)
    assert contents(result.folder)["metrics"]["auroc"] == contents(trained.folder)["metrics"]["auroc"]


def test_a_part_of_class_folders_with_one_class_missing(
    trained: TrainedRun, new_patients: Path, tmp_path: Path, class_folders: Callable[[Path], Path]
) -> None:
    folder = class_folders(new_patients)
    tumors = len(list((folder / "tumor").iterdir()))
    for name in ("tumor", "no_tumor"):
        for part in ("train", "test"):
            shutil.copytree(folder / name, tmp_path / "parts" / part / name)
    shutil.rmtree(tmp_path / "parts" / "test" / "no_tumor")
    result = evaluate(trained.bundle, tmp_path / "parts", out=tmp_path / "out", part="test", settings=FAST)
    content = contents(result.folder)
    assert content["classes"] == ["no_tumor", "tumor"] and content["n_images"] == tumors
    assert content["n_patients"] is None
    for name in ("auroc", "specificity"):
        assert content["metrics"][name]["value"] is None and content["metrics"][name]["reason"]
    assert content["metrics"]["sensitivity"]["value"] is not None
    assert "not estimable" in result.report.read_text(encoding="utf-8")


def test_classes_are_matched_by_name_not_by_order(trained: TrainedRun, new_patients: Path, tmp_path: Path) -> None:
    """In the source, ``tumor`` alone would be class 0."""
    rows = [row for row in read_table(new_patients) if row["label"] == "tumor"]
    result = evaluate(trained.bundle, write_table(new_patients, rows), out=tmp_path / "out", settings=FAST)
    found = read_table(result.folder / "scores.csv")
    assert {row["label"] for row in found} == {"tumor"}
    assert all((row["correct"] == "true") == (row["predicted"] == "tumor") for row in found)


def test_a_label_that_the_bundle_does_not_know_is_refused(
    trained: TrainedRun, new_patients: Path, tmp_path: Path
) -> None:
    rows = read_table(new_patients)
    rows[3]["label"] = "cyst"
    with pytest.raises(DataError, match="cyst"):
        evaluate(trained.bundle, write_table(new_patients, rows), out=tmp_path / "out", settings=FAST)
    assert not (tmp_path / "out").exists()


def test_nothing_readable_is_an_error_not_a_number(trained: TrainedRun, new_patients: Path, tmp_path: Path) -> None:
    for image in (new_patients.parent / "images").iterdir():
        image.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        evaluate(trained.bundle, new_patients, out=tmp_path / "out", settings=FAST)
    assert caught.value.code == "NOTHING_SCORED" and not (tmp_path / "out" / "evaluation.json").exists()


def test_an_empty_part_is_an_error_before_anything_is_decoded(
    trained: TrainedRun, new_patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medgraft.workflows.evaluate.prepare", None)
    rows = read_table(new_patients)
    declared = write_table(new_patients.with_name("parts.csv"), [{**row, "split": "train"} for row in rows])
    for source, train in ((new_patients, 0), (declared, len(rows))):
        with pytest.raises(DataError) as caught:
            evaluate(trained.bundle, source, out=tmp_path / "out", part="test", settings=FAST)
        problem = caught.value.problem
        assert problem.code == "PART_EMPTY" and problem.where == str(source) and "--part" in problem.fix
        assert f"no image of the part test; it has: {{'train': {train}, 'val': 0, 'test': 0}}" in problem.what
    assert not (tmp_path / "out").exists()


def test_what_the_user_sets_wins_over_the_reading_rules_of_training(
    trained: TrainedRun, new_patients: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        evaluate(trained.bundle, new_patients, out=tmp_path / "out", settings=(*FAST, "data.min_side=100"))
    assert caught.value.code == "NOTHING_SCORED"
    bundle = open_bundle(trained.bundle)
    rules = bundle.rules.model_copy(update={"min_side": 48, "background": 255})
    bundle = replace(bundle, rules=rules)
    asked = Config.model_validate({"data": {"min_side": 20, "skip_bad": 0.5}})
    merged = reading_as_trained(asked, bundle).data
    assert (merged.min_side, merged.background, merged.skip_bad) == (20, 255, 0.5)
    assert reading_as_trained(Config(), bundle).data.min_side == 48


def test_the_output_may_not_lie_in_the_images_or_in_a_used_folder(
    trained: TrainedRun, new_patients: Path, class_folders: Callable[[Path], Path]
) -> None:
    folder = class_folders(new_patients)
    for out in (folder / "out", trained.folder):
        with pytest.raises(UsageError, match="RUN_FOLDER"):
            evaluate(trained.bundle, folder, out=out, settings=FAST)


def test_a_damaged_bundle_is_refused(trained: TrainedRun, new_patients: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(trained.bundle, tmp_path / "bundle")
    weights = bytearray((bundle / "weights.safetensors").read_bytes())
    weights[-100] ^= 1
    (bundle / "weights.safetensors").write_bytes(weights)
    with pytest.raises(ModelError):
        evaluate(bundle, new_patients, out=tmp_path / "out", settings=FAST)
    assert not (tmp_path / "out").exists()


def test_views_and_draws_stand_in_every_file(
    trained: TrainedRun, new_patients: Path, tmp_path: Path, heard: Heard
) -> None:
    bad = spoil_rows(new_patients, (1,))
    plain = evaluate(trained.bundle, new_patients, out=tmp_path / "plain", settings=FAST)
    assert contents(plain.folder)["inference"] is None
    assert "spread" not in read_table(plain.folder / "scores.csv")[0]
    result = evaluate(
        trained.bundle, new_patients, out=tmp_path / "out", tta="flips", mc=8, settings=FAST, progress=heard
    )
    assert contents(result.folder)["inference"] == {"tta": "flips", "mc": 8, "members": 1, "passes": 16}
    images = [new_patients.parent / row["image"] for row in read_table(new_patients)]
    expected = predict(trained.bundle, images, tta="flips", mc=8)
    rows = read_table(result.folder / "scores.csv")
    assert list(rows[0])[-2:] == ["spread", "subset"]
    for row, one in zip(rows, expected, strict=True):
        if row["sample_id"] in bad:
            assert row["spread"] == row["proba_tumor"] == "" and one.spread is None
        else:
            assert float(row["spread"]) == pytest.approx(one.spread, abs=1e-4) and one.proba is not None
            assert float(row["proba_tumor"]) == pytest.approx(one.proba[1], abs=1e-4) and row["predicted"] == one.label
    run = json.loads((result.folder / "run.json").read_text(encoding="utf-8"))
    assert "16 passes" in run["inference"] and "left-right mirror" in run["inference"]
    assert "16 passes" in result.report.read_text(encoding="utf-8")
    assert any("8 draws" in line for line in heard.lines)


def test_several_bundles_are_one_model(
    trained: TrainedRun, new_patients: Path, tmp_path: Path, heard: Heard, make_other: Callable[[Path], Path]
) -> None:
    members = [trained.folder, make_other(tmp_path / "other")]
    result = evaluate(members, new_patients, out=tmp_path / "out", settings=FAST, progress=heard)
    content = contents(result.folder)
    assert content["inference"] == {"tta": None, "mc": None, "members": 2, "passes": 2}
    assert content["temperature"] == 1.0 and content["operating_point"]["positive"] == "tumor"
    assert content["classes"] == ["no_tumor", "tumor"]
    thresholds = [one["threshold"] for one in content["operating_point"]["validation"]["members"]]
    assert content["operating_point"]["threshold"] == pytest.approx(sum(thresholds) / 2)
    images = [new_patients.parent / row["image"] for row in read_table(new_patients)]
    expected = predict(members, images)
    for row, one in zip(read_table(result.folder / "scores.csv"), expected, strict=True):
        assert one.proba is not None and float(row["proba_tumor"]) == pytest.approx(one.proba[1], abs=1e-4)
        assert float(row["spread"]) == pytest.approx(one.spread, abs=1e-4) and row["predicted"] == one.label
    run = json.loads((result.folder / "run.json").read_text(encoding="utf-8"))
    assert run["bundles"] == [open_bundle(path, check="hash").id for path in members]
    assert "2 bundles" in run["inference"] and any("rules of the first" in line for line in heard.lines)


@pytest.fixture
def make_other(trained: TrainedRun) -> Callable[[Path], Path]:
    """A small untrained network of another size and class order, with reading rules of its own."""

    def make(folder: Path) -> Path:
        model = ModelConfig(backbone="test_resnet", weights="none", size=32)
        write_bundle(
            folder,
            build_classifier(model, ("tumor", "no_tumor"), seed=1),
            operating_point=OperatingPoint("youden", "tumor", 0.4),
            temperature=1.5,
            provenance={},
            rules=DataConfig(background=255),
        )
        return folder

    return make


def test_wishes_are_refused_before_anything_is_read(
    trained: TrainedRun, new_patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medgraft.workflows.evaluate.open_ensemble", None)
    for options, code in (({"tta": "flip"}, "TTA_UNKNOWN"), ({"mc": 0}, "MC_RANGE")):
        with pytest.raises(UsageError) as caught:
            evaluate(trained.bundle, new_patients, out=tmp_path / "out", settings=FAST, **options)  # type: ignore[arg-type]
        assert caught.value.code == code and not (tmp_path / "out").exists()
