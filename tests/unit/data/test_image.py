"""Every odd file of the catalogue has its outcome; one picture gives one array."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from corpus_images import (
    ALL,
    BOMBS,
    GRAY,
    IMAGES,
    JPEG,
    PIXELS,
    SLOW_DICOM,
    Case,
    dicom,
    exif,
    jpeg_ls,
    rle,
    saved,
    tiff,
)
from medgraft.config.schema import DataConfig
from medgraft.data.image import DecodedImage, decode, decode_bytes
from medgraft.data.levels import orient
from medgraft.errors import DataError, UsageError

DEFAULT = DataConfig()
TESTS = Path(__file__).parents[2]


def outcome(case: Case, folder: Path) -> DecodedImage | DataError:
    path = folder / case.name
    path.write_bytes(case.build())
    try:
        return decode(path, DataConfig(**case.rules))
    except DataError as error:
        return error


def code_of(data: bytes) -> str:
    """The code of the error; any other exception goes through."""
    try:
        decode_bytes(data, DEFAULT, name="scan")
    except DataError as error:
        return error.code
    return "read"


@pytest.mark.parametrize("case", ALL, ids=str)
def test_d1_every_row_of_the_catalogue_has_its_code(case: Case, tmp_path: Path) -> None:
    result = outcome(case, tmp_path)
    if case.code is not None:
        assert isinstance(result, DataError), f"accepted with {result.warnings}"
        assert result.code == case.code
        assert result.problem.where == str(tmp_path / case.name)
        assert str(tmp_path) not in result.problem.what
        assert result.problem.fix
        return
    assert isinstance(result, DecodedImage), result
    assert set(case.warnings) <= set(result.warnings)
    assert result.pixels.dtype == np.uint8 and result.pixels.ndim == 3 and result.pixels.shape[2] == 3
    assert not result.pixels.flags.writeable


def test_good_files_have_no_warning() -> None:
    for data in (JPEG, saved(PIXELS, "PNG"), saved(GRAY, "TIFF"), saved(PIXELS, "WEBP"), dicom(GRAY)):
        assert decode_bytes(data, DEFAULT, name="scan").warnings == ()


def test_i5_a_flipped_byte_decodes_or_is_named() -> None:
    rng = np.random.default_rng(0)
    for source in (
        JPEG,
        saved(PIXELS, "PNG"),
        saved(PIXELS, "WEBP"),
        tiff(GRAY),
        saved(GRAY, "GIF"),
        dicom(GRAY),
        jpeg_ls(GRAY),
    ):
        for _ in range(60):
            data = bytearray(source)
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            cut = bytes(data[: rng.integers(1, len(data))]) if rng.random() < 0.3 else bytes(data)
            assert code_of(cut).startswith(("read", "IMG_", "DICOM_"))


def test_i7_cut_images_are_never_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UsageError, match="IMG_TRUNCATED_ALLOWED"):
        decode_bytes(JPEG, DEFAULT, name="scan.jpg")


def test_i8_messages_say_what_the_file_is() -> None:
    with pytest.raises(DataError, match="text"):
        decode_bytes(b"id,label\n", DEFAULT, name="a.jpg")
    with pytest.raises(DataError, match="download error page"):
        decode_bytes(b"<html></html>", DEFAULT, name="a.jpg")


def test_i11_postscript_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_args: object, **_options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    with pytest.raises(DataError, match="IMG_FORMAT_NOT_ALLOWED"):
        decode_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", DEFAULT, name="a.png")


def test_i15_transparency_lies_on_the_configured_background() -> None:
    alpha = np.where(np.arange(64) < 32, 0, 255)[None].repeat(64, 0)
    data = saved(np.dstack([PIXELS, alpha.astype(np.uint8)]), "PNG")
    pixels = decode_bytes(data, DataConfig(background=40), name="a.png").pixels
    assert (pixels[:, :32] == 40).all()
    np.testing.assert_array_equal(pixels[:, 32:], PIXELS[:, 32:])


def test_i35_missing_and_failing_files_are_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"IMG_UNREADABLE.*ENOENT.*gone\.png"):
        decode(tmp_path / "gone.png", DEFAULT)
    path = tmp_path / "stale.png"
    path.write_bytes(b"x")

    def stale(*_args: object) -> int:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(os, "open", stale)
    with pytest.raises(DataError, match=r"IMG_UNREADABLE.*ESTALE"):
        decode(path, DEFAULT)


def test_d12_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    here = Path.cwd()
    os.chdir(tmp_path)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.png")
    finally:
        os.chdir(here)
    for path in [*tmp_path.iterdir(), Path("/dev/zero"), Path("a\0b.png")]:
        with pytest.raises(DataError, match="IMG_UNREADABLE"):
            decode(path, DEFAULT)


def test_d12_odd_names_are_shown_on_one_printable_line(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\nb\x1b\xff.png"))
    path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        decode(path, DEFAULT)
    assert caught.value.problem.where.endswith("/a\\nb\\x1b\\udcff.png")


def test_files_above_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(3_000_000)
    with pytest.raises(DataError, match="IMG_FILE_TOO_LARGE"):
        decode(path, DataConfig(max_file_mb=2))


MEASURE = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
import corpus_images as corpus
from medgraft.config.schema import DataConfig
from medgraft.data.image import decode_bytes
from medgraft.errors import DataError
rules = DataConfig()
built = [(case, case.build()) for case in corpus.BOMBS + corpus.SLOW_DICOM]
for data in (corpus.saved(corpus.GRAY, "PNG"), corpus.dicom(corpus.GRAY), corpus.tiff(corpus.GRAY)):
    decode_bytes(data, rules, name="warm-up")
for case, data in built:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        decode_bytes(data, rules, name=case.name)
        code = ""
    except DataError as error:
        code = error.code
    seconds = time.perf_counter() - start
    print(json.dumps([str(case), code, seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""


def test_d13_bombs_cost_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE, str(TESTS)], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    expected = {str(case): case for case in BOMBS + SLOW_DICOM}
    assert len(rows) == len(expected)
    for name, code, seconds, megabytes in rows:
        assert code == expected[name].code, name
        seconds_allowed, megabytes_allowed = (1.0, 200) if name.startswith("X") else (0.5, 64)
        assert seconds <= seconds_allowed, (name, seconds)
        assert megabytes <= megabytes_allowed, (name, megabytes)
    assert done.stderr == ""


def palette() -> bytes:
    gray = Image.frombytes("P", (64, 64), GRAY.tobytes())
    gray.putpalette([level for value in range(256) for level in (value,) * 3])
    out = io.BytesIO()
    gray.save(out, "PNG")
    return out.getvalue()


def turned(orientation: int, form: str) -> bytes:
    """GRAY stored so that the orientation tag brings it back: the inverse of 6 is 8, all others are their own."""
    stored = orient(PIXELS, {6: 8, 8: 6}.get(orientation, orientation))
    return saved(stored, form, exif=exif(orientation), **({"lossless": True} if form == "WEBP" else {}))


def opaque(form: str, mode: str) -> bytes:
    return saved(
        np.dstack([PIXELS if mode == "RGBA" else GRAY[..., None].repeat(3, 2), np.full((64, 64), 255, np.uint8)]),
        form,
        mode,
    )


def one_window(**more: object) -> bytes:
    stored = GRAY.astype(np.uint16) * 16 + 1000
    return dicom(stored, RescaleSlope="0.0625", RescaleIntercept="-62.5", WindowCenter=128, WindowWidth=256, **more)


WIDE = GRAY.astype(np.uint16) * 257
GRAY_ENCODINGS = {
    "PNG16": lambda: saved(WIDE, "PNG"),
    "TIFF16": lambda: tiff(WIDE),
    "TIFF16 big endian": lambda: tiff(WIDE, byteorder=">"),
    "TIFF16 deflate": lambda: tiff(WIDE, compression="zlib", predictor=True),
    "TIFF16 LZW": lambda: saved(WIDE, "TIFF", compression="tiff_lzw"),
    "TIFF16 white is zero": lambda: tiff(65535 - WIDE, photometric="miniswhite"),
    "TIFF8 white is zero": lambda: tiff(255 - GRAY, photometric="miniswhite"),
    "TIFF16 of small numbers": lambda: tiff(GRAY.astype(np.uint16)),
    "TIFF float32": lambda: tiff((GRAY / 255).astype(np.float32)),
    "TIFF float64": lambda: tiff(GRAY / 255),
    "TIFF float16": lambda: tiff((GRAY / 255).astype(np.float16)),
    "TIFF float LZW": lambda: saved((GRAY / 255).astype(np.float32), "TIFF", compression="tiff_lzw"),
    "palette": palette,
    "LA": lambda: opaque("PNG", "LA"),
    "TIFF tiles": lambda: tiff(GRAY, tile=(16, 16)),
    "TIFF with thumbnail": lambda: with_thumbnail(),
    "BMP": lambda: saved(GRAY, "BMP"),
    "GIF": lambda: saved(GRAY, "GIF"),
    "DICOM MONO2": lambda: dicom(GRAY),
    "DICOM MONO2 16": lambda: dicom(WIDE),
    "DICOM MONO1": lambda: dicom(255 - GRAY, PhotometricInterpretation="MONOCHROME1"),
    "DICOM rescaled": lambda: dicom(GRAY, RescaleSlope=3, RescaleIntercept=-1024),
    "DICOM falling slope": lambda: dicom(255 - GRAY, RescaleSlope=-1, RescaleIntercept=255),
    "DICOM rescaled, window": one_window,
    "DICOM rescaled, exact window": lambda: one_window(VOILUTFunction="LINEAR_EXACT"),
    "DICOM signed, window": lambda: dicom(GRAY.astype(np.int16) - 1024, WindowCenter=-896, WindowWidth=256),
    "DICOM RLE": lambda: rle(GRAY),
    "DICOM JPEG-LS": lambda: jpeg_ls(GRAY),
}
COLOR_ENCODINGS = {
    "RGBA": lambda: opaque("PNG", "RGBA"),
    "RGB16 TIFF": lambda: tiff(PIXELS.astype(np.uint16) * 257, photometric="rgb"),
    "RGB16 TIFF planes": lambda: tiff(
        np.moveaxis(PIXELS, 2, 0).astype(np.uint16) * 257, photometric="rgb", planarconfig="separate"
    ),
    "RGBA16 TIFF": lambda: rgba16(),
    "RGB float TIFF": lambda: tiff((PIXELS / 255).astype(np.float32), photometric="rgb"),
    "RGB TIFF LZW": lambda: saved(PIXELS, "TIFF", compression="tiff_lzw"),
    "WebP lossless": lambda: saved(PIXELS, "WEBP", lossless=True),
    "BMP": lambda: saved(PIXELS, "BMP"),
    "DICOM RGB": lambda: dicom(PIXELS),
    "DICOM RGB RLE": lambda: rle(PIXELS),
    **{
        f"EXIF {n} {form}": lambda n=n, form=form: turned(n, form)
        for n in range(1, 9)
        for form in ("PNG", "TIFF", "WEBP")
    },
}


def with_thumbnail() -> bytes:
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(GRAY[::4, ::4], subfiletype=1)
        file.write(GRAY)
    return out.getvalue()


def rgba16() -> bytes:
    alpha = np.full((64, 64, 1), 65535, np.uint16)
    values = np.concatenate([PIXELS.astype(np.uint16) * 257, alpha], axis=2)
    return tiff(values, photometric="rgb", extrasamples=["unassalpha"])


@pytest.mark.parametrize("name", GRAY_ENCODINGS)
def test_d5_one_gray_picture_many_encodings(name: str) -> None:
    pixels = decode_bytes(GRAY_ENCODINGS[name](), DEFAULT, name="scan").pixels
    assert np.abs(pixels.astype(int) - GRAY[..., None]).max() <= 1


@pytest.mark.parametrize("name", COLOR_ENCODINGS)
def test_d5_one_color_picture_many_encodings(name: str) -> None:
    pixels = decode_bytes(COLOR_ENCODINGS[name](), DEFAULT, name="scan").pixels
    assert np.abs(pixels.astype(int) - PIXELS).max() <= 1


def test_d5_lossy_encodings_stay_close() -> None:
    smooth = np.linspace(0, 255, 64)[None, :, None].repeat(64, 0).repeat(3, 2).astype(np.uint8)
    smooth[..., 1] = smooth[..., 0].T
    inverted = Image.fromarray(255 - np.asarray(Image.fromarray(smooth).convert("CMYK")), mode=None)
    assert inverted.mode in ("RGBA", "CMYK")
    for data in (
        saved(smooth, "JPEG", quality=95, subsampling=0),
        saved(smooth, "JPEG", quality=95, progressive=True, subsampling=0),
        saved(smooth, "JPEG", "CMYK", quality=95, subsampling=0),
        saved(smooth, "TIFF", "CMYK"),
    ):
        off = np.abs(decode_bytes(data, DEFAULT, name="scan").pixels.astype(int) - smooth)
        assert off.max() <= 8 and off.mean() <= 2


def test_d5_one_bit_is_black_and_white() -> None:
    black_and_white = (GRAY > 128).astype(np.uint8) * 255
    for data in (saved(GRAY > 128, "PNG"), saved(GRAY > 128, "TIFF"), saved(black_and_white, "PNG")):
        np.testing.assert_array_equal(decode_bytes(data, DEFAULT, name="a").pixels[..., 0], black_and_white)


def test_twelve_bits_in_sixteen_use_the_full_scale() -> None:
    ramp = np.linspace(0, 4095, 4096).astype(np.uint16).reshape(64, 64)
    pixels = decode_bytes(tiff(ramp), DEFAULT, name="a.tif").pixels
    assert pixels.min() == 0 and pixels.max() == 255
    full = decode_bytes(tiff(ramp), DataConfig(sixteen_bit="full"), name="a.tif")
    assert full.pixels.max() == 16 and "IMG_LOW_RANGE" in full.warnings


def test_warnings_of_decoders_do_not_leak() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for case in IMAGES:
            try:
                decode_bytes(case.build(), DataConfig(**case.rules), name=case.name)
            except DataError:
                continue
    assert [str(one.message) for one in caught if "medgraft" in one.filename or "PIL" in one.filename] == []


def test_decoding_needs_neither_torch_nor_pydicom() -> None:
    heavy = ("torch", "pydicom", "tifffile")
    code = f"import sys, medgraft.data.pixels; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
