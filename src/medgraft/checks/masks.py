"""Masks of lesions, laid over the images as the network sees them.

MASK_UNREADABLE   masks that cannot be read, or do not have the size of their image; these images have no known lesion
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medgraft.config.schema import DataConfig
from medgraft.data.image import DecodedImage, decode
from medgraft.data.manifest import Manifest
from medgraft.data.pixels import ImageRecord
from medgraft.data.resize import fit
from medgraft.errors import DataError
from medgraft.types import CheckResult, Preprocess

MaskArray = npt.NDArray[np.bool_]
_SHOWN = 20
# compression leaves noise of a few levels around what was 0
_LOSSY = ("jpeg", "webp")
_NOISE = 16


@dataclass(frozen=True, eq=False)
class Masks:
    """Lesions of N images.

    Attributes:
        lesions: (N, h, w) True in a lesion, at network size.
        known: (N,) whether a mask was read; an image of which none is known has no lesion in ``lesions``.
        checks: what could not be read.
    """

    lesions: MaskArray
    known: MaskArray
    checks: tuple[CheckResult, ...] = ()

    @property
    def shown(self) -> MaskArray:
        """(N,) which images show a lesion."""
        return np.array([lesion.any() for lesion in self.lesions], dtype=np.bool_)


def read_masks(manifest: Manifest, records: Sequence[ImageRecord], preprocess: Preprocess, rules: DataConfig) -> Masks:
    """Read the mask of every image that has one.

    Every value above 0 is lesion, so masks of 0 and 1, of 0 and 255 and of numbered labels mean the same; in a JPEG
    or WebP file every value above half of the largest. A pixel of the network's size is lesion when at least half of
    what it covers is.

    Args:
        manifest: N samples.
        records: of their images, for the native sizes; a size of 0 is not compared.
        preprocess: how the images became network input; the masks are fitted the same way.
        rules: limits for reading files.
    """
    # numbers of labels are no gray levels: they are not to be stretched or windowed
    rules = rules.model_copy(update={"sixteen_bit": "auto", "float_range": None})
    lesions = np.zeros((len(manifest), *preprocess.size), dtype=np.bool_)
    known = np.zeros(len(manifest), dtype=np.bool_)
    bad: dict[str, str] = {}
    for row, (sample, record) in enumerate(zip(manifest.samples(), records, strict=True)):
        if not sample.mask:
            continue
        try:
            mask = decode(Path(sample.mask), rules)
        except DataError as error:
            bad[sample.sample_id] = f"[{error.code}] {error.problem.what}"
            continue
        height, width = mask.pixels.shape[:2]
        if record.width and (record.height, record.width) != (height, width):
            bad[sample.sample_id] = f"{width}x{height} pixels, its image {record.width}x{record.height}"
            continue
        lesions[row], known[row] = _fitted(mask, preprocess), True
    return Masks(lesions, known, _unreadable(bad))


def _fitted(mask: DecodedImage, preprocess: Preprocess) -> MaskArray:
    level = mask.pixels.max(axis=2)
    inside = level > (max(_NOISE, int(level.max()) // 2) if mask.format in _LOSSY else 0)
    picture = np.repeat(inside[..., None].astype(np.uint8) * np.uint8(255), 3, axis=2)
    # a bicubic filter overshoots, which makes holes and rims
    found: MaskArray = fit(picture, replace(preprocess, interpolation="bilinear"))[..., 0] >= 128
    return found


def _unreadable(bad: dict[str, str]) -> tuple[CheckResult, ...]:
    if not bad:
        return ()
    return (
        CheckResult(
            "MASK_UNREADABLE",
            "note",
            f"{len(bad):,} masks cannot be used: {next(iter(bad.values()))}" + (", …" if len(bad) > 1 else ""),
            {"masks": len(bad), "examples": dict(list(bad.items())[:_SHOWN])},
            "give each image a mask of its own width and height, in a format that images may have",
        ),
    )
