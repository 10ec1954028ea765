"""Gray DICOM values to 8 bits: modality transform, then the display window.

    1. Modality LUT, else slope * stored + intercept when given.
    2. The first of: VOI LUT; first window (center, width; LINEAR, LINEAR_EXACT or SIGMOID);
       full range of the stored bits, up to 8 bits; and above 8 bits, by ``sixteen_bit``:
       "auto" the image's own minimum and maximum (levels times 257 are divided by 257),
       "full" the full range of the stored bits, "percentile" its 0.5th..99.5th percentile.

Above 8 bits the stored range says little: an MRI of 16 bits rarely reaches 2,000, so without a window
its own range is the one that shows something, as in DICOM viewers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medgraft.config.schema import DataConfig
from medgraft.data.levels import Values, is_doubled_8bit, stretch
from medgraft.data.limits import quiet_decoders
from medgraft.errors import DataError
from medgraft.types import PixelArray

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_Gray = tuple[PixelArray, tuple[str, ...]]


def gray_to_uint8(values: Values, dataset: Dataset, bits: int, frame: int, rules: DataConfig) -> _Gray:
    """Apply the rules of this module.

    Args:
        values: (H, W) stored values.
        dataset: the file's attributes.
        bits: BitsStored.
        frame: index of the frame, for attributes that are given per frame.
        rules: ``sixteen_bit`` decides where there is no window.

    Returns:
        (H, W) uint8 with white high, and warning codes.

    Raises:
        DataError: ``DICOM_BAD_ATTR`` for a slope of 0 or numbers that are none.

    Source: DICOM PS3.3 C.11.1 and C.11.2.
    """
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if np.issubdtype(values.dtype, np.signedinteger) else (0, 2**bits - 1)
    )
    stored = values
    warnings: tuple[str, ...] = ()
    modality = _item(dataset, "PixelValueTransformationSequence", frame)
    slope, intercept = _number(modality, "RescaleSlope"), _number(modality, "RescaleIntercept")
    has_table = _filled(dataset, "ModalityLUTSequence")
    if has_table:
        values = _apply(values, dataset, "ModalityLUTSequence")
        low, high = 0, _table_top(dataset, "ModalityLUTSequence")
        warnings += ("DICOM_MODALITY_LUT",)
    elif (slope, intercept) not in ((None, None), (1.0, 0.0), (1.0, None), (None, 0.0)):
        slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
        if slope == 0:
            raise DataError(
                "DICOM_BAD_ATTR", "attribute RescaleSlope is 0, which erases the picture", fix="export it again"
            )
        values = values * slope + intercept
        low, high = sorted((low * slope + intercept, high * slope + intercept))
        warnings += ("DICOM_RESCALED",)
    if _filled(dataset, "VOILUTSequence"):
        shown = _apply(np.rint(values).astype(np.int64), dataset, "VOILUTSequence")
        return stretch(shown, 0, _table_top(dataset, "VOILUTSequence")), (*warnings, "DICOM_VOI_LUT")
    pixels, more = _windowed(values, _item(dataset, "FrameVOILUTSequence", frame))
    warnings += more
    if pixels is not None:
        return pixels, warnings
    if bits <= 8 and not has_table:
        return stretch(values, low, high), warnings
    pixels, code = _without_window(values, stored, (low, high), rules)
    return pixels, (*warnings, "DICOM_NO_WINDOW", code)


def _without_window(
    values: Values, stored: Values, full: tuple[float, float], rules: DataConfig
) -> tuple[PixelArray, str]:
    if rules.sixteen_bit == "percentile":
        low, high = np.percentile(values, [0.5, 99.5])
        return stretch(values, float(low), float(high)), "IMG_SCALED_PERCENTILE"
    doubled = values is stored and stored.dtype == np.uint16 and stored.max() > 255 and is_doubled_8bit(stored)
    if rules.sixteen_bit == "full" or doubled:
        return stretch(values, *full), "IMG_SCALED_16"
    return stretch(values, float(values.min()), float(values.max())), "IMG_SCALED_MINMAX"


def _windowed(values: Values, source: Dataset) -> tuple[PixelArray | None, tuple[str, ...]]:
    centers, widths = _numbers(source, "WindowCenter"), _numbers(source, "WindowWidth")
    if not centers or not widths:
        return None, ()
    center, width = centers[0], widths[0]
    function = str(source.get("VOILUTFunction") or "LINEAR").upper()
    if width < 1 if function == "LINEAR" else width <= 0:
        return None, ("DICOM_WINDOW_IGNORED",)
    warnings = (
        ("DICOM_WINDOWED",) if min(len(centers), len(widths)) == 1 else ("DICOM_WINDOWED", "DICOM_WINDOWS_SEVERAL")
    )
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -50, 50)))
        return stretch(share, 0, 1), warnings
    if function == "LINEAR_EXACT":
        return stretch(values, center - width / 2, center + width / 2), warnings
    if width == 1:
        return (values > center - 0.5).astype(np.uint8) * np.uint8(255), warnings
    return stretch(values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2), warnings


def _item(dataset: Dataset, sequence: str, frame: int) -> Dataset:
    """Where an attribute lives: in the frame's or the shared functional group, else in the file itself."""
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        if _filled(dataset, groups) and len(dataset[groups].value) > index:
            group = dataset[groups].value[index]
            if _filled(group, sequence):
                return group[sequence].value[0]  # type: ignore[no-any-return]
    return dataset


def _filled(dataset: Dataset, sequence: str) -> bool:
    try:
        return sequence in dataset and len(dataset[sequence].value) > 0
    except Exception as error:  # values are converted on access, and conversion of anything may fail
        raise DataError("DICOM_BAD_ATTR", f"attribute {sequence} cannot be read", fix="export it again") from error


def _apply(values: Values, dataset: Dataset, sequence: str) -> Values:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    function = apply_voi if sequence == "VOILUTSequence" else apply_modality_lut
    with quiet_decoders():
        try:
            return np.asarray(function(values, dataset))
        except Exception as error:  # tables of a hostile file
            raise DataError(
                "DICOM_BAD_ATTR", f"attribute {sequence} cannot be applied", fix="export it again"
            ) from error


def _table_top(dataset: Dataset, sequence: str) -> int:
    bits = _numbers(dataset[sequence].value[0], "LUTDescriptor")
    if len(bits) != 3 or not 1 <= bits[2] <= 16:
        raise DataError(
            "DICOM_BAD_ATTR", "attribute LUTDescriptor is not a table of 1 to 16 bits", fix="export it again"
        )
    return int(2 ** int(bits[2]) - 1)


def _number(source: Dataset, keyword: str) -> float | None:
    numbers = _numbers(source, keyword)
    return numbers[0] if numbers else None


def _numbers(source: Dataset, keyword: str) -> tuple[float, ...]:
    with quiet_decoders():
        try:
            value: Any = source.get(keyword)
            if value is None or value == "":
                return ()
            many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            numbers = tuple(float(number) for number in many)
        except Exception as error:  # values are converted on access, and conversion of anything may fail
            raise DataError("DICOM_BAD_ATTR", f"attribute {keyword} cannot be read", fix="export it again") from error
    if not all(math.isfinite(number) for number in numbers):
        raise DataError("DICOM_BAD_ATTR", f"attribute {keyword} is not finite", fix="export it again")
    return numbers
