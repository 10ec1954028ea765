"""Weights: where they are looked for, what is refused, what the refusals say."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from medgraft.errors import ModelError, UsageError
from medgraft.models import hub, weights
from medgraft.models.backbone import create_backbone
from medgraft.models.catalogue import find_backbone
from medgraft.models.network import build_network
from medgraft.models.weights import list_weights, pull, resolve_weights, verify

SPEC = find_backbone("test_resnet.r160_in1k")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cache, and a socket is a failure."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv(hub.WEIGHTS_FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(weights, "in_hub_cache", lambda spec: None)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_network(SPEC).state_dict()


@pytest.fixture
def good(state: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / f"{SPEC.weights_name}.safetensors"
    save_file(state, path)
    return path


def test_embedded_needs_nothing() -> None:
    source = resolve_weights(find_backbone("efficientnet-lite0"), "auto")
    assert source.kind == "embedded" and source.sha256 == weights.EMBEDDED_SHA256


def test_changed_embedded_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "EMBEDDED_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="MODEL_HASH_MISMATCH"):
        create_backbone("efficientnet-lite0")


def test_none_is_random() -> None:
    assert resolve_weights(SPEC, "none").path is None


def test_nothing_found_names_every_way_out() -> None:
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        resolve_weights(find_backbone("ResNet50"), "auto")
    assert time.monotonic() - start < 1
    assert caught.value.code == "WEIGHTS_UNREACHABLE" and caught.value.exit_code == 4
    for way in ("--weights FILE", "weights pull resnet50 --to DIR", "MEDGRAFT_WEIGHTS=DIR", "--weights none"):
        assert way in str(caught.value)
    assert "--backbone efficientnet-lite0" in str(caught.value)


def test_explicit_file_loads_exactly(good: Path, state: dict[str, Tensor]) -> None:
    backbone = create_backbone(SPEC.weights_name, weights=str(good))
    assert backbone.weights.kind == "file" and backbone.weights.sha256
    assert torch.equal(backbone.net.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])


def test_folder_of_weights_is_used_by_auto(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hub.WEIGHTS_FOLDER_VARIABLE, str(good.parent))
    assert resolve_weights(SPEC, "auto").kind == "cache"
    good.with_name(f"{good.name}.sha256").write_text("0" * 64 + "  name\n")
    with pytest.raises(ModelError, match="MODEL_HASH_MISMATCH"):
        create_backbone(SPEC, weights="auto")


def test_another_classifier_does_not_matter(good: Path, state: dict[str, Tensor]) -> None:
    without = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    save_file(without | {"fc.weight": torch.zeros(3, 128)}, good)
    assert verify(str(good)).kind == "file"


def _nan(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"conv1.0.weight": state["conv1.0.weight"] * torch.nan}


def _lacking(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if "layer2" not in name}


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (_nan, "MODEL_INVALID", "conv1.0.weight"),
        (_lacking, "MODEL_ARCHITECTURE", "lacks layer2.0.conv1.weight"),
        (lambda s: s | {"extra.weight": torch.zeros(2)}, "MODEL_ARCHITECTURE", "has extra.weight"),
        (
            lambda s: s | {"bn1.weight": torch.zeros(7)},
            "MODEL_ARCHITECTURE",
            r"bn1.weight is \(7,\), the network needs",
        ),
        (lambda s: s | {"bn1.weight": s["bn1.weight"].int()}, "MODEL_ARCHITECTURE", "wrong kind of number"),
    ],
)
def test_wrong_contents(
    good: Path, state: dict[str, Tensor], change: Callable[..., dict[str, Tensor]], code: str, words: str
) -> None:
    save_file(change(state), good)
    with pytest.raises(ModelError, match=words) as caught:
        create_backbone(SPEC, weights=str(good))
    assert caught.value.code == code and str(good) in str(caught.value)
    assert str(caught.value).count(";") < 12  # 5 differences, not hundreds


def _write(content: bytes) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(content), None)[1]


def _header(path: Path, change: Callable[[dict[str, dict[str, object]]], str]) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    text = change(json.loads(raw[8 : 8 + length])).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def _lying_shape(path: Path) -> None:
    _header(path, lambda header: json.dumps({k: v | {"shape": [999999]} for k, v in header.items()}))


def _twice(path: Path) -> None:
    _header(path, lambda header: (text := json.dumps(header))[:-1] + ", " + text[1:])


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"\x80\x04cos\nsystem\n")


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_write(b""), "MODEL_EMPTY"),
        (_write(b"<!DOCTYPE html><html>404</html>"), "MODEL_NOT_MODEL"),
        (_write(b"\x80\x04\x95cos\nsystem\n(S'touch canary'\ntR."), "MODEL_CORRUPT"),
        (_zip, "MODEL_CORRUPT"),
        (_write((2**40).to_bytes(8, "little") + b"{}"), "MODEL_CORRUPT"),
        (_write(b"abc"), "MODEL_CORRUPT"),
        (_write((2).to_bytes(8, "little") + b"[]"), "MODEL_CORRUPT"),
        (_write((90000).to_bytes(8, "little") + b"[" * 90000), "MODEL_CORRUPT"),
        (lambda path: _write(path.read_bytes()[:-100])(path), "MODEL_CORRUPT"),
        (lambda path: _write(path.read_bytes() + b"x")(path), "MODEL_CORRUPT"),
        (_lying_shape, "MODEL_CORRUPT"),
        (_twice, "MODEL_INVALID"),
    ],
)
def test_damaged_files(good: Path, damage: Callable[[Path], None], code: str) -> None:
    damage(good)
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        resolve_weights(SPEC, str(good))
    assert caught.value.code == code and str(good) in str(caught.value) and caught.value.problem.fix
    assert "weights_only" not in str(caught.value)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pkl", ".h5", ".onnx"])
def test_unsafe_formats_are_not_opened(good: Path, suffix: str) -> None:
    path = good.rename(good.with_suffix(suffix))
    with pytest.raises(ModelError, match="MODEL_UNSAFE_FORMAT"):
        resolve_weights(SPEC, str(path))


def test_missing_file_and_nonsense(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="MODEL_MISSING"):
        resolve_weights(SPEC, str(tmp_path / "none.safetensors"))
    with pytest.raises(UsageError, match="WEIGHTS_UNKNOWN"):
        resolve_weights(SPEC, "imagenet")


def test_list_shows_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vgg16.tv_in1k.safetensors").touch()
    monkeypatch.setenv(hub.WEIGHTS_FOLDER_VARIABLE, str(tmp_path))
    where = {row.name: row.where for row in list_weights()}
    assert where["efficientnet-lite0"] == "embedded" and where["vgg16"] == "cached" and where["resnet50"] == "hub"
    assert next(row for row in list_weights() if row.name == "xception").keras_names == ("Xception",)


def test_verify_by_name_and_wrong_stem(good: Path) -> None:
    assert verify("efficientnet-lite0").kind == "embedded"
    odd = good.rename(good.with_name("my weights.safetensors"))
    with pytest.raises(UsageError, match="MODEL_UNKNOWN"):
        verify(str(odd))
    assert verify(str(odd), backbone=SPEC.weights_name).kind == "file"
    with pytest.raises(ModelError, match="MODEL_MISSING"):
        verify(str(good.with_name("gone.safetensors")))


def test_pull_writes_a_folder_that_auto_takes(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "download", lambda spec: good)
    target = pull(SPEC, to=tmp_path / "carry")
    assert sorted(path.name for path in target.parent.iterdir()) == [target.name, f"{target.name}.sha256"]
    moved = shutil.copytree(target.parent, tmp_path / "other machine")
    monkeypatch.setenv(hub.WEIGHTS_FOLDER_VARIABLE, str(moved))
    assert create_backbone(SPEC).weights.kind == "cache"


def test_pull_refuses_weights_of_another_network(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "download", lambda spec: good)
    with pytest.raises(ModelError, match="MODEL_ARCHITECTURE"):
        pull(find_backbone("test_convnext"), to=tmp_path / "carry")
    assert not (tmp_path / "carry").exists()


def test_hub_gives_up_after_three_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(url: str, *, timeout: float) -> None:
        calls.append(timeout)
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "get_hf_file_metadata", fail)
    monkeypatch.setattr(hub, "_PAUSE_S", 0.0)
    with pytest.raises(ModelError, match="no route to host") as caught:
        resolve_weights(SPEC, "hub")
    assert caught.value.code == "WEIGHTS_UNREACHABLE" and len(calls) == hub.ATTEMPTS
    assert hub.ATTEMPTS * hub.TIMEOUT_S < hub.DEADLINE_S < 10


def test_hub_that_hangs_is_left_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def hang(url: str, *, timeout: float) -> None:
        answer.wait()
        raise OSError("too late")

    monkeypatch.setattr(hub, "ATTEMPTS", 1)
    monkeypatch.setattr(hub, "get_hf_file_metadata", hang)
    monkeypatch.setattr(hub, "DEADLINE_S", 0.1)
    with pytest.raises(ModelError, match="no answer"):
        resolve_weights(SPEC, "hub")
    answer.set()


def test_swapped_download_is_removed(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Metadata:
        etag = "0" * 64

    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda url, *, timeout: Metadata)
    monkeypatch.setattr(hub, "hf_hub_download", lambda repo, file, *, etag_timeout: str(good))
    with pytest.raises(ModelError, match="MODEL_HASH_MISMATCH"):
        resolve_weights(SPEC, "hub")
    assert not good.exists()


def test_architecture_without_weights() -> None:
    with pytest.raises(ModelError, match="timm publishes none"):
        resolve_weights(find_backbone("resnetv2_152"), "hub")
