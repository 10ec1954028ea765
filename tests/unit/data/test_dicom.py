"""DICOM: rules for gray values, codecs, privacy, and every file that pydicom ships."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from corpus_images import GRAY, JPEG, dicom, jpeg_ls
from medgraft.config.schema import DataConfig
from medgraft.data.dicom import read_patient_id
from medgraft.data.image import DecodedImage, decode, decode_bytes
from medgraft.errors import DataError

DEFAULT = DataConfig()
SHIPPED = sorted(path for path in Path(pydicom.data.__file__).parent.rglob("*.dcm"))
# Names of people and institutions in the shipped files; none may come out.
PRIVATE = ("CompressedSamples", "Lestrade", "Adams", "Yamada", "Buc^J")


def outcome(path: Path, rules: DataConfig) -> DecodedImage | DataError:
    try:
        return decode(path, rules)
    except DataError as error:
        return error


def gray(**attributes: object) -> np.ndarray:
    return decode_bytes(dicom(**attributes), DEFAULT, name="a.dcm").pixels[..., 0]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_are_read_or_named(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for rules in (DEFAULT, DataConfig(frame=1), DataConfig(sixteen_bit="full", min_side=1)):
        result = outcome(path, rules)
        if isinstance(result, DataError):
            assert result.code.startswith(("DICOM_", "IMG_"))
            assert result.problem.where == str(path)
            assert not any(name in str(result) for name in PRIVATE)
        else:
            assert result.format == "dicom"
            assert result.pixels.shape[2] == 3
    read_patient_id(path)
    out, err = capfd.readouterr()
    assert out == "" and err == ""


@pytest.mark.parametrize(
    "name",
    [
        *("CT_small", "MR_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_jp2klossless", "image_dfl"),
        *("MR_small_jpeg_ls_lossless", "JPEGLSNearLossless_16", "JPEG2000", "SC_rgb_jpeg_gdcm", "SC_rgb_rle_16bit"),
        *("SC_rgb_dcmtk_+eb+cy+np", "examples_palette", "examples_jpeg2k", "SC_ybr_full_422_uncompressed"),
    ],
)
def test_real_files_of_every_common_syntax_decode(name: str) -> None:
    path = next(path for path in SHIPPED if path.stem == name)
    assert decode(path, DEFAULT).pixels.std() > 1


def test_the_same_mri_is_the_same_in_every_syntax() -> None:
    paths = [path for path in SHIPPED if path.stem.startswith("MR_small") and "truncated" not in path.stem]
    pixels = [decode(path, DEFAULT).pixels for path in paths]
    assert len(pixels) >= 7
    for other in pixels[1:]:
        np.testing.assert_array_equal(other, pixels[0])


def test_the_same_color_picture_in_jpeg_and_plain() -> None:
    stems = {path.stem: path for path in SHIPPED}
    plain = decode(stems["SC_rgb_rle"], DEFAULT).pixels.astype(int)
    for stem in (
        "SC_rgb_dcmtk_+eb+cr",
        "SC_rgb_dcmtk_+eb+cy+n1",
        "SC_rgb_jpeg_dcmtk",
        "SC_rgb_gdcm_KY",
        "SC_rgb_jpeg_gdcm",
    ):
        off = np.abs(decode(stems[stem], DEFAULT).pixels.astype(int) - plain)
        assert np.median(off) <= 2, stem


def test_x9_linear_window_follows_the_standard() -> None:
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    shown = gray(pixels=values, WindowCenter=2048, WindowWidth=1000)
    expected = np.clip(((values - 2047.5) / 999 + 0.5) * 255, 0, 255)
    assert np.abs(shown - expected).max() <= 0.5 + 1e-3


def test_x9_sigmoid_and_exact_windows() -> None:
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    sigmoid = gray(pixels=values, WindowCenter=2048, WindowWidth=1000, VOILUTFunction="SIGMOID")
    assert np.abs(sigmoid - 255 / (1 + np.exp(-4 * (values - 2048.0) / 1000))).max() <= 0.501
    exact = gray(pixels=values, WindowCenter=2048, WindowWidth=0.5, VOILUTFunction="LINEAR_EXACT")
    assert set(np.unique(exact)) == {0, 128, 255}


def test_x9_the_first_of_several_windows_is_used() -> None:
    one = gray(pixels=GRAY, WindowCenter=100, WindowWidth=50)
    np.testing.assert_array_equal(gray(pixels=GRAY, WindowCenter=[100, 9], WindowWidth=[50, 9]), one)


def test_rules_without_a_window_above_eight_bits() -> None:
    values = (np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 1000) + 200
    data = dicom(values)
    assert decode_bytes(data, DEFAULT, name="a").pixels[..., 0].ravel()[[0, 999]].tolist() == [0, 255]
    full = decode_bytes(data, DataConfig(sixteen_bit="full"), name="a").pixels
    assert full.max() == round(1199 / 65535 * 255)
    percentile = decode_bytes(data, DataConfig(sixteen_bit="percentile"), name="a")
    assert "IMG_SCALED_PERCENTILE" in percentile.warnings and percentile.pixels.max() == 255


def test_voi_lut_comes_before_the_window() -> None:
    table = Dataset()
    table.LUTDescriptor = [256, 0, 8]
    table.LUTData = np.arange(255, -1, -1, dtype=np.uint16).tobytes()
    table["LUTData"].VR = "OW"
    table["LUTDescriptor"].VR = "US"
    np.testing.assert_array_equal(
        gray(pixels=GRAY, VOILUTSequence=Sequence([table]), WindowCenter=9, WindowWidth=9), 255 - GRAY
    )


def test_windows_in_functional_groups_are_found() -> None:
    window, group = Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 128, 256
    group.FrameVOILUTSequence = Sequence([window])
    shown = gray(pixels=GRAY.astype(np.uint16), SharedFunctionalGroupsSequence=Sequence([group]))
    assert np.abs(shown.astype(int) - GRAY).max() <= 1


def test_x10_the_message_names_syntax_and_way_out() -> None:
    data = dicom(encapsulate([JPEG]), syntax="1.2.840.10008.1.2.4.201")
    with pytest.raises(
        DataError, match=r"DICOM_CODEC.*High-Throughput JPEG 2000.*1\.2\.840\.10008\.1\.2\.4\.201.*pylibjpeg-openjpeg"
    ):
        decode_bytes(data, DEFAULT, name="a.dcm")


def test_a_damaged_code_stream_is_named() -> None:
    stream = bytearray(jpeg_ls(GRAY))
    stream[-600:-60] = bytes(540)
    with pytest.raises(DataError, match="DICOM_CORRUPT"):
        decode_bytes(bytes(stream), DEFAULT, name="a.dcm")


def test_unknown_photometric_text_is_not_repeated() -> None:
    with pytest.raises(DataError, match="DICOM_BAD_ATTR") as caught:
        decode_bytes(dicom(GRAY, PhotometricInterpretation="SECRET NAME"), DEFAULT, name="a.dcm")
    assert "SECRET" not in str(caught.value)


def test_patient_id_is_read_without_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(GRAY, PatientID=" A 17 ")[:-4000])
    assert read_patient_id(path) == "A 17"


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_patient_id_is_none(tmp_path: Path, value: str | None) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(GRAY, PatientID=value))
    assert read_patient_id(path) is None


def test_patient_id_of_anything_else_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "b.dcm").write_bytes(dicom(GRAY)[:134])
    os.mkfifo(tmp_path / "c.dcm")
    for path in [*tmp_path.iterdir(), tmp_path / "gone.dcm"]:
        assert read_patient_id(path) is None


def test_deflated_files_are_read(tmp_path: Path) -> None:
    data = dcmread(io.BytesIO(dicom(GRAY)))
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    path = tmp_path / "a.dcm"
    data.save_as(path)
    np.testing.assert_array_equal(decode(path, DEFAULT).pixels[..., 0], GRAY)
    assert read_patient_id(path) == "P-1"
