"""Strided depthwise convolutions in float32 under autocast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medgraft.config import ModelConfig
from medgraft.models.classifier import Classifier, build_classifier
from medgraft.models.depthwise import is_depthwise, strided_in_float32


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("on purpose")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return build_classifier(ModelConfig(size=64), ("a", "b"), seed=0)


def strided(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if is_depthwise(module) and max(module.stride) > 1]  # type: ignore[arg-type]


def n_hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


def test_what_is_depthwise() -> None:
    assert is_depthwise(nn.Conv2d(8, 8, 3, groups=8)) and is_depthwise(nn.Conv2d(8, 16, 3, groups=8))
    assert not is_depthwise(nn.Conv2d(8, 8, 3)) and not is_depthwise(nn.Conv2d(8, 8, 3, groups=2))
    assert not is_depthwise(nn.Conv2d(1, 8, 3)) and not is_depthwise(nn.Linear(8, 8))


def test_only_strided_depthwise_convolutions_compute_in_float32(classifier: Classifier) -> None:
    seen: dict[str, set[torch.dtype]] = {}
    kinds = {id(module): "strided" for module in strided(classifier)}
    handles = [
        module.register_forward_hook(
            lambda module, inputs, output: seen.setdefault(kinds.get(id(module), "other"), set()).add(inputs[0].dtype)
        )
        for module in classifier.modules()
        if isinstance(module, nn.Conv2d)
    ]
    outputs: set[torch.dtype] = set()
    handles += [
        module.register_forward_hook(lambda module, inputs, output: outputs.add(output.dtype))
        for module in classifier.backbone.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    pixels = torch.zeros(1, 3, 64, 64)
    with strided_in_float32(classifier), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        classifier.features(pixels)
    for handle in handles:
        handle.remove()
    # what the hook of a test sees first is the input as given; the last hook of ours has cast it
    assert len(strided(classifier)) == 4
    assert torch.float32 in seen["strided"] and torch.bfloat16 not in seen["strided"]
    assert outputs == {torch.bfloat16}


def test_same_output_within_bfloat16_and_closer_to_float32(classifier: Classifier) -> None:
    pixels = torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        exact = classifier.features(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            plain = classifier.features(pixels).float()
            with strided_in_float32(classifier):
                mixed = classifier.features(pixels).float()

    def distance(found: Tensor) -> float:
        return float((found - exact).norm() / exact.norm())

    assert distance(mixed) < 0.1 and distance(mixed) < 1.2 * distance(plain)


def test_without_autocast_nothing_changes(classifier: Classifier) -> None:
    pixels = torch.full((2, 3, 64, 64), 100.0)
    with torch.no_grad():
        expected = classifier.features(pixels)
        with strided_in_float32(classifier):
            assert torch.equal(classifier.features(pixels), expected)


def test_gradients_arrive_in_float32(classifier: Classifier) -> None:
    for parameter in classifier.parameters():
        parameter.grad = None
    with strided_in_float32(classifier), torch.autocast("cpu", torch.bfloat16):
        loss = classifier.features(torch.full((2, 3, 64, 64), 100.0)).float().square().mean()
    loss.backward()
    assert all(
        module.weight.grad is not None and torch.isfinite(module.weight.grad).all() for module in strided(classifier)
    )
    for parameter in classifier.parameters():
        parameter.grad = None


def test_hooks_are_removed_and_autocast_is_as_before(classifier: Classifier) -> None:
    before = n_hooks(classifier)
    with strided_in_float32(classifier):
        assert n_hooks(classifier) == before + 2 * len(strided(classifier))
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            classifier.features(torch.zeros(1, 3, 64, 64))
            assert torch.is_autocast_enabled("cpu")
    assert n_hooks(classifier) == before and not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("inside", [True, False])
def test_an_error_leaves_neither_hooks_nor_autocast(inside: bool) -> None:
    conv = nn.Conv2d(4, 4, 3, stride=2, groups=4)
    network = nn.Sequential(conv, nn.Identity() if inside else Fails())
    wrong = torch.zeros(1, 3 if inside else 4, 8, 8)  # three channels fail within the convolution
    with (
        pytest.raises(RuntimeError),
        strided_in_float32(network),
        torch.autocast("cpu", torch.bfloat16),
        torch.no_grad(),
    ):
        network(wrong)
    assert n_hooks(network) == 0 and not torch.is_autocast_enabled("cpu")
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
