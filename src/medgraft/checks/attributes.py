"""What is known of an image without looking at what it shows: size, file, border, corners, brightness, position.

    records ─► height … format          ┐
    pixels ─┬► border, corners          ├─ "metadata": what should say nothing about the label
            └► brightness … sharpness   ── "look": describes how two sets differ
    names   ─► position of a slice within its patient

Pixels are those at network size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import pandas as pd

from medgraft.checks.images import CheckedImages
from medgraft.checks.regions import CORNERS, border_strips, corner_patches, gray, in_batches
from medgraft.data.manifest import Manifest
from medgraft.data.pixels import ImageRecord
from medgraft.types import FloatArray, PixelArray

AttributeGroup = Literal["metadata", "look"]

# of `ImageRecord.format`; all of them always, so that the attributes of two sources have the same names
_FORMATS = ("jpeg", "png", "tiff", "bmp", "webp", "gif", "dicom")
_LOOK = ("brightness", "contrast", "sharpness")
NAMES: tuple[str, ...] = (
    *("height", "width", "aspect", "megapixels", "bytes (log)", "bytes per pixel"),
    *(f"format {name}" for name in _FORMATS),
    *("border brightness", "border spread"),
    *(f"{corner} corner, {what}" for corner in CORNERS for what in ("brightness", "brightest pixel", "white share")),
    *_LOOK,
)
"""All attributes, in words, in order."""
_WHITE = 245  # grey level: compression leaves few pixels of a white mark at 255
_NUMBER = re.compile(r"[0-9]{1,15}$")
_STACK = 3  # different numbers that make the images of a patient a stack


@dataclass(frozen=True)
class Attributes:
    """K attributes of N images.

    Attributes:
        names: K names in words.
        values: (N, K): pixels, ratios, grey levels 0..255, shares, and 0 or 1 for a format.
        groups: K groups.
        position: (N,) 0..1 from the first to the last slice of a patient; None when not known.
    """

    names: tuple[str, ...]
    values: FloatArray
    groups: tuple[AttributeGroup, ...]
    position: FloatArray | None

    def of(self, group: AttributeGroup) -> Attributes:
        """The attributes of one group."""
        kept = [place for place, own in enumerate(self.groups) if own == group]
        names = tuple(self.names[place] for place in kept)
        return replace(self, names=names, values=self.values[:, kept], groups=(group,) * len(kept))


def image_attributes(images: CheckedImages) -> Attributes:
    """Attributes of every image, those of `NAMES`; reads all pixels once.

    Args:
        images: N readable images.
    """
    measured = [_of_pixels(batch) for batch in in_batches(images.pixels)]
    of_pixels = np.concatenate(measured) if measured else _of_pixels(np.zeros((0, 8, 8, 3), dtype=np.uint8))
    values = np.column_stack([_of_files(images.records), of_pixels])
    groups: tuple[AttributeGroup, ...] = tuple("look" if name in _LOOK else "metadata" for name in NAMES)
    return Attributes(NAMES, values, groups, slice_position(images.manifest))


def slice_position(manifest: Manifest) -> FloatArray | None:
    """Where each image lies in its patient's stack, by the number its file name ends with.

    Known when patients are, when every image of a patient with several has such a number, and when most images
    belong to patients with three different numbers or more: otherwise the numbers count something else.

    Args:
        manifest: N samples.

    Returns:
        (N,) rank of the number among the patient's different numbers, 0 for the lowest, 1 for the highest, 0.5 where
        there is one; None when not known.
    """
    if not manifest.patients_known or not len(manifest):
        return None
    found = [_NUMBER.search(PurePosixPath(path).stem) for path in manifest.table["path"]]
    number = pd.Series([np.nan if match is None else float(match.group()) for match in found])
    by_patient = number.groupby(manifest.table["patient_id"].to_numpy())
    several = by_patient.transform("size").to_numpy() > 1
    different = by_patient.transform("nunique").to_numpy()
    if number[several].isna().any() or 2 * np.count_nonzero(different >= _STACK) < len(manifest):
        return None
    rank = by_patient.rank(method="dense").to_numpy() - 1.0
    position: FloatArray = np.where(different > 1, rank / np.maximum(different - 1, 1), 0.5)
    return position


def _of_files(records: Sequence[ImageRecord]) -> FloatArray:
    """(N, 6 + formats)."""
    sizes = np.array([(one.height, one.width, one.n_bytes) for one in records], dtype=np.float64).reshape(-1, 3)
    height, width, n_bytes = np.maximum(sizes, 1.0).T
    area = height * width
    formats = [np.array([record.format == name for record in records], dtype=np.float64) for name in _FORMATS]
    return np.column_stack([height, width, width / height, area / 1e6, np.log(n_bytes), n_bytes / area, *formats])


def _of_pixels(images: PixelArray) -> FloatArray:
    """(n, 2 + 12 + 3): border, corners and look of images (n, h, w, 3)."""
    n = len(images)
    border = np.concatenate([gray(strip).reshape(n, -1) for strip in border_strips(images)], axis=1)
    columns = [border.mean(axis=1), border.std(axis=1)]
    for patch in corner_patches(images):
        corner = gray(patch).reshape(n, -1)
        columns += [corner.mean(axis=1), corner.max(axis=1), (corner >= _WHITE).mean(axis=1)]
    # every other row tells the same, at half the price
    thinned = gray(images[:, ::2])
    contrast = thinned.std(axis=(1, 2))
    steps = np.abs(np.diff(thinned, axis=2)).mean(axis=(1, 2))
    columns += [thinned.mean(axis=(1, 2)), contrast, steps / np.maximum(contrast, 1.0)]
    return np.column_stack(columns).astype(np.float64)
