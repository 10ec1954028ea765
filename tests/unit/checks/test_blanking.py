"""Blanked regions hold nothing of what stood there, and all else stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from medgraft.checks.blanking import (
    Blanked,
    Fill,
    borders_blanked,
    corners_blanked,
    lesion_only,
    lesion_removed,
    text_blanked,
)
from medgraft.config.schema import DataConfig
from medgraft.data.image import decode
from medgraft.data.phantom import draw_patient
from medgraft.data.resize import fit
from medgraft.types import PixelArray, Preprocess

SIDE = 100
CORNER, BORDER = 18, 8
FILLS: tuple[Fill, ...] = ("median", "mirror")


def textured(n: int = 2, *, height: int = SIDE, width: int = SIDE, seed: int = 0) -> PixelArray:
    rng = np.random.default_rng(seed)
    return rng.integers(60, 200, (n, height, width, 3), dtype=np.uint8)


def phantoms(patients: int = 8, *, side: int = 224) -> tuple[PixelArray, np.ndarray]:
    rules = Preprocess((side, side), "squash", "bilinear", (0.5,) * 3, (0.5,) * 3)
    drawn = [draw_patient(np.random.default_rng([0, number]), slices=3, size=side) for number in range(patients)]
    images = [fit(np.repeat(image[..., None], 3, axis=2), rules) for images, _ in drawn for image in images]
    return np.stack(images), np.concatenate([masks for _, masks in drawn])


def corner_mask(height: int = SIDE, width: int = SIDE) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    for rows in (slice(0, CORNER), slice(height - CORNER, height)):
        for columns in (slice(0, CORNER), slice(width - CORNER, width)):
            mask[rows, columns] = True
    return mask


@pytest.mark.parametrize("fill", FILLS)
def test_nothing_of_a_corner_is_left_and_nothing_else_changes(fill: Fill) -> None:
    given = textured(height=SIDE, width=140)
    corners = corner_mask(SIDE, 140)
    found = corners_blanked(given, fill=fill)
    assert found.changed.tolist() == [True, True]
    assert np.array_equal(found.pixels[:, ~corners], given[:, ~corners])
    marked = given.copy()
    marked[:, corners] = (255, 0, 0)
    assert np.array_equal(corners_blanked(marked, fill=fill).pixels, found.pixels)
    assert np.array_equal(given, textured(height=SIDE, width=140))  # what was given stays


@pytest.mark.parametrize("fill", FILLS)
def test_nothing_of_the_frame_is_left_and_nothing_else_changes(fill: Fill) -> None:
    given = textured()
    frame = np.ones((SIDE, SIDE), dtype=bool)
    frame[BORDER:-BORDER, BORDER:-BORDER] = False
    found = borders_blanked(given, fill=fill)
    assert np.array_equal(found.pixels[:, ~frame], given[:, ~frame])
    marked = given.copy()
    marked[:, frame] = (0, 0, 255)
    assert np.array_equal(borders_blanked(marked, fill=fill).pixels, found.pixels)


def test_the_filling_is_of_what_is_near_in_the_same_image() -> None:
    given = np.zeros((2, SIDE, SIDE, 3), dtype=np.uint8)
    given[0, :, : SIDE // 2] = (200, 100, 50)
    given[0, :, SIDE // 2 :] = (10, 20, 30)
    given[1] = (90, 0, 90)
    marked = given.copy()
    marked[:, :7, :7] = 255
    marked[:, -7:, -7:] = 255
    for fill in FILLS:
        found = corners_blanked(marked, fill=fill)
        assert np.array_equal(found.pixels, given)
    marked[:, :, :5] = 255
    assert np.array_equal(borders_blanked(marked[1:]).pixels, given[1:])


def test_a_mirrored_corner_continues_the_texture() -> None:
    given = np.zeros((1, SIDE, SIDE, 3), dtype=np.uint8)
    given[0] = np.arange(SIDE, dtype=np.uint8)[None, :, None]
    found = corners_blanked(given, fill="mirror").pixels[0, :CORNER, :CORNER, 0]
    assert found[0, -1] == CORNER and found[0, 1] == 2 * CORNER - 2  # from the right
    assert np.array_equal(found[-1, :-1], np.arange(CORNER - 1))  # from below, where that is nearer


def test_images_that_a_blanking_leaves_as_they_are_are_not_called_changed() -> None:
    given = np.full((2, SIDE, SIDE, 3), 30, dtype=np.uint8)
    given[1, 3, 3] = 200
    for blank in (corners_blanked, borders_blanked):
        assert blank(given).changed.tolist() == [False, True]
    none = np.zeros((0, SIDE, SIDE, 3), dtype=np.uint8)
    no_masks = np.zeros((0, SIDE, SIDE), dtype=bool)
    results = [corners_blanked(none), borders_blanked(none), text_blanked(none), lesion_removed(none, no_masks)]
    assert [len(found.pixels) for found in results] == [0] * 4
    assert [found.changed.shape for found in results] == [(0,)] * 4


def labelled(text: str, *, at: tuple[int, int], ink: int = 240, size: int = 16) -> tuple[PixelArray, PixelArray]:
    """A phantom without and with drawn text."""
    images, _ = phantoms(1)
    plain = images[1]
    picture = Image.fromarray(plain)
    ImageDraw.Draw(picture).text(at, text, fill=(ink, ink, ink), font_size=size)
    return plain, np.asarray(picture)


@pytest.mark.parametrize(
    ("text", "at", "size"),
    [("R", (8, 8), 16), ("L", (205, 12), 14), ("W 5000 L 1500", (4, 210), 10), ("SE: 3\nIM: 12", (4, 4), 10)],
)
def test_a_label_is_found_and_covered(text: str, at: tuple[int, int], size: int) -> None:
    plain, marked = labelled(text, at=at, size=size)
    found = text_blanked(marked[None])
    ink = (marked != plain).any(axis=2)
    assert ink.sum() > 20 and found.changed.tolist() == [True]
    # the air of a phantom is nearly black
    assert found.pixels[0][ink].max() < 60
    near = np.zeros_like(ink)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    near[max(0, rows[0] - 3) : rows[-1] + 4, max(0, columns[0] - 3) : columns[-1] + 4] = True
    assert np.array_equal(found.pixels[0][~near], plain[~near])


def test_dark_letters_on_a_bright_slope_are_found() -> None:
    slope = np.linspace(150, 230, 224).astype(np.uint8)
    plain = np.repeat(np.repeat(slope[None, :, None], 224, axis=0), 3, axis=2)
    picture = Image.fromarray(plain)
    ImageDraw.Draw(picture).text((10, 10), "PA", fill=(20, 20, 20), font_size=18)
    found = text_blanked(np.asarray(picture)[None])
    assert found.changed.tolist() == [True]
    assert np.abs(found.pixels[0].astype(int) - plain).max() < 25


def test_anatomy_is_left_alone() -> None:
    images, _ = phantoms(12)
    found = text_blanked(images)
    assert (found.pixels != images).any(axis=3).mean() < 1e-4
    assert found.changed.mean() < 0.05


def test_spots_and_strokes_in_tissue_are_no_text() -> None:
    given = np.full((3, 224, 224, 3), 90, dtype=np.uint8)
    rows, columns = np.indices((224, 224))
    given[0][np.hypot(rows - 30, columns - 40) < 6] = 230  # a blob
    given[1, 110:114, 90:130] = 230  # a stroke in the middle of the image
    given[2, :, 40:43] = 230  # a line from edge to edge
    assert text_blanked(given).changed.tolist() == [False] * 3


@pytest.mark.parametrize(
    ("folder", "most", "pixels"),
    [
        ("brain-mri-4class", 0.06, 0.0005),
        ("lgg-mri", 0.10, 0.0005),
        ("histopathology", 0.12, 0.003),
    ],
)
def test_next_to_nothing_of_images_without_text_is_touched(
    shared_data: Path, folder: str, most: float, pixels: float
) -> None:
    paths = [path for path in sorted((shared_data / folder).rglob("*.[jt][pi][gf]")) if "_mask" not in path.name]
    rules = Preprocess((224, 224), "squash", "bilinear", (0.5,) * 3, (0.5,) * 3)
    images = np.stack([fit(decode(path, DataConfig()).pixels, rules) for path in paths[:: len(paths) // 60][:60]])
    found = text_blanked(images)
    assert found.changed.mean() <= most
    assert (found.pixels != images).any(axis=3).mean() < pixels


def test_markers_of_chest_x_rays_are_found(shared_data: Path) -> None:
    paths = sorted((shared_data / "chest-xray" / "train").rglob("*.jpeg"))
    rules = Preprocess((224, 224), "squash", "bilinear", (0.5,) * 3, (0.5,) * 3)
    images = np.stack([fit(decode(path, DataConfig()).pixels, rules) for path in paths[:: len(paths) // 60][:60]])
    assert text_blanked(images).changed.mean() > 0.25


def in_background(value: int = 80) -> tuple[PixelArray, np.ndarray]:
    """Two images with a disc, the second without a mask."""
    rows, columns = np.indices((SIDE, SIDE))
    disc = np.hypot(rows - 40, columns - 60) < 10
    given = np.full((2, SIDE, SIDE, 3), value, dtype=np.uint8)
    given[:, :, :, 1] = (value + np.arange(SIDE) // 4)[None, None, :]  # a slope of green
    given[:, disc] = 250
    return given, np.stack([disc, np.zeros_like(disc)])


def test_a_lesion_is_filled_from_its_ring() -> None:
    given, masks = in_background()
    found = lesion_removed(given, masks)
    assert found.changed.tolist() == [True, False]
    assert np.array_equal(found.pixels[1], given[1])
    inside = found.pixels[0][masks[0]].astype(int)
    assert inside[:, 0].tolist() == [80] * len(inside)
    columns = np.nonzero(masks[0])[1]
    assert np.abs(inside[:, 1] - (80 + columns // 4)).max() <= 3
    far = np.hypot(*(np.indices((SIDE, SIDE)) - np.array([40, 60])[:, None, None])) > 14
    assert np.array_equal(found.pixels[0][far], given[0][far])


def test_a_lesion_alone_stands_on_the_color_around_it() -> None:
    given, masks = in_background()
    given[0, :20] = 255  # far from the lesion
    found = lesion_only(given, masks)
    assert found.changed.tolist() == [True, False]
    assert np.array_equal(found.pixels[0][masks[0]], given[0][masks[0]])
    assert np.unique(found.pixels[0, :20].reshape(-1, 3), axis=0).shape == (1, 3)
    assert found.pixels[0, 0, 0, 0] == 80


def test_lesions_of_phantoms_are_gone_and_several_are_filled_each_by_its_own_surroundings() -> None:
    images, masks = phantoms(6)
    row = int(masks.sum(axis=(1, 2)).argmax())
    found = lesion_removed(images[row : row + 1], masks[row : row + 1]).pixels[0]
    before, after = (one[masks[row]].astype(float).mean() for one in (images[row], found))
    assert abs(after - before) > 5
    given = np.full((1, SIDE, SIDE, 3), 20, dtype=np.uint8)
    given[:, :, SIDE // 2 :] = 200
    two = np.zeros((1, SIDE, SIDE), dtype=bool)
    two[0, 40:50, 15:25] = two[0, 40:50, 75:85] = True
    plain = given.copy()
    given[two] = 120
    assert np.array_equal(lesion_removed(given, two).pixels, plain)


def test_a_mask_over_the_whole_image_leaves_one_color_or_the_image() -> None:
    given = textured(1)
    everything = np.ones((1, SIDE, SIDE), dtype=bool)
    removed: Blanked = lesion_removed(given, everything)
    assert np.unique(removed.pixels.reshape(-1, 3), axis=0).shape == (1, 3)
    assert lesion_only(given, everything).changed.tolist() == [False]
