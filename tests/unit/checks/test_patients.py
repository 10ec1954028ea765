"""Ids of a column against paths: shifted, shuffled and single wrong rows are found, ordinary layouts are not blamed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgraft.checks.patients import check_groups, check_patients
from medgraft.config.schema import DataConfig
from medgraft.data.manifest import Manifest
from medgraft.data.sources import read_source
from medgraft.types import CheckResult

SIZES = (20, 34, 25, 41, 28, 22, 37, 30)
NAMES = [f"TCGA_CS_{5000 + 7 * number}_1998" for number in range(len(SIZES))]
IDS = [name for name, size in zip(NAMES, SIZES, strict=True) for _ in range(size)]
NUMBERS = [str(NAMES.index(name) + 1) for name in IDS]
FOLDERS = [f"{name}/{name}_{row}.tif" for row, name in enumerate(IDS)]


def manifest(
    paths: Sequence[str],
    ids: Sequence[str | None] | None,
    labels: Sequence[str] | None = None,
    splits: Sequence[Any] = (),
    source: str = "column patient",
) -> Manifest:
    columns: dict[str, Any] = {
        "sample_id": [f"image-{row}" for row in range(len(paths))],
        "path": paths,
        "patient_id": ids or [],
        "label": labels or ["a"] * len(paths),
        "split": splits,
    }
    return Manifest.from_columns(columns, root=Path("/data"), classes=("a", "b"), patient_source=source)


def contradiction(paths: Sequence[str], ids: Sequence[str | None], **values: Any) -> CheckResult | None:
    results = [found for found in check_patients(manifest(paths, ids, **values)) if "FOLDERS" in found.code]
    assert len(results) < 2
    return results[0] if results else None


def found(paths: Sequence[str], ids: Sequence[str | None]) -> CheckResult:
    result = contradiction(paths, ids)
    assert result is not None and result.code == "PATIENTS_CONTRADICT_FOLDERS" and result.advice
    return result


def rotated(ids: Sequence[str], by: int) -> list[str]:
    return [*ids[-by:], *ids[:-by]]


def shuffled(ids: Sequence[str]) -> list[str]:
    return [ids[row] for row in np.random.default_rng(0).permutation(len(ids))]


@pytest.mark.parametrize("by", [1, 5, 30, 100])
def test_shifted_rows_are_an_error_that_shows_both(by: int) -> None:
    result = found(FOLDERS, rotated(IDS, by))
    wrong = sum(new != old for new, old in zip(rotated(IDS, by), IDS, strict=True))
    assert result.severity == "error" and result.evidence["count"] == wrong
    assert f"{wrong} of {len(IDS)} images" in result.title and "column patient" in result.title
    assert (
        result.evidence["examples"][0] == {"path": FOLDERS[0], "patient": NAMES[-1], "path_says": NAMES[0]} or by > 30
    )
    assert len(result.evidence["examples"]) <= 20


def test_shuffled_columns_and_single_rows() -> None:
    assert found(FOLDERS, shuffled(IDS)).evidence["count"] > 0.7 * len(IDS)
    one = [*IDS]
    one[100] = NAMES[-1]
    assert found(FOLDERS, one).evidence["examples"] == [
        {"path": FOLDERS[100], "patient": NAMES[-1], "path_says": IDS[100]}
    ]


def test_ids_in_file_names() -> None:
    names = [f"images/{name}_{row}.png" for row, name in enumerate(IDS)]
    assert contradiction(names, IDS) is None
    assert found(names, rotated(IDS, 5)).severity == "error"
    one_each = [f"P{row:03d}" for row in range(100)]
    files = [f"{name}.png" for name in one_each]
    assert contradiction(files, one_each) is None
    assert contradiction(files, [name.replace("P0", "p") for name in one_each]) is None  # p7 may be another than P007
    assert found(files, [*one_each[:70], *rotated(one_each[70:], 1)]).evidence["count"] == 30


@pytest.mark.parametrize("by", [1, 5, 30])
def test_folders_of_other_names_that_hold_as_many_images(by: int) -> None:
    assert contradiction(FOLDERS, NUMBERS) is None
    result = found(FOLDERS, rotated(NUMBERS, by))
    assert result.severity == "error" and "rows shifted" in result.title
    assert found(FOLDERS, shuffled(NUMBERS)).severity == "error"


def test_few_rows_astray_among_folders_of_other_names_are_a_warning() -> None:
    one = [*NUMBERS]
    one[100] = "8"
    result = found(FOLDERS, one)
    assert result.severity == "warning" and result.evidence["count"] == 1
    assert result.evidence["examples"] == [{"path": FOLDERS[100], "patient": "8", "path_says": NUMBERS[100]}]
    lost = found(FOLDERS, [*NUMBERS[:5], *NUMBERS[:-5]])
    assert lost.severity == "warning" and lost.evidence["count"] == 35


def test_folders_that_are_numbers() -> None:
    paths = [f"{number}/slice_{row % 20}.png" for row, number in enumerate(NUMBERS)]
    assert contradiction(paths, NUMBERS) is None
    assert (
        contradiction([f"{int(path.split('/')[0]):04d}/{row}.png" for row, path in enumerate(paths)], NUMBERS) is None
    )
    assert found(paths, rotated(NUMBERS, 5)).severity == "error"
    assert found(paths, shuffled(NUMBERS)).severity == "error"


RNG = np.random.default_rng(1)
ANY = [f"P{patient}" for patient in RNG.integers(0, 50, 600)]
ANY_NUMBER = [str(patient) for patient in RNG.integers(0, 50, 600)]
ORDINARY: dict[str, tuple[list[str], list[str]]] = {
    "class folders": ([f"{'ab'[row % 2]}/img_{row}.png" for row in range(600)], ANY),
    "class folders 0 and 1": ([f"{row % 2}/{row}.png" for row in range(600)], ANY_NUMBER),
    "one flat folder": ([f"{row}.png" for row in range(600)], ANY_NUMBER),
    "one image of each": ([f"{row}.png" for row in range(600)], [str(patient) for patient in RNG.permutation(600)]),
    "visits": (
        [f"p{row // 12}/visit{row // 4 % 3}/s{row % 4}.png" for row in range(600)],
        [f"p{row // 12}" for row in range(600)],
    ),
    "examinations of other names": (
        [f"exam{row // 4}/s{row % 4}.png" for row in range(600)],
        [f"p{row // 12}" for row in range(600)],
    ),
    "part folders": (
        [f"{('train', 'test')[row % 2]}/{'ab'[row % 3 // 2]}/{row}.png" for row in range(600)],
        [f"p{row // 12}" for row in range(600)],
    ),
    "folders of slices": (
        [f"slice{row % 20}/img{row // 20}.png" for row in range(400)],
        [f"p{row // 20}" for row in range(400)],
    ),
    "folders of slices, all numbers": (
        [f"{row % 20}/{row}.png" for row in range(400)],
        [str(row // 20) for row in range(400)],
    ),
    "numbered anew at each site": (
        [f"s{row // 200}/{row % 200 // 5}/{row % 5}.png" for row in range(400)],
        [str(row // 200 * 100 + row % 200 // 5) for row in range(400)],
    ),
    "numbered anew at each site, flat": (
        [f"s{row // 200}_{row % 200 // 5}_{row % 5}.png" for row in range(400)],
        [str(row // 200 * 100 + row % 200 // 5) for row in range(400)],
    ),
    "one id is the beginning of another": (
        [f"p_1_{row}.png" for row in range(9)] + [f"p_1_2_{row}.png" for row in range(9)],
        ["p_1"] * 9 + ["p_1_2"] * 9,
    ),
}


@pytest.mark.parametrize("layout", ORDINARY)
def test_ordinary_layouts_are_not_blamed(layout: str) -> None:
    assert contradiction(*ORDINARY[layout]) is None


@pytest.mark.parametrize("seed", range(8))
def test_folders_of_days_are_not_blamed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    visits = [(day, int(rng.integers(0, 55))) for day in range(60) for _ in range(1 + (rng.random() < 0.15))]
    paths = [f"2020-{day}/{number}-{image}.png" for number, (day, _) in enumerate(visits) for image in range(4)]
    assert contradiction(paths, [f"p{patient}" for _, patient in visits for _ in range(4)]) is None


def test_only_columns_are_compared_and_gaps_are_passed_over() -> None:
    assert contradiction(FOLDERS, rotated(IDS, 5), source="preset lgg-mri") is None
    some: list[str | None] = [*rotated(IDS, 5)]
    some[::7] = [None] * len(some[::7])
    assert found(FOLDERS, some).evidence["count"] < 40
    assert check_patients(manifest(FOLDERS, None, source="none")) == ()
    assert check_patients(manifest([], [])) == ()


def differing(labels: Sequence[str], per_patient: int = 5) -> CheckResult | None:
    ids = [f"p{row // per_patient}" for row in range(len(labels))]
    paths = [f"i{row}.png" for row in range(len(labels))]
    results = [one for one in check_patients(manifest(paths, ids, labels)) if one.code == "PATIENT_LABELS_DIFFER"]
    return results[0] if results else None


def test_a_patient_with_two_labels_stands_out() -> None:
    labels = ["a"] * 300 + ["b"] * 300
    assert differing(labels) is None
    labels[7] = "b"
    result = differing(labels)
    assert (
        result is not None and result.severity == "warning" and "1 patients" in result.title and "119" in result.title
    )
    assert result.evidence["examples"] == [{f"image-{row}": "b" if row == 7 else "a" for row in range(5, 10)}]


def test_labels_that_vary_within_patients_as_a_rule_are_no_contradiction() -> None:
    assert differing(["a", "a", "b", "b", "b"] * 40) is None
    # slices with a finding are rare, and so are the patients that have any
    rare = ["a"] * 600
    for row in (0, 1, 10, 11, 12, 55):
        rare[row] = "b"
    assert differing(rare) is None
    assert differing(["a", "b"] * 20, per_patient=1) is None


def split(patients: dict[str, int], per_patient: int = 4) -> Manifest:
    ids, parts, labels = [], [], []
    for part, n in patients.items():
        for number in range(n):
            ids += [f"{part}{number}"] * per_patient
            parts += [part] * per_patient
            labels += ["ab"[number % 2]] * per_patient
    return manifest([f"{row}.png" for row in range(len(ids))], ids, labels, parts)


def test_parts_with_few_patients() -> None:
    (result,) = check_groups(split({"train": 100, "val": 10, "test": 6}))
    assert (result.code, result.severity) == ("GROUPS_TOO_FEW", "warning")
    assert "test has 6 patients (a: 3, b: 3) on 24 images" in result.title and "val has" not in result.title
    assert "intervals rest on patients" in result.title
    assert result.evidence["parts"] == {
        "val": {"patients": 10, "a": 5, "b": 5},
        "test": {"patients": 6, "a": 3, "b": 3},
    }


def test_enough_patients_or_none_known() -> None:
    assert check_groups(split({"train": 5, "val": 10, "test": 12})) == ()
    assert check_groups(split({"train": 5, "val": 2, "test": 2}, per_patient=1)) == ()
    assert check_groups(manifest(["1.png", "2.png"], None, splits=["train", "test"], source="none")) == ()


def test_real_sets_are_not_blamed_and_a_shifted_one_is(shared_data: Path, tmp_path: Path) -> None:
    for name in (
        "brain-mri-yesno",
        "brain-mri-4class",
        "lgg-mri/data_mask.csv",
        "chest-xray",
        "histopathology/train_labels.csv",
    ):
        source = read_source(shared_data / name, DataConfig())
        assert check_patients(source) == (), name
        assert "LABEL_SIMILAR" not in {note.code for note in source.notes}
    table = read_source(shared_data / "lgg-mri/data_mask.csv", DataConfig()).table
    ids = rotated(table["patient_id"].tolist(), 3)
    result = found(table["path"].tolist(), ids)
    assert result.severity == "error" and result.evidence["count"] == 48
