"""A tiny network and images with a planted signal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from medgraft.config import ModelConfig, PhaseConfig
from medgraft.models.classifier import Classifier, build_classifier
from medgraft.models.cut import uncut
from medgraft.models.freeze import set_trainable
from medgraft.training.fit import Part, PhaseRun
from medgraft.training.losses import make_loss
from medgraft.types import IntArray

SIDE = 32


@dataclass
class Images:
    """A source in memory; (N, 3, side, side) float32 on the 0..255 scale."""

    pixels: Tensor
    epochs: list[int]

    def __len__(self) -> int:
        return len(self.pixels)

    def start_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def read(self, rows: IntArray) -> Tensor:
        return self.pixels[torch.from_numpy(rows)]


def planted(n: int, seed: int) -> Part:
    """Noise images; those of class 1 are brighter in the upper left quarter."""
    rng = np.random.default_rng(seed)
    targets = (np.arange(n) % 2).astype(np.int64)
    pixels = rng.normal(110, 30, (n, 1, SIDE, SIDE)).repeat(3, axis=1)
    pixels[targets == 1, :, : SIDE // 2, : SIDE // 2] += 60
    images = Images(torch.from_numpy(pixels.clip(0, 255).astype(np.float32)), [])
    return Part(images, targets, [f"image-{row}" for row in range(n)])


MakeRun = Callable[..., PhaseRun]


def _make_run(classifier: Classifier | None = None, *, seed: int = 0, **phase: object) -> PhaseRun:
    """A phase of a fresh tiny network on pixels."""
    given = {"name": "p", "trains": "all", "epochs": 3, "batch_size": 8, "head_lr": 1e-2, "backbone_lr": 1e-3}
    config = PhaseConfig.model_validate({**given, "schedule": "constant", "freeze_norm": False, **phase})
    classifier = classifier or build_tiny()
    trainable = set_trainable(
        classifier, config.trains, freeze_norm=config.freeze_norm, freeze_depthwise=config.freeze_depthwise
    )
    return PhaseRun(
        phase=config,
        classifier=classifier,
        network=uncut(classifier).suffix,
        trainable=trainable,
        train_loss=make_loss("cross_entropy"),
        val_loss=make_loss("cross_entropy"),
        device=torch.device("cpu"),
        precision=torch.float32,
        seed=seed,
    )


def build_tiny(**model: object) -> Classifier:
    given = {"backbone": "test_resnet", "weights": "none", "size": SIDE, "head": ("dropout 0.1",)}
    return build_classifier(ModelConfig.model_validate({**given, **model}), ("a", "b"), seed=1)


@pytest.fixture
def make_run() -> MakeRun:
    return _make_run


@pytest.fixture
def tiny() -> Classifier:
    return build_tiny()


@pytest.fixture(scope="session")
def make_part() -> Callable[[int, int], Part]:
    return planted
