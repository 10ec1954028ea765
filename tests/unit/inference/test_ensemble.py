"""Bundles that answer together: the mean of what each says by its own rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medgraft.config import DataConfig
from medgraft.errors import ModelError, UsageError
from medgraft.evaluation.conformal import Conformal
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.inference import files as files_module
from medgraft.inference.bundle import Bundle
from medgraft.inference.ensemble import Ensemble, open_ensemble
from medgraft.inference.passes import Passes
from medgraft.inference.predictor import Predictor
from medgraft.types import FloatArray, Prediction

MakeBundle = Callable[..., Bundle]


def point(threshold: float, positive: str = "yes") -> OperatingPoint:
    return OperatingPoint("youden", positive, threshold)


def proba(predictions: list[Prediction]) -> FloatArray:
    return np.array([one.proba for one in predictions])


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = []
    for index in range(35):
        coarse = generator.integers(0, 256, (3, 4, 4)).astype(np.uint8)
        clear = np.full((1, 4, 4), 255, dtype=np.uint8)
        clear[0, 1, 1] = 0
        pixels = np.concatenate([coarse, clear]).transpose(1, 2, 0).repeat(20, axis=0).repeat(15, axis=1)
        path = tmp_path / f"{index}.png"
        Image.fromarray(pixels, "RGBA" if index % 2 else None).save(path)
        paths.append(path)
    return paths


def alone(bundle: Bundle, images: list[Path], passes: Passes | None = None) -> list[Prediction]:
    return Predictor(bundle, device="cpu", passes=passes).predict_paths(images)


def test_the_mean_over_members_of_other_sizes_rules_and_class_orders(
    make_bundle: MakeBundle, images: list[Path]
) -> None:
    members = [
        make_bundle(point=point(0.3)),
        make_bundle(point=point(0.5), seed=4, size=32, resize="pad", rules=DataConfig(background=255)),
        make_bundle(point=point(0.7), seed=5, classes=("yes", "no"), output="sigmoid"),
    ]
    model = Ensemble(members, device="cpu")
    found = model.predict_paths(images)
    each = [proba(alone(bundle, images)) for bundle in members]
    each[2] = each[2][:, ::-1]
    expected = np.mean(each, axis=0)
    np.testing.assert_allclose(proba(found), expected, atol=1e-6)
    called = (expected[:, 1] >= 0.5).astype(int)
    assert [one.label for one in found] == [("no", "yes")[index] for index in called]
    spread = np.std(each, axis=0)[np.arange(len(images)), called]
    np.testing.assert_allclose([one.spread for one in found], spread, atol=1e-6)
    assert found[0].passes == 3 and found[0].classes == ("no", "yes")
    assert model.operating_point.threshold == pytest.approx(0.5) and model.operating_point.positive == "yes"
    assert model.ids == tuple(bundle.id for bundle in members)


def test_the_mean_threshold_decides(make_bundle: MakeBundle, images: list[Path]) -> None:
    members = [make_bundle(point=point(0.001)), make_bundle(point=point(0.003), seed=4)]
    model = Ensemble(members, device="cpu")
    assert model.operating_point.threshold == pytest.approx(0.002)
    found = model.predict_paths(images)
    assert all((one.label == "yes") == (one.proba is not None and one.proba[1] >= 0.002) for one in found)
    assert any("yes from 0.002" in line for line in model.described())


def test_without_a_common_positive_the_most_probable_class_is_taken(
    make_bundle: MakeBundle, images: list[Path]
) -> None:
    members = [make_bundle(point=point(0.01)), make_bundle(point=point(0.01, "no"), seed=4)]
    model = Ensemble(members, device="cpu")
    assert (model.operating_point.rule, model.operating_point.threshold) == ("argmax", 0.5)
    assert "do not agree" in model.operating_point.validation["note"]
    found = model.predict_paths(images)
    assert [one.label for one in found] == [("no", "yes")[index] for index in proba(found).argmax(axis=1)]


def test_three_classes_take_the_most_probable(make_bundle: MakeBundle, images: list[Path]) -> None:
    members = [make_bundle(classes=("a", "b", "c")), make_bundle(classes=("c", "a", "b"), seed=4)]
    found = Ensemble(members, device="cpu").predict_paths(images)
    each = proba(alone(members[0], images)), proba(alone(members[1], images))[:, [1, 2, 0]]
    np.testing.assert_allclose(proba(found), np.mean(each, axis=0), atol=1e-6)
    assert [one.label for one in found] == ["abc"[index] for index in np.mean(each, axis=0).argmax(axis=1)]


def test_members_with_views_and_draws(make_bundle: MakeBundle, images: list[Path]) -> None:
    passes = Passes.parse("flips", 4)
    members = [make_bundle(), make_bundle(seed=4, augmentation={"vertical_flip": True})]
    model = Ensemble(members, device="cpu", passes=passes)
    found = model.predict_paths(images)
    each = [proba(alone(bundle, images, passes)) for bundle in members]
    np.testing.assert_allclose(proba(found), np.mean(each, axis=0), atol=1e-6)
    assert found[0].passes == 2 * 4 + 4 * 4
    assert model.summary == {"tta": "flips", "mc": 4, "members": 2, "passes": 24}


def test_a_file_is_decoded_once_per_distinct_rules(
    make_bundle: MakeBundle, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    decode = files_module.decode

    def counted(path: Path, rules: DataConfig) -> Any:
        decoded.append(path)
        return decode(path, rules)

    monkeypatch.setattr(files_module, "decode", counted)
    members = [make_bundle(), make_bundle(seed=4, size=32), make_bundle(seed=5)]
    Ensemble(members, device="cpu").predict_paths(images[:3])
    assert sorted(decoded) == sorted(images[:3])
    decoded.clear()
    Ensemble([*members, make_bundle(rules=DataConfig(background=255))], device="cpu").predict_paths(images[:3])
    assert sorted(decoded) == sorted(2 * images[:3])


def test_a_file_that_one_member_refuses_is_unscored(make_bundle: MakeBundle, images: list[Path]) -> None:
    members = [make_bundle(), make_bundle(seed=4, rules=DataConfig(min_side=70))]
    (found,) = Ensemble(members, device="cpu").predict_paths(images[:1])
    assert found.proba is None and found.spread is None and found.passes == 2
    assert found.error is not None and found.error.startswith("[IMG_")


def test_rows_are_scored_as_files_are(make_bundle: MakeBundle) -> None:
    members = [make_bundle(point=point(0.2)), make_bundle(seed=4, temperature=0.5, point=point(0.4))]
    pixels = np.random.default_rng(2).integers(0, 256, (40, 64, 64, 3)).astype(np.uint8)
    model = Ensemble(members, device="cpu")
    seen: list[tuple[int, int]] = []
    logits, spread = model.score([pixels, pixels], progress=lambda done, total: seen.append((done, total)))
    one = model.as_one()
    each = [proba(Predictor(bundle, device="cpu").predict_pixels(pixels)) for bundle in members]
    np.testing.assert_allclose(one.proba(logits), np.mean(each, axis=0), atol=1e-6)
    assert spread is not None and spread.shape == (40,) and seen == [(32, 80), (40, 80), (72, 80), (80, 80)]
    assert one.bundle.temperature == 1.0 and one.operating_point.threshold == pytest.approx(0.3)


def test_of_one_bundle_everything_is_its_own(make_bundle: MakeBundle, images: list[Path]) -> None:
    bundle = make_bundle(point=point(0.37))
    model = open_ensemble(bundle.folder, device="cpu")
    assert model.operating_point == bundle.operating_point and model.summary is None and model.described() == []
    assert model.predict_paths(images) == alone(bundle, images)
    pixels = np.random.default_rng(2).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    logits, spread = model.score([pixels])
    assert spread is None
    np.testing.assert_array_equal(logits, Predictor(bundle, device="cpu").logits(pixels))


def test_only_a_single_member_has_prediction_sets(make_bundle: MakeBundle, images: list[Path]) -> None:
    conformal = Conformal(0.9, 0.3, 40, "patient", 60, ("no", "yes"))
    members = [make_bundle(conformal=conformal), make_bundle(conformal=conformal, seed=4)]
    one = Ensemble(members[:1], device="cpu")
    assert one.conformal == conformal == one.as_one().conformal
    assert all(found.prediction_set is not None for found in one.predict_paths(images[:3]))
    several = Ensemble(members, device="cpu")
    assert several.conformal is None and several.as_one().conformal is None
    assert all(found.prediction_set is None and found.refer is None for found in several.predict_paths(images[:3]))
    views = Ensemble(members[:1], device="cpu", passes=Passes.parse("flips", None))
    assert views.conformal is None and views.as_one().conformal is None


def test_other_classes_are_refused_and_named(make_bundle: MakeBundle) -> None:
    members = [
        make_bundle(),
        make_bundle(classes=("no", "maybe"), point=point(0.5, "no")),
        make_bundle(classes=("no", "yes", "more")),
    ]
    with pytest.raises(ModelError) as caught:
        Ensemble(members, device="cpu")
    assert caught.value.code == "ENSEMBLE_CLASSES"
    assert [problem.what for problem in caught.value.problems] == ["lacks 'yes' and adds 'maybe'", "adds 'more'"]
    assert caught.value.problems[0].where == str(members[1].folder)


def test_the_same_bundle_twice_and_none_at_all_are_refused(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    for folders, code in (([bundle.folder, bundle.folder], "ENSEMBLE_TWICE"), ([], "ENSEMBLE_EMPTY")):
        with pytest.raises(UsageError) as caught:
            open_ensemble(folders, device="cpu")
        assert caught.value.code == code


def test_a_member_without_dropout_is_named(make_bundle: MakeBundle) -> None:
    members = [make_bundle(), make_bundle(head=(), seed=4)]
    with pytest.raises(UsageError) as caught:
        Ensemble(members, device="cpu", passes=Passes.parse(None, 8))
    assert caught.value.code == "MC_NO_DROPOUT" and members[1].id[:12] in str(caught.value)
