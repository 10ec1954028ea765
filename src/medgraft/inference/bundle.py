"""The deliverable of a run: one folder with everything needed to predict, and proof that it is whole.

    bundle/
    ├── bundle.json           classes, preprocessing, network, temperature, operating point, prediction sets, reading
    │                         rules, provenance
    ├── weights.safetensors   every tensor of the classifier
    ├── seen.safetensors      hashes of the training images, if it remembers them
    ├── golden.safetensors    pixels (k,H,W,3) uint8 and the logits (k,C) float32 they must give
    ├── README.md             model card
    └── manifest.json         size and sha256 of every other file (`medgraft.inference.seal`)

Opening never runs code from the bundle and never asks the network: JSON and safetensors only.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as dump_arrays
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from medgraft.config import DataConfig
from medgraft.data.imprint import Imprint
from medgraft.errors import MedgraftError, ModelError, Problem, ResourceError, UsageError
from medgraft.evaluation.conformal import Conformal
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.inference.forward import HEAD_SAMPLES, forward_logits
from medgraft.inference.golden import check_golden, golden_arrays, golden_patterns
from medgraft.inference.model_card import model_card
from medgraft.inference.seal import (
    BUNDLE_FILES,
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    SEEN,
    canonical_json,
    check_format,
    check_seal,
    flush_folder,
    write_flushed,
    write_seal,
)
from medgraft.models.classifier import Classifier
from medgraft.models.safefile import sha256_of
from medgraft.types import RESEARCH_USE_ONLY, FloatArray, PixelArray, Preprocess

_READING = (
    "sixteen_bit", "float_range", "background", "frame", "max_megapixels", "min_side", "max_side",
    "max_aspect", "max_file_mb", "refuse_burned_in",
)  # fmt: skip
Arrays = dict[str, np.ndarray[Any, Any]]
_PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".keras", ".bin")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        folder: where it lies.
        id: sha256 of its manifest, 64 hexadecimal digits; names exactly these weights and settings.
        classifier: on the CPU, in eval mode.
        operating_point: how probabilities become a label.
        temperature: divides the logits before the softmax.
        rules: how files become pixels, as in training.
        samples: draws of a head with Monte-Carlo dropout; 1 for every other head.
        provenance: what the training run recorded about itself.
        golden_pixels: (k, H, W, 3) uint8.
        golden_logits: (k, C) float64.
        conformal: how calibrated probabilities of one plain pass become prediction sets; None when it has none.
        imprint: what is remembered of the training images; None when nothing is.
    """

    folder: Path
    id: str
    classifier: Classifier
    operating_point: OperatingPoint
    temperature: float
    rules: DataConfig
    samples: int
    provenance: dict[str, Any]
    golden_pixels: PixelArray
    golden_logits: FloatArray
    conformal: Conformal | None = None
    imprint: Imprint | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.classifier.classes

    @property
    def preprocess(self) -> Preprocess:
        return self.classifier.preprocess


def write_bundle(
    folder: Path,
    classifier: Classifier,
    *,
    operating_point: OperatingPoint,
    temperature: float,
    provenance: dict[str, Any],
    golden_pixels: PixelArray | None = None,
    rules: DataConfig | None = None,
    conformal: Conformal | None = None,
    imprint: Imprint | None = None,
) -> None:
    """Write a bundle beside its final place, flush it, open it, and only then put it there.

    Args:
        folder: the bundle; an earlier bundle there is replaced, anything else is left alone.
        classifier: what to deliver; put into eval mode.
        operating_point: how probabilities become a label.
        temperature: positive.
        provenance: JSON-ready facts about the training run.
        golden_pixels: (k, H, W, 3) uint8 of the network's size; generated patterns when not given, so that
            no patient's pixels leave with the weights.
        rules: how training read files; of these only what concerns reading is kept.
        conformal: prediction sets fixed on validation, of probabilities at this temperature.
        imprint: what to remember of the training images; none of their pixels or names.

    Raises:
        UsageError: ``BUNDLE_TARGET`` when something else is in the way.
        ModelError: weights that are not finite, provenance that is not JSON, prediction sets of other classes.
        ResourceError: ``DISK_FULL``.
    """
    folder = Path(os.path.abspath(folder))
    _check_target(folder)
    classifier.eval()
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pixels = golden_patterns(classifier.preprocess.size) if golden_pixels is None else golden_pixels
    samples = HEAD_SAMPLES if classifier.head.stochastic else 1
    logits = forward_logits(classifier, pixels, samples=samples).astype(np.float32)
    facts = {
        **_description(classifier),
        "temperature": float(temperature),
        "operating_point": operating_point.as_dict(),
        "reading": (rules or DataConfig()).model_dump(mode="json", include=set(_READING)),
        "samples": samples,
        "conformal": None if conformal is None else conformal.as_dict(),
        "seen": _counted(imprint),
        "provenance": provenance,
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    contents = {
        "bundle.json": _as_json(facts),
        "weights.safetensors": dump_tensors(state),
        "golden.safetensors": dump_arrays({"pixels": np.ascontiguousarray(pixels), "logits": logits}),
        "README.md": model_card(facts).encode(),
    }
    if imprint is not None:
        contents[SEEN] = dump_arrays(imprint.as_arrays())
    try:
        _install(contents, partial, folder)
    except OSError as error:
        raise _write_error(error, folder, needed=sum(map(len, contents.values()))) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _description(classifier: Classifier) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "notice": RESEARCH_USE_ONLY,
        "classes": list(classifier.classes),
        "preprocess": classifier.preprocess.as_dict(),
        "model": classifier.describe(),
    }


def _as_json(facts: dict[str, Any]) -> bytes:
    try:
        return canonical_json(facts)
    except (TypeError, ValueError) as error:
        what = f"the bundle's facts are not plain JSON: {error}"
        raise ModelError("BUNDLE_CONTENT", what, where="provenance") from error


def _check_target(folder: Path) -> None:
    if not os.path.lexists(folder):
        return
    names = set(os.listdir(folder)) if folder.is_dir() and not folder.is_symlink() else None
    if names is not None and (not names or (MANIFEST in names and names <= {MANIFEST, SEEN, *BUNDLE_FILES})):
        return
    raise UsageError(
        "BUNDLE_TARGET",
        "something that is not a bundle is where the bundle should be written; it was left alone",
        where=str(folder),
        fix="choose another folder or move it away",
    )


def _install(contents: dict[str, bytes], partial: Path, folder: Path) -> None:
    partial.mkdir(parents=True)
    for name, data in contents.items():
        write_flushed(partial / name, data)
    write_seal(partial)
    flush_folder(partial)
    open_bundle(partial)
    if folder.exists():
        # a folder cannot replace a full one in one step; the earlier bundle goes only when the new one stands
        earlier = folder.with_name(f".{folder.name}.earlier")
        shutil.rmtree(earlier, ignore_errors=True)
        folder.rename(earlier)
        try:
            partial.rename(folder)
        except OSError:
            earlier.rename(folder)
            raise
        shutil.rmtree(earlier)
    else:
        partial.rename(folder)
    flush_folder(folder.parent)


def _write_error(error: OSError, folder: Path, *, needed: int) -> Exception:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UsageError("BUNDLE_TARGET", f"cannot write the bundle: {error.strerror}", where=str(folder))
    existing = next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(existing).free
    return ResourceError(
        "DISK_FULL",
        f"the bundle needs {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free",
        where=str(folder),
        fix="free some space; the earlier bundle, if any, is untouched",
    )


def open_bundle(folder: Path, *, check: Literal["full", "hash"] = "full") -> Bundle:
    """Open a bundle after checking that it is whole and still computes what it computed.

    Args:
        folder: the bundle, or the run folder that holds one as ``bundle/``.
        check: ``full`` also runs the golden inputs; ``hash`` does everything else.

    Returns:
        The bundle, its classifier on the CPU in eval mode.

    Raises:
        ModelError: the file concerned is named; codes as in `medgraft.inference.seal.check_seal`, and
            ``BUNDLE_NOT_FOUND``, ``MODEL_UNSAFE_FORMAT``, ``MODEL_CORRUPT``, ``MODEL_INVALID``, ``BUNDLE_GOLDEN``.
    """
    folder = _find(Path(folder))
    try:
        bundle_id = check_seal(folder)
        facts = _read_facts(folder / "bundle.json")
        state = load_tensors(folder / "weights.safetensors")
        golden = load_arrays(folder / "golden.safetensors")
        seen = load_arrays(folder / SEEN) if (folder / SEEN).exists() else None
    except OSError as error:
        where = str(error.filename or folder)
        raise ModelError("BUNDLE_UNREADABLE", f"cannot read the bundle: {error.strerror}", where=where) from error
    except SafetensorError as error:
        raise ModelError("MODEL_CORRUPT", f"not a whole safetensors file: {error}", where=str(folder)) from error
    imprint = _remembered(facts, seen, folder)
    bundle = _assemble(folder, bundle_id, facts, state, golden, imprint)
    if check == "full":
        path = folder / "golden.safetensors"
        check_golden(bundle.classifier, bundle.golden_pixels, bundle.golden_logits, samples=bundle.samples, path=path)
    return bundle


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle or a run folder that holds one, by the names in it; nothing is checked."""
    return any((place / "bundle.json").is_file() for place in (folder, folder / "bundle"))


def bundle_id(folder: Path) -> str:
    """The id of a bundle that was opened before: the sha256 of its manifest."""
    return sha256_of(_find(folder) / MANIFEST)


def _find(folder: Path) -> Path:
    if folder.is_dir():
        nested = folder / "bundle"
        return nested if nested.is_dir() and not (folder / MANIFEST).exists() else folder
    where, fix = str(folder), "give the bundle or run folder"
    if not folder.exists():
        raise ModelError("BUNDLE_NOT_FOUND", "there is no such bundle", where=where, fix=fix)
    if folder.suffix.lower() in _PICKLES:
        raise ModelError(
            "MODEL_UNSAFE_FORMAT",
            f"{folder.name} may hold a pickle, which can run code when opened; medgraft never opens one",
            where=where,
            fix="give the bundle folder of a medgraft run",
        )
    raise ModelError("BUNDLE_NOT_BUNDLE", "a bundle is a folder, this is a file", where=where, fix=fix)


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError("MODEL_CORRUPT", f"{path.name} is not JSON: {error}", where=str(path)) from error
    if not isinstance(facts, dict):
        raise ModelError("MODEL_INVALID", f"{path.name} is not a JSON object", where=str(path))
    check_format(facts, path)
    return facts


def _assemble(
    folder: Path,
    bundle_id: str,
    facts: dict[str, Any],
    state: dict[str, Tensor],
    golden: Arrays,
    imprint: Imprint | None,
) -> Bundle:
    where = folder / "bundle.json"
    try:
        classifier = Classifier.from_description(dict(facts["model"]))
        operating_point = OperatingPoint.from_dict(facts["operating_point"])
        rules = DataConfig(**{name: facts["reading"][name] for name in _READING})
        temperature, samples = float(facts["temperature"]), int(facts["samples"])
        same = tuple(facts["classes"]) == classifier.classes
        same = same and Preprocess.from_dict(facts["preprocess"]) == classifier.preprocess
        provenance = dict(facts["provenance"])
        conformal = None if facts.get("conformal") is None else Conformal.from_dict(facts["conformal"])
        same = same and (conformal is None or conformal.classes == classifier.classes)
    except (KeyError, TypeError, ValueError, ValidationError, MedgraftError) as error:
        what = f"bundle.json does not describe a classifier: {_reason(error)}"
        raise ModelError("MODEL_INVALID", what, where=str(where)) from error
    operating_point.predict(np.full((1, len(classifier.classes)), 1 / len(classifier.classes)), classifier.classes)
    if not same:
        what = "classes, preprocessing or prediction sets are not those of the network"
        raise ModelError("MODEL_INVALID", what, where=str(where))
    if not (np.isfinite(temperature) and temperature > 0 and 1 <= samples <= 1024):
        what = f"temperature {temperature} must be positive and samples {samples} in 1..1024"
        raise ModelError("MODEL_INVALID", what, where=str(where))
    _load(classifier, state, folder / "weights.safetensors")
    pixels, logits = golden_arrays(classifier, golden, folder / "golden.safetensors")
    classifier.eval()
    return Bundle(
        folder, bundle_id, classifier, operating_point, temperature, rules, samples, provenance, pixels, logits,
        conformal, imprint,
    )  # fmt: skip


def _remembered(facts: dict[str, Any], arrays: Arrays | None, folder: Path) -> Imprint | None:
    """What the bundle remembers of its training images.

    Raises:
        ModelError: ``MODEL_INVALID`` when bundle.json does not announce exactly that.
    """
    announced = facts.get("seen")
    try:
        imprint = None if arrays is None else Imprint.from_arrays(arrays)
    except ValueError as error:
        what = f"{SEEN} does not hold what is remembered of training images: {error}"
        raise ModelError("MODEL_INVALID", what, where=str(folder / SEEN)) from error
    if announced != _counted(imprint):
        what = f"bundle.json announces {json.dumps(announced)} and {SEEN} holds {json.dumps(_counted(imprint))}"
        raise ModelError("MODEL_INVALID", what, where=str(folder / SEEN))
    return imprint


def _counted(imprint: Imprint | None) -> dict[str, int] | None:
    """Different pictures that are known again by their pixels, and by what they show."""
    return None if imprint is None else {"exact": len(imprint.exact), "near": len(imprint.near)}


def _reason(error: Exception) -> str:
    return error.problem.what if isinstance(error, MedgraftError) else f"{type(error).__name__}: {error}"


def _load(classifier: Classifier, state: dict[str, Tensor], path: Path) -> None:
    expected = classifier.state_dict()
    problems = [Problem("MODEL_INVALID", f"tensor {name!r} is missing") for name in expected if name not in state]
    problems += [
        Problem("MODEL_INVALID", f"tensor {name!r} is not in the network") for name in state if name not in expected
    ]
    for name, tensor in state.items():
        want = expected.get(name)
        if want is None:
            continue
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            got, need = (f"{tuple(t.shape)} {t.dtype}".replace("torch.", "") for t in (tensor, want))
            problems.append(Problem("MODEL_INVALID", f"tensor {name!r} is {got}, the network needs {need}"))
        elif tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            problems.append(Problem("MODEL_INVALID", f"tensor {name!r} holds NaN or infinity"))
    if problems:
        what = f"{path.name} does not fit the network in {len(problems)} tensors; first {problems[0].what}"
        raise ModelError("MODEL_INVALID", what, where=str(path), problems=problems[:5])
    classifier.load_state_dict(state)
