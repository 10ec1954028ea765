"""What a file is, told from its first bytes and never from its name."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal, get_args

from medgraft.errors import DataError

Kind = Literal["jpeg", "png", "tiff", "bmp", "webp", "gif", "dicom"]
KINDS: tuple[str, ...] = get_args(Kind)

HEAD = 4096  # bytes looked at

_SUFFIXES: dict[str, Kind] = {
    ".jpg": "jpeg", ".jpeg": "jpeg", ".jpe": "jpeg", ".jfif": "jpeg", ".png": "png", ".tif": "tiff", ".tiff": "tiff",
    ".bmp": "bmp", ".webp": "webp", ".gif": "gif", ".dcm": "dicom", ".dicom": "dicom", ".ima": "dicom",
}  # fmt: skip

_STARTS: tuple[tuple[bytes, Kind], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
)

_REFUSED: tuple[tuple[bytes, str], ...] = (
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (b"%PDF", "PDF"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"\x00\x00\x01\x00", "icon"),
)

_NOT_IMAGES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
)

_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # sizes of the information header in use


def expected_kind(name: str) -> Kind | None:
    """What the extension promises; None when it promises nothing."""
    return _SUFFIXES.get(PurePath(name).suffix.lower())


def sniff(data: bytes, *, name: str) -> Kind:
    """The kind of image that the bytes are.

    Args:
        data: the whole file.
        name: only asked whether it promises a DICOM file.

    Raises:
        DataError: ``IMG_EMPTY``, ``IMG_NOT_IMAGE``, ``IMG_FORMAT_NOT_ALLOWED`` or ``DICOM_NOT_DICOM``.
    """
    if data[128:132] == b"DICM":
        return "dicom"
    for start, kind in _STARTS:
        if data.startswith(start):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if expected_kind(name) == "dicom":
        raise DataError(
            "DICOM_NOT_DICOM",
            f"is named as DICOM but holds {_describe(data)}: the DICM mark after 128 bytes is missing",
            fix="export it again as a DICOM file (part 10), or take it out of the list",
        )
    if not data:
        raise DataError("IMG_EMPTY", "has 0 bytes", fix="copy or download it again")
    _refuse_format(data)
    raise DataError("IMG_NOT_IMAGE", f"is not an image but {_describe(data)}", fix=_hint(data))


def _refuse_format(data: bytes) -> None:
    head = data[:HEAD]
    name = next((name for start, name in _REFUSED if head.startswith(start)), "")
    if head[4:8] == b"ftyp":
        name = {b"avif": "AVIF", b"avis": "AVIF"}.get(head[8:12], "HEIC or another video container")
    if _is_text(head) and b"<svg" in head.lower():
        name = "SVG"
    if name:
        raise DataError(
            "IMG_FORMAT_NOT_ALLOWED",
            f"is {name}, which is not read; read are JPEG, PNG, TIFF, BMP, WebP, GIF and DICOM",
            fix="convert it without loss to PNG or TIFF",
        )


def _describe(data: bytes) -> str:
    head = data[:HEAD]
    if not head:
        return "nothing (0 bytes)"
    for start, name in _NOT_IMAGES:
        if head.startswith(start):
            return name
    if _is_text(head):
        return "an HTML page" if _is_html(head) else "text"
    return "binary data of an unknown kind" if head.strip(b"\0") else "zero bytes only"


def _hint(data: bytes) -> str:
    if _is_html(data[:HEAD]):
        return "is it a download error page? download the image again"
    return "copy the image again or take it out of the list"


def _is_html(head: bytes) -> bool:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    # The window may end inside a character, so up to three bytes of it may be missing.
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return sum(c.isprintable() or c in "\r\n\t\f" for c in text) >= 0.95 * len(text)
