"""The exact linear head: what it reports is what the classifier then gives."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from medgraft.config import ModelConfig
from medgraft.errors import UsageError
from medgraft.evaluation.calibration import apply_temperature, fit_temperature
from medgraft.models.classifier import Classifier, build_classifier
from medgraft.training.activations import Activations
from medgraft.training.fit import PhaseOutcome
from medgraft.training.plan import STRENGTHS
from medgraft.training.probe import fit_probe, is_linear
from medgraft.types import EpochRow, FloatArray, IntArray


def build(classes: tuple[str, ...] = ("a", "b", "c"), **model: Any) -> Classifier:
    given = {"backbone": "test_resnet", "weights": "none", "size": 32}
    return build_classifier(ModelConfig.model_validate({**given, **model}), classes, seed=1)


def features(classifier: Classifier, n: int, seed: int, *, n_views: int = 1) -> tuple[Activations, IntArray]:
    """Pooled features with one informative channel per class; another scale and offset in every channel."""
    rng = np.random.default_rng(seed)
    n_classes, width = len(classifier.classes), classifier.backbone.n_channels
    targets = np.arange(n) % n_classes
    scales = np.geomspace(0.1, 10, width)
    views = []
    for _ in range(n_views):
        values = rng.normal(0, 1, (n, width))
        values[np.arange(n), targets] += 3.0
        views.append((values * scales + 2 * scales).astype(np.float16).reshape(n, width, 1, 1))
    return Activations(tuple(views)), targets.astype(np.int64)


def fit(
    classifier: Classifier,
    train: tuple[Activations, IntArray],
    val: tuple[Activations, IntArray],
    *,
    class_weights: tuple[float, ...] | None = None,
    stop_after: int = 10**9,
) -> tuple[PhaseOutcome, list[EpochRow]]:
    told: list[EpochRow] = []
    asked = itertools.count(1)
    outcome = fit_probe(
        classifier,
        train,
        val,
        class_weights=class_weights,
        phase="head",
        on_epoch=told.append,
        should_stop=lambda: next(asked) >= stop_after,
    )
    return outcome, told


def proba_of(classifier: Classifier, part: tuple[Activations, IntArray]) -> FloatArray:
    with torch.inference_mode():
        logits = classifier.classify(torch.from_numpy(part[0].views[0].astype(np.float32)))
    return apply_temperature(logits.double().numpy(), 1.0)


@pytest.fixture
def classifier() -> Classifier:
    return build()


def test_the_installed_head_gives_the_reported_numbers(classifier: Classifier) -> None:
    train, val = features(classifier, 120, 0), features(classifier, 60, 1)
    outcome, told = fit(classifier, train, val)
    assert tuple(told) == outcome.rows and len(told) == len(STRENGTHS) and not outcome.stopped
    kept = told[outcome.best_epoch - 1]
    proba = proba_of(classifier, val)
    assert kept.val_accuracy == pytest.approx((proba.argmax(axis=1) == val[1]).mean()) and kept.val_accuracy > 0.7
    loss = -np.log(proba[np.arange(60), val[1]]).mean()
    assert kept.val_loss == pytest.approx(loss, rel=1e-3)
    assert [row.epoch for row in told] == list(range(1, len(STRENGTHS) + 1))
    # the weaker the penalty, the better the training part is learned
    losses = [row.train_loss or 0.0 for row in told]
    assert losses == sorted(losses, reverse=True)


def test_only_the_last_layer_changes(classifier: Classifier) -> None:
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    fit(classifier, features(classifier, 60, 0), features(classifier, 30, 1))
    changed = {name for name, value in classifier.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.output.weight", "head.output.bias"}


def test_the_strongest_penalty_within_one_standard_error_is_kept(classifier: Classifier) -> None:
    train, val = features(classifier, 120, 0), features(classifier, 60, 1)
    outcome, told = fit(classifier, train, val)
    losses = np.array([row.refined_loss for row in told])
    logits = np.log(proba_of(classifier, val))
    proba = apply_temperature(logits, fit_temperature(logits, val[1]))
    spread = -np.log(proba[np.arange(60), val[1]])
    assert losses[outcome.best_epoch - 1] == pytest.approx(spread.mean(), rel=1e-3)
    error = spread.std() / np.sqrt(60)
    assert losses[outcome.best_epoch - 1] <= losses.min() + 1.5 * error
    assert outcome.best_epoch <= int(np.argmin(losses)) + 1
    assert [row.epoch for row in told if row.best] == [outcome.best_epoch]


def test_views_count_as_further_images(classifier: Classifier) -> None:
    """With more noisy views of the same images, the head generalises better."""
    val = features(classifier, 300, 1)
    one, _ = fit(classifier, features(classifier, 30, 0), val)
    many, _ = fit(classifier, features(classifier, 30, 0, n_views=6), val)
    assert (many.rows[many.best_epoch - 1].val_loss or 9) < (one.rows[one.best_epoch - 1].val_loss or 0)


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c")])
def test_class_weights_move_the_decision(classes: tuple[str, ...]) -> None:
    classifier = build(classes)
    train, val = features(classifier, 60, 0), features(classifier, 60, 1)
    fit(classifier, train, val)
    plain = proba_of(classifier, val)[:, 0].mean()
    fit(classifier, train, val, class_weights=(20.0,) + (1.0,) * (len(classes) - 1))
    assert proba_of(classifier, val)[:, 0].mean() > plain + 0.01


def test_a_sigmoid_head_gives_the_same_probabilities_as_a_softmax_head() -> None:
    softmax, sigmoid = build(("a", "b")), build(("a", "b"), output="sigmoid")
    train, val = features(softmax, 60, 0), features(softmax, 30, 1)
    for classifier in (softmax, sigmoid):
        fit(classifier, train, val)
    assert np.allclose(proba_of(softmax, val), proba_of(sigmoid, val), atol=1e-4)


@pytest.mark.parametrize("kept", [(0, 2), (0, 1)])
def test_a_class_without_training_images_is_never_predicted(classifier: Classifier, kept: tuple[int, int]) -> None:
    train, val = features(classifier, 90, 0), features(classifier, 60, 1)
    rows = np.isin(train[1], kept)
    fit(classifier, (Activations((train[0].views[0][rows],)), train[1][rows]), val)
    proba = proba_of(classifier, val)
    (missing,) = {0, 1, 2} - set(kept)
    assert proba[:, missing].max() < 1e-6
    known = np.isin(val[1], kept)
    assert (proba.argmax(axis=1) == val[1])[known].mean() > 0.7


def test_same_input_same_bits() -> None:
    states = []
    for _ in range(2):
        classifier = build()
        fit(classifier, features(classifier, 60, 0), features(classifier, 30, 1))
        states.append(classifier.head.output.weight.detach().clone())
    assert torch.equal(*states)


def test_a_request_to_stop_keeps_what_was_fitted(classifier: Classifier) -> None:
    outcome, told = fit(classifier, features(classifier, 60, 0), features(classifier, 30, 1), stop_after=2)
    assert outcome.stopped and len(told) == 2 and outcome.best_epoch in (1, 2)


@pytest.mark.parametrize("model", [{"head": ("dense 8", "relu")}, {"head": ("batch_norm",)}, {"pool_size": "none"}])
def test_other_heads_are_refused(model: dict[str, Any]) -> None:
    classifier = build(**model)
    assert not is_linear(classifier)
    with pytest.raises(UsageError) as caught:
        fit(classifier, features(classifier, 6, 0), features(classifier, 6, 1))
    assert caught.value.code == "PROBE_NOT_LINEAR" and caught.value.problem.where == "training.phases.head.optimizer"
    assert is_linear(build(head=("dropout 0.5",))) and is_linear(build(head=()))
