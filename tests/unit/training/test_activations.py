"""The activation cache: never stale, never half written, and no other numbers than the network's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from medgraft.config import AugmentConfig, DataConfig, ModelConfig
from medgraft.data.pixels import Pixels, ingest
from medgraft.models.classifier import Classifier, build_classifier
from medgraft.models.cut import cut_at_boundary, uncut
from medgraft.models.engine import FrozenEngine
from medgraft.models.freeze import set_trainable
from medgraft.training import activations
from medgraft.training.activations import (
    Activations,
    ViewRequest,
    compute_activations,
    trim_cache,
    weights_digest,
)
from medgraft.training.fit import predict_logits
from medgraft.training.sources import ActivationSource, PixelSource
from medgraft.types import Preprocess

SIDE, N = 32, 40
TURNS = AugmentConfig(preset="custom", rotation=20, brightness=0.1)
MakePixels = Callable[..., Pixels]


class Engine:
    """Mean over 8 x 8 fields; counts images and can fail."""

    engine = "torch"
    precision = "float32"

    def __init__(self, *, fails_at: int = 10**9) -> None:
        self.seen = 0
        self.fails_at = fails_at

    def run(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        self.seen += len(pixels)
        if self.seen > self.fails_at:
            raise RuntimeError("on purpose")
        return pixels.astype(np.float32).reshape(len(pixels), 3, 4, 8, 4, 8).mean(axis=(3, 5))


@pytest.fixture(scope="session")
def make_pixels(tmp_path_factory: pytest.TempPathFactory) -> MakePixels:
    folder = tmp_path_factory.mktemp("images")

    def make(seed: int = 0, n: int = N, side: int = SIDE) -> Pixels:
        rng = np.random.default_rng(seed)
        paths = [folder / f"{seed}-{side}-{index}.png" for index in range(n)]
        for path in paths:
            Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(path)
        preprocess = Preprocess((side, side), "squash", "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        return ingest(paths, preprocess, DataConfig(cache_dir=folder / "cache")).pixels

    return make


@pytest.fixture
def pixels(make_pixels: MakePixels) -> Pixels:
    return make_pixels()


def compute(engine: Any, pixels: Pixels, folder: Path, **changes: Any) -> Activations:
    given: dict[str, Any] = {"augmentation": TURNS, "numbers": (0, 1, 2), "seed": 0, "identity": "weights", **changes}
    request = ViewRequest(given["augmentation"], given["numbers"], given["seed"])
    return compute_activations(engine, pixels, request, folder=folder, identity=given["identity"])


def test_views_are_what_the_engine_says_of_clean_and_augmented_images(pixels: Pixels, tmp_path: Path) -> None:
    views = compute(Engine(), pixels, tmp_path).views
    assert [view.shape for view in views] == [(N, 3, 4, 4)] * 3 and views[0].dtype == np.float16
    clean = Engine().run(pixels.read(np.arange(N)).transpose(0, 3, 1, 2))
    assert np.allclose(views[0], clean, rtol=1e-3)
    assert not np.allclose(views[1], clean, rtol=0.02) and not np.allclose(views[1], views[2], rtol=0.02)


def test_a_second_run_computes_nothing(pixels: Pixels, tmp_path: Path) -> None:
    first, second = Engine(), Engine()
    made = compute(first, pixels, tmp_path)
    written = {path: path.read_bytes() for path in tmp_path.iterdir()}
    again = compute(second, pixels, tmp_path)
    assert (first.seen, second.seen) == (3 * N, 0)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == written and len(written) == 3
    assert all(np.array_equal(a, b) for a, b in zip(made.views, again.views, strict=True))


def test_more_views_compute_only_what_is_missing(pixels: Pixels, tmp_path: Path) -> None:
    compute(Engine(), pixels, tmp_path, numbers=(0, 1))
    engine = Engine()
    compute(engine, pixels, tmp_path, numbers=(0, 1, 2))
    assert engine.seen == N


def test_some_of_the_images_are_rows_of_the_views_of_all(pixels: Pixels, tmp_path: Path) -> None:
    made = compute(Engine(), pixels, tmp_path)
    rows = np.array([7, 3, 30, 12])
    some = made.take(rows)
    assert len(some) == 4 and some.views is made.views
    assert np.array_equal(some.view(1), made.views[1][rows])
    read = some.read(np.array([2, 0]), np.array([0, 2])).numpy()
    assert np.array_equal(read, np.stack([made.views[0][30], made.views[2][7]]).astype(np.float32))
    assert np.array_equal(some.take(np.array([3, 1])).view(0), made.views[0][[12, 3]])
    source = ActivationSource(some, seed=0, train=True)
    source.start_epoch(1)
    assert source.read(np.arange(4)).shape == (4, 3, 4, 4)


@pytest.mark.parametrize(
    ("changes", "recomputed"),
    [
        ({"augmentation": TURNS.model_copy(update={"rotation": 21.0})}, 2),  # the clean view stays
        ({"seed": 1}, 2),
        ({"identity": "other weights"}, 3),
    ],
)
def test_the_key_changes_with_what_a_view_depends_on(
    pixels: Pixels, tmp_path: Path, changes: dict[str, Any], recomputed: int
) -> None:
    compute(Engine(), pixels, tmp_path)
    engine = Engine()
    compute(engine, pixels, tmp_path, **changes)
    assert engine.seen == recomputed * N


def test_the_key_changes_with_the_pixels_their_order_and_the_precision(
    make_pixels: MakePixels, pixels: Pixels, tmp_path: Path
) -> None:
    compute(Engine(), pixels, tmp_path)
    others = (make_pixels(1), pixels.subset(np.arange(N)[::-1]), pixels.subset(np.arange(N - 1)))
    for other in others:
        engine = Engine()
        compute(engine, other, tmp_path)
        assert engine.seen == 3 * len(other)
    reduced = Engine()
    reduced.precision = "bfloat16"
    compute(reduced, pixels, tmp_path)
    assert reduced.seen == 3 * N


@pytest.mark.parametrize("package", ["timm", "torch", "openvino"])
def test_the_key_changes_with_the_code_that_computes(
    pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    assert version(package) in activations._VERSIONS
    compute(Engine(), pixels, tmp_path)
    others = tuple("0.0.0" if number == version(package) else number for number in activations._VERSIONS)
    monkeypatch.setattr(activations, "_VERSIONS", others)
    engine = Engine()
    compute(engine, pixels, tmp_path)
    assert engine.seen == 3 * N


def test_values_beyond_float16_are_kept_finite(pixels: Pixels, tmp_path: Path) -> None:
    class Loud(Engine):
        def run(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            outputs = super().run(pixels)
            outputs[:, 0], outputs[:, 1] = 1e6, -1e6
            return outputs

    (view,) = compute(Loud(), pixels, tmp_path, numbers=(0,)).views
    (plain,) = compute(Engine(), pixels, tmp_path, numbers=(0,), identity="other").views
    assert (view[:, 0] == 65504).all() and (view[:, 1] == -65504).all() and np.array_equal(view[:, 2], plain[:, 2])


@pytest.mark.parametrize("error_at", [0, N, N + 35])
def test_an_error_leaves_no_partial_file(pixels: Pixels, tmp_path: Path, error_at: int) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        compute(Engine(fails_at=error_at), pixels, tmp_path)
    finished = list(tmp_path.iterdir())
    assert len(finished) == error_at // N and all(path.suffix == ".npy" for path in finished)
    engine = Engine()
    compute(engine, pixels, tmp_path)
    assert engine.seen == (3 - len(finished)) * N


def test_progress_counts_images_of_each_view(pixels: Pixels, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    request = ViewRequest(TURNS, (0, 1), 0)
    compute_activations(
        Engine(),  # type: ignore[arg-type]
        pixels,
        request,
        folder=tmp_path,
        identity="w",
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert told == [("view 1 of 2", 32, N), ("view 1 of 2", N, N), ("view 2 of 2", 32, N), ("view 2 of 2", N, N)]


def test_trim_removes_the_least_recently_used(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        path = tmp_path / f"{name}.npy"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "other.txt").write_bytes(bytes(1000))
    assert trim_cache(tmp_path, 1000) == 0
    assert trim_cache(tmp_path, 250) == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle.npy", "new.npy", "other.txt"]
    assert trim_cache(tmp_path, 0) == 200


def test_using_a_view_makes_it_recent(pixels: Pixels, tmp_path: Path) -> None:
    compute(Engine(), pixels, tmp_path, seed=0, numbers=(1,))
    (used,) = tmp_path.iterdir()
    compute(Engine(), pixels, tmp_path, seed=1, numbers=(1,))
    for path in tmp_path.iterdir():
        os.utime(path, (1e9, 1e9) if path == used else (2e9 - 1e9 / 2, 1.5e9))
    compute(Engine(), pixels, tmp_path, seed=0, numbers=(1,))
    trim_cache(tmp_path, used.stat().st_size)
    assert list(tmp_path.iterdir()) == [used]


def test_a_trimmed_view_stays_readable_for_who_has_it(pixels: Pixels, tmp_path: Path) -> None:
    made = compute(Engine(), pixels, tmp_path, numbers=(0,))
    before = np.array(made.views[0])
    trim_cache(tmp_path, 0)
    assert np.array_equal(made.views[0], before)


def test_read_takes_each_image_from_its_view() -> None:
    views = tuple(np.full((4, 2), 10 * number, dtype=np.float16) + np.arange(4)[:, None] for number in range(3))
    found = Activations(views).read(np.array([3, 0, 3, 1]), np.array([2, 0, 1, 2]))
    assert found.dtype == torch.float32 and found[:, 0].tolist() == [23.0, 0.0, 13.0, 21.0]


def test_every_view_is_used_equally_often() -> None:
    views = tuple(np.full((500, 1), number, dtype=np.float16) for number in range(4))
    source = ActivationSource(Activations(views), seed=5, train=True)
    rows = np.arange(500)
    epochs = []
    for epoch in range(1, 5):
        source.start_epoch(epoch)
        epochs.append(source.read(rows)[:, 0])
    seen = torch.stack(epochs)
    assert (seen.sort(dim=0).values == torch.arange(4.0)[:, None]).all()  # each image takes each view once
    assert [int((seen[0] == number).sum()) for number in range(4)] == pytest.approx([125] * 4, abs=40)
    again = ActivationSource(Activations(views), seed=5, train=True)
    again.start_epoch(3)
    assert torch.equal(again.read(rows)[:, 0], seen[2])  # a function of the epoch, not of the ones before


def test_validation_is_always_the_clean_view() -> None:
    views = (np.zeros((5, 1), dtype=np.float16), np.ones((5, 1), dtype=np.float16))
    source = ActivationSource(Activations(views), seed=0, train=False)
    for epoch in range(4):
        source.start_epoch(epoch)
        assert not source.read(np.arange(5)).any()


def test_pixel_source_draws_per_epoch_and_image(pixels: Pixels) -> None:
    source = PixelSource(pixels, seed=0, augmentation=TURNS)
    rows = np.arange(8)
    source.start_epoch(1)
    first = source.read(rows)
    # warping a batch in another order gives the same up to rounding
    torch.testing.assert_close(source.read(rows[::-1].copy()).flip(0), first, atol=1e-3, rtol=0)
    source.start_epoch(2)
    assert not torch.allclose(source.read(rows), first, atol=1.0)
    source.start_epoch(1)
    assert torch.equal(source.read(rows), first)
    clean = PixelSource(pixels, seed=0, augmentation=None)
    clean.start_epoch(1)
    assert torch.equal(clean.read(rows), torch.from_numpy(pixels.read(rows)).permute(0, 3, 1, 2).float())


def test_identity_of_the_frozen_function() -> None:
    def digest(trains: Any = "head", change: Callable[[Classifier], None] = lambda c: None, **model: Any) -> str:
        given = {"backbone": "test_resnet", "weights": "none", "size": SIDE}
        classifier = build_classifier(ModelConfig.model_validate({**given, **model}), ("a", "b"), seed=1)
        change(classifier)
        set_trainable(classifier, trains, freeze_norm=True)
        cut = cut_at_boundary(classifier)
        assert cut.prefix is not None
        return weights_digest(cut.prefix, classifier, cut.boundary)

    def nudge_weight(classifier: Classifier) -> None:
        with torch.no_grad():
            next(classifier.backbone.parameters()).view(-1)[0] += 1e-3

    def nudge_statistics(classifier: Classifier) -> None:
        dict(classifier.backbone.named_buffers())["net.bn1.running_mean"][0] += 1e-3

    def nudge_head(classifier: Classifier) -> None:
        with torch.no_grad():
            classifier.head.output.weight.add_(1.0)

    same = digest()
    assert digest() == same == digest(change=nudge_head)
    others = [
        digest(change=nudge_weight),
        digest(change=nudge_statistics),
        digest(trains=("layer4",)),
        digest(pool="max"),
        digest(pool_size="none"),
        digest(size=SIDE * 2),
        digest(resize="pad"),
    ]
    assert len({same, *others}) == 8


def test_cached_activations_give_the_logits_of_the_whole_network(make_pixels: MakePixels, tmp_path: Path) -> None:
    """Tolerance 0.01 in logits of size about 1: activations are kept as float16."""
    classifier = build_classifier(ModelConfig(size=64), ("a", "b", "c"), seed=0)
    pixels = make_pixels(2, n=9, side=64)
    trainable = set_trainable(classifier, ("blocks.6", "conv_head", "bn2"), freeze_norm=True)
    cut = cut_at_boundary(classifier)
    assert cut.prefix is not None
    engine = FrozenEngine(cut.prefix, (64, 64), precision="float32")
    identity = weights_digest(cut.prefix, classifier, cut.boundary)
    cached = compute(engine, pixels, tmp_path, numbers=(0,), identity=identity)

    def logits(network: torch.nn.Module, source: Any) -> npt.NDArray[np.float64]:
        run = _run(classifier, network, trainable)
        return predict_logits(run, source)

    through_cache = logits(cut.suffix, ActivationSource(cached, seed=0, train=False))
    whole = logits(uncut(classifier).suffix, PixelSource(pixels, seed=0, augmentation=None))
    assert whole.std() > 0.1
    assert np.allclose(through_cache, whole, atol=0.01)


def _run(classifier: Classifier, network: torch.nn.Module, trainable: Any) -> Any:
    from medgraft.config import PhaseConfig
    from medgraft.training.fit import PhaseRun
    from medgraft.training.losses import make_loss

    loss = make_loss("cross_entropy")
    phase = PhaseConfig(name="p", epochs=1, batch_size=8)
    return PhaseRun(phase, classifier, network, trainable, loss, loss, torch.device("cpu"), torch.float32, 0)
