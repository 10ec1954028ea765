"""A linear probe judged by nested cross-validation: one probability per image, from a model that never saw its patient.

    features (N, D), groups ─► K folds of whole groups
    inner, for two folds i, j: path of penalties on all other folds ─► logits on i and on j
    outer, for each fold i:    penalty and temperature from the inner logits outside i
                               ─► path down to that penalty on all folds but i ─► probabilities on i

Leaving out i as the outer and j as the inner fold is the same fit as the other way round, so K (K - 1) / 2 inner
paths do the work of K (K - 1). Along a path each fit starts from the stronger penalty before it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from medgraft.data.grouping import GroupCounts, spread
from medgraft.data.labels import balanced_class_weights
from medgraft.data.names import listed
from medgraft.errors import DataError
from medgraft.evaluation.calibration import apply_temperature, fit_temperature
from medgraft.training.plan import STRENGTHS
from medgraft.types import FloatArray, IntArray

MOST_FOLDS = 5
FEWEST_FOLDS = 3
MOST_VALUES = 150_000_000  # of all copies of the features that are worked on at once
_UNSEEN = -30.0  # logit of a class that a fit has no image of: e^-30 of the others

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OutOfFold:
    """What cross-validation found.

    Attributes:
        proba: (N, C) of each image, from the fit that left out its fold; rows sum to 1.
        strengths: penalty of each fold's fit, one of `STRENGTHS`.
        temperatures: by which the logits of each fold were divided.
    """

    proba: FloatArray
    strengths: tuple[float, ...]
    temperatures: tuple[float, ...]


def make_folds(group: IntArray, label: IntArray, *, classes: Sequence[str], seed: int) -> IntArray:
    """Folds of whole groups with each class in its share.

    Args:
        group: (N,) 0.., images that must stay together: patients joined with copies.
        label: (N,) class index.
        classes: C names.
        seed: of the random choices.

    Returns:
        (N,) fold of each image: 0..4, or fewer folds where a class has fewer groups.

    Raises:
        DataError: COMPARE_TOO_FEW when a class stands in fewer than three groups: one is needed to fit, one to
            choose the penalty, one to judge.
    """
    counts = GroupCounts.of(group, label, n_classes=len(classes))
    groups_with = [len(counts.with_class(c)) for c in range(len(classes))]
    few = [f"{name} ({n})" for name, n in zip(classes, groups_with, strict=True) if n < FEWEST_FOLDS]
    if few:
        raise DataError(
            "COMPARE_TOO_FEW",
            f"too few patients or independent images in train and validation to cross-validate: {listed(few)}",
            fix=f"every class needs {FEWEST_FOLDS}: to fit, to choose the penalty, to judge; add data or leave it out",
        )
    n_folds = min(MOST_FOLDS, *groups_with)
    of_group = spread(
        counts,
        np.arange(counts.n_groups),
        [1.0 / n_folds] * n_folds,
        fixed=np.zeros((n_folds, len(classes))),
        rng=np.random.default_rng(seed),
    )
    fold: IntArray = of_group[group]
    return fold


def cross_validate(
    features: npt.NDArray[np.float16] | Float32Array,
    label: IntArray,
    fold: IntArray,
    *,
    n_classes: int,
    balanced: bool = True,
    threads: int = 1,
    on_fit: Callable[[int, int], None] | None = None,
) -> OutOfFold:
    """Probabilities of every image by a regularized linear probe that has not seen its fold.

    The penalty of a fold is the strongest within one standard error of the lowest refined loss (cross-entropy at the
    temperature that fits best) over the images outside that fold, each predicted by an inner fit that left it out:
    the rule of the probe of `train`. The temperature makes the probabilities of different folds comparable, so that
    they can be ranked together.

    Args:
        features: (N, D), one row per image.
        label: (N,) class index.
        fold: (N,) from `make_folds`; at least three folds.
        n_classes: C.
        balanced: whether every class carries the same weight, as in the probe of `train`.
        threads: fits at a time, each on one thread; the result does not depend on it.
        on_fit: called with (done, total) fits; what it raises ends the work.

    Returns:
        Probabilities, and what was chosen in each fold. The same input gives the same bytes.

    Source:
        Varma and Simon, BMC Bioinformatics 2006; 7:91 (nested cross-validation); Breiman et al., Classification and
        Regression Trees, 1984, section 3.4.3 (one standard error).
    """
    n_folds = int(fold.max()) + 1
    pairs = list(combinations(range(n_folds), 2))
    inner = np.zeros((n_folds, len(STRENGTHS), len(label), n_classes), dtype=np.float32)
    proba = np.zeros((len(label), n_classes))
    work = _Probe(features, label, fold, n_classes, balanced)

    def tell(done: int) -> None:
        if on_fit is not None:
            on_fit(done, len(pairs) + n_folds)

    workers = max(1, min(threads, MOST_VALUES // max(features.size, 1)))
    with _quiet(), threadpool_limits(1), ThreadPoolExecutor(workers, thread_name_prefix="probe") as pool:
        try:
            for done, ((i, j), found) in enumerate(zip(pairs, pool.map(work.inner, pairs), strict=True), start=1):
                inner[j][:, fold == i], inner[i][:, fold == j] = found
                tell(done)
            chosen = [work.choose(inner[i], i) for i in range(n_folds)]
            tasks = [(i, number) for i, (number, _) in enumerate(chosen)]
            for i, logits in enumerate(pool.map(work.outer, tasks)):
                proba[fold == i] = apply_temperature(logits, chosen[i][1])
                tell(len(pairs) + i + 1)
        finally:
            pool.shutdown(cancel_futures=True)
    return OutOfFold(proba, tuple(STRENGTHS[number] for number, _ in chosen), tuple(value for _, value in chosen))


@contextmanager
def _quiet() -> Iterator[None]:
    """A weak penalty may end early, and is judged by its loss like every other; set once, not in each thread."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@dataclass(frozen=True)
class _Probe:
    """The fits on one set of features; safe to use from several threads."""

    features: npt.NDArray[np.float16] | Float32Array
    label: IntArray
    fold: IntArray
    n_classes: int
    balanced: bool

    def inner(self, left_out: tuple[int, int]) -> tuple[Float32Array, Float32Array]:
        """Logits (S, n, C) on each of two folds under every strength, by fits on all other folds."""
        found = list(self._path(left_out, len(STRENGTHS)))
        return np.stack([first for first, _ in found]), np.stack([second for _, second in found])

    def outer(self, task: tuple[int, int]) -> FloatArray:
        """Logits (n, C) on a fold by the fit on all others, at the chosen strength."""
        fold, number = task
        *_, (logits,) = self._path((fold,), number + 1)
        return logits

    def choose(self, logits: Float32Array, left_out: int) -> tuple[int, float]:
        """Number of the strength and its temperature, from the inner logits (S, N, C) outside a fold."""
        rows = np.flatnonzero(self.fold != left_out)
        label = self.label[rows]
        weight = self._weights(label)
        temperatures, means, errors = [], [], []
        for of_strength in logits[:, rows]:
            temperatures.append(fit_temperature(of_strength, label))
            own = apply_temperature(of_strength, temperatures[-1])[np.arange(len(rows)), label]
            losses = -np.log(np.maximum(own, 1e-12)) * weight / weight.mean()
            means.append(float(losses.mean()))
            errors.append(float(losses.std()) / len(rows) ** 0.5)
        lowest = int(np.argmin(means))
        chosen = next(number for number, mean in enumerate(means) if mean <= means[lowest] + errors[lowest])
        return chosen, temperatures[chosen]

    def _weights(self, label: IntArray) -> FloatArray:
        """(n,) factor of each image, that of its class."""
        if not self.balanced:
            return np.ones(len(label))
        counts = np.bincount(label, minlength=self.n_classes)
        return np.array(balanced_class_weights(counts.tolist()))[label]

    def _path(self, left_out: tuple[int, ...], n_strengths: int) -> Iterator[tuple[FloatArray, ...]]:
        """Logits on each fold left out, strength after strength, by fits on the rest."""
        rows = np.flatnonzero(~np.isin(self.fold, left_out))
        label = self.label[rows]
        features = self.features[rows].astype(np.float32)
        mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        features -= mean
        scale = np.sqrt(np.square(features).mean(axis=0, dtype=np.float64)).astype(np.float32) + np.float32(1e-6)
        features /= scale
        held = [(self.features[self.fold == fold].astype(np.float32) - mean) / scale for fold in left_out]
        for weight, bias in _solutions(features, label, self._weights(label), self.n_classes, n_strengths):
            yield tuple((part @ weight.T).astype(np.float64) + bias for part in held)


def _solutions(
    features: Float32Array, label: IntArray, sample_weight: FloatArray, n_classes: int, n_strengths: int
) -> Iterator[tuple[Float32Array, FloatArray]]:
    """Weights (C, D) and biases (C,) of one fit after another, from the strongest penalty on."""
    present = np.unique(label)
    weight = np.zeros((n_classes, features.shape[1]), dtype=np.float32)
    bias = np.full(n_classes, _UNSEEN)
    if len(present) == 1:  # folds of few patients can leave one class to fit on: then nothing is learned
        bias[present] = 0.0
        yield from [(weight, bias)] * n_strengths
        return
    solver = LogisticRegression(max_iter=500, tol=1e-5, warm_start=True)
    for strength in STRENGTHS[:n_strengths]:
        solver.C = 1.0 / (strength * sample_weight.sum())
        solver.fit(features, label, sample_weight=sample_weight)
        weight, bias = np.zeros_like(weight), np.full(n_classes, _UNSEEN)
        if len(present) == 2:
            weight[present] = np.concatenate([-solver.coef_, solver.coef_]) / 2
            bias[present] = np.concatenate([-solver.intercept_, solver.intercept_]) / 2
        else:
            weight[present], bias[present] = solver.coef_, solver.intercept_
        yield weight, bias
