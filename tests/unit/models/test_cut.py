"""The cut network is the whole network, and its two halves are the classifier's own modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medgraft.config import ModelConfig
from medgraft.models.classifier import Classifier, build_classifier
from medgraft.models.cut import cut_at_boundary, trunk_behind_stride, uncut
from medgraft.models.freeze import set_trainable

MIDDLE = ("blocks.4", "blocks.5", "blocks.6", "conv_head", "bn2")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return build_classifier(ModelConfig(size=64), ("a", "b", "c"), seed=0)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("trains", "boundary"), [("head", "head"), (MIDDLE, "blocks.4.0"), (("conv_head",), "conv_head"), ("all", "pixels")]
)
def test_both_halves_are_the_whole(classifier: Classifier, pixels: Tensor, trains: Any, boundary: str) -> None:
    set_trainable(classifier, trains, freeze_norm=True)
    cut = cut_at_boundary(classifier)
    classifier.eval()
    with torch.inference_mode():
        whole = classifier(pixels)
        activations = pixels.float() if cut.prefix is None else cut.prefix(pixels.float())
        joined = cut.suffix(activations)
    assert cut.boundary == boundary
    torch.testing.assert_close(joined, whole, atol=1e-5, rtol=0)


def test_pooling_is_frozen_only_when_the_head_begins_with_it(classifier: Classifier, pixels: Tensor) -> None:
    set_trainable(classifier, "head", freeze_norm=True)
    cut = cut_at_boundary(classifier)
    assert cut.prefix is not None
    with torch.inference_mode():
        assert cut.prefix(pixels.float()).shape == (3, 1280, 1, 1)
    windows = build_classifier(ModelConfig(size=64, pool_size=2), ("a", "b"), seed=0)
    set_trainable(windows, "head", freeze_norm=True)
    cut = cut_at_boundary(windows.eval())  # the head's dropout off
    assert cut.prefix is not None
    with torch.inference_mode():
        assert cut.prefix(pixels.float()).shape == (3, 1280, 2, 2)
        torch.testing.assert_close(cut.suffix(cut.prefix(pixels.float())), windows(pixels), atol=1e-5, rtol=0)


def test_the_sigmoid_head_gives_two_columns(pixels: Tensor) -> None:
    sigmoid = build_classifier(
        ModelConfig(backbone="test_resnet", weights="none", size=64, output="sigmoid"), ("a", "b"), seed=0
    )
    set_trainable(sigmoid, "head", freeze_norm=True)
    cut = cut_at_boundary(sigmoid.eval())
    assert cut.prefix is not None
    with torch.inference_mode():
        torch.testing.assert_close(cut.suffix(cut.prefix(pixels.float())), sigmoid(pixels), atol=1e-5, rtol=0)


def test_nothing_that_trains_lies_before_the_cut(classifier: Classifier) -> None:
    trainable = set_trainable(classifier, MIDDLE, freeze_norm=True)
    cut = cut_at_boundary(classifier)
    assert cut.prefix is not None
    before = {id(parameter) for parameter in cut.prefix.parameters()}
    assert not before & {id(parameter) for parameter in (*trainable.backbone, *trainable.head)}
    assert before <= {id(parameter) for parameter in classifier.backbone.parameters()}


def test_training_the_suffix_trains_the_classifier(pixels: Tensor) -> None:
    classifier = build_classifier(ModelConfig(size=64), ("a", "b", "c"), seed=0)
    trainable = set_trainable(classifier, MIDDLE, freeze_norm=True)
    cut = cut_at_boundary(classifier)
    assert cut.prefix is not None
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    with torch.no_grad():
        logits, activations = classifier(pixels), cut.prefix(pixels.float())
    optimizer = torch.optim.SGD([*trainable.head, *trainable.backbone], lr=0.1)
    torch.nn.functional.cross_entropy(cut.suffix(activations), torch.tensor([0, 1, 2])).backward()
    optimizer.step()
    classifier.eval()
    changed = {name for name, value in classifier.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(("head.", *(f"backbone.net.{part}" for part in MIDDLE))) for name in changed)
    with torch.no_grad():
        assert torch.equal(cut.prefix(pixels.float()), activations)
        assert not torch.allclose(classifier(pixels), logits, atol=1e-3)
        torch.testing.assert_close(cut.suffix(activations), classifier(pixels), atol=1e-5, rtol=0)


def test_uncut_is_the_whole_network_on_augmented_pixels(classifier: Classifier, pixels: Tensor) -> None:
    cut = uncut(classifier)
    classifier.eval()
    assert cut.prefix is None and cut.boundary == "pixels"
    with torch.inference_mode():
        torch.testing.assert_close(cut.suffix(pixels.float()), classifier(pixels), atol=1e-5, rtol=0)


def test_trunk_begins_where_the_input_is_eight_times_smaller(classifier: Classifier, pixels: Tensor) -> None:
    names, n_bytes = trunk_behind_stride(classifier)
    assert names[0] == "blocks.2.1" and names[-1] == "conv_head"
    set_trainable(classifier, names, freeze_norm=True)
    cut = cut_at_boundary(classifier)
    assert cut.prefix is not None and cut.boundary == names[0]
    with torch.inference_mode():
        activations = cut.prefix(pixels.float())
    assert activations.shape[-1] == 64 // 8 and n_bytes == 2 * activations[0].numel()
    assert trunk_behind_stride(classifier, stride=64) == ((), 0)
