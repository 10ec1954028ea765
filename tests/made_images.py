"""Checked images made in memory, shared by the tests of checks."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from medgraft.checks.images import CheckedImages
from medgraft.data.manifest import Manifest
from medgraft.data.phantom import draw_patient
from medgraft.data.pixels import ImageRecord, Pixels
from medgraft.types import IntArray, PixelArray


class Stored:
    """Images in memory, in place of the pixel store."""

    def __init__(self, images: PixelArray) -> None:
        self.images = images
        self.size = images.shape[1:3]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: IntArray) -> PixelArray:
        return self.images[indices]

    def subset(self, indices: IntArray) -> Stored:
        return Stored(self.images[indices])


def checked(
    images: PixelArray,
    labels: Sequence[str],
    *,
    patients: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    records: Sequence[ImageRecord] | None = None,
    classes: tuple[str, ...] | None = None,
) -> CheckedImages:
    """N images (N, h, w, 3) or (N, h, w) as every check reads them; files are PNG of these pixels by default."""
    pixels = np.ascontiguousarray(images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3))
    names = list(paths) if paths is not None else [f"image{at:04d}x.png" for at in range(len(pixels))]
    columns: dict[str, Any] = {"sample_id": names, "path": names, "label": list(labels)}
    if patients is not None:
        columns["patient_id"] = list(patients)
    if splits is not None:
        columns["split"] = list(splits)
    manifest = Manifest.from_columns(
        columns,
        root=Path("/made"),
        classes=classes or tuple(sorted(set(labels))),
        patient_source="none" if patients is None else "column patient",
    )
    known = list(records) if records is not None else [png_record(image) for image in pixels]
    return CheckedImages.of(manifest, known, cast(Pixels, Stored(pixels)))


def png_record(image: PixelArray) -> ImageRecord:
    """What reading this image from a PNG file would give."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    digest = hashlib.sha256(image.tobytes()).hexdigest()[:32]
    height, width = image.shape[:2]
    return ImageRecord(digest, digest, width, height, "png", "RGB", stream.tell())


def phantoms(patients: int, *, slices: int = 3, size: int = 64, seed: int = 0) -> CheckedImages:
    """Phantom slices, numbered within each patient; the label says whether there is a lesion."""
    drawn = [draw_patient(np.random.default_rng([seed, at]), slices=slices, size=size) for at in range(patients)]
    return checked(
        np.concatenate([images for images, _ in drawn]),
        ["tumor" if mask.any() else "no_tumor" for _, masks in drawn for mask in masks],
        patients=[f"p{at:03d}" for at in range(patients) for _ in range(slices)],
        paths=[f"p{at:03d}_{number}.png" for at in range(patients) for number in range(slices)],
    )


def noise(n: int, *, size: int = 32, seed: int = 0) -> PixelArray:
    """(n, size, size) grey images of noise without any meaning."""
    return np.random.default_rng(seed).integers(60, 190, (n, size, size), dtype=np.uint8)
