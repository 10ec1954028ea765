"""A pretrained network without its classifier, the same to use whatever its family.

    normalized pixels (N,3,H,W) --net.forward_features--> any layout --Maps--> (N,C,h,w)

Convolutional maps pass as they are, NHWC maps are permuted, transformer tokens lose their prefix
(class and register tokens) and return to the grid. Everything of the network that its feature maps
do not need (classifier, pre-logits layers) is removed, so every remaining parameter counts.

All randomness (dropout, drop-path) of the network is off: regularization belongs to the head and to
augmentation, and a network that never draws can be frozen, cut and cached.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from medgraft.errors import UsageError
from medgraft.models.catalogue import BackboneSpec, find_backbone
from medgraft.models.network import build_network, native_preprocess, patch_size, set_input_size
from medgraft.models.stages import chain_of
from medgraft.models.weights import WeightsSource, load_state, resolve_weights
from medgraft.types import Preprocess, Resize

# Above this side the native size of the weights is not taken by "auto": 518 px of DINOv2 cost 5 times 224 px.
LARGEST_AUTO_SIZE = 320
AUTO_SIZE = 224


class Normalize(nn.Module):
    """Raw pixels on the 0..255 scale to network input, as the weights want it.

    Args:
        preprocess: the preprocessing of the weights.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        # Not in the state dict: the values live in the description, once.
        self.register_buffer("mean", 255.0 * torch.tensor(preprocess.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(preprocess.std).view(1, 3, 1, 1)), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 or float 0..255 to (N, 3, H, W) float32."""
        return (pixels.float() - self.mean) * self.scale


class Maps(nn.Module):
    """Bring the output of a network to (N, C, h, w).

    Args:
        layout: ``nchw``, ``nhwc`` or ``tokens``.
        grid: (h, w) of the feature cells.
        n_prefix: class and register tokens before the patches; only for ``tokens``.
    """

    def __init__(self, layout: Literal["nchw", "nhwc", "tokens"], *, grid: tuple[int, int], n_prefix: int = 0) -> None:
        super().__init__()
        self.layout = layout
        self.grid = grid
        self.n_prefix = n_prefix

    def forward(self, features: Tensor) -> Tensor:
        if self.layout == "nchw":
            return features
        if self.layout == "nhwc":
            return features.permute(0, 3, 1, 2)
        cells = features[:, self.n_prefix :].transpose(1, 2)
        return cells.reshape(cells.shape[0], cells.shape[1], *self.grid)


class Backbone(nn.Module):
    """Feature maps of a pretrained network; make one with `create_backbone`.

    Attributes:
        spec: what was asked.
        name: catalogue name or timm name.
        preprocess: size, resizing and normalization that belong to the weights.
        n_channels: C of the feature maps.
        feature_size: (h, w) of the feature maps at ``preprocess.size``.
        weights: where the weights came from.
        net: the timm network.
    """

    def __init__(self, net: nn.Module, *, spec: BackboneSpec, preprocess: Preprocess, weights: WeightsSource) -> None:
        super().__init__()
        self.spec = spec
        self.name = spec.name
        self.preprocess = preprocess
        self.weights = weights
        self.net = net
        features = _probe_features(net, preprocess.size, spec)
        _drop_unused(net, features)
        self.maps = _layout(net, features.detach(), spec)
        self.n_channels = int(self.maps(features.detach()).shape[1])
        self.feature_size = self.maps.grid
        self._stages: list[tuple[str, nn.Module]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalized (N, 3, H, W) to feature maps (N, C, h, w)."""
        return cast(Tensor, self.maps(self.net.forward_features(x)))  # type: ignore[operator]

    def stages(self) -> list[tuple[str, nn.Module]]:
        """The network as a chain: applied one after the other, the modules give `forward`.

        The modules are the network's own (same parameters). No stage starts with an activation or a
        normalization, and none changes its input in place, so outputs between stages can be kept.
        The claim is checked on the first call, on one random image in eval mode.

        Returns:
            (module name of the first member, module) in order; empty when the network is no plain chain.
        """
        if self._stages is None:
            chain = chain_of(self.net, self.maps)
            self._stages = chain if chain and self._is_chain(chain) else []
        return list(self._stages)

    def _is_chain(self, chain: list[tuple[str, nn.Module]]) -> bool:
        parameter = next(self.net.parameters())
        pixels = torch.randn(1, 3, *self.preprocess.size, generator=torch.Generator().manual_seed(0)).to(parameter)
        with torch.no_grad(), eval_mode(self):
            whole = self(pixels)
            out = pixels
            try:
                for _, stage in chain:
                    out = stage(out)
            except (RuntimeError, TypeError, AttributeError, ValueError, IndexError, AssertionError):
                return False  # the children of an arbitrary timm network need not be a chain
            if out.shape != whole.shape:
                return False
            return bool((out - whole).abs().max() <= 1e-5 * whole.abs().max().clamp_min(1.0))


def create_backbone(
    name: str | BackboneSpec, *, weights: str = "auto", size: int | Literal["auto"] = "auto", resize: Resize = "squash"
) -> Backbone:
    """Make a backbone in eval mode.

    Args:
        name: any name that `find_backbone` understands, or a spec.
        weights: ``auto`` (embedded, else local cache; never the network), ``hub``, ``none`` or a
            ``.safetensors`` file.
        size: side of the square input in pixels; ``auto`` takes the native size of the weights, or
            224 where that is above 320.
        resize: how images take that size.

    Raises:
        UsageError: unknown name, or a size the network cannot take.
        ModelError: weights that are missing, damaged or of another network.
    """
    spec = find_backbone(name) if isinstance(name, str) else name
    source = resolve_weights(spec, weights)
    net = build_network(spec)
    if source.kind != "none":
        load_state(net, source, spec)
    native = native_preprocess(spec, resize=resize)
    side = _side(size, native, net, spec)
    preprocess = Preprocess((side, side), resize, native.interpolation, native.mean, native.std)
    if (side, side) != native.size:
        set_input_size(net, (side, side))
    return Backbone(net, spec=spec, preprocess=preprocess, weights=source).eval()


def restore_backbone(spec: dict[str, Any], preprocess: Preprocess, weights: dict[str, Any]) -> Backbone:
    """The backbone of a description, with arbitrary numbers; looks for no weights.

    Args:
        spec: `BackboneSpec.as_dict`.
        preprocess: as described.
        weights: ``kind``, ``sha256`` and ``description`` of the original source.
    """
    known = BackboneSpec.from_dict(spec)
    net = build_network(known)
    set_input_size(net, preprocess.size)
    source = WeightsSource(weights["kind"], None, weights["sha256"], weights["description"])
    return Backbone(net, spec=known, preprocess=preprocess, weights=source).eval()


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode for a block; afterwards every submodule has the mode it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _side(size: int | Literal["auto"], native: Preprocess, net: nn.Module, spec: BackboneSpec) -> int:
    patch = patch_size(net)
    if size == "auto":
        return native.size[0] if native.size[0] <= LARGEST_AUTO_SIZE else AUTO_SIZE // patch * patch
    if size % patch:
        below, above = size // patch * patch, (size // patch + 1) * patch
        raise UsageError(
            "MODEL_SIZE",
            f"{spec.name} cuts images into patches of {patch} pixels, and {size} is not a multiple",
            where="model.size",
            fix=f"use {f'{below} or ' if below else ''}{above}, or auto",
        )
    return size


def _probe_features(net: nn.Module, size: tuple[int, int], spec: BackboneSpec) -> Tensor:
    """One forward with gradients on, so that the graph tells which parameters the maps need."""
    try:
        with torch.enable_grad(), eval_mode(net):
            features = net.forward_features(torch.zeros(1, 3, *size))  # type: ignore[operator]
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(
            "MODEL_SIZE",
            f"{spec.name} cannot take images of {size[0]} x {size[1]} pixels ({_first_line(error)})",
            where="model.size",
            fix="use auto, or a larger size",
        ) from error
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        raise UsageError(
            "MODEL_UNSUPPORTED",
            f"{spec.name} does not give one feature map",
            where="model.backbone",
            fix="choose another backbone; `medgraft weights list` shows the catalogue",
        )
    return features


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _drop_unused(net: nn.Module, features: Tensor) -> None:
    """Replace the modules none of whose parameters the feature maps depend on (classifier, pre-logits)."""
    used: set[int] = set()
    seen: set[object] = set()
    pending = [features.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            used.add(id(node.variable))
        pending.extend(following for following, _ in node.next_functions)
    for name, module in list(net.named_children()):
        _drop_unused_in(net, name, module, used)


def _drop_unused_in(parent: nn.Module, name: str, module: nn.Module, used: set[int]) -> None:
    parameters = list(module.parameters())
    if not parameters:
        return
    if not any(id(parameter) in used for parameter in parameters):
        setattr(parent, name, nn.Identity())
        return
    for child_name, child in list(module.named_children()):
        _drop_unused_in(module, child_name, child, used)


def _layout(net: nn.Module, features: Tensor, spec: BackboneSpec) -> Maps:
    if features.ndim == 4:
        channels_last = str(getattr(net, "output_fmt", "")).endswith("NHWC") or (
            features.shape[1] != getattr(net, "num_features", features.shape[1])
            and features.shape[3] == getattr(net, "num_features", None)
        )
        if channels_last:
            return Maps("nhwc", grid=(int(features.shape[1]), int(features.shape[2])))
        return Maps("nchw", grid=(int(features.shape[2]), int(features.shape[3])))
    n_prefix = int(getattr(net, "num_prefix_tokens", 0))
    n_cells = int(features.shape[1]) - n_prefix
    grid = getattr(getattr(net, "patch_embed", None), "grid_size", None)
    if grid is None or grid[0] * grid[1] != n_cells:
        side = round(n_cells**0.5)
        grid = (side, side)
    if grid[0] * grid[1] != n_cells:
        raise UsageError(
            "MODEL_UNSUPPORTED",
            f"the {features.shape[1]} tokens of {spec.name} form no grid",
            where="model.backbone",
            fix="choose another backbone; `medgraft weights list` shows the catalogue",
        )
    return Maps("tokens", grid=(int(grid[0]), int(grid[1])), n_prefix=n_prefix)
