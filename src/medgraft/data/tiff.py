"""TIFF: what the directories say before decoding, and pixels of more than 8 bits.

Pillow decodes everything up to 8 bits. Of 16-bit color it would keep the high byte only and it leaves
white-is-zero as it is, so wider pixels go through tifffile wherever that knows the compression.
"""

from __future__ import annotations

import io
import logging
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from medgraft.config.schema import DataConfig
from medgraft.data.headers import corrupt, metadata_too_large, truncated
from medgraft.data.levels import Values
from medgraft.data.limits import check_size
from medgraft.errors import DataError

_MAX_TAGS = 4096
_MAX_PAGES = 100_000
_TYPE_FORMATS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q"}
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_ORIENTATION, _SAMPLES, _SAMPLE_FORMAT, _TILE_WIDTH, _TILE_HEIGHT = 274, 277, 339, 322, 323
_OFFSETS_AND_COUNTS = ((273, 279), (324, 325))
_READ = (
    _SUBFILE,
    _WIDTH,
    _HEIGHT,
    _BITS,
    _COMPRESSION,
    _PHOTOMETRIC,
    _ORIENTATION,
    _SAMPLES,
    _SAMPLE_FORMAT,
    _TILE_WIDTH,
    _TILE_HEIGHT,
)
_TIFFFILE_COMPRESSIONS = (1, 8, 32773, 32946, 34925)  # none, deflate, PackBits, old deflate, LZMA
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2


@dataclass(frozen=True, slots=True)
class TiffPage:
    """The picture to decode.

    Attributes:
        index: position among all directories of the file, thumbnails included.
        wide: more than 8 bits per sample, signed or float, in a form that tifffile decodes.
        photometric: TIFF tag 262.
        orientation: 1..8, 1 when not given.
        mode: layout in words, such as ``uint16 x1``.
    """

    index: int
    wide: bool
    photometric: int
    orientation: int
    mode: str


def find_page(data: bytes, rules: DataConfig) -> TiffPage:
    """Choose the picture of a TIFF file and check it against the limits.

    Reduced copies and transparency masks do not count as pictures.

    Raises:
        DataError: ``IMG_TRUNCATED``, ``IMG_CORRUPT``, ``IMG_METADATA_TOO_LARGE``, ``IMG_MULTIFRAME``,
            ``IMG_FORMAT_NOT_ALLOWED`` or a size limit.

    Source: TIFF revision 6.0, sections 2 and 8; BigTIFF.
    """
    try:
        directories = _Directories(data).walk()
    except struct.error as error:
        raise truncated("is a TIFF file that ends within its directory") from error
    pages = [n for n, tags in enumerate(directories) if not tags.get(_SUBFILE, (0,))[0] & 0b101] or [0]
    if len(pages) > 1 and rules.frame is None:
        raise multiframe(f"has {len(pages)} pages")
    wanted = rules.frame if len(pages) > 1 and rules.frame is not None else 0
    if wanted >= len(pages):
        raise multiframe(f"has {len(pages)} pages, so there is no page {wanted}")
    return _check_page(directories[pages[wanted]], pages[wanted], data, rules)


def multiframe(what: str) -> DataError:
    return DataError("IMG_MULTIFRAME", what, fix="choose one with data.frame, counted from 0, or save the one you mean")


def decode_wide(data: bytes, page: TiffPage) -> Values:
    """(H, W) or (H, W, S) values of a page that is ``wide``; black is low.

    Raises:
        DataError: ``IMG_CORRUPT``; and whatever tifffile raises on damaged data.
    """
    # Imported here: 8-bit data sets never need it.
    import tifffile

    # Without a handler Python prints the library's log lines on stderr.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        values: Values = np.asarray(file.pages[page.index].asarray())
    if values.ndim not in (2, 3):
        raise corrupt("is a TIFF file without a flat picture")
    if values.ndim == 3 and values.shape[0] in (2, 3, 4) and values.shape[2] not in (1, 2, 3, 4):
        values = np.moveaxis(values, 0, 2)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if page.photometric == _WHITE_IS_ZERO and np.issubdtype(values.dtype, np.unsignedinteger):
        values = np.iinfo(values.dtype).max - values
    return values


def _check_page(tags: dict[int, tuple[int, ...]], index: int, data: bytes, rules: DataConfig) -> TiffPage:
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise corrupt("is a TIFF file without a picture size")
    check_size(tags[_WIDTH][0], tags[_HEIGHT][0], rules)
    tile = tags.get(_TILE_WIDTH, (0,))[0] * tags.get(_TILE_HEIGHT, (0,))[0]
    if tile > rules.max_megapixels * 1e6:
        raise DataError("IMG_TOO_MANY_PIXELS", f"declares tiles of {tile} pixels", fix="save the image again")
    for offsets, counts in _OFFSETS_AND_COUNTS:
        ends = (offset + count for offset, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False))
        if any(end > len(data) for end in ends):
            raise truncated("is a TIFF file whose pixel data lie beyond its end")
    return _layout(tags, index)


def _layout(tags: dict[int, tuple[int, ...]], index: int) -> TiffPage:
    bits, form = tags.get(_BITS, (1,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0]
    samples, photometric = tags.get(_SAMPLES, (1,))[0], tags.get(_PHOTOMETRIC, (_BLACK_IS_ZERO,))[0]
    name = {1: "uint", 2: "int", 3: "float", 4: "uint"}.get(form)
    if name is None:
        raise _not_read("complex numbers", fix="save their magnitude as TIFF")
    gray = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and samples in (1, 2)
    color = photometric == _RGB and samples in (3, 4)
    compression_known = tags.get(_COMPRESSION, (1,))[0] in _TIFFFILE_COMPRESSIONS
    wide = (gray or color) and (bits > 8 or name != "uint") and bits % 8 == 0 and compression_known
    # What tifffile does not unpack here, Pillow does: with one gray channel of up to 16 bits, or float.
    pillow_exact = bits <= 8 or (samples == 1 and photometric == _BLACK_IS_ZERO and (bits <= 16 or name == "float"))
    if not wide and not pillow_exact:
        raise _not_read(f"{samples} x {bits} bits in this compression", fix="save it uncompressed or with deflate")
    return TiffPage(index, wide, photometric, tags.get(_ORIENTATION, (1,))[0], f"{name}{bits} x{samples}")


def _not_read(what: str, *, fix: str) -> DataError:
    return DataError("IMG_FORMAT_NOT_ALLOWED", f"is a TIFF file of {what}, which is not read", fix=fix)


class _Directories:
    """The chain of image file directories."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = data[2:4] in (b"+\0", b"\0+")

    def walk(self) -> list[dict[int, tuple[int, ...]]]:
        """The tags of each directory, in file order."""
        position = self._unpack("Q", 8)[0] if self.big else self._unpack("I", 4)[0]
        seen: set[int] = set()
        found: list[dict[int, tuple[int, ...]]] = []
        while position:
            if position in seen:
                raise corrupt("is a TIFF file whose directories form a loop")
            if len(seen) >= _MAX_PAGES:
                raise metadata_too_large(f"is a TIFF file with more than {_MAX_PAGES} directories")
            seen.add(position)
            tags, position = self._read(position)
            found.append(tags)
        if not found:
            raise corrupt("is a TIFF file without a directory")
        return found

    def _read(self, position: int) -> tuple[dict[int, tuple[int, ...]], int]:
        count_form, entry_form, entry_size, next_form = ("Q", "HHQ", 20, "Q") if self.big else ("H", "HHI", 12, "I")
        n_tags = self._unpack(count_form, position)[0]
        if n_tags > _MAX_TAGS:
            raise metadata_too_large(f"is a TIFF file with {n_tags} tags in one directory")
        start = position + struct.calcsize("<" + count_form)
        tags: dict[int, tuple[int, ...]] = {}
        wanted = (*_READ, *(tag for pair in _OFFSETS_AND_COUNTS for tag in pair))
        for n in range(n_tags):
            at = start + n * entry_size
            tag, kind, count = self._unpack(entry_form, at)
            if tag in wanted and kind in _TYPE_FORMATS and count:
                tags[tag] = self._values(_TYPE_FORMATS[kind], count, at + entry_size - (8 if self.big else 4))
        return tags, self._unpack(next_form, start + n_tags * entry_size)[0]

    def _values(self, form: str, count: int, at: int) -> tuple[int, ...]:
        size = count * struct.calcsize("<" + form)
        if size > len(self.data):
            raise truncated("is a TIFF file with a tag longer than the file")
        if size > (8 if self.big else 4):
            at = self._unpack("Q" if self.big else "I", at)[0]
        return self._unpack(f"{count}{form}", at)

    def _unpack(self, form: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(self.order + form, self.data, at)
