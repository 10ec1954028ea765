"""From a source to images: all decoded, bad ones refused or set aside, split without crossing patients."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from medgraft.config import Config
from medgraft.data.sources import read_source
from medgraft.errors import DataError
from medgraft.models.catalogue import find_backbone
from medgraft.models.network import native_preprocess
from medgraft.training.plan import MachineFacts, make_plan
from medgraft.types import Preprocess
from medgraft.workflows.check import check
from medgraft.workflows.prepare import Prepared, peek_images, prepare
from medgraft.workflows.progress import Silent
from tables import read_table, spoil_rows, write_table

SMALL = Preprocess((32, 32), "squash", "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BAD = tuple(range(0, 50, 5))
SHALLOW = ("checks.deep=false",)


def prepared(
    table: Path, *, purpose: Literal["train", "evaluate", "check"] = "train", config: Config | None = None
) -> Prepared:
    config = config or Config()
    return prepare(read_source(table, config.data), config, SMALL, purpose=purpose, progress=Silent())


def skipping(share: float) -> Config:
    return Config.model_validate({"data": {"skip_bad": share}})


def test_everything_is_read_split_and_grouped_by_patient(table: Path) -> None:
    found = prepared(table)
    assert found.readable.all() and len(found.pixels) == len(found.manifest) == 60 and not found.errors()
    parts = {split: found.part(split) for split in ("train", "val", "test")}
    assert sum(len(manifest) for manifest, _ in parts.values()) == 60
    patients = [set(manifest.table["patient_id"]) for manifest, _ in parts.values()]
    assert all(patients) and not patients[0] & patients[1] and not (patients[0] | patients[1]) & patients[2]
    for manifest, pixels in parts.values():
        assert len(manifest) == len(pixels)
        first = np.asarray(Image.open(manifest.image_paths()[0]).resize((32, 32), Image.Resampling.BILINEAR))
        assert np.abs(pixels.read(np.array([0]))[0, ..., 0].astype(int) - first).mean() < 2


def test_training_refuses_bad_images_and_lists_all(table: Path) -> None:
    names = spoil_rows(table, BAD)
    with pytest.raises(DataError) as caught:
        prepared(table)
    assert caught.value.code == "BAD_IMAGES" and "10 of 60" in caught.value.problem.what
    assert [problem.where for problem in caught.value.problems] == names
    assert len({problem.code for problem in caught.value.problems}) >= 3


@pytest.mark.parametrize(("share", "passes"), [(0.1, False), (0.16, False), (0.17, True), (1.0, True)])
def test_the_share_that_may_be_left_out(table: Path, share: float, passes: bool) -> None:
    spoil_rows(table, BAD)
    if not passes:
        with pytest.raises(DataError, match="are allowed"):
            prepared(table, config=skipping(share))
        return
    found = prepared(table, config=skipping(share))
    assert len(found.manifest) == 60 and len(found.usable()) == 50
    assert sum(len(found.part(split)[0]) for split in ("train", "val", "test")) == 50
    assert set(found.errors()) == {read_table(table)[row]["image"] for row in BAD}
    assert all(error.startswith("[IMG_") and str(table.parent) not in error for error in found.errors().values())
    facts = found.facts(peek_images(found.manifest, Config()), table, Config())
    assert sum(facts.n(split) for split in ("train", "val", "test")) == 50


def test_evaluation_keeps_every_declared_row_and_does_not_split(table: Path) -> None:
    spoil_rows(table, BAD)
    found = prepared(table, purpose="evaluate")
    assert len(found.manifest) == 60 and found.readable.sum() == 50
    assert found.manifest.table["split"].isna().all()


def test_a_bad_image_of_a_given_part_stays_declared_there(table: Path) -> None:
    rows = read_table(table)
    for number, row in enumerate(rows):
        row["split"] = "test" if number >= 45 else "train"
    write_table(table, rows)
    spoil_rows(table, (0, 50))
    found = prepared(table, config=skipping(0.05))
    assert found.manifest.table["split"].iloc[50] == "test"
    assert len(found.manifest.part("test")) == 15 and len(found.part("test")[0]) == 14


def test_copies_stay_in_one_part_and_are_reported(table: Path) -> None:
    rows = read_table(table)
    shutil.copy(table.parent / rows[0]["image"], table.parent / "copy.png")
    rows.append({**rows[0], "image": "copy.png", "patient": "another"})
    found = prepared(write_table(table, rows))
    assert found.manifest.table["split"].iloc[0] == found.manifest.table["split"].iloc[-1]
    assert "COPIES_EXACT" in [result.code for result in found.checks]


def test_nothing_readable(table: Path) -> None:
    for image in (table.parent / "images").iterdir():
        image.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        prepared(table, config=skipping(1.0))
    assert caught.value.exit_code == 3
    assert not prepared(table, purpose="check").readable.any()


def test_peek_sees_size_and_color(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, channels, sides in (("gray", 1, (40, 60)), ("color", 3, (40, 40)), ("black", 3, (40, 40))):
        for number in range(6):
            folder = tmp_path / name / str(number % 2)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (sides[number % 2], 50, channels), dtype=np.uint8).squeeze()
            if name == "black":  # the same colors, on the black air around a head
                pixels[:, :15] = 5
            Image.fromarray(pixels).save(folder / f"{number}.png")
    gray = peek_images(read_source(tmp_path / "gray", Config().data), Config())
    color = peek_images(read_source(tmp_path / "color", Config().data), Config())
    assert (gray.stained, gray.one_size, gray.side) == (False, False, 45)
    black = peek_images(read_source(tmp_path / "black", Config().data), Config())
    assert (color.stained, color.one_size, color.side) == (True, True, 40)
    assert (black.stained, black.one_size, black.side) == (False, True, 40)
    for image in (tmp_path / "gray").rglob("*.png"):
        image.write_bytes(b"")
    assert peek_images(read_source(tmp_path / "gray", Config().data), Config()).side == 0


def test_color_patches_are_tissue_and_false_color_on_black_is_not(tmp_path: Path) -> None:
    """Tissue is pink on white; a slice whose three channels are sequences has a black surround."""
    rng = np.random.default_rng(1)
    for name, air, tint in (("patches", 245, (200, 120, 170)), ("slices", 0, (160, 90, 60))):
        for number in range(6):
            pixels = np.full((96, 96, 3), air, dtype=np.uint8)
            pixels[24:72, 16:80] = np.clip(rng.normal(tint, 15, (48, 64, 3)), 0, 255)
            folder = tmp_path / name / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    modalities = []
    for name in ("patches", "slices"):
        found = prepared(tmp_path / name, purpose="check")
        facts = found.facts(peek_images(found.manifest, Config()), tmp_path / name, Config())
        machine = MachineFacts("cpu", "no GPU found", True, 1, 10**12, (), 0)
        modalities.append(make_plan(Config(), facts, machine).modality)
    assert modalities == ["histopathology", "other"]


def test_the_planner_hears_the_folder_of_the_images(table: Path) -> None:
    (table.parent / "phantoms.csv").rename(table.parent / "labels.csv")
    named = table.parent.rename(table.parent.with_name("chest-films"))
    found = prepared(named / "labels.csv")
    assert "chest-films" in found.facts(peek_images(found.manifest, Config()), named / "labels.csv", Config()).words


def sizes_found(table: Path, purpose: Literal["train", "evaluate", "check"]) -> dict[str, int]:
    """Test images of the classes found small."""
    found = [result for result in prepared(table, purpose=purpose).checks if result.code == "SIZE_TEST_CLASS"]
    return dict(found[0].evidence["test_images"]) if found else {}


def test_sizes_are_those_of_the_images_that_numbers_rest_on(table: Path) -> None:
    """The test part in training and check, everything readable in evaluation."""
    rows = read_table(table)
    for number, row in enumerate(rows):
        row["split"] = ("test", "train", "train")[number // 3 % 3]
    write_table(table, rows)
    declared = [row["label"] for row in rows if row["split"] == "test"]
    for purpose in ("train", "check"):
        assert sizes_found(table, purpose) == {name: declared.count(name) for name in sorted(set(declared))}
    everything = [row["label"] for row in rows]
    small = {name: everything.count(name) for name in set(everything) if everything.count(name) < 30}
    assert sizes_found(table, "evaluate") == small
    bad = spoil_rows(table, [number for number, label in enumerate(everything) if label == "tumor"][:4])
    assert len(bad) == 4 and sizes_found(table, "evaluate")["tumor"] == everything.count("tumor") - 4


def test_check_lists_every_bad_image_and_says_whether_training_would_go(table: Path, tmp_path: Path) -> None:
    good = check(table, settings=SHALLOW)
    assert good.usable and good.manifest is not None and good.manifest.table["split"].notna().all()
    names = spoil_rows(table, BAD)
    report = check(table, out=tmp_path / "checks", settings=SHALLOW)
    assert not report.usable
    written = json.loads((report.folder / "checks.json").read_text(encoding="utf-8"))
    (bad,) = [result for result in written if result["code"] == "IMAGES_BAD"]
    assert sorted(file["where"] for file in bad["evidence"]["files"]) == sorted(names)
    assert str(table.parent) not in json.dumps(written)


def test_check_reports_what_splitting_refuses(table: Path) -> None:
    rows = read_table(table)
    for row in rows:
        row["label"] = "rare" if row is rows[0] else "common"
    report = check(write_table(table, rows), settings=SHALLOW)
    assert not report.usable and "CLASS_TOO_SMALL" in [result.code for result in report.checks]


def test_training_finds_the_pixels_of_check(table: Path, tmp_path: Path) -> None:
    check(table, settings=SHALLOW)
    config = Config()
    native = native_preprocess(find_backbone(config.model.backbone), resize=config.model.resize)
    prepare(read_source(table, config.data), config, native, purpose="train", progress=Silent())
    assert len(list((tmp_path / "cache" / "pixels").iterdir())) == 1
