"""Which images may be copies of which: nearest descriptors in all eight symmetries, without comparing all with all.

    descriptors ─► weighted by what they tell ─► cells around some images ─► each query, turned, looks into few cells

The work grows like N^1.5 with a small constant: 100,000 images take less than a minute on one core.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgraft.data.fingerprint import INVERSE, GrayArray, frequency, turned_descriptors
from medgraft.types import IntArray

# Of the nearest 40 (image, symmetry) within the radius. Among 5,000 X-rays, which look more alike than anything else,
# a copy cropped by 3 % per side ranks below 8.
_NEAREST = 40
_RADIUS = 0.8
# Cropping moves fine detail further, in its own periods, than coarse detail: it counts less.
_HALF_WEIGHT = 4.0
# What two images of unit length may differ by where a set hardly varies.
_LEAST_SPREAD = 0.03
_ONE_CELL = 1500
_PROBED = 16
_QUERIES = 1024


def nearest_pairs(described: GrayArray) -> IntArray:
    """Pairs of images whose low frequencies are alike in some symmetry.

    Args:
        described: (n, D) descriptors of images that differ.

    Returns:
        (m, 3) positions of the first and the second, first < second, and the symmetry that turns the second into the
        first; sorted, m at most 40 n.
    """
    mean, spread = _moments(described)
    fade = 1.0 / (1.0 + (frequency() / np.float32(_HALF_WEIGHT)) ** 2)
    weight = fade / np.sqrt(spread + np.float32(_LEAST_SPREAD**2))
    radius = np.float32(_RADIUS**2) * (fade**2).sum()
    placed = (described - mean) * weight
    cells = _Cells.of(placed)
    kept = []
    for start in range(0, len(described), _QUERIES):
        part = described[start : start + _QUERIES]
        queries = np.concatenate([(turned_descriptors(part, symmetry) - mean) * weight for symmetry in range(8)])
        query, member, distance = cells.near(queries, placed, radius)
        symmetry, owner = np.divmod(query, len(part))
        owner = owner + start
        other = owner != member
        owner, member, symmetry, distance = owner[other], member[other], symmetry[other], distance[other]
        order = np.lexsort((symmetry, member, distance, owner))
        owner = owner[order]
        rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
        order, owner = order[rank < _NEAREST], owner[rank < _NEAREST]
        kept.append(np.stack([owner, member[order], symmetry[order]], axis=1))
    # A turned query that lies near a member: the member is the query turned.
    query, member, symmetry = np.concatenate(kept).T
    swapped = query < member
    symmetry = np.where(swapped, np.array(INVERSE)[symmetry], symmetry)
    pairs = np.stack([np.minimum(query, member), np.maximum(query, member), symmetry], axis=1)
    unique: IntArray = np.unique(pairs, axis=0)
    return unique


def _moments(described: GrayArray) -> tuple[GrayArray, GrayArray]:
    """Mean and variance of descriptors over images and symmetries."""
    means, squares = [], []
    for symmetry in range(8):
        turned_ones = turned_descriptors(described, symmetry)
        means.append(turned_ones.mean(axis=0))
        squares.append((turned_ones**2).mean(axis=0))
    mean: GrayArray = np.mean(means, axis=0)
    spread: GrayArray = np.maximum(np.mean(squares, axis=0) - mean**2, 0.0)
    return mean, spread


@dataclass(frozen=True)
class _Cells:
    """Descriptors by the nearest of about 2 sqrt(N) centres, themselves images: a query looks into the nearest few.

    Attributes:
        centres: (C, D).
        order: (N,) members sorted by cell.
        start: (C + 1,) first member of each cell.
    """

    centres: GrayArray
    order: IntArray
    start: IntArray

    @classmethod
    def of(cls, placed: GrayArray) -> _Cells:
        n_cells = 1 if len(placed) <= _ONE_CELL else round(2 * len(placed) ** 0.5)
        chosen = np.random.default_rng(0).choice(len(placed), n_cells, replace=False)
        centres = placed[np.sort(chosen)]
        cell = np.concatenate(
            [_squared(placed[at : at + _QUERIES], centres).argmin(axis=1) for at in range(0, len(placed), _QUERIES)]
        )
        order = np.argsort(cell, kind="stable")
        return cls(centres, order, np.searchsorted(cell[order], np.arange(n_cells + 1)))

    def near(self, queries: GrayArray, placed: GrayArray, radius: float) -> tuple[IntArray, IntArray, GrayArray]:
        """Query, member and squared distance of all that lie within the radius in the cells looked into."""
        n_probed = min(_PROBED, len(self.centres))
        probed = np.argpartition(_squared(queries, self.centres), n_probed - 1, axis=1)[:, :n_probed].ravel()
        query = np.repeat(np.arange(len(queries)), n_probed)
        order = np.argsort(probed, kind="stable")
        bounds = np.searchsorted(probed[order], np.arange(len(self.centres) + 1))
        found: list[tuple[IntArray, IntArray, GrayArray]] = []
        for cell in np.flatnonzero(np.diff(bounds)).tolist():
            asking = query[order[bounds[cell] : bounds[cell + 1]]]
            members = self.order[self.start[cell] : self.start[cell + 1]]
            squared = _squared(queries[asking], placed[members])
            close = squared <= radius
            if np.count_nonzero(close) > _NEAREST * len(asking):
                # Thousands of copies of one picture would all be near each other.
                close &= squared <= np.partition(squared, _NEAREST, axis=1)[:, _NEAREST, None]
            one, other = np.nonzero(close)
            found.append((asking[one], members[other], squared[one, other]))
        one, other, distance = (np.concatenate(values) for values in zip(*found, strict=True))
        return one, other, distance


def _squared(queries: GrayArray, points: GrayArray) -> GrayArray:
    """(q, p) squared distances."""
    squared: GrayArray = (queries**2).sum(axis=1)[:, None] + (points**2).sum(axis=1) - 2.0 * (queries @ points.T)
    return squared
