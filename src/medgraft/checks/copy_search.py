"""The search for near copies, done once for the same images.

pixels ─► fingerprints ─► near_copies ─► CopySearch     kept as <cache>/copies/<digest>.{npy,json}
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medgraft.checks.near_copies import CopyPair, near_copies
from medgraft.data.fingerprint import SIDE, Fingerprints, fingerprints
from medgraft.data.pixels import ImageRecord, Pixels
from medgraft.types import IntArray

# Raised when fingerprints or the search change.
_VERSION = 1
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CopySearch:
    """What was found among N images.

    Attributes:
        prints: thumbnails and sizes of the images.
        pairs: near copies, exact ones among them.
    """

    prints: Fingerprints
    pairs: tuple[CopyPair, ...]

    def prints_of(self, rows: IntArray) -> Fingerprints:
        """Those of some of the images, in this order."""
        own = self.prints
        return Fingerprints(own.thumbnails[rows], own.sizes[rows], own.known[rows], own.contrast[rows])

    def ends(self) -> list[tuple[int, int]]:
        """Positions of the images of each pair."""
        return [(pair.first, pair.second) for pair in self.pairs]


def search_copies(
    pixels: Pixels, records: Sequence[ImageRecord], *, folder: Path, progress: Progress | None = None
) -> CopySearch:
    """Fingerprints and near copies of images, from the cache where it has them.

    Args:
        pixels: N images, all readable.
        records: of the same images; native sizes tell how much noise compression leaves.
        folder: cache folder of copies.
        progress: called with (what, done, total).
    """
    sizes = np.array([(record.height, record.width) for record in records], dtype=np.int64).reshape(-1, 2)
    name = _digest(pixels, sizes)
    thumbnails, found = folder / f"{name}.npy", folder / f"{name}.json"
    if thumbnails.exists() and found.exists():
        kept = np.load(thumbnails, mmap_mode="r", allow_pickle=False)
        contrast = kept.reshape(len(kept), SIDE * SIDE).std(axis=1, dtype=np.float32)
        prints = Fingerprints(kept, sizes, np.ones(len(kept), dtype=np.bool_), contrast)
        return CopySearch(prints, tuple(CopyPair(*pair) for pair in json.loads(found.read_text(encoding="utf-8"))))
    told = progress or (lambda what, done, total: None)
    prints = fingerprints(pixels, sizes=sizes, progress=lambda done, total: told("fingerprints", done, total))
    pairs = tuple(near_copies(prints, pixels, progress=lambda done, total: told("comparing", done, total)))
    folder.mkdir(parents=True, exist_ok=True)
    _write(thumbnails, lambda path: _save(path, prints.thumbnails))
    _write(found, lambda path: path.write_text(json.dumps([astuple(pair) for pair in pairs]), encoding="utf-8"))
    return CopySearch(prints, pairs)


def _digest(pixels: Pixels, sizes: IntArray) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{_VERSION} {pixels.size} {pixels.row_digest()}".encode())
    digest.update(sizes.tobytes())
    return digest.hexdigest()


def _save(path: Path, array: npt.NDArray[np.float16]) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Under a temporary name first: a killed writer leaves nothing that is read."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
