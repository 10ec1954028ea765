"""Findings about copies, labels, sizes and unreadable files, on records made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medgraft.checks.copies import check_copies
from medgraft.checks.integrity import check_images
from medgraft.checks.sizes import SMALLEST_CLASS, check_sizes
from medgraft.data.manifest import Manifest
from medgraft.data.pixels import ImageRecord
from medgraft.errors import Problem


def manifest(labels: list[str | None], splits: list[Any] | None = None) -> Manifest:
    names = [f"image-{row}" for row in range(len(labels))]
    columns: dict[str, list[Any]] = {
        "sample_id": names,
        "path": [f"images/{name}.png" for name in names],
        "label": labels,
    }
    if splits is not None:
        columns["split"] = splits
    return Manifest.from_columns(columns, root=Path("/data"), classes=("a", "b"), patient_source="none")


def record(picture: str = "", **values: Any) -> ImageRecord:
    return ImageRecord(pixel_hash=picture, **values)


def bad(code: str) -> ImageRecord:
    return ImageRecord(error=Problem(code, "cannot be read", "/home/someone/image.png", "repair it"))


def test_no_copies_no_finding() -> None:
    assert check_copies(manifest(["a", "b", "a"]), [record("x"), record("y"), record("z")]) == []


def test_exact_copies_are_counted_and_named() -> None:
    labels: list[str | None] = ["a", "a", "b", "a", "b", "b"]
    records = [record(picture) for picture in ("x", "x", "y", "x", "y", "z")]
    (found,) = check_copies(manifest(labels), records)
    assert (found.code, found.severity) == ("COPIES_EXACT", "warning")
    assert found.evidence["copies"] == 3 and found.evidence["groups"] == 2
    assert found.evidence["examples"] == [["image-0", "image-1", "image-3"], ["image-2", "image-4"]]
    assert "3 images" in found.title and "2 pictures" in found.title and found.advice


def test_a_picture_under_two_labels_is_a_conflict() -> None:
    labels: list[str | None] = ["a", "b", "a", "a", None]
    records = [record(picture) for picture in ("x", "x", "y", "y", "y")]
    copies, conflict = check_copies(manifest(labels), records)
    assert (copies.code, conflict.code) == ("COPIES_EXACT", "LABEL_CONFLICT")
    assert conflict.evidence == {"pictures": 1, "examples": [{"image-0": "a", "image-1": "b"}]}


def test_unreadable_files_are_no_copies_of_each_other() -> None:
    assert check_copies(manifest(["a", "b"]), [bad("IMG_EMPTY"), bad("IMG_EMPTY")]) == []


def test_many_copies_show_some_examples() -> None:
    (found,) = check_copies(manifest(["a"] * 100), [record(str(row // 2)) for row in range(100)])
    assert found.evidence["groups"] == 50 and len(found.evidence["examples"]) == 20


def test_few_test_images_of_a_class() -> None:
    labels: list[str | None] = ["a"] * 40 + ["b"] * 12
    (result,) = check_sizes(manifest(labels))
    assert (result.code, result.severity) == ("SIZE_TEST_CLASS", "warning")
    assert result.evidence == {"test_images": {"b": 12}, "wanted": SMALLEST_CLASS} and "b (12)" in result.title


def test_enough_images_and_absent_classes_give_nothing() -> None:
    assert check_sizes(manifest(["a"] * 30 + ["b"] * 30)) == []
    assert check_sizes(manifest(["a"] * 30)) == []
    assert check_sizes(manifest([])) == []


def test_the_declared_part_does_not_matter_once_samples_are_chosen() -> None:
    """An evaluation on a whole source tests all of it, whatever parts it declares."""
    (result,) = check_sizes(manifest(["a"] * 29 + ["b"] * 30, ["train"] * 30 + [None] * 29))
    assert result.evidence["test_images"] == {"a": 29}


def test_every_bad_image_is_listed_by_its_path_in_the_source() -> None:
    records = [record("x"), bad("IMG_EMPTY"), *(bad("IMG_TRUNCATED") for _ in range(50))]
    found = check_images(manifest(["a"] * 52), records)
    result = next(check for check in found if check.code == "IMAGES_BAD")
    assert result.severity == "error" and "51 of 52" in result.title and "skip_bad" in result.advice
    files = result.evidence["files"]
    assert [file["code"] for file in files] == ["IMG_EMPTY"] + ["IMG_TRUNCATED"] * 50
    assert [file["where"] for file in files] == [f"images/image-{row}.png" for row in range(1, 52)]
    assert "someone" not in str(result)


def test_remarks_are_grouped_by_kind() -> None:
    records = [
        record("x", warnings=("IMG_CONSTANT", "IMG_EXT_MISMATCH")),
        record("y", warnings=("IMG_CONSTANT",)),
        record("z"),
    ]
    found = {check.code: check for check in check_images(manifest(["a"] * 3), records)}
    assert set(found) == {"IMG_CONSTANT", "IMG_EXT_MISMATCH"}
    assert found["IMG_CONSTANT"].evidence["examples"] == ["image-0", "image-1"]
    assert "2 images" in found["IMG_CONSTANT"].title


@pytest.mark.parametrize("n", [0, 3])
def test_clean_images_give_nothing(n: int) -> None:
    assert check_images(manifest(["a"] * n), [record(str(row)) for row in range(n)]) == []
