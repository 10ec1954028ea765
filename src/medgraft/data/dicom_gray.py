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

from typing import TYPE_CHECKING

import numpy as np

from medgraft.config.schema import DataConfig
from medgraft.data.dicom_attributes import attribute, bad_attribute, filled, numbers
from medgraft.data.levels import Values, is_doubled_8bit, stretch
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
    has_table = filled(dataset, "ModalityLUTSequence")
    if has_table:
        values = _apply(values, dataset, "ModalityLUTSequence")
        low, high = 0, _table_top(dataset, "ModalityLUTSequence")
        warnings += ("DICOM_MODALITY_LUT",)
    elif (slope, intercept) not in ((None, None), (1.0, 0.0), (1.0, None), (None, 0.0)):
        slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
        if slope == 0:
            raise bad_attribute("RescaleSlope", "is 0, which erases the picture")
        values = values * slope + intercept
        low, high = sorted((low * slope + intercept, high * slope + intercept))
        warnings += ("DICOM_RESCALED",)
    if filled(dataset, "VOILUTSequence"):
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
    centers, widths = numbers(source, "WindowCenter"), numbers(source, "WindowWidth")
    if not centers or not widths:
        return None, ()
    center, width = centers[0], widths[0]
    function = str(attribute(source, "VOILUTFunction") or "LINEAR").upper()
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
        if filled(dataset, groups) and len(attribute(dataset, groups)) > index:
            group = attribute(dataset, groups)[index]
            if filled(group, sequence):
                return attribute(group, sequence)[0]  # type: ignore[no-any-return]
    return dataset


def _apply(values: Values, dataset: Dataset, sequence: str) -> Values:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    function = apply_voi if sequence == "VOILUTSequence" else apply_modality_lut
    try:
        return np.asarray(function(values, dataset))
    except Exception:  # tables of a hostile file
        raise bad_attribute(sequence, "cannot be applied") from None


def _table_top(dataset: Dataset, sequence: str) -> int:
    descriptor = numbers(attribute(dataset, sequence)[0], "LUTDescriptor")
    if len(descriptor) != 3 or not 1 <= descriptor[2] <= 16:
        raise bad_attribute("LUTDescriptor", "is not a table of 1 to 16 bits")
    return int(2 ** int(descriptor[2]) - 1)


def _number(source: Dataset, keyword: str) -> float | None:
    found = numbers(source, keyword)
    return found[0] if found else None
