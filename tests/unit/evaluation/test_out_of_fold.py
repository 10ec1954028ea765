"""Pooled out-of-fold scores: counted in images, and intervals that hold the truth although folds share images."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from medgraft.config.schema import EvaluationConfig
from medgraft.data.grouping import GroupCounts, spread
from medgraft.evaluation.differences import Answers
from medgraft.evaluation.evaluate import Evaluation, evaluate_answers
from medgraft.evaluation.intervals import wilson
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.evaluation.out_of_fold import CrossValidation, evaluate_out_of_fold, pooled_point, widened
from medgraft.types import Estimate, FloatArray, IntArray, Scores

CONFIG = EvaluationConfig(bootstrap=100)
POINT = OperatingPoint("argmax", "yes", 0.5)


def answers(y_true: IntArray, logit: FloatArray, unit: IntArray, predicted: IntArray) -> Answers:
    """Rows of two classes; ``logit`` is of the second."""
    proba = 1 / (1 + np.exp(-logit))
    ids = tuple(f"row {i}" for i in range(len(y_true)))
    scores = Scores(ids, tuple(f"p{i}" for i in unit), ("no", "yes"), y_true, np.stack([1 - proba, proba], axis=1))
    return Answers(scores, predicted)


def pooled(given: Answers, folds: int, repeats: int, n_declared: int | None = None) -> Evaluation:
    n_images = len(given.scores) // repeats
    return evaluate_out_of_fold(
        given,
        CrossValidation(folds, repeats, n_images, "patients"),
        points=[POINT],
        temperatures=[1.0],
        logits=np.log(given.scores.y_proba),
        config=CONFIG,
        patients_known=True,
        n_declared=n_declared or n_images,
        seed=0,
    )


def some(repeats: int, n: int = 60) -> Answers:
    """Each image once per repeat, with some noise between these; two images per patient."""
    rng = np.random.default_rng(3)
    y_true = np.tile(np.arange(n) // 2 % 3 == 0, repeats).astype(np.int64)
    own = np.tile(np.repeat(rng.normal(size=n // 2), 2), repeats)
    logit = 1.5 * (y_true - 0.5) + own + 0.4 * rng.normal(size=n * repeats)
    return answers(y_true, logit, np.tile(np.arange(n) // 2, repeats), (logit > 0).astype(np.int64))


def test_rows_are_counted_as_images() -> None:
    given = some(3)
    found = pooled(given, 5, 3, n_declared=62)
    assert (found.n_images, found.n_declared, found.n_patients) == (60, 62, 30)
    assert found.metrics["auroc"].n == found.metrics["accuracy"].n == 60
    assert (found.metrics["sensitivity"].n, found.metrics["specificity"].n) == (20, 40)
    assert found.risk_coverage.images[-1] == 60 and found.decision_curve.n == 60
    assert found.calibration.before is not None and found.calibration.before["ece"].n == 60
    confusion = np.array(found.confusion)
    assert confusion.sum(axis=1).tolist() == [40, 20]
    rows = np.array([[np.sum((given.scores.y_true == a) & (given.predicted == b)) for b in (0, 1)] for a in (0, 1)])
    assert np.abs(confusion - rows / 3).max() < 1
    content = found.as_dict()
    assert content["cross_validation"]["n_images"] == 60 and content["n_images"] == 60


def test_predictions_are_those_given_and_values_are_means_over_repeats() -> None:
    given = some(2)
    found = pooled(given, 5, 2)
    halves = [np.mean(half) for half in np.split(given.right, 2)]
    assert found.metrics["accuracy"].value == pytest.approx(np.mean(halves))
    other = pooled(Answers(given.scores, 1 - given.predicted), 5, 2)
    assert other.metrics["accuracy"].value == pytest.approx(1 - np.mean(halves))
    assert other.metrics["auroc"].value == found.metrics["auroc"].value


def test_the_same_repeat_twice_is_no_more_than_once() -> None:
    once = some(1)
    twice = answers(
        np.tile(once.scores.y_true, 2),
        np.tile(np.log(once.scores.y_proba[:, 1] / once.scores.y_proba[:, 0]), 2),
        np.tile(np.arange(60) // 2, 2),
        np.tile(once.predicted, 2),
    )
    single, double = pooled(once, 5, 1).metrics, pooled(twice, 5, 2).metrics
    for name in ("auroc", "accuracy", "sensitivity", "ppv", "brier"):
        one, two = single[name], double[name]
        assert (two.value, two.low, two.high, two.n) == pytest.approx((one.value, one.low, one.high, one.n))


def test_limits_are_those_of_the_larger_standard_error() -> None:
    design = CrossValidation(5, 1, 90, "patients")
    assert design.widening == pytest.approx(1.5)
    for right in (0, 1, 45, 81, 89, 90):
        value = right / 90
        plain = Estimate(value, *wilson(value, 90), 0.95, 90, "wilson")
        wide = widened(plain, design, name="accuracy")
        assert (wide.low, wide.high) == pytest.approx(wilson(value, 40), abs=1e-9)  # 90 / 1.5^2
        assert wide.method == "wilson, x 1.50" and wide.n == 90
    loss = widened(Estimate(1.2, 1.0, 1.6, 0.95, 90, "patient bootstrap"), design, name="log_loss")
    assert (loss.low, loss.high) == pytest.approx((0.9, 1.8))


@pytest.mark.parametrize(("folds", "factor"), [(2, 3**0.5), (5, 1.5), (10, (19 / 9) ** 0.5)])
def test_the_factor_follows_the_share_that_is_held_out(folds: int, factor: float) -> None:
    assert CrossValidation(folds, 1, 10, "patients").widening == pytest.approx(factor)


def test_what_cannot_be_estimated_stays_so() -> None:
    none = Estimate(None, None, None, 0.95, 0, "", "0 cases")
    assert widened(none, CrossValidation(5, 2, 10, "patients"), name="auroc") == none


def test_every_limit_is_at_least_as_wide_and_holds_its_value() -> None:
    given = some(2)
    plain = evaluate_answers(given, POINT, temperature=1.0, config=CONFIG, patients_known=True, n_declared=120, seed=0)
    found = pooled(given, 5, 2)
    for name, wide in found.metrics.items():
        narrow = plain.metrics[name]
        assert wide.value == narrow.value and wide.low is not None and narrow.low is not None
        assert wide.low <= narrow.low <= wide.value <= narrow.high <= wide.high, name
    assert (found.risk_coverage.low <= plain.risk_coverage.low).all()
    assert (found.risk_coverage.high >= plain.risk_coverage.error - 1e-12).all()
    assert (found.decision_curve.low <= plain.decision_curve.low)[:-1].all()  # the last one has no limits


def test_more_than_two_classes_have_no_threshold() -> None:
    point = pooled_point([OperatingPoint("argmax", None, None)] * 2)
    assert point.threshold is None and point.positive is None
    two = pooled_point([replace(POINT, threshold=0.2), replace(POINT, threshold=0.6)])
    assert two.threshold == pytest.approx(0.4) and two.validation["thresholds"] == [0.2, 0.6]


def test_an_image_without_a_repeat_is_refused() -> None:
    with pytest.raises(ValueError, match="59 rows are not 2 of each of 29"):
        pooled(answers(*(np.zeros(59, dtype=np.int64) for _ in range(4))), 5, 2)


STUDIES, FOLDS, DIMENSIONS, PATIENTS = 300, 5, 20, 60


class Linear:
    """A discriminant fitted on some images, and how good it really is."""

    def __init__(self, x: FloatArray, y: IntArray, apart: FloatArray) -> None:
        means = [x[y == k].mean(axis=0) for k in (0, 1)]
        within = np.concatenate([x[y == k] - means[k] for k in (0, 1)])
        weight = np.linalg.solve(within.T @ within / len(x) + 0.1 * np.eye(x.shape[1]), means[1] - means[0])
        self.weight = weight / np.linalg.norm(weight)
        self.offset = -self.weight @ (means[0] + means[1]) / 2
        half, normal = self.weight @ apart / 2, NormalDist()
        self.auroc = normal.cdf(2 * half / 2**0.5)
        self.accuracy = (normal.cdf(half + self.offset) + normal.cdf(half - self.offset)) / 2


def cross_validated(rng: np.random.Generator, repeats: int) -> tuple[Answers, dict[str, float]]:
    """One study: patients with one to five images of 20 features, and the mean true performance of all fits."""
    apart = np.zeros(DIMENSIONS)
    apart[:5] = 1.5 / 5**0.5
    unit = np.repeat(np.arange(PATIENTS), rng.integers(1, 6, size=PATIENTS))
    y = (unit % 2).astype(np.int64)
    shared = rng.normal(size=(PATIENTS, DIMENSIONS))[unit]
    x = (y[:, None] - 0.5) * apart + 0.7 * shared + 0.51**0.5 * rng.normal(size=(len(y), DIMENSIONS))
    counts = GroupCounts.of(unit, y, n_classes=2)
    scores, truth = [], []
    for _ in range(repeats):
        of_patient = spread(counts, np.arange(PATIENTS), [1 / FOLDS] * FOLDS, fixed=np.zeros((FOLDS, 2)), rng=rng)
        fold, score = of_patient[unit], np.zeros(len(y))
        for number in range(FOLDS):
            held = fold == number
            model = Linear(x[~held], y[~held], apart)
            score[held] = x[held] @ model.weight + model.offset
            truth.append((model.auroc, model.accuracy))
        scores.append(score)
    logit = np.concatenate(scores)
    given = answers(np.tile(y, repeats), logit, np.tile(unit, repeats), (logit >= 0).astype(np.int64))
    return given, dict(zip(("auroc", "accuracy"), np.mean(truth, axis=0).tolist(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 2, 5])
def test_intervals_hold_what_models_trained_this_way_achieve(repeats: int) -> None:
    rng = np.random.default_rng(repeats)
    found, plain, truth = [], [], []
    for _ in range(STUDIES):
        given, achieved = cross_validated(rng, repeats)
        found.append(pooled(given, FOLDS, repeats).metrics)
        n = len(given.scores)
        plain.append(
            evaluate_answers(
                given, POINT, temperature=1.0, config=CONFIG, patients_known=True, n_declared=n, seed=0
            ).metrics
        )
        truth.append(achieved)

    def held(metrics: list[dict[str, Estimate]], name: str, own: bool) -> float:
        """Share of studies whose interval holds the mean over its own fits, or over those of all studies."""
        expected = np.mean([one[name] for one in truth])
        values = [one[name] if own else expected for one in truth]
        limits = [(one[name].low or 0.0, one[name].high or 1.0) for one in metrics]
        return float(np.mean([low <= value <= high for (low, high), value in zip(limits, values, strict=True)]))

    for name in ("auroc", "accuracy"):
        shares = {own: (held(plain, name, own), held(found, name, own)) for own in (True, False)}
        print(name, repeats, shares)
        assert all(0.93 <= wide <= 1.0 for _, wide in shares.values()), shares
        assert shares[False][0] < 0.93  # without the correction, too narrow
