"""The command line: JSON out, every failure in one form, exit codes."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medgraft import cli
from medgraft.cli import display
from medgraft.workflows import check as check_verb

Run = Callable[..., tuple[int, str, str]]
SHALLOW = ("--set", "checks.deep=false")


@pytest.fixture(autouse=True)
def fresh_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display.DISPLAY, "debug", False)
    monkeypatch.setattr(display.DISPLAY, "as_json", False)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        monkeypatch.setattr(sys, "argv", ["medgraft", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(8):
            image = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
            image.save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path / "data"


def test_check_prints_json_when_asked(run: Run, folder: Path) -> None:
    code, out, err = run("check", folder, "--json", *SHALLOW)
    assert (code, err) == (0, "")
    assert "SPLIT_MADE" in {result["code"] for result in json.loads(out)}


def test_check_lists_bad_files_with_code_and_path(run: Run, folder: Path) -> None:
    (folder / "b" / "bad.png").write_bytes(b"")
    code, out, _ = run("check", folder, *SHALLOW)
    assert code == 3
    assert "[IMG_EMPTY] has 0 bytes; b/bad.png" in out


def test_many_bad_files_are_cut_with_their_number(run: Run, folder: Path) -> None:
    for index in range(25):
        (folder / "b" / f"bad{index}.png").write_bytes(b"")
    code, out, _ = run("check", folder, *SHALLOW)
    assert (code, out.count("IMG_EMPTY")) == (3, 20)
    assert "and 5 more" in out


def test_weights_list_prints_json_when_asked(run: Run) -> None:
    code, out, _ = run("weights", "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and rows["xception"]["keras"] == ["Xception"]


def test_errors_have_one_form_and_the_same_fields_in_json(run: Run, tmp_path: Path) -> None:
    code, out, err = run("check", tmp_path / "nothing", "--json")
    assert code == 3 and err.startswith("error[SOURCE_MISSING]")
    assert set(json.loads(out)["error"]) == {"code", "what", "where", "fix"}


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), 6, "error[SYSTEM]"),
        (MemoryError(), 6, "error[OUT_OF_MEMORY]"),
        (ZeroDivisionError("division by zero"), 1, "error[INTERNAL]"),
    ],
)
def test_nothing_ends_in_a_traceback_without_debug(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, words: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(check_verb, "check", fail)
    quiet = run("check", folder)
    assert quiet[0] == code and words in quiet[2] and "Traceback" not in quiet[2]
    loud = run("check", folder, "--debug")
    assert loud[0] == code and "Traceback" in loud[2]


def test_ctrl_c_exits_as_stopped(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check_verb, "check", stop)
    code, _, err = run("check", folder)
    assert code == 143 and "error[STOPPED]" in err
