"""`check`: what it finds before any training, and where it puts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from medgraft.data.phantom import write_phantoms
from medgraft.errors import DataError
from medgraft.workflows.check import CheckReport, check
from tables import read_table, write_table

SHALLOW = ("checks.deep=false",)


def written(report: CheckReport) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((report.folder / "checks.json").read_text(encoding="utf-8"))
    return found


def codes(report: CheckReport) -> set[str]:
    return {found.code for found in report.checks}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> CheckReport:
    """Phantoms, looked at in depth and compared with others that a brighter scanner made."""
    folder = tmp_path_factory.mktemp("compared")
    table = write_phantoms(folder / "first", patients=20, slices=3, size=64)
    other = write_phantoms(folder / "second", patients=12, slices=3, size=64, seed=1)
    for path in (other.parent / "images").iterdir():
        pixels = np.asarray(Image.open(path)).astype(np.float64)
        Image.fromarray(np.clip(0.6 * pixels + 80, 0, 255).astype(np.uint8)).save(path)
    settings = ("training.threads=1", "checks.permutations=99", f"data.cache_dir={folder / 'cache'}")
    return check(table, out=folder / "out", against=other, settings=settings)


def test_a_folder_holds_results_table_and_page(compared: CheckReport) -> None:
    names = {path.name for path in compared.folder.iterdir()}
    assert names == {"checks.json", "manifest.csv", "check.html", "plots"}
    assert compared.page == compared.folder / "check.html" and compared.manifest is not None
    assert [found.as_dict() for found in compared.checks] == written(compared)
    rows = read_table(compared.folder / "manifest.csv")
    assert len(rows) == 60 and {row["split"] for row in rows} == {"train", "val", "test"}
    page = compared.page.read_text(encoding="utf-8")
    for words in ("60 images of 2 classes", "Nearest thumbnail", "Borders alone", "first/phantoms.csv"):
        assert words in page, words
    assert str(compared.folder.parent) not in page


def test_clean_phantoms_raise_no_false_alarm(compared: CheckReport) -> None:
    """No copies, no leaks, no wrong labels; what a shift says here is of the other source."""
    assert compared.usable
    assert not {code for code in codes(compared) if code.startswith(("COPIES", "LABEL", "PATIENT_LABELS", "BASELINE"))}
    assert not {code for code in codes(compared) if code.endswith("ACROSS_PARTS")}


def test_another_source_that_looks_otherwise_is_told_apart(compared: CheckReport) -> None:
    (shift,) = [found for found in compared.checks if found.code == "SHIFT"]
    assert shift.severity == "warning"
    assert shift.title.startswith("second/phantoms.csv does not look like first/phantoms.csv")
    assert shift.evidence["n_images"] == [60, 36] and shift.evidence["p"] == 0.01 and shift.evidence["auroc"] > 0.9
    assert "brightness" in shift.evidence["attributes"][0]["name"]


def test_near_copies_are_found_and_shown(tmp_path: Path) -> None:
    source = tmp_path / "folders"
    write_phantoms(tmp_path / "phantoms", patients=8, slices=3, size=96)
    pictures = sorted((tmp_path / "phantoms" / "images").iterdir())[:12]
    for number, picture in enumerate(pictures):
        (source / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        with Image.open(picture) as image:
            image.convert("L").save(source / "ab"[number % 2] / f"{number}.png")
    with Image.open(pictures[0]) as image:
        ImageOps.mirror(image.convert("L")).save(source / "a" / "mirrored.jpg", quality=80)
    with Image.open(pictures[1]) as image:
        image.convert("L").resize((160, 160), Image.Resampling.BICUBIC).save(source / "b" / "larger.png")
    report = check(source, out=tmp_path / "out", settings=SHALLOW)
    (near,) = [found for found in written(report) if found["code"] == "COPIES_NEAR_WITHIN"]
    kinds = {frozenset((pair["first"], pair["second"])): pair["kind"] for pair in near["evidence"]["examples"]}
    assert kinds == {
        frozenset(("a/0.png", "a/mirrored.jpg")): "mirrored left-right",
        frozenset(("b/1.png", "b/larger.png")): "resized",
    }
    page = report.page.read_text(encoding="utf-8")
    assert "mirrored left-right: a/0.png (a, " in page and "resized: b/1.png (b, " in page


def test_one_picture_under_two_labels_is_an_error(table: Path, tmp_path: Path) -> None:
    rows = read_table(table)
    other = {"tumor": "no_tumor", "no_tumor": "tumor"}
    with Image.open(table.parent / rows[7]["image"]) as image:
        image.save(table.parent / "again.png", compress_level=1)
    rows.append({**rows[7], "image": "again.png", "patient": "another", "label": other[rows[7]["label"]]})
    report = check(write_table(table, rows), out=tmp_path / "out", settings=SHALLOW)
    (conflict,) = [found for found in report.checks if found.code == "LABEL_CONFLICT"]
    assert conflict.severity == "error" and not report.usable
    assert conflict.evidence["examples"] == [{rows[7]["image"]: rows[7]["label"], "again.png": rows[-1]["label"]}]


def test_given_parts_with_copies_and_patients_across_them_are_errors(table: Path, tmp_path: Path) -> None:
    rows = [{**row, "split": "train" if number < 44 else "test"} for number, row in enumerate(read_table(table))]
    with Image.open(table.parent / rows[0]["image"]) as image:
        image.save(table.parent / "again.png")
    rows.append({**rows[0], "image": "again.png", "patient": "another", "split": "test"})
    report = check(write_table(table, rows), out=tmp_path / "out", settings=SHALLOW)
    severity = {found.code: found.severity for found in report.checks}
    assert severity["COPIES_ACROSS_PARTS"] == severity["PATIENTS_ACROSS_PARTS"] == "error" and not report.usable
    made = check(table, out=tmp_path / "made", settings=(*SHALLOW, "data.given_parts=ignore"))
    assert made.usable and not {code for code in codes(made) if code.endswith("ACROSS_PARTS")}


def test_spelling_variants_of_a_class_are_reported_like_everything_else(table: Path, tmp_path: Path) -> None:
    rows = read_table(table)
    for row in rows[::7]:
        row["label"] = row["label"].title().replace("_", " ")
    report = check(write_table(table, rows), out=tmp_path / "out", settings=SHALLOW)
    (found,) = report.checks
    assert (found.code, found.severity) == ("LABEL_VARIANTS", "error") and found.evidence["examples"]
    assert report.manifest is None and not report.usable
    assert {path.name for path in report.folder.iterdir()} == {"checks.json", "check.html"}
    assert "Tumor" in report.page.read_text(encoding="utf-8")


def test_another_source_has_the_same_classes(table: Path, tmp_path: Path) -> None:
    other = write_phantoms(tmp_path / "other", patients=4, slices=3, size=64, seed=1)
    rows = [{**row, "label": {"tumor": "cyst"}.get(row["label"], row["label"])} for row in read_table(other)]
    with pytest.raises(DataError, match="cyst"):
        check(table, out=tmp_path / "out", against=write_table(other, rows), settings=SHALLOW)


def test_too_few_patients_to_compare_are_said(table: Path, tmp_path: Path) -> None:
    other = write_phantoms(tmp_path / "other", patients=2, slices=3, size=64, seed=1)
    report = check(table, out=tmp_path / "out", against=other, settings=(*SHALLOW, "training.threads=1"))
    (few,) = [found for found in report.checks if found.code == "SHIFT_TOO_FEW"]
    assert few.severity == "note" and few.evidence == {"n_images": [60, 6]} and "too few patients" in few.title


def test_nothing_readable_is_reported_again_and_again(table: Path, tmp_path: Path) -> None:
    for image in (table.parent / "images").iterdir():
        image.write_bytes(b"")
    for name in ("first", "second"):  # the second finds the empty search for copies in the cache
        report = check(table, out=tmp_path / name)
        assert not report.usable and "IMAGES_BAD" in codes(report) and report.page.is_file()
