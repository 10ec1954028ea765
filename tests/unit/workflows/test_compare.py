"""The race of backbones: what it opens, what it writes, and that nobody is judged on what was seen."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import medgraft.data.pixels as pixels_module
from medgraft.config import load_config
from medgraft.data.phantom import write_phantoms
from medgraft.errors import DataError, ModelError, Stopped, UsageError
from medgraft.evaluation.metrics import auroc
from medgraft.types import RESEARCH_USE_ONLY
from medgraft.workflows.compare import CompareResult, compare
from medgraft.workflows.train import train
from tables import read_table, spoil_rows, write_table

THREE = "test_resnet@none,test_efficientnet@none,efficientnet-lite0"
QUICK = ("model.size=64", "training.threads=1", "evaluation.bootstrap=200")


class Listening:
    """Progress that keeps lines and can do something at a piece of work."""

    def __init__(self, at: str = "", act: object = None) -> None:
        self.lines: list[str] = []
        self.worked: list[str] = []
        self._at, self._act = at, act

    def say(self, line: str) -> None:
        self.lines.append(line)

    def advance(self, what: str, done: int, total: int) -> None:
        self.worked.append(what)
        if self._at and what.startswith(self._at) and callable(self._act):
            act, self._act = self._act, None
            act()

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompareResult, Path, Listening]:
    """Three small backbones on phantoms; result, cache, and what was said."""
    folder = tmp_path_factory.mktemp("race")
    table = write_phantoms(folder / "phantoms", patients=20, slices=3, size=64)
    heard = Listening()
    settings = (*QUICK, f"data.cache_dir={folder / 'cache'}")
    result = compare(table, THREE, out=folder / "run", settings=settings, progress=heard)
    return result, table, heard


def out_of_fold(folder: Path) -> list[dict[str, str]]:
    with (folder / "oof.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_files_say_who_is_best_and_who_ties(raced: tuple[CompareResult, Path, Listening]) -> None:
    result, _, heard = raced
    names = {"compare.json", "compare.html", "oof.csv", "config.toml", "checks.json", "run.json", "plots"}
    assert {path.name for path in result.folder.iterdir()} == names and result.report.name == "compare.html"
    found = json.loads((result.folder / "compare.json").read_text(encoding="utf-8"))
    assert found == result.comparison
    assert (found["task"], found["metric"], found["folds"]) == ("compare", "auroc", 5)
    assert found["patient_independence"] == "verified" and found["notice"] == RESEARCH_USE_ONLY
    rows = found["backbones"]
    assert [row["rank"] for row in rows] == [1, 2, 3] and found["finetuned"] == []
    assert sorted(row["auroc"]["value"] for row in rows)[::-1] == [row["auroc"]["value"] for row in rows]
    assert rows[0]["difference"] is None and rows[0]["verdict"] == "best"
    for row in rows[1:]:
        difference = row["difference"]
        assert set(difference) == {"value", "low", "high", "level", "method"}
        assert difference["value"] == pytest.approx(row["auroc"]["value"] - rows[0]["auroc"]["value"])
        assert row["verdict"] == ("tie" if difference["low"] <= 0 <= difference["high"] else "worse")
    (lite,) = [row for row in rows if row["name"] == "efficientnet-lite0"]
    assert (lite["features"], lite["size"], lite["features_cached"]) == (1280, [64, 64], False)
    assert (
        lite["images_per_second"] > 0 and len(lite["strengths"]) == 5 and set(lite["seconds"]) == {"features", "probe"}
    )
    assert any(line.startswith(" 1. ") and line.endswith("best") for line in heard.lines)
    run = json.loads((result.folder / "run.json").read_text(encoding="utf-8"))
    assert (run["verb"], run["state"], run["test_part_read"]) == ("compare", "finished", 0)
    assert load_config(result.folder / "config.toml").model.size == 64


def test_every_number_can_be_recomputed(raced: tuple[CompareResult, Path, Listening]) -> None:
    """One probability per image of train and validation, whole patients per fold, the AUROC of the table."""
    result, table, _ = raced
    rows, declared = out_of_fold(result.folder), read_table(table)
    assert len(rows) == result.comparison["n_images"] < len(declared) == 60
    assert len({row["sample_id"] for row in rows}) == len(rows)
    patients = {row["patient_id"] for row in rows}
    assert len(patients) == result.comparison["n_patients"]
    assert all(len({row["fold"] for row in rows if row["patient_id"] == one}) == 1 for one in patients)
    assert {row["fold"] for row in rows} == {"1", "2", "3", "4", "5"}
    no, yes = result.comparison["classes"]
    label = np.array([int(row["label"] == yes) for row in rows])
    for backbone in result.comparison["backbones"]:
        proba = np.array([[float(row[f"proba_{backbone['name']}_{name}"]) for name in (no, yes)] for row in rows])
        assert np.allclose(proba.sum(axis=1), 1)
        assert auroc(label, proba[:, 1]) == pytest.approx(backbone["auroc"]["value"])
        assert backbone["auroc"]["n"] == len(rows) and backbone["auroc"]["method"] == "patient bootstrap"


def test_the_same_race_again_finds_its_features_and_its_numbers(
    raced: tuple[CompareResult, Path, Listening], tmp_path: Path
) -> None:
    result, table, _ = raced
    settings = (*QUICK, f"data.cache_dir={result.folder.parent / 'cache'}")
    heard = Listening()
    again = compare(table, THREE, out=tmp_path / "run", settings=settings, progress=heard)
    for one, other in zip(result.comparison["backbones"], again.comparison["backbones"], strict=True):
        assert other["features_cached"] and other["images_per_second"] > 0
        same = ("name", "auroc", "difference", "verdict", "strengths")
        assert [one[key] for key in same] == [other[key] for key in same]
    assert (again.folder / "oof.csv").read_bytes() == (result.folder / "oof.csv").read_bytes()
    assert not any(what.startswith("features of") for what in heard.worked)


def test_training_finds_the_features_of_the_race(raced: tuple[CompareResult, Path, Listening], tmp_path: Path) -> None:
    result, table, _ = raced
    cache = result.folder.parent / "cache"
    before = set((cache / "activations").iterdir())
    probe = 'training.phases=[{name="head", optimizer="lbfgs"}]'
    heard = Listening()
    settings = (*QUICK, f"data.cache_dir={cache}", "training.views=0", "checks.deep=false", probe)
    train(table, out=tmp_path / "run", settings=settings, progress=heard)
    assert set((cache / "activations").iterdir()) == before
    assert not any("frozen part" in what for what in heard.worked)


def test_files_are_opened_and_decoded_once_for_all_sizes(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    decoded: list[str] = []
    read_file, decode_content = pixels_module.read_file, pixels_module.decode_content

    def counted_read(path: Path, rules: object) -> bytes:
        opened.append(path.name)
        return read_file(path, rules)  # type: ignore[arg-type]

    def counted_decode(data: bytes, rules: object, *, name: str) -> object:
        decoded.append(Path(name).name)
        return decode_content(data, rules, name=name)  # type: ignore[arg-type]

    monkeypatch.setattr(pixels_module, "read_file", counted_read)
    monkeypatch.setattr(pixels_module, "decode_content", counted_decode)
    monkeypatch.setattr("medgraft.data.image.decode", None)  # nothing may look at a file beside it
    result = compare(
        table, "test_resnet@none,mobilenetv3_small_050.lamb_in1k@none", out=tmp_path / "run", settings=QUICK[1:]
    )
    assert sorted(row["size"][0] for row in result.comparison["backbones"]) == [160, 224]
    names = sorted(Path(row["image"]).name for row in read_table(table))
    assert sorted(opened) == names and sorted(decoded) == names


def test_a_given_test_part_is_never_opened(table: Path, tmp_path: Path) -> None:
    """Its files are unreadable here, and nobody notices, fine-tuning included."""
    rows = read_table(table)
    for number, row in enumerate(rows):
        row["split"] = "test" if number >= 42 else "train"
    write_table(table, rows)
    spoil_rows(table, range(42, 60))
    phase = 'training.phases=[{name="only", trains="all", epochs=1, freeze_norm=false}]'
    heard = Listening()
    result = compare(
        table, "test_resnet@none,test_efficientnet@none", out=tmp_path / "run", finetune=2, settings=(*QUICK, phase),
        progress=heard,
    )  # fmt: skip
    assert result.comparison["n_images"] == 42
    finetuned = result.comparison["finetuned"]
    assert [row["rank"] for row in finetuned] == [1, 2] and finetuned[0]["verdict"] == "best"
    assert {row["name"] for row in finetuned} == {row["name"] for row in result.comparison["backbones"]}
    assert all(0 < row["n_images"] < 42 and row["auroc"]["n"] == row["n_images"] for row in finetuned)
    assert finetuned[1]["difference"]["value"] <= 0
    written = json.loads((result.folder / "compare.json").read_text(encoding="utf-8"))
    assert written["finetuned"] == finetuned and "Fine-tuned" in result.report.read_text(encoding="utf-8")
    assert any(line.startswith("fine-tuning 2 of 2") for line in heard.lines)


def test_nothing_is_decoded_before_every_backbone_is_there(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> bytes:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(pixels_module, "read_file", never)
    with pytest.raises(ModelError, match="2 of 3 backbones"):
        compare(table, "resnet101,efficientnet-lite0,vgg19", out=tmp_path / "run", settings=QUICK)
    with pytest.raises(UsageError, match=r"COMPARE_FINETUNE.*2 leaders.*1 backbones"):
        compare(table, "test_resnet@none", out=tmp_path / "run", finetune=2, settings=QUICK)
    with pytest.raises(UsageError, match="COMPARE_FINETUNE"):
        compare(table, "test_resnet@none", out=tmp_path / "run", finetune=-1, settings=QUICK)
    assert not (tmp_path / "run").exists()


def test_one_backbone_is_simply_judged(table: Path, tmp_path: Path) -> None:
    result = compare(table, ["test_resnet@none"], out=tmp_path / "run", settings=QUICK)
    (row,) = result.comparison["backbones"]
    assert row["difference"] is None and row["verdict"] == "best" and row["auroc"]["low"] < row["auroc"]["high"]


def test_three_classes_without_patients(table: Path, tmp_path: Path) -> None:
    rows = [{"image": row["image"], "label": "abc"[number % 3]} for number, row in enumerate(read_table(table))]
    result = compare(
        write_table(table, rows), "test_resnet@none,test_efficientnet@none", out=tmp_path / "run", settings=QUICK
    )
    assert result.comparison["n_patients"] is None and result.comparison["patient_independence"] == "not verified"
    found = out_of_fold(result.folder)
    label = np.array([row["label"] for row in found])
    for backbone in result.comparison["backbones"]:
        assert backbone["auroc"]["method"] == "image bootstrap"
        values = [
            auroc(label == name, np.array([float(row[f"proba_{backbone['name']}_{name}"]) for row in found]))
            for name in "abc"
        ]
        assert np.mean(values) == pytest.approx(backbone["auroc"]["value"])  # type: ignore[arg-type]
    assert "NOT verified" in result.report.read_text(encoding="utf-8")


def test_too_few_patients_are_refused(table: Path, tmp_path: Path) -> None:
    rows = read_table(table)
    for number, row in enumerate(rows):
        row["patient"] = f"p{number % 3}-{row['label']}"
        row["split"] = ("train", "val", "test")[number % 3]
    settings = (*QUICK, "data.small_validation=keep")
    with pytest.raises(DataError, match=r"COMPARE_TOO_FEW.*\(2\)"):
        compare(write_table(table, rows), "test_resnet@none", out=tmp_path / "run", settings=settings)


def test_stopping_keeps_the_features_and_writes_nothing(table: Path, tmp_path: Path) -> None:
    heard = Listening("probe of test_eff", lambda: os.kill(os.getpid(), signal.SIGINT))
    names = "test_resnet@none,test_efficientnet@none"
    with pytest.raises(Stopped, match=r"STOPPED.*features computed so far stay in the cache"):
        compare(table, names, out=tmp_path / "run", settings=QUICK, progress=heard)
    assert not (tmp_path / "run").exists()
    result = compare(table, names, out=tmp_path / "run", settings=QUICK)
    assert all(row["features_cached"] for row in result.comparison["backbones"])


def test_stopping_while_leaders_are_tuned_leaves_the_comparison(table: Path, tmp_path: Path) -> None:
    heard = Listening("only", lambda: os.kill(os.getpid(), signal.SIGTERM))
    phase = 'training.phases=[{name="only", trains="all", epochs=50, freeze_norm=false}]'
    with pytest.raises(Stopped, match="the comparison itself is complete") as caught:
        compare(table, "test_resnet@none", out=tmp_path / "run", finetune=1, settings=(*QUICK, phase), progress=heard)
    assert caught.value.problem.where == str(tmp_path / "run") and caught.value.exit_code == 143
    assert json.loads((tmp_path / "run" / "compare.json").read_text(encoding="utf-8"))["finetuned"] == []
