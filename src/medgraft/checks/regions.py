"""Parts of images as short rows of numbers: the whole as a thumbnail, the border alone, the corners alone.

    pixels (N, h, w, 3) ─┬─ thumbnails   32x32 cells, gray or color
                         ├─ borders      4 strips of 32x2 cells, gray
                         └─ corners      4 patches of 8x8 cells and the brightest pixel of each, gray

Pixels are those at network size, so with `pad` the border is the padding, and with `crop` the native border is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from medgraft.data.fingerprint import GrayArray, PixelSource
from medgraft.types import IntArray, PixelArray

BORDER = 0.06
"""Width of the border, as a share of the side."""
CORNER = 0.15
"""Side of a corner, as a share of the side."""
CORNERS = ("top left", "top right", "bottom left", "bottom right")
STRIPS = ("top", "bottom", "left", "right")
THUMBNAIL = 32
"""Side of a thumbnail in cells."""
_ALONG, _DEEP, _PATCH = 32, 2, 8
_COLOR = 1.0  # mean distance of the channels from their mean in grey levels, below which there is no color
_ENOUGH = 1000  # images that are looked at for color
_BATCH_BYTES = 32_000_000


@dataclass(frozen=True)
class Region:
    """What stands in one kind of place of N images.

    Attributes:
        features: (N, D) grey levels 0..255.
        places: D names of where each was seen.
    """

    features: GrayArray
    places: tuple[str, ...]


def thumbnails(pixels: PixelSource) -> GrayArray:
    """Images averaged over 32 by 32 cells.

    Args:
        pixels: N images of one size, at least one.

    Returns:
        (N, D) grey levels 0..255: D is 1,024, and three times that where images have color.
    """
    small = _of_all(pixels, lambda images: _cells(images, THUMBNAIL, THUMBNAIL))
    some = small[:: -(-len(small) // _ENOUGH)]
    if float(np.abs(some - some.mean(axis=3, keepdims=True)).mean()) < _COLOR:
        small = small.mean(axis=3)
    return small.reshape(len(small), -1)


def borders(pixels: PixelSource) -> Region:
    """What stands in the outermost 6 % of each of N images, at least one, in strips of 32 by 2 cells."""

    def measured(images: PixelArray) -> GrayArray:
        strips = [gray(strip) for strip in border_strips(images)]
        shapes = ((_DEEP, _ALONG), (_DEEP, _ALONG), (_ALONG, _DEEP), (_ALONG, _DEEP))
        cells = [_cells(strip[..., None], *shape) for strip, shape in zip(strips, shapes, strict=True)]
        return np.concatenate([one.reshape(len(one), -1) for one in cells], axis=1)

    features = _of_all(pixels, measured)
    return Region(features, tuple(np.repeat(STRIPS, features.shape[1] // len(STRIPS)).tolist()))


def corners(pixels: PixelSource) -> Region:
    """What stands in the corners of N images, at least one: patches of 8 by 8 cells and the brightest pixel of each."""

    def measured(images: PixelArray) -> GrayArray:
        found = []
        for patch in corner_patches(images):
            level = gray(patch)
            flat = level.reshape(len(level), -1)
            cells = _cells(level[..., None], _PATCH, _PATCH)
            found += [cells.reshape(len(cells), -1), flat.max(axis=1, keepdims=True)]
        return np.concatenate(found, axis=1)

    features = _of_all(pixels, measured)
    return Region(features, tuple(np.repeat(CORNERS, features.shape[1] // len(CORNERS)).tolist()))


def border_strips(images: PixelArray) -> tuple[PixelArray, ...]:
    """Views of the four edges of images (n, h, w, 3) in the order of `STRIPS`; they share the corners."""
    down, across = (max(1, round(BORDER * side)) for side in images.shape[1:3])
    return images[:, :down], images[:, -down:], images[:, :, :across], images[:, :, -across:]


def corner_patches(images: PixelArray) -> tuple[PixelArray, ...]:
    """Views of the four corners of images (n, h, w, 3) in the order of `CORNERS`."""
    down, across = (max(1, round(CORNER * side)) for side in images.shape[1:3])
    upper, lower = images[:, :down], images[:, -down:]
    return upper[:, :, :across], upper[:, :, -across:], lower[:, :, :across], lower[:, :, -across:]


def gray(images: PixelArray) -> GrayArray:
    """Mean of the channels of images (..., 3), grey levels 0..255."""
    summed = images[..., 0].astype(np.float32)
    summed += images[..., 1]
    summed += images[..., 2]
    summed /= np.float32(3.0)
    return summed


def in_batches(pixels: PixelSource) -> Iterator[PixelArray]:
    """Images in order, about 32 MB at a time; nothing where there are none."""
    n, step, start = len(pixels), 1, 0
    while start < n:
        images = pixels.read(np.arange(start, min(n, start + step), dtype=np.int64))
        yield images
        start += len(images)
        step = max(1, _BATCH_BYTES // images[0].nbytes)


def _of_all(pixels: PixelSource, measure: Callable[[PixelArray], GrayArray]) -> GrayArray:
    return np.concatenate([measure(images) for images in in_batches(pixels)])


def _cells(images: PixelArray | GrayArray, rows: int, columns: int) -> GrayArray:
    """Images (n, h, w, c) averaged over so many cells, or over single pixels where there are fewer: (n, r, k, c)."""
    height, width = images.shape[1:3]
    top, left = _edges(height, rows), _edges(width, columns)
    wide = np.uint32 if images.dtype == np.uint8 else np.float32
    summed = np.add.reduceat(np.add.reduceat(images, top, axis=1, dtype=wide), left, axis=2, dtype=wide)
    area = np.outer(np.diff(top, append=height), np.diff(left, append=width)).astype(np.float32)
    return np.divide(summed, area[..., None], dtype=np.float32)


def _edges(size: int, cells: int) -> IntArray:
    """First pixel of each cell."""
    n = min(size, cells)
    return np.arange(n, dtype=np.int64) * size // n
