"""The engine gives torch's numbers, one row per image, whatever the batch."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medgraft.config import ModelConfig
from medgraft.models import engine as engine_module
from medgraft.models.classifier import Classifier, build_classifier
from medgraft.models.engine import TOLERANCE, FrozenEngine

SIZE = (64, 64)


class Features(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.normalize, self.backbone, self.pool = classifier.normalize, classifier.backbone, classifier.head.pool

    def forward(self, pixels: Tensor) -> Tensor:
        return self.pool(self.backbone(self.normalize(pixels))).flatten(1)


@pytest.fixture(scope="module")
def features() -> Features:
    return Features(build_classifier(ModelConfig(size=64), ("a", "b"), seed=0)).eval()


@pytest.fixture(scope="module")
def float32(features: Features) -> FrozenEngine:
    return FrozenEngine(features, SIZE, precision="float32")


def images(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 3, *SIZE), dtype=np.uint8)


@torch.no_grad()
def test_float32_is_torch(features: Features, float32: FrozenEngine) -> None:
    assert float32.engine == "openvino" and float32.reason == "" and float32.precision == "float32"
    found = float32.run(images(5))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, features(torch.from_numpy(images(5))).numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found, float32.run(images(5).astype(np.float32)))


def test_rows_and_order(float32: FrozenEngine) -> None:
    whole = float32.run(images(37))
    assert whole.shape == (37, 1280)
    assert float32.run(images(0)).shape == (0, 1280)
    np.testing.assert_allclose(float32.run(images(37)[::-1])[::-1], whole, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(float32.run(images(32)), whole[:32])


def test_auto_precision_stays_within_the_stated_tolerance(features: Features, float32: FrozenEngine) -> None:
    auto = FrozenEngine(features, SIZE)
    assert auto.deviation is not None and auto.deviation <= TOLERANCE[auto.precision]
    found, expected = auto.run(images(4)), float32.run(images(4))
    assert np.linalg.norm(found - expected) <= TOLERANCE[auto.precision] * np.linalg.norm(expected)


def test_telemetry_is_never_loaded(float32: FrozenEngine) -> None:
    assert "openvino" in sys.modules and "openvino_telemetry" not in sys.modules


class Drifting(nn.Module):
    """Traces to other numbers than it computes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * (2.0 if torch._C._get_tracing_state() is not None else 1.0)


class Inconvertible(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x[:, 0] + x[:, 0].transpose(1, 2))


@pytest.mark.parametrize(
    ("module", "reason"), [(Drifting(), "differs from torch's by"), (Inconvertible(), "could not take the module")]
)
def test_falls_back_to_torch_and_says_why(module: nn.Module, reason: str) -> None:
    made = FrozenEngine(module, (8, 8), precision="float32")
    assert made.engine == "torch" and reason in made.reason
    x = images(3)[:, :, :8, :8]
    with torch.no_grad():
        np.testing.assert_allclose(made.run(x), module(torch.from_numpy(x).float()).numpy(), rtol=1e-4)


def test_torch_engine_is_a_snapshot(features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_import_openvino", lambda: (_ for _ in ()).throw(ImportError("not here")))
    made = FrozenEngine(features, SIZE, precision="float32")
    assert made.engine == "torch" and "not here" in made.reason
    before = made.run(images(2))
    weight = features.backbone.net.conv_stem.weight
    assert weight.is_contiguous()  # the layout of the live module is left alone
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
    np.testing.assert_array_equal(made.run(images(2)), before)
    with torch.no_grad():
        weight.copy_(kept)


def test_openvino_is_loaded_once_for_all_engines(features: Features, float32: FrozenEngine) -> None:
    """Two loads that end in the order they began leave a freed signal stack: the next Ctrl-C would be a crash."""
    made = FrozenEngine(features, SIZE, precision="float32")
    assert made.engine == float32.engine == "openvino"
    assert engine_module._core.cache_info().misses == 1


def test_wrong_shape(float32: FrozenEngine) -> None:
    with pytest.raises(ValueError, match=r"must be \(n, 3, 64, 64\)"):
        float32.run(np.zeros((2, 64, 64, 3), np.uint8))
