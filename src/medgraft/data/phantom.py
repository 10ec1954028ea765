"""Generated axial FLAIR slices of a brain, with and without a lesion: for demos and tests, not for science.

    patient ── head, folds, ventricles, contrast ──► anatomy of each slice ──► lesion ──► scanner ──► PNG
                                                        (implicit shapes and noise fields of the patient)

The label is in the lesion and nowhere else. Every patient with a lesion also has slices without; a lesion
reaches from one end of the stack to a slice drawn so that every position is as often with as without; sizes,
headers, brightness and noise are drawn independently of it; small bright spots without meaning occur in all.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from medgraft.errors import UsageError
from medgraft.types import FloatArray, PixelArray

MaskArray = npt.NDArray[np.bool_]
Kind = Literal["solid", "rim", "edema", "cyst"]
_KINDS: tuple[Kind, ...] = ("solid", "rim", "edema", "cyst")
_HEALTHY = 0.1  # share of patients without any lesion
# Brightness of tissues in FLAIR, where the fluid's signal is nulled and grey matter is above white.
_AIR, _SCALP, _BONE, _FLUID, _GREY, _WHITE = 0.02, 0.72, 0.10, 0.10, 0.56, 0.43


@dataclass(frozen=True, slots=True)
class _Patient:
    """What all slices of one head share; lengths in half image sides, angles in radians."""

    width: float
    length: float
    turn: float
    shift: tuple[float, float]
    scalp: float
    bone: float
    folds: float
    ventricles: float
    contrast: float
    spots: int


@dataclass(frozen=True, slots=True)
class _Lesion:
    """A lesion in the frame of the brain, whose edge is at distance 1 from the centre.

    Attributes:
        kind: how its inside looks.
        centre: (across, along).
        radius: largest extent.
        contrast: brightness added.
        push: how far the tissue around gives way, as a share of the radius.
        extent: per slice, the share of the radius; 0 where the slice has no lesion.
    """

    kind: Kind
    centre: tuple[float, float]
    radius: float
    contrast: float
    push: float
    extent: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Fields:
    """Smooth noise in one slice, (size, size) each, standard deviation 1; neighbouring slices are alike."""

    broad: FloatArray
    folds: FloatArray
    blobs: FloatArray
    fine: FloatArray


def write_phantoms(folder: Path, *, patients: int = 60, slices: int = 6, size: int = 160, seed: int = 0) -> Path:
    """Write phantom slices as 8-bit grey PNG with masks and a table.

    ``images/<patient>_<slice>.png``, ``masks/<patient>_<slice>_mask.png`` (0 or 255; all 0 without lesion) and
    ``phantoms.csv`` with the columns image, label (``tumor`` or ``no_tumor``), patient and mask. The same
    arguments give the same pixels. Patients of different seeds have different names.

    Args:
        folder: where to write; made when absent.
        patients: number of heads.
        slices: slices per head, bottom to top.
        size: side in pixels.
        seed: of all random choices.

    Returns:
        Path of the table.

    Raises:
        UsageError: PHANTOM_RANGE when a number is out of range.
    """
    for name, value, low in (("patients", patients, 1), ("slices", slices, 2), ("size", size, 64), ("seed", seed, 0)):
        if value < low:
            raise UsageError("PHANTOM_RANGE", f"{name} must be at least {low}, got {value}")
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(patients):
        patient = f"s{seed}p{number:03d}"
        images, masks = draw_patient(np.random.default_rng([seed, number]), slices=slices, size=size)
        for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
            image_path, mask_path = f"images/{patient}_{index}.png", f"masks/{patient}_{index}_mask.png"
            Image.fromarray(image).save(folder / image_path)
            Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(folder / mask_path)
            rows.append((image_path, "tumor" if mask.any() else "no_tumor", patient, mask_path))
    table = folder / "phantoms.csv"
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([("image", "label", "patient", "mask"), *rows])
    return table


def draw_patient(rng: np.random.Generator, *, slices: int, size: int) -> tuple[PixelArray, MaskArray]:
    """All slices of one head.

    Returns:
        (slices, size, size) uint8 images and bool masks.
    """
    patient = _random_patient(rng)
    lesion = _random_lesion(rng, slices)
    volumes = [_noise(rng, slices, size, sigma) for sigma in (0.16, 0.026, 0.05, 0.01)]
    images = np.empty((slices, size, size), np.uint8)
    masks = np.zeros((slices, size, size), bool)
    for index in range(slices):
        fields = _Fields(*(volume[index] for volume in volumes))
        height = (index + rng.uniform(0.0, 0.8)) / slices
        extent = lesion.extent[index]
        across, along, rim = _brain_frame(patient, fields, height=height, size=size)
        near = _lesion_distance(lesion, extent, across, along, fields)
        pushed = _push(lesion, extent, across, along)
        tissue = _tissue(patient, fields, *pushed, height=height)
        tissue += _spots(rng, patient, across, along)
        tissue, masks[index] = _grow(lesion, extent, tissue, near, np.hypot(across, along), fields)
        images[index] = _scan(rng, _head(patient, fields, tissue, rim), fields)
    return images, masks


def _random_patient(rng: np.random.Generator) -> _Patient:
    width = rng.uniform(0.64, 0.80)
    return _Patient(
        width=width,
        length=min(0.95, width * rng.uniform(1.12, 1.3)),
        turn=np.deg2rad(rng.normal(0, 6)),
        shift=(rng.normal(0, 0.035), rng.normal(0, 0.035)),
        scalp=rng.uniform(0.03, 0.07),
        bone=rng.uniform(0.03, 0.05),
        folds=rng.uniform(0.7, 1.3),
        ventricles=rng.uniform(0.6, 1.5),
        contrast=rng.uniform(0.9, 1.5),
        spots=int(rng.poisson(2.5)),
    )


def _random_lesion(rng: np.random.Generator, slices: int) -> _Lesion:
    """A lesion over the lowest or the highest slices.

    With the number of its slices symmetric about the half, and either end as likely, every position of
    the stack shows it in half of the patients.
    """
    covered = int(rng.integers(max(1, slices // 3), slices - max(1, slices // 3) + 1))
    # largest at the end of the stack, and no sliver where it stops
    extent = np.sqrt(1.0 - (np.arange(covered) / (covered + 0.6)) ** 2) * rng.uniform(0.9, 1.1, covered)
    extent = np.concatenate([np.maximum(extent, 0.6), np.zeros(slices - covered)])
    if rng.random() < 0.5:
        extent = extent[::-1]
    if rng.random() < _HEALTHY:
        extent = np.zeros(slices)
    distance, angle = np.sqrt(rng.uniform(0.02, 0.5)), rng.uniform(0, 2 * np.pi)
    return _Lesion(
        kind=_KINDS[rng.integers(len(_KINDS))],
        centre=(distance * np.cos(angle), distance * np.sin(angle)),
        radius=rng.uniform(0.24, 0.42),
        contrast=rng.uniform(0.20, 0.38),
        push=rng.uniform(0.0, 0.35),
        extent=tuple(float(share) for share in extent),
    )


def _noise(rng: np.random.Generator, slices: int, size: int, sigma: float) -> FloatArray:
    """(slices, size, size) smooth noise; sigma in image sides."""
    white = rng.standard_normal((slices, size, size))
    smooth = ndimage.gaussian_filter(white, (0.7, sigma * size, sigma * size), mode="wrap", truncate=3.0)
    scaled: FloatArray = smooth / smooth.std(axis=(1, 2), keepdims=True)
    return scaled


def _inside(depth: FloatArray, softness: float) -> FloatArray:
    """0 outside, 1 inside, a linear edge of the given width between."""
    return np.clip(0.5 + depth / softness, 0.0, 1.0)


def _brain_frame(
    patient: _Patient, fields: _Fields, *, height: float, size: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Coordinates in which the brain is the unit disc, and the depth below the skin in half image sides."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    x, y = x - patient.shift[0], y - patient.shift[1]
    cos, sin = np.cos(patient.turn), np.sin(patient.turn)
    scale = np.sqrt(1.0 - 0.42 * height**2)
    along = (y * cos - x * sin) / (patient.length * scale)
    across = (x * cos + y * sin) / (patient.width * scale * (1.0 + 0.07 * along))
    wobble = 1.0 + 0.012 * fields.broad
    across, along = across * wobble, along * wobble
    side = 0.5 * (patient.width + patient.length) * scale
    brain = 1.0 - (patient.scalp + patient.bone + 0.02) / side
    return across / brain, along / brain, (1.0 - np.hypot(across, along)) * side


def _tissue(patient: _Patient, fields: _Fields, across: FloatArray, along: FloatArray, *, height: float) -> FloatArray:
    """Brightness of the brain without lesion."""
    grey_level = _WHITE + (_GREY - _WHITE) * patient.contrast
    depth = 1.0 - np.hypot(across, along)
    # folds follow the zero lines of a noise field and fade with depth
    reach = patient.folds * np.clip(1.0 - depth / 0.45, 0.0, 1.0)
    bent = across + 0.02 * fields.folds
    gap = 0.012 + 0.025 * np.clip(np.abs(along) - (0.45 - 0.6 * height), 0.0, 0.4)
    ribbon = np.maximum(
        _inside(0.11 + 0.02 * fields.blobs - depth, 0.06), _inside(0.62 * reach - np.abs(fields.folds), 0.35)
    )
    outer = np.abs(along) > 0.5 - 0.9 * height
    ribbon = np.maximum(ribbon, outer * _inside(gap + 0.05 - np.abs(bent), 0.04))
    share = np.maximum(ribbon, 0.7 * _deep_grey(across, along, height))
    tissue = _WHITE + (grey_level - _WHITE) * share
    tissue = tissue + 0.014 * fields.fine + 0.012 * fields.blobs + 0.01 * fields.broad
    fluid = np.maximum(_inside(0.20 * reach - np.abs(fields.folds), 0.30), outer * _inside(gap - np.abs(bent), 0.03))
    chambers = _chambers(patient, fields, across, along, height)
    caps = np.exp(-((np.minimum(chambers, 0.0) / 0.05) ** 2)) * (chambers < 0) * 0.05
    fluid = np.maximum(0.85 * fluid, _inside(chambers, 0.04))
    mixed: FloatArray = (tissue + caps) * (1.0 - fluid) + _FLUID * fluid
    return mixed


def _deep_grey(across: FloatArray, along: FloatArray, height: float) -> FloatArray:
    """Putamen and thalamus on both sides, in the lower slices."""
    side = np.abs(across)
    putamen = 1.0 - np.hypot((side - 0.36) / 0.09, (along + 0.06) / 0.23)
    thalamus = 1.0 - np.hypot((side - 0.16) / 0.11, (along - 0.12) / 0.16)
    fade = np.clip((0.5 - height) / 0.15, 0.0, 1.0)
    share: FloatArray = fade * _inside(np.maximum(putamen, thalamus), 0.5)
    return share


def _chambers(patient: _Patient, fields: _Fields, across: FloatArray, along: FloatArray, height: float) -> FloatArray:
    """Depth inside the ventricles, negative outside."""
    side = np.abs(across + 0.008 * fields.broad)
    size = patient.ventricles * np.clip(1.0 - (height / 0.75) ** 2, 0.0, 1.0)
    reach = 0.44 - 0.1 * height
    middle = 0.07 + 0.9 * np.maximum(np.abs(along - 0.02) - 0.08, 0.0) ** 1.4
    lateral = 0.075 * size * np.sqrt(np.clip(1.0 - (along / reach) ** 2, 0.0, 1.0)) - np.abs(side - middle)
    lateral = np.where(np.abs(along) < reach, lateral, -0.2) - 0.03 * (size < 0.15)
    third = np.where(height < 0.35, 0.018 * patient.ventricles, -0.2) - np.maximum(side, np.abs(along - 0.1) - 0.12)
    depth: FloatArray = np.maximum(lateral, third)
    return depth


def _spots(rng: np.random.Generator, patient: _Patient, across: FloatArray, along: FloatArray) -> FloatArray:
    """Small bright spots of white matter, as age brings them: in all patients, with no meaning for the label."""
    spots = np.zeros_like(across)
    for _ in range(rng.poisson(patient.spots)):
        distance, angle = rng.uniform(0.3, 0.75), rng.uniform(0, 2 * np.pi)
        away = np.hypot(across - distance * np.cos(angle), along - distance * np.sin(angle))
        spots += rng.uniform(0.06, 0.2) * np.exp(-((away / rng.uniform(0.015, 0.035)) ** 2))
    return spots


def _lesion_distance(
    lesion: _Lesion, extent: float, across: FloatArray, along: FloatArray, fields: _Fields
) -> FloatArray:
    """Distance from the lesion's centre in radii: 1 at its edge, which noise makes irregular."""
    if not extent:
        return np.full_like(across, np.inf)
    ragged = 0.30 if lesion.kind == "edema" else 0.20
    away = np.hypot(across - lesion.centre[0], along - lesion.centre[1]) / (lesion.radius * extent)
    distance: FloatArray = away + ragged * fields.blobs * np.clip(away, 0.0, 1.0) + 0.04 * fields.folds
    return distance


def _push(lesion: _Lesion, extent: float, across: FloatArray, along: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coordinates from which the anatomy is drawn: the lesion displaces what is around it."""
    if not extent:
        return across, along
    radius = lesion.radius * extent
    right, back = across - lesion.centre[0], along - lesion.centre[1]
    fall = lesion.push * np.exp(-((np.hypot(right, back) / (1.8 * radius)) ** 2))
    return across - right * fall, along - back * fall


def _grow(
    lesion: _Lesion, extent: float, tissue: FloatArray, near: FloatArray, from_middle: FloatArray, fields: _Fields
) -> tuple[FloatArray, MaskArray]:
    """Brightness with the lesion, and its mask."""
    if not extent:
        return tissue, np.zeros(tissue.shape, bool)
    mask = (near < 1.0) & (from_middle < 0.97)
    level = _WHITE + lesion.contrast + 0.025 * fields.blobs + 0.02 * fields.fine
    dark = _WHITE - 0.6 * lesion.contrast + 0.01 * fields.blobs
    within = _inside(0.97 - from_middle, 0.04)
    if lesion.kind == "edema":
        weight = _inside(1.0 - near, 0.6)
        grown = tissue + weight * within * lesion.contrast * (1.0 + 0.15 * fields.blobs)
    elif lesion.kind == "solid":
        weight = within * _inside(1.0 - near, 0.25)
        grown = tissue * (1.0 - weight) + level * weight
    else:
        core = 0.45 if lesion.kind == "rim" else 0.78
        filled = level + (dark - level) * _inside(core - near, 0.25)
        weight = within * _inside(1.0 - near, 0.25)
        grown = tissue * (1.0 - weight) + filled * weight
    return grown, mask


def _head(patient: _Patient, fields: _Fields, tissue: FloatArray, depth: FloatArray) -> FloatArray:
    """Brain, fluid around it, bone and scalp, put into each other by the depth below the skin."""
    softness = 0.02
    image = np.full_like(tissue, _AIR)
    marrow = 0.10 * _inside(0.4 * patient.bone - np.abs(depth - patient.scalp - 0.5 * patient.bone), 0.02)
    layers = (
        (0.0, _SCALP + 0.05 * fields.blobs + 0.04 * fields.fine),
        (patient.scalp, _BONE + marrow),
        (patient.scalp + patient.bone, np.full_like(tissue, _FLUID)),
        (patient.scalp + patient.bone + 0.02, tissue),
    )
    for start, level in layers:
        share = _inside(depth - start, softness)
        image = image * (1.0 - share) + level * share
    return image


def _scan(rng: np.random.Generator, image: FloatArray, fields: _Fields) -> PixelArray:
    """Coil sensitivity, resolution, noise of a magnitude image, and the window of a viewer."""
    smooth = ndimage.gaussian_filter(image, rng.uniform(0.35, 0.75) * len(image) / 160)
    sensed = smooth * np.exp(0.10 * fields.broad)
    sigma = rng.uniform(0.012, 0.03)
    noisy = np.hypot(sensed + rng.normal(0, sigma, image.shape), rng.normal(0, sigma, image.shape))
    window = noisy ** rng.uniform(0.92, 1.08) * rng.uniform(240, 310)
    pixels: PixelArray = np.clip(window, 0, 255).astype(np.uint8)
    return pixels
