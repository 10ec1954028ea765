"""Grad-CAM maps and overlays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from medgraft.errors import UsageError
from medgraft.inference.explain import gradcam, overlay
from medgraft.inference.forward import to_tensor
from medgraft.inference.golden import golden_patterns
from medgraft.models.classifier import Classifier

Make = Callable[..., Classifier]


def test_maps_have_the_size_of_the_images_and_range_0_to_1(make_classifier: Make) -> None:
    classifier = make_classifier()
    for parameter in classifier.backbone.parameters():
        parameter.requires_grad_(False)
    pixels = golden_patterns((64, 64))
    cams = gradcam(classifier, pixels, [0, 1, 2, 0])
    assert cams.shape == (4, 64, 64) and cams.dtype == np.float32
    assert cams.min() >= 0 and cams.max() <= 1
    for cam in cams:
        assert cam.max() == 1 or not cam.any()
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not any(parameter.requires_grad for parameter in classifier.backbone.parameters())
    alone = gradcam(classifier, pixels[1:2], np.array([1]))
    np.testing.assert_allclose(alone[0], cams[1], atol=1e-3)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_the_maps_follow_the_paper(make_classifier: Make, backbone: str) -> None:
    classifier = make_classifier(backbone=backbone)
    with torch.no_grad():
        classifier.head.output.weight[0].abs_()
    pixels = np.repeat(golden_patterns((64, 64))[1:2], 3, axis=0)
    maps = classifier.features(to_tensor(pixels, torch.device("cpu"))).detach().requires_grad_(True)
    classifier.classify(maps).diagonal().sum().backward()
    assert maps.grad is not None
    weights = maps.grad.mean(dim=(2, 3))
    coarse = torch.relu(torch.einsum("nc,nchw->nhw", weights, maps)).detach()[:, None]
    expected = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear")[:, 0].numpy()
    cams = gradcam(classifier, pixels, [0, 1, 2])
    assert cams.any()
    for cam, reference in zip(cams, expected, strict=True):
        np.testing.assert_allclose(cam * reference.max(), reference, atol=1e-5 * max(1.0, reference.max()))


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_both_classes_of_two_can_be_explained(make_classifier: Make, output: str) -> None:
    classifier = make_classifier(classes=("no", "yes"), output=output)
    pixels = np.repeat(golden_patterns((64, 64))[:1], 2, axis=0)
    cams = gradcam(classifier, pixels, [0, 1])
    assert cams.any() and not np.allclose(cams[0], cams[1])


def test_random_heads_are_explained_repeatably(make_classifier: Make) -> None:
    classifier = make_classifier(head=("mc_dropout 0.5", "dense 8", "relu"))
    pixels = golden_patterns((64, 64))
    cams = gradcam(classifier, pixels, [0] * 4)
    np.testing.assert_array_equal(gradcam(classifier, pixels, [0] * 4), cams)
    np.testing.assert_allclose(gradcam(classifier, pixels[3:], [0])[0], cams[3], atol=1e-3)


@pytest.mark.parametrize("indices", [[0], [0, 1, 2, 3], [0, 0, 0, -1], [0.0, 1.0, 1.0, 0.5]])
def test_indices_that_do_not_fit_are_refused(make_classifier: Make, indices: list[int]) -> None:
    with pytest.raises(UsageError) as caught:
        gradcam(make_classifier(), golden_patterns((64, 64)), indices)
    assert caught.value.code == "CAM_CLASSES"


def test_no_images_no_maps(make_classifier: Make) -> None:
    assert gradcam(make_classifier(), np.zeros((0, 64, 64, 3), np.uint8), []).shape == (0, 64, 64)


def test_overlay_leaves_the_image_where_the_map_is_0() -> None:
    image = np.full((4, 6, 3), 90, dtype=np.uint8)
    cam = np.zeros((4, 6), dtype=np.float32)
    cam[0, 0] = 1.0
    out = overlay(image, cam)
    assert out.dtype == np.uint8 and out.shape == image.shape
    np.testing.assert_array_equal(out[1:], image[1:])
    assert int(out[0, 0].astype(int).sum()) > 3 * 90
    with pytest.raises(UsageError):
        overlay(image, cam.T)
