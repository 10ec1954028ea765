"""Sizes and structure of PNG and WebP files, read before any decoder allocates a picture."""

from __future__ import annotations

import zlib

from medgraft.config.schema import DataConfig
from medgraft.data.limits import MEGABYTE, check_size
from medgraft.errors import DataError

_MAX_CHUNKS = 200_000
_MAX_METADATA = 16 * MEGABYTE
_PNG_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")


def truncated(what: str) -> DataError:
    return DataError("IMG_TRUNCATED", what, fix="copy or download it again")


def corrupt(what: str) -> DataError:
    return DataError("IMG_CORRUPT", what, fix="copy or download it again")


def metadata_too_large(what: str) -> DataError:
    return DataError("IMG_METADATA_TOO_LARGE", what, fix="save the image again without its metadata")


def check_png(data: bytes, rules: DataConfig) -> tuple[str, ...]:
    """Walk the chunks of a PNG: size limits, checksums, end.

    Returns:
        ``IMG_HIGH_BYTE`` for 16-bit color, of which only the high byte is read.

    Raises:
        DataError: ``IMG_TRUNCATED``, ``IMG_CORRUPT``, ``IMG_METADATA_TOO_LARGE`` or a size limit.

    Source: PNG specification, third edition, chapters 5 and 11.
    """
    if len(data) < 33:
        raise truncated("ends within the PNG header")
    if data[12:16] != b"IHDR":
        raise corrupt("is a PNG file without a header")
    check_size(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), rules)
    position, chunks, metadata = 8, 0, 0
    while True:
        if position + 12 > len(data):
            raise truncated("is a PNG file that ends early: its end mark is missing")
        length = int.from_bytes(data[position : position + 4], "big")
        name, end = data[position + 4 : position + 8], position + 12 + length
        if end > len(data):
            raise truncated("is a PNG file that ends early: its last chunk is incomplete")
        chunks += 1
        metadata += length if name in _PNG_METADATA else 0
        if metadata > _MAX_METADATA or chunks > _MAX_CHUNKS:
            raise metadata_too_large(
                f"carries more than {_MAX_METADATA // MEGABYTE} MB of text or {_MAX_CHUNKS} chunks"
            )
        # An upper-case first letter means the picture cannot be shown without the chunk.
        if name[:1].isupper() and zlib.crc32(memoryview(data)[position + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end], "big"
        ):
            raise corrupt(f"is a PNG file with a wrong checksum in its {name.decode('ascii', 'replace')} chunk")
        if name == b"IEND":
            break
        position = end
    bit_depth, color_type = data[24], data[25]
    return ("IMG_HIGH_BYTE",) if bit_depth == 16 and color_type != 0 else ()


def check_webp(data: bytes, rules: DataConfig) -> None:
    """Size limits and end of a WebP file; the decoder allocates the whole canvas when it opens one.

    Raises:
        DataError: ``IMG_TRUNCATED``, ``IMG_CORRUPT`` or a size limit.

    Source: RFC 9649, sections 2.3 to 2.7.
    """
    if len(data) < 30:
        raise truncated("ends within the WebP header")
    if len(data) < int.from_bytes(data[4:8], "little") + 8:
        raise truncated("is a WebP file that ends early")
    form = data[12:16]
    if form == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif form == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif form == b"VP8 ":
        width = int.from_bytes(data[26:28], "little") & 0x3FFF
        height = int.from_bytes(data[28:30], "little") & 0x3FFF
    else:
        raise corrupt("is a WebP file without a picture")
    check_size(width, height, rules)


def icc_warnings(profile: object) -> tuple[str, ...]:
    """What to say about an embedded color profile.

    Profiles are never applied: values are taken as sRGB, so that the same pixels give the same input.

    Returns:
        ``IMG_ICC_BROKEN``, ``IMG_ICC_IGNORED`` for a profile other than sRGB, or nothing.
    """
    if not profile:
        return ()
    if not isinstance(profile, bytes) or len(profile) < 132 or profile[36:40] != b"acsp":
        return ("IMG_ICC_BROKEN",)
    if int.from_bytes(profile[:4], "big") > len(profile):
        return ("IMG_ICC_BROKEN",)
    known = b"sRGB" in profile or "sRGB".encode("utf-16-be") in profile
    return () if known else ("IMG_ICC_IGNORED",)
