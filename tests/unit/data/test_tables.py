"""Tables: every row of the catalogue of bad tables, columns, files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medgraft.config.schema import DataConfig
from medgraft.data.manifest import Manifest
from medgraft.data.sources import read_source
from medgraft.errors import DataError, UsageError

PLAIN = "image,label\na.png,cat\nb.png,dog\n"


def _write(folder: Path, content: str | bytes, *, name: str = "t.csv", images: str = "a.png b.png c.png") -> Path:
    for image in images.split():
        path = folder / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    table = folder / name
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    return table


def _read(path: Path, **data: object) -> Manifest:
    return read_source(path, DataConfig.model_validate(data))


def _fails(path: Path, code: str, **data: object) -> DataError:
    with pytest.raises(DataError) as caught:
        _read(path, **data)
    codes = {caught.value.code, *(problem.code for problem in caught.value.problems)}
    assert code in codes, str(caught.value)
    return caught.value


def _codes(manifest: Manifest) -> set[str]:
    return {note.code for note in manifest.notes}


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-16-be"),
        PLAIN.encode("utf-32"),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace(",", "|").encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\n\n").encode(),
        b'"image","label"\n"a.png","cat"\n"b.png","dog"',
        b"image, label\n a.png,cat\nb.png ,dog\n",
    ],
    ids=["bom", "utf16", "utf16le", "utf16be", "utf32", "semicolon", "tab", "bar", "crlf", "blank", "quoted", "spaces"],
)
def test_m1_m3_m4_accepted_forms(tmp_path: Path, content: bytes) -> None:
    manifest = _read(_write(tmp_path, content))
    assert manifest.classes == ("cat", "dog")
    assert manifest.table["path"].tolist() == ["a.png", "b.png"]
    assert manifest.table["sample_id"].tolist() == ["a.png", "b.png"]


def test_m2_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    content = "image,label\na.png,cat\ncafé.png,dog\n"
    table = _write(tmp_path, content.encode("latin-1"), images="a.png café.png")
    error = _fails(table, "CSV_ENCODING")
    assert "line 3" in str(error) and "encoding" in error.problem.fix
    assert len(_read(table, encoding="latin-1")) == 2
    with pytest.raises(UsageError, match="ENCODING_UNKNOWN"):
        _read(table, encoding="klingon")


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        ("image,label\na.png,cat\nb.png,dog,extra\n", "CSV_FIELD_COUNT", "line 3"),
        ("image,label\na.png\nb.png,dog\n", "CSV_FIELD_COUNT", "line 2"),
        ("image,label\na\0.png,cat\nb.png,dog\n", "CSV_BAD_CHAR", "line 2"),
        ('image,label\na.png,cat\n"b.png,dog\nc.png,cat\n', "CSV_QUOTE", "line 3"),
        ('image,label\na.png,cat\n"b.png,dog\nc.png,"cat"\n', "CSV_QUOTE", "line 3"),
        ('image,label\na.png,cat\n"b.png,dog\n' + "c.png,cat\n" * 20_000, "CSV_QUOTE", "line 3"),
        ("image,label,label\na.png,cat,dog\n", "CSV_DUP_COLUMN", "'label'"),
        ("image,label\n" + "a" * 200_000 + ",cat\n", "CSV_FIELD_TOO_LONG", "line 2"),
        ("", "CSV_EMPTY", "empty"),
        (" \n\n", "CSV_EMPTY", "empty"),
        ("image,label\n", "CSV_EMPTY", "no rows"),
        ("image,colour\na.png,cat\n", "COLUMN_MISSING", "found: 'image', 'colour'"),
        ("image,lable\na.png,cat\n", "COLUMN_MISSING", "did you mean 'lable'"),
        ("image,label\na.png,cat\na.png,cat\nb.png,dog\n", "DUP_ROW", "line 3"),
        ("image,label\na.png,cat\na.png,dog\n", "LABEL_CONFLICT", "'cat' in line 2"),
        ("image,label\na.png,cat\n./a.png,dog\n", "LABEL_CONFLICT", "line 3"),
        ("image,label\na.png,\nb.png,dog\n", "LABEL_MISSING", "line 2"),
        ("image,label\na.png,NaN\nb.png,dog\n", "LABEL_MISSING", "line 2"),
        ("image,label\na.png,nan \nb.png,dog\n", "LABEL_MISSING", "line 2"),
        ("image,label\n,cat\nb.png,dog\n", "IMAGE_BLANK", "line 2"),
        ("image,label,split\na.png,cat,train\nb.png,dog,later\n", "SPLIT_VALUE", "accepted"),
        ("image,label,split\na.png,cat,train\nb.png,dog,\n", "SPLIT_VALUE", "line 3"),
        ("image,label\n../a.png,cat\nb.png,dog\n", "PATH_OUTSIDE", "line 2"),
        ("image,label\n/etc/passwd,cat\nb.png,dog\n", "PATH_OUTSIDE", "line 2"),
        ("image,label\nC:\\x\\a.png,cat\nb.png,dog\n", "PATH_OUTSIDE", "another machine"),
        ("image,label\n\\\\srv\\x\\a.png,cat\nb.png,dog\n", "PATH_REMOTE", "line 2"),
        ("image,label\nhttp://x.org/a.png,cat\nb.png,dog\n", "PATH_REMOTE", "line 2"),
        ("image,label\ns3://x/a.png,cat\nb.png,dog\n", "PATH_REMOTE", "line 2"),
        ("image,label\na.png,cat\nb.png,cat\n", "ONE_CLASS", "cat"),
    ],
)
def test_m5_to_m21_refused_with_place(tmp_path: Path, content: str, code: str, text: str) -> None:
    error = _fails(_write(tmp_path, content), code)
    assert text in str(error)
    assert error.exit_code == 3


def test_m13_every_missing_file_is_listed(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(1000)]
    rows = "\n".join(f"{name},{i % 2}" for i, name in enumerate(names))
    table = _write(tmp_path, f"image,label\n{rows}\n", images=" ".join(names))
    for name in ("7.png", "70.png", "700.png"):
        (tmp_path / name).unlink()
    error = _fails(table, "FILE_MISSING")
    assert error.code == "FILE_MISSING"
    assert [problem.where for problem in error.problems] == ["t.csv line 9", "t.csv line 72", "t.csv line 702"]
    for name in names[:100]:
        (tmp_path / name).unlink(missing_ok=True)
    error = _fails(table, "FILE_MISSING")
    assert len(error.problems) == 101
    assert "and 81 more" in str(error)


def test_missing_file_with_another_case_is_pointed_out(tmp_path: Path) -> None:
    error = _fails(_write(tmp_path, PLAIN, images="A.PNG b.png"), "FILE_MISSING")
    assert "there is 'A.PNG'" in str(error)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [("10 2 1", ("1", "2", "10")), ("2.0 1.0 10.0", ("1.0", "2.0", "10.0")), ("no none yes", ("no", "none", "yes"))],
)
def test_m17_labels_stay_text_in_natural_order(tmp_path: Path, labels: str, classes: tuple[str, ...]) -> None:
    rows = "".join(f"{image},{label}\n" for image, label in zip("abc", labels.split(), strict=True))
    assert _read(_write(tmp_path, f"id,label\n{rows}")).classes == classes


def test_m18_usual_spellings_of_parts(tmp_path: Path) -> None:
    table = _write(tmp_path, "image,label,split\na.png,x,Train\nb.png,y,VALIDATION\nc.png,y,ts\n")
    assert _read(table).table["split"].tolist() == ["train", "val", "test"]


def test_a_column_called_set_is_a_part_only_when_it_says_so(tmp_path: Path) -> None:
    assert _read(_write(tmp_path, "image,label,set\na.png,x,A\nb.png,y,B\n")).table["split"].tolist() == [None, None]
    table = _write(tmp_path, "image,label,set\na.png,x,tr\nb.png,y,dev\n")
    assert _read(table).table["split"].tolist() == ["train", "val"]


@pytest.mark.parametrize(
    "header",
    ["file_name,class", "Image Index,Finding Labels", "image_id,dx", "id_code,diagnosis", "filepath,Target", "Path,y"],
)
def test_usual_column_names(tmp_path: Path, header: str) -> None:
    assert len(_read(_write(tmp_path, f"{header}\na.png,x\nb.png,y\n"))) == 2


def test_columns_named_in_the_configuration(tmp_path: Path) -> None:
    content = "label,foo,bar,who,where,id\nx,a,cat,1,train,9\nx,b,dog,2,test,8\n"
    table = _write(tmp_path, content)
    manifest = _read(table, image="foo", label="bar", patient="who", split="where")
    assert manifest.classes == ("cat", "dog")
    assert manifest.patient_source == "column who"
    assert manifest.table["split"].tolist() == ["train", "test"]
    error = _fails(table, "COLUMN_UNKNOWN", image="fooo")
    assert "'foo'" in error.problem.fix


def test_mask_column_of_zeros_and_ones_is_the_label(tmp_path: Path) -> None:
    content = "patient_id,image_path,mask_path,mask\nP1,a.png,a_m.png,0\nP2,b.png,b_m.png,1\n"
    manifest = _read(_write(tmp_path, content, images="a.png b.png a_m.png b_m.png"))
    assert manifest.classes == ("0", "1")
    assert manifest.table["mask"].tolist() == ["a_m.png", "b_m.png"]
    assert manifest.patients_known
    (tmp_path / "a_m.png").unlink()
    assert "line 2" in str(_fails(tmp_path / "t.csv", "MASK_MISSING"))


def test_masks_named_as_images_are_pointed_out(tmp_path: Path) -> None:
    content = "patient_id,image_path,mask_path,mask\nP1,a.png,a_m.png,0\nP2,b.png,b_m.png,1\n"
    table = _write(tmp_path, content, images="a.png b.png a_m.png b_m.png")
    assert "IMAGES_ARE_MASKS" not in {note.code for note in _read(table).notes}
    named = _read(table, image="mask_path", label="mask")
    note = next(note for note in named.notes if note.code == "IMAGES_ARE_MASKS")
    assert note.severity == "warning" and "'mask_path'" in note.title


def test_ids_without_ending(tmp_path: Path) -> None:
    content = "id,label\na,x\nb,y\n"
    manifest = _read(_write(tmp_path, content))
    assert manifest.table["sample_id"].tolist() == ["a", "b"]
    assert manifest.table["path"].tolist() == ["a.png", "b.png"]
    assert "several files" in str(_fails(_write(tmp_path, content, images="a.jpg"), "IMAGE_AMBIGUOUS"))


def test_ids_found_in_folders_beside_the_table(tmp_path: Path) -> None:
    content = "id,label\na,x\nb,y\n"
    table = _write(tmp_path, content, name="train_labels.csv", images="train/a.png train/b.png test/a.png")
    manifest = _read(table)
    assert manifest.table["path"].tolist() == ["train/a.png", "train/b.png"]
    assert "IMAGES_FOUND_IN" in _codes(manifest)
    assert "several places" in str(_fails(_write(tmp_path, content, name="labels.csv", images=""), "IMAGE_AMBIGUOUS"))


def test_a_missing_file_is_not_taken_from_elsewhere(tmp_path: Path) -> None:
    _fails(_write(tmp_path, PLAIN, images="a.png backup/b.png"), "FILE_MISSING")


def test_images_folder(tmp_path: Path) -> None:
    table = _write(tmp_path / "tables", "id,label,mask_file\na,x,m.png\nb,y,\n", images="m.png")
    _write(tmp_path / "pictures", "", images="a.png deep/b.png")
    (tmp_path / "pictures" / "deep" / "b.png").rename(tmp_path / "pictures" / "b.png")
    manifest = _read(table, images=tmp_path / "pictures")
    assert manifest.root == (tmp_path / "pictures").resolve()
    assert manifest.table["path"].tolist() == ["a.png", "b.png"]
    assert manifest.table["mask"].tolist() == [str((tmp_path / "tables" / "m.png").resolve()), None]
    _fails(table, "FOLDER_MISSING", images=tmp_path / "nothing")


def test_windows_separators_and_absolute_paths(tmp_path: Path) -> None:
    content = f"image,label\nx\\a.png,cat\n{tmp_path}/x/b.png,dog\n"
    assert _read(_write(tmp_path, content, images="x/a.png x/b.png")).table["path"].tolist() == ["x/a.png", "x/b.png"]
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(tmp_path)
    table = _write(tmp_path, f"image,label\nx/a.png,cat\n{link}/x/b.png,dog\n")
    assert _read(link / table.name).table["path"].tolist() == ["x/a.png", "x/b.png"]


def test_d12_outside_only_when_allowed(tmp_path: Path) -> None:
    table = _write(tmp_path / "in", "image,label\na.png,cat\n../out/b.png,dog\n", images="a.png")
    _write(tmp_path / "out", "", images="b.png")
    _fails(table, "PATH_OUTSIDE")
    manifest = _read(table, allow_outside=True)
    assert manifest.table["path"].tolist() == ["a.png", str((tmp_path / "out" / "b.png").resolve())]
    assert manifest.image_paths()[1].exists()


def test_d12_links_and_special_files(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    _write(tmp_path / "out", "", images="b.png")
    table = _write(inside, PLAIN, images="a.png")
    for target, code in (
        (tmp_path / "out" / "b.png", "PATH_OUTSIDE"),
        (Path("/dev/zero"), "PATH_OUTSIDE"),
        (inside / "nothing", "FILE_MISSING"),
        (inside / "b.png", "FILE_MISSING"),
    ):
        (inside / "b.png").symlink_to(target)
        _fails(table, code)
        (inside / "b.png").unlink()
    os.mkfifo(inside / "b.png")
    _fails(table, "FILE_SPECIAL")
    (inside / "b.png").unlink()
    (inside / "x").symlink_to(tmp_path / "out")
    _fails(_write(inside, "image,label\na.png,cat\nx/b.png,dog\n", images=""), "PATH_OUTSIDE")
    (inside / "b.png").symlink_to(inside / "a.png")
    assert len(_read(_write(inside, PLAIN, images=""))) == 2


def test_the_table_must_be_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    _fails(tmp_path / "t.csv", "SOURCE_UNREADABLE")
    _fails(tmp_path / "none.csv", "SOURCE_MISSING")
    (tmp_path / "x.pdf").touch()
    _fails(tmp_path / "x.pdf", "SOURCE_UNKNOWN")


def test_names_with_newlines_and_emoji(tmp_path: Path) -> None:
    names = ["a\nb.png", "🧠.png"]
    for name in names:
        (tmp_path / name).touch()
    manifest = _read(_write(tmp_path, 'image,label\n"a\nb.png",x\n🧠.png,y\n', images=""))
    assert manifest.table["path"].tolist() == names
    assert manifest.table["sample_id"].tolist() == [r"a\u000ab.png", "🧠.png"]


@pytest.mark.parametrize("other", ["Cat", "cat ", "\u0441\u0430t", "CAT"], ids=["case", "blank", "cyrillic", "upper"])
def test_d10_label_variants_are_listed_not_merged(tmp_path: Path, other: str) -> None:
    error = _fails(_write(tmp_path, f"image,label\na.png,cat\nb.png,{other}\nc.png,cat\n"), "LABEL_VARIANTS")
    assert "(2)" in str(error) and "(1)" in str(error)


def test_d10_separators_and_numbers(tmp_path: Path) -> None:
    _fails(_write(tmp_path, "image,label\na.png,no tumor\nb.png,no_tumor\n"), "LABEL_VARIANTS")
    _fails(_write(tmp_path, "image,label\na.png,1\nb.png,1.0\n"), "LABEL_VARIANTS")
    assert len(_read(_write(tmp_path, "image,label\na.png,HER2+\nb.png,HER2-\n")).classes) == 2
    assert len(_read(_write(tmp_path, "image,label\na.png,1-2\nb.png,12\n")).classes) == 2
    table = _write(tmp_path, "image,label\na.png,cat\nb.png,Cat\n")
    assert _read(table, classes=("Cat", "cat")).classes == ("Cat", "cat")


def test_declared_classes(tmp_path: Path) -> None:
    table = _write(tmp_path, PLAIN)
    manifest = read_source(table, DataConfig(), classes=("dog", "bird", "cat"))
    assert manifest.classes == ("dog", "bird", "cat")
    assert manifest.class_indices().tolist() == [2, 0]
    with pytest.raises(DataError, match="LABEL_UNKNOWN") as caught:
        read_source(table, DataConfig(), classes=("dogs", "cat"))
    assert "'dog'" in str(caught.value) and "'dogs', 'cat'" in str(caught.value)


def test_optional_labels(tmp_path: Path) -> None:
    manifest = read_source(_write(tmp_path, "image\na.png\nb.png\n"), DataConfig(), labels="optional")
    assert manifest.table["label"].tolist() == [None, None]
    table = _write(tmp_path, "image,label\na.png,cat\nb.png,\n")
    assert read_source(table, DataConfig(), labels="optional").table["label"].tolist() == ["cat", None]


def test_shared_tables_need_no_option(shared_data: Path) -> None:
    lgg = read_source(shared_data / "lgg-mri" / "data_mask.csv", DataConfig())
    assert (len(lgg), lgg.classes, lgg.patient_source) == (519, ("0", "1"), "column patient_id")
    assert sum(counts["unsplit"] for counts in lgg.counts().values()) == 519
    assert lgg.counts()["1"]["unsplit"] == 174
    assert all(path.exists() for path in lgg.image_paths()[:5])
    assert lgg.table["mask"].notna().all()
    patches = read_source(shared_data / "histopathology" / "train_labels.csv", DataConfig())
    assert (len(patches), patches.patient_source) == (3600, "none")
    assert "PATIENTS_UNKNOWN" in _codes(patches)
    assert patches.image_paths()[0].is_file()
