"""From measured values to 8 bits, by declared rules; every rule used leaves its code.

    values                              rule                                            code
    8 bits                              as they are                                     -
    16 bits, sixteen_bit = "auto"       every value a multiple of 257: value / 257      IMG_SCALED_16
                                        else all <= 255: as they are                    IMG_SCALED_8
                                        else all <= 4095: 0..4095 becomes 0..255        IMG_SCALED_12
                                        else 0..65535 becomes 0..255                    IMG_SCALED_16
    16 bits, sixteen_bit = "full"       0..65535 becomes 0..255                         IMG_SCALED_16
    integers, "percentile"              0.5th..99.5th percentile of the image           IMG_SCALED_PERCENTILE
    negative or more than 16 bits       only with a declared ``float_range``            IMG_SCALED_DECLARED
    float                               ``float_range``, 0..1 when not given            IMG_SCALED_DECLARED

A data set whose images carry different codes mixes scales; the codes are there to notice it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medgraft.config.schema import DataConfig
from medgraft.errors import DataError
from medgraft.types import PixelArray

Values = npt.NDArray[Any]

# A float image made from 8-bit levels misses its limits by rounding only.
_RANGE_SLACK = 1e-4
# Below a quarter of full scale a picture keeps fewer than 64 of 256 levels: worth a word.
_LOW_RANGE = 64


def to_uint8(values: Values, rules: DataConfig) -> tuple[PixelArray, tuple[str, ...]]:
    """Scale an image to 8 bits.

    Args:
        values: any shape; unsigned or signed integer, float or bool.
        rules: ``sixteen_bit`` and ``float_range`` decide.

    Returns:
        uint8 of the same shape, and the codes of the rules used.

    Raises:
        DataError: ``IMG_NONFINITE`` or ``IMG_FLOAT_RANGE``.
    """
    if values.dtype == np.uint8:
        return values, ()
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255), ()
    if np.issubdtype(values.dtype, np.floating):
        low, high = rules.float_range or (0.0, 1.0)
        return _declared(values, low, high), ("IMG_SCALED_DECLARED",)
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError("IMG_FORMAT_NOT_ALLOWED", f"has pixels of type {values.dtype}", fix="convert it to PNG or TIFF")
    pixels, code = _integers(values, rules)
    dark = code != "IMG_SCALED_PERCENTILE" and 0 < int(pixels.max()) < _LOW_RANGE
    return pixels, (code, "IMG_LOW_RANGE") if dark else (code,)


def stretch(values: Values, low: float, high: float) -> PixelArray:
    """Map ``low..high`` linearly to 0..255, rounded; values outside take the end of the scale.

    All zero when ``low == high``: a constant image has no contrast to show.
    """
    if not high > low:
        return np.zeros(values.shape, dtype=np.uint8)
    # float32 keeps 24 bits, enough for 16-bit values, at half the memory.
    wide = np.float32 if values.dtype.itemsize <= 2 else np.float64
    scaled: Values = values.astype(wide)
    scaled -= wide(low)
    scaled *= wide(255.0 / (high - low))
    np.rint(scaled, out=scaled)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def is_doubled_8bit(values: Values) -> bool:
    """Whether unsigned 16-bit values are 8-bit levels times 257, the usual way of widening."""
    # A small sample decides nearly always, without the cost of the whole.
    sample = values.reshape(-1)[:1024]
    return not (sample % 257).any() and not (values % 257).any()


def _integers(values: Values, rules: DataConfig) -> tuple[PixelArray, str]:
    low, high = int(values.min()), int(values.max())
    if rules.sixteen_bit == "percentile":
        start, end = np.percentile(values, [0.5, 99.5])
        return stretch(values, float(start), float(end)), "IMG_SCALED_PERCENTILE"
    if low < 0 or high > 65535:
        if rules.float_range is None:
            raise DataError(
                "IMG_FLOAT_RANGE",
                f"has values from {low} to {high}, and nothing says which of them are black and white",
                fix="declare data.float_range, or set data.sixteen_bit to percentile",
            )
        return _declared(values, *rules.float_range), "IMG_SCALED_DECLARED"
    if rules.sixteen_bit == "full":
        return stretch(values, 0, 65535), "IMG_SCALED_16"
    if high > 4095 or (high and is_doubled_8bit(values)):
        return stretch(values, 0, 65535), "IMG_SCALED_16"
    if high > 255:
        return stretch(values, 0, 4095), "IMG_SCALED_12"
    return values.astype(np.uint8), "IMG_SCALED_8"


def _declared(values: Values, low: float, high: float) -> PixelArray:
    if not np.isfinite(values).all():
        raise DataError("IMG_NONFINITE", "has NaN or infinite values", fix="repair the export that wrote it")
    smallest, largest = float(values.min()), float(values.max())
    slack = _RANGE_SLACK * (high - low)
    if smallest < low - slack or largest > high + slack:
        raise DataError(
            "IMG_FLOAT_RANGE",
            f"has values from {smallest:g} to {largest:g}, outside {low:g} to {high:g}",
            fix="declare data.float_range so that it covers every image",
        )
    return stretch(values, low, high)


def flatten(rgba: PixelArray, background: int) -> tuple[PixelArray, tuple[str, ...]]:
    """Put (H, W, 4) pixels on a grey background.

    Returns:
        (H, W, 3) uint8, and ``IMG_ALPHA`` when transparency changed anything.

    Raises:
        DataError: ``IMG_ALL_TRANSPARENT``: there would be nothing but background.
    """
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    lowest = int(alpha.min())
    if lowest == 255:
        return np.ascontiguousarray(rgb), ()
    if not alpha.any():
        raise DataError(
            "IMG_ALL_TRANSPARENT",
            "is transparent everywhere",
            fix="export it without the alpha channel, or take it out",
        )
    weight = alpha.astype(np.uint32)
    mixed = (rgb * weight + np.uint32(background) * (255 - weight) + 127) // 255
    return mixed.astype(np.uint8), ("IMG_ALPHA",)


def level_warnings(pixels: PixelArray) -> tuple[str, ...]:
    """``IMG_CONSTANT`` for one color in (H, W, 3) pixels, ``IMG_TWO_LEVELS`` for two."""
    # A coarse look settles nearly every real image before the full count.
    coarse = pixels[:: max(1, pixels.shape[0] // 16), :: max(1, pixels.shape[1] // 16)]
    if _n_colors(coarse) > 2:
        return ()
    return {1: ("IMG_CONSTANT",), 2: ("IMG_TWO_LEVELS",)}.get(_n_colors(pixels), ())


def _n_colors(pixels: PixelArray) -> int:
    wide = pixels.astype(np.uint32)
    return int(np.unique((wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]).size)


def to_rgb(pixels: PixelArray) -> PixelArray:
    """(H, W) or (H, W, 3) uint8 as (H, W, 3)."""
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def orient(pixels: PixelArray, orientation: int) -> PixelArray:
    """Turn (H, W, 3) pixels upright by the EXIF orientation 1..8.

    Source: EXIF 2.32, tag 274.
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
