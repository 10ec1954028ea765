"""Where runs go, what is refused, and files that are whole or not there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from medgraft.errors import ResourceError, UsageError
from medgraft.workflows.run_folder import (
    choose_run_folder,
    create_folder,
    environment,
    now,
    write_json,
    write_rows,
    write_text,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def code_of(source: Path, out: Path) -> str:
    with pytest.raises(UsageError) as caught:
        choose_run_folder(source, out)
    assert caught.value.problem.where == str(out.absolute())
    return caught.value.code


def test_a_new_folder_is_chosen_first_and_made_later_with_its_parents(source: Path, tmp_path: Path) -> None:
    folder = choose_run_folder(source, tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b" and not (tmp_path / "a").exists()
    create_folder(folder)
    assert folder.is_dir()
    create_folder(folder)
    assert choose_run_folder(source, folder) == folder  # an empty one is taken


def test_a_folder_that_cannot_be_made_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as caught:
        create_folder(tmp_path / "file" / "deeper")
    assert caught.value.code == "RUN_FOLDER_INVALID"
    assert caught.value.problem.where == str(tmp_path / "file" / "deeper") and "--out" in caught.value.problem.fix


def test_the_default_is_named_after_date_and_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "my scans (2).csv"
    table.touch()
    folder = choose_run_folder(table, None)
    assert folder.parent == tmp_path / "runs" and not folder.parent.exists()
    date, time, name = folder.name.split("-", 2)
    assert len(date) == 8 and len(time) == 6 and name == "my-scans-2-"


def test_a_folder_with_files_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    assert code_of(source, tmp_path / "out") == "RUN_FOLDER_IN_USE"


def test_a_file_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    assert code_of(source, tmp_path / "out") == "RUN_FOLDER_INVALID"
    assert code_of(source, tmp_path / "out" / "deep" / "er") == "RUN_FOLDER_INVALID"


def test_a_folder_that_may_not_be_written_to_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medgraft.workflows.run_folder.os.access", lambda path, mode: path != tmp_path)
    assert code_of(source, tmp_path / "deep" / "er") == "RUN_FOLDER_INVALID"


def test_inside_the_images_is_refused(source: Path, tmp_path: Path) -> None:
    assert code_of(source, source / "run") == code_of(source, source) == "RUN_FOLDER_INVALID"
    (tmp_path / "link").symlink_to(source)
    assert code_of(source, tmp_path / "link" / "run") == "RUN_FOLDER_INVALID"
    assert not list(source.iterdir())


def test_beside_a_table_is_fine(tmp_path: Path) -> None:
    (tmp_path / "table.csv").touch()
    assert choose_run_folder(tmp_path / "table.csv", tmp_path / "run") == tmp_path / "run"


def test_json_is_whole_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"class": "gliöm", "n": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"class": "gliöm", "n": 1}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"n": math.nan})
    assert json.loads(path.read_text(encoding="utf-8"))["n"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_says_where_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for write in (lambda path: write_text(path, "text"), lambda path: write_rows(path, ["a"], [(1,)])):
        with pytest.raises(ResourceError) as caught:
            write(tmp_path / "taken")  # a folder cannot be replaced by a file
        assert caught.value.code == "WRITE_FAILED" and caught.value.problem.where == str(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_writing_makes_the_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "er" / "a.txt", "text")
    assert (tmp_path / "deep" / "er" / "a.txt").read_text(encoding="utf-8") == "text"


def test_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "m.csv", ["phase", "loss"], [("head", 0.5), ("a,b", None)])
    assert (tmp_path / "m.csv").read_text(encoding="utf-8").splitlines() == ["phase,loss", "head,0.5", '"a,b",']


def test_environment_names_versions_and_nobody() -> None:
    found = environment()
    assert {"python", "system", "torch", "medgraft"} <= set(found)
    assert str(Path.home()) not in str(found)
    assert now().endswith("+00:00")
