"""Checked images made in memory, shared by tests of checks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from medgraft.checks.images import CheckedImages
from medgraft.data.grouping import join_groups
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
    """N images (N, h, w, 3) or (N, h, w) as every check reads them; files are PNG of the same pixels."""
    pixels = np.ascontiguousarray(images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3))
    named = [f"{at:05d}_.png" for at in range(len(pixels))] if paths is None else list(paths)
    columns: dict[str, Any] = {"sample_id": named, "path": named, "label": list(labels)}
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
    made = records or [_record(image) for image in pixels]
    copies = [one.pixel_hash for one in made]
    group = join_groups(len(pixels), [manifest.table["patient_id"].tolist(), copies])
    picture = join_groups(len(pixels), [copies])
    return CheckedImages(manifest, tuple(made), cast(Pixels, Stored(pixels)), group, picture)


def phantoms(patients: int, *, slices: int = 3, size: int = 64, seed: int = 0) -> CheckedImages:
    """Phantom slices with their lesions as label, numbered within each patient."""
    drawn = [draw_patient(np.random.default_rng([seed, at]), slices=slices, size=size) for at in range(patients)]
    names = [(f"p{at:03d}", f"p{at:03d}_{number}.png") for at in range(patients) for number in range(slices)]
    return checked(
        np.concatenate([images for images, _ in drawn]),
        ["tumor" if mask.any() else "no_tumor" for _, masks in drawn for mask in masks],
        patients=[patient for patient, _ in names],
        paths=[path for _, path in names],
    )


def _record(image: PixelArray) -> ImageRecord:
    stream = io.BytesIO()
    Image.fromarray(image[..., 0]).save(stream, "PNG")
    height, width = image.shape[:2]
    return ImageRecord("c", image.tobytes().hex()[-4000:] + str(hash(image.tobytes())), width, height, "png", "L", stream.tell())
