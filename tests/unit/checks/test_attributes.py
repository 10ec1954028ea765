"""Attributes say what is known of an image without looking at what it shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from made_images import checked, noise, phantoms, png_record
from medgraft.checks.attributes import NAMES, Attributes, image_attributes, slice_position
from medgraft.checks.regions import borders, corners, thumbnails
from medgraft.types import FloatArray


def column(attributes: Attributes, name: str) -> FloatArray:
    return attributes.values[:, attributes.names.index(name)]


def test_size_and_file_are_those_of_the_record() -> None:
    images = noise(3)
    records = [
        replace(png_record(images[0]), width=400, height=200, n_bytes=8000, format="jpeg"),
        replace(png_record(images[1]), width=100, height=100, n_bytes=1000, format="tiff"),
        replace(png_record(images[2]), width=50, height=80, n_bytes=1, format="dicom"),
    ]
    found = image_attributes(checked(images, ["a", "b", "a"], records=records))
    assert found.names == NAMES and found.values.shape == (3, len(NAMES)) and found.values.dtype == np.float64
    assert column(found, "width").tolist() == [400, 100, 50] and column(found, "height").tolist() == [200, 100, 80]
    assert column(found, "aspect").tolist() == [2.0, 1.0, 0.625]
    assert column(found, "megapixels").tolist() == [0.08, 0.01, 0.004]
    assert column(found, "bytes per pixel").tolist() == [0.1, 0.1, 1 / 4000]
    assert column(found, "bytes (log)") == pytest.approx(np.log([8000, 1000, 1]))
    formats = [[name for name in NAMES if name.startswith("format") and column(found, name)[row]] for row in range(3)]
    assert formats == [["format jpeg"], ["format tiff"], ["format dicom"]]


def test_a_mark_is_seen_in_its_corner_only_and_a_frame_at_the_border() -> None:
    images = np.full((3, 100, 100), 80, dtype=np.uint8)
    images[1, 3:8, 90:95] = 255
    images[2, :, :4] = 200
    found = image_attributes(checked(images, ["a", "b", "a"]))
    assert column(found, "top right corner, brightest pixel").tolist() == [80, 255, 80]
    assert column(found, "top right corner, white share") == pytest.approx([0, 25 / 225, 0])
    assert column(found, "top left corner, brightest pixel").tolist() == [80, 80, 200]
    assert column(found, "bottom right corner, white share").tolist() == [0, 0, 0]
    border = column(found, "border brightness")
    assert border[0] == 80 and border[2] > 95 and column(found, "border spread")[0] == 0


def test_look_follows_brightness_contrast_and_blur() -> None:
    sharp = noise(1, size=64)[0]
    blurred = ndimage.gaussian_filter(sharp.astype(float), 2)
    images = np.stack([sharp, sharp // 2, np.clip(blurred, 0, 255)]).astype(np.uint8)
    look = image_attributes(checked(images, ["a", "b", "a"])).of("look")
    assert look.names == ("brightness", "contrast", "sharpness") and look.values.shape == (3, 3)
    brightness, contrast, sharpness = look.values.T
    assert brightness[1] == pytest.approx(brightness[0] / 2, abs=0.5) and contrast[1] < 0.6 * contrast[0]
    assert sharpness[1] == pytest.approx(sharpness[0], rel=0.05) and sharpness[2] < 0.5 * sharpness[0]


def test_metadata_holds_nothing_of_the_look_and_both_together_are_all() -> None:
    found = image_attributes(checked(noise(2), ["a", "b"]))
    metadata, look = found.of("metadata"), found.of("look")
    assert metadata.names + look.names == NAMES and not set(metadata.names) & set(look.names)
    assert np.array_equal(np.column_stack([metadata.values, look.values]), found.values)
    assert found.of("metadata").of("look").values.shape == (2, 0)


def test_every_image_has_its_own_row_across_batches() -> None:
    pixels = noise(400, size=200)
    images = checked(pixels, ["a", "b"] * 200, records=[png_record(pixels[0])] * 400)
    whole = image_attributes(images)
    some = np.array([399, 0, 211])
    assert np.allclose(whole.values[some], image_attributes(images.take(some)).values)


def position(paths: list[str], patients: list[str] | None) -> list[float] | None:
    n = len(paths)
    images = checked(noise(n), ["a", "b"] * (n // 2) + ["a"] * (n % 2), patients=patients, paths=paths)
    found = slice_position(images.manifest)
    assert found is None or found.shape == (n,)
    return None if found is None else found.tolist()


def test_position_is_the_rank_of_the_number_within_the_patient() -> None:
    paths = ["p/x_20001001_2.tif", "p/x_20001001_10.tif", "p/x_20001001_1.tif", "q/y_7.tif", "q/y_3.tif", "q/y_5.tif"]
    assert position([*paths, "r/z.tif"], [*"pppqqq", "r"]) == [0.5, 1.0, 0.0, 1.0, 0.0, 0.5, 0.5]


def test_two_series_of_a_patient_share_their_positions() -> None:
    paths = [f"{series}_{number}.png" for series in ("t1", "t2") for number in (1, 2, 3)]
    assert position(paths, ["p"] * 6) == [0.0, 0.5, 1.0, 0.0, 0.5, 1.0]


def test_position_is_not_guessed() -> None:
    stack = [f"p_{number}.png" for number in range(4)]
    assert position(stack, ["p"] * 4) is not None
    assert position(stack, None) is None  # patients unknown
    assert position([*stack, "p_last.png"], ["p"] * 5) is None  # one has no number
    assert position([f"i{at}.png" for at in range(6)], list("abcdef")) is None  # one image each
    assert position([f"person{at // 2}_{at % 2}.png" for at in range(6)], list("aabbcc")) is None  # two views
    assert phantoms(4).manifest.patients_known and slice_position(phantoms(4).manifest) is not None


def test_thumbnails_are_means_and_keep_color_where_there_is_some() -> None:
    gray = checked(noise(5, size=64), list("ababa")).pixels
    small = thumbnails(gray)
    assert small.shape == (5, 32 * 32) and small.dtype == np.float32
    pixels = gray.read(np.arange(5))[..., 0].astype(float)
    assert np.allclose(small.reshape(5, 32, 32), pixels.reshape(5, 32, 2, 32, 2).mean(axis=(2, 4)), atol=1e-4)
    color = np.random.default_rng(0).integers(0, 256, (5, 50, 70, 3), dtype=np.uint8)
    assert thumbnails(checked(color, list("ababa")).pixels).shape == (5, 32 * 32 * 3)
    assert thumbnails(checked(noise(2, size=20), list("ab")).pixels).shape == (2, 20 * 20)


def test_borders_and_corners_see_nothing_else() -> None:
    images = noise(2, size=100)
    other = images.copy()
    other[:, 15:-15, 6:-6] = 0
    other[:, 6:-6, 15:-15] = 0
    one, two = checked(images, ["a", "b"]).pixels, checked(other, ["a", "b"]).pixels
    assert not np.array_equal(thumbnails(one), thumbnails(two))
    for region in (borders, corners):
        seen = region(one)
        assert np.array_equal(seen.features, region(two).features) and len(seen.places) == seen.features.shape[1]
    assert set(borders(one).places) == {"top", "bottom", "left", "right"}
    other[1, -3, 2] = 255
    changed = (corners(checked(other, ["a", "b"]).pixels).features != corners(two).features).any(axis=0)
    assert {place for place, moved in zip(corners(two).places, changed, strict=True) if moved} == {"bottom left"}
