"""Groups that must not be cut, and their spread over parts with every class in its share.

patients + copies → groups (connected components) → parts: large groups greedily, single images exactly
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medgraft.types import FloatArray, IntArray

_MAX_ATTEMPTS = 32
_ATTEMPTED_GROUPS = 20_000


def join_groups(
    n: int, keys: Sequence[Sequence[str | None] | None], *, pairs: Sequence[tuple[int, int]] = ()
) -> IntArray:
    """Group of each of N rows: rows that share a key of any kind, or stand in a pair, are in one group.

    Args:
        n: number of rows.
        keys: kinds of keys (patient, exact copy), N values each; None or ``""`` joins nothing.
        pairs: row numbers of near copies.

    Returns:
        (N,) int64 group numbers, 0.. in the order of the first row.
    """
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    rows: list[IntArray] = [ends[:, 0]]
    nodes: list[IntArray] = [ends[:, 1]]
    n_nodes = n
    for values in keys:
        if values is None:
            continue
        codes, found = pd.factorize(np.array([value or None for value in values], dtype=object))
        known = np.flatnonzero(codes >= 0)
        rows.append(known.astype(np.int64))
        nodes.append(codes[known].astype(np.int64) + n_nodes)
        n_nodes += len(found)
    start, end = np.concatenate(rows), np.concatenate(nodes)
    graph = coo_array((np.ones(len(start), dtype=np.int8), (start, end)), shape=(n_nodes, n_nodes))
    _, component = connected_components(graph.tocsr(), directed=False)
    numbered: IntArray = pd.factorize(component[:n])[0].astype(np.int64)
    return numbered


@dataclass(frozen=True)
class GroupCounts:
    """Images per group and class, as K triples sorted by group.

    Attributes:
        group: (K,) group.
        label: (K,) class index.
        n: (K,) images of that class in that group, at least 1.
        start: (G + 1,) first triple of every group.
        n_classes: C.
    """

    group: IntArray
    label: IntArray
    n: IntArray
    start: IntArray
    n_classes: int

    @classmethod
    def of(cls, groups: IntArray, classes: IntArray, *, n_classes: int) -> GroupCounts:
        """Count rows given the group and class index of each."""
        keys, n = np.unique(groups * n_classes + classes, return_counts=True)
        group, label = np.divmod(keys, n_classes)
        n_groups = int(group[-1]) + 1 if len(group) else 0
        return cls(group, label, n.astype(np.int64), np.searchsorted(group, np.arange(n_groups + 1)), n_classes)

    @property
    def n_groups(self) -> int:
        return len(self.start) - 1

    @property
    def sizes(self) -> IntArray:
        """(G,) images per group."""
        return np.bincount(self.group, weights=self.n, minlength=self.n_groups).astype(np.int64)

    def members(self, group: int) -> tuple[list[int], list[int]]:
        """Classes in a group, and images of each."""
        rows = slice(self.start[group], self.start[group + 1])
        return self.label[rows].tolist(), self.n[rows].tolist()

    def with_class(self, c: int) -> IntArray:
        """Groups that hold a class."""
        found: IntArray = self.group[self.label == c]
        return found

    def held(self, part: IntArray, n_parts: int, *, groups: bool) -> IntArray:
        """(P, C) images, or groups, that each part holds; ``part`` is (G,), negative for no part."""
        of = part[self.group]
        placed = of >= 0
        cells = of[placed] * self.n_classes + self.label[placed]
        weights = None if groups else self.n[placed]
        summed = np.bincount(cells, weights=weights, minlength=n_parts * self.n_classes)
        return summed.reshape(n_parts, self.n_classes).astype(np.int64)


def spread(
    groups: GroupCounts,
    free: IntArray,
    shares: Sequence[float],
    *,
    fixed: FloatArray,
    rng: np.random.Generator,
) -> IntArray:
    """Assign groups to parts so that every part has its share of every class.

    Groups of several images are placed one by one, large ones first (by powers of two, in random order
    within), each where the class counts come nearest to their targets in the sense of chi-square. Single
    images then fill what is left exactly. Every class is finally given to every part where that is possible.

    Args:
        groups: images per group and class.
        free: groups to assign.
        shares: share of each part, sum 1; the first part is the training part.
        fixed: (P, C) images that the parts hold already.
        rng: decides all random choices.

    Returns:
        (G,) int64 part of every group; -1 for groups that are not free.
    """
    everywhere = np.full(groups.n_groups, -1, dtype=np.int64)
    everywhere[free] = 0
    total = groups.held(everywhere, 1, groups=False)[0] + fixed.sum(axis=0)
    target = np.outer(np.asarray(shares, dtype=np.float64), total)
    # With few groups luck decides how even one attempt is, and attempts are cheap: the best of several.
    n_attempts = max(1, min(_MAX_ATTEMPTS, _ATTEMPTED_GROUPS // max(len(free), 1)))
    attempts = [_attempt(groups, free, target, fixed, rng) for _ in range(n_attempts)]
    return min(attempts, key=lambda attempt: attempt[0])[1]


def _attempt(
    groups: GroupCounts, free: IntArray, target: FloatArray, fixed: FloatArray, rng: np.random.Generator
) -> tuple[tuple[int, float], IntArray]:
    """One assignment and its cost: classes missing in parts, then chi-square."""
    part = np.full(groups.n_groups, -1, dtype=np.int64)
    sizes = groups.sizes[free]
    order = rng.permutation(len(free))
    order = order[np.argsort(-np.floor(np.log2(np.maximum(sizes[order], 1))), kind="stable")]
    several = free[order[sizes[order] > 1]]
    single = free[order[sizes[order] == 1]]
    now = _place_greedily(groups, several, target, fixed, part)
    _place_singles(groups, single, target - now, part)
    have = groups.held(part, len(target), groups=True) + (fixed > 0)
    _complete(groups, part, have, rng)
    held = fixed + groups.held(part, len(target), groups=False)
    chi_square = float(((held - target) ** 2 / np.maximum(target, 1.0)).sum())
    return (int((have == 0).sum()), chi_square), part


def _place_greedily(
    groups: GroupCounts, order: IntArray, target: FloatArray, fixed: FloatArray, part: IntArray
) -> FloatArray:
    """Place groups one by one; gives the (P, C) images that the parts then hold."""
    n_parts = len(target)
    now: list[list[float]] = fixed.tolist()
    goal: list[list[float]] = target.tolist()
    for group in order.tolist():
        members = list(zip(*groups.members(group), strict=True))
        best, least = 0, float("inf")
        for candidate in range(n_parts):
            # Change of sum((now - goal)^2 / goal) when the group comes here.
            have, want = now[candidate], goal[candidate]
            change = sum(n * (2.0 * (have[c] - want[c]) + n) / want[c] for c, n in members if want[c] > 0)
            if change < least:
                best, least = candidate, change
        part[group] = best
        for c, n in members:
            now[best][c] += n
    return np.array(now, dtype=np.float64).reshape(target.shape)


def _place_singles(groups: GroupCounts, order: IntArray, missing: FloatArray, part: IntArray) -> None:
    """Fill what each part still misses of each class with groups of one image; ``order`` is random."""
    class_of = groups.label[groups.start[order]]
    # Rounding errors of the classes are carried on, so that they do not all fall to the same part.
    carry = np.zeros(len(missing))
    for c in np.unique(class_of):
        rows = order[class_of == c]
        need = np.maximum(missing[:, c], 0.0)
        exact = need * len(rows) / need.sum() if need.sum() > 0 else np.full(len(need), len(rows) / len(need))
        n_each = np.floor(exact).astype(np.int64)
        rest = len(rows) - int(n_each.sum())
        n_each[np.argsort(-(exact - n_each + carry), kind="stable")[:rest]] += 1
        carry += exact - n_each
        part[rows] = np.repeat(np.arange(len(need)), n_each)


def _complete(groups: GroupCounts, part: IntArray, have: IntArray, rng: np.random.Generator) -> None:
    """Move groups so that every part has every class, training first, wherever there are groups enough.

    ``have`` is (P, C), groups with each class in each part; it is brought up to date.
    """
    rarest_first = np.argsort(have.sum(axis=0), kind="stable")
    for c in (int(c) for c in rarest_first if have[:, c].sum()):
        for needy in range(len(have)):
            if have[needy, c]:
                continue
            held_by = groups.with_class(c)
            placed = rng.permutation(held_by[part[held_by] >= 0]).tolist()
            movable = [group for group in placed if _may_leave(groups, group, have, part, needy)]
            if not movable:
                continue
            group = min(movable, key=lambda candidate: sum(groups.members(candidate)[1]))
            present, _ = groups.members(group)
            have[part[group], present] -= 1
            have[needy, present] += 1
            part[group] = needy


def _may_leave(groups: GroupCounts, group: int, have: IntArray, part: IntArray, needy: int) -> bool:
    """Whether the part of a group keeps all its classes without it; a later part gives to an earlier one."""
    present, _ = groups.members(group)
    return int(part[group]) > needy or all(have[part[group], c] > 1 for c in present)
