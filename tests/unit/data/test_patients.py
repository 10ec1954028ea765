"""Patients from columns, file names and DICOM."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medgraft.config.schema import DataConfig
from medgraft.data.patients import PRESETS, Patients, assign_patients
from medgraft.errors import DataError, UsageError


def _assign(
    paths: list[str], *, column: list[str] | None = None, root: Path = Path("/none"), **data: object
) -> Patients:
    named = None if column is None else ("who", column)
    return assign_patients(paths, root=root, config=DataConfig.model_validate(data), column=named, where="source")


def _codes(patients: Patients) -> set[str]:
    return {note.code for note in patients.notes}


@pytest.mark.parametrize(
    ("preset", "path", "patient"),
    [
        ("chest-xray", "train/PNEUMONIA/person7_virus_12.jpeg", "person7_virus"),
        ("chest-xray", "train/PNEUMONIA/person7_bacteria_24.jpeg", "person7_bacteria"),
        ("chest-xray", "PNEUMONIA/person63_virus_121_1.jpeg", "person63_virus"),
        ("chest-xray", "NORMAL/IM-0543-0001-0002.jpeg", "IM-0543"),
        ("chest-xray", "NORMAL/NORMAL2-IM-0543-0001.jpeg", "NORMAL2-IM-0543"),
        ("chest-xray", "BACTERIA-1008087-0001.jpeg", "BACTERIA-1008087"),
        ("lgg-mri", "TCGA_CS_5395_19981004/TCGA_CS_5395_19981004_1.tif", "TCGA_CS_5395_19981004"),
        ("lgg-mri", "TCGA_CS_5395_19981004_1.tif", "TCGA_CS_5395_19981004"),
        ("tcga", "slides/TCGA-A2-A0YE-01Z-00-DX1.png", "TCGA-A2-A0YE"),
        ("bids", "sub-01/anat/sub-01_T1w.png", "sub-01"),
        ("chexpert", "train/patient00001/study1/view1_frontal.jpg", "patient00001"),
        ("mimic-cxr", "p10/p10000032/s50414267/x.jpg", "p10000032"),
        ("adni", "AD/002_S_0295/x.png", "002_S_0295"),
        ("oasis", "demented/OAS1_0001_MR1_slice_1.png", "OAS1_0001"),
        ("breakhis", "b/SOB_B_A-14-22549AB-40-001.png", "14-22549AB"),
        ("nih-chest", "images/00000013_005.png", "00000013"),
    ],
)
def test_presets(preset: str, path: str, patient: str) -> None:
    assert _assign([path], patient_preset=preset).ids == [patient]


def test_same_number_under_virus_and_bacteria_is_another_child() -> None:
    paths = ["p/person7_virus_1.jpeg", "p/person7_bacteria_1.jpeg", "n/IM-7-1.jpeg", "n/NORMAL2-IM-7-1.jpeg"]
    patients = _assign(paths)
    assert len(set(patients.ids)) == 4
    assert patients.source == "preset chest-xray"


def test_auto_takes_only_a_preset_that_fits_every_file() -> None:
    patients = _assign(["sub-1/a.png", "sub-2/a.png", "other/a.png"])
    assert (patients.source, patients.ids) == ("none", [None] * 3)
    assert _codes(patients) == {"PATIENTS_PARTLY", "PATIENTS_UNKNOWN"}
    both = _assign(["sub-1/OAS1_0001_MR1.png"])
    assert both.source == "none"
    assert _assign(["a/00000013_005.png"]).source == "none"
    assert _assign([]).source == "none"


def test_auto_prefers_the_column() -> None:
    patients = _assign(["sub-1/a.png", "sub-2/a.png"], column=["x", " y "])
    assert (patients.ids, patients.source) == (["x", "y"], "column who")
    assert _assign(["sub-1/a.png"], column=["NaN"]).source == "preset bids"
    assert _assign(["sub-1/a.png"], column=["x"], patient_preset="none").source == "none"
    assert _assign(["sub-1/a.png"], column=["x"], patient_regex="(sub)").ids == ["sub"]


def test_incomplete_column_claims_nothing() -> None:
    patients = _assign(["a", "b"], column=["x", ""])
    assert patients.ids == ["x", None]
    assert "PATIENTS_INCOMPLETE" in _codes(patients)


def test_pattern_joins_its_groups_and_fits_every_path() -> None:
    patients = _assign(["s1/p2_x.png", "s1/p3_x.png"], patient_regex=r"(s\d)/(p\d)")
    assert (patients.ids, patients.source) == (["s1_p2", "s1_p3"], "pattern")
    with pytest.raises(DataError, match="PATIENT_NO_MATCH") as caught:
        _assign(["s1/p2.png", "other.png"], patient_regex=r"(s\d)")
    assert "'other.png'" in str(caught.value)
    assert len(caught.value.problems) == 1


def test_unknown_preset_names_the_near_one() -> None:
    with pytest.raises(UsageError, match="chest-xray"):
        _assign(["a"], patient_preset="chestxray")
    assert "chest-xray" in PRESETS


def test_dicom_patients(tmp_path: Path) -> None:
    from pydicom.data import get_testdata_file

    source = get_testdata_file("CT_small.dcm")
    for name in ("a.dcm", "IM0001"):
        shutil.copy(str(source), tmp_path / name)
    patients = _assign(["a.dcm", "IM0001"], root=tmp_path)
    assert (patients.source, patients.ids) == ("DICOM PatientID", ["1CT1", "1CT1"])
    (tmp_path / "b.png").touch()
    assert _assign(["a.dcm", "b.png"], root=tmp_path).source == "none"


def test_shared_chest_patients(shared_data: Path) -> None:
    root = shared_data / "chest-xray"
    paths = [path.relative_to(root).as_posix() for path in root.rglob("*.jpeg")]
    patients = _assign(paths)
    assert patients.source == "preset chest-xray"
    assert None not in patients.ids
