"""Metrics as plain functions, and their weighted forms that resampling uses.

One class stands against the rest: ``positive`` (N,) is True for its images and ``score`` (N,) is its
probability. A metric that the data cannot give is None (scalar) or NaN (array), never 0.

    auroc, auprc               ranking of images, ties counted half
    sensitivity … f1           at the operating point, from counts
    confusion_matrix           [i, j] images of class i called j
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgraft.types import FloatArray, IntArray

METRICS: tuple[str, ...] = (
    "auroc",
    "auprc",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1",
    "brier",
    "ece",
)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Images sorted by falling score, prepared so that any weighting is a few array operations.

    Attributes:
        unit: (N,) resampling unit of each image, in sorted order.
        at: (P,) places of the P positives.
        start: (P,) first place of the run of equal scores a positive lies in.
        end: (P,) place behind that run.
        hits_start: (P,) positives before the run.
        hits_end: (P,) positives up to the end of the run.
    """

    unit: IntArray
    at: IntArray
    start: IntArray
    end: IntArray
    hits_start: IntArray
    hits_end: IntArray


def rank_scores(positive: IntArray, score: FloatArray, *, unit: IntArray) -> Ranking:
    """Sort images (N,) by falling score; ``unit`` (N,) is the column of the weights each belongs to."""
    order = np.argsort(-score, kind="stable")
    falling = -score[order]
    at = np.flatnonzero(np.asarray(positive)[order])
    start = np.searchsorted(falling, falling[at], side="left")
    end = np.searchsorted(falling, falling[at], side="right")
    return Ranking(unit[order], at, start, end, np.searchsorted(at, start), np.searchsorted(at, end))


def ranking_metrics(ranking: Ranking, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """AUROC (B,) and AUPRC (B,) under B weightings of the units.

    Args:
        ranking: images in order, P of them positive.
        weights: (B, U) how often each unit counts; whole numbers of at least 0.

    Returns:
        NaN where a weighting leaves no positives or no negatives.

    Source:
        AUROC: Mann-Whitney statistic, ties half. AUPRC: average precision, the sum of precision
        times step in recall, without interpolation, as scikit-learn's ``average_precision_score``.
    """
    n_weightings = len(weights)
    places = weights[:, ranking.unit]
    own = places[:, ranking.at]
    total = np.zeros((n_weightings, places.shape[1] + 1))
    np.cumsum(places, axis=1, out=total[:, 1:])
    hits = np.zeros((n_weightings, own.shape[1] + 1))
    np.cumsum(own, axis=1, out=hits[:, 1:])
    n_positive = hits[:, -1].copy()
    n_negative = total[:, -1] - n_positive

    reached = total[:, ranking.end]
    hits_reached = hits[:, ranking.hits_end]
    above = total[:, ranking.start] - hits[:, ranking.hits_start]
    below = n_negative[:, None] - 0.5 * (above + reached - hits_reached)
    undefined = (n_positive == 0) | (n_negative == 0)
    pairs = np.where(undefined, np.nan, n_positive * n_negative)
    auroc = np.einsum("ij,ij->i", own, below) / pairs
    precision = hits_reached / np.maximum(reached, 1.0)
    auprc = np.einsum("ij,ij->i", own, precision) / np.where(undefined, np.nan, n_positive)
    return auroc, auprc


def auroc(positive: IntArray, score: FloatArray) -> float | None:
    """Area under the ROC curve, ties half; None unless there are positives and negatives.

    Args:
        positive: (N,) 0 or 1.
        score: (N,) any finite values; higher means more positive.
    """
    return _scalar(_ranking_of_all(positive, score)[0])


def auprc(positive: IntArray, score: FloatArray) -> float | None:
    """Average precision; None unless there are positives and negatives (with none it is trivially 1)."""
    return _scalar(_ranking_of_all(positive, score)[1])


def _ranking_of_all(positive: IntArray, score: FloatArray) -> tuple[FloatArray, FloatArray]:
    n = len(score)
    ranking = rank_scores(np.asarray(positive), np.asarray(score, dtype=np.float64), unit=np.arange(n))
    return ranking_metrics(ranking, np.ones((1, n)))


def _scalar(values: FloatArray) -> float | None:
    return None if np.isnan(values[0]) else float(values[0])


def rates(positives: FloatArray, called: FloatArray, hits: FloatArray, total: FloatArray) -> dict[str, FloatArray]:
    """Metrics at the operating point from weighted counts, elementwise, NaN where not estimable.

    ppv and npv need both cases and non-cases, because with one kind only they are 0 or 1 whatever
    the classifier does; f1 needs cases.

    Args:
        positives: images of the class.
        called: images called the class.
        hits: images of the class called the class.
        total: all images.
    """
    negatives = total - positives
    correct_rest = negatives - (called - hits)
    both = (positives > 0) & (negatives > 0)
    sensitivity = _share(hits, positives)
    specificity = _share(correct_rest, negatives)
    return {
        "accuracy": _share(hits + correct_rest, total),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": _share(hits, np.where(both, called, 0)),
        "npv": _share(correct_rest, np.where(both, total - called, 0)),
        "f1": _share(2 * hits, np.where(positives > 0, positives + called, 0)),
    }


def _share(part: FloatArray, whole: FloatArray) -> FloatArray:
    share: FloatArray = part / np.where(whole > 0, whole, np.nan)
    return share


def confusion_matrix(y_true: IntArray, y_pred: IntArray, *, n_classes: int) -> IntArray:
    """Counts (C, C): row is the true class, column the predicted one."""
    flat = np.bincount(np.asarray(y_true) * n_classes + np.asarray(y_pred), minlength=n_classes**2)
    return flat.reshape(n_classes, n_classes).astype(np.int64)


def roc_points(positive: IntArray, score: FloatArray) -> tuple[FloatArray, FloatArray]:
    """ROC curve: (false positive rate (K,), sensitivity (K,)) from (0, 0) to (1, 1), one point per score.

    Both are empty unless there are positives and negatives.
    """
    hits, called = _steps(positive, score)
    n, n_positive = len(score), int(np.asarray(positive).sum())
    if n_positive in (0, n):
        return np.zeros(0), np.zeros(0)
    fpr = np.concatenate([[0.0], (called - hits) / (n - n_positive)])
    return fpr, np.concatenate([[0.0], hits / n_positive])


def pr_points(positive: IntArray, score: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Precision-recall curve: (recall (K,), precision (K,)), recall rising from 0, where precision is 1 by convention.

    Both are empty unless there are positives and negatives.
    """
    hits, called = _steps(positive, score)
    n_positive = int(np.asarray(positive).sum())
    if n_positive in (0, len(score)):
        return np.zeros(0), np.zeros(0)
    return np.concatenate([[0.0], hits / n_positive]), np.concatenate([[1.0], hits / called])


def _steps(positive: IntArray, score: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Positives and images at or above each different score, from the highest score down."""
    order = np.argsort(-np.asarray(score), kind="stable")
    falling = np.asarray(score)[order]
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)) if len(falling) else np.zeros(0, dtype=np.int64)
    hits = np.cumsum(np.asarray(positive, dtype=np.float64)[order])[last]
    return hits, (last + 1).astype(np.float64)
