"""Golden inputs and answers: does this machine still compute what training computed?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medgraft.errors import ModelError
from medgraft.inference.forward import forward_logits
from medgraft.models.classifier import Classifier
from medgraft.types import FloatArray, PixelArray

# float32 on another machine or another torch differs by about 1e-5 of the spread of the logits
GOLDEN_TOLERANCE = 1e-3


def golden_patterns(size: tuple[int, int]) -> PixelArray:
    """Four generated test images: a slope, a disk, stripes and noise; (4, height, width, 3) uint8."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    radius = np.hypot((y - height / 2) / height, (x - width / 2) / width)
    slope = np.stack([x / width, y / height, (x + y) / (height + width)], axis=-1) * 255
    disk = np.repeat((200 * (radius < 0.35) + 40 * (radius < 0.15))[..., None], 3, axis=-1)
    stripes = np.repeat((127.5 + 100 * np.sin(x / 5))[..., None], 3, axis=-1)
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (height, width, 3)).astype(np.float64)
    patterns: PixelArray = np.rint(np.stack([slope, disk, stripes, noise])).astype(np.uint8)
    return patterns


def golden_arrays(
    classifier: Classifier, arrays: dict[str, npt.NDArray[Any]], path: Path
) -> tuple[PixelArray, FloatArray]:
    """Golden pixels (k, H, W, 3) uint8 and logits (k, C) float64, when they fit the network.

    Raises:
        ModelError: ``MODEL_INVALID``.
    """
    pixels, logits = arrays.get("pixels"), arrays.get("logits")
    if (
        set(arrays) != {"pixels", "logits"}
        or pixels is None
        or logits is None
        or len(pixels) == 0
        or pixels.shape != (len(pixels), *classifier.preprocess.size, 3)
        or pixels.dtype != np.uint8
        or logits.shape != (len(pixels), len(classifier.classes))
        or logits.dtype != np.float32
        or not np.isfinite(logits).all()
    ):
        what = f"{path.name} does not hold golden pixels and logits of this network"
        raise ModelError("MODEL_INVALID", what, where=str(path))
    pixels.setflags(write=False)
    return pixels, logits.astype(np.float64)


def check_golden(classifier: Classifier, pixels: PixelArray, logits: FloatArray, *, samples: int, path: Path) -> None:
    """Run the golden inputs and refuse a network that answers otherwise.

    Raises:
        ModelError: ``BUNDLE_GOLDEN``.
    """
    worst = float(np.abs(forward_logits(classifier, pixels, samples=samples) - logits).max())
    if worst > golden_limit(logits, GOLDEN_TOLERANCE):
        raise ModelError(
            "BUNDLE_GOLDEN",
            f"the network no longer gives the recorded answers on the golden inputs: logits differ by {worst:.2g}",
            where=str(path),
            fix="the libraries differ from those of training; see the versions under provenance in bundle.json",
        )


def golden_limit(logits: FloatArray, tolerance: float) -> float:
    """Largest accepted difference: the tolerance times the spread of the logits, or times 1 when that is smaller."""
    return tolerance * max(1.0, float(np.ptp(logits)))
