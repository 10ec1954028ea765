"""All phases of a plan, one after another, each on what it needs: cached activations or pixels.

    set_trainable → cut at the freeze boundary → activations of K views (or pixels) → fit
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from medgraft.config import Config, PhaseConfig
from medgraft.data.manifest import Manifest
from medgraft.data.pixels import Pixels
from medgraft.data.store import cache_folder
from medgraft.models.classifier import Classifier
from medgraft.models.cut import Cut, Prefix, cut_at_boundary, uncut
from medgraft.models.depthwise import strided_in_float32
from medgraft.models.engine import FrozenEngine
from medgraft.models.freeze import set_trainable
from medgraft.training.activations import Activations, ViewRequest, compute_activations, trim_cache, weights_digest
from medgraft.training.fit import Part, PhaseOutcome, PhaseRun, fit_phase
from medgraft.training.losses import Loss, make_loss
from medgraft.training.plan import Plan
from medgraft.training.sources import ActivationSource, PixelSource, Source
from medgraft.types import EpochRow

ACTIVATION_CACHE_BYTES = 20 * 10**9


class Progress(Protocol):
    """What training tells of itself."""

    def say(self, line: str) -> None: ...

    def advance(self, what: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class LabelledPixels:
    """One part of the data, ready to train on.

    Attributes:
        manifest: N readable samples.
        pixels: N images at network size, in the same order.
    """

    manifest: Manifest
    pixels: Pixels


@dataclass
class TrainedModel:
    """What training left in the classifier, and how it got there.

    Attributes:
        rows: every epoch of every phase.
        outcomes: one per phase that ran.
        stopped: True when training ended on request.
    """

    rows: list[EpochRow] = field(default_factory=list)
    outcomes: list[PhaseOutcome] = field(default_factory=list)
    stopped: bool = False


def train_phases(
    classifier: Classifier,
    plan: Plan,
    train: LabelledPixels,
    val: LabelledPixels,
    *,
    config: Config,
    progress: Progress,
    should_stop: Callable[[], bool],
    on_epochs: Callable[[Sequence[EpochRow]], None],
) -> TrainedModel:
    """Train the classifier in place.

    Args:
        classifier: network with its starting weights; holds the trained ones afterwards.
        plan: resolved settings.
        train: what is learned from.
        val: what decides when to stop and which weights to keep; never augmented.
        config: what was asked; label smoothing, focal gamma and the cache folder are read.
        progress: told of epochs and rates.
        should_stop: asked after each batch.
        on_epochs: given all epochs so far after each of them.

    Returns:
        Epochs and outcomes; ``stopped`` when `should_stop` said so.
    """
    folder = cache_folder(config.data.cache_dir) / "activations"
    device = torch.device(plan.device)
    classifier.to(device)
    result = TrainedModel()
    training_loss, validation_loss = _losses(plan, config)

    def on_epoch(row: EpochRow) -> None:
        result.rows.append(row)
        on_epochs(result.rows)
        progress.say(describe_epoch(row))

    for number, phase in enumerate(plan.phases):
        trainable = set_trainable(
            classifier, phase.trains, freeze_norm=phase.freeze_norm, freeze_depthwise=phase.freeze_depthwise
        )
        cut = cut_at_boundary(classifier)
        if cut.prefix is not None and not _fits(cut.prefix, classifier, plan, len(train.pixels), folder):
            progress.say(f"phase {phase.name}: no room on disk for the activations of the frozen part; it runs every epoch")
            cut = uncut(classifier)
        seed = plan.seed + number
        train_source, val_source = _sources(classifier, cut, plan, (train, val), folder=folder, progress=progress)
        run = PhaseRun(
            phase=phase,
            classifier=classifier,
            network=cut.suffix,
            trainable=trainable,
            train_loss=training_loss,
            val_loss=validation_loss,
            device=device,
            # a head alone is too small to gain from reduced precision
            precision=torch.float32 if phase.trains == "head" and cut.prefix else getattr(torch, plan.precision),
            seed=seed,
            on_batch=progress.advance,
            on_epoch=on_epoch,
            should_stop=should_stop,
        )
        slow_on_cpu = plan.device == "cpu" and plan.precision == "bfloat16"
        with strided_in_float32(classifier) if slow_on_cpu else nullcontext():
            outcome = fit_phase(run, _part(train, train_source), _part(val, val_source))
        result.outcomes.append(outcome)
        progress.say(_describe_outcome(phase, outcome))
        if outcome.stopped:
            result.stopped = True
            break
    trim_cache(folder, ACTIVATION_CACHE_BYTES)
    classifier.eval()
    return result


def _losses(plan: Plan, config: Config) -> tuple[Loss, Loss]:
    """For training, and for validation, where the targets stay hard."""
    gamma = config.training.focal_gamma
    smoothing = config.training.label_smoothing
    return (
        make_loss(plan.loss, class_weights=plan.class_weights, label_smoothing=smoothing, focal_gamma=gamma),
        make_loss(plan.loss, class_weights=plan.class_weights, focal_gamma=gamma),
    )


def _fits(prefix: Prefix, classifier: Classifier, plan: Plan, n_train: int, folder: Path) -> bool:
    """Whether all views take less than half of what is free."""
    with torch.inference_mode():
        example = torch.zeros(1, 3, *classifier.preprocess.size, device=plan.device)
        bytes_per_image = 2 * prefix(example).numel()
    folder.mkdir(parents=True, exist_ok=True)
    return bytes_per_image * n_train * (plan.views + 1) < 0.5 * shutil.disk_usage(folder).free


def describe_epoch(row: EpochRow) -> str:
    mark = " *" if row.best else ""
    return (
        f"  {row.phase} {row.epoch}: loss {row.train_loss:.4f}, accuracy {row.train_accuracy:.3f} | "
        f"validation loss {row.val_loss:.4f}, accuracy {row.val_accuracy:.3f} | "
        f"{row.images_per_second:,.0f} images/s{mark}"
    )


def _describe_outcome(phase: PhaseConfig, outcome: PhaseOutcome) -> str:
    kept = f"weights of epoch {outcome.best_epoch} kept" if outcome.best_epoch else "no epoch was better than the start, which is kept"
    mixed = f", blended {outcome.blend:.2f} with those before the phase" if outcome.blend < 1 else ""
    return f"phase {phase.name}: {kept}{mixed}"


def _part(data: LabelledPixels, source: Source) -> Part:
    return Part(source, data.manifest.class_indices(), list(data.manifest.table["sample_id"]))


def _sources(
    classifier: Classifier,
    cut: Cut,
    plan: Plan,
    data: tuple[LabelledPixels, LabelledPixels],
    *,
    folder: Path,
    progress: Progress,
) -> tuple[Source, Source]:
    """Cached activations where a prefix is frozen and the disk has room, pixels otherwise."""
    train, val = data
    if cut.prefix is None:
        return (
            PixelSource(train.pixels, seed=plan.seed, augmentation=plan.augmentation),
            PixelSource(val.pixels, seed=plan.seed, augmentation=None),
        )
    engine = FrozenEngine(cut.prefix, classifier.preprocess.size, device=plan.device, precision=plan.precision)
    identity = weights_digest(cut.prefix, classifier, cut.boundary)

    def views(part: LabelledPixels, what: str, numbers: tuple[int, ...]) -> Activations:
        request = ViewRequest(plan.augmentation, numbers, plan.seed)
        return compute_activations(
            engine,
            part.pixels,
            request,
            folder=folder,
            identity=identity,
            progress=lambda view, done, total: progress.advance(f"frozen part on {what}, {view}", done, total),
        )

    train_views = views(train, "train", tuple(range(plan.views + 1)))
    return (
        ActivationSource(train_views, seed=plan.seed, train=True),
        ActivationSource(views(val, "validation", (0,)), seed=plan.seed, train=False),
    )
