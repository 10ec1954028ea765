"""The backbones that are known by name, and how a name is understood.

Nothing here imports torch at import time: help texts and configuration errors stay fast. Only a name
that is neither in the catalogue nor a Keras name makes `find_backbone` ask timm.

Keras users find the networks under the names they know. The weights are timm's ports or retrainings,
not Keras' files, so preprocessing differs from Keras' and travels with the weights. Where timm has
several weights for one network, the plain ImageNet-1k recipe is taken: weights trained with heavy
label smoothing and mixing classify ImageNet better but transfer worse as fixed features
(Kornblith et al. 2021, "Why do better loss functions lead to less transferable features?").
"""

from __future__ import annotations

import difflib
import re
from dataclasses import asdict, dataclass
from typing import Any

from medgraft.errors import UsageError


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """One network with one set of weights.

    Attributes:
        name: what medgraft calls it.
        timm_name: timm architecture, without tag.
        keras_names: names under which Keras offers the same or the nearest network.
        family: architecture family, by the name of its module in timm, such as ``resnet``.
        weights_tag: timm pretrained tag; empty when timm has no weights for the architecture.
        embedded: True when the weights are installed with medgraft.
        description: one sentence for listings.
    """

    name: str
    timm_name: str
    keras_names: tuple[str, ...]
    family: str
    weights_tag: str
    embedded: bool
    description: str

    @property
    def weights_name(self) -> str:
        """``architecture.tag``: the timm identifier, and the stem of a weights file made by pull."""
        return f"{self.timm_name}.{self.weights_tag}" if self.weights_tag else self.timm_name

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "keras_names": list(self.keras_names)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BackboneSpec:
        """Inverse of :meth:`as_dict`, after a round trip through JSON."""
        return cls(**{**values, "keras_names": tuple(values["keras_names"])})


def _spec(
    name: str, timm_id: str, keras: str, family: str, description: str, *, embedded: bool = False
) -> BackboneSpec:
    timm_name, _, tag = timm_id.partition(".")
    return BackboneSpec(name, timm_name, tuple(keras.split()), family, tag, embedded, description)


CATALOGUE: tuple[BackboneSpec, ...] = (
    _spec(
        "efficientnet-lite0",
        "tf_efficientnet_lite0.in1k",
        "",
        "efficientnet",
        "small and fast, weights installed with medgraft: works with no network",
        embedded=True,
    ),
    _spec("efficientnet-b0", "efficientnet_b0.ra_in1k", "EfficientNetB0", "efficientnet", "small, accurate"),
    _spec("efficientnet-b2", "efficientnet_b2.ra_in1k", "EfficientNetB2", "efficientnet", "256 px"),
    _spec("mobilenet-v2", "mobilenetv2_100.ra_in1k", "MobileNetV2", "efficientnet", "smallest"),
    _spec("vgg16", "vgg16.tv_in1k", "VGG16", "vgg", "heavy; block1 to block5 as in Keras; torchvision weights"),
    _spec("vgg19", "vgg19.tv_in1k", "VGG19", "vgg", "heavy; block1 to block5 as in Keras; torchvision weights"),
    _spec("resnet50", "resnet50.tv_in1k", "ResNet50", "resnet", "the usual reference"),
    _spec("resnet101", "resnet101.tv_in1k", "ResNet101", "resnet", "deep residual network"),
    _spec("resnet152", "resnet152.tv_in1k", "ResNet152", "resnet", "deep residual network"),
    _spec("resnet50-v2", "resnetv2_50.a1h_in1k", "ResNet50V2", "resnetv2", "pre-activation, BatchNorm"),
    _spec(
        "resnet152-v2",
        "resnetv2_101.a1h_in1k",
        "ResNet152V2 ResNet101V2",
        "resnetv2",
        "pre-activation, BatchNorm, 101 layers: timm has no weights for the 152-layer network (resnetv2_152 without "
        "weights, resnetv2_152x2_bit four times larger with GroupNorm), so this is the nearest that transfers",
    ),
    _spec("inception-resnet-v2", "inception_resnet_v2.tf_in1k", "InceptionResNetV2", "inception_resnet_v2", "299 px"),
    _spec("xception", "legacy_xception.tf_in1k", "Xception", "xception", "299 px; ported from Keras"),
    _spec("densenet121", "densenet121.tv_in1k", "DenseNet121", "densenet", "common on chest X-rays"),
    _spec("densenet201", "densenet201.tv_in1k", "DenseNet201", "densenet", "densely connected"),
    _spec("convnext-tiny", "convnext_tiny.fb_in1k", "ConvNeXtTiny", "convnext", "modern convolutional network"),
    _spec("vit-small", "vit_small_patch16_224.augreg_in21k_ft_in1k", "", "vision_transformer", "vision transformer"),
    _spec(
        "dinov2-small",
        "vit_small_patch14_dinov2.lvd142m",
        "",
        "vision_transformer",
        "self-supervised on 142 M images; patch 14",
    ),
    _spec(
        "dinov2-base",
        "vit_base_patch14_dinov2.lvd142m",
        "",
        "vision_transformer",
        "self-supervised on 142 M images; patch 14",
    ),
    _spec("swin-tiny", "swin_tiny_patch4_window7_224.ms_in1k", "", "swin_transformer", "shifted-window transformer"),
)


def find_backbone(name: str) -> BackboneSpec:
    """Understand a backbone name.

    Args:
        name: catalogue name, Keras name, either in any case and with or without ``-`` and ``_``, or
            any timm model name, with or without ``.tag``. Catalogue and Keras spellings come first:
            ``efficientnet_lite0`` is the embedded network, ``efficientnet_lite0.ra_in1k`` timm's other one.

    Raises:
        UsageError: ``MODEL_UNKNOWN``, with near matches.

    Example:
        >>> find_backbone("ResNet50").timm_name
        'resnet50'
        >>> find_backbone("EfficientNet-Lite0").name
        'efficientnet-lite0'
    """
    wanted = name.strip()
    for spec in CATALOGUE:
        if wanted in (spec.name, spec.timm_name, spec.weights_name):
            return spec
    plain = _plain(wanted)
    for spec in CATALOGUE:
        if plain in map(_plain, (spec.name, *spec.keras_names)):
            return spec
    spec_from_timm = _find_in_timm(wanted) if re.fullmatch(r"[A-Za-z0-9_.]+", wanted) else None
    if spec_from_timm is not None:
        return spec_from_timm
    near = near_matches(wanted)
    raise UsageError(
        "MODEL_UNKNOWN",
        f"no backbone is called {name!r}",
        where="model.backbone",
        fix=(f"did you mean {', '.join(near)}? " if near else "")
        + "`medgraft weights list` shows the catalogue; any timm model name works too",
    )


def near_matches(name: str) -> list[str]:
    """Up to 3 catalogue or Keras names that look like ``name``."""
    known = {_plain(known): known for spec in CATALOGUE for known in (*spec.keras_names, spec.timm_name, spec.name)}
    return [known[match] for match in difflib.get_close_matches(_plain(name), known, n=3, cutoff=0.5)]


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def _find_in_timm(name: str) -> BackboneSpec | None:
    import timm  # costs seconds: only for names outside the catalogue

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        return None
    tags = [entry.partition(".")[2] for entry in timm.list_pretrained(architecture, exclude_filters="")]
    if tag and tag not in tags:
        raise UsageError(
            "MODEL_UNKNOWN",
            f"timm's {architecture} has no weights called {tag!r}",
            where="model.backbone",
            fix="it has " + (", ".join(f"{architecture}.{known}" for known in tags) or "none"),
        )
    if not tag and tags:
        default = timm.get_pretrained_cfg(architecture)
        tag = default.tag if default is not None and default.tag in tags else tags[0]
    family = timm.models.model_entrypoint(architecture).__module__.rpartition(".")[2]
    return BackboneSpec(f"{architecture}.{tag}" if tag else architecture, architecture, (), family, tag, False, "timm")
