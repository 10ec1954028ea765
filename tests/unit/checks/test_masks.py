"""Masks lie where the lesion is in the image the network sees, and a mask that does not fit is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medgraft.checks.masks import Masks, read_masks
from medgraft.config.schema import DataConfig
from medgraft.data.manifest import Manifest
from medgraft.data.pixels import ImageRecord
from medgraft.types import Preprocess, Resize

HEIGHT, WIDTH = 60, 90


def outlined(value: int = 255, *, dtype: type = np.uint8) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=dtype)
    mask[12:30, 33:63] = value
    return mask


def read(
    folder: Path,
    names: list[str | None],
    *,
    resize: Resize = "squash",
    size: tuple[int, int] = (60, 90),
    width: int = WIDTH,
) -> Masks:
    columns: dict[str, list[str | None]] = {
        "sample_id": [f"s{row}" for row in range(len(names))],
        "path": [f"{row}.png" for row in range(len(names))],
        "label": ["a"] * len(names),
        "mask": names,
    }
    manifest = Manifest.from_columns(columns, root=folder, classes=("a", "b"), patient_source="none")
    records = [ImageRecord(width=width, height=HEIGHT)] * len(names)
    preprocess = Preprocess(size, resize, "bicubic", (0.5,) * 3, (0.5,) * 3)
    return read_masks(manifest, records, preprocess, DataConfig(sixteen_bit="full"))


@pytest.mark.parametrize("value", [1, 2, 77, 255])
def test_masks_of_any_number_mean_the_same(tmp_path: Path, value: int) -> None:
    Image.fromarray(outlined(value)).save(tmp_path / "m.png")
    Image.fromarray(outlined(value, dtype=np.uint16)).save(tmp_path / "wide.png")
    found = read(tmp_path, ["m.png", "wide.png", None])
    assert np.array_equal(found.lesions[0], outlined() > 0)
    assert np.array_equal(found.lesions[1], found.lesions[0])
    assert found.known.tolist() == [True, True, False] and found.shown.tolist() == [True, True, False]
    assert found.checks == ()


def test_the_noise_of_a_jpeg_is_no_lesion(tmp_path: Path) -> None:
    Image.fromarray(outlined()).save(tmp_path / "m.jpg", quality=60)
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "none.jpg")
    found = read(tmp_path, ["m.jpg", "none.jpg"])
    assert (found.lesions[0] != (outlined() > 0)).sum() < 20
    assert found.known.tolist() == [True, True] and found.shown.tolist() == [True, False]


@pytest.mark.parametrize(
    ("resize", "rows", "columns"),
    [("squash", (6, 14), (11, 20)), ("pad", (9, 14), (11, 20)), ("crop", (6, 14), (9, 23))],
)
def test_masks_are_fitted_as_images_are(
    tmp_path: Path, resize: Resize, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    Image.fromarray(outlined()).save(tmp_path / "m.png")
    lesion = read(tmp_path, ["m.png"], resize=resize, size=(30, 30)).lesions[0]
    found_rows, found_columns = np.flatnonzero(lesion.any(axis=1)), np.flatnonzero(lesion.any(axis=0))
    assert (found_rows[0], found_rows[-1]) == rows
    assert (found_columns[0], found_columns[-1]) == columns


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    Image.fromarray(outlined()).save(tmp_path / "good.png")
    Image.fromarray(outlined()[:50]).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found = read(tmp_path, ["good.png", "small.png", "broken.png", "absent.png"])
    assert found.known.tolist() == [True, False, False, False]
    (note,) = found.checks
    assert (note.code, note.severity) == ("MASK_UNREADABLE", "note")
    assert "3 masks cannot be used" in note.title and "90x50 pixels, its image 90x60" in note.title
    assert note.evidence["masks"] == 3 and sorted(note.evidence["examples"]) == ["s1", "s2", "s3"]
    assert str(tmp_path) not in str(note.as_dict())
    assert read(tmp_path, ["small.png"], width=0).known.tolist() == [True]  # a size that is not known is not compared
