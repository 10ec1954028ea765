"""Where runs go, what is refused, and files that are whole or not there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from medgraft.errors import ResourceError, UsageError
from medgraft.workflows.run_folder import environment, make_run_folder, now, write_json, write_rows, write_text


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def code_of(source: Path, out: Path) -> str:
    with pytest.raises(UsageError) as caught:
        make_run_folder(source, out)
    assert caught.value.problem.where == str(out.absolute())
    return caught.value.code


def test_a_new_folder_is_made_with_its_parents(source: Path, tmp_path: Path) -> None:
    folder = make_run_folder(source, tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b" and folder.is_dir()
    assert make_run_folder(source, folder) == folder  # an empty one is taken


def test_the_default_is_named_after_date_and_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "my scans (2).csv"
    table.touch()
    folder = make_run_folder(table, None)
    assert folder.parent == tmp_path / "runs" and folder.is_dir()
    date, time, name = folder.name.split("-", 2)
    assert len(date) == 8 and len(time) == 6 and name == "my-scans-2-"


def test_a_folder_with_files_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    assert code_of(source, tmp_path / "out") == "RUN_FOLDER_IN_USE"


def test_a_file_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    assert code_of(source, tmp_path / "out") == "RUN_FOLDER_INVALID"
    assert code_of(source, tmp_path / "out" / "deeper") == "RUN_FOLDER_INVALID"


def test_inside_the_images_is_refused(source: Path, tmp_path: Path) -> None:
    assert code_of(source, source / "run") == code_of(source, source) == "RUN_FOLDER_INVALID"
    (tmp_path / "link").symlink_to(source)
    assert code_of(source, tmp_path / "link" / "run") == "RUN_FOLDER_INVALID"
    assert not list(source.iterdir())


def test_beside_a_table_is_fine(tmp_path: Path) -> None:
    (tmp_path / "table.csv").touch()
    assert make_run_folder(tmp_path / "table.csv", tmp_path / "run").is_dir()


def test_json_is_whole_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"class": "gliöm", "n": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"class": "gliöm", "n": 1}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"n": math.nan})
    assert json.loads(path.read_text(encoding="utf-8"))["n"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_says_where(tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as caught:
        write_text(tmp_path / "missing" / "a.txt", "text")
    assert caught.value.code == "WRITE_FAILED" and "missing" in caught.value.problem.where


def test_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "m.csv", ["phase", "loss"], [("head", 0.5), ("a,b", None)])
    assert (tmp_path / "m.csv").read_text(encoding="utf-8").splitlines() == ["phase,loss", "head,0.5", '"a,b",']


def test_environment_names_versions_and_nobody() -> None:
    found = environment()
    assert {"python", "system", "torch", "medgraft"} <= set(found)
    assert str(Path.home()) not in str(found)
    assert now().endswith("+00:00")
