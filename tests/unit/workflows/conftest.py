"""Sources made out of the phantoms."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from medgraft.config import Config
from medgraft.data.phantom import write_phantoms
from tables import read_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """60 phantoms of 20 patients, one's own to change."""
    return write_phantoms(tmp_path / "phantoms", patients=20, slices=3, size=64)


@pytest.fixture
def quick() -> Config:
    """One short epoch of a tiny network."""
    return Config.model_validate(
        {
            "model": {"backbone": "test_resnet", "weights": "none", "size": 64},
            "training": {
                "threads": 1,
                "phases": [{"name": "only", "trains": "all", "epochs": 1, "freeze_norm": False}],
            },
            "evaluation": {"bootstrap": 100, "gallery": 2},
            "checks": {"deep": False},
        }
    )


@pytest.fixture
def class_folders(tmp_path: Path) -> Callable[[Path], Path]:
    """The images of a table as a folder of class folders."""

    def make(table: Path) -> Path:
        folder = tmp_path / "classes"
        for row in read_table(table):
            target = folder / row["label"]
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(table.parent / row["image"], target)
        return folder

    return make
