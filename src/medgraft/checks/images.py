"""What every check of images reads: samples, facts of their files, pixels, and who belongs together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgraft.data.manifest import Manifest
from medgraft.data.pixels import ImageRecord, Pixels
from medgraft.types import IntArray, Split


@dataclass(frozen=True)
class CheckedImages:
    """N readable images.

    Attributes:
        manifest: N samples, with parts where there are any.
        records: of their files, in the same order.
        pixels: N images at network size.
        group: (N,) 0..; images of one patient or with one picture share it, and are never torn apart.
    """

    manifest: Manifest
    records: tuple[ImageRecord, ...]
    pixels: Pixels
    group: IntArray

    def __len__(self) -> int:
        return len(self.manifest)

    def take(self, rows: IntArray) -> CheckedImages:
        """Some of the images, in this order; groups keep their numbers."""
        records = tuple(self.records[row] for row in rows.tolist())
        return CheckedImages(self.manifest.take(rows), records, self.pixels.subset(rows), self.group[rows])

    def rows_of(self, *parts: Split) -> IntArray:
        """Positions of the images of some parts."""
        return np.flatnonzero(np.isin(self.manifest.table["split"].to_numpy(), parts))
