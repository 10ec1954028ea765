"""Weights on the Hugging Face hub, safetensors only. The only module of models that may open a socket."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever HTTP library it uses

from medgraft.errors import ModelError
from medgraft.models.catalogue import BackboneSpec
from medgraft.models.safefile import sha256_of

WEIGHTS_FOLDER_VARIABLE = "MEDGRAFT_WEIGHTS"
FILE = "model.safetensors"
ATTEMPTS = 3
TIMEOUT_S = 2.0
DEADLINE_S = 8.0  # for all attempts to reach the hub; name resolution obeys no timeout of its own
_PAUSE_S = 0.5


def repository(spec: BackboneSpec) -> str:
    """Hub repository of the weights; timm keeps one per architecture and tag."""
    return f"timm/{spec.weights_name}"


def in_hub_cache(spec: BackboneSpec) -> Path | None:
    """The file in the Hugging Face cache, or None; no network."""
    if not spec.weights_tag:
        return None
    found = try_to_load_from_cache(repository(spec), FILE)
    return Path(found) if isinstance(found, str) else None


def download(spec: BackboneSpec) -> Path:
    """Fetch the weights into the Hugging Face cache and compare them with the hub's digest.

    Raises:
        ModelError: WEIGHTS_UNREACHABLE within 10 s when the hub cannot be reached; MODEL_HASH_MISMATCH.
    """
    if not spec.weights_tag:
        raise unreachable(spec, "timm publishes none for this architecture")
    expected = _reach(spec)
    try:
        path = Path(hf_hub_download(repository(spec), FILE, etag_timeout=TIMEOUT_S))
    except (OSError, HTTPError) as error:
        raise unreachable(spec, f"the download failed ({_why(error)})") from error
    if expected is not None and sha256_of(path) != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise ModelError(
            "MODEL_HASH_MISMATCH",
            f"the file from {repository(spec)} is not what the hub announced; it was removed",
            where=str(path),
            fix="try again",
        )
    return path


def unreachable(spec: BackboneSpec, why: str) -> ModelError:
    """The one error for weights that cannot be had, with every way out."""
    return ModelError(
        "WEIGHTS_UNREACHABLE",
        f"no weights for {spec.name} ({spec.weights_name}): {why}",
        where="model.weights",
        fix=(
            "any of: `--weights hub` downloads them here; "
            f"`medgraft weights pull {spec.name} --to DIR` on a connected machine, then copy DIR here and set "
            f"{WEIGHTS_FOLDER_VARIABLE}=DIR; `--weights FILE.safetensors` names a file; "
            "`--backbone efficientnet-lite0` has its weights installed; `--weights none` trains from scratch"
        ),
    )


def _reach(spec: BackboneSpec) -> str | None:
    """The sha256 the hub announces (None if it announces none), in at most ATTEMPTS tries and DEADLINE_S seconds."""
    answers: list[str | None] = []
    failures: list[Exception] = []

    def ask() -> None:
        for attempt in range(ATTEMPTS):
            try:
                etag = get_hf_file_metadata(hf_hub_url(repository(spec), FILE), timeout=TIMEOUT_S).etag or ""
            except (OSError, HTTPError) as error:
                failures.append(error)
                if attempt + 1 < ATTEMPTS:
                    time.sleep(_PAUSE_S)
            else:
                answers.append(etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None)
                return

    worker = threading.Thread(target=ask, daemon=True)
    worker.start()
    worker.join(DEADLINE_S)
    if answers:
        return answers[0]
    why = _why(failures[-1]) if failures else f"no answer in {DEADLINE_S:.0f} s"
    raise unreachable(spec, f"{repository(spec)} could not be reached ({why})")


def _why(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__
