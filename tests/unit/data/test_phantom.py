"""Phantoms: reproducible, labelled by their masks, and without a short way to the label."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation
from scipy.stats import mannwhitneyu

from medgraft.data.phantom import write_phantoms
from medgraft.errors import UsageError

PATIENTS, SLICES, SIZE = 24, 6, 128


class Phantoms:
    """A written set, read back."""

    def __init__(self, table: Path) -> None:
        with table.open(encoding="utf-8", newline="") as stream:
            self.rows = list(csv.DictReader(stream))
        self.images = np.stack([np.asarray(Image.open(table.parent / row["image"])) for row in self.rows])
        self.masks = np.stack([np.asarray(Image.open(table.parent / row["mask"])) for row in self.rows])
        self.tumor = np.array([row["label"] == "tumor" for row in self.rows])
        self.patients = np.array([row["patient"] for row in self.rows])
        self.file_sizes = np.array([(table.parent / row["image"]).stat().st_size for row in self.rows])


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    return Phantoms(write_phantoms(tmp_path_factory.mktemp("phantoms"), patients=PATIENTS, slices=SLICES, size=SIZE))


def test_table_and_files(phantoms: Phantoms) -> None:
    assert list(phantoms.rows[0]) == ["image", "label", "patient", "mask"]
    assert phantoms.rows[0]["image"] == "images/s0p000_0.png"
    assert phantoms.rows[0]["mask"] == "masks/s0p000_0_mask.png"
    assert phantoms.images.shape == phantoms.masks.shape == (PATIENTS * SLICES, SIZE, SIZE)
    assert phantoms.images.dtype == np.uint8


def test_the_seed_decides_every_pixel(tmp_path: Path) -> None:
    first, again, other = (
        Phantoms(write_phantoms(tmp_path / name, patients=2, slices=2, size=64, seed=seed))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first.rows == again.rows
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.masks, again.masks)
    assert not np.array_equal(first.images, other.images)
    assert not set(first.patients) & set(other.patients)


def test_a_larger_set_begins_with_the_smaller_one(tmp_path: Path) -> None:
    small, large = (Phantoms(write_phantoms(tmp_path / str(n), patients=n, slices=2, size=64)).images for n in (1, 2))
    assert np.array_equal(small, large[:2])


def test_masks_show_the_lesion_and_nothing_else(phantoms: Phantoms) -> None:
    assert set(np.unique(phantoms.masks)) == {0, 255}
    assert np.array_equal(phantoms.masks.any(axis=(1, 2)), phantoms.tumor)
    share = (phantoms.masks[phantoms.tumor] > 0).mean(axis=(1, 2))
    assert share.min() > 0.002
    assert share.max() < 0.15
    # inside the head, and different from the head around it
    inside = [image[mask > 0].mean() for image, mask in zip(phantoms.images, phantoms.masks, strict=True) if mask.any()]
    air = phantoms.images[:, :4, :4].mean()
    assert min(inside) > air + 10


def test_the_patient_does_not_give_the_label_away(phantoms: Phantoms) -> None:
    share = np.array([phantoms.tumor[phantoms.patients == patient].mean() for patient in np.unique(phantoms.patients)])
    assert share.max() < 1
    assert (share == 0).mean() < 0.3
    assert 0.35 < phantoms.tumor.mean() < 0.6


def test_every_position_has_a_lesion_about_as_often(phantoms: Phantoms) -> None:
    by_position = phantoms.tumor.reshape(PATIENTS, SLICES).mean(axis=0)
    assert by_position.min() > 0.2
    assert by_position.max() < 0.7


@pytest.mark.parametrize("shortcut", ["brightness", "border", "file size"])
def test_no_shortcut_tells_the_label(phantoms: Phantoms, shortcut: str) -> None:
    values = {
        "brightness": phantoms.images.mean(axis=(1, 2)),
        "border": phantoms.images[:, :6].mean(axis=(1, 2)),
        "file size": phantoms.file_sizes,
    }[shortcut]
    assert abs(_auroc(values, phantoms.tumor) - 0.5) < 0.17


def test_thumbnails_of_other_patients_do_not_tell_the_label(phantoms: Phantoms) -> None:
    small = [np.asarray(Image.fromarray(image).resize((32, 32)), np.float64).ravel() for image in phantoms.images]
    thumbnails = np.stack(small)
    distance = ((thumbnails[:, None] - thumbnails[None]) ** 2).sum(axis=2)
    distance[phantoms.patients[:, None] == phantoms.patients[None]] = np.inf
    guessed = phantoms.tumor[distance.argmin(axis=1)]
    assert (guessed == phantoms.tumor).mean() < 0.8
    assert _auroc(guessed, phantoms.tumor) < 0.8


def test_lesions_stand_out_where_the_mask_is(phantoms: Phantoms) -> None:
    """What a model can learn: contrast between the lesion and the ring of tissue around it."""
    contrasts = []
    for image, mask in zip(phantoms.images[phantoms.tumor], phantoms.masks[phantoms.tumor] > 0, strict=True):
        ring = binary_dilation(mask, iterations=6) & ~binary_dilation(mask, iterations=2)
        noise = image[:6].std()
        contrasts.append(np.percentile(np.abs(image[mask] - image[ring].mean()), 75) / max(noise, 1.0))
    assert np.median(contrasts) > 5


@pytest.mark.parametrize("arguments", [{"patients": 0}, {"slices": 1}, {"size": 16}, {"seed": -1}])
def test_numbers_out_of_range(tmp_path: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must be at least"):
        write_phantoms(tmp_path / "x", **arguments)
    assert not (tmp_path / "x").exists()


def _auroc(values: np.ndarray, positive: np.ndarray) -> float:
    statistic = mannwhitneyu(values[positive], values[~positive]).statistic
    return float(statistic) / (positive.sum() * (~positive).sum())
