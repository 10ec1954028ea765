"""Single DICOM images to RGB pixels; and the patient without the pixels.

    guard against bombs  ->  pydicom, never forced  ->  attributes and sizes  ->  codec  ->
    gray: `medgraft.data.dicom_gray`   color: full range of the stored bits

pydicom is imported by the functions that need it. No text of a file (names, descriptions, dates) enters
a message: errors name attributes, numbers and registered identifiers only.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgraft.config.schema import DataConfig
from medgraft.data.levels import Values, stretch, to_rgb
from medgraft.data.limits import MEGABYTE, check_size, open_regular, quiet_decoders
from medgraft.data.tiff import multiframe
from medgraft.errors import DataError
from medgraft.types import PixelArray

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_DIRECTORY = "1.2.840.10008.1.3.10"
_MAX_INFLATED = 128 * MEGABYTE
_HEAD = 4096
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_BITS = (1, 8, 16, 32)
_JPEG_2000_START = b"\xff\x4f\xff\x51"
_CODEC_ADVICE = {
    # Permissive packages only; the decoder that pydicom names for these is GPL and we do not advise it.
    "1.2.840.10008.1.2.4.51": "convert the 12-bit JPEG to another syntax, for example with dcmdjpeg",
}


def read_patient_id(path: Path) -> str | None:
    """The PatientID of a DICOM file, read without its pixels.

    Args:
        path: any file.

    Returns:
        The identifier without surrounding blanks; None when the file cannot be read, is not DICOM or
        has no PatientID. Whoever decodes the image reports what is wrong with it.
    """
    try:
        with open_regular(path) as handle:
            head = handle.read(_HEAD)
            if head[128:132] != b"DICM":
                return None
            handle.seek(0)
            dataset = _read(handle.read() if _DEFLATED in head else handle, only_patient=True)
            value = _attribute(dataset, "PatientID")
    except (DataError, OSError):
        return None
    return str(value).strip() or None if value is not None else None


def decode_dicom(data: bytes, rules: DataConfig) -> tuple[PixelArray, str, tuple[str, ...]]:
    """Decode one DICOM picture.

    Args:
        data: the whole file, with the DICM mark.
        rules: limits and conversion rules.

    Returns:
        (H, W, 3) uint8, photometric interpretation and stored bits, warning codes.

    Raises:
        DataError: with a ``DICOM_*`` or ``IMG_*`` code and no file name.
    """
    dataset = _read(data)
    warnings: tuple[str, ...] = ("DICOM_PREAMBLE",) if data[:128].strip(b"\0") else ()
    _require_pixels(dataset, data)
    photometric = str(_attribute(dataset, "PhotometricInterpretation") or "")
    warnings += _burned_in(dataset, rules)
    bits, frame = _check_layout(dataset, photometric, rules)
    values = _decode_pixels(dataset, frame)
    if photometric in _GRAY:
        from medgraft.data.dicom_gray import gray_to_uint8

        gray, more = gray_to_uint8(values, dataset, bits, frame, rules)
        if photometric == "MONOCHROME1":
            gray, more = np.uint8(255) - gray, (*more, "DICOM_MONO1_INVERTED")
        return to_rgb(gray), f"{photometric} {bits} bits", warnings + more
    return _color_to_uint8(values, dataset, photometric, bits), f"{photometric} {bits} bits", warnings


def _read(source: bytes | Any, *, only_patient: bool = False) -> Dataset:
    import pydicom

    if isinstance(source, bytes):
        if _DEFLATED in source[:_HEAD]:
            _check_inflated_size(source)
        source = io.BytesIO(source)
    tags = ["PatientID"] if only_patient else None
    with quiet_decoders():
        try:
            return pydicom.dcmread(source, stop_before_pixels=only_patient, specific_tags=tags)
        except Exception as error:  # a reader of hostile bytes raises anything, RecursionError included
            raise DataError(
                "DICOM_CORRUPT", f"is a DICOM file that cannot be read ({type(error).__name__})", fix="export it again"
            ) from error


def _check_inflated_size(data: bytes) -> None:
    """Unpack a deflated file without keeping anything, to know that it stays within reason."""
    meta_end = 144 + int.from_bytes(data[140:144], "little") if data[132:136] == b"\x02\0\0\0" else len(data)
    stream, total, piece = zlib.decompressobj(-zlib.MAX_WBITS), 0, data[meta_end:]
    try:
        while piece and not stream.eof:
            total += len(stream.decompress(piece, MEGABYTE))
            piece = stream.unconsumed_tail
            if total > _MAX_INFLATED:
                raise DataError(
                    "DICOM_TOO_LARGE",
                    f"is a deflated DICOM file that unpacks to more than {_MAX_INFLATED // MEGABYTE} MB",
                    fix="export it without the deflated transfer syntax",
                )
    except zlib.error as error:
        raise _truncated("is a deflated DICOM file whose data are damaged") from error
    if not stream.eof:
        raise _truncated("is a deflated DICOM file that ends early")


def _require_pixels(dataset: Dataset, data: bytes) -> None:
    from pydicom.uid import UID

    meta = getattr(dataset, "file_meta", {})
    sop_class = str(_attribute(dataset, "SOPClassUID") or meta.get("MediaStorageSOPClassUID", ""))
    if sop_class == _DIRECTORY:
        raise DataError(
            "DICOM_NO_PIXELS", "is a DICOMDIR, an index of other files, which is not followed", fix="name the images"
        )
    if "PixelData" in dataset:
        return
    name = UID(sop_class).name if sop_class.startswith("1.2.840.10008.") else "not a standard class"
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise DataError(
            "DICOM_NO_PIXELS", f"has float pixel data only ({name}), which are not read", fix="save it as float TIFF"
        )
    if "Rows" in dataset or "Image Storage" in name or len(data) < 256:
        raise _truncated("is a DICOM image that ends before its pixel data")
    raise DataError("DICOM_NO_PIXELS", f"has no pixel data (SOP class: {name})", fix="take it out of the list")


def _truncated(what: str) -> DataError:
    return DataError("DICOM_TRUNCATED", what, fix="copy or export it again")


def _burned_in(dataset: Dataset, rules: DataConfig) -> tuple[str, ...]:
    declared = str(_attribute(dataset, "BurnedInAnnotation") or "").upper()
    if declared == "YES":
        if rules.refuse_burned_in:
            raise DataError(
                "DICOM_BURNED_IN",
                "declares burned-in annotation, which may name the patient",
                fix="clean the pixels, or set data.refuse_burned_in to false",
            )
        return ("DICOM_BURNED_IN",)
    unsure = declared == "" and str(_attribute(dataset, "Modality") or "") in ("US", "SC", "OT")
    return ("DICOM_BURNED_IN_UNKNOWN",) if unsure else ()


def _check_layout(dataset: Dataset, photometric: str, rules: DataConfig) -> tuple[int, int]:
    """Check what the header claims before anything is allocated.

    Returns:
        Stored bits and the frame to decode.
    """
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    samples, frames = _whole(dataset, "SamplesPerPixel", 1), _whole(dataset, "NumberOfFrames", 1) or 1
    allocated = _whole(dataset, "BitsAllocated")
    stored = _whole(dataset, "BitsStored", allocated)
    signed = _whole(dataset, "PixelRepresentation", 0)
    for keyword, value, good in (
        ("PhotometricInterpretation", photometric.split(" ")[0] or "missing", photometric in _GRAY + _COLOR),
        ("SamplesPerPixel", samples, samples == (3 if photometric in _COLOR[:-1] else 1)),
        ("BitsAllocated", allocated, allocated in _BITS),
        ("BitsStored", stored, 1 <= stored <= allocated),
        ("PixelRepresentation", signed, signed in (0, 1)),
        ("NumberOfFrames", frames, frames >= 1),
    ):
        if not good:
            # Registered photometric values are words; anything else in that field is not repeated.
            told = value if isinstance(value, int) else "a value that is not read"
            raise _bad_attribute(keyword, f"is {told}")
    syntax = _transfer_syntax(dataset)
    if not syntax.is_encapsulated:
        halved = photometric == "YBR_FULL_422"
        expected = (rows * columns * (2 if halved else samples) * frames * allocated + 7) // 8
        _match(len(dataset.PixelData), expected, f"{frames} x {columns}x{rows} x {samples} x {allocated} bits")
    check_size(columns, rows, rules)
    _require_codec(syntax)
    if frames > 1 and rules.frame is None:
        raise multiframe(f"has {frames} frames")
    frame = rules.frame if frames > 1 and rules.frame is not None else 0
    if frame >= frames:
        raise multiframe(f"has {frames} frames, so there is no frame {frame}")
    if syntax.is_encapsulated:
        _check_codestream(dataset, frame, frames, (columns, rows), rows * columns * samples * ((allocated + 7) // 8))
    return stored, frame


def _match(actual: int, expected: int, layout: str) -> None:
    if actual < expected:
        raise DataError(
            "DICOM_SIZE_MISMATCH",
            f"declares {layout}, which need {expected} bytes, and has {actual} bytes of pixel data",
            fix="export it again",
        )


def _transfer_syntax(dataset: Dataset) -> Any:
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if not syntax:
        raise _bad_attribute("TransferSyntaxUID", "is missing")
    if not syntax.is_transfer_syntax:
        raise DataError(
            "DICOM_CODEC", "has a transfer syntax that is not registered", fix="convert it to a standard syntax"
        )
    return syntax


def _require_codec(syntax: Any) -> None:
    from pydicom.pixels.decoders.base import get_decoder

    advice = _CODEC_ADVICE.get(str(syntax), "")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        advice = "convert it to another transfer syntax"
    else:
        if decoder.is_available and not advice:
            return
        advice = advice or "install one of: " + "; ".join(decoder.missing_dependencies)
    raise DataError(
        "DICOM_CODEC", f"is compressed as {syntax.name} ({syntax}), for which there is no decoder here", fix=advice
    )


def _check_codestream(dataset: Dataset, frame: int, frames: int, size: tuple[int, int], n_bytes: int) -> None:
    """Compare the size inside the compressed picture with the header's.

    A codec allocates what the compressed picture claims, whatever Rows and Columns say.
    """
    from pydicom.encaps import get_frame

    try:
        encoded = get_frame(dataset.PixelData, frame, number_of_frames=frames)
    except Exception as error:  # fragments of a hostile file
        raise _truncated(f"has compressed pixel data without frame {frame}") from error
    inner = _codestream_size(encoded)
    if inner is not None and inner != size:
        raise DataError(
            "DICOM_SIZE_MISMATCH",
            f"declares {size[0]}x{size[1]} pixels and holds a compressed picture of {inner[0]}x{inner[1]}",
            fix="export it again",
        )
    # No lossless code grows a picture by half; run-length data far above that unpack without bound.
    if len(encoded) > 1.5 * n_bytes + 65536:
        raise DataError(
            "DICOM_SIZE_MISMATCH", f"has {len(encoded)} compressed bytes for {n_bytes}", fix="export it again"
        )


def _codestream_size(encoded: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG, JPEG-LS or JPEG 2000 code stream; None for others.

    Source: ITU-T T.81 annex B, T.87 annex C, T.800 annex A.5.1.
    """
    start = encoded.find(_JPEG_2000_START, 0, 512)
    if start >= 0:
        x1, y1, x0, y0 = (int.from_bytes(encoded[start + n : start + n + 4], "big") for n in (8, 12, 16, 20))
        return x1 - x0, y1 - y0
    if encoded[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(encoded[at + 7 : at + 9], "big"), int.from_bytes(encoded[at + 5 : at + 7], "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return None


def _decode_pixels(dataset: Dataset, frame: int) -> Values:
    from pydicom.pixels.utils import pixel_array

    with quiet_decoders():
        try:
            return np.asarray(pixel_array(dataset, index=frame))
        except MemoryError:
            raise
        except Exception as error:  # codecs raise anything on damaged data
            raise DataError(
                "DICOM_CORRUPT",
                f"has pixel data that cannot be decoded ({type(error).__name__})",
                fix="export it again",
            ) from error


def _color_to_uint8(values: Values, dataset: Dataset, photometric: str, bits: int) -> PixelArray:
    if photometric == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        with quiet_decoders():
            try:
                values = np.asarray(apply_color_lut(values, dataset))
            except Exception as error:  # tables of a hostile file
                raise _bad_attribute("PaletteColorLookupTable", "cannot be applied") from error
        bits = 8 * values.dtype.itemsize
    if values.dtype == np.uint8 and bits == 8:
        return np.ascontiguousarray(values[..., :3])
    return stretch(values[..., :3], 0, 2**bits - 1)


def _attribute(dataset: Dataset, keyword: str) -> Any:
    with quiet_decoders():
        try:
            return dataset.get(keyword)
        except Exception as error:  # values are converted on access, and conversion of anything may fail
            raise _bad_attribute(keyword, "cannot be read") from error


def _whole(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    value = _attribute(dataset, keyword)
    if value is None or value == "":
        if default is None:
            raise _bad_attribute(keyword, "is missing")
        return default
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _bad_attribute(keyword, "is not one whole number") from error


def _bad_attribute(keyword: str, what: str) -> DataError:
    return DataError("DICOM_BAD_ATTR", f"attribute {keyword} {what}", fix="export it again or convert it")
