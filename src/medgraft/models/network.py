"""timm networks as they come, with everything random in them switched off."""

from __future__ import annotations

import warnings
from typing import cast

import timm
from timm.layers.drop import DropBlock2d, DropPath
from timm.layers.patch_dropout import PatchDropout
from timm.models import PretrainedCfg
from torch import nn

from medgraft.errors import UsageError
from medgraft.models.catalogue import BackboneSpec
from medgraft.types import Interpolation, Preprocess, Resize


def build_network(spec: BackboneSpec) -> nn.Module:
    """The full network with its classifier and random weights; draws from torch's global generator."""
    net = timm.create_model(spec.weights_name, pretrained=False)
    for module in net.modules():
        # timm sets the rates by family-specific arguments, which not every family accepts.
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, (DropPath, DropBlock2d)):
            module.drop_prob = 0.0
        elif isinstance(module, PatchDropout):
            module.prob = 0.0
        if isinstance(getattr(module, "drop_rate", None), float):
            module.drop_rate = 0.0  # type: ignore[assignment]  # DenseNet and others call F.dropout with it
    return net


def native_preprocess(spec: BackboneSpec, *, resize: Resize) -> Preprocess:
    """Size, interpolation, mean and std with which the weights were trained."""
    cfg = _config(spec)
    interpolation: Interpolation = "bilinear" if cfg.interpolation == "bilinear" else "bicubic"
    size = (int(cfg.input_size[1]), int(cfg.input_size[2]))
    mean, std = (cast(tuple[float, float, float], tuple(map(float, values))) for values in (cfg.mean, cfg.std))
    return Preprocess(size, resize, interpolation, mean, std)


def set_input_size(net: nn.Module, size: tuple[int, int]) -> None:
    """Fit position embeddings and windows of a transformer to (height, width); other networks need nothing."""
    if not hasattr(net, "set_input_size"):
        return
    with warnings.catch_warnings():
        # timm's interpolation of Swin's relative positions, written for an older torch; the values are right.
        warnings.filterwarnings("ignore", message=r"torch\.searchsorted\(\): input value tensor is non-contiguous")
        warnings.filterwarnings("ignore", message="Using a non-tuple sequence for multidimensional indexing")
        net.set_input_size(img_size=size)  # type: ignore[operator]


def patch_size(net: nn.Module) -> int:
    """Side of the patches of a plain vision transformer; 1 for every other network."""
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    if patch is None or not hasattr(net, "blocks"):
        return 1
    return int(patch[0]) if isinstance(patch, (tuple, list)) else int(patch)


def classifier_names(spec: BackboneSpec) -> tuple[str, ...]:
    """Module names of the ImageNet classifier, whose tensors a weights file may lack or have in another size."""
    names: str | tuple[str, ...] = _config(spec).classifier or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _config(spec: BackboneSpec) -> PretrainedCfg:
    config = timm.get_pretrained_cfg(spec.weights_name)
    if config is None:
        raise UsageError(
            "MODEL_UNKNOWN",
            f"the installed timm does not know {spec.weights_name}",
            where="model.backbone",
            fix="install the timm version that medgraft asks for",
        )
    return config
