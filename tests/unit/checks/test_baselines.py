"""Planted facts are found by the baseline that can see them, and a model is measured against the best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_images import checked, noise, phantoms, png_record
from medgraft.checks.baseline_report import BaselineReport, summarize_baselines
from medgraft.checks.baselines import METRICS, Baseline, estimate_metrics, leading, trivial_baselines
from medgraft.checks.images import CheckedImages
from medgraft.checks.judging import Judging
from medgraft.config.schema import DataConfig, EvaluationConfig
from medgraft.data.pixels import ingest
from medgraft.data.sources import read_source
from medgraft.evaluation.differences import Answers
from medgraft.types import FloatArray, PixelArray, Preprocess, Scores

CONFIG = EvaluationConfig(bootstrap=100)
SEEN_BY_ALL = ("majority", "thumbnail_1nn", "thumbnail_logistic", "metadata")


def labels(n: int, classes: str = "ab") -> list[str]:
    return [classes[at % len(classes)] for at in range(n)]


def judge(images: CheckedImages, *, n_fit: int = 0, seed: int = 0, cap: int = 20_000) -> Judging:
    rows = np.arange(len(images))
    return Judging(images, rows[n_fit:], rows[:n_fit] if n_fit else None, seed, cap)


def summary(baselines: Sequence[Baseline], model: Answers | None = None) -> BaselineReport:
    return summarize_baselines(baselines, CONFIG, model=model, patients_known=False, seed=0)


def aurocs(images: CheckedImages, **how: Any) -> dict[str, float]:
    found = summary(trivial_baselines(judge(images, **how)))
    return {name: told["metrics"]["auroc"]["value"] for name, told in found.baselines.items()}


def bright(n: int = 60, classes: str = "ab", *, by: float = 25.0) -> PixelArray:
    """Noise with a middle that is brighter from class to class."""
    images = noise(n).astype(float)
    images[:, 8:24, 8:24] += by * (np.arange(n) % len(classes))[:, None, None]
    return np.clip(images, 0, 255).astype(np.uint8)


def model(baseline: Baseline, skill: float, *, seed: int = 0) -> Answers:
    """A model with so much skill on the images of a baseline."""
    rng = np.random.default_rng(seed)
    scores = baseline.scores
    n_classes = len(scores.classes)
    logits = skill * np.eye(n_classes)[scores.y_true] + rng.normal(size=(len(scores), n_classes))
    proba: FloatArray = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Answers(replace(scores, y_proba=proba), proba.argmax(axis=1))


def test_each_fact_is_found_where_it_can_be_seen() -> None:
    plain = noise(60)
    nothing = aurocs(checked(plain, labels(60)))
    assert set(nothing) == set(SEEN_BY_ALL) and nothing["majority"] == 0.5
    assert all(0.25 < area < 0.75 for area in nothing.values())

    middle = aurocs(checked(bright(), labels(60)))
    assert middle["thumbnail_logistic"] > 0.95 and middle["thumbnail_1nn"] > 0.9 and middle["metadata"] < 0.8

    sizes = [replace(png_record(image), width=300 + 40 * (at % 2) + at) for at, image in enumerate(plain)]
    files = aurocs(checked(plain, labels(60), records=sizes))
    assert files["metadata"] > 0.9 and files["thumbnail_logistic"] < 0.75

    stacks = [f"p{at // 6:02d}_{at % 6}.png" for at in range(60)]
    upper = ["b" if at % 6 in (2, 3) else "a" for at in range(60)]
    placed = aurocs(checked(plain, upper, patients=[path[:3] for path in stacks], paths=stacks))
    assert placed["position"] > 0.95 and placed["thumbnail_logistic"] < 0.75


def test_the_majority_is_the_most_frequent_class_of_the_images_fitted_on() -> None:
    images = checked(noise(60), ["a"] * 30 + ["b"] * 10 + ["a", "b"] * 10)
    majority = trivial_baselines(judge(images, n_fit=40))[0]
    assert majority.name == "majority" and np.unique(majority.scores.y_proba, axis=0).tolist() == [[0.75, 0.25]]
    told = summary([majority]).baselines["majority"]["metrics"]
    assert told["auroc"]["value"] == 0.5 and told["accuracy"]["value"] == 0.5 == told["balanced_accuracy"]["value"]
    assert told["auroc"]["low"] < 0.5 < told["auroc"]["high"]
    crossed = trivial_baselines(judge(images))[0]
    assert crossed.scores.y_proba[0].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_copies_in_a_given_split_are_remembered_by_the_nearest_thumbnail() -> None:
    once = noise(40)
    images = checked(np.concatenate([once, once[:20], noise(20, seed=1)]), labels(80))
    nearest = trivial_baselines(judge(images, n_fit=40))[1]
    metrics = [
        summary([nearest.take(rows)]).baselines["thumbnail_1nn"]["metrics"]["accuracy"]["value"]
        for rows in (np.arange(40, 60), np.arange(60, 80))
    ]
    assert metrics[0] == 1.0 and metrics[1] < 0.8


def test_the_report_has_the_shape_of_evaluation_json() -> None:
    images = phantoms(20)
    found = trivial_baselines(judge(images))
    names = (*SEEN_BY_ALL, "position")
    alone = summary(found)
    assert tuple(alone.baselines) == names and alone.verdict is None
    assert all(set(told) == {"protocol", "metrics"} for told in alone.baselines.values())
    beside = summary(found, model(found[0], 2.0))
    told = json.loads(
        json.dumps([beside.baselines, beside.verdict, [c.as_dict() for c in beside.checks]], allow_nan=False)
    )
    assert all(set(one) == {"protocol", "metrics", "gain"} for one in told[0].values())
    for one in told[0].values():
        assert tuple(one["metrics"]) == tuple(one["gain"]) == METRICS
        assert all(one[kind][metric]["n"] == 60 for kind in ("metrics", "gain") for metric in METRICS)
    assert set(told[1]) == {"best", "metric", "gain", "verdict", "text"} and told[1]["best"] in names
    assert told[0]["metadata"]["protocol"].startswith("5-fold cross-validation, 3 times, over 60 images")


def test_the_gain_is_that_of_the_model_over_the_baseline() -> None:
    found = trivial_baselines(judge(checked(noise(80), labels(80))))
    better = model(found[0], 2.0)
    own = estimate_metrics(better, CONFIG, patients_known=False, seed=0)
    for told in summary(found, better).baselines.values():
        for metric in METRICS:
            value = own[metric].value
            assert value is not None
            assert told["gain"][metric]["value"] == pytest.approx(value - told["metrics"][metric]["value"])


def test_verdicts() -> None:
    found = trivial_baselines(judge(checked(bright(100, by=10.0), labels(100))))
    better, alike, worse = (summary(found, model(found[0], skill)) for skill in (6.0, 1.2, 0.0))
    said = [report.verdict for report in (better, alike, worse)]
    assert [one["verdict"] for one in said if one] == ["beats", "not shown", "worse"]
    for report, start in (
        (
            better,
            "The model beats the best trivial baseline (thumbnail_logistic: logistic regression on 32x32 thumbnails): "
            "AUROC 1.000 against 0.8",
        ),
        (alike, "That the model beats the best trivial baseline (thumbnail_logistic"),
        (worse, "The model is worse than the best trivial baseline (thumbnail_logistic"),
    ):
        verdict = report.verdict
        assert verdict is not None and verdict["metric"] == "auroc" and verdict["best"] == "thumbnail_logistic"
        assert verdict["text"].startswith(start) and "on 100 images, a gain of" in verdict["text"]
        assert f"{verdict['gain']['value']:+.3f} (95% interval {verdict['gain']['low']:+.3f}" in verdict["text"]
        beaten = [check for check in report.checks if check.code == "BASELINE_NOT_BEATEN"]
        assert [check.severity for check in beaten] == ([] if report is better else ["warning"])
        assert all(check.title == verdict["text"] for check in beaten)


def test_strong_baselines_are_named_with_what_that_means() -> None:
    strong = summary(trivial_baselines(judge(checked(bright(), labels(60)))))
    (check,) = strong.checks
    assert check.code == "BASELINE_STRONG" and check.severity == "warning"
    assert "logistic regression on 32x32 thumbnails: AUROC 1.000" in check.title
    assert "coarse light and dark tell the classes apart" in check.advice and "made differently" not in check.advice
    assert set(check.evidence["auroc"]) == {"thumbnail_logistic", "thumbnail_1nn"}
    assert summary(trivial_baselines(judge(checked(noise(60), labels(60))))).checks == ()


def test_only_images_that_both_answer_are_compared_in_any_order() -> None:
    found = trivial_baselines(judge(checked(bright(80), labels(80))))
    whole = model(found[0], 2.0)
    order = np.random.default_rng(0).permutation(80)[:50]
    scores = whole.scores
    part = Scores(
        tuple(scores.sample_ids[at] for at in order),
        tuple(f"patient {at % 20}" for at in order),
        scores.classes,
        scores.y_true[order],
        scores.y_proba[order],
    )
    told = summary([found[2].take(np.arange(60))], Answers(part, whole.predicted[order])).baselines[
        "thumbnail_logistic"
    ]
    both = sorted(at for at in order.tolist() if at < 60)
    assert told["gain"]["auroc"]["n"] == told["metrics"]["auroc"]["n"] == len(both)
    right = found[2].answers.right[both].mean()
    assert told["metrics"]["accuracy"]["value"] == pytest.approx(right)
    strangers = replace(part, sample_ids=tuple(f"x{at}" for at in order))
    with pytest.raises(ValueError, match="no image in common"):
        found[0].matched(Answers(strangers, part.y_true))
    with pytest.raises(ValueError, match="the model knows"):
        found[0].matched(Answers(replace(part, classes=("x", "y")), part.y_true))


def test_more_classes() -> None:
    found = trivial_baselines(judge(checked(bright(90, "abc"), labels(90, "abc"))))
    report = summary(found, model(found[0], 8.0))
    metrics = report.baselines["thumbnail_logistic"]["metrics"]
    assert metrics["auroc"]["value"] > 0.9 and metrics["accuracy"]["value"] > 0.7
    assert report.baselines["majority"]["metrics"]["auroc"]["value"] == 0.5
    assert report.baselines["majority"]["metrics"]["balanced_accuracy"]["value"] == pytest.approx(1 / 3)
    assert report.verdict is not None and report.verdict["metric"] == "auroc"


def test_one_class_only_is_not_estimable_and_says_so() -> None:
    images = checked(noise(60), labels(40) + ["b"] * 20)
    found = trivial_baselines(judge(images, n_fit=40))
    report = summary(found, model(found[0], 1.0))
    assert report.verdict is not None and report.checks == ()
    assert report.verdict["metric"] == "balanced_accuracy" and report.verdict["verdict"] == "not shown"
    assert report.verdict["gain"]["value"] is None and "cannot be estimated: all images are b" in report.verdict["text"]


def test_too_few_images_give_nothing() -> None:
    images = checked(noise(4), labels(4))
    assert judge(images).too_few is not None and trivial_baselines(judge(images)) == ()
    nothing = summary((), None)
    assert nothing.baselines == {} and nothing.verdict is None and nothing.checks == ()


def test_the_same_seed_gives_the_same_numbers() -> None:
    images = phantoms(16, slices=2)
    first, again = (summary(trivial_baselines(judge(images))).baselines for _ in range(2))
    assert first == again and first != summary(trivial_baselines(judge(images, seed=1))).baselines


def test_what_tells_most_is_named() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(400) % 3
    features = rng.normal(size=(400, 7)).astype(np.float32)
    features[:, 2] -= 5.0 * (label == 1)
    features[:, 5] += 1.0 * (label == 2)
    names = ("u", "v", "size", "w", "w", "mark", "x")
    told = leading(features, names, label)
    assert [name for name, _ in told][:2] == ["size", "mark"] and len(told) == 5
    assert told[0][1] > 0.99 and 0.6 < told[1][1] < 0.9 and told[-1][1] < 0.6
    assert leading(features, names, np.zeros(400, dtype=np.int64))[0][1] == 0.5


def real(source: Path, rules: DataConfig) -> CheckedImages:
    manifest = read_source(source, rules)
    preprocess = Preprocess((96, 96), "squash", "bicubic", (0.5,) * 3, (0.5,) * 3)
    read = ingest(manifest.image_paths(), preprocess, rules)
    rows = read.pixels.readable
    return CheckedImages.of(manifest.take(rows), [read.records[row] for row in rows], read.pixels.subset(rows))


@pytest.mark.slow
def test_the_files_of_the_yes_no_set_tell_the_label(shared_data: Path) -> None:
    images = real(shared_data / "brain-mri-yesno", DataConfig())
    metadata = trivial_baselines(judge(images))[3]
    auroc = estimate_metrics(metadata.answers, CONFIG, patients_known=False, seed=0)["auroc"]
    assert auroc.value is not None and 0.8 < auroc.value < 0.9


@pytest.mark.slow
def test_the_place_in_the_stack_tells_where_gliomas_are(shared_data: Path) -> None:
    rules = DataConfig(image="image_path", label="mask", patient_preset="lgg-mri")
    images = real(shared_data / "lgg-mri" / "data_mask.csv", rules)
    position = trivial_baselines(judge(images))[4]
    assert position.name == "position" and "patients and copies kept together" in position.protocol
    auroc = estimate_metrics(position.answers, CONFIG, patients_known=True, seed=0)["auroc"]
    assert auroc.value is not None and auroc.low is not None and auroc.value > 0.7 and auroc.low > 0.6
