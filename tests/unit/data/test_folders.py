"""Folders as sources: layouts, junk, hostile content."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from medgraft.config.schema import DataConfig
from medgraft.data.manifest import Manifest
from medgraft.data.sources import find_images, read_source
from medgraft.errors import DataError
from medgraft.types import CheckResult


def _make(root: Path, *files: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.touch()
    return root


def _read(root: Path, **data: object) -> Manifest:
    return read_source(root, DataConfig.model_validate(data))


def _note(manifest: Manifest, code: str) -> CheckResult:
    return next(note for note in manifest.notes if note.code == code)


def _fails(root: Path, code: str, **data: object) -> DataError:
    with pytest.raises(DataError) as caught:
        _read(root, **data)
    assert caught.value.code == code, str(caught.value)
    return caught.value


def test_class_folders_in_natural_order(tmp_path: Path) -> None:
    manifest = _read(_make(tmp_path, "c10/1.png", "c2/10.png", "c2/9.jpg", "c2/deep/er/8.PNG"))
    assert manifest.classes == ("c2", "c10")
    assert manifest.table["path"].tolist() == ["c2/9.jpg", "c2/10.png", "c2/deep/er/8.PNG", "c10/1.png"]
    assert manifest.table["label"].tolist() == ["c2", "c2", "c2", "c10"]
    assert manifest.table["split"].isna().all()


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("Training", "Testing"), ("train", "test")),
        (("TR", "Valid", "ts"), ("train", "val", "test")),
        (("training_set", "validate"), ("train", "val")),
        (("Train", "dev"), ("train", "val")),
        (("train",), ("train",)),
        (("seg_train", "seg_test"), ("train", "test")),
        (("images (train)", "images (valid)", "images (test)"), ("train", "val", "test")),
    ],
)
def test_part_folders(tmp_path: Path, folders: tuple[str, ...], parts: tuple[str, ...]) -> None:
    for folder in folders:
        _make(tmp_path / folder, "a/1.png", "b/2.png")
    manifest = _read(tmp_path)
    assert manifest.classes == ("a", "b")
    assert tuple(manifest.table["split"].drop_duplicates()) == parts
    assert _read(tmp_path / folders[0]).table["split"].isna().all()


@pytest.mark.parametrize(
    "folders", [("test_positive", "test_negative"), ("pre_test", "control"), ("train_a", "train_b", "test_a")]
)
def test_classes_whose_names_speak_of_parts(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for folder in folders:
        _make(tmp_path / folder, "patient1/1.png", "patient2/2.png")
    manifest = _read(tmp_path)
    assert set(manifest.classes) == set(folders)
    assert manifest.table["split"].isna().all()


def test_a_folder_that_only_wraps_the_parts(tmp_path: Path) -> None:
    _make(tmp_path, "x/train/a/1.png", "x/train/b/1.png", "x/test/a/2.png", "readme.md", "stray.png")
    manifest = _read(tmp_path)
    assert manifest.counts()["a"] == {"train": 1, "val": 0, "test": 1}
    assert _note(manifest, "STRAY_FILES").evidence["examples"] == ["stray.png"]


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    assert _read(_make(tmp_path, "control/1.png", "test/1.png")).classes == ("control", "test")


def test_part_without_class_folders_is_reported(tmp_path: Path) -> None:
    manifest = _read(_make(tmp_path, "train/a/1.png", "train/b/1.png", "test/1.png", "test/2.png"))
    assert len(manifest) == 2
    assert _note(manifest, "PART_WITHOUT_CLASSES").evidence == {"path": "test", "n": 2}
    whole = read_source(tmp_path, DataConfig(), labels="optional")
    assert whole.table["label"].tolist() == ["a", "b", None, None]


@pytest.mark.parametrize(
    ("files", "code"),
    [
        (("train/a/1.png", "train/b/1.png", "chest/a/1.png"), "FOLDER_LAYOUT"),
        (("val/a/1.png", "valid/a/1.png", "train/a/1.png"), "FOLDER_LAYOUT"),
        (("no/1.png", "yes/1.png", "copy/no/1.png", "copy/yes/1.png"), "FOLDER_LAYOUT"),
        (("TCGA_CS_5395_19981004/1.png", "TCGA_HT_7473_19970826/1.png"), "FOLDERS_ARE_PATIENTS"),
        (("1.png", "2.png"), "NO_CLASSES"),
        (("a/1.txt", "b/2.csv"), "NO_IMAGES"),
        (("a/1.png",), "ONE_CLASS"),
        (("train/Cat/1.png", "train/dog/1.png", "test/cat/1.png"), "LABEL_VARIANTS"),
    ],
)
def test_layouts_that_are_refused(tmp_path: Path, files: tuple[str, ...], code: str) -> None:
    _fails(_make(tmp_path, *files), code)


def test_errors_say_what_was_found(tmp_path: Path) -> None:
    assert "1 x txt" in str(_fails(_make(tmp_path / "x", "a/1.txt"), "NO_IMAGES"))
    assert "labels.csv" in _fails(_make(tmp_path / "y", "images/1.png", "labels.csv"), "ONE_CLASS").problem.fix
    assert "'b', 'c'" in _fails(_make(tmp_path / "z", "a/b/1.png", "a/c/1.png"), "ONE_CLASS").problem.fix
    (tmp_path / "w").mkdir()
    assert "no file" in str(_fails(tmp_path / "w", "NO_IMAGES"))


def test_m20_junk_empty_and_stray(tmp_path: Path) -> None:
    _make(tmp_path, "a/1.png", "b/1.png", "c/", "a/.DS_Store", "b/Thumbs.db", "__MACOSX/a/._1.png", "desktop.ini")
    _make(tmp_path, "stray.png", "a/notes.txt", "a/._1.png")
    manifest = _read(tmp_path)
    assert manifest.classes == ("a", "b")
    assert len(manifest) == 2
    assert sum(_note(manifest, "JUNK_IGNORED").evidence["names"].values()) == 5
    assert _note(manifest, "CLASS_EMPTY").evidence["examples"] == ["c"]
    assert _note(manifest, "STRAY_FILES").evidence["count"] == 1
    assert _note(manifest, "FILES_IGNORED").evidence["endings"] == {"txt": 1}


def test_m21_empty_validation_part_is_reported(tmp_path: Path) -> None:
    manifest = _read(_make(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/", "val/b/"))
    assert _note(manifest, "CLASS_EMPTY").evidence["examples"] == ["val/a", "val/b"]


def test_masks_beside_images(tmp_path: Path) -> None:
    manifest = _read(_make(tmp_path, "a/1.tif", "a/1_mask.tif", "b/2.tif", "b/3_mask.tif", "b/4_seg.tif"))
    assert manifest.table["path"].tolist() == ["a/1.tif", "b/2.tif", "b/4_seg.tif"]
    assert manifest.table["mask"].tolist() == ["a/1_mask.tif", None, None]
    assert _note(manifest, "MASKS_ORPHANED").evidence["examples"] == ["b/3_mask.tif"]


def test_files_without_ending_are_known_by_their_magic(tmp_path: Path) -> None:
    _make(tmp_path, "a/1.png", "b/2.png", "b/README")
    (tmp_path / "a" / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "b" / "1.2.840.113619").write_bytes(b"\xff\xd8\xff\xe0")
    manifest = _read(tmp_path)
    assert manifest.table["path"].tolist() == ["a/1.png", "a/IM0001", "b/1.2.840.113619", "b/2.png"]
    assert _note(manifest, "FILES_IGNORED").evidence["endings"] == {"no ending": 1}


def test_d12_links_out_are_refused_unless_allowed(tmp_path: Path) -> None:
    root = _make(tmp_path / "in", "a/1.png", "b/1.png")
    _make(tmp_path / "out", "2.png")
    (root / "a" / "2.png").symlink_to(tmp_path / "out" / "2.png")
    (root / "b" / "more").symlink_to(tmp_path / "out")
    assert "a/2.png" in str(_fails(root, "PATH_OUTSIDE"))
    assert len(_read(root, allow_outside=True)) == 4
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert len(_read(tmp_path / "link", allow_outside=True)) == 4


def test_d12_loops_pipes_sockets_and_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _make(tmp_path, "a/1.png", "b/1.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "b" / "self.png").symlink_to(root / "b" / "self.png")
    (root / "b" / "gone.png").symlink_to(root / "nothing")
    (root / "b" / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(root / "a" / "pipe.png")
    os.mkfifo(root / "a" / "pipe")
    monkeypatch.chdir(root)  # the path of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("b/s.png")
    manifest = _read(root)
    assert manifest.table["path"].tolist() == ["a/1.png", "b/1.png"]
    assert _note(manifest, "FILES_SPECIAL").evidence["count"] == 4
    assert _note(manifest, "LINKS_BROKEN").evidence["count"] == 2
    assert _note(manifest, "LINKS_REPEATED").evidence["count"] == 1


def test_d12_hostile_names_round_trip(tmp_path: Path) -> None:
    names = [
        b"\xff\xfe.png",
        b"new\nline.png",
        b"x" * 251 + b".png",
        "🧠.png".encode(),
        b"A.png",
        b"a.png",
        b"=1+1.png",
    ]
    for label in (b"a", b"b\xff"):
        folder = os.fsencode(tmp_path) + b"/" + label
        os.mkdir(folder)
        for name in names:
            with open(folder + b"/" + name, "wb"):
                pass
    manifest = _read(tmp_path)
    assert len(manifest) == 14
    assert {os.fsencode(path) for path in manifest.image_paths()} == {
        os.fsencode(tmp_path) + b"/" + label + b"/" + name for label in (b"a", b"b\xff") for name in names
    }
    assert all(path.exists() for path in manifest.image_paths())
    json.dumps(manifest.table["sample_id"].tolist(), ensure_ascii=False).encode("utf-8")
    json.dumps([note.as_dict() for note in manifest.notes], ensure_ascii=False).encode("utf-8")
    manifest.write_csv(tmp_path / "manifest.csv")
    back = Manifest.read_csv(tmp_path / "manifest.csv", root=tmp_path)
    assert back.table.to_dict("list") == manifest.table.to_dict("list")
    assert back.image_paths() == manifest.image_paths()


def test_options_for_tables_are_said_to_be_unused(tmp_path: Path) -> None:
    manifest = _read(_make(tmp_path, "a/1.png", "b/1.png"), patient="who")
    assert _note(manifest, "OPTIONS_UNUSED").evidence == {"options": ["data.patient"]}


def test_find_images(tmp_path: Path) -> None:
    _make(tmp_path, "x/10.png", "x/9.png", "x/sub/1.jpg", "x/9_mask.png", "x/notes.txt", "empty/")
    given = [tmp_path / "missing.png", tmp_path / "x", tmp_path / "x" / "notes.txt"]
    found = find_images(given)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "missing.png",
        "x/9.png",
        "x/10.png",
        "x/sub/1.jpg",
        "x/notes.txt",
    ]
    with pytest.raises(DataError, match="NO_IMAGES"):
        find_images([tmp_path / "empty"])


def test_shared_folders(shared_data: Path) -> None:
    chest = _read(shared_data / "chest-xray")
    assert chest.counts()["PNEUMONIA"] == {"train": 3875, "val": 8, "test": 0}
    assert chest.patient_source == "preset chest-xray"
    brain = _read(shared_data / "brain-mri-4class")
    assert (len(brain), len(brain.classes), brain.patient_source) == (1200, 4, "none")
    assert "data_mask.csv" in _fails(shared_data / "lgg-mri", "FOLDERS_ARE_PATIENTS").problem.fix
    assert "train_labels.csv" in _fails(shared_data / "histopathology", "ONE_CLASS").problem.fix
