"""What a bundle remembers of its training images: enough to know them again, too little to show them.

    pixel hash ──► keyed hash, 16 bytes                                                    exact copies
    thumbnail ──► middle frequencies ──► less the set's mean, over its spread ──► 256 signs   near copies
                                                          of sums with random signs from the salt
    query ──► the same sums in 8 orientations and 4 frames ──► nearest signs ──► frame fitted ──► seen or not

The query keeps its sums, not only their signs: in a copy only small sums change sign, in another picture large ones
do too. An image that was cropped is found by fitting its frame to the signs, so nothing more has to be kept.

How alike images of one set are differs: chests of two children never come near each other, neighbouring slices of one
head do. What counts as a copy is therefore set where the bundle is made, from the likeness of its own images; where
those are slices, frames are not fitted and cropped copies are not found.

Who owns an image can learn whether it was there, which is what an imprint is for; the salt only makes the hashes of two
bundles differ. What a stranger can rebuild, by the best linear estimate from signs and salt with hundreds of other
patients' images at hand, correlates with the image's own 32-pixel thumbnail (less the set's mean) at 0.73 (X-rays),
0.63 (LGG), 0.71 (brain MRI), 0.38 (histopathology), and with another patient's at -0.03 to 0.05; the most alike of the
stranger's own images reaches 0.64, 0.59, 0.69 and 0.28: a blur, little nearer to the image than what looks like it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgraft.data.alignment import warp
from medgraft.data.fingerprint import SIDE, Fingerprints, GrayArray, turned
from medgraft.types import IntArray, PixelArray

BoolArray = npt.NDArray[np.bool_]

BITS = 256  # signs kept of an image
_SALT_BYTES = _HASH_BYTES = 16
# Half periods per side. Below lies most of what an eye would recognise, and little that tells images apart.
_LOWEST, _HIGHEST = 4, 16
_DOWN, _ACROSS = np.array(
    [
        (down, across)
        for down in range(_HIGHEST + 1)
        for across in range(_HIGHEST + 1)
        if _LOWEST**2 <= down**2 + across**2 <= _HIGHEST**2
    ]
).T
# Only the middle of an image is described: it is still there when 3 % are cropped from each side.
_INNER = 0.93
# A mean of fewer pictures would tell too much about each.
_FEWEST = 100
_LEAST_SPREAD = 0.15
# Frames in which a query is looked up, as scales: as it is, and as if cropped, or the remembered one, by so much.
_FRAMES = (0.0, -0.03, -0.055, 0.03)
# Of the signs, so many choose the nearest images, of which all signs then decide.
_FIRST, _NEAREST = 128, 5
_QUERIES, _MEMBERS = 128, 8192
# Steps by which the four edges of the frame move, in sides, each with the likeness from which it is worth taking.
_STEPS = ((0.02, 0.55), (0.01, 0.6), (0.005, 0.75), (0.0025, 0.85))
_FARTHEST = 0.04
_MOVES = np.array(
    [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 1, 0, 0), (0, 0, 1, 1), (1, -1, 0, 0), (0, 0, 1, -1)],
    dtype=np.float32,
)
# What a copy must reach, in its own frame and in a fitted one: this share of the way to 1 from what nine images of ten
# stay below among themselves, within these.
_MEASURED, _NEIGHBORS, _QUANTILE = 300, 8, 0.9
_SHARE_UNMOVED, _SHARE_MOVED = 0.8, 0.85
# Images of one set that are more alike than this may be copies: they say nothing about different ones.
_MAY_BE_COPIES = 0.985
_LEAST_UNMOVED, _LEAST_MOVED, _MOST = 0.92, 0.95, 0.99
_NEVER = 2.0
_OWN_FRAME = np.zeros((1, 4), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Imprint:
    """What is kept of a set of images; rows are sorted, so they tell neither order nor which two belong together.

    Attributes:
        salt: 16 bytes; other salts give other hashes and signs of the same images.
        exact: (n, 16) uint8 keyed hashes of pixels.
        near: (m, 32) uint8, 256 packed signs of each image that shows something.
        centre: (D,) float32 mean of the descriptors of the set; 0 where the set is too small to tell it.
        spread: (D,) float32 what they are divided by; above 0.
        least: (2,) float32 likeness, up to 1, from which an image is a copy in its own frame, and in a fitted one;
            above 1 where fitting would make neighbouring slices copies.
    """

    salt: bytes
    exact: PixelArray
    near: PixelArray
    centre: GrayArray
    spread: GrayArray
    least: GrayArray

    def as_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """All of it as arrays, to be kept in a file of tensors."""
        return {
            "salt": np.frombuffer(self.salt, dtype=np.uint8),
            "exact": self.exact,
            "near": self.near,
            "centre": self.centre,
            "spread": self.spread,
            "least": self.least,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Imprint:
        """Inverse of `as_arrays`, for arrays of unknown origin.

        Raises:
            ValueError: what is missing, too much, of another type or shape, or out of range.
        """
        n = len(_DOWN)
        expected: dict[str, tuple[type[np.generic], tuple[int | None, ...]]] = {
            "salt": (np.uint8, (_SALT_BYTES,)),
            "exact": (np.uint8, (None, _HASH_BYTES)),
            "near": (np.uint8, (None, BITS // 8)),
            "centre": (np.float32, (n,)),
            "spread": (np.float32, (n,)),
            "least": (np.float32, (2,)),
        }
        if set(arrays) != set(expected):
            raise ValueError(f"an imprint has the arrays {', '.join(expected)}, not {', '.join(arrays) or 'none'}")
        for name, (kind, shape) in expected.items():
            array = arrays[name]
            fits = array.ndim == len(shape) and all(
                want in (None, have) for want, have in zip(shape, array.shape, strict=True)
            )
            if array.dtype != kind or not fits:
                wanted = ", ".join("any" if size is None else str(size) for size in shape)
                raise ValueError(
                    f"{name} of an imprint is {np.dtype(kind)} ({wanted}), not {array.dtype} {array.shape}"
                )
            if kind is np.float32 and not np.isfinite(array.astype(np.float64)).all():
                raise ValueError(f"{name} of an imprint has values that are not finite")
        own = {name: np.array(array) for name, array in arrays.items()}
        if own["spread"].min() <= 0 or own["least"].min() <= 0:
            raise ValueError("spread and least of an imprint must be above 0")
        salt = own.pop("salt").tobytes()
        return cls(salt, **own)


@dataclass(frozen=True, slots=True)
class Seen:
    """Which of N images are remembered.

    Attributes:
        exact: (N,) the same pixels.
        near: (N,) the same picture with other pixels; never where ``exact``.
    """

    exact: BoolArray
    near: BoolArray


def take_imprint(prints: Fingerprints, pixel_hashes: Sequence[str], *, salt: bytes | None = None) -> Imprint:
    """What to remember of N images.

    Args:
        prints: of the images; those with nothing on them leave no signs.
        pixel_hashes: `ImageRecord.pixel_hash` of each; empty ones leave no hash.
        salt: 16 bytes; random by default.

    Source: random hyperplanes, Charikar 2002; unequal treatment of query and kept signs, Dong et al. 2008.
    """
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    if len(salt) != _SALT_BYTES:
        raise ValueError(f"the salt of an imprint has {_SALT_BYTES} bytes, not {len(salt)}")
    _check_lengths(prints, pixel_hashes)
    thumbnails = prints.thumbnails[prints.comparable]
    sums = _Sums.of(salt, thumbnails)
    near = np.empty((len(thumbnails), BITS // 8), dtype=np.uint8)
    for part in _parts(len(thumbnails), _MEMBERS):
        near[part] = np.packbits(sums(thumbnails[part].astype(np.float32), _OWN_FRAME) > 0, axis=1)
    exact = {_keyed(salt, pixel_hash) for pixel_hash in pixel_hashes if pixel_hash}
    hashes = np.frombuffer(b"".join(sorted(exact)), dtype=np.uint8).reshape(-1, _HASH_BYTES)
    least = _least_likeness(sums, near, thumbnails)
    return Imprint(salt, hashes, np.unique(near, axis=0), sums.centre, sums.spread, least)


def find_in(imprint: Imprint, prints: Fingerprints, pixel_hashes: Sequence[str]) -> Seen:
    """Which of N images are remembered, whole or as near copies.

    Near copies are found when encoded anew, resized, made brighter or darker, mirrored or turned by right angles, and
    cropped by up to 3 % per side. Measured with 100 copies of each kind in 513 to 1,498 images (``bench/imprint.py``):
    recall 0.94 and more, but for strong darkening that clips (brain MRI 0.91, LGG 0.41) and for cropping (X-rays and
    histopathology 1.00, brain MRI 0.75, volumes 0). An image with nothing on it is no near copy of any.

    Args:
        imprint: of other images, fitted to the same network size.
        prints: of the N images.
        pixel_hashes: `ImageRecord.pixel_hash` of each.
    """
    _check_lengths(prints, pixel_hashes)
    known = {row.tobytes() for row in imprint.exact}
    exact = np.array(
        [bool(pixel_hash) and _keyed(imprint.salt, pixel_hash) in known for pixel_hash in pixel_hashes], dtype=np.bool_
    )
    near = np.zeros(len(prints), dtype=np.bool_)
    asking = prints.comparable[~exact[prints.comparable]]
    if len(imprint.near):
        sums = _Sums(imprint.centre, imprint.spread, _projection(imprint.salt))
        for part in _parts(len(asking), _QUERIES):
            thumbnails = prints.thumbnails[asking[part]].astype(np.float32)
            near[asking[part]] = _recognised(imprint, sums, thumbnails)
    return Seen(exact, near)


@dataclass(frozen=True, slots=True)
class _Sums:
    """The 256 sums of a thumbnail whose signs are kept.

    Attributes:
        centre: (D,) of the descriptors.
        spread: (D,) of the descriptors.
        projection: (D, 256) of -1 and 1.
    """

    centre: GrayArray
    spread: GrayArray
    projection: GrayArray

    @classmethod
    def of(cls, salt: bytes, thumbnails: npt.NDArray[np.float16]) -> _Sums:
        """Centred on what the images have in common, where they are enough that it does not tell one of them."""
        n = len(_DOWN)
        centre, spread = np.zeros(n, dtype=np.float32), np.ones(n, dtype=np.float32)
        if len({hashlib.blake2b(each.tobytes(), digest_size=8).digest() for each in thumbnails}) >= _FEWEST:
            total, squares = np.zeros(n), np.zeros(n)
            for part in _parts(len(thumbnails), _MEMBERS):
                described = _described(thumbnails[part].astype(np.float32), _OWN_FRAME).astype(np.float64)
                total += described.sum(axis=0)
                squares += (described**2).sum(axis=0)
            mean = total / len(thumbnails)
            deviation = np.sqrt(np.maximum(squares / len(thumbnails) - mean**2, 0.0))
            centre = mean.astype(np.float32)
            spread = (deviation + _LEAST_SPREAD * deviation.mean() + 1e-6).astype(np.float32)
        return cls(centre, spread, _projection(salt))

    def __call__(self, thumbnails: GrayArray, placed: GrayArray) -> GrayArray:
        """(n, 256) sums of thumbnails as seen through placements, absolute values adding up to 1."""
        sums = ((_described(thumbnails, placed) - self.centre) / self.spread) @ self.projection
        scaled: GrayArray = sums / np.maximum(np.abs(sums).sum(axis=1, keepdims=True), 1e-9)
        return scaled


def _recognised(imprint: Imprint, sums: _Sums, thumbnails: GrayArray) -> BoolArray:
    """(q,) whether thumbnails are near copies of remembered ones."""
    movable = imprint.least[1] <= 1
    asked = _asked(sums, thumbnails, _FRAMES if movable else _FRAMES[:1])
    members = _closest(imprint.near, asked, count=_NEAREST)
    unmoved, likeness = _likeness(imprint.near, asked, members)
    seen: BoolArray = unmoved.max(axis=1) >= imprint.least[0]
    if movable:
        rest = np.flatnonzero(~seen)
        fitted = _fitted(sums, imprint.near, thumbnails[rest], members[rest], likeness[:, rest])
        seen[rest] = fitted.max(axis=1) >= imprint.least[1]
    return seen


def _least_likeness(sums: _Sums, near: PixelArray, thumbnails: npt.NDArray[np.float16]) -> GrayArray:
    """(2,) likeness from which images are copies, from how alike different images of the set are."""
    strict = np.array([_MOST, _NEVER], dtype=np.float32)
    if len(near) < _FEWEST:
        return strict
    chosen = np.unique(np.linspace(0, len(near) - 1, min(_MEASURED, len(near))).astype(np.int64))
    best = []
    for part in _parts(len(chosen), _QUERIES):
        rows = chosen[part]
        measured = thumbnails[rows].astype(np.float32)
        asked = _asked(sums, measured, _FRAMES)
        members = _closest(near, asked, count=_NEIGHBORS)
        unmoved, likeness = _likeness(near, asked, members)
        other = members != rows[:, None]
        fitted = _fitted(sums, near, measured, members, np.where(other, likeness, -1.0))
        best.append([np.where(other & (each < _MAY_BE_COPIES), each, -1.0).max(axis=1) for each in (unmoved, fitted)])
    usual = np.quantile(np.concatenate(best, axis=1), _QUANTILE, axis=1)
    unmoved_least, moved_least = usual + (1 - usual) * (_SHARE_UNMOVED, _SHARE_MOVED)
    if moved_least > _MOST:
        return strict
    return np.array([max(unmoved_least, _LEAST_UNMOVED), max(moved_least, _LEAST_MOVED)], dtype=np.float32)


def _asked(sums: _Sums, thumbnails: GrayArray, frames: Sequence[float]) -> GrayArray:
    """(8 f, q, 256) sums in all orientations and frames; the first eight are in the images' own frame."""
    every = [np.ascontiguousarray(turned(thumbnails, symmetry)) for symmetry in range(8)]
    placements = [np.array([[scale, 0, scale, 0]], dtype=np.float32) for scale in frames]
    return np.stack([sums(images, placed) for placed in placements for images in every])


def _closest(near: PixelArray, asked: GrayArray, *, count: int) -> IntArray:
    """(q, k) remembered images most like each query in any orientation and frame."""
    n_queries = asked.shape[1]
    asked = np.ascontiguousarray(asked[..., :_FIRST])
    members = np.zeros((n_queries, 0), dtype=np.int64)
    likeness = np.zeros((n_queries, 0), dtype=np.float32)
    for part in _parts(len(near), _MEMBERS):
        signs = _signs(near[part, : _FIRST // 8])
        best = asked[0] @ signs.T
        for variant in asked[1:]:
            np.maximum(best, variant @ signs.T, out=best)
        likeness = np.concatenate([likeness, best], axis=1)
        here = np.broadcast_to(np.arange(part.start, part.stop), best.shape)
        members = np.concatenate([members, here], axis=1)
        if members.shape[1] > count:
            top = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
            members, likeness = np.take_along_axis(members, top, 1), np.take_along_axis(likeness, top, 1)
    return members


def _likeness(near: PixelArray, asked: GrayArray, members: IntArray) -> tuple[GrayArray, GrayArray]:
    """(q, k) likeness in the own frame, the best orientation; and (v, q, k) in every orientation and frame."""
    likeness: GrayArray = np.matmul(_signs(near[members]), asked[..., None])[..., 0]
    return likeness[:8].max(axis=0), likeness


def _fitted(sums: _Sums, near: PixelArray, thumbnails: GrayArray, members: IntArray, likeness: GrayArray) -> GrayArray:
    """(q, k) likeness after the frame was fitted, from the best of the (v, q, k) orientations and frames tried."""
    variant = likeness.argmax(axis=0).ravel()
    best: GrayArray = likeness.max(axis=0).ravel()
    frame, symmetry = np.divmod(variant, 8)
    query = np.repeat(np.arange(len(thumbnails)), members.shape[1])
    images = np.empty((len(query), SIDE, SIDE), dtype=np.float32)
    for value in np.unique(symmetry).tolist():
        chosen = symmetry == value
        images[chosen] = turned(thumbnails[query[chosen]], value)
    edges = np.repeat(-np.array(_FRAMES, dtype=np.float32)[frame, None] / 2, 4, axis=1)
    signs = _signs(near[members.ravel()])
    for step, enough in _STEPS:
        going = np.flatnonzero(best >= enough)
        for move in np.concatenate([_MOVES, -_MOVES, _MOVES, -_MOVES]) * np.float32(step):
            tried = np.clip(edges[going] + move, -_FARTHEST, _FARTHEST)
            reached = (sums(images[going], _placement(tried)) * signs[going]).sum(axis=1)
            better = reached > best[going]
            edges[going[better]], best[going[better]] = tried[better], reached[better]
    return best.reshape(members.shape)


def _placement(edges: GrayArray) -> GrayArray:
    """Placements, as `warp` takes them, that show what lies within edges moved inwards: top, bottom, left, right."""
    top, bottom, left, right = edges.T
    placed: GrayArray = np.stack([-(top + bottom), top - bottom, -(left + right), left - right], axis=1)
    return placed


def _described(thumbnails: GrayArray, placed: GrayArray) -> GrayArray:
    """(n, D) middle frequencies of the middle of each picture, each weighted by its frequency; length 1."""
    within = placed.copy()
    within[:, [0, 2]] = (1 + placed[:, [0, 2]]) * np.float32(_INNER) - 1
    middle, _ = warp(thumbnails, within)
    described = (_COSINES @ middle @ _COSINES.T)[:, _DOWN, _ACROSS] * np.hypot(_DOWN, _ACROSS).astype(np.float32)
    unit: GrayArray = described / np.maximum(np.linalg.norm(described, axis=1, keepdims=True), 1e-6)
    return unit


_COSINES = np.cos(np.arange(_HIGHEST + 1)[:, None] * ((np.arange(SIDE) + 0.5) * np.pi / SIDE)).astype(np.float32)
_COSINES[0] *= np.float32(np.sqrt(0.5))


def _projection(salt: bytes) -> GrayArray:
    """(D, 256) random directions with orthogonal rows, drawn by a hash, whose stream no version of a library changes.

    Source: signs and Hadamard transforms in turn, Ailon & Chazelle 2009. They tell likeness with less noise than
    independent directions.
    """
    drawn = hashlib.shake_256(b"medgraft imprint " + salt).digest(2 * BITS // 8 + 8 * BITS)
    signs = _signs(np.frombuffer(drawn, dtype=np.uint8, count=2 * BITS // 8).reshape(2, BITS // 8))
    order = np.argsort(np.frombuffer(drawn, dtype="<u8", offset=2 * BITS // 8), kind="stable")[: len(_DOWN)]
    place = np.arange(BITS)
    hadamard = (1 - 2 * (np.bitwise_count(place[:, None] & place) % 2).astype(np.int8)).astype(np.float32)
    mixed: GrayArray = (hadamard[order] * signs[0]) @ (hadamard * signs[1]) / np.float32(16)
    return mixed


def _signs(packed: PixelArray) -> GrayArray:
    """(…, 32) packed bits as (…, 256) of -1 and 1."""
    signs: GrayArray = np.unpackbits(packed, axis=-1).astype(np.float32) * np.float32(2) - np.float32(1)
    return signs


def _keyed(salt: bytes, pixel_hash: str) -> bytes:
    return hashlib.blake2b(pixel_hash.encode(), key=salt, digest_size=_HASH_BYTES).digest()


def _check_lengths(prints: Fingerprints, pixel_hashes: Sequence[str]) -> None:
    if len(prints) != len(pixel_hashes):
        raise ValueError(f"{len(prints)} fingerprints and {len(pixel_hashes)} pixel hashes are not of the same images")


def _parts(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
