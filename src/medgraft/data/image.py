"""Any image file to RGB pixels, by declared rules, or a named refusal.

    limits.read_file   a regular file of allowed size, or IMG_UNREADABLE
    sniff.sniff        the kind, from the bytes
    raster / dicom     header limits, decoding, scaling to 8 bits, upright
    levels             warnings about what came out

One picture gives one array, whatever encoding it is stored in.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from medgraft.config.schema import DataConfig
from medgraft.data.levels import level_warnings
from medgraft.data.limits import read_file, shown
from medgraft.data.raster import decode_raster
from medgraft.data.sniff import expected_kind, sniff
from medgraft.errors import DataError
from medgraft.types import PixelArray


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture as it stands in the file, upright and in 8 bits.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, read-only.
        format: ``jpeg``, ``png``, ``tiff``, ``bmp``, ``webp``, ``gif`` or ``dicom``.
        mode: layout of the stored pixels, such as ``L``, ``I;16`` or ``MONOCHROME1 12 bits``.
        warnings: codes, sorted: what was done to the values, and what looks odd.
    """

    pixels: PixelArray = field(repr=False)
    format: str
    mode: str
    warnings: tuple[str, ...]


def decode(path: Path, rules: DataConfig) -> DecodedImage:
    """Read and decode an image file.

    Args:
        path: the file; errors name it as given.
        rules: limits and conversion rules.

    Raises:
        DataError: with an ``IMG_*`` or ``DICOM_*`` code; ``where`` is the file.
    """
    return decode_bytes(read_file(path, rules), rules, name=shown(path))


def decode_bytes(data: bytes, rules: DataConfig, *, name: str) -> DecodedImage:
    """Decode an image held in memory.

    Args:
        data: the whole file.
        rules: limits and conversion rules.
        name: what errors call it; its extension is compared with the content (``IMG_EXT_MISMATCH``).

    Raises:
        DataError: with an ``IMG_*`` or ``DICOM_*`` code; ``where`` is the name.
    """
    try:
        decoded = decode_content(data, rules, name=name)
    except DataError as error:
        raise DataError(error.code, error.problem.what, where=name, fix=error.problem.fix) from error
    return replace(decoded, warnings=tuple(sorted({*decoded.warnings, *name_warnings(name, decoded.format)})))


def decode_content(data: bytes, rules: DataConfig, *, name: str) -> DecodedImage:
    """As :func:`decode_bytes`, with nothing of the name in warnings or errors, so that it can be cached."""
    kind = sniff(data, name=name)
    if kind == "dicom":
        # pydicom is imported only when there is a DICOM file.
        from medgraft.data.dicom import decode_dicom

        pixels, mode, warnings = decode_dicom(data, rules)
    else:
        pixels, mode, warnings = decode_raster(data, kind, rules)
    pixels.setflags(write=False)
    return DecodedImage(pixels, kind, mode, tuple(sorted({*warnings, *level_warnings(pixels)})))


def name_warnings(name: str, kind: str) -> tuple[str, ...]:
    """``IMG_EXT_MISMATCH`` when the extension promises another kind than the content is."""
    return ("IMG_EXT_MISMATCH",) if expected_kind(name) not in (None, kind) else ()
