"""What is written is what is opened, and nothing else is."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from medgraft.data.fingerprint import fingerprints
from medgraft.data.imprint import Imprint, take_imprint
from medgraft.errors import ModelError, ResourceError, UsageError
from medgraft.evaluation.conformal import Conformal
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.inference import bundle as bundle_module
from medgraft.inference.bundle import open_bundle, write_bundle
from medgraft.inference.forward import forward_logits
from medgraft.inference.golden import golden_patterns
from medgraft.inference.seal import SEEN, canonical_json, check_seal, write_seal
from medgraft.models.classifier import Classifier
from medgraft.types import RESEARCH_USE_ONLY, IntArray, PixelArray

Make = Callable[..., Classifier]
CLASSES = ("glioma", "meningioma", "none")
SETS = Conformal(0.9, 0.3, 20, "image", 20, CLASSES).as_dict()


def _refused(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        open_bundle(folder)
    return caught.value


def _edit_facts(folder: Path, **changes: Any) -> None:
    """Edit bundle.json and seal again, as an attacker or a bug could."""
    facts = json.loads((folder / "bundle.json").read_bytes())
    (folder / "bundle.json").write_bytes(canonical_json({**facts, **changes}))
    write_seal(folder)


def _edit_weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    state = load_file(folder / "weights.safetensors")
    change(state)
    save_file(state, folder / "weights.safetensors")
    write_seal(folder)


def test_round_trip_keeps_weights_and_settings(pristine: Path, make_classifier: Make) -> None:
    bundle = open_bundle(pristine)
    original = make_classifier()
    assert bundle.classes == original.classes and bundle.preprocess == original.preprocess
    assert bundle.temperature == 1.7 and bundle.samples == 1 and bundle.operating_point.rule == "argmax"
    assert bundle.rules.background == 255 and bundle.rules.sixteen_bit == "full"
    assert bundle.provenance["n_train"] == 10
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, bundle.classifier.state_dict()[name]), name
    pixels = golden_patterns((64, 64))
    np.testing.assert_array_equal(
        forward_logits(original, pixels, samples=1), forward_logits(bundle.classifier, pixels, samples=1)
    )
    assert bundle.id == check_seal(pristine)
    assert not bundle.classifier.training


def test_the_default_backbone_and_a_wide_head_round_trip(
    tmp_path: Path, make_classifier: Make, argmax: OperatingPoint
) -> None:
    original = make_classifier(backbone="efficientnet-lite0", pool_size="none", head=("dense 5", "batch_norm", "relu"))
    write_bundle(tmp_path / "b", original, operating_point=argmax, temperature=1.0, provenance={})
    bundle = open_bundle(tmp_path / "b")
    pixels = golden_patterns((64, 64))
    expected = forward_logits(original, pixels, samples=1)
    np.testing.assert_allclose(forward_logits(bundle.classifier, pixels, samples=1), expected, atol=1e-5)


def test_an_operating_point_of_other_classes_is_not_written(
    tmp_path: Path, make_classifier: Make, argmax: OperatingPoint
) -> None:
    with pytest.raises(ModelError) as caught:
        write_bundle(
            tmp_path / "b",
            make_classifier(classes=("a", "b")),
            operating_point=argmax,
            temperature=1.0,
            provenance={},
        )
    assert caught.value.code == "OPERATING_POINT_MISMATCH" and not list(tmp_path.iterdir())


def test_a_run_folder_stands_for_its_bundle(pristine: Path) -> None:
    assert open_bundle(pristine.parent, check="hash").folder == pristine


def test_the_card_names_classes_and_notice(pristine: Path) -> None:
    text = (pristine / "README.md").read_text()
    assert RESEARCH_USE_ONLY in text and "meningioma" in text and "n\\_train" in text


def test_prediction_sets_travel_and_the_card_says_what_they_mean(
    tmp_path: Path, make_classifier: Make, argmax: OperatingPoint
) -> None:
    conformal = Conformal(0.9, 0.1 + 0.2, 31, "patient", 77, ("gli|oma", "none"))
    write_bundle(
        tmp_path / "b",
        make_classifier(classes=conformal.classes),
        operating_point=OperatingPoint("youden", "gli|oma", 0.25),
        temperature=1.0,
        provenance={},
        conformal=conformal,
    )
    assert open_bundle(tmp_path / "b", check="hash").conformal == conformal
    card = " ".join((tmp_path / "b" / "README.md").read_text().split())
    assert "Asked coverage: 0.9" in card and "random image of a new patient" in card and "31 of validation" in card
    assert "probability of gli\\|oma from 0.250 and up to 0.700" in card and "with `--tta`" in card
    assert "remembers none of its training images" in card
    few = Conformal(0.99, 0.0, 31, "patient", 77, CLASSES)
    write_bundle(
        tmp_path / "b", make_classifier(), operating_point=argmax, temperature=1.0, provenance={}, conformal=few
    )
    assert "31 validation patients are too few" in (tmp_path / "b" / "README.md").read_text()
    with pytest.raises(ModelError) as caught:
        write_bundle(
            tmp_path / "b", make_classifier(), operating_point=argmax, temperature=1.0, provenance={},
            conformal=conformal,
        )  # fmt: skip
    assert caught.value.code == "MODEL_INVALID" and "prediction sets" in str(caught.value)
    assert open_bundle(tmp_path / "b", check="hash").conformal == few


@pytest.fixture
def imprint() -> Imprint:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3)).astype(np.uint8)
    pixels = pixels.repeat(16, axis=1).repeat(16, axis=2)
    return take_imprint(fingerprints(Rows(pixels)), [f"hash{i}" for i in range(5)] + ["hash0"])


class Rows:
    def __init__(self, pixels: PixelArray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: IntArray) -> PixelArray:
        return self.pixels[indices]


@pytest.fixture
def remembering(tmp_path: Path, make_classifier: Make, argmax: OperatingPoint, imprint: Imprint) -> Path:
    folder = tmp_path / "remembering"
    write_bundle(
        folder, make_classifier(), operating_point=argmax, temperature=1.0, provenance={}, imprint=imprint
    )  # fmt: skip
    return folder


def test_a_bundle_remembers_its_training_images(remembering: Path, imprint: Imprint) -> None:
    found = open_bundle(remembering, check="hash").imprint
    assert found is not None and found.salt == imprint.salt
    for name, array in imprint.as_arrays().items():
        np.testing.assert_array_equal(found.as_arrays()[name], array)
    card = " ".join((remembering / "README.md").read_text().split())
    assert "remembers 5 images of the training run by hashes of their pixels" in card
    assert json.loads((remembering / "bundle.json").read_bytes())["seen"] == {"exact": 5, "near": 6}


def test_a_bundle_that_remembers_is_replaced_by_one_that_does_not(
    remembering: Path, make_classifier: Make, argmax: OperatingPoint
) -> None:
    write_bundle(remembering, make_classifier(), operating_point=argmax, temperature=1.0, provenance={})
    assert open_bundle(remembering, check="hash").imprint is None and not (remembering / SEEN).exists()


def test_flips_in_what_is_remembered_are_refused(remembering: Path) -> None:
    path = remembering / SEEN
    data = path.read_bytes()
    for position in np.linspace(0, len(data) - 1, 40).astype(int):
        changed = bytearray(data)
        changed[position] ^= 1 << int(position % 8)
        path.write_bytes(bytes(changed))
        error = _refused(remembering)
        assert error.code == "MODEL_HASH_MISMATCH" and SEEN in str(error)
    path.write_bytes(data[:-1])
    assert _refused(remembering).code == "MODEL_TRUNCATED"
    path.unlink()
    error = _refused(remembering)
    assert error.code == "BUNDLE_FILE_MISSING" and SEEN in str(error)


def test_a_memory_that_cannot_be_is_refused_though_sealed_again(remembering: Path, bundle_copy: Path) -> None:
    arrays = load_file(remembering / SEEN)
    for changes in (
        {"exact": arrays["exact"].astype(np.float32)},
        {"exact": arrays["exact"][:3]},  # not as many as announced
        {"salt": arrays["salt"][:4]},
        {"surplus": np.zeros(3, dtype=np.uint8)},
    ):
        save_file({name: np.ascontiguousarray(array) for name, array in {**arrays, **changes}.items()},
                  remembering / SEEN)  # fmt: skip
        write_seal(remembering)
        error = _refused(remembering)
        assert error.code == "MODEL_INVALID" and SEEN in str(error)
    (remembering / SEEN).write_bytes(b"\x80\x04cos\nsystem\n")
    write_seal(remembering)
    assert _refused(remembering).code == "MODEL_CORRUPT"
    (remembering / SEEN).unlink()
    write_seal(remembering)
    error = _refused(remembering)
    assert error.code == "MODEL_INVALID" and "holds null" in str(error)
    save_file(arrays, bundle_copy / SEEN)
    write_seal(bundle_copy)
    error = _refused(bundle_copy)
    assert error.code == "MODEL_INVALID" and "announces null" in str(error)


def test_a_bundle_without_prediction_sets_has_none(pristine: Path) -> None:
    assert open_bundle(pristine, check="hash").conformal is None
    assert "Prediction sets" not in (pristine / "README.md").read_text()


def test_opening_leaves_random_state_alone(pristine: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    open_bundle(pristine)
    assert torch.equal(torch.rand(3), expected)


def test_one_flipped_bit_in_the_weights_is_refused(bundle_copy: Path) -> None:
    with (bundle_copy / "weights.safetensors").open("r+b") as file:
        file.seek(-5, 2)
        byte = file.read(1)[0]
        file.seek(-5, 2)
        file.write(bytes([byte ^ 1]))
    error = _refused(bundle_copy.parent)
    assert error.code == "MODEL_HASH_MISMATCH" and "weights.safetensors" in str(error)


def test_swapped_classes_in_valid_json_are_refused(bundle_copy: Path) -> None:
    path = bundle_copy / "bundle.json"
    path.write_text(path.read_text().replace("glioma", "XXXXXX"))
    assert _refused(bundle_copy).code == "MODEL_HASH_MISMATCH"


def test_sealed_again_with_other_weights_the_golden_answers_tell(bundle_copy: Path) -> None:
    def scale(state: dict[str, Any]) -> None:
        name = next(name for name, value in state.items() if name.startswith("head") and value.ndim == 2)
        state[name] = state[name] + 0.1 * np.arange(len(state[name]), dtype=np.float32)[:, None]

    _edit_weights(bundle_copy, scale)
    assert _refused(bundle_copy).code == "BUNDLE_GOLDEN"
    open_bundle(bundle_copy, check="hash")


@pytest.mark.parametrize("kind", ["nan", "missing", "extra", "dtype", "shape"])
def test_weights_that_do_not_fit_are_named(bundle_copy: Path, kind: str) -> None:
    names: list[str] = []

    def change(state: dict[str, Any]) -> None:
        name = next(name for name, value in state.items() if value.ndim == 4)
        names.append("surplus" if kind == "extra" else name)
        if kind == "nan":
            state[name].flat[0] = np.nan
        elif kind == "missing":
            del state[name]
        elif kind == "extra":
            state["surplus"] = np.zeros(3, dtype=np.float32)
        elif kind == "dtype":
            state[name] = state[name].astype(np.float64)
        else:
            state[name] = np.ascontiguousarray(state[name][:1])

    _edit_weights(bundle_copy, change)
    error = _refused(bundle_copy)
    assert error.code == "MODEL_INVALID" and names[0] in str(error) and "weights.safetensors" in str(error)


@pytest.mark.parametrize("data", [b"\x80\x04cos\nsystem\n", (2**40).to_bytes(8, "little") + b"{}", b"<!DOCTYPE html>"])
def test_files_that_are_no_safetensors_are_corrupt(bundle_copy: Path, data: bytes) -> None:
    (bundle_copy / "weights.safetensors").write_bytes(data)
    write_seal(bundle_copy)
    assert _refused(bundle_copy).code == "MODEL_CORRUPT"


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ["glioma", "meningioma"]},
        {"temperature": 0.0},
        {"temperature": "hot"},
        {"samples": 10**9},
        {"model": {}},
        {"model": None},
        {"operating_point": {}},
        {"reading": {"sixteen_bit": "guess"}},
        {"conformal": {}},
        {"conformal": "wide"},
        {"conformal": {**SETS, "threshold": 2.0}},
        {"conformal": {**SETS, "n_units": 1}},
        {"conformal": {**SETS, "classes": ["glioma", "none", "meningioma"]}},
    ],
)
def test_facts_that_describe_no_classifier_are_refused(bundle_copy: Path, changes: dict[str, Any]) -> None:
    _edit_facts(bundle_copy, **changes)
    error = _refused(bundle_copy)
    assert error.code == "MODEL_INVALID" and "bundle.json" in str(error)


def test_a_newer_version_in_the_facts_is_named(bundle_copy: Path) -> None:
    _edit_facts(bundle_copy, format_version=7)
    assert _refused(bundle_copy).code == "BUNDLE_FORMAT"


def test_golden_file_of_another_network_is_refused(bundle_copy: Path) -> None:
    save_file({"pixels": golden_patterns((32, 32))}, bundle_copy / "golden.safetensors")
    write_seal(bundle_copy)
    assert _refused(bundle_copy).code == "MODEL_INVALID"


def test_what_is_not_a_bundle_is_said(tmp_path: Path) -> None:
    assert _refused(tmp_path / "nowhere").code == "BUNDLE_NOT_FOUND"
    assert _refused(tmp_path).code == "BUNDLE_NOT_BUNDLE"
    (tmp_path / "model.pt").write_bytes(b"x")
    (tmp_path / "model.tar.gz").write_bytes(b"x")
    assert _refused(tmp_path / "model.pt").code == "MODEL_UNSAFE_FORMAT"
    assert _refused(tmp_path / "model.tar.gz").code == "BUNDLE_NOT_BUNDLE"


def test_only_a_bundle_is_replaced(bundle_copy: Path, make_classifier: Make, argmax: OperatingPoint) -> None:
    classifier = make_classifier()

    def write(folder: Path) -> None:
        write_bundle(folder, classifier, operating_point=argmax, temperature=1.0, provenance={})

    write(bundle_copy)
    assert open_bundle(bundle_copy, check="hash").temperature == 1.0
    (bundle_copy / "notes.txt").write_text("mine")
    with pytest.raises(UsageError) as caught:
        write(bundle_copy)
    assert caught.value.code == "BUNDLE_TARGET" and (bundle_copy / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError):
        write(bundle_copy / "notes.txt")
    assert [entry.name for entry in bundle_copy.parent.iterdir()] == ["bundle"]


def test_a_full_disk_leaves_the_earlier_bundle(
    bundle_copy: Path, make_classifier: Make, argmax: OperatingPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = check_seal(bundle_copy)

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle_module, "write_flushed", full)
    with pytest.raises(ResourceError) as caught:
        write_bundle(bundle_copy, make_classifier(), operating_point=argmax, temperature=1.0, provenance={})
    assert caught.value.exit_code == 6 and "MB" in str(caught.value)
    assert check_seal(bundle_copy) == before
    assert [entry.name for entry in bundle_copy.parent.iterdir()] == ["bundle"]


def test_weights_that_are_not_finite_are_not_written(
    tmp_path: Path, make_classifier: Make, argmax: OperatingPoint
) -> None:
    classifier = make_classifier()
    with torch.no_grad():
        next(classifier.backbone.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError) as caught:
        write_bundle(tmp_path / "b", classifier, operating_point=argmax, temperature=1.0, provenance={})
    assert caught.value.code == "NONFINITE_OUTPUT"
    assert not list(tmp_path.iterdir())


def test_provenance_must_be_plain_json(tmp_path: Path, make_classifier: Make, argmax: OperatingPoint) -> None:
    for value in (float("nan"), Path("x"), Tensor()):
        with pytest.raises(ModelError) as caught:
            write_bundle(
                tmp_path / "b", make_classifier(), operating_point=argmax, temperature=1.0, provenance={"x": value}
            )
        assert caught.value.code == "BUNDLE_CONTENT"
