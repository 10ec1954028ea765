"""Single DICOM images to RGB pixels; and the patient without the pixels.

    guard against bombs  ->  pydicom, never forced  ->  attributes and sizes  ->  codec  ->
    gray: `medgraft.data.dicom_gray`   color: full range of the stored bits

pydicom is imported by the functions that need it. No text of a file (names, descriptions, dates) enters
a message: errors name attributes, numbers and registered identifiers only, and they do not chain to
pydicom's own errors, which may quote values.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgraft.config.schema import DataConfig
from medgraft.data.dicom_attributes import attribute, bad_attribute, cut_short, undecodable, whole
from medgraft.data.dicom_gray import gray_to_uint8
from medgraft.data.dicom_pixels import color_to_uint8, decode_pixels, require_codec, transfer_syntax
from medgraft.data.levels import to_rgb
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
_UNDEFINED_LENGTH = 0xFFFFFFFF
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_BITS = (1, 8, 16, 32)


def read_patient_id(path: Path) -> str | None:
    """The PatientID of a DICOM file, read without its pixels.

    Args:
        path: any file.

    Returns:
        The identifier without surrounding blanks; None when the file cannot be read, is not DICOM or
        has no PatientID. Whoever decodes the image reports what is wrong with it.
    """
    try:
        with quiet_decoders(), open_regular(path) as handle:
            head = handle.read(_HEAD)
            if head[128:132] != b"DICM":
                return None
            handle.seek(0)
            dataset = _read(handle.read() if _DEFLATED in head else handle, only_patient=True)
            value = attribute(dataset, "PatientID")
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
    with quiet_decoders():
        try:
            return _decode(data, rules)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # reading a value of a hostile file may raise anything, anywhere
            raise undecodable(f"is a damaged DICOM file ({type(error).__name__})") from None


def _decode(data: bytes, rules: DataConfig) -> tuple[PixelArray, str, tuple[str, ...]]:
    dataset = _read(data)
    warnings: tuple[str, ...] = ("DICOM_PREAMBLE",) if data[:128].strip(b"\0") else ()
    _require_pixels(dataset, data)
    photometric = str(attribute(dataset, "PhotometricInterpretation") or "")
    warnings += _burned_in(dataset, rules)
    bits, frame = _check_layout(dataset, photometric, rules)
    values = decode_pixels(dataset, frame)
    if photometric in _GRAY:
        gray, more = gray_to_uint8(values, dataset, bits, frame, rules)
        if photometric == "MONOCHROME1":
            gray, more = np.uint8(255) - gray, (*more, "DICOM_MONO1_INVERTED")
        return to_rgb(gray), f"{photometric} {bits} bits", warnings + more
    return color_to_uint8(values, dataset, photometric, bits), f"{photometric} {bits} bits", warnings


def _read(source: bytes | Any, *, only_patient: bool = False) -> Dataset:
    import pydicom

    if isinstance(source, bytes):
        if _DEFLATED in source[:_HEAD]:
            _check_inflated_size(source)
        source = io.BytesIO(source)
    tags = ["PatientID"] if only_patient else None
    try:
        return pydicom.dcmread(source, stop_before_pixels=only_patient, specific_tags=tags)
    except Exception as error:  # a reader of hostile bytes raises anything, RecursionError included
        raise undecodable(f"is a DICOM file that cannot be read ({type(error).__name__})") from None


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
    except zlib.error:
        raise cut_short("is a deflated DICOM file whose data are damaged") from None
    if not stream.eof:
        raise cut_short("is a deflated DICOM file that ends early")


def _require_pixels(dataset: Dataset, data: bytes) -> None:
    from pydicom.uid import UID

    meta = getattr(dataset, "file_meta", {})
    sop_class = str(attribute(dataset, "SOPClassUID") or meta.get("MediaStorageSOPClassUID", ""))
    if sop_class == _DIRECTORY:
        raise DataError(
            "DICOM_NO_PIXELS", "is a DICOMDIR, an index of other files, which is not followed", fix="name the images"
        )
    if "PixelData" in dataset:
        # The reader takes what is there; the length that the file declares is left in the raw element.
        raw = dataset.get_item("PixelData")
        declared = getattr(raw, "length", 0)
        if declared != _UNDEFINED_LENGTH and declared > len(getattr(raw, "value", None) or b""):
            raise cut_short("is a DICOM image that ends within its pixel data")
        return
    name = UID(sop_class).name if sop_class.startswith("1.2.840.10008.") else "not a standard class"
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise DataError(
            "DICOM_NO_PIXELS", f"has float pixel data only ({name}), which are not read", fix="save it as float TIFF"
        )
    if "Rows" in dataset or "Image Storage" in name or len(data) < 256:
        raise cut_short("is a DICOM image that ends before its pixel data")
    raise DataError("DICOM_NO_PIXELS", f"has no pixel data (SOP class: {name})", fix="take it out of the list")


def _burned_in(dataset: Dataset, rules: DataConfig) -> tuple[str, ...]:
    declared = str(attribute(dataset, "BurnedInAnnotation") or "").upper()
    if declared == "YES":
        if rules.refuse_burned_in:
            raise DataError(
                "DICOM_BURNED_IN",
                "declares burned-in annotation, which may name the patient",
                fix="clean the pixels, or set data.refuse_burned_in to false",
            )
        return ("DICOM_BURNED_IN",)
    unsure = declared == "" and str(attribute(dataset, "Modality") or "") in ("US", "SC", "OT")
    return ("DICOM_BURNED_IN_UNKNOWN",) if unsure else ()


def _check_layout(dataset: Dataset, photometric: str, rules: DataConfig) -> tuple[int, int]:
    """Check what the header claims before anything is allocated.

    Returns:
        Stored bits and the frame to decode.
    """
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    samples, frames = whole(dataset, "SamplesPerPixel", 1), whole(dataset, "NumberOfFrames", 1) or 1
    allocated = whole(dataset, "BitsAllocated")
    stored = whole(dataset, "BitsStored", allocated)
    signed = whole(dataset, "PixelRepresentation", 0)
    for keyword, value, good in (
        ("PhotometricInterpretation", photometric, photometric in _GRAY + _COLOR),
        ("SamplesPerPixel", samples, samples == (3 if photometric in _COLOR[:-1] else 1)),
        ("BitsAllocated", allocated, allocated in _BITS),
        ("BitsStored", stored, 1 <= stored <= allocated),
        ("PixelRepresentation", signed, signed in (0, 1)),
        ("NumberOfFrames", frames, frames >= 1),
    ):
        if not good:
            # Registered photometric values are words; anything else in that field is not repeated.
            told = value if isinstance(value, int) else "a value that is not read"
            raise bad_attribute(keyword, f"is {told}")
    syntax = transfer_syntax(dataset)
    if not syntax.is_encapsulated:
        halved = photometric == "YBR_FULL_422"
        expected = (rows * columns * (2 if halved else samples) * frames * allocated + 7) // 8
        _match(len(dataset.PixelData), expected, f"{frames} x {columns}x{rows} x {samples} x {allocated} bits")
    check_size(columns, rows, rules)
    require_codec(syntax, stored)
    if frames > 1 and rules.frame is None:
        raise multiframe(f"has {frames} frames")
    frame = rules.frame if frames > 1 and rules.frame is not None else 0
    if frame >= frames:
        raise multiframe(f"has {frames} frames, so there is no frame {frame}")
    return stored, frame


def _match(actual: int, expected: int, layout: str) -> None:
    if actual < expected:
        raise DataError(
            "DICOM_SIZE_MISMATCH",
            f"declares {layout}, which need {expected} bytes, and has {actual} bytes of pixel data",
            fix="export it again",
        )
