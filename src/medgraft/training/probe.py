"""A linear head fitted exactly: regularized logistic regression on cached features.

    features of all views (n, D) → standardize → one fit per strength, strong to weak → the strongest within one
    standard error of the best refined validation loss → folded back into the head's last layer

On frozen features the problem is convex, so a quasi-Newton solver ends where many epochs of gradient
steps are still on their way, in seconds, and the strength of the penalty is the only choice left. The
one-standard-error rule (Breiman et al. 1984) prefers the simpler head where validation cannot tell.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn

from medgraft.errors import UsageError
from medgraft.evaluation.calibration import apply_temperature, fit_temperature
from medgraft.models.classifier import Classifier
from medgraft.training.activations import Activations
from medgraft.training.fit import PhaseOutcome, mean_auroc
from medgraft.training.plan import STRENGTHS
from medgraft.types import EpochRow, FloatArray, IntArray

MOST_VALUES = 150_000_000


def is_linear(classifier: Classifier) -> bool:
    """Whether the head is pooling, dropout and one linear layer."""
    return classifier.head.pooled and all(
        not any(True for _ in layer.parameters()) and not isinstance(layer, nn.ReLU) for layer in classifier.head.layers
    )


def fit_probe(
    classifier: Classifier,
    train: tuple[Activations, IntArray],
    val: tuple[Activations, IntArray],
    *,
    class_weights: tuple[float, ...] | None,
    phase: str,
    on_epoch: Callable[[EpochRow], None],
    should_stop: Callable[[], bool],
) -> PhaseOutcome:
    """Fit the head's last layer along the path of penalties and keep one.

    Args:
        classifier: its head is linear (`is_linear`); changed in place.
        train: activations (pooled features, all views) and targets (N,).
        val: the same for validation; the clean view decides.
        class_weights: C factors, or None.
        phase: name for the rows.
        on_epoch: given one row per strength, in the place of an epoch.
        should_stop: asked between the fits.

    Returns:
        Rows in the order of falling strength, and which one was kept.

    Raises:
        UsageError: PROBE_NOT_LINEAR.
    """
    if not is_linear(classifier):
        raise UsageError(
            "PROBE_NOT_LINEAR",
            "the optimizer lbfgs fits one linear layer behind global pooling, and this head has more",
            where=f"training.phases.{phase}.optimizer",
            fix="use adamw, or model.head=dropout 0.2",
        )
    features, targets = _stack(*train)
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    features -= mean
    features /= scale
    val_features = (_clean(val[0]) - mean) / scale
    weights = np.ones(len(classifier.classes)) if class_weights is None else np.array(class_weights)
    rows: list[EpochRow] = []
    fitted: list[tuple[FloatArray, FloatArray]] = []
    losses: list[tuple[float, float]] = []
    for strength in STRENGTHS:
        began = time.perf_counter()
        fitted.append(_solve(features, targets, weights, len(classifier.classes), strength))
        val_logits = _logits(val_features, fitted[-1])
        losses.append(_loss(val_logits / fit_temperature(val_logits, val[1]), val[1], weights))
        logits = ((_logits(features, fitted[-1]), targets), (val_logits, val[1]))
        rows.append(_row(phase, len(rows) + 1, logits, weights, losses[-1][0], time.perf_counter() - began))
        if should_stop():
            break
    chosen = _strongest_within_one_error(losses)
    rows = [replace(row, best=number == chosen) for number, row in enumerate(rows)]
    for row in rows:
        on_epoch(row)
    _install(classifier, fitted[chosen], mean, scale)
    return PhaseOutcome(tuple(rows), chosen + 1, 1.0, should_stop())


def _row(
    phase: str,
    number: int,
    logits: tuple[tuple[FloatArray, IntArray], tuple[FloatArray, IntArray]],
    weights: FloatArray,
    refined: float,
    seconds: float,
) -> EpochRow:
    """The row of one strength, from logits and targets of train and validation."""
    (train_logits, train_targets), (val_logits, val_targets) = logits
    return EpochRow(
        phase=phase,
        epoch=number,
        train_loss=_loss(train_logits, train_targets, weights)[0],
        train_accuracy=float((train_logits.argmax(axis=1) == train_targets).mean()),
        val_loss=_loss(val_logits, val_targets, weights)[0],
        val_accuracy=float((val_logits.argmax(axis=1) == val_targets).mean()),
        val_auroc=mean_auroc(val_logits, val_targets),
        refined_loss=refined,
        seconds=seconds,
        images_per_second=len(train_targets) / seconds,
    )


def _stack(activations: Activations, targets: IntArray) -> tuple[FloatArray, IntArray]:
    """All views one below the other, as many as memory allows, float32 values."""
    n_values = len(activations) * int(np.prod(activations.views[0].shape[1:]))
    kept = max(1, min(len(activations.views), MOST_VALUES // n_values))
    views = [activations.view(number).reshape(len(activations), -1) for number in range(kept)]
    return np.concatenate(views).astype(np.float32), np.tile(targets, kept)


def _clean(activations: Activations) -> FloatArray:
    return activations.view(0).reshape(len(activations), -1).astype(np.float64)


def _solve(
    features: FloatArray, targets: IntArray, weights: FloatArray, n_classes: int, strength: float
) -> tuple[FloatArray, FloatArray]:
    """Coefficients (C, D) and intercepts (C,) on standardized features; a class without images stays at zero."""
    sample_weight = weights[targets]
    solver = LogisticRegression(C=1.0 / (strength * sample_weight.sum()), max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        # a weak penalty may not have converged after 200 steps: an early stop, judged by its validation loss
        warnings.simplefilter("ignore", ConvergenceWarning)
        solver.fit(features, targets, sample_weight=sample_weight)
    coefficients = np.zeros((n_classes, features.shape[1]))
    intercepts = np.full(n_classes, -30.0)  # a class never seen: e^-30 of the others
    if len(solver.classes_) == 2:
        first, second = solver.classes_
        coefficients[first], coefficients[second] = -solver.coef_[0] / 2, solver.coef_[0] / 2
        intercepts[first], intercepts[second] = -solver.intercept_[0] / 2, solver.intercept_[0] / 2
    else:
        coefficients[solver.classes_], intercepts[solver.classes_] = solver.coef_, solver.intercept_
    return coefficients, intercepts


def _logits(features: FloatArray, coefficients: tuple[FloatArray, FloatArray]) -> FloatArray:
    weight, bias = coefficients
    logits: FloatArray = (features @ weight.T.astype(features.dtype)).astype(np.float64) + bias
    return logits


def _loss(logits: FloatArray, targets: IntArray, weights: FloatArray) -> tuple[float, float]:
    """Weighted mean cross-entropy and its standard error."""
    proba = apply_temperature(logits, 1.0)[np.arange(len(targets)), targets]
    factor = weights[targets] / weights[targets].mean()
    losses = -np.log(np.maximum(proba, 1e-12)) * factor
    return float(losses.mean()), float(losses.std() / np.sqrt(len(losses)))


def _strongest_within_one_error(losses: list[tuple[float, float]]) -> int:
    best, error = min(losses)
    return next(index for index, (loss, _) in enumerate(losses) if loss <= best + error)


def _install(
    classifier: Classifier, coefficients: tuple[FloatArray, FloatArray], mean: FloatArray, scale: FloatArray
) -> None:
    """Fold the standardization into the last layer, so that it takes raw features."""
    weight, bias = coefficients[0] / scale, coefficients[1] - coefficients[0] @ (mean / scale)
    if classifier.head.n_outputs == 1:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    output = classifier.head.output
    with torch.no_grad():
        output.weight.copy_(torch.from_numpy(weight))
        output.bias.copy_(torch.from_numpy(bias))
