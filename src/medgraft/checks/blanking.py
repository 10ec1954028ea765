"""Copies of images in which a region cannot be seen: what a model loses with it, it had read there.

    pixels (n, h, w, 3) uint8 ─┬─ corners_blanked, borders_blanked   fixed places
                               ├─ text_blanked                       strokes that stand free, found per image
                               └─ lesion_removed, lesion_only        by masks (n, h, w)
                                      └─► Blanked: the copies, and which of them differ from the images

The filling must not be a sign itself, so it is made of what surrounds the region in the same image: one gray for all
would be a bright object on the black background of a scan. Two fillings, because none suits every image (`Fill`). AUROC
of models for images whose borders should not matter, as they are, with a median color and mirrored: 200 lymph-node
patches 0.91, 0.74, 0.89 (a color is no texture); 50 brain MRI slices 0.96, 0.98, 0.84 (the skull stands there twice).
A drop that only one of them shows comes from the filling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medgraft.types import PixelArray

MaskArray = npt.NDArray[np.bool_]
Fill = Literal["median", "mirror"]
_GrayArray = npt.NDArray[np.float32]
_Box = tuple[slice, ...]

_EIGHT = np.ones((3, 3), dtype=np.bool_)  # neighbors, diagonal ones too

# Lengths are shares of the shorter side.
_CORNER, _BORDER = 0.18, 0.08
_RING = 0.03  # what counts as around a region
_LESION_MARGIN = 0.02  # outlines are drawn a little inside what can be seen
# Text: how thick strokes are, how far apart letters and lines stand, how large a word or a block of lines is.
_STROKE, _GAP, _AROUND, _LOWEST, _HIGHEST, _WIDEST = 0.045, 0.012, 0.015, 0.018, 0.25, 0.4
# Gray levels of 255. Flat is also what varies by a third of the contrast.
_CONTRAST, _FLAT, _FLAT_SHARE = 35.0, 16.0, 0.35
_HALO = 2  # pixels beside a stroke that are neither it nor its surroundings
_EDGE = 0.22  # how far from an edge the center of a word may lie


@dataclass(frozen=True, eq=False)
class Blanked:
    """Changed copies of n images.

    Attributes:
        pixels: (n, h, w, 3) uint8, a fresh array.
        changed: (n,) which images differ from what was given.
    """

    pixels: PixelArray
    changed: MaskArray


def corners_blanked(pixels: PixelArray, *, fill: Fill = "median") -> Blanked:
    """Without the four corners: squares of 18 % of the shorter side.

    Args:
        pixels: (n, h, w, 3) uint8.
        fill: ``median``: the median color of the band along the inner sides of each square; ``mirror``: the pixels
            beyond the nearer inner side, mirrored at it.
    """
    side = max(1, round(_CORNER * min(pixels.shape[1:3])))
    out = pixels.copy()
    for rows in (slice(None), slice(None, None, -1)):
        for columns in (slice(None), slice(None, None, -1)):
            # seen from each corner it is the upper left one; these are views, so writing reaches `out`
            _blank_corner(out[:, rows, columns], pixels[:, rows, columns], side, fill)
    return _compared(pixels, out)


def _blank_corner(out: PixelArray, given: PixelArray, side: int, fill: Fill) -> None:
    if fill == "median":
        reach = side + _pixels(_RING, given)
        outside = np.ones((reach, reach), dtype=np.bool_)
        outside[:side, :side] = False
        out[:, :side, :side] = _median(given[:, :reach, :reach][:, outside])[:, None, None]
        return
    beside = given[:, :side, side : 2 * side][:, :, ::-1]
    below = given[:, side : 2 * side, :side][:, ::-1]
    distance = np.arange(side)[::-1]
    nearer_beside = distance[None, :] < distance[:, None]
    out[:, :side, :side] = np.where(nearer_beside[..., None], beside, below)


def borders_blanked(pixels: PixelArray, *, fill: Fill = "median") -> Blanked:
    """Without the outer frame: 8 % of the shorter side.

    Args:
        pixels: (n, h, w, 3) uint8.
        fill: ``median``: the median color of the band within the frame; ``mirror``: the image within, mirrored at it.
    """
    depth = max(1, round(_BORDER * min(pixels.shape[1:3])))
    within = pixels[:, depth:-depth, depth:-depth]
    if fill == "mirror":
        around = ((0, 0), (depth, depth), (depth, depth), (0, 0))
        return _compared(pixels, np.pad(within, around, mode="symmetric"))
    ring = np.ones(within.shape[1:3], dtype=np.bool_)
    width = _pixels(_RING, pixels)
    ring[width:-width, width:-width] = False
    out = np.broadcast_to(_median(within[:, ring])[:, None, None], pixels.shape).copy()
    out[:, depth:-depth, depth:-depth] = within
    return _compared(pixels, out)


def text_blanked(pixels: PixelArray) -> Blanked:
    """Without letters, digits and marks that look like them.

    Text is a group of thin strokes, brighter or darker by 35 gray levels than flat or evenly sloping surroundings on
    all sides, of the size of a letter, a word or a few lines, with its center near an edge of the image. It takes the
    median color around it.

    Limits: text that is faint, bold and large, or touches the body is missed; wires, clips, rulers and edges of
    cassettes beside the body are taken for text. At 224 pixels it changes 47 of 100 chest X-rays of children, 2 of 100
    MRI slices of a set without text, and no phantom.

    Args:
        pixels: (n, h, w, 3) uint8; text needs about 5 pixels of height.
    """
    out = pixels.copy()
    for image in out:
        for bright in (True, False):
            _blank_signs(image, bright=bright)
    return _compared(pixels, out)


def _blank_signs(image: PixelArray, *, bright: bool) -> None:
    """Fill bright, or dark, signs of one image (h, w, 3) in place."""
    gray = (image.max(axis=2) if bright else 255 - image.min(axis=2)).astype(np.float32)
    side = min(gray.shape)
    thickness = max(3, round(_STROKE * side) | 1)
    strokes = gray - ndimage.grey_opening(gray, size=(thickness, thickness)) >= _CONTRAST
    # letters and lines that stand close together are judged as one
    words, _ = ndimage.label(_widened(strokes, _GAP))
    words[~strokes] = 0
    for number, box in enumerate(ndimage.find_objects(words), start=1):
        if not (_has_size_of_text(box, gray.shape) and _near_edge(box, gray.shape)):
            continue
        around = _grown(box, _HALO + max(2, round(_AROUND * side)), gray.shape)
        own = words[around] == number
        covered = ndimage.binary_dilation(own, structure=_EIGHT, iterations=_HALO)
        if _is_text(gray[around], own, covered):
            image[around][covered] = np.median(image[around][~covered], axis=0)


def _has_size_of_text(box: _Box, shape: tuple[int, ...]) -> bool:
    height, width = (one.stop - one.start for one in box)
    side = min(shape)
    return bool(max(3, _LOWEST * side) <= height <= _HIGHEST * side and 2 <= width <= _WIDEST * side)


def _is_text(gray: _GrayArray, own: MaskArray, covered: MaskArray) -> bool:
    """Whether strokes have flat surroundings on all sides that are much darker, and are no blob."""
    if 2 * np.count_nonzero(~covered) < np.count_nonzero(own):
        return False
    # over a body the background is a slope rather than a level
    places = np.stack([np.ones(gray.shape), *np.indices(gray.shape)], axis=-1)
    slope, *_ = np.linalg.lstsq(places[~covered], gray[~covered])
    height_above = gray - places @ slope
    contrast = float(np.median(height_above[own]))
    low, high = np.percentile(height_above[~covered], (3, 97))
    if contrast < _CONTRAST or high - low > max(_FLAT, _FLAT_SHARE * contrast):
        return False
    thick = 2 * int(ndimage.distance_transform_cdt(np.pad(own, 1), metric="chessboard").max()) - 1
    height, width = (1 + int(np.ptp(np.flatnonzero(own.any(axis=axis)))) for axis in (1, 0))
    # a blob is as thick as it is long; a stroke is a fifth of a letter's height, and 2 pixels wider where it is blurred
    return thick <= 0.25 * min(height, width) + 2.5 and max(height, width) >= 1.6 * thick


def _near_edge(box: _Box, shape: tuple[int, ...]) -> bool:
    zone = _EDGE * min(shape)
    centers = [(one.start + one.stop) / 2 for one in box]
    return any(min(center, n - center) < zone for center, n in zip(centers, shape, strict=True))


def lesion_removed(pixels: PixelArray, masks: MaskArray) -> Blanked:
    """With each lesion, and a margin of 2 %, filled smoothly from the ring around it.

    Each pixel is the mean of the ring's colors, weighted by a Gaussian of the distance to them.

    Args:
        pixels: (n, h, w, 3) uint8.
        masks: (n, h, w) True in lesions; an image without one stays as it is.
    """
    out = pixels.copy()
    for row in np.flatnonzero(masks.any(axis=(1, 2))):
        lesion = _widened(masks[row], _LESION_MARGIN)
        for box in ndimage.find_objects(ndimage.label(lesion, structure=_EIGHT)[0]):
            around = _grown(box, _pixels(_RING, pixels), lesion.shape)
            out[row][around] = _filled_smoothly(out[row][around], lesion[around])
    return _compared(pixels, out)


def _filled_smoothly(image: PixelArray, region: MaskArray) -> PixelArray:
    """An image (h, w, 3) with a region filled from what surrounds it, all of the image around it being near."""
    if region.all():
        return np.broadcast_to(np.median(image, axis=(0, 1)), image.shape).astype(np.uint8)
    known = (~region).astype(np.float64)
    # every pixel of the region has known ones within two sigma
    sigma = max(1.0, 0.5 * float(ndimage.distance_transform_edt(region).max()))
    weight = ndimage.gaussian_filter(known, sigma, mode="constant")
    colors = [ndimage.gaussian_filter(image[..., k] * known, sigma, mode="constant") for k in range(3)]
    filled = np.stack(colors, axis=2) / np.maximum(weight, 1e-12)[..., None]
    return np.where(region[..., None], np.rint(filled), image).astype(np.uint8)


def lesion_only(pixels: PixelArray, masks: MaskArray) -> Blanked:
    """Nothing but each lesion with a margin of 2 %, on the median color of the ring around it.

    Args:
        pixels: (n, h, w, 3) uint8.
        masks: (n, h, w) True in lesions; an image without one stays as it is.
    """
    out = pixels.copy()
    for row in np.flatnonzero(masks.any(axis=(1, 2))):
        kept = _widened(masks[row], _LESION_MARGIN)
        ring = _widened(kept, _RING) & ~kept
        if ring.any():
            out[row][~kept] = np.median(pixels[row][ring], axis=0)
    return _compared(pixels, out)


def _compared(pixels: PixelArray, out: PixelArray) -> Blanked:
    return Blanked(out, np.array([not np.array_equal(*pair) for pair in zip(pixels, out, strict=True)], dtype=np.bool_))


def _median(colors: PixelArray) -> PixelArray:
    """(n, 3) of colors (n, m, 3)."""
    found: PixelArray = np.rint(np.median(colors, axis=1)).astype(np.uint8)
    return found


def _pixels(share: float, pixels: PixelArray) -> int:
    """A share of the shorter side of images (n, h, w, 3), at least one pixel."""
    return max(1, round(share * int(min(pixels.shape[1:3]))))


def _widened(mask: MaskArray, share: float) -> MaskArray:
    reach = max(1, round(share * min(mask.shape)))
    found: MaskArray = ndimage.binary_dilation(mask, structure=_EIGHT, iterations=reach)
    return found


def _grown(box: _Box, reach: int, shape: tuple[int, ...]) -> _Box:
    return tuple(slice(max(0, one.start - reach), min(n, one.stop + reach)) for one, n in zip(box, shape, strict=True))
