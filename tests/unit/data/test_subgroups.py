"""Columns that make subgroups: found, kept with the rows they belong to, or refused with a way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from medgraft.config.schema import DataConfig
from medgraft.data.manifest import Manifest
from medgraft.data.sources import read_source
from medgraft.data.subgroups import group_values, numbers
from medgraft.errors import DataError

TABLE = """image,label,PatientID,Sex,site code,age,size
a.png,cat,p1,F,north,52,big
b.png,dog,p1, M ,=2+3,,big
c.png,cat,p2,,north,61.5,small
d.png,dog,p3,F,NA,70,small
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name in "abcd":
        (tmp_path / f"{name}.png").touch()
    path = tmp_path / "images.csv"
    path.write_text(TABLE, encoding="utf-8")
    return path


def read(path: Path, *keep: str, **data: object) -> Manifest:
    return read_source(path, DataConfig.model_validate(data), keep=keep)


def refused(path: Path, *keep: str) -> DataError:
    with pytest.raises(DataError) as caught:
        read(path, *keep)
    return caught.value


def test_columns_are_kept_under_the_names_asked_for(table: Path) -> None:
    manifest = read(table, "sex", "site_code", "age")
    assert manifest.attributes.to_dict("list") == {
        "sex": ["F", "M", None, "F"],
        "site_code": ["north", "=2+3", "north", None],
        "age": ["52", None, "61.5", "70"],
    }
    note = next(note for note in manifest.notes if note.code == "COLUMNS_READ")
    assert "subgroups = Sex, site code, age" in note.title and note.evidence["not_read"] == ["size"]


def test_nothing_is_kept_unasked(table: Path) -> None:
    manifest = read(table)
    assert manifest.attributes.shape == (4, 0) and manifest.take([1]).attributes.shape == (1, 0)
    assert "Sex" in manifest.notes[0].evidence["not_read"]


def test_attributes_stay_with_their_rows(table: Path) -> None:
    manifest = read(table, "sex").with_splits(["train", "test", "test", "train"])
    assert list(manifest.part("test").attributes["sex"]) == ["M", None]
    assert list(manifest.take([3, 0]).attributes["sex"]) == ["F", "F"]
    assert manifest.take([]).attributes.shape == (0, 1)
    with pytest.raises(ValueError, match="2 rows of attributes for 4 samples"):
        Manifest(manifest.root, manifest.table, manifest.classes, "none", (), manifest.attributes.iloc[:2])


def test_values_of_columns_and_of_what_every_source_has(table: Path) -> None:
    manifest = read(table, "sex", "split").with_splits(["train", "test", "test", None])
    assert group_values(manifest, ("sex", "split", "sex")) == {
        "sex": ("F", "M", None, "F"),
        "split": ("train", "test", "test", None),
    }
    assert group_values(read(table, "size"), ("size",))["size"] == ("big", "big", "small", "small"), "column first"
    with pytest.raises(ValueError, match="read without 'age'"):
        group_values(manifest, ("age",))


def test_sizes_are_told_as_height_and_width(tmp_path: Path) -> None:
    manifest = folder_source(tmp_path, "size")
    assert group_values(manifest, ("size",), sizes=[(64, 48), (32, 32)]) == {"size": ("64 x 48", "32 x 32")}
    with pytest.raises(ValueError, match="0 sizes for 2 samples"):
        group_values(manifest, ("size",))


def folder_source(folder: Path, *keep: str) -> Manifest:
    for name in ("cat", "dog"):
        (folder / "images" / name).mkdir(parents=True)
        (folder / "images" / name / f"{name}.png").touch()
    return read(folder / "images", *keep)


def test_a_column_that_is_not_there_is_named_with_those_that_are(table: Path) -> None:
    error = refused(table, "sexe")
    assert error.code == "BY_UNKNOWN" and error.problem.where == str(table)
    assert "no column 'sexe'; the columns are 'image', 'label', 'PatientID', 'Sex'" in error.problem.what
    assert "every source has split, size" in error.problem.what
    assert refused(table, "agee").problem.fix.startswith("did you mean 'age'")
    assert refused(table, "weather").problem.fix == "name one of the columns"


def test_every_wrong_name_is_listed(table: Path) -> None:
    error = refused(table, "agee", "sex", "label", "image", "patient id")
    assert [problem.code for problem in error.problems] == ["BY_UNKNOWN", *["BY_USELESS"] * 3]
    assert "'label' is the label itself: every group would hold one class" in error.problems[1].what
    assert "every group would hold one image" in error.problems[2].what
    assert "'patient id' names the patients" in error.problems[3].what


def test_a_folder_has_no_columns_and_says_how_to_get_some(tmp_path: Path) -> None:
    assert folder_source(tmp_path, "split", "size").attributes.shape == (2, 0)
    error = refused(tmp_path / "images", "sex")
    assert error.code == "BY_UNKNOWN" and "a folder of images has no column 'sex'" in error.problem.what
    assert error.problem.fix == "give a table with a column 'sex' as the source"
    assert refused(tmp_path / "images", "splits").problem.fix == "did you mean 'split'?"
    for name in ("label", "patient_id"):
        assert refused(tmp_path / "images", name).code == "BY_USELESS"


def test_more_groups_than_numbers_can_be_told_of_are_refused(tmp_path: Path) -> None:
    n = 60
    for number in range(n):
        (tmp_path / f"{number}.png").touch()
    rows = [f"{number}.png,{'cat' if number % 2 else 'dog'},d{number}{number % 3},{number / 7}" for number in range(n)]
    path = tmp_path / "t.csv"
    path.write_text("image,label,device,age\n" + "\n".join(rows), encoding="utf-8")
    manifest = read(path, "device", "age", "size")
    assert len(set(group_values(manifest, ("age",))["age"])) == n, "numbers are cut into ranges later"
    with pytest.raises(DataError) as caught:
        group_values(manifest, ("device", "size"), sizes=[(20 + number % 21, 30) for number in range(n)])
    texts = [problem.what for problem in caught.value.problems]
    assert "'device' has 60 values; at most 50" in texts[0] and "'size' has 21 values; at most 20" in texts[1]
    with pytest.raises(DataError) as caught:
        group_values(manifest, ("device",))
    assert caught.value.code == "BY_TOO_MANY" and "fewer values" in caught.value.problem.fix


def test_numbers_are_finite_or_texts() -> None:
    assert numbers(["1", None, "-2.5e1"]) == [1.0, None, -25.0]
    assert numbers(["1", "1e999"]) is None and numbers(["1", "x"]) is None and numbers([]) == []
