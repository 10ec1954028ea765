"""What every check of images reads: samples, facts of their files, pixels, and who belongs together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.data.grouping import join_groups
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
        picture: (N,) 0..; exact and near copies share it.
    """

    manifest: Manifest
    records: tuple[ImageRecord, ...]
    pixels: Pixels
    group: IntArray
    picture: IntArray

    def __len__(self) -> int:
        return len(self.manifest)

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        records: Sequence[ImageRecord],
        pixels: Pixels,
        *,
        near_copies: Sequence[tuple[int, int]] = (),
    ) -> CheckedImages:
        """Join patients and copies.

        Args:
            manifest: N readable samples.
            records: of their files.
            pixels: of the same images.
            near_copies: pairs of positions that show one picture.
        """
        exact = [record.pixel_hash for record in records]
        patients = manifest.table["patient_id"].tolist()
        group = join_groups(len(manifest), [patients, exact], pairs=near_copies)
        picture = join_groups(len(manifest), [exact], pairs=near_copies)
        return cls(manifest, tuple(records), pixels, group, picture)

    def take(self, rows: IntArray) -> CheckedImages:
        """Some of the images, in this order; groups and pictures keep their numbers."""
        records = tuple(self.records[row] for row in rows.tolist())
        return CheckedImages(
            self.manifest.take(rows), records, self.pixels.subset(rows), self.group[rows], self.picture[rows]
        )

    def rows_of(self, *parts: Split) -> IntArray:
        """Positions of the images of some parts."""
        return np.flatnonzero(np.isin(self.manifest.table["split"].to_numpy(), parts))
