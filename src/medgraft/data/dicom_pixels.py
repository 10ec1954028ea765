"""From a DICOM file's pixel data to stored values, through decoders that survive damaged data.

Everything is checked before a decoder allocates. GDCM is left out on purpose: damaged JPEG makes it end
the whole process. Pillow and pyjpegls read what it would, and lossless JPEG is read by
`medgraft.data.lossless_jpeg`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medgraft.data.codestream import check_codestream
from medgraft.data.dicom_attributes import attribute, bad_attribute, cut_short, undecodable, whole
from medgraft.data.levels import Values, stretch
from medgraft.data.lossless_jpeg import decode_lossless_jpeg
from medgraft.errors import DataError
from medgraft.types import PixelArray

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_RLE = "1.2.840.10008.1.2.5"
_HTJ2K = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203))
# Which of pydicom's plugins decodes a compressed syntax, and the package it needs.
_PLUGINS = {
    "1.2.840.10008.1.2.4.50": ("pillow", "Pillow"),
    _JPEG_EXTENDED: ("pillow", "Pillow"),
    "1.2.840.10008.1.2.4.80": ("pyjpegls", "pyjpegls"),
    "1.2.840.10008.1.2.4.81": ("pyjpegls", "pyjpegls"),
    "1.2.840.10008.1.2.4.90": ("pillow", "Pillow"),
    "1.2.840.10008.1.2.4.91": ("pillow", "Pillow"),
    **dict.fromkeys(_HTJ2K, ("pylibjpeg", "pylibjpeg and pylibjpeg-openjpeg")),
    _RLE: ("pydicom", "pydicom"),
}


def transfer_syntax(dataset: Dataset) -> Any:
    """The registered transfer syntax, a ``pydicom.uid.UID``.

    Raises:
        DataError: ``DICOM_BAD_ATTR`` or ``DICOM_CODEC``.
    """
    from pydicom.uid import UID

    meta = getattr(dataset, "file_meta", None)
    syntax = attribute(meta, "TransferSyntaxUID") if meta is not None else None
    if not syntax:
        raise bad_attribute("TransferSyntaxUID", "is missing")
    if not isinstance(syntax, UID) or syntax.is_private or not syntax.is_transfer_syntax:
        raise DataError(
            "DICOM_CODEC",
            "has a transfer syntax that is not registered",
            fix="convert it to a standard transfer syntax",
        )
    return syntax


def require_codec(syntax: Any, stored: int) -> None:
    """Refuse a compression that cannot be decoded here, naming the way out.

    Raises:
        DataError: ``DICOM_CODEC``.
    """
    from pydicom.pixels.decoders.base import get_decoder

    if not syntax.is_encapsulated or syntax in _LOSSLESS_JPEG:
        return
    advice = "convert it to another transfer syntax"
    if syntax == _JPEG_EXTENDED and stored > 8:
        # The one decoder of 12-bit JPEG for Python is GPL, so it is not advised.
        advice = "convert the 12-bit JPEG to another transfer syntax, for example with dcmdjpeg"
    elif syntax in _PLUGINS:
        plugin, package = _PLUGINS[syntax]
        if plugin in get_decoder(syntax).available_plugins:
            return
        advice = f"install {package}"
    raise DataError(
        "DICOM_CODEC", f"is compressed as {syntax.name} ({syntax}), for which there is no decoder here", fix=advice
    )


def decode_pixels(dataset: Dataset, frame: int) -> Values:
    """Stored values of one frame, color as RGB.

    Returns:
        (H, W) or (H, W, 3) integers.

    Raises:
        DataError: ``DICOM_SIZE_MISMATCH``, ``DICOM_TRUNCATED`` or ``DICOM_CORRUPT``.
    """
    from pydicom.pixels.utils import pixel_array

    syntax = transfer_syntax(dataset)
    encoded = _encoded_frame(dataset, frame) if syntax.is_encapsulated else b""
    try:
        if syntax in _LOSSLESS_JPEG:
            return _lossless(dataset, encoded)
        plugin = _PLUGINS[syntax][0] if syntax.is_encapsulated else ""
        return np.asarray(pixel_array(dataset, index=frame, decoding_plugin=plugin))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # codecs raise anything on damaged data
        raise undecodable(f"has pixel data that cannot be decoded ({type(error).__name__})") from None


def _encoded_frame(dataset: Dataset, frame: int) -> bytes:
    from pydicom.encaps import get_frame

    rows, columns, frames = whole(dataset, "Rows"), whole(dataset, "Columns"), whole(dataset, "NumberOfFrames", 1) or 1
    try:
        encoded = get_frame(dataset.PixelData, frame, number_of_frames=frames)
    except Exception:  # fragments of a hostile file
        raise cut_short(f"has compressed pixel data without frame {frame}") from None
    n_bytes = rows * columns * whole(dataset, "SamplesPerPixel", 1) * ((whole(dataset, "BitsAllocated") + 7) // 8)
    is_run_length = transfer_syntax(dataset) == _RLE
    check_codestream(encoded, size=(columns, rows), n_bytes=n_bytes, is_run_length=is_run_length)
    return encoded


def _lossless(dataset: Dataset, encoded: bytes) -> Values:
    from pydicom.pixels.processing import convert_color_space

    values = decode_lossless_jpeg(encoded)
    samples, stored = whole(dataset, "SamplesPerPixel", 1), whole(dataset, "BitsStored")
    shape = (whole(dataset, "Rows"), whole(dataset, "Columns"), *((samples,) if samples > 1 else ()))
    if values.shape != shape or stored > 16:
        raise DataError(
            "DICOM_SIZE_MISMATCH", "declares another layout than its compressed picture has", fix="export it again"
        )
    values = values & np.uint16(2**stored - 1)
    if whole(dataset, "PixelRepresentation", 0) == 1:
        # Two's complement in the stored bits, widened to the type.
        sign = 1 << (stored - 1)
        return ((values.astype(np.int32) ^ sign) - sign).astype(np.int16)
    if stored <= 8:
        values = values.astype(np.uint8)
    if attribute(dataset, "PhotometricInterpretation") == "YBR_FULL":
        return np.asarray(convert_color_space(values, "YBR_FULL", "RGB"))
    return values


def color_to_uint8(values: Values, dataset: Dataset, photometric: str, bits: int) -> PixelArray:
    """(H, W, 3) uint8 of color values or palette indices; the full range of the bits becomes 0..255."""
    from pydicom.pixels.processing import apply_color_lut

    if photometric == "PALETTE COLOR":
        try:
            values = np.asarray(apply_color_lut(values, dataset))
        except Exception:  # tables of a hostile file
            raise bad_attribute("PaletteColorLookupTable", "cannot be applied") from None
        bits = 8 * values.dtype.itemsize
    if values.dtype == np.uint8 and bits == 8:
        return np.ascontiguousarray(values[..., :3])
    return stretch(values[..., :3], 0, 2**bits - 1)
