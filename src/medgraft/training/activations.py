"""Activations of the frozen prefix: computed once per view, kept in memory-mapped files.

View 0 is the clean image; views 1..K are augmented, each a pure function of (seed, view, sample).
A view lives in one ``.npy`` file named by a digest of everything it depends on: weights, boundary,
preprocessing, augmentation, seed, view number and the images themselves. So it is never stale and is
shared by later runs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgraft.config import AugmentConfig
from medgraft.data.augment import augment, unit_draws
from medgraft.data.pixels import Pixels
from medgraft.models.classifier import Classifier
from medgraft.models.cut import Prefix
from medgraft.models.engine import FrozenEngine
from medgraft.types import IntArray

Progress = Callable[[str, int, int], None]

_BATCH = 32
_LARGEST = float(np.finfo(np.float16).max)
# Other code may compute other activations; the first number is raised when `medgraft.data.augment` changes.
_VERSIONS = (1, *(version(package) for package in ("timm", "torch", "openvino")))


@dataclass(frozen=True)
class Activations:
    """Views of the same N images, or of some of these.

    Attributes:
        views: K + 1 arrays (N, …) float16, view 0 clean.
        rows: (n,) the images that are meant; None: all of them.
    """

    views: tuple[npt.NDArray[np.float16], ...]
    rows: IntArray | None = None

    def __len__(self) -> int:
        return len(self.views[0]) if self.rows is None else len(self.rows)

    def take(self, rows: IntArray) -> Activations:
        """Some of the images, in this order; nothing is copied."""
        return Activations(self.views, self._places(rows))

    def view(self, number: int) -> npt.NDArray[np.float16]:
        """One view (n, …) of the images; a copy where they were taken out of more."""
        return self.views[number] if self.rows is None else self.views[number][self.rows]

    def read(self, rows: IntArray, view: IntArray) -> Tensor:
        """Activations (n, …) float32 of image ``rows[i]`` in view ``view[i]``."""
        places = self._places(rows)
        batch = np.empty((len(rows), *self.views[0].shape[1:]), dtype=np.float32)
        for number in np.unique(view):
            chosen = view == number
            batch[chosen] = self.views[number][places[chosen]]
        return torch.from_numpy(batch)

    def _places(self, rows: IntArray) -> IntArray:
        return rows if self.rows is None else self.rows[rows]


@dataclass(frozen=True)
class ViewRequest:
    """What a set of views depends on beside the images.

    Attributes:
        augmentation: resolved ranges.
        numbers: view numbers wanted; 0 is the clean image.
        seed: run seed.
    """

    augmentation: AugmentConfig
    numbers: tuple[int, ...]
    seed: int


def weights_digest(prefix: Prefix, classifier: Classifier, boundary: str) -> str:
    """Identity of the frozen function: parameters, buffers, preprocessing and where it ends."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([boundary, classifier.backbone.name, classifier.preprocess.as_dict()]).encode())
    digest.update(str(prefix.pool).encode())
    for name, tensor in sorted(prefix.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def compute_activations(
    engine: FrozenEngine,
    pixels: Pixels,
    request: ViewRequest,
    *,
    folder: Path,
    identity: str,
    progress: Progress | None = None,
) -> Activations:
    """Read the views from the cache, computing the missing ones.

    Args:
        engine: the prefix, ready to run.
        pixels: N images at network size.
        request: which views.
        folder: cache folder for activations.
        identity: `weights_digest` of the prefix.
        progress: called with (what, done, total) in images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = pixels.row_digest()
    paths = [folder / f"{_digest(engine, request, number, identity, rows)}.npy" for number in request.numbers]
    missing = [(path, number) for path, number in zip(paths, request.numbers, strict=True) if not path.exists()]
    for done, (path, number) in enumerate(missing):
        _compute_view(engine, pixels, request, number, path, _told(progress, f"view {done + 1} of {len(missing)}"))
    for path in paths:
        os.utime(path)  # the least recently used are evicted first
    return Activations(tuple(np.load(path, mmap_mode="r", allow_pickle=False) for path in paths))


def trim_cache(folder: Path, limit_bytes: int) -> int:
    """Remove the least recently used views until the folder holds at most ``limit_bytes``.

    A view that another run has mapped stays readable for that run. Returns the bytes freed.
    """
    files = sorted(((path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.npy")), reverse=True)
    kept = freed = 0
    for _, size, path in files:
        if kept + size <= limit_bytes:
            kept += size
        else:
            path.unlink(missing_ok=True)
            freed += size
    return freed


def _told(progress: Progress | None, what: str) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(what, done, total)

    return tell


def _digest(engine: FrozenEngine, request: ViewRequest, number: int, identity: str, rows: str) -> str:
    parts: list[object] = [identity, rows, engine.engine, engine.precision, number, _VERSIONS]
    if number:
        parts += [request.seed, request.augmentation.model_dump(mode="json")]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _compute_view(
    engine: FrozenEngine,
    pixels: Pixels,
    request: ViewRequest,
    number: int,
    path: Path,
    progress: Callable[[int, int], None],
) -> None:
    """Write one view under a temporary name and rename it when it is complete."""
    temporary = path.with_suffix(f".{os.getpid()}.partial")
    draws = unit_draws(request.seed, number, len(pixels))
    target: np.memmap[Any, np.dtype[np.float16]] | None = None
    try:
        for start in range(0, len(pixels), _BATCH):
            rows = np.arange(start, min(start + _BATCH, len(pixels)))
            batch = torch.from_numpy(pixels.read(rows)).permute(0, 3, 1, 2)
            inputs = augment(batch, request.augmentation, draws[rows]) if number else batch.float()
            outputs = engine.run(inputs.contiguous().numpy())
            if target is None:
                shape = (len(pixels), *outputs.shape[1:])
                target = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
            target[rows] = np.clip(outputs, -_LARGEST, _LARGEST)
            progress(int(rows[-1]) + 1, len(pixels))
        if target is not None:
            target.flush()
            del target
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
