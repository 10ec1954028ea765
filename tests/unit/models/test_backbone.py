"""Sizes, preprocessing and what is left of the network."""

from __future__ import annotations

import pytest
import torch

from medgraft.errors import UsageError
from medgraft.models.backbone import create_backbone


def test_preprocessing_comes_from_the_weights() -> None:
    backbone = create_backbone("efficientnet-lite0", resize="pad")
    assert backbone.preprocess.as_dict() == {
        "size": (224, 224),
        "resize": "pad",
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    assert (backbone.n_channels, backbone.feature_size, backbone.weights.kind) == (1280, (7, 7), "embedded")
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 3_371_008  # no classifier


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 160), ("vit_small_patch14_dinov2", 224), ("test_vit", 160)])
def test_auto_size_is_the_native_one_up_to_a_limit(name: str, size: int) -> None:
    backbone = create_backbone(name, weights="none")
    assert backbone.preprocess.size == (size, size)
    assert backbone(torch.zeros(1, 3, size, size)).shape == (1, backbone.n_channels, *backbone.feature_size)


def test_size_must_suit_the_patch() -> None:
    with pytest.raises(UsageError, match="use 98 or 112, or auto") as caught:
        create_backbone("vit_small_patch14_dinov2", weights="none", size=100)
    assert caught.value.code == "MODEL_SIZE"


def test_size_too_small_for_the_network() -> None:
    with pytest.raises(UsageError, match="inception-resnet-v2 cannot take images of 32 x 32 pixels"):
        create_backbone("InceptionResNetV2", weights="none", size=32)


def test_interpolation_and_mean_of_other_weights() -> None:
    preprocess = create_backbone("resnet18.tv_in1k", weights="none", size=64).preprocess
    assert preprocess.interpolation == "bilinear" and preprocess.mean == (0.485, 0.456, 0.406)
