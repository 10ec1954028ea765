"""Raw pixels or nothing: preprocessing is inside the model, so prepared input would be prepared twice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medgraft.errors import ModelError


def check_raw_pixels(array: npt.NDArray[np.generic]) -> None:
    """Refuse arrays given by a user that are not raw pixels. Not for decoded files: those are raw.

    Args:
        array: any shape, what the user gave; only uint8 on the 0..255 scale passes.

    Raises:
        ModelError: PIXELS_NOT_RAW, with the cause in words.
    """
    if array.size and array.dtype.kind == "f" and not np.isfinite(array).all():
        raise not_raw("values that are not finite")
    if array.dtype.kind not in "uif":
        raise not_raw(f"values of type {array.dtype}")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if array.dtype != np.uint8:
        raise not_raw(cause_of(low, high, kind=str(array.dtype)))
    if high == 1.0 and low == 0.0:
        raise not_raw("uint8 values of only 0 and 1: scaled to 0..1 and then cast")


def cause_of(low: float, high: float, *, kind: str) -> str:
    """In words, what was done to pixels whose values span low..high.

    Args:
        low: smallest value.
        high: largest value.
        kind: name of the number type.
    """
    if low < 0 and low >= -1.01 and high <= 1.01:
        return f"{kind} values in {low:.2f}..{high:.2f}: scaled to -1..1"
    if low < 0 and high <= 20:
        return f"{kind} values in {low:.2f}..{high:.2f}: normalized by mean and standard deviation"
    if low < 0:
        return f"{kind} values in {low:.0f}..{high:.0f}: a mean was subtracted, or the values are not pixels"
    if high <= 1.0:
        return f"{kind} values in {low:.2f}..{high:.2f}: scaled to 0..1"
    if high <= 255.0:
        return f"{kind} values in {low:.0f}..{high:.0f}: pixels converted to {kind}"
    return f"{kind} values in {low:.0f}..{high:.0f}: more than 8 bits"


def not_raw(cause: str) -> ModelError:
    """The error for prepared input."""
    return ModelError(
        "PIXELS_NOT_RAW",
        f"the model takes raw uint8 pixels (0..255) and got {cause}",
        where="pixels",
        fix="give the pixels as decoded; resizing aside, normalization is inside the model and is not applied twice",
    )
