"""Phases one after another: what is frozen is cached where there is room, and nothing is substituted in silence."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from medgraft.config import Config, ModelConfig
from medgraft.data.manifest import Manifest
from medgraft.data.pixels import ingest
from medgraft.errors import UsageError
from medgraft.models.classifier import Classifier, build_classifier
from medgraft.training import phases
from medgraft.training.phases import LabelledPixels, Pool, TrainedModel, train_phases
from medgraft.training.plan import DataFacts, MachineFacts, make_plan
from medgraft.types import EpochRow

if TYPE_CHECKING:
    from conftest import Heard

SIDE = 64
HEAD = {"name": "head", "trains": "head", "epochs": 3, "batch_size": 8, "head_lr": 1e-2, "schedule": "constant"}
TUNE = {"name": "tune", "trains": ["blocks.6", "conv_head", "bn2"], "epochs": 1, "batch_size": 8}
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def data(tmp_path: Path) -> tuple[LabelledPixels, LabelledPixels]:
    """24 training and 8 validation images; class b is brighter on the left."""
    rng = np.random.default_rng(0)
    parts = []
    classifier_preprocess = build(tiny=False).preprocess
    for n in (24, 8):
        labels = [("a", "b")[row % 2] for row in range(n)]
        names = [f"{n}-{row}.png" for row in range(n)]
        for name, label in zip(names, labels, strict=True):
            pixels = rng.normal(100, 20, (SIDE, SIDE))
            pixels[:, : SIDE // 2] += 80 * (label == "b")
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / name)
        columns: dict[str, Any] = {"sample_id": names, "path": names, "label": labels}
        manifest = Manifest.from_columns(columns, root=tmp_path, classes=("a", "b"), patient_source="none")
        parts.append(
            LabelledPixels(manifest, ingest(manifest.image_paths(), classifier_preprocess, Config().data).pixels)
        )
    return parts[0], parts[1]


def build(*, tiny: bool, **model: Any) -> Classifier:
    given = {"backbone": "test_resnet", "weights": "none"} if tiny else {}
    return build_classifier(ModelConfig.model_validate({"size": SIDE, **given, **model}), ("a", "b"), seed=0)


def run(
    classifier: Classifier,
    data: tuple[LabelledPixels, LabelledPixels],
    heard: Heard,
    *given: dict[str, Any],
    **more: Any,
) -> TrainedModel:
    stop: Callable[[], bool] = more.pop("should_stop", lambda: False)
    epochs: list[EpochRow] = []
    training = {"phases": given, "views": 1, "precision": "float32", **more}
    config = Config.model_validate({"training": training, "augment": {"preset": "custom", "horizontal_flip": True}})
    counts = {"a": {"train": 12}, "b": {"train": 12}}
    machine = MachineFacts("cpu", "no GPU found", True, 1, 10**12, (), 0)
    plan = make_plan(config, DataFacts(counts, False, SIDE, True, ()), machine)
    result = train_phases(
        classifier,
        plan,
        *data,
        config=config,
        progress=heard,
        should_stop=stop,
        on_epochs=lambda rows: epochs.extend(rows[-1:]),
    )
    assert epochs == result.rows
    return result


def test_two_phases_learn_and_say_so(
    data: tuple[LabelledPixels, LabelledPixels], heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: list[Any] = []
    real = phases.FrozenEngine
    monkeypatch.setattr(phases, "FrozenEngine", lambda *a, **k: engines.append(real(*a, **k)) or engines[-1])
    result = run(build(tiny=False), data, heard, HEAD, TUNE)
    assert [outcome.stopped for outcome in result.outcomes] == [False, False] and not result.stopped
    assert [row.phase for row in result.rows] == ["head"] * 3 + ["tune"]
    assert result.rows[-1].val_auroc is not None and result.rows[-1].val_auroc > 0.9
    assert next(line for line in heard.lines if line.startswith("phase ")).startswith("phase head: weights of epoch ")
    assert [engine.engine for engine in engines] == ["openvino", "openvino"], [engine.reason for engine in engines]
    # view 0 and 1 of the training part and view 0 of validation, at two boundaries
    assert len(list((tmp_path / "cache" / "activations").glob("*.npy"))) == 6


def test_parts_of_a_pool_share_its_views_until_the_backbone_has_trained(
    data: tuple[LabelledPixels, LabelledPixels], heard: Heard, tmp_path: Path
) -> None:
    """Validation stands first in the pool, and training images in another order; the training is the same."""
    paths = [*data[1].manifest.image_paths(), *reversed(data[0].manifest.image_paths())]
    pixels = ingest(paths, build(tiny=False).preprocess, Config().data).pixels
    places = (np.arange(31, 7, -1), np.arange(8))
    train, val = (
        LabelledPixels(part.manifest, part.pixels, Pool(pixels, rows, seed=5))
        for part, rows in zip(data, places, strict=True)
    )
    again = {**HEAD, "name": "again", "epochs": 1}
    alone, pooled = build(tiny=False), build(tiny=False)
    plain = run(alone, data, heard, HEAD, TUNE, again, views=0)
    for path in (tmp_path / "cache" / "activations").glob("*.npy"):
        path.unlink()
    result = run(pooled, (train, val), heard, HEAD, TUNE, again, views=0)
    assert [row.val_loss for row in result.rows] == pytest.approx([row.val_loss for row in plain.rows], rel=1e-3)
    torch.testing.assert_close(pooled.state_dict(), alone.state_dict(), atol=1e-3, rtol=1e-2)
    kept = [len(np.load(path, mmap_mode="r")) for path in (tmp_path / "cache" / "activations").glob("*.npy")]
    assert sorted(kept) == [8, 24, 32, 32]  # what this training has changed is of no use to others


def test_a_full_disk_means_the_frozen_part_runs_every_epoch(
    data: tuple[LabelledPixels, LabelledPixels], heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is that of the cached way, without augmentation up to float16."""
    cached, uncached = build(tiny=False), build(tiny=False)
    run(cached, data, heard, HEAD, views=0)
    monkeypatch.setattr("medgraft.training.phases.shutil.disk_usage", lambda path: Usage(10, 10, 0))
    monkeypatch.setattr("medgraft.training.sources.augment", lambda batch, config, draws: batch.float())
    result = run(uncached, data, heard, HEAD, views=0)
    assert "phase head: no room on disk for activations; the frozen part runs every epoch" in heard.lines
    assert result.rows[-1].val_auroc is not None and result.rows[-1].val_auroc > 0.9
    torch.testing.assert_close(uncached.head.output.weight, cached.head.output.weight, atol=2e-3, rtol=0)
    before = build(tiny=False).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in uncached.state_dict().items() if "backbone" in name)


def test_the_exact_fit_needs_room_for_the_features(
    data: tuple[LabelledPixels, LabelledPixels], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medgraft.training.phases.shutil.disk_usage", lambda path: Usage(10, 10, 0))
    with pytest.raises(UsageError) as caught:
        run(build(tiny=True), data, heard, {**HEAD, "optimizer": "lbfgs"})
    assert caught.value.code == "PROBE_NEEDS_FROZEN" and caught.value.problem.where == "training.phases.head"


def test_a_request_to_stop_skips_the_phases_to_come(data: tuple[LabelledPixels, LabelledPixels], heard: Heard) -> None:
    classifier = build(tiny=True)
    result = run(classifier, data, heard, {**HEAD, "trains": "all"}, {**HEAD, "name": "next"}, should_stop=lambda: True)
    assert result.stopped and len(result.outcomes) == 1 and {row.phase for row in result.rows} == {"head"}
    assert not any(module.training for module in classifier.modules())


@pytest.mark.parametrize("during", ["train, view 1 of 2", "train, view 2 of 2", "validation, view 1 of 1"])
def test_a_request_to_stop_ends_the_computation_of_activations(
    data: tuple[LabelledPixels, LabelledPixels],
    heard: Heard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    during: str,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(heard, "advance", lambda what, done, total: told.append(what))
    classifier = build(tiny=True)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    asked = f"frozen part, {during}"
    result = run(classifier, data, heard, HEAD, {**HEAD, "name": "next"}, should_stop=lambda: asked in told)
    assert told[-1] == asked and told.count(asked) == 1
    assert result.stopped and result.rows == [] and [outcome.stopped for outcome in result.outcomes] == [True]
    assert result.outcomes[0].best_epoch == 0
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert not any(module.training for module in classifier.modules())
    assert heard.lines[-1] == "phase head: stopped before its first epoch; the weights before it are kept"
    assert not list((tmp_path / "cache" / "activations").glob("*.partial"))


def test_a_request_to_stop_before_the_second_phase_keeps_the_first(
    data: tuple[LabelledPixels, LabelledPixels], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, stopped = build(tiny=True), build(tiny=True)
    run(alone, data, heard, HEAD)
    told: list[str] = []
    monkeypatch.setattr(heard, "advance", lambda what, done, total: told.append(what))
    second = {**TUNE, "trains": ["layer4"]}
    result = run(
        stopped,
        data,
        heard,
        HEAD,
        second,
        should_stop=lambda: any(what.startswith("head") for what in told) and told[-1].startswith("frozen"),
    )
    assert [outcome.stopped for outcome in result.outcomes] == [False, True]
    assert [row.phase for row in result.rows] == ["head"] * 3
    after = stopped.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in alone.state_dict().items())


def test_a_network_that_is_no_chain_trains_from_pixels(
    data: tuple[LabelledPixels, LabelledPixels], heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = build(tiny=True)
    monkeypatch.setattr(type(classifier.backbone), "stages", lambda self: [])
    run(classifier, data, heard, {**TUNE, "trains": ["layer4"]})
    assert not list((tmp_path / "cache" / "activations").glob("*.npy"))
