"""What a compressed picture inside a DICOM file says of itself, checked before a codec sees it."""

from __future__ import annotations

from medgraft.data.dicom_attributes import undecodable
from medgraft.data.lossless_jpeg import segments
from medgraft.errors import DataError

_JPEG_2000_START = b"\xff\x4f\xff\x51"
_JPEG_LS = 0xF7
_FRAMES = [marker for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC)]


def check_codestream(encoded: bytes, *, size: tuple[int, int], n_bytes: int, is_run_length: bool) -> None:
    """Compare the compressed picture with the header of the file.

    A codec allocates what the compressed picture claims, whatever Rows and Columns say.

    Args:
        encoded: one frame.
        size: (width, height) that the file declares.
        n_bytes: size of the decoded frame by the file's header.
        is_run_length: the one compression that does not state a size.

    Raises:
        DataError: ``DICOM_SIZE_MISMATCH`` or ``DICOM_CORRUPT``.
    """
    inner = size if is_run_length else codestream_size(encoded)
    if inner is None:
        raise undecodable("has a compressed picture with a damaged header")
    if inner != size:
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


def codestream_size(encoded: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG, JPEG-LS or JPEG 2000 stream; None for others.

    Source: ITU-T T.81 annex B, T.87 annex C, T.800 annex A.5.1.
    """
    start = encoded.find(_JPEG_2000_START, 0, 512)
    if start >= 0:
        x1, y1, x0, y0 = (int.from_bytes(encoded[start + n : start + n + 4], "big") for n in (8, 12, 16, 20))
        return x1 - x0, y1 - y0
    for marker, body, _ in segments(encoded):
        if marker == _JPEG_LS or marker in _FRAMES:
            return int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
    return None
