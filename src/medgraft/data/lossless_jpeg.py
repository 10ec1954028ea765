"""Lossless JPEG (process 14), the form that radiology archives use.

Written here because nothing else fits: Pillow and pydicom do not read it, GDCM ends the whole process on
some damaged streams, and the other decoders for Python are GPL.

Huffman codes follow each other, so decoding looks serial. Here the length of the code that would start at
every bit is looked up for all bits at once; what stays serial is one addition per sample, to walk from
code to code. Differences and predictions are whole-array again.

Source: ITU-T T.81, annexes B, C, F.2.2 and H.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medgraft.data.levels import Values

_SOF_LOSSLESS, _DHT, _SOS, _DRI, _EOI = 0xC3, 0xC4, 0xDA, 0xDD, 0xD9
_HARMLESS = (*range(0xE0, 0xF0), 0xFE)  # application data and comments
_PIECE = 1_000_000  # samples walked at a time

_Words = npt.NDArray[Any]  # uint32: three bytes from every byte on
_Bytes = npt.NDArray[np.uint8]


class Segment(NamedTuple):
    """One marker of a JPEG stream, its body, and the offset behind it."""

    marker: int
    body: bytes
    end: int


@dataclass(frozen=True)
class _Code:
    """A Huffman table, looked up by the next 16 bits."""

    length: _Bytes
    size: _Bytes  # bits of the difference that follows
    advance: _Bytes


@dataclass
class _Header:
    """What the markers before the scan say."""

    precision: int = 0
    width: int = 0
    height: int = 0
    components: bytes = b""
    restart: int = 0


def segments(encoded: bytes) -> Iterator[Segment]:
    """Markers up to and with the start of the first scan; ends early where the stream is not well-formed."""
    at = 2
    while encoded[:2] == b"\xff\xd8" and at + 4 <= len(encoded) and encoded[at] == 0xFF:
        marker, length = encoded[at + 1], int.from_bytes(encoded[at + 2 : at + 4], "big")
        if marker == 0xFF:
            at += 1
            continue
        end = at + 2 + length
        if length < 2 or end > len(encoded):
            return
        yield Segment(marker, encoded[at + 4 : end], end)
        if marker == _SOS:
            return
        at = end


def decode_lossless_jpeg(encoded: bytes) -> Values:
    """Decode one picture.

    Args:
        encoded: the JPEG stream; one interleaved scan without subsampling.

    Returns:
        (H, W) or (H, W, S) uint16.

    Raises:
        ValueError: the stream is damaged, ends early or is of another kind.
    """
    header, codes = _Header(), dict[int, _Code]()
    for marker, body, end in segments(encoded):
        if marker == _DHT:
            codes.update(_read_codes(body))
        elif marker == _SOF_LOSSLESS and not header.components:
            header.precision, header.components = body[0], body[6::3]
            header.height, header.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            _require(len(body) == 6 + 3 * body[5] and len(header.components) == body[5] <= 4, "frame header")
            _require(2 <= body[0] <= 16 and all(sampling == 0x11 for sampling in body[7::3]), "frame kind")
            _require(header.width * header.height > 0, "frame size")
        elif marker == _DRI:
            header.restart = int.from_bytes(body[:2], "big")
        elif marker == _SOS:
            return _decode_scan(encoded, end, body, header, codes)
        else:
            _require(marker in _HARMLESS, "marker")
    raise ValueError("no scan")


def _require(good: bool, what: str) -> None:
    if not good:
        raise ValueError(f"damaged {what}")


def _read_codes(body: bytes) -> dict[int, _Code]:
    codes: dict[int, _Code] = {}
    while body:
        counts, first = body[1:17], 17
        _require(len(counts) == 16, "Huffman table")
        length, size = np.zeros(1 << 16, dtype=np.uint8), np.zeros(1 << 16, dtype=np.uint8)
        start = 0
        for bits, count in enumerate(counts, start=1):
            for symbol in body[first : first + count]:
                end = start + (1 << (16 - bits))
                _require(end <= 1 << 16 and symbol <= 16, "Huffman table")
                length[start:end], size[start:end] = bits, symbol
                start = end
            first += count
        _require(len(body) >= first, "Huffman table")
        # A size of 16 stands for the difference 32768 and has no bits behind it.
        codes[body[0]] = _Code(length, size, length + np.where(size < 16, size, 0).astype(np.uint8))
        body = body[first:]
    return codes


def _decode_scan(encoded: bytes, start: int, body: bytes, header: _Header, codes: dict[int, _Code]) -> Values:
    n = len(header.components)
    _require(n > 0 and len(body) == 4 + 2 * n and body[0] == n, "scan header")
    _require(body[1 : 1 + 2 * n : 2] == header.components, "scan components")
    _require(all(table >> 4 in codes for table in body[2 : 2 + 2 * n : 2]), "scan tables")
    chosen = [codes[table >> 4] for table in body[2 : 2 + 2 * n : 2]]
    predictor, shift = body[-3], body[-1]
    _require(1 <= predictor <= 7 and shift < header.precision, "scan predictor")
    _require(header.restart % header.width == 0, "restart interval")
    rows_each = header.restart // header.width or header.height
    pieces = _coded_pieces(encoded, start)
    _require(len(pieces) >= -(-header.height // rows_each), "scan data")
    values = np.empty((header.height, header.width, n), dtype=np.uint16)
    for piece, top in zip(pieces, range(0, header.height, rows_each), strict=False):
        rows = min(rows_each, header.height - top)
        differences = _differences(piece, rows * header.width, chosen).reshape(rows, header.width, n)
        differences[0, 0] += 1 << (header.precision - shift - 1)
        for component in range(n):
            values[top : top + rows, :, component] = _predict(differences[..., component], predictor)
    values <<= np.uint16(shift)
    return values[..., 0] if n == 1 else values


def _coded_pieces(encoded: bytes, start: int) -> list[bytes]:
    """The coded data between restart markers, without stuffed zeros."""
    pieces, at = [], start
    for found in re.finditer(rb"\xff+([^\x00\xff])", encoded[start:]):
        pieces.append(encoded[at : start + found.start()].replace(b"\xff\x00", b"\xff"))
        at = start + found.end()
        if found[1][0] == _EOI:
            return pieces
        _require(0xD0 <= found[1][0] <= 0xD7, "scan data")
    # Archives pad and cut the end mark; whether the samples are all there is seen when they are counted.
    return [*pieces, encoded[at:].replace(b"\xff\x00", b"\xff")]


def _differences(coded: bytes, n_pixels: int, codes: list[_Code]) -> npt.NDArray[np.int32]:
    n_samples, n_bits = n_pixels * len(codes), 8 * len(coded)
    _require(n_samples <= n_bits, "scan data: too short")
    data = np.frombuffer(coded + bytes(8), dtype=np.uint8).astype(np.uint32)
    words: _Words = (data[:-2] << 16) | (data[1:-1] << 8) | data[2:]
    advances = [_advances(words, code) for code in codes]
    same = all(code is codes[0] for code in codes)
    out = np.empty(n_samples, dtype=np.int32)
    position = 0
    piece = _PIECE // len(codes) * len(codes)
    for first in range(0, n_samples, piece):
        count = min(piece, n_samples - first)
        starts, position = _walk(advances[:1] if same else advances, count, position, n_bits)
        for k, code in enumerate(codes[:1] if same else codes):
            step = 1 if same else len(codes)
            out[first + k : first + count : step] = _read_differences(words, starts[k::step], code)
    return out


def _advances(words: _Words, code: _Code) -> bytes:
    """For every bit: how many bits the code and the difference that would start there take."""
    table = np.empty((len(words), 8), dtype=np.uint8)
    for bit in range(8):
        table[:, bit] = code.advance[(words >> (8 - bit)) & 0xFFFF]
    return table.tobytes()


def _walk(advances: list[bytes], count: int, position: int, n_bits: int) -> tuple[npt.NDArray[np.int64], int]:
    """Bit positions of the next ``count`` codes, and of the one after them."""
    starts: list[int] = []
    append = starts.append
    try:
        if len(advances) == 1:
            advance = advances[0]
            for _ in range(count):
                append(position)
                position += advance[position]
        else:
            for _ in range(count // len(advances)):
                for advance in advances:
                    append(position)
                    position += advance[position]
    except IndexError:
        raise ValueError("scan data end early") from None
    _require(position <= n_bits, "scan data: too short")
    return np.array(starts, dtype=np.int64), position


def _read_differences(words: _Words, starts: npt.NDArray[np.int64], code: _Code) -> npt.NDArray[Any]:
    window = (words[starts >> 3] >> (8 - (starts & 7))) & 0xFFFF
    length, size = code.length[window].astype(np.int64), code.size[window].astype(np.int64)
    _require(bool(length.all()), "scan data: no such code")
    bits = np.where(size < 16, size, 0)
    at = starts + length
    value = (words[at >> 3].astype(np.int64) >> (24 - (at & 7) - bits)) & ((1 << bits) - 1)
    # A leading 0 marks a negative difference (T.81 table H.2).
    difference = np.where(value < (1 << bits) >> 1, value - (1 << bits) + 1, value)
    return np.where(size == 16, 32768, difference)


def _predict(differences: npt.NDArray[np.int32], predictor: int) -> npt.NDArray[Any]:
    """Sum differences up, modulo 65536; the first row is predicted from the left, the first column from above."""
    out = differences.astype(np.uint16)
    if predictor in (1, 2, 4):
        if predictor != 1:
            out[0] = np.cumsum(out[0], dtype=np.uint16)
        if predictor == 4:
            out[1:] = np.cumsum(out[1:], axis=1, dtype=np.uint16)
        if predictor != 1:
            return np.cumsum(out, axis=0, dtype=np.uint16)
        out[:, 0] = np.cumsum(out[:, 0], dtype=np.uint16)
        return np.cumsum(out, axis=1, dtype=np.uint16)
    rows = differences.astype(np.int64)
    rows[0] = np.cumsum(rows[0]) & 0xFFFF
    for above, row in pairwise(rows):
        row[0] = (row[0] + above[0]) & 0xFFFF
        if predictor == 3:
            row[1:] = (row[1:] + above[:-1]) & 0xFFFF
        elif predictor == 5:
            row[1:] += (above[1:] - above[:-1]) >> 1
            row[:] = np.cumsum(row) & 0xFFFF
        else:
            row[:] = _serial_row(row.tolist(), above.tolist(), predictor)
    return rows.astype(np.uint16)


def _serial_row(row: list[int], above: list[int], predictor: int) -> list[int]:
    """Predictors 6 and 7 halve a sum with the left neighbor in it, so each sample waits for the last."""
    left, corner = row[0], above[0]
    for column in range(1, len(row)):
        up = above[column]
        guess = up + ((left - corner) >> 1) if predictor == 6 else (left + up) >> 1
        left, corner = (row[column] + guess) & 0xFFFF, up
        row[column] = left
    return row
