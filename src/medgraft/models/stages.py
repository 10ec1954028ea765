"""The network as a chain of its own modules, so that a frozen beginning can be computed once.

`chain_of` only proposes; `Backbone.stages` checks the proposal against the network.
"""

from __future__ import annotations

from typing import cast

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class Embedding(nn.Module):
    """Pixels to tokens of a vision transformer: patches, class and register tokens, positions.

    Shares its parameters with the network it is taken from.
    """

    def __init__(self, net: VisionTransformer) -> None:
        super().__init__()
        self.patch_embed = net.patch_embed
        self.patch_drop = net.patch_drop
        self.norm_pre = net.norm_pre
        for name in ("cls_token", "reg_token", "pos_embed"):
            setattr(self, name, getattr(net, name))  # so that parameters() tells the truth about this stage
        self._net = (net,)  # in a tuple: not registered, or every parameter of the network would be ours

    def forward(self, x: Tensor) -> Tensor:
        tokens = self._net[0]._pos_embed(self.patch_embed(x))
        return cast(Tensor, self.norm_pre(self.patch_drop(tokens)))


def chain_of(net: nn.Module, maps: nn.Module) -> list[tuple[str, nn.Module]]:
    """Propose a chain: children in definition order, plain Sequentials opened.

    Args:
        net: timm network whose classifier is removed.
        maps: last step, from the network's layout to (N, C, h, w).

    Returns:
        (name, module) pairs; modules without parameters and normalizations are joined to the one
        before them, because nothing is gained by a cut there and in-place activations would change
        a kept activation.
    """
    links = _vit_links(net) if isinstance(net, VisionTransformer) else _open("", net)
    chain: list[tuple[str, list[nn.Module]]] = []
    for name, module in [*links, ("maps", maps)]:
        if chain and (_is_norm(module) or not any(True for _ in module.parameters())):
            chain[-1][1].append(module)
        else:
            chain.append((name, [module]))
    return [(name, parts[0] if len(parts) == 1 else nn.Sequential(*parts)) for name, parts in chain]


def _vit_links(net: VisionTransformer) -> list[tuple[str, nn.Module]]:
    blocks = [(f"blocks.{index}", block) for index, block in enumerate(net.blocks)]
    return [("patch_embed", Embedding(net)), *blocks, ("norm", net.norm)]


def _open(prefix: str, parent: nn.Module) -> list[tuple[str, nn.Module]]:
    links: list[tuple[str, nn.Module]] = []
    for name, module in parent.named_children():
        if _is_pooling_or_classifier(name) and not prefix:
            break
        if type(module) is nn.Sequential:  # a subclass may have a forward of its own
            links += _open(f"{prefix}{name}.", module)
        else:
            links.append((f"{prefix}{name}", module))
    return links


def _is_pooling_or_classifier(name: str) -> bool:
    return name in ("global_pool", "avgpool", "pre_logits", "head", "head_drop", "classifier", "fc")


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm))
