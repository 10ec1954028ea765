"""A whole run: every file, one row per declared test image, the same bits again, and clean ends."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import tomllib
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
from medgraft.inference.predictor import Predictor
from medgraft.types import EpochRow
from medgraft.workflows.train import train
from tables import read_table, spoil_rows, write_table

if TYPE_CHECKING:
    from conftest import Heard, TrainedRun


def digest(bundle: Path) -> str:
    return hashlib.sha256((bundle / "weights.safetensors").read_bytes()).hexdigest()


def test_every_file_is_there(trained: TrainedRun) -> None:
    files = {path.relative_to(trained.folder).as_posix() for path in trained.folder.rglob("*") if path.is_file()}
    assert {
        "config.toml", "plan.json", "manifest.csv", "checks.json", "metrics.csv", "scores.csv", "evaluation.json",
        "report.html", "run.json", "bundle/bundle.json", "bundle/weights.safetensors", "plots/roc.png",
        "plots/confusion_matrix.png", "plots/training_loss.png",
    } <= files  # fmt: skip
    assert not [name for name in files if "partial" in name]
    assert trained.result.report == trained.folder / "report.html"
    for path in trained.folder.rglob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))


def test_scores_have_one_row_per_declared_test_image(trained: TrainedRun) -> None:
    lines = (trained.folder / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == (
        "sample_id,path,patient_id,label,predicted,correct,status,proba_no_tumor,proba_tumor,prediction_set,refer,subset"
    )
    scores = read_table(trained.folder / "scores.csv")
    declared = [row for row in read_table(trained.folder / "manifest.csv") if row["split"] == "test"]
    assert [row["sample_id"] for row in scores] == [row["sample_id"] for row in declared] and len(declared) > 4
    assert [row["label"] for row in scores] == [row["label"] for row in declared]
    assert all(row["status"] == "ok" for row in scores)
    assert all(row["correct"] == str(row["label"] == row["predicted"]).lower() for row in scores)
    assert all(float(row["proba_tumor"]) + float(row["proba_no_tumor"]) == pytest.approx(1) for row in scores)


def test_the_numbers_follow_from_the_scores(trained: TrainedRun) -> None:
    scores = read_table(trained.folder / "scores.csv")
    content = json.loads((trained.folder / "evaluation.json").read_text(encoding="utf-8"))
    truth = np.array([row["label"] == "tumor" for row in scores], dtype=np.int64)
    proba = np.array([float(row["proba_tumor"]) for row in scores])
    assert content["metrics"]["auroc"]["value"] == pytest.approx(auroc(truth, proba))
    right = [row["correct"] == "true" for row in scores]
    assert content["metrics"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert content["n_images"] == content["n_declared"] == len(scores)
    assert content["n_patients"] == len({row["patient_id"] for row in scores})
    assert content["patient_independence"] == "verified"
    assert content == trained.result.facts
    numbers = trained.result.evaluation.as_dict()
    assert {name: content[name] for name in numbers} == numbers


def test_parts_stand_side_by_side_with_intervals(trained: TrainedRun) -> None:
    rows = read_table(trained.folder / "parts.csv")
    content = json.loads((trained.folder / "evaluation.json").read_text(encoding="utf-8"))
    value = {(row["part"], row["metric"]): row for row in rows}
    assert {part for part, _ in value} == {"val", "test"}
    assert float(value["test", "auroc"]["value"]) == content["metrics"]["auroc"]["value"]
    assert float(value["val", "auroc"]["low"]) < float(value["val", "auroc"]["high"])
    counts = [int(value["test", name]["value"]) for name in ("true_positives", "false_negatives")]
    assert sum(counts) == sum(row["label"] == "tumor" for row in read_table(trained.folder / "scores.csv"))
    page = trained.result.report.read_text(encoding="utf-8")
    assert "Train, validation and test" in page


def test_class_weights_are_printed_as_a_table(trained: TrainedRun) -> None:
    parts = read_table(trained.folder / "manifest.csv")
    of_train = Counter(row["label"] for row in parts if row["split"] == "train")
    total = sum(of_train.values())
    for name, count in of_train.items():
        assert any(line.split() == [name, str(count), f"{total / (2 * count):.3f}"] for line in trained.said)


def test_no_patient_stands_in_two_parts(trained: TrainedRun) -> None:
    parts: dict[str, set[str]] = {}
    for row in read_table(trained.folder / "manifest.csv"):
        parts.setdefault(row["patient_id"], set()).add(row["split"])
    assert len(parts) == 20 and all(len(found) == 1 for found in parts.values())


def test_the_bundle_gives_the_scores(trained: TrainedRun) -> None:
    scores = read_table(trained.folder / "scores.csv")
    bundle = open_bundle(trained.bundle)
    predictions = Predictor(bundle).predict_paths([trained.table.parent / row["path"] for row in scores])
    for prediction, row in zip(predictions, scores, strict=True):
        assert prediction.proba is not None
        assert prediction.proba[1] == pytest.approx(float(row["proba_tumor"]), abs=1e-5)
        assert prediction.label == row["predicted"]
    assert bundle.provenance["backbone"] == "efficientnet-lite0"


def test_metrics_csv_holds_every_epoch(trained: TrainedRun) -> None:
    rows = read_table(trained.folder / "metrics.csv")
    assert list(rows[0]) == list(EpochRow.__dataclass_fields__)
    phases = Counter(row["phase"] for row in rows)
    assert list(phases) == ["head", "finetune"] and phases["finetune"] == 2
    assert all(float(row["val_loss"]) > 0 for row in rows)
    said = [line for line in trained.said if line.startswith(("  head ", "  finetune "))]
    assert len(said) == len(rows)


def test_plan_and_config_say_what_was_done(trained: TrainedRun) -> None:
    plan = json.loads((trained.folder / "plan.json").read_text(encoding="utf-8"))
    assert plan["settings"]["model.size"]["value"] == [64, 64]
    assert all(row["reason"] for row in plan["settings"].values())
    settled = {name: row["value"] for name, row in plan["settings"].items()}
    assert settled["data.patients"] == "column patient" and settled["data.positive"] == "tumor"
    assert settled["model.backbone"].startswith("efficientnet-lite0 (")
    checks = json.loads((trained.folder / "checks.json").read_text(encoding="utf-8"))
    assert settled["data.split"] == [check["title"] for check in checks if check["code"].startswith("SPLIT")] != []
    assert [phase["name"] for phase in plan["phases"]] == ["head", "finetune"]
    config = Config.model_validate(tomllib.loads((trained.folder / "config.toml").read_text(encoding="utf-8")))
    assert config.model.size == 64 and config.training.phases != "auto"


def test_run_json_is_provenance_without_paths(trained: TrainedRun) -> None:
    text = (trained.folder / "run.json").read_text(encoding="utf-8")
    run = json.loads(text)
    assert run["state"] == "finished" and run["test_part_read"] == 1 and run["source"] == "phantoms.csv"
    assert sum(run["images"].values()) == 60 and run["images_unreadable"] == 0
    assert run["bundle"] == open_bundle(trained.bundle).id
    for path in ("run.json", "evaluation.json", "plan.json", "report.html", "bundle/bundle.json"):
        assert str(trained.table.parent) not in (trained.folder / path).read_text(encoding="utf-8")


def test_a_second_run_reuses_the_caches_and_gives_the_same_bits(trained: TrainedRun, tmp_path: Path) -> None:
    cache = trained.table.parent.parent / "cache"

    def files() -> dict[Path, tuple[int, int]]:
        """Inodes and sizes of what is costly to make."""
        kept = [*cache.glob("activations/*"), *cache.glob("pixels/*/rows.bin")]
        return {path: (path.stat().st_ino, path.stat().st_size) for path in kept}

    before = files()
    # 3 views and validation, at two boundaries; and the test images, at the one that the checks share with the probe
    assert len([path for path in before if path.suffix == ".npy"]) == 9
    again = train(trained.table, out=tmp_path / "again", config=trained.settings)
    assert files() == before
    assert digest(again.bundle) == digest(trained.bundle)
    assert (again.folder / "scores.csv").read_bytes() == (trained.folder / "scores.csv").read_bytes()
    assert (again.folder / "evaluation.json").read_bytes() == (trained.folder / "evaluation.json").read_bytes()


def test_the_same_bits_from_empty_caches_and_others_from_another_seed(table: Path, tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> str:
        # pretrained, since the weights before a phase are kept where two epochs are not better
        phase = {"name": "only", "trains": ["blocks.6", "conv_head"], "epochs": 2, "head_lr": 0.01}
        sections = {
            "model": {"size": 64},
            "data": {"cache_dir": tmp_path / name},
            "training": {"threads": 1, "seed": seed, "phases": [phase]},
            "evaluation": {"bootstrap": 100, "gallery": 2},
            "checks": {"deep": False},
        }
        config = Config.model_validate(sections)
        result = train(table, out=tmp_path / f"run-{name}", config=config)
        assert any(row["best"] == "True" for row in read_table(result.folder / "metrics.csv"))  # not those before
        return digest(result.bundle)

    first = weights("a", 3)
    assert weights("b", 3) == first
    assert weights("c", 4) != first


def test_bad_images_stop_training_before_the_first_epoch(table: Path, quick: Config, tmp_path: Path) -> None:
    names = spoil_rows(table, range(0, 50, 5))
    with pytest.raises(DataError) as caught:
        train(table, out=tmp_path / "run", config=quick)
    assert caught.value.code == "BAD_IMAGES" and [problem.where for problem in caught.value.problems] == names
    assert not (tmp_path / "run").exists()


def test_bad_images_may_be_left_out_of_training_and_stay_declared_in_the_test_part(
    table: Path, quick: Config, tmp_path: Path, heard: Heard
) -> None:
    rows = read_table(table)
    for number, row in enumerate(rows):
        row["split"] = "test" if number >= 45 else "train"
    write_table(table, rows)
    bad = spoil_rows(table, (0, 5, 10, 15, 20, 25, 30, 46, 50, 54))
    config = quick.model_copy(update={"data": quick.data.model_copy(update={"skip_bad": 0.2, "split": "split"})})
    result = train(table, out=tmp_path / "run", config=config, progress=heard)
    run = json.loads((result.folder / "run.json").read_text(encoding="utf-8"))
    assert sum(run["images"].values()) == 50 and run["images"]["test"] == 12 and run["images_unreadable"] == 10
    scores = read_table(result.folder / "scores.csv")
    assert [row["sample_id"] for row in scores] == [row["image"] for row in rows[45:]]
    unscored = [row for row in scores if row["status"] != "ok"]
    assert [row["sample_id"] for row in unscored] == bad[7:]
    assert all(row["status"].startswith("unscored: [IMG_") and row["proba_tumor"] == "" for row in unscored)
    assert (result.evaluation.n_images, result.evaluation.n_declared) == (12, 15)
    checks = json.loads((result.folder / "checks.json").read_text(encoding="utf-8"))
    (found,) = [check for check in checks if check["code"] == "IMAGES_BAD"]
    assert sorted(file["where"] for file in found["evidence"]["files"]) == sorted(bad)
    assert len(read_table(result.folder / "manifest.csv")) == 60
    assert any("IMAGES_BAD" in line for line in heard.lines)


def test_one_class_is_refused(tmp_path: Path, quick: Config) -> None:
    table = write_phantoms(tmp_path / "phantoms", patients=2, slices=2, size=64)
    rows = read_table(table)
    write_table(table, [{**row, "label": "tumor"} for row in rows])
    with pytest.raises(DataError) as caught:
        train(table, out=tmp_path / "run", config=quick)
    assert caught.value.code == "ONE_CLASS" and not (tmp_path / "run").exists()


REFUSED = {
    "TRAINS_UNKNOWN": {"training": {"phases": [{"name": "head"}, {"name": "tune", "trains": ["layer9"]}]}},
    "POSITIVE_UNKNOWN": {"data": {"positive": "tumour"}},
}


@pytest.mark.parametrize("code", REFUSED)
def test_names_that_only_training_would_look_up_are_refused_before_decoding(
    table: Path, quick: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr("medgraft.workflows.planning.prepare", None)
    config = Config.model_validate({"model": quick.model.model_dump(), **REFUSED[code]})
    with pytest.raises(UsageError) as caught:
        train(table, out=tmp_path / "run", config=config)
    assert caught.value.code == code and caught.value.exit_code == 2 and not (tmp_path / "run").exists()
    named = {"TRAINS_UNKNOWN": "layer4", "POSITIVE_UNKNOWN": "no_tumor, tumor"}[code]
    assert named in caught.value.problem.text


def test_a_positive_class_among_three_is_refused(table: Path, quick: Config, tmp_path: Path) -> None:
    rows = read_table(table)
    for number, row in enumerate(rows):
        row["label"] = "abc"[number % 3]
    config = quick.model_copy(update={"data": quick.data.model_copy(update={"positive": "a"})})
    with pytest.raises(UsageError) as caught:
        train(write_table(table, rows), out=tmp_path / "run", config=config)
    assert caught.value.code == "POSITIVE_UNKNOWN" and "exactly two classes" in caught.value.problem.what
    assert not (tmp_path / "run").exists()


def test_a_refused_split_leaves_no_folder(table: Path, quick: Config, tmp_path: Path) -> None:
    rows = read_table(table)
    for row in rows:
        row["label"] = "rare" if row is rows[0] else "common"
    with pytest.raises(DataError) as caught:
        train(write_table(table, rows), out=tmp_path / "run", config=quick)
    assert caught.value.code == "CLASS_TOO_SMALL" and not (tmp_path / "run").exists()


def test_a_used_output_folder_is_refused_before_anything_is_read(trained: TrainedRun, quick: Config) -> None:
    before = sorted(trained.folder.rglob("*"))
    with pytest.raises(UsageError) as caught:
        train(trained.table, out=trained.folder, config=quick)
    assert caught.value.code == "RUN_FOLDER_IN_USE" and sorted(trained.folder.rglob("*")) == before


def test_a_signal_while_activations_are_computed_leaves_an_openable_bundle(
    table: Path, quick: Config, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def advance(what: str, done: int, total: int) -> None:
        seen.append(what)
        if what.startswith("frozen part"):
            signal.raise_signal(signal.SIGTERM)  # a second one would end this process

    monkeypatch.setattr(heard, "advance", advance)
    asked = Config.model_validate(
        {"model": {"size": 64}, "training": {"threads": 1, "phases": [{"name": "head", "optimizer": "adam"}]}}
    )
    config = quick.model_copy(update={"training": asked.training, "model": asked.model})
    with pytest.raises(Stopped) as caught:
        train(table, out=tmp_path / "run", config=config, progress=heard)
    assert caught.value.exit_code == 143 and caught.value.problem.where == str(tmp_path / "run" / "bundle")
    assert len([what for what in seen if what.startswith("frozen part")]) == 1
    assert open_bundle(tmp_path / "run" / "bundle").classes == ("no_tumor", "tumor")
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["state"] == "stopped"
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"manifest.csv", "checks.json", "plan.json", "config.toml", "run.json", "bundle"}


def test_ctrl_c_leaves_an_openable_bundle(table: Path, tmp_path: Path) -> None:
    settings = [
        "model.backbone=test_resnet", "model.weights=none", "model.size=64", "training.threads=1",
        'training.phases=[{name="only", trains="all", epochs=5000, patience="none"}]', "checks.deep=false",
    ]  # fmt: skip
    command = [sys.executable, "-m", "medgraft", "train", str(table), "--out", str(tmp_path / "run")]
    for setting in settings:
        command += ["--set", setting]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            for line in process.stdout:
                if line.startswith("  only 2:"):
                    break
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 143 and stderr.startswith("error[STOPPED]: "), stderr
    assert open_bundle(tmp_path / "run" / "bundle").classes == ("no_tumor", "tumor")
    run = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert run["state"] == "stopped"
    assert not (tmp_path / "run" / "scores.csv").exists()  # the test part was not read
    with (tmp_path / "run" / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        assert len(list(csv.DictReader(stream))) >= 2
