"""All phases of a plan, one after another, each on what it needs: cached activations or pixels.

set_trainable → cut at the freeze boundary → activations of K views (or pixels) → probe or fit
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from medgraft.config import Config, PhaseConfig
from medgraft.data.manifest import Manifest
from medgraft.data.pixels import Pixels
from medgraft.data.store import cache_folder
from medgraft.errors import UsageError
from medgraft.models.classifier import Classifier
from medgraft.models.cut import Cut, Prefix, cut_at_boundary, uncut
from medgraft.models.depthwise import strided_in_float32
from medgraft.models.engine import FrozenEngine
from medgraft.models.freeze import Trainable, set_trainable
from medgraft.training.activations import Activations, ViewRequest, compute_activations, trim_cache, weights_digest
from medgraft.training.fit import Part, PhaseOutcome, PhaseRun, fit_phase
from medgraft.training.losses import make_loss
from medgraft.training.plan import Plan
from medgraft.training.probe import fit_probe
from medgraft.training.sources import ActivationSource, PixelSource
from medgraft.types import EpochRow, IntArray

ACTIVATION_CACHE_BYTES = 20 * 10**9
# parameters below which a step is a few milliseconds on one core
_WORTH_THREADS = 1_000_000
_ENGINES_KEPT = 8

Engines = dict[str, FrozenEngine]
"""Engines by the identity of what they compute: trainings of one frozen part after another compile it once."""


class Progress(Protocol):
    """What training tells of itself."""

    def say(self, line: str) -> None: ...

    def advance(self, what: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Pool:
    """Images whose activations are computed together, once for every part that is taken from them.

    Cross-validation trains on other parts of the same images again and again. Views named by the images of a part
    would be computed anew for each; those of the pool are computed once, and parts are rows of them.

    Attributes:
        pixels: M images at network size.
        rows: (N,) which of them a part consists of.
        seed: of the augmented views, the same for all trainings.
    """

    pixels: Pixels
    rows: IntArray
    seed: int


@dataclass(frozen=True)
class LabelledPixels:
    """One part of the data, ready to train on.

    Attributes:
        manifest: N readable samples.
        pixels: N images at network size, in the same order.
        pool: what they were taken from, where other trainings take from it too.
    """

    manifest: Manifest
    pixels: Pixels
    pool: Pool | None = None


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
    engines: Engines | None = None,
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
        engines: kept from one training to the next, where many follow each other; changed.

    Returns:
        Epochs and outcomes; ``stopped`` when `should_stop` said so.
    """
    result = TrainedModel()

    def on_epoch(row: EpochRow) -> None:
        result.rows.append(row)
        on_epochs(result.rows)
        progress.say(describe_epoch(row))

    classifier.to(plan.device)
    trainer = _Trainer(classifier, plan, train, val, config, progress, on_epoch, should_stop, engines)
    for number, phase in enumerate(plan.phases):
        try:
            outcome = trainer.run(number, phase)
        except _Interrupted:
            outcome = PhaseOutcome((), 0, 1.0, stopped=True)
        result.outcomes.append(outcome)
        progress.say(_describe_outcome(phase, outcome))
        if outcome.stopped:
            result.stopped = True
            break
    trim_cache(trainer.folder, ACTIVATION_CACHE_BYTES)
    classifier.eval()
    return result


@dataclass(frozen=True)
class OpenedPhase:
    """A gradient phase before its first step.

    Attributes:
        run: the part of the network that trains, its losses and settings.
        train: training images as that part takes them.
        val: validation images.
    """

    run: PhaseRun
    train: Part
    val: Part

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """To be in while steps are taken on a CPU: the arithmetic and the threads that are fastest there."""
        slow = self.run.device.type == "cpu" and self.run.precision == torch.bfloat16
        # a small head has no work to share, and threads that wait for each other are slow on a busy machine
        cached = isinstance(self.train.source, ActivationSource) and not self.run.trainable.backbone
        small = cached and sum(parameter.numel() for parameter in self.run.trainable.head) < _WORTH_THREADS
        threads = torch.get_num_threads()
        torch.set_num_threads(1 if small else threads)
        try:
            with strided_in_float32(self.run.classifier) if slow else nullcontext():
                yield
        finally:
            torch.set_num_threads(threads)


def open_phase(
    classifier: Classifier,
    plan: Plan,
    number: int,
    train: LabelledPixels,
    val: LabelledPixels,
    *,
    config: Config,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> OpenedPhase | None:
    """Everything up to the first step of one gradient phase, on the classifier as it is.

    Args:
        classifier: frozen and cut for the phase; on the plan's device.
        plan: resolved settings.
        number: of the phase in the plan, counted from 0.
        train: what is learned from.
        val: validation part.
        config: as for `train_phases`.
        progress: told how far the frozen part is.
        should_stop: asked while the frozen part is computed.

    Returns:
        The phase, or None when `should_stop` said so.
    """
    classifier.to(plan.device)
    trainer = _Trainer(classifier, plan, train, val, config, progress, lambda row: None, should_stop, None)
    try:
        return trainer.open(number, plan.phases[number])
    except _Interrupted:
        return None


class _Interrupted(Exception):
    """Asked to stop while activations were computed: the phase has changed nothing yet."""


@dataclass
class _Trainer:
    """One classifier and its data; runs one phase at a time."""

    classifier: Classifier
    plan: Plan
    train: LabelledPixels
    val: LabelledPixels
    config: Config
    progress: Progress
    on_epoch: Callable[[EpochRow], None]
    should_stop: Callable[[], bool]
    engines: Engines | None
    backbone_trained: bool = False

    @property
    def folder(self) -> Path:
        return cache_folder(self.config.data.cache_dir) / "activations"

    def run(self, number: int, phase: PhaseConfig) -> PhaseOutcome:
        if phase.optimizer == "lbfgs":
            self._freeze(phase)
            return self._probe(phase, self._cut(phase))
        opened = self.open(number, phase)
        self.backbone_trained |= phase.trains != "head"
        with opened.stepping():
            return fit_phase(opened.run, opened.train, opened.val)

    def open(self, number: int, phase: PhaseConfig) -> OpenedPhase:
        trainable = self._freeze(phase)
        cut = self._cut(phase)
        return OpenedPhase(self._phase_run(number, phase, cut, trainable), *self._parts(cut))

    def _freeze(self, phase: PhaseConfig) -> Trainable:
        return set_trainable(
            self.classifier, phase.trains, freeze_norm=phase.freeze_norm, freeze_depthwise=phase.freeze_depthwise
        )

    def _cut(self, phase: PhaseConfig) -> Cut:
        """At the freeze boundary, unless the disk has no room for the activations there."""
        cut = cut_at_boundary(self.classifier)
        if cut.prefix is None or self._fits(cut.prefix):
            return cut
        self.progress.say(f"phase {phase.name}: no room on disk for activations; the frozen part runs every epoch")
        return uncut(self.classifier)

    def _fits(self, prefix: Prefix) -> bool:
        """Whether all views take less than half of what is free."""
        with torch.inference_mode():
            example = torch.zeros(1, 3, *self.classifier.preprocess.size, device=self.plan.device)
            bytes_per_image: int = 2 * prefix(example).numel()
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        pool = self._pool(self.train)
        n_images = len(self.train.pixels if pool is None else pool.pixels)
        return bytes_per_image * n_images * (self.plan.views + 1) < 0.5 * free

    def _pool(self, part: LabelledPixels) -> Pool | None:
        """What a part shares with other trainings: nothing once the frozen part holds weights of this one."""
        return None if self.backbone_trained else part.pool

    def _activations(self, cut: Cut, prefix: Prefix) -> tuple[Activations, Activations]:
        """All views of the training part, the clean view of validation."""
        identity = weights_digest(prefix, self.classifier, cut.boundary)
        engine = self._engine(prefix, identity)

        def views(part: LabelledPixels, what: str, numbers: tuple[int, ...]) -> Activations:
            pool = self._pool(part)
            computed = compute_activations(
                engine,
                part.pixels if pool is None else pool.pixels,
                ViewRequest(self.plan.augmentation, numbers, self.plan.seed if pool is None else pool.seed),
                folder=self.folder,
                identity=identity,
                progress=lambda view, done, total: self._advance(f"frozen part, {what}, {view}", done, total),
            )
            return computed if pool is None else computed.take(pool.rows)

        return views(self.train, "train", tuple(range(self.plan.views + 1))), views(self.val, "validation", (0,))

    def _engine(self, prefix: Prefix, identity: str) -> FrozenEngine:
        """Compiled here, or by an earlier training of the same frozen part."""
        if self.engines is not None and identity in self.engines:
            return self.engines[identity]
        size = self.classifier.preprocess.size
        engine = FrozenEngine(prefix, size, device=self.plan.device, precision=self.plan.precision)
        if engine.reason:
            self.progress.say(f"note: {engine.reason}; torch computes the frozen part")
        if self.engines is not None:
            if len(self.engines) >= _ENGINES_KEPT:
                del self.engines[next(iter(self.engines))]
            self.engines[identity] = engine
        return engine

    def _advance(self, what: str, done: int, total: int) -> None:
        self.progress.advance(what, done, total)
        if self.should_stop():
            raise _Interrupted

    def _probe(self, phase: PhaseConfig, cut: Cut) -> PhaseOutcome:
        if cut.prefix is None:
            raise UsageError(
                "PROBE_NEEDS_FROZEN",
                "the optimizer lbfgs fits a head on cached features of a frozen backbone",
                where=f"training.phases.{phase.name}",
                fix="leave room on disk for the cache, or use adamw",
            )
        train, val = self._activations(cut, cut.prefix)
        return fit_probe(
            self.classifier,
            (train, self.train.manifest.class_indices()),
            (val, self.val.manifest.class_indices()),
            class_weights=self.plan.class_weights,
            phase=phase.name,
            on_epoch=self.on_epoch,
            should_stop=self.should_stop,
        )

    def _phase_run(self, number: int, phase: PhaseConfig, cut: Cut, trainable: Trainable) -> PhaseRun:
        weights, gamma = self.plan.class_weights, self.config.training.focal_gamma
        smoothing = self.config.training.label_smoothing
        # a head alone is too small to gain from reduced precision
        reduced = not (phase.trains == "head" and cut.prefix)
        return PhaseRun(
            phase=phase,
            classifier=self.classifier,
            network=cut.suffix,
            trainable=trainable,
            train_loss=make_loss(self.plan.loss, class_weights=weights, label_smoothing=smoothing, focal_gamma=gamma),
            val_loss=make_loss(self.plan.loss, class_weights=weights, focal_gamma=gamma),
            device=torch.device(self.plan.device),
            precision=getattr(torch, self.plan.precision) if reduced else torch.float32,
            seed=self.plan.seed + number,
            head_is_random=number == 0,
            on_batch=self.progress.advance,
            on_epoch=self.on_epoch,
            should_stop=self.should_stop,
        )

    def _parts(self, cut: Cut) -> tuple[Part, Part]:
        """Training and validation part as the network takes them."""
        seed = self.plan.seed
        if cut.prefix is None:
            return (
                _part(self.train, PixelSource(self.train.pixels, seed=seed, augmentation=self.plan.augmentation)),
                _part(self.val, PixelSource(self.val.pixels, seed=seed, augmentation=None)),
            )
        train, val = self._activations(cut, cut.prefix)
        return (
            _part(self.train, ActivationSource(train, seed=seed, train=True)),
            _part(self.val, ActivationSource(val, seed=seed, train=False)),
        )


def _part(data: LabelledPixels, source: ActivationSource | PixelSource) -> Part:
    return Part(source, data.manifest.class_indices(), list(data.manifest.table["sample_id"]))


def describe_epoch(row: EpochRow) -> str:
    """One line per epoch; a star marks the best so far."""
    mark = " *" if row.best else ""
    auroc = "" if row.val_auroc is None else f", AUROC {row.val_auroc:.4f}"
    return (
        f"  {row.phase} {row.epoch}: loss {row.train_loss:.4f}, accuracy {row.train_accuracy:.3f} | "
        f"validation loss {row.val_loss:.4f}, accuracy {row.val_accuracy:.3f}{auroc} | "
        f"{row.images_per_second:,.0f} images/s{mark}"
    )


def _describe_outcome(phase: PhaseConfig, outcome: PhaseOutcome) -> str:
    if not outcome.rows:
        kept = "stopped before its first epoch; the weights before it are kept"
    elif not outcome.best_epoch:
        kept = "nothing was better than the weights before it, which are kept"
    elif phase.optimizer == "lbfgs":
        kept = f"penalty {outcome.best_epoch} kept, the strongest within one standard error of the best"
    else:
        kept = f"weights of epoch {outcome.best_epoch} kept"
    mixed = f", blended {outcome.blend:.2f} with those before the phase" if outcome.blend < 1 else ""
    return f"phase {phase.name}: {kept}{mixed}"
