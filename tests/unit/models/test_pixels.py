"""Prepared input is refused, and the message says what was done to it."""

from __future__ import annotations

import numpy as np
import pytest

from medgraft.errors import ModelError
from medgraft.models.pixels import check_raw_pixels

RAW = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("prepare", "cause"),
    [
        (lambda x: x / 255.0, "scaled to 0..1"),
        (lambda x: x / 127.5 - 1.0, "scaled to -1..1"),
        (lambda x: (x / 255.0 - MEAN) / STD, "normalized by mean and standard deviation"),
        (lambda x: x.astype(float), "pixels converted to float"),
        (lambda x: x - np.array([123.7, 116.8, 103.9]), "a mean was subtracted"),
        (lambda x: x * 257.0, "more than 8 bits"),
        (lambda x: x * np.nan, "not finite"),
    ],
)
def test_floats_are_refused_with_the_cause(prepare: object, cause: str, dtype: type) -> None:
    with np.errstate(over="ignore"), pytest.raises(ModelError) as caught:
        check_raw_pixels(np.clip(prepare(RAW), -60000, 60000).astype(dtype))  # type: ignore[operator]
    assert caught.value.code == "PIXELS_NOT_RAW"
    assert cause in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, bool, np.complex64, object])
def test_other_types_are_refused(dtype: type) -> None:
    with pytest.raises(ModelError, match="PIXELS_NOT_RAW"):
        check_raw_pixels(RAW.astype(dtype))


def test_zero_and_one_were_scaled_and_cast() -> None:
    with pytest.raises(ModelError, match=r"scaled to 0\.\.1 and then cast"):
        check_raw_pixels((RAW > 128).astype(np.uint8))


@pytest.mark.parametrize("array", [RAW, np.zeros((1, 4, 4, 3), np.uint8), np.ones((1, 4, 4, 3), np.uint8), RAW[:0]])
def test_raw_passes(array: np.ndarray) -> None:
    check_raw_pixels(array)
