"""Near copies: one picture stored twice, with other compression, size, frame, brightness or orientation.

    thumbnails ─► nearest descriptors in all 8 symmetries ─► aligned at 32 pixels ─► aligned at 96 pixels ─► CopyPair
                  (few per image)                            (most drop out)         (block by block)

Two pictures are copies when, after the best small shift and scale, nine blocks of ten leave no more of the one
unexplained by the other than heavy compression does. Different pictures of like things (neighbouring slices, the
chests of two children) share outlines, but not that.

COPIES_NEAR_WITHIN         within one part
COPIES_NEAR_ACROSS_PARTS   in two parts: scores on them are partly memory
COPIES_NEAR_LABELS         under two labels
COPIES_NEAR_FLAT           images with nothing on them, which are compared with none
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.data.alignment import Comparison, align, warp
from medgraft.data.fingerprint import (
    INVERSE,
    SIDE,
    SYMMETRIES,
    Fingerprints,
    GrayArray,
    PixelSource,
    descriptors,
    shrink,
    turned,
)
from medgraft.data.manifest import Manifest
from medgraft.data.nearest import nearest_pairs
from medgraft.data.split import ACROSS_PARTS_ADVICE
from medgraft.types import CheckResult, IntArray, Severity

# Of more images with equal thumbnails only so many are compared with others, so that pairs stay linear in number.
_IDENTICAL = 10
# Least correlation of aligned thumbnails after so many steps. Copies cropped by 3 % per side reach 0.64 and 0.76.
_COARSE_MATCHES = ((1, 0.55), (2, 0.75))
_COARSE_BATCH = 256
_FINE_SIDE = 96
_FINE_BATCH = 64
# What JPEG of quality 30 adds to the band that is compared, in gray levels: 250 / native side, within these. A smaller
# side than the other's adds no more than this share of the contrast: dim slices that differ would drown in it.
_NOISE, _LEAST_NOISE, _MOST_NOISE, _NOISE_SHARE = 250.0, 1.25, 2.6, 0.12
# Most that may be unexplained. At 48 pixels copies stay below 0.41. At 96, 99 of 100 copies stay below 0.06 (images of
# 200 pixels and more) and 0.09 (patches of 96 and 48 pixels), neighbouring slices of 256 pixels above 0.11.
_HALFWAY, _BASE, _PER_NOISE = 0.6, 0.04, 0.02
# Least changes that give a pair its name: half sides, gray levels, ratios.
_MOVED, _BRIGHTER, _STEEPER, _RESIZED = 0.007, 2.0, 0.04, 0.02
_SHOWN = 20


@dataclass(frozen=True, slots=True, order=True)
class CopyPair:
    """Two images that show one picture.

    Attributes:
        first: position of the one image.
        second: position of the other, larger.
        kind: how the second is got from the first, by the most visible change: a name of `SYMMETRIES`,
            ``cropped``, ``brightness``, ``resized``, or ``same`` (perhaps encoded anew).
        distance: share that is left unexplained, less the noise of compression: 0 to about 0.1.
    """

    first: int
    second: int
    kind: str
    distance: float


def near_copies(
    prints: Fingerprints, pixels: PixelSource, *, progress: Callable[[int, int], None] | None = None
) -> list[CopyPair]:
    """All pairs of near copies, sorted by position.

    Found are re-encoding (JPEG from quality 30), resizing (half to double), cropping (up to 3 % per side),
    brightness and contrast, mirroring and right angles, and their combinations. Of more than ten images with equal
    thumbnails only the first ten are paired with others.

    Args:
        prints: of N images.
        pixels: the same N images; only candidates are read.
        progress: called with (done, total) while candidates are compared.
    """
    rows = prints.comparable
    if len(rows) < 2:
        return []
    members = _identical(prints, rows)
    alone = np.array([group[0] for group in members], dtype=np.int64)
    found = nearest_pairs(descriptors(prints.thumbnails[alone]))
    found[:, :2] = alone[found[:, :2]]
    found = _with_identical(_matching(prints, found), members)
    return sorted(_verified(prints, pixels, found, progress))


def check_near_copies(
    manifest: Manifest,
    pairs: Sequence[CopyPair],
    *,
    exact: Sequence[str] | None = None,
    flat: IntArray | None = None,
) -> tuple[CheckResult, ...]:
    """What near copies mean for parts and labels.

    Args:
        manifest: N samples, with parts where there are any.
        pairs: as `near_copies` gave them.
        exact: N values, equal for exact copies, which are told elsewhere; None when not known.
        flat: images that were compared with none.
    """
    ids, labels, parts = (list(manifest.table[name]) for name in ("sample_id", "label", "split"))
    near = [pair for pair in pairs if exact is None or not exact[pair.first] or exact[pair.first] != exact[pair.second]]
    across = [pair for pair in near if parts[pair.first] != parts[pair.second]]
    within = [pair for pair in near if parts[pair.first] == parts[pair.second]]
    conflicts = [pair for pair in near if len({labels[pair.first], labels[pair.second]} - {None}) > 1]
    shown = [
        {
            "first": ids[pair.first],
            "second": ids[pair.second],
            "kind": pair.kind,
            "distance": round(pair.distance, 4),
            "parts": [parts[pair.first], parts[pair.second]],
            "labels": [labels[pair.first], labels[pair.second]],
        }
        for pair in near
    ]
    evidence_of = dict(zip(near, shown, strict=True))

    def result(code: str, chosen: Sequence[CopyPair], title: str, advice: str) -> CheckResult:
        images = {row for pair in chosen for row in (pair.first, pair.second)}
        evidence = {
            "pairs": len(chosen),
            "images": len(images),
            "kinds": dict(Counter(pair.kind for pair in chosen).most_common()),
            "examples": [evidence_of[pair] for pair in chosen[:_SHOWN]],
        }
        severity: Severity = "error" if code == "COPIES_NEAR_ACROSS_PARTS" else "warning"
        return CheckResult(code, severity, title, evidence, advice)

    found = []
    if within:
        where = " of one part" if any(parts) else ""
        title = f"{len(within):,} pairs of images{where} show the same picture ({_kinds(within)})"
        found.append(result("COPIES_NEAR_WITHIN", within, title, "remove one of each, so that it does not count twice"))
    if across:
        crossings = Counter(" and ".join(sorted({str(parts[pair.first]), str(parts[pair.second])})) for pair in across)
        told = ", ".join(f"{name}: {count:,}" for name, count in crossings.most_common())
        title = f"{len(across):,} pairs of images in two parts show the same picture ({told}; {_kinds(across)})"
        found.append(result("COPIES_NEAR_ACROSS_PARTS", across, title, ACROSS_PARTS_ADVICE))
    if conflicts:
        title = f"{len(conflicts):,} pairs of images show the same picture under two labels ({_kinds(conflicts)})"
        advice = "unless orientation is the label, one of each pair is wrong: look at them and correct or remove them"
        found.append(result("COPIES_NEAR_LABELS", conflicts, title, advice))
    if flat is not None and len(flat):
        title = f"{len(flat):,} images show next to nothing and were not searched for near copies"
        evidence = {"images": len(flat), "examples": [ids[row] for row in flat[:_SHOWN].tolist()]}
        found.append(CheckResult("COPIES_NEAR_FLAT", "note", title, evidence))
    return tuple(found)


def _kinds(pairs: Sequence[CopyPair]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in Counter(pair.kind for pair in pairs).most_common())


def _identical(prints: Fingerprints, rows: IntArray) -> list[list[int]]:
    """Images with equal thumbnails, in order; most stand alone."""
    groups: dict[bytes, list[int]] = {}
    for row in rows.tolist():
        digest = hashlib.blake2b(prints.thumbnails[row].tobytes(), digest_size=16).digest()
        groups.setdefault(digest, []).append(row)
    return list(groups.values())


def _matching(prints: Fingerprints, found: IntArray) -> IntArray:
    """Candidates whose thumbnails agree when aligned: at first roughly, since most drop out there."""
    tools = Comparison.of_side(SIDE)
    kept = [found[:0]]
    for part in _batches(len(found), _COARSE_BATCH):
        pairs = found[part]
        first, second = _thumbnails(prints, pairs)
        placed = np.zeros((len(pairs), 4), dtype=np.float32)
        for steps, least in _COARSE_MATCHES:
            placed = align(first, second, placed, steps=steps)
            match = tools.match(first, *warp(second, placed))
            agree = match >= least
            pairs, first, second, placed = pairs[agree], first[agree], second[agree], placed[agree]
        kept.append(pairs)
    return np.concatenate(kept)


def _verified(
    prints: Fingerprints, pixels: PixelSource, found: IntArray, progress: Callable[[int, int], None] | None
) -> list[CopyPair]:
    """Pairs that are copies, each with the symmetry that explains it best."""
    best: dict[tuple[int, int], tuple[float, CopyPair]] = {}
    for part in _batches(len(found), _FINE_BATCH):
        for residual, pair in _copies_among(prints, pixels, found[part]):
            ends = pair.first, pair.second
            if ends not in best or residual < best[ends][0]:
                best[ends] = residual, pair
        if progress is not None:
            progress(part.stop, len(found))
    return [pair for _, pair in best.values()]


def _copies_among(prints: Fingerprints, pixels: PixelSource, pairs: IntArray) -> Iterator[tuple[float, CopyPair]]:
    """Those candidates that are copies, each with its residual in gray levels."""
    first, second, noise = _read_pairs(prints, pixels, pairs)
    placed = align(*_thumbnails(prints, pairs), np.zeros((len(pairs), 4), dtype=np.float32), steps=4)
    if first.shape[-1] == _FINE_SIDE:
        # Half the side first: a quarter of the arithmetic settles most pairs that are no copies.
        placed, distance, _, _ = _compared(_halved(first), _halved(second), noise, placed, steps=2)
        near = distance <= _HALFWAY
        pairs, first, second, noise, placed = pairs[near], first[near], second[near], noise[near], placed[near]
    if not len(pairs):
        return
    placed, distance, residual, warped = _compared(first, second, noise, placed, steps=3)
    for at in np.flatnonzero(distance <= _BASE + _PER_NOISE * noise).tolist():
        one, other, symmetry = pairs[at].tolist()
        kind = _kind(symmetry, placed[at], first[at], warped[at], prints.sizes[[one, other]])
        yield float(residual[at]), CopyPair(one, other, kind, float(distance[at]))


def _read_pairs(prints: Fingerprints, pixels: PixelSource, pairs: IntArray) -> tuple[GrayArray, GrayArray, GrayArray]:
    """Both images of each pair at up to 96 pixels, the second turned, and the noise to expect in gray levels."""
    rows, place = np.unique(pairs[:, :2], return_inverse=True)
    images = pixels.read(rows)
    side = max(SIDE, min(_FINE_SIDE, min(images.shape[1:3]) // 16 * 16))
    small = shrink(images, side)
    native = np.where(prints.sizes[rows] > 0, prints.sizes[rows], images.shape[1:3]).min(axis=1)
    place = place.reshape(-1, 2)
    noises = np.clip(_NOISE / native[place], _LEAST_NOISE, _MOST_NOISE)
    dimmer = _NOISE_SHARE * prints.contrast[rows][place].min(axis=1)
    noise = np.maximum(noises.min(axis=1), np.minimum(noises.max(axis=1), dimmer)).astype(np.float32)
    return small[place[:, 0]], _turned_each(small[place[:, 1]], pairs[:, 2]), noise


def _compared(
    first: GrayArray, second: GrayArray, noise: GrayArray, start: GrayArray, *, steps: int
) -> tuple[GrayArray, GrayArray, GrayArray, GrayArray]:
    """Placement, distance, residual, and the second picture as it lies in the first."""
    placed = align(first, second, start, steps=steps)
    warped, inside = warp(second, placed)
    distance, residual = Comparison.of_side(first.shape[-1]).unexplained(first, warped, inside, noise=noise)
    return placed, distance, residual, warped


def _halved(images: GrayArray) -> GrayArray:
    summed: GrayArray = images[:, ::2, ::2] + images[:, 1::2, ::2] + images[:, ::2, 1::2] + images[:, 1::2, 1::2]
    return summed * np.float32(0.25)


def _kind(symmetry: int, placed: GrayArray, first: GrayArray, second: GrayArray, sizes: IntArray) -> str:
    """Name of the most visible change."""
    if symmetry:
        return SYMMETRIES[symmetry]
    # How far the edges moved.
    if (np.abs(placed[[0, 2]]) + np.abs(placed[[1, 3]])).max() > _MOVED:
        return "cropped"
    if sizes.min() > 0 and np.abs(sizes[1] / sizes[0] - 1.0).max() > _RESIZED:
        return "resized"
    # Of blurred pictures: compression takes contrast from fine detail.
    broad = [picture.reshape(len(picture) // 8, 8, -1, 8).mean(axis=(1, 3)) for picture in (first, second)]
    ratio = float(broad[1].std()) / max(float(broad[0].std()), 1e-3)
    if abs(float(broad[1].mean() - broad[0].mean())) > _BRIGHTER or abs(ratio - 1.0) > _STEEPER:
        return "brightness"
    return SYMMETRIES[0]


def _with_identical(found: IntArray, members: Sequence[list[int]]) -> IntArray:
    """Candidates and, for images that stand for others with equal thumbnails, the same of those; and among those."""
    groups = {group[0]: group for group in members if len(group) > 1}
    rows = [
        (one, other, symmetry) if one < other else (other, one, INVERSE[symmetry])
        for first, second, symmetry in found.tolist()
        for one in groups.get(first, [first])[:_IDENTICAL]
        for other in groups.get(second, [second])[:_IDENTICAL]
    ]
    for group in groups.values():
        rows += [(one, other, 0) for at, other in enumerate(group) for one in group[: min(at, _IDENTICAL)]]
    return np.array(sorted(rows), dtype=np.int64).reshape(-1, 3)


def _thumbnails(prints: Fingerprints, pairs: IntArray) -> tuple[GrayArray, GrayArray]:
    """Thumbnails of both images of each pair, the second turned to lie as the first does."""
    first = prints.thumbnails[pairs[:, 0]].astype(np.float32)
    return first, _turned_each(prints.thumbnails[pairs[:, 1]].astype(np.float32), pairs[:, 2])


def _turned_each(images: GrayArray, symmetry: IntArray) -> GrayArray:
    """Each image under its own symmetry."""
    result = np.empty_like(images)
    for value in np.unique(symmetry).tolist():
        chosen = symmetry == value
        result[chosen] = turned(images[chosen], value)
    return result


def _batches(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
