"""Two bundles and more on the same images: what is compared, left out, refused and written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from medgraft.config import DataConfig, ModelConfig
from medgraft.data.phantom import write_phantoms
from medgraft.errors import DataError, ModelError, UsageError
from medgraft.evaluation.metrics import auroc
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.inference.bundle import open_bundle, write_bundle
from medgraft.models.classifier import build_classifier
from medgraft.workflows.paired import evaluate_paired
from medgraft.workflows.paired_files import describe_paired
from medgraft.workflows.predict import predict
from tables import read_table, spoil_rows, write_table

if TYPE_CHECKING:
    from conftest import Heard, TrainedRun

FAST = ("evaluation.bootstrap=100", "evaluation.gallery=2", "training.threads=1")


@pytest.fixture
def new_patients(tmp_path: Path) -> Path:
    return write_phantoms(tmp_path / "new", patients=12, slices=3, size=64, seed=1)


@pytest.fixture
def make_other(tmp_path: Path) -> Callable[..., Path]:
    """A small untrained network of another size and class order, with reading rules of its own."""

    def make(name: str, classes: tuple[str, ...] = ("tumor", "no_tumor"), seed: int = 1, **rules: Any) -> Path:
        model = ModelConfig(backbone="test_resnet", weights="none", size=32)
        two = len(classes) == 2
        write_bundle(
            tmp_path / name,
            build_classifier(model, classes, seed=seed),
            operating_point=OperatingPoint("youden", "tumor" if two else None, 0.4 if two else None),
            temperature=1.5,
            provenance={},
            rules=DataConfig(**rules),
        )
        return tmp_path / name

    return make


def test_two_bundles_on_the_same_images(
    trained: TrainedRun, new_patients: Path, tmp_path: Path, make_other: Callable[..., Path], heard: Heard
) -> None:
    bad = spoil_rows(new_patients, (1, 20))
    other = make_other("other")
    result = evaluate_paired([trained.folder, other], new_patients, out=tmp_path / "out", settings=FAST, progress=heard)
    assert {path.name for path in result.folder.iterdir()} == {
        "paired.json", "paired.csv", "paired.html", "checks.json", "run.json", "plots",
    }  # fmt: skip
    facts = json.loads((result.folder / "paired.json").read_text(encoding="utf-8"))
    assert facts == json.loads(json.dumps(result.facts))
    assert (facts["n_images"], facts["n_declared"], facts["n_patients"]) == (34, 36, 12)
    assert (facts["reference"], facts["positive"], facts["classes"]) == ("A", "tumor", ["no_tumor", "tumor"])
    assert [model["bundle"] for model in facts["models"]] == [open_bundle(path).id for path in (trained.bundle, other)]
    rows = read_table(result.folder / "paired.csv")
    assert [row["sample_id"] for row in rows] == [row["image"] for row in read_table(new_patients)]
    assert [row["sample_id"] for row in rows if row["status"] != "ok"] == bad
    assert all(row["predicted_A"] == row["proba_B_tumor"] == "" for row in rows if row["status"] != "ok")
    report = result.report.read_text(encoding="utf-8")
    assert "2 of 36 declared images have no score" in report and str(tmp_path) not in report
    assert "test_resnet" in report and report.count("data:image/jpeg") == 2
    run = json.loads((result.folder / "run.json").read_text(encoding="utf-8"))
    assert run["bundles"] == [model["bundle"] for model in facts["models"]] and run["reference"] == run["bundles"][0]
    assert any(line.startswith("B: test_resnet") for line in heard.lines)
    lines = describe_paired(facts)
    assert lines[0].startswith("B - A  auroc") and len(lines) == 5
    images = [new_patients.parent / row["image"] for row in read_table(new_patients)]
    for name, path in (("A", trained.folder), ("B", other)):
        own = open_bundle(path if name == "B" else trained.bundle).classes.index("tumor")
        for row, one in zip(rows, predict(path, images), strict=True):
            if row["status"] == "ok":
                assert row[f"predicted_{name}"] == one.label and one.proba is not None
                assert float(row[f"proba_{name}_tumor"]) == pytest.approx(one.proba[own], abs=1e-4)
        scored = [row for row in rows if row["status"] == "ok"]
        area = auroc(
            np.array([row["label"] == "tumor" for row in scored]),
            np.array([float(row[f"proba_{name}_tumor"]) for row in scored]),
        )
        metrics = next(model["metrics"] for model in facts["models"] if model["name"] == name)
        assert metrics["auroc"]["value"] == pytest.approx(area)
    difference = facts["differences"][0]["metrics"]["auroc"]
    first, second = (model["metrics"]["auroc"]["value"] for model in facts["models"])
    assert difference["value"] == pytest.approx(second - first)


def test_each_bundle_reads_as_in_its_training_and_all_answer_the_same_images(
    new_patients: Path, tmp_path: Path, make_other: Callable[..., Path]
) -> None:
    """One of the bundles refuses images that the other takes: they are left out for both."""
    plain, strict = make_other("plain"), make_other("strict", seed=2, min_side=65)
    with pytest.raises(DataError) as caught:
        evaluate_paired([plain, strict], new_patients, out=tmp_path / "out", settings=FAST)
    assert caught.value.code == "NOTHING_SCORED" and not (tmp_path / "out").exists()
    asked = (*FAST, "data.min_side=16")
    result = evaluate_paired([plain, strict], new_patients, out=tmp_path / "out", settings=asked)
    assert result.facts["n_images"] == 36, "what the user sets wins"


def test_images_that_a_model_was_trained_on_are_left_out(
    trained: TrainedRun, new_patients: Path, tmp_path: Path, make_other: Callable[..., Path]
) -> None:
    if open_bundle(trained.bundle).imprint is None:
        pytest.skip("the bundle keeps nothing of its training images")
    known = {row["sample_id"] for row in read_table(trained.folder / "manifest.csv") if row["split"] == "train"}
    old = [row for row in read_table(trained.table) if row["image"] in known][:6]
    rows = [{**row, "image": str(trained.table.parent / row["image"])} for row in old]
    rows += [{**row, "image": str(new_patients.parent / row["image"])} for row in read_table(new_patients)]
    table = write_table(tmp_path / "mixed.csv", [{"image": row["image"], "label": row["label"]} for row in rows])
    folders, asked = [trained.folder, make_other("other")], (*FAST, "data.allow_outside=true")
    with pytest.raises(DataError, match="LEAK_REFUSED"):
        evaluate_paired(folders, table, out=tmp_path / "out", settings=(*asked, "checks.strict=true"))
    assert not (tmp_path / "out").exists()
    result = evaluate_paired(folders, table, out=tmp_path / "out", settings=asked)
    facts = result.facts
    assert facts["headline"] == "clean" and facts["n_images"] == 36 and facts["all"]["n_images"] == 42
    assert facts["seen"]["models"]["A"]["exact"] == 6
    assert "Of 42 images models were trained on copies: A on 6" in result.report.read_text(encoding="utf-8")
    assert [row["trained_on_by"] for row in read_table(result.folder / "paired.csv")] == ["A"] * 6 + [""] * 36
    checks = json.loads((result.folder / "checks.json").read_text(encoding="utf-8"))
    assert "SEEN_IN_TRAINING" in {check["code"] for check in checks}


def test_three_untrained_bundles_of_three_classes(tmp_path: Path, make_other: Callable[..., Path]) -> None:
    table = write_phantoms(tmp_path / "p", patients=12, slices=2, size=64)
    rows = [{"image": row["image"], "label": "abc"[number % 3]} for number, row in enumerate(read_table(table))]
    write_table(table, rows)
    folders = [
        make_other(name, tuple(order), seed)
        for seed, (name, order) in enumerate(zip("xyz", ("abc", "cab", "bca"), strict=True))
    ]
    result = evaluate_paired(folders, table, out=tmp_path / "out", settings=FAST)
    assert [one["model"] for one in result.facts["differences"]] == ["B", "C"] and len(result.facts["ranking"]) == 3
    rows = read_table(result.folder / "paired.csv")
    for row in rows:
        for name in "ABC":
            best = max("abc", key=lambda one, name=name: float(row[f"proba_{name}_{one}"]))
            assert row[f"predicted_{name}"] == best


def test_what_is_no_comparison_is_refused(
    new_patients: Path, tmp_path: Path, make_other: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medgraft.workflows.paired.prepare", None)
    one, three = make_other("one"), make_other("three", ("tumor", "no_tumor", "cyst"))
    for bundles, error, code, words in (
        ([one], UsageError, "PAIRED_COUNT", "2 to 26 bundles, 1 given"),
        (str(one), UsageError, "PAIRED_COUNT", "1 given"),
        ([one, one], UsageError, "PAIRED_TWICE", "compared with itself"),
        ([one, three], ModelError, "PAIRED_CLASSES", "'tumor', 'no_tumor'"),
    ):
        with pytest.raises(error) as caught:
            evaluate_paired(bundles, new_patients, out=tmp_path / "out", settings=FAST)
        assert caught.value.code == code and words in caught.value.problem.what
    assert "adds 'cyst'" in str(caught.value) and not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="PART_EMPTY"):
        evaluate_paired(
            [one, make_other("two", seed=2)], new_patients, out=tmp_path / "out", part="test", settings=FAST
        )
