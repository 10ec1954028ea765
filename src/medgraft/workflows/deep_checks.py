"""The checks that take seconds to minutes: trivial baselines, shortcuts, suspected labels, shift.

images ─► simple models on thumbnails, borders, files ─► baselines, shortcuts
       ─► features of the embedded backbone, cached ─┬─► out-of-fold probe ─► suspected labels
                                                     └─► test for a shift between parts or sources

They say something about the data, so they do not depend on the network that is trained: features are always those of
the embedded backbone, which is there without a network connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medgraft.checks.attributes import image_attributes
from medgraft.checks.baselines import Baseline, trivial_baselines
from medgraft.checks.images import CheckedImages
from medgraft.checks.judging import Judging
from medgraft.checks.label_errors import LabelErrors, check_labels, suspected_labels
from medgraft.checks.shift import Shift, TwoSets, check_shift, find_shift
from medgraft.checks.shortcuts import border_sources
from medgraft.config import Config
from medgraft.config.schema import ModelConfig
from medgraft.data.store import cache_folder
from medgraft.errors import DataError
from medgraft.models.classifier import build_classifier
from medgraft.training.crossval import cross_validate, make_folds
from medgraft.types import SPLITS, CheckResult, IntArray
from medgraft.workflows.features import FeatureArray, FrozenBackbone
from medgraft.workflows.machine import Device, use_threads
from medgraft.workflows.progress import Progress


@dataclass(frozen=True)
class Looked:
    """What the slower checks found.

    Attributes:
        judging: who was predicted by whom; None where these checks are switched off.
        baselines: trivial predictions of the scored images.
        sources: predictions from borders and corners alone.
        labels: suspected labels; their rows are positions among the images looked at.
        shift: between training and test images, or two sources.
        checks: what all of it means.
    """

    judging: Judging | None = None
    baselines: tuple[Baseline, ...] = ()
    sources: tuple[Baseline, ...] = ()
    labels: LabelErrors | None = None
    shift: Shift | None = None
    checks: tuple[CheckResult, ...] = ()


def look_deeper(
    images: CheckedImages,
    *,
    scored: IntArray,
    fit: IntArray | None,
    labelled: IntArray,
    config: Config,
    device: Device,
    progress: Progress,
) -> Looked:
    """Everything that takes longer than reading.

    Args:
        images: all readable images.
        scored: rows that simple models predict, those that the real model is scored on.
        fit: rows they are fitted on; None for cross-validation over the scored ones.
        labelled: rows whose labels are doubted.
        config: ``checks``, seed and cache.
        device: where features are computed.
        progress: told what is going on.

    Returns:
        Nothing when ``checks.deep`` is off.
    """
    if not config.checks.deep:
        return Looked()
    progress.say("checking trivial baselines, shortcuts, labels and shift")
    judging = Judging(images, scored, fit, config.training.seed, config.checks.images)
    baselines, sources = trivial_baselines(judging), border_sources(judging)
    extractor = _Extractor.of(images, config, device, progress)
    features = extractor.features(images)
    labels, told = _doubted(images, features, labelled, config, progress)
    shift = None
    if fit is not None:
        rows = [_capped(images, part, config.checks.images) for part in (fit, scored)]
        parts = [(images.take(own), features[own]) for own in rows]
        shift = _told_apart(parts, ("the training part", "the test part"), config)
    few = () if judging.too_few is None else (judging.too_few,)
    shifted = () if shift is None else check_shift(shift)
    return Looked(judging, baselines, sources, labels, shift, (*few, *told, *shifted))


def shift_between(
    sources: Sequence[CheckedImages],
    names: tuple[str, str],
    *,
    config: Config,
    device: Device,
    progress: Progress,
) -> Shift | None:
    """Whether two sources differ, images of one class compared with each other.

    Args:
        sources: the images of both; classes in the same order.
        names: of the sources.
        config: ``checks``, seed and cache.
        device: where features are computed.
        progress: told what is going on.

    Returns:
        None with too few patients or independent images to tell.
    """
    extractor = _Extractor.of(sources[0], config, device, progress)
    parts, offset = [], 0
    for images in sources:
        taken = images.take(_capped(images, np.arange(len(images)), config.checks.images))
        # groups of two sources have nothing to do with each other
        own = replace(taken, group=taken.group + offset)
        offset += len(images)
        parts.append((own, extractor.features(taken)))
    return _told_apart(parts, names, config)


@dataclass(frozen=True)
class _Extractor:
    """Features of the embedded backbone."""

    backbone: FrozenBackbone
    config: Config
    progress: Progress

    @classmethod
    def of(cls, images: CheckedImages, config: Config, device: Device, progress: Progress) -> _Extractor:
        """For images of this size."""
        model = ModelConfig(size=images.pixels.size[0], resize=config.model.resize)
        classifier = build_classifier(model, images.manifest.classes, seed=0)
        return cls(FrozenBackbone.of(classifier, device=device, precision="auto"), config, progress)

    def features(self, images: CheckedImages) -> FeatureArray:
        """(N, D), part by part as the probe of a training asks for them."""
        splits = images.manifest.table["split"].to_numpy()
        parts = [np.flatnonzero([split == part for split in splits]) for part in (*SPLITS, None)]
        parts = [rows for rows in parts if len(rows)]
        folder = cache_folder(self.config.data.cache_dir) / "activations"
        found = [
            self.backbone.features(
                images.pixels.subset(rows),
                folder=folder,
                progress=lambda done, total: self.progress.advance("features", done, total),
            )
            for rows in parts
        ]
        back = np.argsort(np.concatenate(parts), kind="stable")
        values: FeatureArray = np.concatenate(found)[back]
        return values


def _doubted(
    images: CheckedImages, features: FeatureArray, labelled: IntArray, config: Config, progress: Progress
) -> tuple[LabelErrors | None, tuple[CheckResult, ...]]:
    """Labels that a probe which has not seen the patient contradicts; rows are positions among all images."""
    rows = _capped(images, labelled, config.checks.images)
    taken = images.take(rows)
    label, classes = taken.manifest.class_indices(), taken.manifest.classes
    try:
        fold = make_folds(_numbered(taken.group), label, classes=classes, seed=config.training.seed)
    except DataError as error:
        title = f"labels were not doubted: {error.problem.what}"
        return None, (CheckResult("LABEL_TOO_FEW", "note", title, {"images": len(rows)}, error.problem.fix),)
    found = cross_validate(
        features[rows],
        label,
        fold,
        n_classes=len(classes),
        threads=use_threads(config.training.threads),
        on_fit=lambda done, total: progress.advance("doubting labels", done, total),
    )
    errors = suspected_labels(found.proba, label, group=taken.group)
    checks = check_labels(taken.manifest, errors)
    suspects = tuple(replace(suspect, row=int(rows[suspect.row])) for suspect in errors.suspects)
    return replace(errors, suspects=suspects), checks


def _told_apart(
    parts: Sequence[tuple[CheckedImages, FeatureArray]], names: tuple[str, str], config: Config
) -> Shift | None:
    """The test for a shift between two lots of images, with their attributes."""
    lots = [images for images, _ in parts]
    attributes = [image_attributes(images) for images in lots]
    sets = TwoSets(
        names,
        np.repeat([False, True], [len(images) for images in lots]),
        np.concatenate([images.group for images in lots]),
        np.concatenate([images.manifest.class_indices() for images in lots]),
        lots[0].manifest.classes,
    )
    return find_shift(
        np.concatenate([features for _, features in parts]),
        sets,
        permutations=config.checks.permutations,
        seed=config.training.seed,
        attributes=(attributes[0].names, np.concatenate([found.values for found in attributes])),
    )


def _capped(images: CheckedImages, rows: IntArray, cap: int) -> IntArray:
    """At most about ``cap`` of the rows, in whole groups, with each class in its share."""
    return Judging(images, rows, None, 0, cap).rows


def _numbered(group: IntArray) -> IntArray:
    numbered: IntArray = np.unique(group, return_inverse=True)[1].astype(np.int64)
    return numbered
