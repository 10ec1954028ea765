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


class Asked(Exception):
    """Stands for a verb that was called with these arguments."""

    def __init__(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        super().__init__()
        self.arguments, self.options = arguments, options


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asked]:
    """How a verb is called by a command, without doing its work."""

    def ask(verb: str, *command: object) -> Asked:
        called: list[Asked] = []

        def stop(*arguments: Any, **options: Any) -> None:
            called.append(Asked(arguments, options))
            raise KeyboardInterrupt

        monkeypatch.setattr(verb, stop)
        monkeypatch.setattr(sys, "argv", ["medgraft", *map(str, command)])
        with pytest.raises(SystemExit):
            cli.main()
        (one,) = called
        return one

    return ask


def test_options_of_training_reach_the_configuration(asked: Callable[..., Asked], folder: Path) -> None:
    train = "medgraft.workflows.train.train"
    for option, value, rule in (
        ("--sensitivity", "0.95", "sensitivity:0.95"),
        ("--specificity", "0.9", "specificity:0.9"),
        ("--cost", "5", "cost:5"),
    ):
        config = asked(train, "train", folder, option, value).options["config"]
        assert config.evaluation.operating_point == rule and not config.checks.strict
    config = asked(train, "train", folder, "--strict", "--by", "sex, site").options["config"]
    assert config.checks.strict and config.evaluation.by == ("sex", "site")


def test_folds_cross_validate(asked: Callable[..., Asked], folder: Path) -> None:
    verb = "medgraft.workflows.crossval.cross_validate_training"
    once = asked(verb, "train", folder, "--folds", 5, "--out", folder.parent / "cv")
    assert (once.options["folds"], once.options["repeats"]) == (5, 1)
    assert once.arguments == (folder,) and once.options["out"] == folder.parent / "cv"
    twice = asked(verb, "train", folder, "--folds", 4, "--repeats", 2, "--cost", 3)
    assert (twice.options["folds"], twice.options["repeats"]) == (4, 2)
    assert twice.options["config"].evaluation.operating_point == "cost:3"


def test_bundles_come_first_and_the_source_last(asked: Callable[..., Asked], folder: Path) -> None:
    verb = "medgraft.workflows.evaluate.evaluate"
    one = asked(verb, "evaluate", "run", folder, "--part", "test", "--strict")
    assert one.arguments == ([Path("run")], folder) and one.options["part"] == "test"
    assert one.options["config"].checks.strict
    several = asked(verb, "evaluate", "a", "b", "c", folder)
    assert several.arguments == ([Path("a"), Path("b"), Path("c")], folder)
    paired = asked("medgraft.workflows.paired.evaluate_paired", "evaluate", "a", "b", folder, "--paired")
    assert paired.arguments == ([Path("a"), Path("b")], folder)


def test_check_may_have_another_source(asked: Callable[..., Asked], folder: Path) -> None:
    called = asked("medgraft.workflows.check.check", "check", folder, "--against", "other", "--out", "looked")
    assert called.arguments == (folder,)
    assert (called.options["against"], called.options["out"]) == (Path("other"), Path("looked"))


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("train", "x", "--sensitivity", "0.9", "--cost", "2"), "OPTION_CONFLICT", "--sensitivity and --cost"),
        (("train", "x", "--repeats", "2"), "OPTION_MISSING", "--folds"),
        (("train", "x", "--sensitivity", "1.5"), "CONFIG_", "sensitivity:0.95"),
        (("evaluate", "x"), "ARGUMENTS_MISSING", "medgraft evaluate BUNDLE SOURCE"),
        (("evaluate", "a", "x", "--paired"), "PAIRED_COUNT", "medgraft evaluate A B SOURCE --paired"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_way_out(
    run: Run, command: tuple[str, ...], code: str, words: str
) -> None:
    ended, out, err = run(*command)
    assert ended == 2 and not out and err.startswith(f"error[{code}") and words in err


def test_spelling_variants_stand_in_the_table_of_check(run: Run, folder: Path) -> None:
    (folder / "A").mkdir()
    Image.new("L", (32, 32), 9).save(folder / "A" / "0.png")
    out_folder = folder.parent / "looked"
    code, out, err = run("check", folder, "--out", out_folder, *SHALLOW)
    assert code == 3 and not err  # found, not failed
    (line,) = [line for line in out.splitlines() if "LABEL_VARIANTS" in line and line.startswith("error")]
    assert "spelled in more than one way" in line and "'A' (1), 'a' (8)" in out and "-> correct" in out
    assert (out_folder / "check.html").is_file() and "LABEL_VARIANTS" in (out_folder / "checks.json").read_text("utf-8")
