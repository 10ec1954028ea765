"""The network cut at its freeze boundary: what is frozen is a pure function, so it is computed once.

    pixels (N, 3, H, W), 0..255 ── prefix (frozen) ──► activations ── suffix (trains) ──► logits (N, C)

The boundary is read from the parameters themselves after `set_trainable`, so there is one meaning
of frozen. Where the network is not a chain of stages, only a wholly frozen backbone is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from medgraft.models.classifier import Classifier


class Prefix(nn.Module):
    """Normalisation and the leading frozen stages; global pooling too when the head begins with it."""

    def __init__(self, classifier: Classifier, stages: list[nn.Module], *, pooled: bool) -> None:
        super().__init__()
        self.normalize = classifier.normalize
        self.stages = nn.ModuleList(stages)
        self.pool = classifier.head.pool if pooled else None

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.normalize(pixels)
        for stage in self.stages:
            x = stage(x)
        return x if self.pool is None else cast(Tensor, self.pool(x))


class Suffix(nn.Module):
    """The stages behind the boundary and the head."""

    def __init__(self, classifier: Classifier, stages: list[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.classifier = classifier

    def forward(self, activations: Tensor) -> Tensor:
        x = activations
        for stage in self.stages:
            x = stage(x)
        return self.classifier.classify(x)


@dataclass(frozen=True)
class Cut:
    """Both halves share the classifier's modules: training the suffix trains the classifier.

    Attributes:
        prefix: frozen half, or None when nothing at the input side is frozen as a block.
        suffix: the half that trains; the whole network from pixels when there is no prefix.
        boundary: name of the first stage behind the cut, for plans and cache keys.
    """

    prefix: Prefix | None
    suffix: nn.Module
    boundary: str


class _Whole(nn.Module):
    """The classifier on augmented pixels (float, 0..255), which its public forward refuses."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classifier.classify(self.classifier.features(pixels))


def cut_at_boundary(classifier: Classifier) -> Cut:
    """Cut where the trainable part begins, as `set_trainable` left it."""
    backbone = classifier.backbone
    chain = backbone.stages() or [("backbone", cast(nn.Module, backbone))]
    depth = 0
    for _, stage in chain:
        if any(parameter.requires_grad for parameter in stage.parameters()):
            break
        depth += 1
    # stages without parameters (activations, pooling) stay with the trained stage they follow
    if depth == len(chain):
        prefix = Prefix(classifier, [stage for _, stage in chain], pooled=classifier.head.pooled)
        return Cut(prefix, Suffix(classifier, []), "head")
    if depth == 0:
        return uncut(classifier)
    prefix = Prefix(classifier, [stage for _, stage in chain[:depth]], pooled=False)
    return Cut(prefix, Suffix(classifier, [stage for _, stage in chain[depth:]]), chain[depth][0])


def uncut(classifier: Classifier) -> Cut:
    """The whole network as the part that trains, frozen stages included."""
    return Cut(None, _Whole(classifier), "pixels")


def trunk_behind_stride(classifier: Classifier, stride: int = 8) -> tuple[tuple[str, ...], int]:
    """Stages whose input is already ``stride`` times smaller than the image.

    What lies before them holds edges and textures that transfer as they are (Yosinski et al. 2014),
    costs most of the time and few of the parameters.

    Returns:
        Their names in order, and the bytes of one image's activations before them as float16.
        Empty and 0 when the network is not a chain of stages.
    """
    chain = classifier.backbone.stages()
    if not chain:
        return (), 0
    height = classifier.preprocess.size[0]
    parameter = next(classifier.parameters())
    x = torch.zeros(1, 3, *classifier.preprocess.size, device=parameter.device)
    with torch.inference_mode():
        x = classifier.normalize(x)
        for index, (_, stage) in enumerate(chain):
            if index and x.ndim == 4 and height / x.shape[-2] >= stride:
                return tuple(name for name, _ in chain[index:]), x.numel() * 2
            x = stage(x)
    return (), 0
