"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from medgraft.workflows.train import TrainResult

REPOSITORY = Path(__file__).resolve().parents[1]

# Small inputs: more threads would only wait for each other. Also for what tests start.
os.environ["OMP_NUM_THREADS"] = "1"

RUN_SETTINGS = """
[data]
cache_dir = "{cache}"
[model]
size = 64
[training]
threads = 1
[[training.phases]]
name = "head"
optimizer = "lbfgs"
[[training.phases]]
name = "finetune"
trains = ["blocks.5", "blocks.6", "conv_head", "bn2"]
freeze_depthwise = true
epochs = 2
averaging = "ema"
[evaluation]
bootstrap = 100
gallery = 4
[checks]
permutations = 99
"""


@dataclass(frozen=True)
class TrainedRun:
    """A finished run on phantoms, shared by the tests that only read it.

    Attributes:
        table: the phantoms.
        settings: the configuration file.
        result: what `train` gave.
        said: every line of progress.
    """

    table: Path
    settings: Path
    result: TrainResult
    said: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return self.result.folder

    @property
    def bundle(self) -> Path:
        return self.result.bundle


class Heard:
    """Progress that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def advance(self, what: str, done: int, total: int) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache and a working folder of its own for every test, and one thread whatever a test sets."""
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # runs/DATE-NAME of a verb without --out
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    from medgraft.data.phantom import write_phantoms
    from medgraft.workflows.train import train

    folder = tmp_path_factory.mktemp("trained")
    table = write_phantoms(folder / "phantoms", patients=20, slices=3, size=64)
    settings = folder / "settings.toml"
    settings.write_text(RUN_SETTINGS.format(cache=folder / "cache"), encoding="utf-8")
    heard = Heard()
    result = train(table, out=folder / "run", config=settings, progress=heard)
    return TrainedRun(table, settings, result, tuple(heard.lines))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images to develop against, beside the checkout; absent elsewhere."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real images are not beside this checkout")
    return folder
