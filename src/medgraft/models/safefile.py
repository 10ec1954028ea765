"""Reading a safetensors file that may be anything: typed errors, nothing run, little memory.

`read_header` looks at the first bytes only; `read_tensors` then loads with the safetensors library.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medgraft.errors import ModelError

LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself
_PICKLE_SUFFIXES = (
    ".pt",
    ".pth",
    ".bin",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".tar",
    ".h5",
    ".hdf5",
    ".keras",
    ".npz",
)
_FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Names, dtypes and shapes of a safetensors file, checked against the size of the file.

    Returns:
        ``{name: {"dtype", "shape", "data_offsets"}}``.

    Raises:
        ModelError: MODEL_MISSING, MODEL_UNSAFE_FORMAT, MODEL_EMPTY, MODEL_NOT_MODEL, MODEL_CORRUPT or
            MODEL_INVALID.
    """
    _check_kind(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 9 or not 2 <= length <= min(size - 8, LARGEST_HEADER):
            raise _corrupt(path, f"its header claims {length} bytes and the file has {size}")
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_unique_keys)
        with safe_open(path, framework="pt") as tensors:
            names = set(tensors.keys())
    except _DuplicateName as error:
        raise ModelError(
            "MODEL_INVALID", f"the tensor {error.args[0]!r} is there twice", where=str(path), fix=_GET_AGAIN
        ) from error
    except (ValueError, RecursionError, SafetensorError, OSError) as error:
        raise _corrupt(path, str(error).splitlines()[0][:200] if str(error) else type(error).__name__) from error
    return {name: header[name] for name in sorted(names)}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, floating point ones finite.

    Raises:
        ModelError: as `read_header`, and MODEL_INVALID for values that are not finite.
    """
    names = read_header(path)
    with safe_open(path, framework="pt") as file:
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
    check_finite(tensors, str(path))
    return tensors


def check_finite(tensors: dict[str, Tensor], where: str) -> None:
    """Refuse NaN and infinite weights with MODEL_INVALID, naming the first 5 tensors."""
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise ModelError(
            "MODEL_INVALID",
            f"{len(bad)} tensors hold values that are not finite: {', '.join(bad[:5])}",
            where=where,
            fix=_GET_AGAIN,
        )


def check_architecture(
    found: dict[str, Any], wanted: dict[str, Tensor], *, optional: tuple[str, ...], where: str
) -> None:
    """Compare names, shapes and kinds of number with what the network needs.

    Args:
        found: name to tensor, or to an entry of `read_header`.
        wanted: state dict of the network.
        optional: name prefixes (classifier) that may lack, differ or be in addition.
        where: the file, for the message.

    Raises:
        ModelError: MODEL_ARCHITECTURE with the first 5 differences.
    """

    def matters(name: str) -> bool:
        return not any(name == prefix or name.startswith(f"{prefix}.") for prefix in optional)

    differences = [
        f"lacks {name} {tuple(wanted[name].shape)}" for name in wanted if matters(name) and name not in found
    ]
    differences += [f"has {name}, which the network does not" for name in found if matters(name) and name not in wanted]
    for name, tensor in wanted.items():
        if not matters(name) or name not in found:
            continue
        shape, is_float = _shape_and_kind(found[name])
        if shape != tuple(tensor.shape):
            differences.append(f"{name} is {shape}, the network needs {tuple(tensor.shape)}")
        elif is_float != tensor.is_floating_point():
            differences.append(f"{name} holds the wrong kind of number")
    if differences:
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise ModelError(
            "MODEL_ARCHITECTURE",
            "the weights are not of this network: " + "; ".join(differences[:5]) + more,
            where=where,
            fix="name the backbone these weights belong to, or get the weights of this one",
        )


_GET_AGAIN = "get the file again from where it came from"


class _DuplicateName(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise _DuplicateName(key)
        out[key] = value
    return out


def _shape_and_kind(entry: Any) -> tuple[tuple[int, ...], bool]:
    if isinstance(entry, Tensor):
        return tuple(entry.shape), entry.is_floating_point()
    return tuple(entry["shape"]), entry["dtype"] in _FLOATS


def _check_kind(path: Path) -> None:
    if not path.is_file():
        raise ModelError("MODEL_MISSING", "there is no such weights file", where=str(path), fix="check the path")
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise ModelError(
            "MODEL_UNSAFE_FORMAT",
            f"{path.suffix} files can run code when they are opened and are not read",
            where=str(path),
            fix="use the .safetensors file of the same weights",
        )
    if path.stat().st_size == 0:
        raise ModelError("MODEL_EMPTY", "the weights file is empty (0 bytes)", where=str(path), fix=_GET_AGAIN)
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(
            "MODEL_NOT_MODEL",
            "the file is a web page, not weights (an error page saved by a download?)",
            where=str(path),
            fix=_GET_AGAIN,
        )
    if path.suffix.lower() != ".safetensors":
        raise ModelError(
            "MODEL_UNSAFE_FORMAT",
            "only .safetensors files are read as weights",
            where=str(path),
            fix="use the .safetensors file of the same weights",
        )


def _corrupt(path: Path, why: str) -> ModelError:
    return ModelError("MODEL_CORRUPT", f"not a whole safetensors file: {why}", where=str(path), fix=_GET_AGAIN)
