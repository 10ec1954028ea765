"""What a model reads in corners, borders, text or elsewhere than in the lesion shows as a drop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from medgraft.config import Config
from medgraft.data.manifest import Manifest
from medgraft.data.phantom import write_phantoms
from medgraft.data.pixels import ingest
from medgraft.evaluation.calibration import apply_temperature
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.inference.bundle import open_bundle
from medgraft.inference.predictor import Predictor
from medgraft.types import FloatArray, PixelArray, Preprocess
from medgraft.workflows.progress import Silent
from medgraft.workflows.rescoring import Rescored, rescore
from medgraft.workflows.rescoring_questions import draw_rows
from medgraft.workflows.scored import ScoredPart
from medgraft.workflows.train import train
from tables import read_table

if TYPE_CHECKING:
    from conftest import TrainedRun

SIDE = 64
CORNER = 5  # a mark that lies within the frame, too
PREPROCESS = Preprocess((SIDE, SIDE), "squash", "bilinear", (0.5,) * 3, (0.5,) * 3)
HEAD_ONLY = """
[data]
test_fraction = 0.4
[model]
size = 64
[training]
threads = 1
[[training.phases]]
name = "head"
optimizer = "lbfgs"
[evaluation]
bootstrap = 100
gallery = 0
"""


class Reader:
    """A model of two classes whose evidence for "b" is a number read off each image."""

    def __init__(self, evidence: Callable[[PixelArray], FloatArray]) -> None:
        self.evidence = evidence
        self.asked = 0
        point = OperatingPoint("youden", "b", 0.5)
        self.bundle = SimpleNamespace(classes=("a", "b"), operating_point=point, preprocess=PREPROCESS)

    def expect(self, n_images: int) -> None:
        pass

    def logits(self, pixels: PixelArray) -> FloatArray:
        self.asked += len(pixels)
        found = np.asarray(self.evidence(pixels.astype(np.float64)), dtype=np.float64)
        return np.stack([np.zeros(len(pixels)), found], axis=1)

    def proba(self, logits: FloatArray) -> FloatArray:
        return apply_temperature(logits, 1.0)


def write_images(folder: Path, n: int = 80, *, masks: bool = True) -> Manifest:
    """Noise; images of class "b" have a bright mark in a corner and a bright disc in the middle, in their mask."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((SIDE, SIDE))
    disc = np.hypot(rows - 32, columns - 32) < 8
    samples: dict[str, list[str | None]] = {name: [] for name in ("sample_id", "path", "patient_id", "label", "mask")}
    for number in range(n):
        positive = number % 2 == 1
        image = rng.integers(60, 100, (SIDE, SIDE, 3)).astype(np.uint8)
        if positive:
            image[:CORNER, :CORNER] = 220
            image[disc] = 220
            Image.fromarray(disc).save(folder / f"{number}_mask.png")
        Image.fromarray(image).save(folder / f"{number}.png")
        cells = (f"s{number}", f"{number}.png", f"p{number // 2}", "b" if positive else "a")
        mask = f"{number}_mask.png" if positive and masks else None
        for name, value in zip(samples, (*cells, mask), strict=True):
            samples[name].append(value)
    return Manifest.from_columns(samples, root=folder, classes=("a", "b"), patient_source="column patient")


def ask(model: Reader, manifest: Manifest, *, inference: dict[str, Any] | None = None, **checks: int) -> Rescored:
    config = Config.model_validate({"evaluation": {"bootstrap": 100}, "checks": checks})
    pixels = ingest(manifest.image_paths(), PREPROCESS, config.data).pixels
    logits = model.logits(pixels.read(np.arange(len(manifest))))
    model.asked = 0
    part = ScoredPart(manifest, manifest, logits, pixels, {}, (), inference=inference)
    return rescore(cast(Predictor, model), part, config=config, seed=0, progress=Silent())


def corner_evidence(pixels: PixelArray) -> FloatArray:
    return (pixels[:, :CORNER, :CORNER].mean(axis=(1, 2, 3)) - 150) / 10


def middle_evidence(pixels: PixelArray) -> FloatArray:
    return (pixels[:, 28:36, 28:36].mean(axis=(1, 2, 3)) - 150) / 10


def test_a_model_that_reads_a_corner_loses_with_it(tmp_path: Path) -> None:
    found = ask(Reader(corner_evidence), write_images(tmp_path))
    flagged = [name for name, variant in found.variants.items() if variant.flagged]
    assert flagged == ["corners_blanked", "borders_blanked", "lesion_removed"]
    drop = found.variants["corners_blanked"].drop["auroc"]
    assert drop.value is not None and drop.low is not None and drop.value > 0.3 and drop.low > 0.02
    assert [check.code for check in found.checks] == [
        "SHORTCUT_RELIES_ON_CORNERS",
        "SHORTCUT_RELIES_ON_BORDERS",
        "LESION_NOT_NEEDED",
    ]
    corners, _, lesion = found.checks
    assert corners.severity == "warning" and "without the corners of the images AUROC falls by" in corners.title
    assert corners.evidence["drop"] == drop.value and corners.evidence["n"] == 80 == corners.evidence["changed"]
    assert "train again" in corners.advice
    assert "something else" in lesion.title and lesion.severity == "warning" and lesion.evidence["changed"] == 40


def test_a_model_that_reads_the_lesion_needs_it_and_nothing_else(tmp_path: Path) -> None:
    found = ask(Reader(middle_evidence), write_images(tmp_path))
    assert found.checks == () and not any(variant.flagged for variant in found.variants.values())
    removed, only = found.variants["lesion_removed"], found.variants["lesion_only"]
    assert (removed.n_images, removed.n_changed, only.n_changed) == (80, 40, 80)  # windows in both classes
    assert removed.drop["auroc"].value is not None and removed.drop["auroc"].value > 0.3
    assert only.drop["auroc"].value == 0 and only.metrics["auroc"].value == 1
    assert found.variants["text_blanked"].n_changed == 0
    assert found.variants["text_blanked"].drop["accuracy"].value == 0


def test_the_facts_are_those_of_evaluation_json_and_the_pictures_go_with_them(tmp_path: Path) -> None:
    found = ask(Reader(corner_evidence), write_images(tmp_path))
    facts = found.as_dict()
    assert list(facts) == ["corners_blanked", "borders_blanked", "text_blanked", "lesion_removed", "lesion_only"]
    for entry in facts.values():
        assert set(entry) == {"n_images", "n_changed", "metrics", "drop", "flagged"}
        assert set(entry["metrics"]) == set(entry["drop"]) == {"auroc", "accuracy", "balanced_accuracy"}
        for estimate in entry["drop"].values():
            assert estimate["n"] == entry["n_images"] and estimate["low"] <= estimate["value"] <= estimate["high"]
    assert 4 <= len(found.pairs) <= 8
    assert found.pairs[0].caption.startswith("corners blanked: b, probability 1.00 before, 0.0")
    assert found.pairs[0].image.shape == (SIDE, SIDE, 3) == found.pairs[0].blanked.shape
    assert found.pairs[0].image[0, 0, 0] == 220 and found.pairs[0].blanked[0, 0, 0] < 120


def test_answers_that_turn_wrong_count_though_the_order_of_the_images_stays(tmp_path: Path) -> None:
    found = ask(Reader(lambda pixels: corner_evidence(pixels) + 0.1 * middle_evidence(pixels)), write_images(tmp_path))
    corners = found.variants["corners_blanked"]
    assert corners.flagged and corners.drop["auroc"].value == 0
    assert found.checks[0].evidence["metric"] == "balanced_accuracy"
    assert "balanced accuracy falls by 0.500" in found.checks[0].title


def test_a_drop_that_only_one_filling_shows_is_no_shortcut(tmp_path: Path) -> None:
    """A model that reads the noise of the frame: any flat filling looks like the other class, the mirror does not."""

    def noise(pixels: PixelArray) -> FloatArray:
        texture = pixels[:, :4].std(axis=(1, 2, 3)) > 5
        return np.where(texture, middle_evidence(pixels), 0.0)

    found = ask(Reader(noise), write_images(tmp_path))
    assert not found.variants["borders_blanked"].flagged
    assert found.variants["borders_blanked"].drop["auroc"].value == 0


def test_unchanged_images_are_not_asked_again(tmp_path: Path) -> None:
    manifest = write_images(tmp_path)
    model = Reader(middle_evidence)
    found = ask(model, manifest)
    assert model.asked == sum(variant.n_changed for variant in found.variants.values()) == 80 + 80 + 0 + 40 + 80


def test_masks_that_are_missing_unreadable_or_absent(tmp_path: Path) -> None:
    manifest = write_images(tmp_path)
    (tmp_path / "1_mask.png").write_bytes(b"broken")
    found = ask(Reader(middle_evidence), manifest)
    (note,) = found.checks
    assert note.code == "MASK_UNREADABLE" and list(note.evidence["examples"]) == ["s1"]
    # it may have a lesion, so it is left out; images of the class without lesions need no mask
    assert found.variants["lesion_removed"].n_images == 79
    plain = ask(Reader(middle_evidence), write_images(tmp_path, masks=False))
    assert list(plain.variants) == ["corners_blanked", "borders_blanked", "text_blanked"]


def test_averaged_answers_and_no_images_are_not_rescored(tmp_path: Path) -> None:
    manifest = write_images(tmp_path, n=6)
    found = ask(Reader(middle_evidence), manifest, inference={"passes": 2})
    (note,) = found.checks
    assert note.code == "SHORTCUT_NOT_RESCORED" and note.severity == "note" and "several models" in note.title
    assert found.as_dict() == {} and found.pairs == ()
    empty = ask(Reader(middle_evidence), manifest.take([]))
    assert "no scored images" in empty.checks[0].title


def test_one_class_only_is_judged_by_accuracy(tmp_path: Path) -> None:
    manifest = write_images(tmp_path)
    found = ask(Reader(corner_evidence), manifest.take(np.arange(1, 80, 2)))
    variant = found.variants["corners_blanked"]
    assert variant.drop["auroc"].value is None and variant.drop["accuracy"].value == 1
    assert variant.flagged and found.checks[0].evidence["metric"] == "accuracy"
    assert "accuracy falls by 1.000" in found.checks[0].title


def cohort(patients: int, images: int, *, share: float = 0.3) -> Manifest:
    n = patients * images
    columns: dict[str, list[str | None]] = {
        "sample_id": [f"s{row}" for row in range(n)],
        "path": [f"{row}.png" for row in range(n)],
        "patient_id": [f"p{row // images}" for row in range(n)],
        "label": ["b" if (row // images) % 10 < 10 * share else "a" for row in range(n)],
    }
    return Manifest.from_columns(columns, root=Path("/data"), classes=("a", "b"), patient_source="column patient")


def test_rows_are_drawn_by_whole_patients_with_each_class_in_its_share() -> None:
    manifest = cohort(100, 7)
    rows = draw_rows(manifest, limit=200, seed=0)
    patients = manifest.table["patient_id"].to_numpy()
    assert 170 <= len(rows) <= 200 and np.array_equal(rows, np.sort(rows))
    assert not set(patients[rows]) & set(np.delete(patients, rows))
    share = (manifest.table["label"].to_numpy()[rows] == "b").mean()
    assert abs(share - 0.3) < 0.05
    assert np.array_equal(rows, draw_rows(manifest, limit=200, seed=0))
    assert len(draw_rows(manifest, limit=700, seed=0)) == 700
    single = draw_rows(cohort(20, 100), limit=50, seed=0)
    assert 25 <= len(single) <= 50  # no patient fits whole


def part_of(run: Path, root: Path, predictor: Predictor, config: Config) -> ScoredPart:
    """The test part of a run, scored by its bundle."""
    bundle = predictor.bundle
    declared = Manifest.read_csv(run / "manifest.csv", root=root, classes=bundle.classes)
    test = declared.part("test")
    pixels = ingest(test.image_paths(), bundle.preprocess, config.data).pixels
    return ScoredPart(test, test, predictor.logits(pixels), pixels, {}, ())


def test_a_mark_planted_in_a_corner_of_one_class_is_found(tmp_path: Path) -> None:
    table = write_phantoms(tmp_path / "phantoms", patients=40, slices=3, size=SIDE)
    for row in read_table(table):
        if row["label"] == "tumor":
            path = table.parent / row["image"]
            image = np.asarray(Image.open(path)).copy()
            image[2:9, 2:9] = 255
            Image.fromarray(image).save(path)
    settings = tmp_path / "settings.toml"
    settings.write_text(HEAD_ONLY, encoding="utf-8")
    result = train(table, out=tmp_path / "run", config=settings, settings=["checks.deep=false"])
    predictor = Predictor(open_bundle(result.bundle), device="cpu")
    config = Config.model_validate({"evaluation": {"bootstrap": 100}})
    part = part_of(result.folder, table.parent, predictor, config)
    found = rescore(predictor, part, config=config, seed=0, progress=Silent())
    corners = found.variants["corners_blanked"]
    assert corners.flagged and corners.n_changed == corners.n_images == len(part.scored)
    check = next(check for check in found.checks if check.code == "SHORTCUT_RELIES_ON_CORNERS")
    # the lesions still rank the images, but hardly any is called a tumor any more
    drop = corners.drop[check.evidence["metric"]]
    assert drop.value is not None and drop.value > 0.1 and drop.low is not None and drop.low > 0.02
    assert check.evidence["drop"] == drop.value and f"falls by {drop.value:.3f}" in check.title
    corner = found.pairs[0]
    assert corner.caption.startswith("corners blanked: tumor")
    assert corner.image[4, 4, 0] > 200 and corner.blanked[:11, :11].max() < 100


def test_nothing_is_flagged_without_a_mark(trained: TrainedRun) -> None:
    predictor = Predictor(open_bundle(trained.bundle), device="cpu")
    config = Config.model_validate({"evaluation": {"bootstrap": 100}})
    part = part_of(trained.folder, trained.table.parent, predictor, config)
    found = rescore(predictor, part, config=config, seed=0, progress=Silent())
    assert [check.code for check in found.checks] == []
    assert not any(variant.flagged for variant in found.variants.values())
    assert list(found.variants)[-2:] == ["lesion_removed", "lesion_only"]
    assert found.variants["lesion_removed"].n_images == len(part.scored)
