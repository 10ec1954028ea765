"""Test images that training has seen: told apart where parts are given, found by the bundle later, never made."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from medgraft.data.phantom import write_phantoms
from medgraft.errors import DataError
from medgraft.inference.bundle import open_bundle, write_bundle
from medgraft.workflows.compare import compare
from medgraft.workflows.evaluate import evaluate
from medgraft.workflows.train import TrainResult, train
from tables import read_table, write_table

if TYPE_CHECKING:
    from conftest import Heard, TrainedRun

PATIENTS, SLICES, TRAIN = 22, 3, 14
QUICK = (
    "model.backbone=test_resnet", "model.weights=none", "model.size=64", "training.threads=1", "checks.deep=false",
    'training.phases=[{name="only", trains="all", epochs=1, freeze_norm=false}]', "evaluation.bootstrap=100",
    "evaluation.gallery=2",
)  # fmt: skip
FAST = ("evaluation.bootstrap=100", "evaluation.gallery=2", "training.threads=1", "checks.deep=false")


@dataclass(frozen=True)
class Planted:
    """A table with parts, where training has seen some of the test images.

    Attributes:
        table: 22 patients of 3 slices, 14 of them in train, and what was planted.
        exact: test images that are pixel-identical to training images.
        near: test images that are training images in another size.
        patient: test images of patients that stand in train too.
    """

    table: Path
    exact: tuple[str, ...]
    near: tuple[str, ...]
    patient: tuple[str, ...]

    @property
    def copied(self) -> set[str]:
        return {*self.exact, *self.near}


def plant(folder: Path) -> Planted:
    """Given parts with three exact and four resized copies across them, and two slices of a training patient."""
    table = write_phantoms(folder, patients=PATIENTS, slices=SLICES, size=64)
    rows = [
        {**row, "split": "train" if number < TRAIN * SLICES else "test"} for number, row in enumerate(read_table(table))
    ]
    for row in rows[:2]:
        row["split"] = "test"
    exact, near = [], []
    for number in range(7):
        own = rows[4 + 5 * number]
        name = f"images/again{number}.png"
        with Image.open(table.parent / own["image"]) as image:
            if number < 3:
                image.save(table.parent / name, compress_level=1)  # other bytes, the same pixels
                exact.append(name)
            else:
                image.resize((90, 90), Image.Resampling.BICUBIC).save(table.parent / name)
                near.append(name)
        rows.append({**own, "image": name, "patient": f"new{number}", "split": "test"})
    return Planted(write_table(table, rows), tuple(exact), tuple(near), (rows[0]["image"], rows[1]["image"]))


def contents(folder: Path, name: str = "evaluation.json") -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted") / "phantoms")


@pytest.fixture(scope="module")
def gated(planted: Planted) -> TrainResult:
    """A run on the planted table."""
    folder = planted.table.parent.parent
    return train(planted.table, out=folder / "run", settings=(*QUICK, f"data.cache_dir={folder / 'cache'}"))


def test_scores_say_of_every_test_image_what_training_has_seen(planted: Planted, gated: TrainResult) -> None:
    rows = read_table(gated.folder / "scores.csv")
    named: dict[str, set[str]] = {}
    for row in rows:
        named.setdefault(row["subset"], set()).add(row["sample_id"])
    assert named["copied"] == planted.copied and named["same_patient"] == set(planted.patient)
    assert set(named) == {"copied", "same_patient", "clean"} and len(named["clean"]) == (PATIENTS - TRAIN) * SLICES


def test_all_copied_and_clean_are_scored_apart_and_clean_leads(planted: Planted, gated: TrainResult) -> None:
    found, rows = contents(gated.folder), read_table(gated.folder / "scores.csv")
    assert found == gated.facts and found["headline"] == "clean"
    subsets = found["subsets"]
    assert set(subsets) == {"all", "copied", "same_patient", "clean"}
    for name, subset in subsets.items():
        own = [row for row in rows if name in ("all", row["subset"])]
        right = np.mean([row["correct"] == "true" for row in own])
        assert subset["n_images"] == len(own) and subset["n_patients"] == len({row["patient_id"] for row in own})
        assert subset["metrics"]["accuracy"]["value"] == pytest.approx(right)
        assert subset["metrics"]["accuracy"]["n"] == np.sum(subset["confusion"]) == len(own)
    assert found["metrics"] == subsets["clean"]["metrics"] and found["n_images"] == subsets["clean"]["n_images"]
    assert gated.evaluation.n_images == (PATIENTS - TRAIN) * SLICES and found["n_declared"] == len(rows)
    assert found["patient_independence"] == "verified"  # of the clean images
    leaks = found["leaks"]
    assert (leaks["exact"], leaks["near"], leaks["patients"]) == (3, 4, 2)
    assert leaks["against"] == "train and validation images" and "of the 24 others" in leaks["conclusion"]


def test_checks_name_the_copies_and_what_they_mean(planted: Planted, gated: TrainResult) -> None:
    found = contents(gated.folder)
    checks = {check["code"]: check for check in found["checks"]}
    assert contents(gated.folder, "checks.json") == found["checks"]
    assert checks["COPIES_ACROSS_PARTS"]["severity"] == checks["PATIENTS_ACROSS_PARTS"]["severity"] == "error"
    assert checks["COPIES_ACROSS_PARTS"]["evidence"]["also_in_train"]["test"] == 3
    pairs = checks["COPIES_NEAR_ACROSS_PARTS"]["evidence"]["examples"]
    assert {pair["kind"] for pair in pairs} == {"resized"}
    assert {pair["second"] for pair in pairs} == set(planted.near)
    small = checks["LEAK_CLEAN_SMALL"]
    assert small["severity"] == "warning" and small["title"] == found["leaks"]["conclusion"]
    assert sum(small["evidence"]["per_class"].values()) == 24


def test_the_page_says_so_before_the_numbers_are_read(gated: TrainResult) -> None:
    page = gated.report.read_text(encoding="utf-8")
    conclusion = gated.facts["leaks"]["conclusion"]
    assert conclusion[1:] in page  # its first letter is a capital there
    assert "that training has not seen" in page and "On all 33 images" in page


def test_strict_refuses_before_training(planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medgraft.workflows.train.fit", None)
    with pytest.raises(DataError) as caught:
        train(planted.table, out=tmp_path / "run", settings=(*QUICK, "checks.strict=true"))
    error = caught.value
    assert error.code == "LEAK_REFUSED" and error.exit_code == 3 and not (tmp_path / "run").exists()
    assert {problem.where for problem in error.problems} == {*planted.copied, *planted.patient}
    assert "given_parts=ignore" in error.problem.fix


def test_strict_lets_clean_parts_pass(table: Path, tmp_path: Path) -> None:
    rows = [{**row, "split": "train" if number < 45 else "test"} for number, row in enumerate(read_table(table))]
    result = train(write_table(table, rows), out=tmp_path / "run", settings=(*QUICK, "checks.strict=true"))
    found = contents(result.folder)
    assert found["headline"] == "all" and found["leaks"]["exact"] == found["leaks"]["near"] == 0
    assert found["leaks"]["conclusion"] == "no copy of train and validation images was found among the 15 images"
    assert found["subsets"]["clean"] == found["subsets"]["all"] and found["subsets"]["copied"]["n_images"] == 0
    assert {row["subset"] for row in read_table(result.folder / "scores.csv")} == {"clean"}


def test_a_test_part_of_copies_alone_leads_to_no_conclusion(planted: Planted, tmp_path: Path) -> None:
    seen = {*planted.copied, *planted.patient}
    rows = [row for row in read_table(planted.table) if row["split"] == "train" or row["image"] in seen]
    source = write_table(planted.table.with_name("seen.csv"), rows)
    result = train(source, out=tmp_path / "run", settings=QUICK)
    found = contents(result.folder)
    assert found["headline"] == "all" and found["n_images"] == 9 and found["patient_independence"] == "violated"
    assert found["subsets"]["clean"] == {"n_images": 0, "n_patients": 0, "metrics": {}, "confusion": [[0, 0], [0, 0]]}
    assert found["subsets"]["copied"]["n_images"] == 7
    (nothing,) = [check for check in found["checks"] if check["code"] == "LEAK_NOTHING_CLEAN"]
    assert nothing["severity"] == "error" and "nothing can be concluded" in nothing["title"]
    assert "nothing can be concluded" in result.report.read_text(encoding="utf-8")


def test_a_made_split_keeps_near_copies_on_one_side(planted: Planted, tmp_path: Path) -> None:
    """The planted parts are ignored; copies carry names of other patients, so only pixels join them."""
    settings = (*QUICK, "data.given_parts=ignore", "checks.strict=true")
    result = train(planted.table, out=tmp_path / "run", settings=settings)
    part = {row["sample_id"]: row["split"] for row in read_table(result.folder / "manifest.csv")}
    owner = {row["sample_id"]: row["patient_id"] for row in read_table(result.folder / "manifest.csv")}
    assert set(part.values()) == {"train", "val", "test"}
    originals = [row["image"] for row in read_table(planted.table)][4:39:5]
    for copy, original in zip((*planted.exact, *planted.near), originals, strict=True):
        assert part[copy] == part[original] and owner[copy] != owner[original]
    by_owner: dict[str, set[str]] = {}
    for name, split in part.items():
        by_owner.setdefault(owner[name], set()).add(split)
    assert all(len(parts) == 1 for parts in by_owner.values())
    found = contents(result.folder)
    codes = {check["code"] for check in found["checks"]}
    assert "SPLIT_IGNORED" in codes and not {code for code in codes if code.endswith("ACROSS_PARTS")}
    assert found["headline"] == "all" and found["leaks"]["exact"] == found["leaks"]["near"] == 0


def test_folds_of_a_comparison_keep_near_copies_together(planted: Planted, tmp_path: Path) -> None:
    settings = ("model.size=64", "training.threads=1", "evaluation.bootstrap=100", "data.given_parts=ignore")
    result = compare(planted.table, "test_resnet@none", out=tmp_path / "run", settings=settings)
    with (result.folder / "oof.csv").open(encoding="utf-8", newline="") as file:
        fold = {row["sample_id"]: row["fold"] for row in csv.DictReader(file)}
    originals = [row["image"] for row in read_table(planted.table)][4:39:5]
    pairs = list(zip((*planted.exact, *planted.near), originals, strict=True))
    judged = [(copy, original) for copy, original in pairs if copy in fold or original in fold]
    assert len(judged) >= 3
    for copy, original in judged:
        assert fold[copy] == fold[original]


def rejoined(folder: Path, trained: TrainedRun) -> Path:
    """New patients, beside three training images as they are and two in another size, under new names."""
    table = write_phantoms(folder, patients=5, slices=3, size=64, seed=1)
    parts = read_table(trained.folder / "manifest.csv")
    known = [row for row in parts if row["split"] in ("train", "val")][::9][:5]
    rows = read_table(table)
    for number, row in enumerate(known):
        name = f"images/known{number}.png"
        with Image.open(trained.table.parent / row["path"]) as image:
            side = 64 if number < 3 else 96
            image.resize((side, side), Image.Resampling.BICUBIC).save(table.parent / name)
        rows.append({**rows[0], "image": name, "patient": f"k{number}", "label": row["label"]})
    return write_table(table, rows)


def test_a_bundle_finds_its_training_images_years_later(trained: TrainedRun, tmp_path: Path, heard: Heard) -> None:
    """Without the training set: the bundle alone, moved elsewhere, remembers."""
    bundle = shutil.copytree(trained.bundle, tmp_path / "bundle")
    result = evaluate(bundle, rejoined(tmp_path / "new", trained), out=tmp_path / "out", settings=FAST, progress=heard)
    found = contents(result.folder)
    assert found["leaks"]["against"] == "the images the model was trained on"
    assert found["leaks"]["exact"] == 3 and found["leaks"]["patients"] == 0
    subset = {row["sample_id"]: row["subset"] for row in read_table(result.folder / "scores.csv")}
    copied = {name for name, value in subset.items() if value == "copied"}
    assert {f"images/known{number}.png" for number in range(3)} <= copied
    assert copied <= {f"images/known{number}.png" for number in range(5)}  # no new patient is taken for a copy
    assert found["leaks"]["near"] == len(copied) - 3
    assert found["headline"] == "clean" and found["n_images"] == 20 - len(copied) == result.evaluation.n_images
    (seen,) = [check for check in found["checks"] if check["code"] == "SEEN_IN_TRAINING"]
    assert seen["severity"] == "error" and set(seen["evidence"]["examples"]) == copied
    page = result.report.read_text(encoding="utf-8")
    assert "that training has not seen" in page and "pixel-identical to the images the model was trained on" in page


def test_on_new_patients_nothing_is_found(trained: TrainedRun, tmp_path: Path) -> None:
    table = write_phantoms(tmp_path / "new", patients=8, slices=3, size=64, seed=2)
    result = evaluate(trained.bundle, table, out=tmp_path / "out", settings=(*FAST, "checks.strict=true"))
    found = contents(result.folder)
    assert (
        found["leaks"]["conclusion"] == "no copy of the images the model was trained on was found among the 24 images"
    )
    assert found["headline"] == "all" and found["subsets"]["clean"] == found["subsets"]["all"]
    assert not {"SEEN_IN_TRAINING", "LEAK_NOTHING_CLEAN"} & {check["code"] for check in found["checks"]}
    assert {row["subset"] for row in read_table(result.folder / "scores.csv")} == {"clean"}


def test_its_own_test_part_is_new_to_a_bundle_and_the_rest_is_not(trained: TrainedRun, tmp_path: Path) -> None:
    parts = read_table(trained.folder / "manifest.csv")
    result = evaluate(trained.bundle, trained.table, out=tmp_path / "out", settings=FAST)
    subset = {row["sample_id"]: row["subset"] for row in read_table(result.folder / "scores.csv")}
    for row in parts:
        assert subset[row["sample_id"]] == ("clean" if row["split"] == "test" else "copied")
    of_run = contents(trained.folder)
    assert contents(result.folder)["metrics"]["auroc"]["value"] == of_run["metrics"]["auroc"]["value"]


def test_strict_evaluation_refuses_and_writes_nothing(trained: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        evaluate(trained.bundle, trained.table, out=tmp_path / "out", settings=(*FAST, "checks.strict=true"))
    assert caught.value.code == "LEAK_REFUSED" and not (tmp_path / "out").exists()
    parts = read_table(trained.folder / "manifest.csv")
    assert {one.where for one in caught.value.problems} == {row["sample_id"] for row in parts if row["split"] != "test"}
    assert all("the images the model was trained on" in one.what for one in caught.value.problems)


def test_a_bundle_that_remembers_nothing_claims_nothing(trained: TrainedRun, tmp_path: Path) -> None:
    bundle = open_bundle(trained.bundle)
    write_bundle(
        tmp_path / "bundle",
        bundle.classifier,
        operating_point=bundle.operating_point,
        temperature=bundle.temperature,
        provenance={},
        rules=bundle.rules,
    )
    table = write_phantoms(tmp_path / "new", patients=6, slices=3, size=64, seed=3)
    result = evaluate(tmp_path / "bundle", table, out=tmp_path / "out", settings=FAST)
    found = contents(result.folder)
    assert found["leaks"]["conclusion"] == "whether the model was trained on these images is not known"
    assert found["headline"] == "all" and "subset" not in read_table(result.folder / "scores.csv")[0]
    assert "is not known" in result.report.read_text(encoding="utf-8")
