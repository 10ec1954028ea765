"""One function gives images the input size, in training and in prediction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medgraft.data.resize import fit
from medgraft.types import Interpolation, Preprocess, Resize

HALF = (0.5, 0.5, 0.5)
PIXELS = np.random.default_rng(3).integers(0, 256, (40, 60, 3)).astype(np.uint8)


def rules(size: tuple[int, int], resize: Resize, interpolation: Interpolation = "bilinear") -> Preprocess:
    return Preprocess(size, resize, interpolation, HALF, HALF)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_squash_is_pillows_antialiased_filter(interpolation: Interpolation) -> None:
    expected = Image.fromarray(PIXELS).resize((12, 20), getattr(Image.Resampling, interpolation.upper()))
    np.testing.assert_array_equal(fit(PIXELS, rules((20, 12), "squash", interpolation)), np.asarray(expected))


def test_reduction_averages_instead_of_picking() -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    assert np.abs(fit(board, rules((8, 8), "squash")).astype(int) - 127).max() <= 3


def test_pad_keeps_the_aspect_on_black() -> None:
    white = np.full((20, 40, 3), 255, np.uint8)
    out = fit(white, rules((32, 32), "pad"))
    assert (out[8:24] == 255).all() and (out[:8] == 0).all() and (out[24:] == 0).all()


def test_crop_cuts_the_center() -> None:
    striped = np.zeros((20, 40, 3), np.uint8)
    striped[:, 10:30] = 200
    np.testing.assert_array_equal(fit(striped, rules((20, 20), "crop")), np.full((20, 20, 3), 200))
    np.testing.assert_array_equal(fit(striped.swapaxes(0, 1), rules((20, 20), "crop")), np.full((20, 20, 3), 200))


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
def test_the_same_size_changes_nothing(resize: Resize) -> None:
    out = fit(PIXELS, rules((40, 60), resize))
    np.testing.assert_array_equal(out, PIXELS)
    assert out.base is not PIXELS and out.flags.writeable


@settings(max_examples=60, deadline=None)
@given(
    native=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    resize=st.sampled_from(["squash", "pad", "crop"]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_any_image_takes_any_size(
    native: tuple[int, int], size: tuple[int, int], resize: Resize, interpolation: Interpolation
) -> None:
    flat = np.full((*native, 3), 77, np.uint8)
    out = fit(flat, rules(size, resize, interpolation))
    assert out.shape == (*size, 3) and out.dtype == np.uint8
    assert set(np.unique(out)) <= ({0, 77} if resize == "pad" else {77})
