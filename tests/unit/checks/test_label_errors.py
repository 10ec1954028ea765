"""Labels turned by hand are found, right ones are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medgraft.checks.label_errors import LabelErrors, check_labels, confident_classes, suspected_labels
from medgraft.data.manifest import Manifest
from medgraft.training.crossval import cross_validate, make_folds
from medgraft.types import FloatArray, IntArray

CLASSES = ("glioma", "no tumor", "pituitary")


def drawn(n: int, seed: int, *, distance: float = 4.0, classes: int = 3) -> tuple[FloatArray, IntArray]:
    """Posterior probabilities of normal clouds around the corners of a simplex, and the true classes."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    centers = np.eye(classes) * distance / 2**0.5
    points = centers[truth] + rng.standard_normal((n, classes))
    logits = points @ centers.T
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True), truth


def turned(truth: IntArray, share: float, seed: int, classes: int = 3) -> tuple[IntArray, np.ndarray]:
    rng = np.random.default_rng([seed, 1])
    flipped = rng.random(len(truth)) < share
    label = truth.copy()
    label[flipped] = (truth[flipped] + rng.integers(1, classes, flipped.sum())) % classes
    return label, flipped


def scored(found: LabelErrors, flipped: np.ndarray) -> tuple[float, float]:
    rows = [suspect.row for suspect in found.suspects]
    hits = int(flipped[rows].sum())
    return hits / max(1, len(rows)), hits / int(flipped.sum())


def test_thresholds_and_confident_classes_by_hand() -> None:
    proba = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.45, 0.55]])
    thresholds, likely = confident_classes(proba, np.array([0, 0, 0, 1, 1]))
    np.testing.assert_allclose(thresholds, [0.6, 0.575])
    assert likely.tolist() == [0, 0, 1, 1, -1]


def test_a_class_without_images_is_never_suggested() -> None:
    thresholds, likely = confident_classes(np.array([[0.1, 0.2, 0.7], [0.3, 0.6, 0.1]]), np.array([0, 1]))
    assert np.isnan(thresholds[2]) and likely.tolist() == [0, 1]


@pytest.mark.parametrize(("share", "precision", "recall"), [(0.03, 0.8, 0.75), (0.10, 0.85, 0.75)])
def test_turned_labels_are_found(share: float, precision: float, recall: float) -> None:
    proba, truth = drawn(3000, 0)
    label, flipped = turned(truth, share, 0)
    found = suspected_labels(proba, label)
    got = scored(found, flipped)
    assert got[0] >= precision and got[1] >= recall
    assert abs(found.share - share) < 0.012 and found.p < 1e-6
    assert abs(found.per_class - [flipped[label == c].mean() for c in range(3)]).max() < 0.025


def test_right_labels_are_left_alone_however_hard_they_are() -> None:
    claimed = [
        len(suspected_labels(*drawn(800, seed, distance=distance)).suspects)
        for seed in range(15)
        for distance in (1, 2, 4)
    ]
    assert sum(claimed) == 0
    overlapping, truth = drawn(800, 0, distance=1)
    joint = suspected_labels(overlapping, truth).joint
    assert joint.sum() - np.trace(joint) > 80  # which confident learning alone would call wrong


def test_a_temperature_is_no_share_of_wrong_labels() -> None:
    proba, truth = drawn(2000, 3, distance=2)
    for sharper in (0.5, 2.0, 4.0):
        told = proba**sharper
        assert suspected_labels(told / told.sum(axis=1, keepdims=True), truth).suspects == ()


def test_one_class_alone_may_be_wrong() -> None:
    proba, truth = drawn(3000, 1)
    rng = np.random.default_rng(5)
    flipped = (truth == 0) & (rng.random(3000) < 0.12)
    label = np.where(flipped, 1, truth)
    found = suspected_labels(proba, label)
    assert scored(found, flipped) > (0.8, 0.7)
    assert found.per_class.argmax() == 1


def test_images_of_one_misjudged_patient_are_no_evidence() -> None:
    proba, truth = drawn(60, 2, distance=5)
    many = np.repeat(np.arange(60), 20)
    label = truth.copy()
    label[0] = (truth[0] + 1) % 3
    assert suspected_labels(proba[many], label[many]).suspects
    alone = suspected_labels(proba[many], label[many], group=many)
    once = suspected_labels(proba, label)
    assert alone.p == pytest.approx(once.p, rel=1e-3) and alone.n_groups == 60
    assert alone.share == pytest.approx(once.share, rel=1e-2)


def test_suspects_are_ranked_and_their_values_are_those_of_the_image() -> None:
    proba, truth = drawn(1000, 4)
    label, _ = turned(truth, 0.05, 4)
    found = suspected_labels(proba, label)
    margins = [suspect.margin for suspect in found.suspects]
    assert margins == sorted(margins)
    first = found.suspects[0]
    assert first.given == label[first.row] and first.suggested == proba[first.row].argmax() != first.given
    assert first.proba_given == proba[first.row, first.given] and first.proba_suggested == proba[first.row].max()
    assert first.margin == pytest.approx(first.proba_given - first.proba_suggested) and 0.5 < first.wrong <= 1
    assert found.suspects == suspected_labels(proba, label).suspects


def test_extremes_do_no_harm() -> None:
    certain = np.eye(2)[[0, 1, 0, 1]].astype(float)
    assert suspected_labels(certain, np.array([0, 1, 0, 1])).suspects == ()
    assert suspected_labels(certain, np.array([0, 0, 0, 0])).p == 1.0
    assert suspected_labels(np.zeros((0, 2)), np.zeros(0, np.int64)).suspects == ()
    assert suspected_labels(np.full((50, 2), 0.5), np.arange(50) % 2).suspects == ()
    with pytest.raises(ValueError, match="lengths differ"):
        suspected_labels(certain, np.array([0, 1]))


def manifest(label: IntArray) -> Manifest:
    names = [f"image-{row}" for row in range(len(label))]
    columns = {"sample_id": names, "path": names, "label": [CLASSES[c] for c in label.tolist()]}
    return Manifest.from_columns(columns, root=Path("/data"), classes=CLASSES, patient_source="none")


def test_the_result_counts_names_and_ranks() -> None:
    proba, truth = drawn(1000, 6)
    label, _ = turned(truth, 0.05, 6)
    found = suspected_labels(proba, label)
    (result,) = check_labels(manifest(label), found)
    n = len(found.suspects)
    assert (result.code, result.severity) == ("LABEL_SUSPECTED", "warning")
    assert f"{n} of 1,000 labels are probably wrong" in result.title and "look like" in result.title
    assert sum(pair["images"] for pair in result.evidence["pairs"]) == n == result.evidence["suspects"]
    first = result.evidence["examples"][0]
    assert first["sample"] == f"image-{found.suspects[0].row}" and first["given"] != first["suggested"]
    assert set(result.evidence["per_class"]) == set(CLASSES)
    assert len(result.evidence["examples"]) == min(n, 50) and "look at them" in result.advice


def test_nothing_suspected_nothing_said() -> None:
    proba, truth = drawn(300, 7)
    assert check_labels(manifest(truth), suspected_labels(proba, truth)) == ()
    with pytest.raises(ValueError, match="300 judged"):
        check_labels(manifest(truth[:10]), suspected_labels(proba, truth))


def test_with_cross_validated_probes_of_patients() -> None:
    rng = np.random.default_rng(8)
    group = np.repeat(np.arange(200), 3)
    truth = (group % 2).astype(np.int64)
    features = rng.standard_normal((200, 20))[group] + 0.5 * rng.standard_normal((600, 20))
    features[:, 0] += 5 * truth
    for share, at_least in ((0.0, 0), (0.05, 15)):
        label, flipped = turned(truth, share, 8, classes=2)
        fold = make_folds(group, label, classes=["a", "b"], seed=0)
        proba = cross_validate(features.astype(np.float32), label, fold, n_classes=2).proba
        found = suspected_labels(proba, label, group=group)
        assert sum(flipped[suspect.row] for suspect in found.suspects) >= at_least
        assert sum(not flipped[suspect.row] for suspect in found.suspects) <= 3
        assert share or not found.suspects
