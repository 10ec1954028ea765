"""The command line: exit codes, one form of error, JSON, and the main job from one command to the next."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from medgraft import __version__, cli
from medgraft.cli import display
from medgraft.data.phantom import write_phantoms
from medgraft.inference.bundle import open_bundle
from tables import read_table, spoil_rows

if TYPE_CHECKING:
    from conftest import TrainedRun

SHALLOW = ("--set", "checks.deep=false")
TINY = (
    "--weights", "none", "--backbone", "test_resnet", "--set", "model.size=64", "--set", "training.threads=1", *SHALLOW,
)  # fmt: skip
ONE_EPOCH = ("--set", 'training.phases=[{name="only", trains="all", epochs=1}]', "--set", "evaluation.bootstrap=100")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def medgraft(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process: starting one costs seconds."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(display.DISPLAY, "debug", False)
        monkeypatch.setattr(display.DISPLAY, "as_json", False)
        monkeypatch.setattr(sys, "argv", ["medgraft", *map(str, arguments)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code or 0
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_phantoms(tmp_path / "phantoms", patients=20, slices=3, size=64)


def test_help_names_every_verb_and_the_limits_of_use(medgraft: Run) -> None:
    done = medgraft("--help")
    assert done.code == 0 and "Research use only" in done.out
    for verb in ("train", "evaluate", "predict", "check", "demo", "weights"):
        assert verb in done.out
    assert medgraft("train", "--help").code == 0


def test_version(medgraft: Run) -> None:
    done = medgraft("--version")
    assert (done.code, done.out, done.err) == (0, f"medgraft {__version__}\n", "")


def test_a_part_that_the_source_does_not_declare(medgraft: Run, trained: TrainedRun, tmp_path: Path) -> None:
    done = medgraft("evaluate", trained.bundle, trained.table, "--part", "val", "--out", tmp_path / "ev")
    assert done.code == 3 and done.err.startswith("error[PART_EMPTY]: ") and not (tmp_path / "ev").exists()


def test_train_evaluate_predict_check(medgraft: Run, table: Path, tmp_path: Path) -> None:
    checked = medgraft("check", table, "--out", tmp_path / "checked", *SHALLOW)
    assert checked.code == 0 and "no_tumor: " in checked.out and "SIZE_TEST_CLASS" in checked.out
    assert f"page    {tmp_path / 'checked' / 'check.html'}" in checked.out
    trained = medgraft("train", table, "--out", tmp_path / "run", "--seed", 7, *TINY, *ONE_EPOCH)
    assert trained.code == 0 and not trained.err
    assert "plan: training.phases" in trained.out and "  auroc" in trained.out
    assert str(tmp_path / "run" / "report.html") in trained.out and "Research use only" in trained.out
    run = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert run["seed"] == 7 and run["backbone"].startswith("test_resnet")
    fast = ("--set", "evaluation.bootstrap=100", *SHALLOW)
    evaluated = medgraft("evaluate", tmp_path / "run", table, "--out", tmp_path / "ev", "--json", *fast)
    assert evaluated.code == 0 and not evaluated.err
    assert evaluated.json["subsets"]["all"]["n_images"] == 60 and evaluated.json["folder"] == str(tmp_path / "ev")
    seen = run["images"]["train"] + run["images"]["val"]
    assert evaluated.json["leaks"]["exact"] == seen and evaluated.json["n_images"] == 60 - seen
    told = medgraft("evaluate", tmp_path / "run", table, "--out", tmp_path / "ev2", *fast)
    assert told.code == 0 and f"evaluated: {60 - seen} images that training has not seen, " in told.out
    assert f"{seen} are pixel-identical to the images the model was trained on" in told.out
    assert "on all 60 images accuracy reads" in told.out and "in part memory" in told.out
    refused = medgraft("evaluate", tmp_path / "run", table, "--out", tmp_path / "ev3", "--strict", *fast)
    assert refused.code == 3 and refused.err.startswith("error[LEAK_REFUSED]: ") and not (tmp_path / "ev3").exists()
    predicted = medgraft("predict", tmp_path / "run", table.parent / "images", "--out", tmp_path / "p.csv")
    assert predicted.code == 0 and "60 rows, 0 of them unscored" in predicted.out
    assert len(read_table(tmp_path / "p.csv")) == 60


def test_predict_prints_one_line_per_image_or_json(medgraft: Run, trained: TrainedRun, tmp_path: Path) -> None:
    images = [trained.table.parent / "images" / f"s0p000_{number}.png" for number in range(2)]
    inputs = [images[1], tmp_path / "missing.png", images[0]]
    lines = medgraft("predict", trained.bundle, *inputs)
    assert lines.code == 0
    rows = [line.split("\t") for line in lines.out.splitlines() if "\t" in line]
    assert [row[0] for row in rows] == [str(path) for path in inputs]
    assert rows[0][1] in ("tumor", "no_tumor") and rows[1][1].startswith("[")
    content = medgraft("predict", trained.bundle, *inputs, "--json").json
    assert [row["status"] for row in content["rows"]] == ["ok", "unscored", "ok"]
    assert content["classes"] == ["no_tumor", "tumor"]
    assert content["bundle_id"] == open_bundle(trained.bundle).id


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["train", "missing-folder"], 3, "SOURCE_MISSING"),
        (["check", "missing.csv"], 3, "SOURCE_MISSING"),
        (["evaluate", "missing-bundle", "missing-folder"], 4, "BUNDLE_"),
        (["predict", "missing-bundle", "image.png"], 4, "BUNDLE_"),
        (["weights", "verify", "no-such-backbone"], 2, "MODEL_UNKNOWN"),
        (["train", "missing-folder", "--set", "model.size=1"], 2, "CONFIG_"),
        (["train", "missing-folder", "--config", "missing.toml"], 2, "CONFIG_"),
    ],
)
def test_errors_have_one_form_and_an_exit_code(
    medgraft: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = medgraft(*arguments)
    assert done.code == code and done.out == ""
    assert done.err.startswith(f"error[{name}") and "]: " in done.err.splitlines()[0]
    assert "Traceback" not in done.err
    assert not list(tmp_path.iterdir())
    if name == "SOURCE_MISSING":
        shown = medgraft(*arguments, "--debug")
        assert "Traceback" in shown.err and shown.code == code


def test_unknown_arguments_are_usage_errors(medgraft: Run) -> None:
    for arguments in (["trian"], ["train"], ["train", "a", "--no-such-option"], ["train", "a", "--device", "tpu"]):
        done = medgraft(*arguments)
        assert done.code == 2 and done.err and "Traceback" not in done.err


def test_an_unknown_setting_shows_the_near_one_and_all_faults_come_at_once(medgraft: Run, table: Path) -> None:
    done = medgraft(
        "train", table, "--set", "model.bakbone=resnet50", "--set", "training.seed=-1", "--set", "data.modality=brain"
    )
    assert done.code == 2 and "error[CONFIG_INVALID]: " in done.err
    assert "model.bakbone" in done.err and "model.backbone" in done.err
    assert "training.seed" in done.err and "data.modality" in done.err
    assert len(done.err.splitlines()) == 4


def test_errors_as_json(medgraft: Run, table: Path, tmp_path: Path) -> None:
    names = spoil_rows(table, range(10))
    done = medgraft("train", table, "--out", tmp_path / "run", "--json", *TINY, *ONE_EPOCH)
    assert done.code == 3
    content = done.json
    assert content["error"]["code"] == "BAD_IMAGES" and "skip_bad" in content["error"]["fix"]
    assert [problem["where"] for problem in content["problems"]] == names
    assert set(content["problems"][0]) == {"code", "what", "where", "fix"}


def test_all_ten_bad_files_are_listed_and_may_be_left_out(medgraft: Run, table: Path, tmp_path: Path) -> None:
    names = spoil_rows(table, range(0, 50, 5))
    refused = medgraft("train", table, "--out", tmp_path / "run", *TINY, *ONE_EPOCH)
    assert refused.code == 3 and refused.err.startswith("error[BAD_IMAGES]: 10 of 60 images cannot be used")
    assert not (tmp_path / "run").exists()
    assert all(name in refused.err for name in names)
    few = medgraft("train", table, "--out", tmp_path / "few", "--set", "data.skip_bad=0.05", *TINY, *ONE_EPOCH)
    assert few.code == 3 and "3 are allowed" in few.err
    enough = medgraft("train", table, "--out", tmp_path / "run2", "--set", "data.skip_bad=0.17", *TINY, *ONE_EPOCH)
    assert enough.code == 0
    run = json.loads((tmp_path / "run2" / "run.json").read_text(encoding="utf-8"))
    assert sum(run["images"].values()) == 50 and run["images_unreadable"] == 10
    checked = medgraft("check", table, *SHALLOW)
    assert checked.code == 3 and all(name in checked.out for name in names)


def test_many_problems_are_shown_in_part_with_the_right_rest(medgraft: Run, table: Path, tmp_path: Path) -> None:
    spoil_rows(table, range(33))
    done = medgraft("train", table, "--out", tmp_path / "run", *TINY)
    lines = done.err.splitlines()
    assert len(lines) == 22 and lines[-1].strip() == "and 13 more"


def test_a_used_folder_is_refused(medgraft: Run, trained: TrainedRun) -> None:
    done = medgraft("train", trained.table, "--out", trained.folder, *TINY)
    assert done.code == 2 and done.err.startswith("error[RUN_FOLDER_IN_USE]: ") and "--out" in done.err


def test_ctrl_c_before_training_ends_without_traceback(
    medgraft: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medgraft.workflows.train.train", interrupted)
    done = medgraft("train", table, "--out", tmp_path / "run")
    assert done.code == 143 and "Traceback" not in done.err and "stopped" in done.err.lower()


def test_a_defect_is_told_as_one(medgraft: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("something unforeseen\nwith details")

    monkeypatch.setattr("medgraft.workflows.train.train", broken)
    done = medgraft("train", table, "--out", tmp_path / "run")
    assert done.code == 1 and "something unforeseen" in done.err and "Traceback" not in done.err


def test_weights_list(medgraft: Run) -> None:
    done = medgraft("weights", "list")
    assert done.code == 0
    (embedded,) = [line for line in done.out.splitlines() if line.startswith("efficientnet-lite0 ")]
    assert "embedded" in embedded
    assert any("VGG16" in line for line in done.out.splitlines())
    rows = medgraft("weights", "list", "--json").json
    assert {"name", "keras", "weights", "where"} == set(rows[0]) and len(rows) == len(done.out.splitlines()) - 1


def test_weights_verify(medgraft: Run) -> None:
    done = medgraft("weights", "verify", "efficientnet-lite0")
    assert done.code == 0 and done.out.startswith("ok: ") and "579344248a93e230" in done.out


def test_weights_that_are_not_here_name_every_way_out(
    medgraft: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medgraft.models.weights.find_cached", lambda spec: None)
    done = medgraft("train", table, "--out", tmp_path / "run", "--backbone", "VGG16")
    assert done.code == 4 and done.err.startswith("error[WEIGHTS_UNREACHABLE]: ")
    for way in ("--weights hub", "weights pull vgg16 --to", "MEDGRAFT_WEIGHTS", ".safetensors", "efficientnet-lite0"):
        assert way in done.err
    assert "--weights none" in done.err
