"""One answer per input, in order, whatever stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medgraft.config import DataConfig
from medgraft.data.image import decode
from medgraft.data.resize import fit
from medgraft.errors import ModelError, ResourceError, UsageError
from medgraft.evaluation.conformal import Conformal
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.inference import scorer as scorer_module
from medgraft.inference.bundle import Bundle, open_bundle, write_bundle
from medgraft.inference.forward import forward_logits
from medgraft.inference.passes import Passes
from medgraft.inference.predictor import Predictor
from medgraft.models.classifier import Classifier
from medgraft.models.engine import FrozenEngine
from medgraft.types import IntArray, PixelArray

Make = Callable[..., Classifier]


@pytest.fixture(scope="module")
def predictor(pristine: Path) -> Predictor:
    return Predictor(open_bundle(pristine), device="cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    paths = []
    for index in range(70):
        height, width = 40 + index, 90 - index // 2
        path = folder / f"{index}.png"
        base = generator.integers(0, 256, 3)
        noise = generator.integers(-40, 40, (height, width, 3))
        Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8)).save(path)
        paths.append(path)
    return paths


def _pixels(n: int, size: tuple[int, int] = (64, 64)) -> PixelArray:
    return np.random.default_rng(1).integers(0, 256, (n, *size, 3)).astype(np.uint8)


def test_bad_files_keep_their_place(predictor: Predictor, images: list[Path], tmp_path: Path) -> None:
    paths = list(images)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("path,label\n")
    bad = {0: tmp_path / "empty.png", 33: tmp_path / "gone.png", 50: tmp_path / "text.jpg"}
    for index, path in bad.items():
        paths[index] = path
    seen: list[tuple[int, int]] = []
    out = predictor.predict_paths(paths, progress=lambda done, total: seen.append((done, total)))
    assert [one.path for one in out] == [path.as_posix() for path in paths]
    assert {index for index, one in enumerate(out) if one.error} == set(bad)
    assert out[0].error is not None and out[0].error.startswith("[IMG_EMPTY] ") and out[0].status == "unscored"
    assert out[0].proba is None and out[0].label is None
    assert seen[-1] == (70, 70)
    for one in out:
        if one.proba is not None:
            assert abs(sum(one.proba) - 1) < 1e-9 and one.label == one.classes[int(np.argmax(one.proba))]


def test_alone_or_among_others_the_answer_is_the_same(predictor: Predictor, images: list[Path]) -> None:
    together = predictor.predict_paths(images)
    for index in (0, 17, 31, 32, 69):
        (alone,) = predictor.predict_paths([images[index]])
        np.testing.assert_allclose(alone.proba, together[index].proba, atol=1e-5)
    backwards = predictor.predict_paths(images[::-1])
    for one, other in zip(together, backwards[::-1], strict=True):
        np.testing.assert_allclose(one.proba, other.proba, atol=1e-5)


def test_files_arrays_and_rows_give_the_same_answer(predictor: Predictor, images: list[Path]) -> None:
    from_paths = predictor.predict_paths(images[:5], names=list("abcde"))
    arrays = [decode(path, predictor.bundle.rules).pixels for path in images[:5]]
    fitted = np.stack([fit(array, predictor.bundle.preprocess) for array in arrays])

    class Rows:
        def __len__(self) -> int:
            return len(fitted)

        def read(self, indices: IntArray) -> PixelArray:
            return fitted[indices]

    from_rows = predictor.proba(predictor.logits(Rows()))
    for index, one in enumerate(from_paths):
        assert one.sample_id == "abcde"[index]
        (native,) = predictor.predict_pixels(arrays[index][None], names=[one.sample_id])
        np.testing.assert_allclose(native.proba, one.proba, atol=1e-5)
        np.testing.assert_allclose(from_rows[index], one.proba, atol=1e-5)
        assert native.label == one.label


def test_files_are_read_as_training_read_them(predictor: Predictor, tmp_path: Path) -> None:
    clear = np.zeros((50, 50, 4), dtype=np.uint8)
    clear[10:20, 10:20] = (200, 30, 60, 255)
    Image.fromarray(clear).save(tmp_path / "alpha.png")
    (bundle_way,) = predictor.predict_paths([tmp_path / "alpha.png"])
    (white,) = predictor.predict_paths([tmp_path / "alpha.png"], rules=DataConfig(background=255))
    (black,) = predictor.predict_paths([tmp_path / "alpha.png"], rules=DataConfig(background=0))
    assert bundle_way.proba == white.proba != black.proba


def test_no_input_gives_no_output(predictor: Predictor) -> None:
    assert predictor.predict_paths([]) == []
    assert predictor.predict_pixels(_pixels(0)) == []
    assert predictor.logits(_pixels(0)).shape == (0, 3)


def test_names_must_match(predictor: Predictor, images: list[Path]) -> None:
    with pytest.raises(UsageError) as caught:
        predictor.predict_paths(images[:2], names=["a"])
    assert caught.value.code == "NAMES_COUNT"


@pytest.mark.parametrize(
    ("array", "cause"),
    [
        (_pixels(2).astype(np.float32) / 255, "scaled to 0..1"),
        ((_pixels(2).astype(np.float32) / 255 - 0.45) / 0.22, "normalized by mean"),
        (_pixels(2).astype(np.float64), "converted to float64"),
        (_pixels(2).astype(np.int64), "converted to int64"),
        (_pixels(2).astype(np.int32) * 100, "more than 8 bits"),
        (np.full((1, 8, 8, 3), np.nan), "not finite"),
        ((_pixels(2) / 255).astype(np.uint8), "only 0 and 1"),
        (_pixels(2).transpose(0, 3, 1, 2), "channels first"),
        (_pixels(2)[0], "batch axis"),
        (_pixels(2)[..., 0], "grey"),
        (_pixels(2)[..., :1], "grey"),
        (np.zeros((1, 8, 8, 4), np.uint8), "alpha"),
        (np.zeros((1, 0, 8, 3), np.uint8), "without pixels"),
        (np.zeros((1, 8, 8, 3), bool), "of type bool"),
    ],
)
def test_arrays_that_are_not_raw_are_refused_with_the_cause(
    predictor: Predictor, array: PixelArray, cause: str
) -> None:
    with pytest.raises(ModelError) as caught:
        predictor.predict_pixels(array)
    assert caught.value.code == "PIXELS_NOT_RAW" and cause in str(caught.value)
    with pytest.raises(ModelError):
        predictor.logits(array)


def test_the_threshold_decides_the_label(make_classifier: Make, tmp_path: Path) -> None:
    classifier = make_classifier(classes=("no", "yes"), output="sigmoid")
    low = OperatingPoint(rule="sensitivity:0.95", positive="yes", threshold=0.001, validation={})
    write_bundle(tmp_path / "b", classifier, operating_point=low, temperature=1.0, provenance={})
    out = Predictor(open_bundle(tmp_path / "b"), device="cpu").predict_pixels(_pixels(3))
    assert all(one.label == "yes" for one in out if one.proba is not None and one.proba[1] >= 0.001)
    assert any(one.label == "yes" for one in out)


def test_sets_and_referral_stand_beside_the_label(make_bundle: Callable[..., Bundle], images: list[Path]) -> None:
    point = OperatingPoint("youden", "yes", 0.5)
    median = float(np.median([one.proba[1] for one in Predictor(make_bundle(point=point)).predict_paths(images)]))  # type: ignore[index]
    # so that some images are called no though their set holds yes alone
    point = OperatingPoint("youden", "yes", min(0.99, median))
    conformal = Conformal(0.9, min(median, 1 - median) * 0.9, 40, "patient", 90, ("no", "yes"))
    predictor = Predictor(make_bundle(point=point, conformal=conformal), device="cpu")
    paths = [*images[:20], images[0].parent / "gone.png", *images[20:40]]
    out = predictor.predict_paths(paths)
    assert (out[20].prediction_set, out[20].refer) == (None, None) and out[20].error is not None
    scored = [one for one in out if one.proba is not None]
    proba = np.array([one.proba for one in scored])
    expected = [tuple(np.array(("no", "yes"))[row]) for row in proba >= conformal.threshold]
    assert [one.prediction_set for one in scored] == expected
    assert [one.refer for one in scored] == [names != (one.label,) for one, names in zip(scored, expected, strict=True)]
    predicted = np.array([("no", "yes").index(one.label) for one in scored])  # type: ignore[arg-type]
    np.testing.assert_array_equal([one.refer for one in scored], conformal.refer(proba, predicted))
    (alone,) = predictor.predict_pixels(_pixels(1))
    assert alone.refer is not None and predictor.conformal == conformal
    plain = Predictor(make_bundle(), device="cpu").predict_pixels(_pixels(1))[0]
    assert plain.prediction_set is None and plain.refer is None


def test_other_passes_than_those_of_validation_have_no_sets(make_bundle: Callable[..., Bundle]) -> None:
    conformal = Conformal(0.9, 0.3, 40, "image", 40, ("no", "yes"))
    bundle = make_bundle(conformal=conformal, head=("mc_dropout 0.4",))
    for options in ({"passes": Passes.parse("flips", None)}, {"passes": Passes.parse(None, 4)}, {"samples": 1}):
        predictor = Predictor(bundle, device="cpu", **options)  # type: ignore[arg-type]
        assert predictor.conformal is None and predictor.predict_pixels(_pixels(1))[0].prediction_set is None
    assert Predictor(bundle, device="cpu").conformal == conformal
    # a head without draws ignores how many
    assert Predictor(make_bundle(conformal=conformal), device="cpu", samples=5).conformal == conformal


@pytest.mark.parametrize("pool_size", ["global", "none"])
def test_random_heads_answer_repeatably_and_independently(
    make_classifier: Make, argmax: OperatingPoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool_size: str
) -> None:
    classifier = make_classifier(head=("mc_dropout 0.5", "dense 6", "relu"), pool_size=pool_size)
    write_bundle(tmp_path / "b", classifier, operating_point=argmax, temperature=1.0, provenance={})
    bundle = open_bundle(tmp_path / "b")
    assert bundle.samples == 32
    predictor = Predictor(bundle, device="cpu")
    pixels = _pixels(33)
    torch.manual_seed(0)
    first = predictor.logits(pixels)
    after = torch.rand(1)
    np.testing.assert_array_equal(first, predictor.logits(pixels))
    np.testing.assert_allclose(predictor.logits(pixels[7:8])[0], first[7], atol=1e-5)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    one_draw = Predictor(bundle, device="cpu", samples=1).logits(pixels)
    assert not np.allclose(one_draw, first, atol=1e-4)
    monkeypatch.setattr(scorer_module, "ENGINE_PAYS_FROM", 10)
    np.testing.assert_allclose(predictor.logits(pixels), first, atol=1e-4)
    assert isinstance(predictor.scorer.engine, FrozenEngine)


def test_a_random_sigmoid_head_gives_the_mean_probability(make_classifier: Make) -> None:
    classifier = make_classifier(classes=("no", "yes"), head=("mc_dropout 0.3",), output="sigmoid")
    pixels = _pixels(1)
    logits = forward_logits(classifier, pixels, samples=2000)
    maps = classifier.features(torch.from_numpy(pixels).permute(0, 3, 1, 2)).detach()
    draws = torch.cat([classifier.classify(maps).detach() for _ in range(2000)])
    expected = torch.softmax(draws, dim=1).mean(dim=0).numpy()
    np.testing.assert_allclose(np.exp(logits[0]), expected, atol=0.02)
    assert abs(np.exp(logits[0]).sum() - 1) < 1e-5


def test_nan_never_leaves(pristine: Path) -> None:
    bundle = open_bundle(pristine)
    with torch.no_grad():
        next(bundle.classifier.head.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError) as caught:
        Predictor(bundle, device="cpu").predict_pixels(_pixels(2))
    assert caught.value.code == "NONFINITE_OUTPUT"


def test_a_device_that_is_not_there_is_said(pristine: Path) -> None:
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(ResourceError) as caught:
        Predictor(open_bundle(pristine, check="hash"), device=missing)  # type: ignore[arg-type]
    assert caught.value.code == "DEVICE_MISSING"


def test_the_fast_engine_answers_as_torch_does(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = _pixels(70)
    bundle = open_bundle(pristine, check="hash")
    plain = Predictor(bundle, device="cpu").logits(pixels)
    monkeypatch.setattr(scorer_module, "ENGINE_PAYS_FROM", 10)
    fast = Predictor(bundle, device="cpu")
    np.testing.assert_allclose(fast.logits(pixels), plain, atol=1e-4 * max(1.0, float(np.ptp(plain))))
    assert isinstance(fast.scorer.engine, FrozenEngine) and fast.scorer.engine.engine == "openvino"


def test_an_engine_that_answers_otherwise_is_not_used(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        engine = "openvino"

        def __init__(self, *args: object, **options: object) -> None: ...

        def run(self, pixels: PixelArray) -> np.ndarray:
            return np.ones((len(pixels), 3), dtype=np.float32)

    monkeypatch.setattr(scorer_module, "FrozenEngine", Wrong)
    monkeypatch.setattr(scorer_module, "ENGINE_PAYS_FROM", 10)
    bundle = open_bundle(pristine, check="hash")
    predictor = Predictor(bundle, device="cpu")
    assert not np.allclose(predictor.logits(_pixels(20)), 1.0)
