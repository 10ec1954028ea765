"""Bad and odd image files, made in memory: one case per row of the catalogue (I1..I36, X1..X18)."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

PIXELS = np.random.default_rng(7).integers(7, 244, (64, 64, 3)).astype(np.uint8)
GRAY = PIXELS[..., 0]


@dataclass(frozen=True)
class Case:
    """One file and what must become of it.

    Attributes:
        row: row of the catalogue.
        name: file name to give it.
        build: makes the bytes.
        code: expected error, or None when it is read.
        warnings: codes that must stand beside the pixels.
        rules: options that differ from the defaults.
    """

    row: str
    name: str
    build: Callable[[], bytes]
    code: str | None = None
    warnings: tuple[str, ...] = ()
    rules: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.row} {self.name}"


def saved(array: np.ndarray, form: str, mode: str | None = None, **options: Any) -> bytes:
    """A picture written by Pillow."""
    image = Image.fromarray(array)
    out = io.BytesIO()
    (image.convert(mode) if mode else image).save(out, form, **options)
    return out.getvalue()


def tiff(array: np.ndarray, **options: Any) -> bytes:
    """A picture written by tifffile."""
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, rows: bytes, *extra: bytes, color: int = 0) -> bytes:
    """A PNG from parts; ``rows`` is the compressed stream."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zeros(n: int) -> bytes:
    """A zlib stream of n zero bytes, made without holding them."""
    stream, piece = zlib.compressobj(9), bytes(1_000_000)
    parts = [stream.compress(piece) for _ in range(n // len(piece))]
    return b"".join([*parts, stream.compress(bytes(n % len(piece))), stream.flush()])


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def dicom(
    pixels: np.ndarray | bytes, *, syntax: str = ExplicitVRLittleEndian, preamble: bytes = bytes(128), **attributes: Any
) -> bytes:
    """A secondary capture image; attributes replace or, when None, remove what is there."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["corpus"])
    data.PatientID, data.PatientName, data.Modality, data.BurnedInAnnotation = "P-1", "Secret^Name", "CR", "NO"
    data.PhotometricInterpretation, data.SamplesPerPixel, data.PixelRepresentation = "MONOCHROME2", 1, 0
    if isinstance(pixels, np.ndarray):
        data.Rows, data.Columns = pixels.shape[:2]
        data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
        data.PixelRepresentation = int(pixels.dtype.kind == "i")
        if pixels.ndim == 3:
            data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        pixels = pixels.tobytes()
    else:
        data.Rows, data.Columns, data.BitsAllocated, data.BitsStored = 64, 64, 8, 8
    for name, value in attributes.items():
        if value is None and name in data:
            delattr(data, name)
        elif value is not None:
            setattr(data, name, value)
    data.HighBit = int(data.BitsStored) - 1
    if attributes.get("PixelData", "") is not None:
        data.PixelData = pixels + b"\0" * (len(pixels) % 2)
        data["PixelData"].VR = (
            "OB" if data.file_meta.TransferSyntaxUID.is_encapsulated or data.BitsAllocated == 8 else "OW"
        )
    data.preamble = preamble
    out = io.BytesIO()
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()


def jpeg_ls(pixels: np.ndarray) -> bytes:
    import jpeg_ls as codec

    stream = bytes(codec.encode(pixels))
    return dicom(encapsulate([stream]), syntax="1.2.840.10008.1.2.4.80")


def rle(pixels: np.ndarray) -> bytes:
    from pydicom import dcmread

    data = dcmread(io.BytesIO(dicom(pixels)))
    data.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    out = io.BytesIO()
    data.save_as(out)
    return out.getvalue()


def _transparent(alpha: np.ndarray) -> np.ndarray:
    return np.dstack([PIXELS, alpha.astype(np.uint8)])


def _palette_with_hole() -> bytes:
    image = Image.fromarray(GRAY).convert("P")
    out = io.BytesIO()
    image.save(out, "PNG", transparency=int(np.asarray(image)[0, 0]))
    return out.getvalue()


def _frames(form: str) -> bytes:
    first, second = (Image.fromarray(np.full((16, 16), level, np.uint8)) for level in (50, 200))
    first.putpixel((0, 0), 0)
    first.putpixel((1, 0), 99)
    out = io.BytesIO()
    first.save(out, form, save_all=True, append_images=[second])
    return out.getvalue()


def _broken_crc() -> bytes:
    data = bytearray(saved(GRAY, "PNG"))
    data[data.index(b"IDAT") + 20] ^= 1
    return bytes(data)


def _tiff_loop() -> bytes:
    data = bytearray(saved(GRAY, "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    n_tags = struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, start + 2 + 12 * n_tags, start)
    return bytes(data)


def _big_tiff_tags() -> bytes:
    return b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 1_000_000) + bytes(20 * 1_000_000)


def _deep_sequences(depth: int) -> bytes:
    nested = b"".join(b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" for _ in range(depth))
    return dicom(GRAY, PixelData=None) + nested


def _deflated_bomb() -> bytes:
    meta = dicom(GRAY, syntax="1.2.840.10008.1.2.1.99")
    end = 144 + int.from_bytes(meta[140:144], "little")
    stream, piece = zlib.compressobj(9, wbits=-15), bytes(1_000_000)
    return meta[:end] + b"".join([stream.compress(piece) for _ in range(400)] + [stream.flush()])


def _huge_private_tag() -> bytes:
    data = dicom(GRAY, PixelData=None)
    return data + b"\x11\x00\x10\x10OB\0\0" + struct.pack("<I", 2_000_000_000) + bytes(1000)


def _progressive_scans() -> bytes:
    data = saved(PIXELS, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 150 + data[-2:]


JPEG = saved(PIXELS, "JPEG", quality=90)
TEXT_CHUNK = chunk(b"zTXt", b"Comment\0\0" + zeros(50_000_000))
SMALL_ROWS = zlib.compress((b"\0" + bytes(range(16))) * 16)
DICOMDIR = "1.2.840.10008.1.3.10"
EXTENDED = "1.2.840.10008.1.2.4.51"
SR = "1.2.840.10008.5.1.4.1.1.88.11"

BOMBS = [
    Case("I26", "bit.png", lambda: png(20_000, 20_000, 1, zeros(2501 * 20_000)), "IMG_TOO_MANY_PIXELS"),
    Case("I27", "gray.png", lambda: png(12_000, 10_000, 8, zeros(12_001 * 10_000)), "IMG_TOO_MANY_PIXELS"),
    Case("I28", "square.png", lambda: png(9_000, 9_000, 8, zeros(9_001 * 9_000)), "IMG_TOO_MANY_PIXELS"),
    Case("I29", "claim.png", lambda: png(60_000, 60_000, 8, b"x"), "IMG_TOO_MANY_PIXELS"),
    Case("I30", "text.png", lambda: png(16, 16, 8, SMALL_ROWS, TEXT_CHUNK), "IMG_METADATA_TOO_LARGE"),
    Case(
        "I30",
        "texts.png",
        lambda: png(16, 16, 8, SMALL_ROWS, *[chunk(b"tEXt", b"k\0")] * 300_000),
        "IMG_METADATA_TOO_LARGE",
    ),
    Case("I36", "loop.tif", _tiff_loop, "IMG_CORRUPT"),
    Case("I36", "tags.tif", _big_tiff_tags, "IMG_METADATA_TOO_LARGE"),
    Case("I34", "scans.jpg", _progressive_scans, "IMG_CORRUPT"),
    Case(
        "I26",
        "canvas.webp",
        lambda: b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0\xff\x3f\0",
        "IMG_TOO_MANY_PIXELS",
    ),
]

SLOW_DICOM = [
    Case("X4", "square.dcm", lambda: dicom(bytes(128), Rows=65535, Columns=65535), "DICOM_SIZE_MISMATCH"),
    Case("X18", "deflated.dcm", _deflated_bomb, "DICOM_TOO_LARGE"),
    Case("X18", "nested.dcm", lambda: _deep_sequences(100_000), "DICOM_CORRUPT"),
    Case("X18", "private.dcm", _huge_private_tag, "DICOM_TRUNCATED"),
]

IMAGES = [
    Case("I1", "empty.jpg", lambda: b"", "IMG_EMPTY"),
    Case("I2", "half.jpg", lambda: JPEG[: len(JPEG) // 2], "IMG_TRUNCATED"),
    Case("I3", "no-end.jpg", lambda: JPEG[:-2], "IMG_TRUNCATED"),
    Case("I3", "head-only.jpg", lambda: JPEG[:30], "IMG_TRUNCATED"),
    Case("I4", "half.png", lambda: saved(GRAY, "PNG")[:2000], "IMG_TRUNCATED"),
    Case("I4", "no-end.png", lambda: saved(GRAY, "PNG")[:-12], "IMG_TRUNCATED"),
    Case("I4", "half.tif", lambda: tiff(PIXELS)[:3000], "IMG_TRUNCATED"),
    Case("I4", "half.bmp", lambda: saved(PIXELS, "BMP")[:3000], "IMG_TRUNCATED"),
    Case("I4", "half.webp", lambda: saved(PIXELS, "WEBP")[:600], "IMG_TRUNCATED"),
    Case("I6", "crc.png", _broken_crc, "IMG_CORRUPT"),
    Case("I8", "table.jpg", lambda: b"id,label\n1,glioma\n2,none\n", "IMG_NOT_IMAGE"),
    Case("I8", "archive.jpg", lambda: b"PK\x03\x04" + bytes(100), "IMG_NOT_IMAGE"),
    Case("I9", "page.png", lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "IMG_NOT_IMAGE"),
    Case("I10", "bitmap.jpg", lambda: saved(PIXELS, "BMP"), warnings=("IMG_EXT_MISMATCH",)),
    Case(
        "I11",
        "script.png",
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "IMG_FORMAT_NOT_ALLOWED",
    ),
    Case("I12", "drawing.svg", lambda: b"<?xml version='1.0'?><svg width='9'/>", "IMG_FORMAT_NOT_ALLOWED"),
    Case("I13", "cmyk.jpg", lambda: saved(PIXELS, "JPEG", "CMYK")),
    Case("I14", "palette.png", lambda: saved(GRAY, "PNG", "P")),
    Case("I15", "hole.png", _palette_with_hole, warnings=("IMG_ALPHA",)),
    Case("I16", "clear.png", lambda: saved(_transparent(np.zeros((64, 64))), "PNG"), "IMG_ALL_TRANSPARENT"),
    Case("I17", "la.png", lambda: saved(_transparent(GRAY), "PNG", "LA"), warnings=("IMG_ALPHA",)),
    Case("I18", "bits.png", lambda: saved(GRAY > 128, "PNG"), warnings=("IMG_TWO_LEVELS",)),
    Case("I19", "wide.png", lambda: saved(GRAY.astype(np.uint16) * 200, "PNG"), warnings=("IMG_SCALED_16",)),
    Case("I19", "wide.tif", lambda: tiff(GRAY.astype(np.uint16) * 16), warnings=("IMG_SCALED_12",)),
    Case(
        "I19",
        "percentile.tif",
        lambda: tiff(GRAY.astype(np.uint16) * 16),
        warnings=("IMG_SCALED_PERCENTILE",),
        rules={"sixteen_bit": "percentile"},
    ),
    Case("I20", "unit.tif", lambda: tiff(GRAY.astype(np.float32) / 255), warnings=("IMG_SCALED_DECLARED",)),
    Case("I20", "hundreds.tif", lambda: tiff(GRAY.astype(np.float32)), "IMG_FLOAT_RANGE"),
    Case("I20", "declared.tif", lambda: tiff(GRAY.astype(np.float32)), rules={"float_range": (0.0, 255.0)}),
    Case("I20", "signed.tif", lambda: tiff(GRAY.astype(np.int16) - 1000), "IMG_FLOAT_RANGE"),
    Case("I21", "nan.tif", lambda: tiff(np.where(GRAY > 240, np.nan, 0.5).astype(np.float32)), "IMG_NONFINITE"),
    Case("I21", "inf.tif", lambda: tiff(np.where(GRAY > 240, np.inf, 0.5).astype(np.float64)), "IMG_NONFINITE"),
    *(
        Case("I22", f"turned-{n}.jpg", lambda n=n: saved(PIXELS, "JPEG", exif=exif(n)), warnings=("IMG_ORIENTED",))
        for n in range(2, 9)
    ),
    Case(
        "I22",
        "exif-bad.png",
        lambda: png(16, 16, 8, SMALL_ROWS, chunk(b"eXIf", b"nonsense")),
        warnings=("IMG_EXIF_BAD",),
    ),
    *(
        Case("I23", f"frames.{form.lower()}", lambda form=form: _frames(form), "IMG_MULTIFRAME")
        for form in ("GIF", "PNG", "TIFF", "WEBP")
    ),
    *(
        Case(
            "I23",
            f"second.{form.lower()}",
            lambda form=form: _frames(form),
            warnings=("IMG_CONSTANT",),
            rules={"frame": 1},
        )
        for form in ("GIF", "PNG", "TIFF", "WEBP")
    ),
    Case("I23", "ninth.tiff", lambda: _frames("TIFF"), "IMG_MULTIFRAME", rules={"frame": 8}),
    Case("I24", "dot.png", lambda: saved(GRAY[:1, :1], "PNG"), "IMG_TOO_SMALL"),
    Case("I24", "line.png", lambda: saved(np.zeros((1, 20_000), np.uint8), "PNG"), "IMG_ASPECT"),
    Case("I24", "side.png", lambda: saved(np.zeros((1000, 17_000), np.uint8), "PNG"), "IMG_TOO_MANY_PIXELS"),
    Case("I25", "black.png", lambda: saved(np.zeros((32, 32), np.uint8), "PNG"), warnings=("IMG_CONSTANT",)),
    Case("I31", "polyglot.jpg", lambda: JPEG + b"PK\x03\x04" + bytes(500)),
    Case("I32", "icc.png", lambda: saved(PIXELS, "PNG", icc_profile=b"broken profile"), warnings=("IMG_ICC_BROKEN",)),
    Case("I33", "scan.jp2", lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), "IMG_FORMAT_NOT_ALLOWED"),
    Case("I33", "photo.avif", lambda: saved(PIXELS, "AVIF"), "IMG_FORMAT_NOT_ALLOWED"),
    Case("I33", "photo.heic", lambda: b"\0\0\0\x18ftypheic" + bytes(50), "IMG_FORMAT_NOT_ALLOWED"),
    Case("I34", "progressive.jpg", lambda: saved(PIXELS, "JPEG", progressive=True)),
]

DICOMS = [
    Case("X1", "empty.dcm", lambda: b"", "DICOM_NOT_DICOM"),
    Case("X1", "text.dcm", lambda: b"plain words, no image", "DICOM_NOT_DICOM"),
    Case("X1", "no-preamble.dcm", lambda: dicom(GRAY)[132:], "DICOM_NOT_DICOM"),
    Case("X1", "magic.dcm", lambda: dicom(GRAY).replace(b"DICM", b"DICN"), "DICOM_NOT_DICOM"),
    Case("X2", "half.dcm", lambda: dicom(GRAY)[:2400], "DICOM_TRUNCATED"),
    Case("X2", "head.dcm", lambda: dicom(GRAY)[:500], "DICOM_TRUNCATED"),
    Case(
        "X3",
        "report.dcm",
        lambda: dicom(b"", PixelData=None, SOPClassUID=SR, Rows=None, Columns=None),
        "DICOM_NO_PIXELS",
    ),
    Case("X5", "frames.dcm", lambda: dicom(GRAY, NumberOfFrames=1000), "DICOM_SIZE_MISMATCH"),
    Case("X6", "twelve.dcm", lambda: dicom(GRAY, BitsAllocated=12, BitsStored=12), "DICOM_BAD_ATTR"),
    Case(
        "X7",
        "inverted.dcm",
        lambda: dicom(255 - GRAY, PhotometricInterpretation="MONOCHROME1"),
        warnings=("DICOM_MONO1_INVERTED",),
    ),
    Case("X8", "rescaled.dcm", lambda: dicom(GRAY, RescaleSlope=2, RescaleIntercept=-9), warnings=("DICOM_RESCALED",)),
    Case("X8", "slope.dcm", lambda: dicom(GRAY, RescaleSlope=0, RescaleIntercept=0), "DICOM_BAD_ATTR"),
    Case(
        "X9", "no-window.dcm", lambda: dicom(GRAY.astype(np.uint16)), warnings=("DICOM_NO_WINDOW", "IMG_SCALED_MINMAX")
    ),
    Case(
        "X9",
        "windows.dcm",
        lambda: dicom(GRAY, WindowCenter=[128, 40], WindowWidth=[256, 80]),
        warnings=("DICOM_WINDOWS_SEVERAL",),
    ),
    Case("X9", "width.dcm", lambda: dicom(GRAY, WindowCenter=128, WindowWidth=0), warnings=("DICOM_WINDOW_IGNORED",)),
    Case("X10", "video.dcm", lambda: dicom(encapsulate([bytes(64)]), syntax="1.2.840.10008.1.2.4.100"), "DICOM_CODEC"),
    Case(
        "X10",
        "twelve-bit.dcm",
        lambda: dicom(encapsulate([JPEG]), syntax=EXTENDED, BitsAllocated=16, BitsStored=12),
        "DICOM_CODEC",
    ),
    Case(
        "X11",
        "two.dcm",
        lambda: dicom(np.stack([GRAY, GRAY]).reshape(128, 64), Rows=64, NumberOfFrames=2),
        "IMG_MULTIFRAME",
    ),
    Case(
        "X11",
        "second.dcm",
        lambda: dicom(np.stack([GRAY, GRAY]).reshape(128, 64), Rows=64, NumberOfFrames=2),
        rules={"frame": 1},
    ),
    Case("X12", "program.dcm", lambda: dicom(GRAY, preamble=b"MZ" + bytes(126)), warnings=("DICOM_PREAMBLE",)),
    Case(
        "X13",
        "charset.dcm",
        lambda: dicom(GRAY, SpecificCharacterSet="ISO_IR 144").replace(b"ISO_IR 144", b"ISO_IR 999"),
    ),
    Case("X14", "burned.dcm", lambda: dicom(GRAY, BurnedInAnnotation="YES"), warnings=("DICOM_BURNED_IN",)),
    Case(
        "X14",
        "refused.dcm",
        lambda: dicom(GRAY, BurnedInAnnotation="YES"),
        "DICOM_BURNED_IN",
        rules={"refuse_burned_in": True},
    ),
    Case(
        "X14",
        "ultrasound.dcm",
        lambda: dicom(GRAY, BurnedInAnnotation=None, Modality="US"),
        warnings=("DICOM_BURNED_IN_UNKNOWN",),
    ),
    Case("X15", "DICOMDIR", lambda: dicom(b"", PixelData=None, SOPClassUID=DICOMDIR), "DICOM_NO_PIXELS"),
    Case(
        "X4",
        "codestream.dcm",
        lambda: dicom(encapsulate([JPEG]), syntax="1.2.840.10008.1.2.4.50", Rows=32),
        "DICOM_SIZE_MISMATCH",
    ),
]

ALL = IMAGES + BOMBS + DICOMS + SLOW_DICOM
