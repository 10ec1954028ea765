"""What a phase trains on: cached activations of the frozen prefix, or pixels warped on the fly.

Both give the same thing: for an epoch and a set of rows, a batch that the network part takes. Which
view or which random change an image gets is a pure function of (seed, epoch, image), so batch order
and resuming do not matter.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from medgraft.config import AugmentConfig
from medgraft.data.augment import augment, unit_draws
from medgraft.data.pixels import Pixels
from medgraft.training.activations import Activations
from medgraft.types import FloatArray, IntArray


class Source(Protocol):
    """Batches of one part of the data."""

    def __len__(self) -> int: ...

    def start_epoch(self, epoch: int) -> None:
        """Draw this epoch's random choices."""

    def read(self, rows: IntArray) -> Tensor:
        """(n, …) float32 for these images."""


class ActivationSource:
    """Cached activations; in training each image takes one of its views per epoch."""

    def __init__(self, activations: Activations, *, seed: int, train: bool) -> None:
        self._activations = activations
        self._seed = seed
        self._train = train
        self._view = np.zeros(len(activations), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._activations)

    def start_epoch(self, epoch: int) -> None:
        if self._train:
            n_views = len(self._activations.views)
            # a random start per image, then one view after another: all are used equally often
            offset = unit_draws(self._seed, 0, len(self))[:, 15]
            self._view = (np.floor(offset * n_views).astype(np.int64) + epoch) % n_views

    def read(self, rows: IntArray) -> Tensor:
        return self._activations.read(rows, self._view[rows])


class PixelSource:
    """Pixels at network size, warped per epoch in training, as they are otherwise."""

    def __init__(self, pixels: Pixels, *, seed: int, augmentation: AugmentConfig | None) -> None:
        self._pixels = pixels
        self._seed = seed
        self._augmentation = augmentation
        self._draws: FloatArray | None = None

    def __len__(self) -> int:
        return len(self._pixels)

    def start_epoch(self, epoch: int) -> None:
        if self._augmentation is not None:
            # views of the activation cache use the low numbers
            self._draws = unit_draws(self._seed, 1_000_000 + epoch, len(self))

    def read(self, rows: IntArray) -> Tensor:
        batch = torch.from_numpy(self._pixels.read(rows)).permute(0, 3, 1, 2)
        if self._augmentation is None or self._draws is None:
            return batch.float()
        return augment(batch, self._augmentation, self._draws[rows])
