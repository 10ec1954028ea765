"""Names of backbones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medgraft.errors import UsageError
from medgraft.models.catalogue import CATALOGUE, BackboneSpec, find_backbone

KERAS = {
    "Xception": "legacy_xception.tf_in1k",
    "ResNet152V2": "resnetv2_101.a1h_in1k",
    "ResNet50": "resnet50.tv_in1k",
    "EfficientNetB0": "efficientnet_b0.ra_in1k",
    "VGG16": "vgg16.tv_in1k",
    "MobileNetV2": "mobilenetv2_100.ra_in1k",
    "InceptionResNetV2": "inception_resnet_v2.tf_in1k",
    "DenseNet201": "densenet201.tv_in1k",
    "EfficientNetB2": "efficientnet_b2.ra_in1k",
}


@pytest.mark.parametrize(("keras", "weights_name"), KERAS.items())
def test_keras_names(keras: str, weights_name: str) -> None:
    assert find_backbone(keras).weights_name == weights_name
    assert find_backbone(keras.lower()).weights_name == weights_name


@pytest.mark.parametrize(
    "name", ["EfficientNet-Lite0", " efficientnet-lite0 ", "tf_efficientnet_lite0", "EfficientNetLite0"]
)
def test_spellings_of_the_embedded_one(name: str) -> None:
    assert find_backbone(name).embedded


def test_names_are_unique_and_known_to_timm() -> None:
    import timm

    for spec in CATALOGUE:
        assert all(find_backbone(name) is spec for name in (spec.name, spec.timm_name, *spec.keras_names))
    for spec in CATALOGUE:
        config = timm.get_pretrained_cfg(spec.weights_name)
        assert config is not None and config.architecture == spec.timm_name and config.tag == spec.weights_tag
        assert timm.models.model_entrypoint(spec.timm_name).__module__ == f"timm.models.{spec.family}"


def test_any_timm_model() -> None:
    assert find_backbone("resnet18.tv_in1k").weights_tag == "tv_in1k"
    assert find_backbone("resnet18").weights_tag  # timm's default
    assert find_backbone("resnet50.a1_in1k").name == "resnet50.a1_in1k"
    assert find_backbone("resnetv2_152").weights_tag == ""  # timm has no weights


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet5O", "resnet50"), ("VGG-61", "vgg16"), ("resnet18.nonsense", "resnet18.tv_in1k"), ("", "weights list")],
)
def test_unknown_names_get_help(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint) as caught:
        find_backbone(name)
    assert caught.value.code == "MODEL_UNKNOWN"


def test_round_trip() -> None:
    for spec in CATALOGUE:
        assert BackboneSpec.from_dict(spec.as_dict()) == spec


def test_catalogue_needs_no_torch() -> None:
    code = (
        "import sys; from medgraft.models.catalogue import find_backbone as f; f('VGG16'); f('resnet50');"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
