"""A simple model never sees the patient, nor a copy, of what it predicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from made_images import checked, noise, png_record
from medgraft.checks.images import CheckedImages
from medgraft.checks.judging import Judging
from medgraft.checks.regions import thumbnails
from medgraft.checks.simple_models import Features, Known, forest, logistic, nearest_neighbor
from medgraft.evaluation.metrics import auroc
from medgraft.types import FloatArray, IntArray


def alike(patients: int = 60, images: int = 3, *, seed: int = 0) -> CheckedImages:
    """Images of one patient look alike, and patients of one class do not."""
    rng = np.random.default_rng(seed)
    look = np.repeat(rng.integers(60, 190, (patients, 32, 32)), images, axis=0)
    pixels = np.clip(look + rng.normal(0, 3, look.shape), 0, 255).astype(np.uint8)
    labels = np.repeat(rng.permutation(np.arange(patients) % 2), images)
    names = [f"p{at:02d}" for at in np.repeat(np.arange(patients), images)]
    return checked(pixels, ["ab"[label] for label in labels], patients=names)


def everything(images: CheckedImages, *, seed: int = 0, cap: int = 20_000) -> Judging:
    return Judging(images, np.arange(len(images)), None, seed, cap)


def found_auroc(judge: Judging) -> float:
    scores = judge.scores(judge.predict(nearest_neighbor, thumbnails(judge.used.pixels)))
    area = auroc(scores.y_true, scores.y_proba[:, 1])
    assert area is not None
    return area


def test_other_images_of_the_same_patient_do_not_help() -> None:
    images = alike()
    assert 0.3 < found_auroc(everything(images)) < 0.7
    torn = replace(images, group=np.arange(len(images)))
    assert found_auroc(everything(torn)) > 0.99


def test_copies_are_kept_together() -> None:
    once = noise(40)
    pixels = np.concatenate([once, once])
    images = checked(pixels, [*"ab"] * 40)
    assert 0.2 < found_auroc(everything(images)) < 0.8
    apart = [replace(png_record(one), pixel_hash=str(at)) for at, one in enumerate(pixels)]
    assert found_auroc(everything(checked(pixels, [*"ab"] * 40, records=apart))) == 1.0


def test_given_parts_are_taken_as_they_are() -> None:
    once = noise(60)
    images = checked(np.concatenate([once, once[:30]]), [*"ab"] * 45)
    judge = Judging(images, np.arange(60, 90), np.arange(60), 0, 20_000)
    assert found_auroc(judge) == 1.0  # every test image is known: what a comparison on all images has to show
    assert (
        judge.rows.tolist() == list(range(60, 90))
        and judge.scores(np.full((30, 2), 0.5)).y_true.tolist() == [0, 1] * 15
    )
    assert judge.protocol == "fitted on 60 training images, scored on 30"


def test_only_rows_to_fit_on_are_fitted_on() -> None:
    seen: list[tuple[IntArray, int]] = []

    def note(known: Known, features: Features) -> FloatArray:
        seen.append((known.features[:, 0].astype(np.int64), len(features)))
        return np.full((len(features), 2), 0.5)

    images = checked(noise(10), [*"ab"] * 5)
    judge = Judging(images, np.array([9, 1]), np.array([4, 2, 3]), 0, 20_000)
    proba = judge.predict(note, judge.used_rows[:, None].astype(np.float32))
    assert [(rows.tolist(), n) for rows, n in seen] == [([2, 3, 4], 2)] and proba.shape == (2, 2)
    assert judge.scores(proba).sample_ids == ("image0001x.png", "image0009x.png")
    with pytest.raises(ValueError, match="fitted on and predicted"):
        Judging(images, np.array([1, 2]), np.array([2]), 0, 100)


def test_each_image_is_predicted_in_each_partition_by_a_fit_without_its_group() -> None:
    images = alike(30)
    times = np.zeros(len(images), dtype=np.int64)

    def note(known: Known, features: Features) -> FloatArray:
        rows = features[:, 0].astype(np.int64)
        times[rows] += 1
        assert not set(images.group[rows]) & set(known.group.tolist())
        return np.full((len(features), 2), 0.5)

    judge = everything(images)
    assert judge.predict(note, np.arange(len(images), dtype=np.float32)[:, None]).sum() == len(images)
    assert set(times) == {3}  # few images: three partitions
    assert judge.protocol == "5-fold cross-validation, 3 times, over 90 images, patients and copies kept together"


def test_patients_that_are_unknown_are_said_to_be() -> None:
    judge = everything(checked(noise(60), [*"ab"] * 30))
    assert judge.protocol.endswith("over 60 images, copies kept together; patients unknown")
    assert judge.scores(np.full((60, 2), 0.5)).patient_ids[3] == "image0003x.png"


def test_the_same_seed_gives_the_same_bytes() -> None:
    images = alike(24, 2)
    small = thumbnails(images.pixels)[:, ::8]
    for model in (nearest_neighbor, logistic, forest):
        first, again, other = (everything(images, seed=seed).predict(model, small) for seed in (1, 1, 2))
        assert first.tobytes() == again.tobytes() and first.tobytes() != other.tobytes()
        assert np.allclose(first.sum(axis=1), 1.0)


def test_a_cap_leaves_out_whole_patients_and_no_class() -> None:
    images = alike(100, 4)
    judge = everything(images, cap=100)
    assert 90 <= len(judge.rows) <= 110
    kept = images.manifest.table["patient_id"].iloc[judge.rows].value_counts()
    assert set(kept) == {4}
    assert judge.shares == pytest.approx([0.5, 0.5], abs=0.06)
    assert f"over {len(judge.rows)} of 400 images" in judge.protocol
    split = Judging(images, np.arange(200), np.arange(200, 400), 0, 100)
    assert split.fit_rows is not None and len(split.fit_rows) < 120 and split.fit_rows.min() >= 200
    assert f"{len(split.fit_rows)} of 200 training images, scored on {len(split.rows)} of 200" in split.protocol


def test_too_few_images_are_said_and_nothing_is_predicted() -> None:
    images = alike(30)
    label = images.manifest.class_indices()
    two_patients = np.concatenate([np.flatnonzero(label == 0), np.flatnonzero(label == 1)[:6]])
    judge = Judging(images, two_patients, None, 0, 100)
    assert judge.too_few is not None
    assert (judge.too_few.code, judge.too_few.severity) == ("BASELINES_TOO_FEW", "note")
    assert "'b (2)'" in judge.too_few.title and judge.too_few.evidence["reason"] == "COMPARE_TOO_FEW"
    with pytest.raises(ValueError, match="too few patients"):
        judge.predict(forest, np.zeros((len(two_patients), 1), dtype=np.float32))

    one_class = Judging(images, np.flatnonzero(label == 1), np.flatnonzero(label == 0), 0, 100)
    assert one_class.too_few is not None and "of one class only, without 'b'" in one_class.too_few.title
    nothing = Judging(images, np.arange(0), np.arange(30), 0, 100)
    assert nothing.too_few is not None and "no images to predict" in nothing.too_few.title
    assert everything(images).too_few is None


def known(features: FloatArray, label: IntArray, *, n_classes: int = 2) -> Known:
    return Known(features.astype(np.float32), label, np.arange(len(label)), n_classes, 0)


def test_the_most_probable_class_is_that_of_the_nearest_image() -> None:
    rng = np.random.default_rng(0)
    features, label = rng.normal(size=(200, 30)).astype(np.float32), rng.integers(0, 3, 200)
    asked = rng.normal(size=(300, 30)).astype(np.float32)
    proba = nearest_neighbor(known(features, label, n_classes=4), asked)
    plain = KNeighborsClassifier(1, algorithm="brute").fit(features, label).predict(asked)
    assert np.array_equal(proba.argmax(axis=1), plain)
    assert not proba[:, 3].any() and len(np.unique(proba[:, 0])) > 290  # ranked, not 0 or 1


def test_a_known_picture_is_certain_and_one_under_two_labels_is_not() -> None:
    rng = np.random.default_rng(0)
    features, label = rng.integers(0, 256, (20, 50)).astype(np.float32), np.arange(20) % 2
    features[5] = features[4]
    proba = nearest_neighbor(known(features, label), features[[2, 3, 4]])
    assert proba.tolist() == [[1, 0], [0, 1], [0.5, 0.5]]


def test_a_line_and_trees_find_what_they_can_and_leave_unknown_classes_at_0() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(100, 20, (300, 12)).astype(np.float32)
    asked = rng.normal(100, 20, (300, 12)).astype(np.float32)
    straight, crossed = (lambda x: x[:, 0] > 100), (lambda x: (x[:, 0] > 100) ^ (x[:, 1] > 100))
    for rule, model, least in ((straight, logistic, 0.98), (straight, forest, 0.95), (crossed, forest, 0.9)):
        proba = model(known(features, 2 * rule(features).astype(np.int64), n_classes=3), asked)
        area = auroc(rule(asked), proba[:, 2])
        assert area is not None and area > least and not proba[:, 1].any()
    line = auroc(crossed(asked), logistic(known(features, crossed(features).astype(np.int64)), asked)[:, 1])
    assert line is not None and line < 0.7


def test_a_single_class_is_certain() -> None:
    features = np.random.default_rng(0).normal(size=(10, 3))
    for model in (nearest_neighbor, logistic, forest):
        assert (
            model(known(features, np.ones(10, dtype=np.int64)), features.astype(np.float32)).tolist() == [[0, 1]] * 10
        )


def test_few_groups_still_give_a_line() -> None:
    rng = np.random.default_rng(0)
    features, label = rng.normal(100, 30, (12, 4)).astype(np.float32), np.arange(12) % 2
    two = Known(features, label, np.arange(12) % 2, 2, 0)  # nothing can be left out of either class
    assert np.isfinite(logistic(two, features)).all()
