"""The whole model: raw pixels only, descriptions, seeds; and the embedded weights on real photographs."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from medgraft.config import ModelConfig
from medgraft.errors import ModelError, UsageError
from medgraft.models.catalogue import find_backbone
from medgraft.models.classifier import Classifier, build_classifier
from medgraft.models.network import build_network
from medgraft.models.weights import load_state, resolve_weights

SIZE = 64


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return build_classifier(ModelConfig(size=SIZE, head=("dropout 0.2", "dense 8", "relu")), ("a", "b", "c"), seed=3)


def pixels(n: int = 2) -> Tensor:
    return torch.randint(0, 256, (n, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_raw_pixels_give_logits(classifier: Classifier) -> None:
    logits = classifier(pixels())
    assert logits.shape == (2, 3) and logits.dtype == torch.float32
    assert torch.equal(classifier.classify(classifier.features(pixels().float())), logits)


@pytest.mark.parametrize(
    ("prepare", "cause"),
    [
        (lambda x: x / 255, "scaled to 0..1"),
        (lambda x: x / 127.5 - 1, "scaled to -1..1"),
        (lambda x: (x / 255 - 0.45) / 0.22, "mean and standard deviation"),
        (lambda x: x.float(), "converted to float32"),
        (lambda x: x.half(), "converted to float16"),
        (lambda x: x.long(), "converted to int64"),
        (lambda x: x > 0, "type bool"),
        (lambda x: x / 0.0, "not finite"),
    ],
)
def test_prepared_pixels_are_refused(classifier: Classifier, prepare: object, cause: str) -> None:
    with pytest.raises(ModelError) as caught:
        classifier(prepare(pixels()))  # type: ignore[operator]
    assert caught.value.code == "PIXELS_NOT_RAW" and cause in str(caught.value)


def test_normalized_twice_is_refused_in_training_too(classifier: Classifier) -> None:
    for prepared in (pixels() / 255, pixels() / 127.5 - 1, classifier.normalize(pixels()), pixels() * 2.0):
        with pytest.raises(ModelError, match="PIXELS_NOT_RAW"):
            classifier.features(prepared)
    nearly_black = torch.zeros(2, 3, SIZE, SIZE)
    nearly_black[0, 0, 0, 0] = 1.0
    assert classifier.features(nearly_black).isfinite().all()


@torch.no_grad()
def test_description_round_trip_through_json(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medgraft.models.backbone.resolve_weights", None)  # nothing may look for weights
    before = torch.random.get_rng_state()
    again = Classifier.from_description(json.loads(json.dumps(classifier.describe())))
    assert torch.equal(before, torch.random.get_rng_state())
    again.load_state_dict(classifier.state_dict())
    assert torch.equal(again(pixels()), classifier(pixels()))
    assert again.describe() == classifier.describe()
    assert again.preprocess == classifier.preprocess and again.classes == ("a", "b", "c")


@pytest.mark.parametrize("damage", [{"version": 99}, {"version": 1, "classes": []}, {"head": {"pool": "sum"}}])
def test_damaged_descriptions(classifier: Classifier, damage: dict[str, object]) -> None:
    description = classifier.describe() | damage
    if damage == {"version": 1, "classes": []}:
        del description["backbone"]
    with pytest.raises(ModelError, match="MODEL_INVALID"):
        Classifier.from_description(description)


def test_state_dict_names(classifier: Classifier) -> None:
    names = list(classifier.state_dict())
    assert names[0] == "backbone.net.conv_stem.weight" and names[-1] == "head.output.bias"
    assert not any("classifier" in name or "normalize" in name for name in names)


def test_seed_decides_the_head_and_leaves_the_global_state(classifier: Classifier) -> None:
    before = torch.random.get_rng_state()
    config = classifier.config
    same, other = (build_classifier(config, ("a", "b", "c"), seed=seed) for seed in (3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(same.head.output.weight, classifier.head.output.weight)
    assert not torch.equal(other.head.output.weight, classifier.head.output.weight)
    assert torch.equal(other.backbone.net.conv_stem.weight, classifier.backbone.net.conv_stem.weight)


@torch.no_grad()
def test_sigmoid_is_two_columns() -> None:
    model = build_classifier(ModelConfig(size=SIZE, output="sigmoid", head=()), ("normal", "ill"), seed=0)
    logits = model(pixels())
    assert logits.shape == (2, 2) and (logits[:, 0] == 0).all()
    torch.testing.assert_close(logits.softmax(1)[:, 1], model.head(model.features(pixels())).sigmoid()[:, 0])


@pytest.mark.parametrize(
    ("config", "classes", "code"),
    [
        ({"output": "sigmoid"}, ("a", "b", "c"), "HEAD_SIGMOID"),
        ({}, ("a",), "CLASSES_INVALID"),
        ({}, ("a", "a"), "CLASSES_INVALID"),
    ],
)
def test_what_does_not_go_together(config: dict[str, str], classes: tuple[str, ...], code: str) -> None:
    with pytest.raises(UsageError, match=code):
        build_classifier(ModelConfig(size=SIZE, **config), classes, seed=0)  # type: ignore[arg-type]


@torch.no_grad()
def test_a_copy_keeps_its_chain(classifier: Classifier) -> None:
    classifier.backbone.stages()
    copied = copy.deepcopy(classifier)
    copied.backbone.net.conv_stem.weight.zero_()
    first = copied.backbone.stages()[0][1]
    assert any(parameter is copied.backbone.net.conv_stem.weight for parameter in first.parameters())
    assert classifier.backbone.net.conv_stem.weight.abs().sum() > 0


@torch.no_grad()
def test_embedded_weights_classify_photographs(shared_data: Path) -> None:
    """The full network, fed as the classifier feeds it, is right on 22 of 25 ImageNet samples."""
    spec = find_backbone("efficientnet-lite0")
    net = build_network(spec).eval()
    load_state(net, resolve_weights(spec, "auto"), spec)
    normalize = build_classifier(ModelConfig(), ("a", "b"), seed=0).normalize
    files = sorted((shared_data / "imagenet-samples").glob("*.jpg"))
    batch = normalize(torch.from_numpy(np.stack([_crop(file) for file in files])).permute(0, 3, 1, 2))
    truth = torch.tensor([int(file.stem[-3:]) for file in files])
    assert len(files) == 25
    assert int((net(batch).argmax(1) == truth).sum()) == 22


def _crop(file: Path) -> np.ndarray:
    image = Image.open(file).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224)))
