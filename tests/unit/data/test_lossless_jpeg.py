"""Lossless JPEG, against an encoder written from the standard's definitions, sample by sample."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate

from corpus_images import GRAY, PIXELS, dicom
from medgraft.config.schema import DataConfig
from medgraft.data.image import decode_bytes
from medgraft.data.lossless_jpeg import decode_lossless_jpeg
from medgraft.errors import DataError

SV1 = "1.2.840.10008.1.2.4.70"
# Two tables with codes of different lengths; 17 symbols, the sizes 0..16.
TABLES = ([0, 0, 7, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 17] + [0] * 11)


def codes(counts: list[int]) -> list[str]:
    """The code of each symbol (T.81 annex C)."""
    found, code = [], 0
    for length, count in enumerate(counts, start=1):
        for _ in range(count):
            found.append(format(code, f"0{length}b"))
            code += 1
        code <<= 1
    return found


def guess(image: np.ndarray, row: int, column: int, predictor: int, first: int) -> int:
    """The prediction of one sample (T.81 table H.1 and its borders)."""
    if row == 0:
        return first if column == 0 else int(image[0, column - 1])
    if column == 0:
        return int(image[row - 1, 0])
    left, up, corner = int(image[row, column - 1]), int(image[row - 1, column]), int(image[row - 1, column - 1])
    return {
        1: left,
        2: up,
        3: corner,
        4: left + up - corner,
        5: left + ((up - corner) >> 1),
        6: up + ((left - corner) >> 1),
        7: (left + up) >> 1,
    }[predictor]


def encode(
    image: np.ndarray, *, precision: int = 16, predictor: int = 1, shift: int = 0, restart_rows: int = 0
) -> bytes:
    """One interleaved scan; the first component uses the first table, the others the second."""
    image = image[..., None] if image.ndim == 2 else image
    height, width, n = image.shape
    image = image.astype(np.int64) >> shift
    known = [codes(counts) for counts in TABLES]
    pieces = []
    rows_each = restart_rows or height
    for top in range(0, height, rows_each):
        bits = []
        block = image[top : top + rows_each]
        for row in range(len(block)):
            for column in range(width):
                for k in range(n):
                    predicted = guess(block[..., k], row, column, predictor, 1 << (precision - shift - 1))
                    difference = (int(block[row, column, k]) - predicted + 32768) % 65536 - 32768
                    difference = 32768 if difference == -32768 else difference
                    size = abs(difference).bit_length()
                    bits.append(known[min(k, 1)][size])
                    if 0 < size < 16:
                        value = difference if difference > 0 else difference + (1 << size) - 1
                        bits.append(format(value, f"0{size}b"))
        text = "".join(bits)
        text += "1" * (-len(text) % 8)
        raw = bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))
        pieces.append(raw.replace(b"\xff", b"\xff\x00"))
    data = b"".join(
        piece + (bytes([0xFF, 0xD0 + k % 8]) if k < len(pieces) - 1 else b"") for k, piece in enumerate(pieces)
    )

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    frame = struct.pack(">BHHB", precision, height, width, n) + b"".join(bytes([k + 1, 0x11, 0]) for k in range(n))
    scan = bytes([n]) + b"".join(bytes([k + 1, min(k, 1) << 4]) for k in range(n)) + bytes([predictor, 0, shift])
    tables = b"".join(segment(0xC4, bytes([k, *counts, *range(17)])) for k, counts in enumerate(TABLES))
    restart = segment(0xDD, struct.pack(">H", restart_rows * width)) if restart_rows else b""
    return b"\xff\xd8" + tables + segment(0xC3, frame) + restart + segment(0xDA, scan) + data + b"\xff\xd9"


def noise(shape: tuple[int, ...], precision: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**precision, shape).astype(np.uint16)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    precision=st.integers(2, 16),
    predictor=st.integers(1, 7),
    components=st.sampled_from([1, 3]),
    restart_rows=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_decode_inverts_encode(
    shape: tuple[int, int], precision: int, predictor: int, components: int, restart_rows: int, seed: int
) -> None:
    image = noise((*shape, components) if components > 1 else shape, precision, seed)
    stream = encode(image, precision=precision, predictor=predictor, restart_rows=restart_rows)
    np.testing.assert_array_equal(decode_lossless_jpeg(stream), image)


def test_a_point_transform_drops_low_bits() -> None:
    image = noise((9, 7), 12)
    np.testing.assert_array_equal(decode_lossless_jpeg(encode(image, precision=12, shift=3)), image >> 3 << 3)


def test_more_samples_than_are_walked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medgraft.data.lossless_jpeg._PIECE", 10)
    image = noise((9, 7, 3), 16)
    np.testing.assert_array_equal(decode_lossless_jpeg(encode(image)), image)


def test_damage_is_an_error_or_a_picture_of_the_right_shape() -> None:
    rng = np.random.default_rng(1)
    stream = encode(noise((20, 20), 12), precision=12)
    for _ in range(1500):
        damaged = bytearray(stream)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(2, len(damaged))] = rng.integers(256)
        try:
            values = decode_lossless_jpeg(bytes(damaged[: rng.integers(10, len(damaged) + 1)]))
        except (ValueError, IndexError):
            continue
        assert values.dtype == np.uint16 and values.ndim in (2, 3)


def test_a_cut_stream_is_refused() -> None:
    stream = encode(noise((20, 20), 12), precision=12)
    with pytest.raises(ValueError, match="scan data"):
        decode_lossless_jpeg(stream[:-60])


def test_a_claimed_size_allocates_nothing() -> None:
    stream = bytearray(encode(noise((4, 4), 8), precision=8))
    at = stream.index(b"\xff\xc3") + 5
    stream[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ValueError, match="too short"):
        decode_lossless_jpeg(bytes(stream))


def test_d5_in_dicom_gray_signed_and_color() -> None:
    rules = DataConfig()
    plain = dicom(encapsulate([encode(GRAY, precision=8)]), syntax=SV1)
    np.testing.assert_array_equal(decode_bytes(plain, rules, name="a").pixels[..., 0], GRAY)
    stored = (GRAY.astype(np.int16) - 128).astype(np.uint16) & 0xFFF
    attributes = {
        "BitsAllocated": 16,
        "BitsStored": 12,
        "PixelRepresentation": 1,
        "WindowCenter": 0,
        "WindowWidth": 256,
    }
    signed = dicom(encapsulate([encode(stored, precision=12)]), syntax=SV1, **attributes)
    assert np.abs(decode_bytes(signed, rules, name="a").pixels[..., 0].astype(int) - GRAY).max() <= 1
    color = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    colored = dicom(encapsulate([encode(PIXELS, precision=8)]), syntax=SV1, **color)
    np.testing.assert_array_equal(decode_bytes(colored, rules, name="a").pixels, PIXELS)


def test_another_layout_than_the_header_says_is_refused() -> None:
    data = dicom(encapsulate([encode(PIXELS, precision=8)]), syntax=SV1)
    with pytest.raises(DataError, match="DICOM_SIZE_MISMATCH"):
        decode_bytes(data, DataConfig(), name="a")
