"""Whether two sets of images look alike: train and test, or two sources.

    features (N, D) ─► less the mean of each class ─► principal components ─► ridge, out of folds of whole patients
      ─► AUROC of telling the sets apart, over pairs of one class ─► p: the same with patients shuffled between the sets
    classes         ─► how differently they are mixed             ─► p: the same way
    attributes      ─► which differ most

Classes mixed differently are a shift of their own, which is told apart from one of appearance: pairs of one class only
are compared, and patients are shuffled among those of one class.

SHIFT    the two sets differ in appearance or in how the classes are mixed, or how well they do not
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh
from scipy.stats import rankdata

from medgraft.types import CheckResult, FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]

_COMPONENTS = 48
_FOLDS = 5
_FEWEST_GROUPS = 3  # per set, and 5 in all per fold of the classifier
_ALPHA, _TOLD_APART, _MIXED = 0.01, 0.6, 0.1
_NOTICEABLE = 0.2  # standardized mean difference, small after Cohen
_SHOWN, _NAMED = 12, 3


@dataclass(frozen=True)
class TwoSets:
    """N images of two sets.

    Attributes:
        names: of the first and the second set.
        second: (N,) whether an image is of the second.
        group: (N,) patient, or what else belongs together.
        label: (N,) class index, or None when not known.
        classes: C names; empty when labels are not known.
    """

    names: tuple[str, str]
    second: BoolArray
    group: IntArray
    label: IntArray | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AttributeShift:
    """How one attribute differs, among images of one class.

    Attributes:
        name: of the attribute.
        means: in the first and in the second set.
        difference: of the second less the first, in standard deviations.
        auroc: chance that an image of the second has the larger value, 0..1; ties count half.
    """

    name: str
    means: tuple[float, float]
    difference: float
    auroc: float


@dataclass(frozen=True)
class Shift:
    """What tells two sets apart.

    Attributes:
        names: of the sets.
        n_images: of each.
        n_groups: of each: patients, or independent images.
        left_out: images of groups that stand in both sets, which are not compared.
        auroc: of telling an image of the second set from one of the first, of the same class where classes are known,
            by a linear classifier that has seen no image of its group; 0.5 where nothing tells them apart.
        chance: what 95 of 100 shuffles stay below.
        p: share of shuffles that reach ``auroc``, the data themselves counted as one.
        permutations: how many shuffles.
        shares: by class, its share in the first and in the second set; empty where classes are not known.
        mixed: half the sum of the differences of the shares, 0..1.
        p_mixed: share of shuffles that reach ``mixed``; None where classes are not known.
        attributes: the most different first.
    """

    names: tuple[str, str]
    n_images: tuple[int, int]
    n_groups: tuple[int, int]
    left_out: int
    auroc: float
    chance: float
    p: float
    permutations: int
    shares: dict[str, tuple[float, float]]
    mixed: float
    p_mixed: float | None
    attributes: tuple[AttributeShift, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        first, second = self.names
        return {
            "sets": [first, second],
            "n_images": list(self.n_images),
            "n_groups": list(self.n_groups),
            "left_out": self.left_out,
            "auroc": round(self.auroc, 4),
            "chance": round(self.chance, 4),
            "p": self.p,
            "permutations": self.permutations,
            "class_shares": {name: [round(share, 4) for share in shares] for name, shares in self.shares.items()},
            "mixed": round(self.mixed, 4),
            "p_mixed": self.p_mixed,
            "attributes": [
                {
                    "name": found.name,
                    "means": [float(f"{value:.6g}") for value in found.means],
                    "difference": round(found.difference, 4),
                    "auroc": round(found.auroc, 4),
                }
                for found in self.attributes[:_SHOWN]
            ],
        }


def find_shift(
    features: npt.NDArray[Any],
    sets: TwoSets,
    *,
    permutations: int = 199,
    seed: int = 0,
    attributes: tuple[Sequence[str], FloatArray] | None = None,
) -> Shift | None:
    """Try to tell two sets of images apart.

    Args:
        features: (N, D) of a frozen network, any float type.
        sets: who is in which.
        permutations: ``checks.permutations``; the least p is 1 / (permutations + 1).
        seed: of folds and shuffles.
        attributes: K names and (N, K) values, NaN where not known.

    Returns:
        None where fewer than three groups of either set, or ten of both, are left to compare.

    Source:
        Lopez-Paz and Oquab, ICLR 2017 (classifier two-sample test); Phipson and Smyth, Statistical Applications in
        Genetics and Molecular Biology 2010; 9:39, for p = (b + 1) / (m + 1). Folds, components and penalty do not
        depend on the sets, so the test is exact where patients of a class are exchangeable.
    """
    kept = _in_one_set(sets)
    taken = _take(sets, kept)
    group = np.unique(taken.group, return_inverse=True)[1]
    first_rows = np.unique(group, return_index=True)[1]
    member = taken.second[first_rows]
    n_groups = (int((~member).sum()), int(member.sum()))
    if min(n_groups) < _FEWEST_GROUPS or sum(n_groups) < 2 * _FOLDS:
        return None
    rng = np.random.default_rng(seed)
    label = np.zeros(len(group), dtype=np.int64) if taken.label is None else taken.label
    fold = _folds(group, rng)[group]
    drawn = _shuffled(member, _majority(group, label), permutations, rng)[:, group].T
    components = _components(np.asarray(features)[kept], label, len(member))
    areas = _areas(_scores(components, drawn, fold, len(member)), drawn, fold * (label.max() + 1) + label)
    shares, mixed, p_mixed = _mix(taken, member, group, permutations, rng)
    return Shift(
        taken.names,
        (int((~taken.second).sum()), int(taken.second.sum())),
        n_groups,
        len(kept) - int(kept.sum()),
        float(areas[0]),
        float(np.quantile(areas[1:], 0.95)),
        _p_value(areas),
        permutations,
        shares,
        mixed,
        p_mixed,
        () if attributes is None else _attribute_shifts(attributes[0], attributes[1][kept], taken.second, label),
    )


def check_shift(shift: Shift) -> tuple[CheckResult, ...]:
    """What a shift means.

    A warning where the sets are told apart with an AUROC of at least 0.6, or a tenth of the images would have to change
    their class for equal shares, and chance does either in 1 of 100 cases at most; else a note.
    """
    first, second = shift.names
    apart = shift.p <= _ALPHA and shift.auroc >= _TOLD_APART
    mixed = shift.p_mixed is not None and shift.p_mixed <= _ALPHA and shift.mixed >= _MIXED
    of = f"AUROC {shift.auroc:.2f}, chance stays below {shift.chance:.2f}, p = {shift.p:.2g}"
    n = f"{shift.n_images[0]:,} and {shift.n_images[1]:,} images"
    if apart:
        title = f"{second} does not look like {first}: features tell them apart ({of}; {n})"
        named = [found for found in shift.attributes if abs(found.difference) >= _NOTICEABLE][:_NAMED]
        if named:
            told = ", ".join(f"{found.name} {found.difference:+.1f} SD" for found in named)
            title += f"; most different: {told}"
    elif shift.p <= _ALPHA:
        title = f"{second} differs a little from {first} in appearance ({of}; {n})"
    else:
        title = f"{second} is not told apart from {first} by its appearance ({of}; {n})"
    if mixed:
        told = ", ".join(f"{name} {a:.0%} and {b:.0%}" for name, (a, b) in shift.shares.items())
        title += f"; classes are mixed differently ({told}; p = {shift.p_mixed:.2g})"
    advice = (
        "results on the one say little about the other: find out where the difference comes from"
        if apart
        else "predictive values and calibration follow the shares of the classes: state which apply"
        if mixed
        else ""
    )
    return (CheckResult("SHIFT", "warning" if apart or mixed else "note", title, shift.as_dict(), advice),)


def _in_one_set(sets: TwoSets) -> BoolArray:
    """(N,) images of groups that stand in one set only."""
    group = np.unique(sets.group, return_inverse=True)[1]
    seconds = np.bincount(group, weights=sets.second)
    alone: BoolArray = ((seconds == 0) | (seconds == np.bincount(group)))[group]
    return alone


def _take(sets: TwoSets, kept: BoolArray) -> TwoSets:
    label = None if sets.label is None else sets.label[kept]
    return TwoSets(sets.names, sets.second[kept], sets.group[kept], label, sets.classes)


def _folds(group: IntArray, rng: np.random.Generator) -> IntArray:
    """(G,) fold of each group: as many images in each, whatever set they are of."""
    size = np.bincount(group)
    order = np.lexsort((rng.random(len(size)), -size))
    fold = np.empty(len(size), dtype=np.int64)
    fold[order] = np.arange(len(size)) % _FOLDS
    return fold


def _majority(group: IntArray, label: IntArray) -> IntArray:
    """(G,) most frequent class of each group."""
    n_classes = int(label.max()) + 1
    counts = np.bincount(group * n_classes + label, minlength=(int(group.max()) + 1) * n_classes)
    most: IntArray = counts.reshape(-1, n_classes).argmax(axis=1).astype(np.int64)
    return most


def _shuffled(member: BoolArray, stratum: IntArray, permutations: int, rng: np.random.Generator) -> BoolArray:
    """(1 + permutations, G) who is in the second set: as it is, then shuffled within strata."""
    place = np.argsort(stratum, kind="stable")
    drawn = np.empty((permutations + 1, len(member)), dtype=bool)
    drawn[0] = member
    for row in range(1, permutations + 1):
        drawn[row, place] = member[np.lexsort((rng.random(len(member)), stratum))]
    return drawn


def _components(features: npt.NDArray[Any], label: IntArray, n_groups: int) -> FloatArray:
    """(N, k) principal components of the features, each class around its own mean and each feature of unit variance."""
    values = features.astype(np.float32)
    for c in np.unique(label):
        values[label == c] -= values[label == c].mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = np.sqrt(np.square(values).mean(axis=0, dtype=np.float64))
    values = values[:, scale > 1e-6 * scale.max(initial=1e-30)]
    values /= np.sqrt(np.square(values).mean(axis=0, dtype=np.float64)).astype(np.float32)
    n, width = values.shape
    k = max(1, min(_COMPONENTS, n_groups // 4, n - 1, width))
    if width == 0:
        return np.zeros((n, 1))
    if width <= n:
        _, axes = eigh((values.T @ values).astype(np.float64), subset_by_index=(width - k, width - 1))
        found: FloatArray = values @ axes
        return found
    lengths, sides = eigh((values @ values.T).astype(np.float64), subset_by_index=(n - k, n - 1))
    scores: FloatArray = sides * np.sqrt(np.maximum(lengths, 0.0))
    return scores


def _scores(components: FloatArray, drawn: BoolArray, fold: IntArray, n_groups: int) -> FloatArray:
    """(N, B) how much each image looks like the second set, for every drawing of the sets, by fits on other folds."""
    k = components.shape[1]
    shrinkage = k / (k + n_groups)
    scores = np.empty(drawn.shape)
    for held in range(_FOLDS):
        rest = fold != held
        center = components[rest].mean(axis=0)
        fitted = components[rest] - center
        target = drawn[rest] - drawn[rest].mean(axis=0)
        covariance = fitted.T @ fitted
        penalty = shrinkage * np.trace(covariance) / k + 1e-12
        weight = np.linalg.solve((1 - shrinkage) * covariance + penalty * np.eye(k), fitted.T @ target)
        scores[~rest] = (components[~rest] - center) @ weight
    return scores


def _areas(scores: FloatArray, drawn: BoolArray, cell: IntArray) -> FloatArray:
    """(B,) AUROC over pairs within a cell: scores of two folds, or looks of two classes, do not compare."""
    wins = np.zeros(scores.shape[1])
    pairs = np.zeros(scores.shape[1])
    for one in np.unique(cell):
        rows = cell == one
        second = drawn[rows]
        n_second = second.sum(axis=0)
        ranks = rankdata(scores[rows], axis=0)
        wins += (ranks * second).sum(axis=0) - n_second * (n_second + 1) / 2
        pairs += n_second * (len(second) - n_second)
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), 0.5)


def _p_value(statistics: FloatArray) -> float:
    """Share of statistics that reach the first, which is that of the data."""
    return float((statistics >= statistics[0] - 1e-12).mean())


def _mix(
    sets: TwoSets, member: BoolArray, group: IntArray, permutations: int, rng: np.random.Generator
) -> tuple[dict[str, tuple[float, float]], float, float | None]:
    """Shares of the classes, half the sum of their differences, and its p-value."""
    if sets.label is None:
        return {}, 0.0, None
    n_classes = len(sets.classes)
    counts = np.bincount(group * n_classes + sets.label, minlength=len(member) * n_classes).reshape(-1, n_classes)
    drawn = _shuffled(member, np.zeros(len(member), dtype=np.int64), permutations, rng).astype(np.float64)
    second = drawn @ counts
    first = counts.sum(axis=0) - second
    share_first, share_second = (part / part.sum(axis=1, keepdims=True) for part in (first, second))
    mixed = np.abs(share_first - share_second).sum(axis=1) / 2
    shares = {
        name: (float(a), float(b)) for name, a, b in zip(sets.classes, share_first[0], share_second[0], strict=True)
    }
    return shares, float(mixed[0]), _p_value(mixed)


def _attribute_shifts(
    names: Sequence[str], values: FloatArray, second: BoolArray, label: IntArray
) -> tuple[AttributeShift, ...]:
    """All attributes that vary, the most different first."""
    found = [
        shift
        for name, column in zip(names, values.T, strict=True)
        if (shift := _attribute_shift(name, column, second, label)) is not None
    ]
    return tuple(sorted(found, key=lambda shift: -abs(shift.auroc - 0.5)))


def _attribute_shift(name: str, values: FloatArray, second: BoolArray, label: IntArray) -> AttributeShift | None:
    known = np.isfinite(values)
    values, second, label = values[known], second[known], label[known]
    if len(values) < 2 or np.ptp(values) == 0 or second.all() or not second.any():
        return None
    change = squares = weight = 0.0
    for c in np.unique(label):
        one, other = values[(label == c) & ~second], values[(label == c) & second]
        squares += float(sum(((part - part.mean()) ** 2).sum() for part in (one, other) if len(part)))
        if len(one) and len(other):
            of_class = len(one) * len(other) / (len(one) + len(other))
            change += of_class * float(other.mean() - one.mean())
            weight += of_class
    if not weight:
        return None
    deviation = (squares / len(values)) ** 0.5
    # Constant within both sets and different: as far apart as can be told.
    difference = change / weight / max(deviation, 1e-9 * float(np.ptp(values)))
    area = float(_areas(values[:, None], second[:, None], label)[0])
    return AttributeShift(name, (float(values[~second].mean()), float(values[second].mean())), difference, area)
