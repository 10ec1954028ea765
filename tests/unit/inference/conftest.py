"""A small classifier and its bundle, built once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from medgraft.config import DataConfig, ModelConfig
from medgraft.evaluation.conformal import Conformal
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.inference.bundle import Bundle, open_bundle, write_bundle
from medgraft.models.classifier import Classifier, build_classifier

CLASSES = ("glioma", "meningioma", "none")
Make = Callable[..., Classifier]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make tiny networks slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _make(*, classes: tuple[str, ...] = CLASSES, seed: int = 3, **model: object) -> Classifier:
    config = ModelConfig.model_validate({"backbone": "test_resnet", "weights": "none", "size": 64, **model})
    return build_classifier(config, classes, seed=seed).eval()


@pytest.fixture(scope="session")
def make_classifier() -> Make:
    return _make


@pytest.fixture(scope="session")
def argmax() -> OperatingPoint:
    return OperatingPoint(rule="argmax", positive=None, threshold=None, validation={})


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory, argmax: OperatingPoint) -> Path:
    folder = tmp_path_factory.mktemp("run") / "bundle"
    rules = DataConfig(background=255, sixteen_bit="full")
    provenance = {"data": "phantom", "n_train": 10, "versions": {"torch": "x"}}
    write_bundle(folder, _make(), operating_point=argmax, temperature=1.7, provenance=provenance, rules=rules)
    return folder


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """A two-class bundle in a folder of its own; `augmentation` is what training recorded."""
    made: list[Path] = []

    def make(
        *,
        classes: tuple[str, ...] = ("no", "yes"),
        point: OperatingPoint | None = None,
        temperature: float = 1.3,
        augmentation: object = None,
        rules: DataConfig | None = None,
        conformal: Conformal | None = None,
        **model: object,
    ) -> Bundle:
        if point is None:
            point = OperatingPoint("youden", "yes", 0.5) if len(classes) == 2 else OperatingPoint("argmax", None, None)
        provenance = {} if augmentation is None else {"augmentation": augmentation}
        folder = tmp_path / f"bundle{len(made)}"
        made.append(folder)
        classifier = _make(classes=classes, **model)
        write_bundle(
            folder,
            classifier,
            operating_point=point,
            temperature=temperature,
            provenance=provenance,
            rules=rules,
            conformal=conformal,
        )
        return open_bundle(folder, check="hash")

    return make


@pytest.fixture
def bundle_copy(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "run" / "bundle"))
