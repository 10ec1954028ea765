"""Cross-validation of a whole training: nobody is in train and held out at once, and everything is kept."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from medgraft.config import Config
from medgraft.data.phantom import write_phantoms
from medgraft.errors import DataError, Stopped, UsageError
from medgraft.evaluation.metrics import auroc
from medgraft.inference.bundle import open_bundle
from medgraft.inference.ensemble import open_ensemble
from medgraft.inference.predictor import Predictor
from medgraft.workflows.crossval import CrossValidationResult, cross_validate_training
from tables import read_table, spoil_rows, write_table

if TYPE_CHECKING:
    from conftest import Heard

FOLDS, REPEATS = 3, 2


def settings(cache: Path, **data: object) -> Config:
    """An exact head at a small size: a fit takes half a second."""
    return Config.model_validate(
        {
            "data": {"cache_dir": str(cache), **data},
            "model": {"size": 64},
            "training": {"threads": 1, "views": 1, "phases": [{"name": "head", "optimizer": "lbfgs"}]},
            "evaluation": {"bootstrap": 100, "gallery": 2},
        }
    )


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> CrossValidationResult:
    """Phantoms with a copy of a picture under another patient."""
    folder = tmp_path_factory.mktemp("crossed")
    table = write_phantoms(folder / "phantoms", patients=20, slices=3, size=64)
    rows = read_table(table)
    images = [table.parent / row["image"] for row in rows]
    images[30].write_bytes(images[0].read_bytes())
    rows[30]["label"] = rows[0]["label"]
    write_table(table, rows)
    return cross_validate_training(
        table, folds=FOLDS, repeats=REPEATS, out=folder / "run", config=settings(folder / "cache")
    )


def fits(folder: Path) -> list[Path]:
    return sorted((folder / "folds").iterdir())


def test_every_file_is_there(crossed: CrossValidationResult) -> None:
    names = {path.relative_to(crossed.folder).as_posix() for path in crossed.folder.rglob("*") if path.is_file()}
    assert {
        "config.toml", "plan.json", "manifest.csv", "checks.json", "scores.csv", "folds.csv", "evaluation.json",
        "report.html", "run.json", "plots/roc.png",
    } <= names  # fmt: skip
    assert [path.name for path in fits(crossed.folder)] == [f"r{r}-f{f}" for r in (1, 2) for f in (1, 2, 3)]
    for fit in fits(crossed.folder):
        assert {path.name for path in fit.iterdir()} == {
            "bundle", "manifest.csv", "plan.json", "metrics.csv", "scores.csv",
        }  # fmt: skip
    assert not [name for name in names if "partial" in name]
    assert {row["split"] for row in read_table(crossed.folder / "manifest.csv")} == {""}
    run = json.loads((crossed.folder / "run.json").read_text(encoding="utf-8"))
    assert run["state"] == "finished" and run["cross_validation"] == {"folds": 3, "repeats": 2}
    assert run["bundles"] == [open_bundle(fit / "bundle").id for fit in fits(crossed.folder)]


def test_no_group_is_held_out_and_learned_from(crossed: CrossValidationResult) -> None:
    for fit in fits(crossed.folder):
        rows = read_table(fit / "manifest.csv")
        assert {row["split"] for row in rows} == {"train", "val", "test"} and len(rows) == 60
        by_patient: dict[str, set[str]] = {}
        for row in rows:
            by_patient.setdefault(row["patient_id"], set()).add(row["split"])
        assert all(len(parts) == 1 for parts in by_patient.values())
        assert rows[0]["patient_id"] != rows[30]["patient_id"]  # the same picture
        assert rows[0]["split"] == rows[30]["split"]


def test_every_image_is_held_out_once_per_repeat_and_folds_differ_between_repeats(
    crossed: CrossValidationResult,
) -> None:
    held: dict[str, list[frozenset[str]]] = {"1": [], "2": []}
    for fit in fits(crossed.folder):
        rows = read_table(fit / "manifest.csv")
        held[fit.name[1]].append(frozenset(row["sample_id"] for row in rows if row["split"] == "test"))
    everything = {row["sample_id"] for row in read_table(crossed.folder / "manifest.csv")}
    for of_repeat in held.values():
        assert sum(map(len, of_repeat)) == 60 and frozenset.union(*of_repeat) == everything
    assert set(held["1"]) != set(held["2"])


def test_scores_have_a_row_per_image_and_repeat_from_the_fit_that_held_it_out(crossed: CrossValidationResult) -> None:
    rows = read_table(crossed.folder / "scores.csv")
    assert list(rows[0])[-4:] == ["proba_no_tumor", "proba_tumor", "repeat", "fold"]
    assert set(Counter((row["sample_id"], row["repeat"]) for row in rows).values()) == {1} and len(rows) == 120
    of_fit = {
        fit.name: {row["sample_id"]: row for row in read_table(fit / "scores.csv")} for fit in fits(crossed.folder)
    }
    for row in rows:
        own = of_fit[f"r{row['repeat']}-f{row['fold']}"][row["sample_id"]]
        assert own == {name: cell for name, cell in row.items() if name not in ("repeat", "fold")}
    images = crossed.folder.parent / "phantoms"
    chosen = [row for row in rows if (row["repeat"], row["fold"]) == ("2", "1")][:3]
    predictor = Predictor(open_bundle(crossed.folder / "folds" / "r2-f1"))
    for row, prediction in zip(chosen, predictor.predict_paths([images / r["path"] for r in chosen]), strict=True):
        assert prediction.proba is not None and prediction.proba[1] == pytest.approx(
            float(row["proba_tumor"]), abs=1e-5
        )
        assert prediction.label == row["predicted"]


def test_the_numbers_follow_from_the_scores_and_count_images(crossed: CrossValidationResult) -> None:
    rows = read_table(crossed.folder / "scores.csv")
    content = json.loads((crossed.folder / "evaluation.json").read_text(encoding="utf-8"))
    assert content == crossed.facts
    truth = np.array([row["label"] == "tumor" for row in rows], dtype=np.int64)
    assert content["metrics"]["auroc"]["value"] == pytest.approx(
        auroc(truth, np.array([float(row["proba_tumor"]) for row in rows]))
    )
    assert content["metrics"]["accuracy"]["value"] == pytest.approx(np.mean([row["correct"] == "true" for row in rows]))
    assert (content["n_images"], content["n_declared"], content["n_patients"]) == (60, 60, 20)
    assert content["metrics"]["accuracy"]["n"] == content["metrics"]["auroc"]["n"] == 60
    assert content["metrics"]["sensitivity"]["n"] == truth.sum() / 2
    assert np.array(content["confusion"]).sum(axis=1).tolist() == [60 - truth.sum() / 2, truth.sum() / 2]
    crossing = content["cross_validation"]
    assert (crossing["folds"], crossing["repeats"], crossing["n_images"]) == (3, 2, 60)
    assert "Bates" in crossing["note"] and "patients" in crossing["unit"]
    assert content["patient_independence"] == "verified"
    fold_rows = read_table(crossed.folder / "folds.csv")
    for name, value in crossing["mean_of_folds"].items():
        assert value == pytest.approx(np.mean([float(row[name]) for row in fold_rows]))
    thresholds = [float(row["threshold"]) for row in fold_rows]
    assert content["operating_point"]["threshold"] == pytest.approx(np.mean(thresholds)) and len(set(thresholds)) > 1


def test_folds_csv_has_a_row_per_fit_with_intervals(crossed: CrossValidationResult) -> None:
    rows = read_table(crossed.folder / "folds.csv")
    assert [(row["repeat"], row["fold"]) for row in rows] == [(r, f) for r in "12" for f in "123"]
    for row, fit in zip(rows, fits(crossed.folder), strict=True):
        parts = Counter(image["split"] for image in read_table(fit / "manifest.csv"))
        assert [int(row[f"{part}images"]) for part in ("train_", "val_", "")] == [
            parts["train"], parts["val"], parts["test"],
        ]  # fmt: skip
        for name in ("auroc", "accuracy"):
            low, value, high = (float(row[key]) for key in (f"{name}_low", name, f"{name}_high"))
            assert low <= value <= high and low < high
        bundle = open_bundle(fit / "bundle")
        assert bundle.temperature == pytest.approx(float(row["temperature"]))
        assert bundle.operating_point.threshold == pytest.approx(float(row["threshold"]))
        assert float(row["seconds"]) > 0


def test_plan_checks_and_report_tell_how_it_was_done(crossed: CrossValidationResult) -> None:
    plan = json.loads((crossed.folder / "plan.json").read_text(encoding="utf-8"))["settings"]
    assert "3 folds x 2 repeats made out of 19 groups" in plan["data.split"]["value"][0]
    assert plan["model.backbone"]["value"].startswith("efficientnet-lite0 (")
    checks = {
        check["code"]: check for check in json.loads((crossed.folder / "checks.json").read_text(encoding="utf-8"))
    }
    assert checks["SPLIT_FOLDS"]["evidence"]["n_groups"] == 19 and "SPLIT_CLASS_MISSING" not in checks
    assert checks["SPLIT_SMALL_VALIDATION"]["title"].startswith("in 6 of 6 fits: the validation part has only")
    page = crossed.report.read_text(encoding="utf-8")
    assert "Cross-validation" in page and "3 folds of whole groups" in page and page.count("image") > 10


def test_frozen_views_are_computed_once_for_all_fits(crossed: CrossValidationResult) -> None:
    views = list((crossed.folder.parent / "cache" / "activations").glob("*.npy"))
    assert sorted(len(np.load(path, mmap_mode="r")) for path in views) == [60, 60]  # clean and one augmented


def test_the_bundles_answer_as_an_ensemble(crossed: CrossValidationResult) -> None:
    ensemble = open_ensemble(fits(crossed.folder))
    images = sorted((crossed.folder.parent / "phantoms" / "images").iterdir())[:2]
    assert [one.passes for one in ensemble.predict_paths(images)] == [6, 6]
    provenance = ensemble.members[4].bundle.provenance
    assert provenance["cross_validation"] == {"folds": 3, "repeats": 2, "repeat": 2, "fold": 2}
    assert sum(provenance["images"].values()) == 60


def test_the_same_seed_gives_the_same_scores(crossed: CrossValidationResult, tmp_path: Path) -> None:
    """A repeat does not depend on those after it."""
    source, cache = crossed.folder.parent / "phantoms" / "phantoms.csv", crossed.folder.parent / "cache"
    again = cross_validate_training(source, folds=FOLDS, repeats=1, out=tmp_path / "again", config=settings(cache))
    before = [row for row in read_table(crossed.folder / "scores.csv") if row["repeat"] == "1"]
    assert read_table(again.folder / "scores.csv") == before
    for fit in fits(again.folder):
        for name in ("manifest.csv", "scores.csv", "bundle/weights.safetensors"):
            assert (fit / name).read_bytes() == (crossed.folder / "folds" / fit.name / name).read_bytes()


def test_a_given_test_part_is_left_alone_and_bad_images_stay_declared(
    table: Path, tmp_path: Path, heard: Heard
) -> None:
    rows = read_table(table)
    for number, row in enumerate(rows):
        row["split"] = "test" if number >= 48 else "val" if number < 6 else "train"
    write_table(table, rows)
    (bad,) = spoil_rows(table, (20,))
    for row in rows[48:]:
        (table.parent / row["image"]).unlink()
        (table.parent / row["image"]).write_bytes(b"not to be opened")
    config = settings(tmp_path / "cache", skip_bad=0.1, split="split")
    result = cross_validate_training(table, folds=2, out=tmp_path / "run", config=config, progress=heard)
    scores = read_table(result.folder / "scores.csv")
    assert {row["sample_id"] for row in scores} == {row["image"] for row in rows[:48]} and len(scores) == 48
    (unscored,) = [row for row in scores if row["status"] != "ok"]
    assert unscored["sample_id"] == bad and unscored["status"].startswith("unscored: [IMG_") and not unscored["fold"]
    assert (result.evaluation.n_images, result.evaluation.n_declared) == (47, 48)
    checks = json.loads((result.folder / "checks.json").read_text(encoding="utf-8"))
    (left,) = [check for check in checks if check["code"] == "SPLIT_TEST_LEFT"]
    assert "12 images" in left["title"] and "not read" in left["title"]
    assert [line for line in heard.lines if line.startswith("repeat 1, fold 2: ") and line.endswith("2 of 2 fits")]


def test_stopped_in_the_second_fit_the_first_is_kept(
    table: Path, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(line: str) -> None:
        if line.endswith("1 of 3 fits"):
            signal.raise_signal(signal.SIGINT)  # a second one would end this process

    monkeypatch.setattr(heard, "say", say)
    out = tmp_path / "run"
    with pytest.raises(Stopped) as caught:
        cross_validate_training(table, folds=3, out=out, config=settings(tmp_path / "cache"), progress=heard)
    assert caught.value.exit_code == 143 and "1 of 3 fits are finished and kept" in caught.value.problem.what
    assert [path.name for path in (out / "folds").iterdir()] == ["r1-f1"]
    assert open_bundle(out / "folds" / "r1-f1").classes == ("no_tumor", "tumor")
    assert len(read_table(out / "folds" / "r1-f1" / "scores.csv")) == int(read_table(out / "folds.csv")[0]["images"])
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert (run["state"], run["fits"]) == ("stopped", 1) and not (out / "evaluation.json").exists()


def test_stopped_within_a_fit_nothing_half_done_is_left(
    table: Path, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def advance(what: str, done: int, total: int) -> None:
        if "frozen part" in what:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(heard, "advance", advance)
    with pytest.raises(Stopped) as caught:
        cross_validate_training(
            table, folds=3, out=tmp_path / "run", config=settings(tmp_path / "cache"), progress=heard
        )
    assert "0 of 3 fits" in caught.value.problem.what and caught.value.problem.where == str(tmp_path / "run")
    assert list((tmp_path / "run" / "folds").iterdir()) == []


def test_more_folds_than_patients_of_a_class_are_refused_with_the_largest_number(table: Path, tmp_path: Path) -> None:
    rows = read_table(table)
    for number, row in enumerate(rows):
        row["label"] = "rare" if number < 12 else "common"  # 4 patients
    source = write_table(table, rows)
    with pytest.raises(DataError) as caught:
        cross_validate_training(source, folds=5, out=tmp_path / "run", config=settings(tmp_path / "cache"))
    error = caught.value
    assert error.code == "FOLDS_TOO_MANY" and error.exit_code == 3 and not (tmp_path / "run").exists()
    assert "rare (4)" in error.problem.what and "at most 4 folds are possible" in error.problem.what
    assert error.problem.fix == "use --folds 4 or fewer"


@pytest.mark.parametrize(("folds", "repeats", "code"), [(1, 1, "FOLDS_RANGE"), (5, 0, "REPEATS_RANGE")])
def test_numbers_that_are_no_cross_validation(tmp_path: Path, folds: int, repeats: int, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        cross_validate_training(tmp_path / "missing", folds=folds, repeats=repeats)
    assert caught.value.code == code and caught.value.exit_code == 2
