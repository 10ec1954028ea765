"""Is a probability a probability? Temperature, reliability bins, Brier score and calibration error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from medgraft.errors import DataError, ModelError
from medgraft.types import FloatArray, IntArray

N_BINS = 15
TEMPERATURE_RANGE = (0.05, 20.0)


def fit_temperature(logits: FloatArray, y_true: IntArray) -> float:
    """Temperature that makes validation probabilities fit best; belongs to validation only.

    Minimises the mean negative log-likelihood of ``softmax(logits / T)`` over T in
    ``TEMPERATURE_RANGE``. Three cases have no such minimum and are decided here: no images or a
    flat likelihood give 1; when every image is right the likelihood would rise without end as T
    falls, so T stays at 1 or above (a perfect validation part is no evidence for more confidence);
    when nearly every image is wrong T ends at the upper bound.

    Args:
        logits: (N, C) any finite values.
        y_true: (N,) class indices.

    Returns:
        T; above 1 lowers confidence. The order of classes in a row never changes.

    Raises:
        ModelError: LOGITS_NOT_FINITE.
        DataError: LABELS_MISMATCH when the shapes do not belong together.

    Source:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2; found by a
        bounded search on log T, the lower limit for perfect separation is ours.
    """
    logits = np.asarray(logits, dtype=np.float64)
    y_true = np.asarray(y_true, dtype=np.int64)
    if logits.ndim != 2 or y_true.shape != logits.shape[:1]:
        raise DataError("LABELS_MISMATCH", f"logits {logits.shape} and labels {y_true.shape} do not belong together")
    if not np.isfinite(logits).all():
        rows = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        raise ModelError(
            "LOGITS_NOT_FINITE",
            f"{len(rows)} of {len(logits)} validation images have logits that are not finite",
            where=f"first row {rows[0]}",
            fix="the network has diverged: lower the learning rates",
        )
    if len(logits) == 0:
        return 1.0
    shifted = logits - logits.max(axis=1, keepdims=True)
    own = shifted[np.arange(len(y_true)), y_true]

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float(np.mean(np.log(np.exp(shifted * scale).sum(axis=1)) - own * scale))

    others = shifted.copy()
    others[np.arange(len(y_true)), y_true] = -np.inf
    all_right = bool((own > others.max(axis=1)).all())
    low = 0.0 if all_right else math.log(TEMPERATURE_RANGE[0])
    high = math.log(TEMPERATURE_RANGE[1])
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    # The bounded search never evaluates its ends, and 1 is what a flat likelihood must give.
    candidates = [0.0, low, high, float(found.x)]
    losses = [loss(candidate) for candidate in candidates]
    best = int(np.argmin(losses))
    return math.exp(candidates[best]) if losses[best] < losses[0] - 1e-12 else 1.0


def apply_temperature(logits: FloatArray, temperature: float) -> FloatArray:
    """Probabilities (N, C) of logits (N, C) at a temperature above 0; rows sum to 1."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ModelError("TEMPERATURE_INVALID", f"temperature must be above 0, got {temperature}")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    proba: FloatArray = exponent / exponent.sum(axis=1, keepdims=True)
    return proba


def bin_index(proba: FloatArray) -> IntArray:
    """Bin 0..14 of each probability: equal widths, each bin closed on the right, 0 in the first."""
    return np.clip(np.ceil(np.asarray(proba) * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1)


@dataclass(frozen=True, slots=True)
class ReliabilityBins:
    """What was said and what was seen, per bin that holds images.

    Attributes:
        low: (K,) lower edges of the bins in use.
        high: (K,) upper edges.
        count: (K,) images in the bin.
        mean_proba: (K,) mean probability said.
        observed: (K,) share of images for which the event was true.
    """

    low: FloatArray
    high: FloatArray
    count: IntArray
    mean_proba: FloatArray
    observed: FloatArray


def reliability_bins(event: IntArray, proba: FloatArray) -> ReliabilityBins:
    """Reliability curve of an event (N,) 0/1 against its probability (N,); empty bins are left out."""
    index = bin_index(proba)
    count = np.bincount(index, minlength=N_BINS).astype(np.int64)
    used = np.flatnonzero(count)
    said = np.bincount(index, weights=proba, minlength=N_BINS)[used] / count[used]
    seen = np.bincount(index, weights=np.asarray(event, dtype=np.float64), minlength=N_BINS)[used] / count[used]
    return ReliabilityBins(used / N_BINS, (used + 1) / N_BINS, count[used], said, seen)


def calibration_event(y_true: IntArray, y_proba: FloatArray, positive: int | None) -> tuple[IntArray, FloatArray]:
    """What the calibration of a whole task is about: (event (N,) 0/1, its probability (N,)).

    With two classes the event is "positive" with the positive's probability; with more, "the most
    probable class is right" with that class's probability.
    """
    if positive is not None:
        return (y_true == positive).astype(np.int64), y_proba[:, positive]
    top = y_proba.argmax(axis=1) if len(y_proba) else np.zeros(0, dtype=np.int64)
    return (top == y_true).astype(np.int64), y_proba[np.arange(len(top)), top]


def expected_calibration_error(event: IntArray, proba: FloatArray) -> float | None:
    """Mean distance between said and seen over 15 bins of equal width, weighted by images; 0..1.

    Equal widths because bins then do not depend on the data, so every resample has the same ones.

    Args:
        event: (N,) 0 or 1.
        proba: (N,) probability of the event.

    Returns:
        The error, or None without images.

    Source:
        Naeini et al., AAAI 2015; Guo et al., ICML 2017, equation 3 (15 bins).
    """
    if len(event) == 0:
        return None
    gap = np.bincount(bin_index(proba), weights=np.asarray(event) - np.asarray(proba), minlength=N_BINS)
    return float(np.abs(gap).sum() / len(event))


def brier_score(y_true: IntArray, y_proba: FloatArray) -> float | None:
    """Brier score; two classes: mean of (p - y)² of either class, 0..1; more: summed over classes, 0..2.

    Args:
        y_true: (N,) class indices.
        y_proba: (N, C) probabilities.

    Returns:
        The score, or None without images.

    Source:
        Brier, Monthly Weather Review 1950; halved for two classes, as scikit-learn's
        ``brier_score_loss`` does.
    """
    if len(y_true) == 0:
        return None
    total = ((y_proba - np.eye(y_proba.shape[1])[y_true]) ** 2).sum(axis=1).mean()
    return float(total) / (2 if y_proba.shape[1] == 2 else 1)
