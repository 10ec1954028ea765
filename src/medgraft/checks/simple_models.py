"""Three models that need no network: the nearest image, a line through the pixels, trees on a few numbers.

Each is a function from images to fit on and features of others to the class probabilities of the others. None uses
more than one thread, and the same input gives the same output.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from medgraft.data.grouping import GroupCounts, spread
from medgraft.data.labels import balanced_class_weights
from medgraft.types import FloatArray, IntArray

Features = npt.NDArray[np.float32]

_BLOCK_VALUES = 16_000_000  # distances held at a time
# Penalties on the squared weights of standardized pixels, relative to the mean loss, strong to weak.
_STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
_FALLBACK = 1.0
_PATIENCE = 2  # weaker penalties that may do worse before the search ends
_LEAST_SPREAD = 1.0  # grey level; pixels that hardly vary are not blown up
_TREES = 100
_TRIED = 16  # features per split, or the square root of all where that is more


@dataclass(frozen=True)
class Known:
    """Images to fit on.

    Attributes:
        features: (n, D).
        label: (n,) class index.
        group: (n,) images that belong together.
        n_classes: C.
        seed: of random choices.
    """

    features: Features
    label: IntArray
    group: IntArray
    n_classes: int
    seed: int


SimpleModel = Callable[[Known, Features], FloatArray]
"""From images to fit on and features (m, D) of others to their probabilities (m, C)."""


def nearest_neighbor(known: Known, features: Features) -> FloatArray:
    """The label of the nearest image by Euclidean distance, as probabilities that can be ranked.

    A class has the inverse of the distance to its nearest image, so the most probable class is that of the nearest
    image of all, and a picture that is known has the probability 1. A class without known images has 0.

    Args:
        known: images that answer.
        features: (m, D) of the images asked for.
    """
    center = known.features.mean(axis=0)
    of_class = [known.features[known.label == c] - center for c in range(known.n_classes)]
    step = max(1, _BLOCK_VALUES // max(1, len(known.label)))
    distance = np.full((len(features), known.n_classes), np.inf)
    with threadpool_limits(1):
        for start in range(0, len(features), step):
            block = features[start : start + step] - center
            for c, members in enumerate(of_class):
                if len(members):
                    squares = np.einsum("nd,nd->n", members, members) - 2.0 * (block @ members.T)
                    # from the difference itself: sums of squares cancel where two images are the same
                    nearest = block - members[squares.argmin(axis=1)]
                    distance[start : start + step, c] = np.linalg.norm(nearest, axis=1)
    least = distance.min(axis=1, keepdims=True)
    return _shares(np.where(distance == least, 1.0, least / np.where(distance > 0, distance, 1.0)))


def logistic(known: Known, features: Features) -> FloatArray:
    """Logistic regression on standardized features; every class weighs the same.

    The penalty is that of the lowest loss on a fifth of the known groups, which the fits before the last leave out.

    Args:
        known: images to fit on.
        features: (m, D) of the images asked for, grey levels.
    """
    mean, scale = known.features.mean(axis=0), known.features.std(axis=0)
    scale = np.maximum(scale, np.float32(_LEAST_SPREAD))
    inside, outside = (known.features - mean) / scale, (features - mean) / scale
    present, label = np.unique(known.label, return_inverse=True)
    proba = np.zeros((len(features), known.n_classes))
    if len(present) == 1:
        proba[:, present] = 1.0
        return proba
    with warnings.catch_warnings(), threadpool_limits(1):
        # a fit that ends early is judged by its loss like every other
        warnings.simplefilter("ignore", ConvergenceWarning)
        strength = _best_strength(inside, label, known)
        proba[:, present] = _solver(strength, len(label)).fit(inside, label).predict_proba(outside)
    return _shares(proba)


def forest(known: Known, features: Features) -> FloatArray:
    """Extremely randomized trees: features that act together, or not in proportion; every class weighs the same.

    Args:
        known: images to fit on.
        features: (m, D) of the images asked for, of any units.

    Source:
        Geurts, Ernst and Wehenkel, Machine Learning 2006; 63:3-42.
    """
    width = known.features.shape[1]
    model = ExtraTreesClassifier(
        _TREES,
        min_samples_leaf=max(2, len(known.label) // 500),
        max_features=min(width, max(_TRIED, round(width**0.5))),
        class_weight="balanced",
        random_state=known.seed,
        n_jobs=1,
    )
    model.fit(known.features, known.label)
    proba = np.zeros((len(features), known.n_classes))
    proba[:, model.classes_] = model.predict_proba(features)
    return _shares(proba)


def _shares(weight: FloatArray) -> FloatArray:
    """Rows that sum to 1."""
    shares: FloatArray = weight / weight.sum(axis=1, keepdims=True)
    return shares


def _solver(strength: float, n: int) -> LogisticRegression:
    return LogisticRegression(C=1.0 / (strength * n), class_weight="balanced", max_iter=200, tol=1e-4, warm_start=True)


def _best_strength(features: Features, label: IntArray, known: Known) -> float:
    """The penalty of the lowest loss on groups that were left out of the fit."""
    _, group = np.unique(known.group, return_inverse=True)
    n_classes = int(label.max()) + 1
    counts = GroupCounts.of(group.astype(np.int64), label, n_classes=n_classes)
    rng = np.random.default_rng([known.seed, 41])
    side = spread(counts, np.arange(counts.n_groups), [0.8, 0.2], fixed=np.zeros((2, n_classes)), rng=rng)[group]
    if any(len(np.unique(label[side == part])) < n_classes for part in (0, 1)):
        return _FALLBACK
    held, truth = features[side == 1], label[side == 1]
    weight = np.array(balanced_class_weights(np.bincount(truth, minlength=n_classes).tolist()))[truth]
    solver = _solver(_STRENGTHS[0], int((side == 0).sum()))
    losses: list[float] = []
    for strength in _STRENGTHS:
        solver.C = 1.0 / (strength * (side == 0).sum())
        solver.fit(features[side == 0], label[side == 0])
        own = solver.predict_proba(held)[np.arange(len(truth)), truth]
        losses.append(float((-np.log(np.maximum(own, 1e-12)) * weight).mean()))
        if len(losses) - 1 - int(np.argmin(losses)) >= _PATIENCE:
            break
    return _STRENGTHS[int(np.argmin(losses))]
