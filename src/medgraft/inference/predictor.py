"""The one inference path: predict, evaluate and serve all come through here.

    paths → `files`: decoded and fitted ahead → batches of 32 → views × draws → logits of every pass
          → softmax(logits / temperature) → mean over passes → label by the operating point → one Prediction per input

Without test-time augmentation and draws there is one pass. An input that cannot be read is a Prediction with an
error, at its place. Arithmetic is float32, so an image gets the same answer alone and among others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from medgraft.config import DataConfig
from medgraft.data.resize import fit
from medgraft.errors import DataError, UsageError
from medgraft.evaluation.calibration import apply_temperature
from medgraft.evaluation.conformal import Conformal
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.inference.average import Average, as_predictions, joined
from medgraft.inference.bundle import Bundle
from medgraft.inference.files import Reading, matching_names, predict_files
from medgraft.inference.forward import drawing
from medgraft.inference.passes import Passes
from medgraft.inference.scorer import BATCH, PixelRows, Progress, Scorer
from medgraft.inference.views import make_views
from medgraft.models.classifier import Classifier
from medgraft.models.pixels import check_raw_pixels, not_raw
from medgraft.types import FloatArray, IntArray, PixelArray, Prediction, Preprocess

# passes whose probabilities are in memory at once: 32 images x 8 views x 256 draws
_PASSES_TOGETHER = 65536
_SMALLEST = float(np.finfo(np.float64).tiny)


class Predictor:
    """A bundle on a device.

    Args:
        bundle: from `open_bundle`; its classifier is moved to the device.
        device: ``auto`` takes the GPU when there is one.
        threads: decoding threads, and torch's threads on the CPU; ``auto`` leaves torch as it is.
        samples: draws of a head with Monte-Carlo dropout; None takes the bundle's (32), 1 is fastest.
        passes: views and draws over which probabilities are averaged; its ``mc`` takes the place of ``samples``.

    Raises:
        ResourceError: ``DEVICE_MISSING``.
        UsageError: ``MC_NO_DROPOUT`` when draws are asked of a head without dropout.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
        threads: int | Literal["auto"] = "auto",
        samples: int | None = None,
        passes: Passes | None = None,
    ) -> None:
        self.bundle = bundle
        self.passes = passes or Passes()
        self.views = make_views(self.passes, bundle.provenance.get("augmentation"), bundle.preprocess.size)
        classifier, draws = bundle.classifier, bundle.samples if samples is None else samples
        if self.passes.mc is not None:
            classifier, draws = _drawing(bundle), self.passes.mc
        self.scorer = Scorer(classifier, device=device, samples=draws)
        self.threads = min(8, os.cpu_count() or 1) if threads == "auto" else threads
        if threads != "auto" and self.scorer.device.type == "cpu":
            torch.set_num_threads(threads)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.bundle.classes

    @property
    def operating_point(self) -> OperatingPoint:
        return self.bundle.operating_point

    @property
    def conformal(self) -> Conformal | None:
        """The bundle's prediction sets; None for other passes than those they were fixed on, which have no promise."""
        same_draws = self.bundle.samples in (1, self.scorer.samples)  # a head without draws ignores how many
        return self.bundle.conformal if self.passes.plain and same_draws else None

    @property
    def n_passes(self) -> int:
        """Probabilities that are averaged for an image."""
        return len(self.views) * (self.passes.mc or 1)

    def predict_paths(
        self,
        paths: Sequence[Path],
        *,
        rules: DataConfig | None = None,
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """One prediction per path, in order.

        Args:
            paths: image files.
            rules: how files become pixels; None reads them as training did.
            names: sample ids, one per path; None takes the paths.
            progress: called with (done, total) after each batch.

        Returns:
            As many predictions as paths. A file that cannot be read has ``error`` set and no label.

        Raises:
            UsageError: ``NAMES_COUNT``.
            ModelError: ``NONFINITE_OUTPUT``.
        """
        self.expect(len(paths))

        def answer(batches: Sequence[PixelArray], ids: Sequence[str], texts: Sequence[str]) -> list[Prediction]:
            average = self.average(batches[0])
            predictions = as_predictions(average, self.operating_point, self.classes, ids=ids, paths=texts)
            return with_sets(predictions, average.mean, self.conformal)

        return predict_files(
            paths,
            [Reading(rules or self.bundle.rules, self.bundle.preprocess)],
            answer,
            lambda name, path, error: unscored(name, path, error, classes=self.classes, passes=self.n_passes),
            names=names,
            threads=self.threads,
            progress=progress,
        )

    def predict_pixels(self, pixels: npt.NDArray[Any], *, names: Sequence[str] | None = None) -> list[Prediction]:
        """One prediction per image of an array.

        Args:
            pixels: (n, h, w, 3) uint8 RGB of any height and width; fitted as in training.
            names: sample ids; None takes ``0``, ``1``, …

        Raises:
            ModelError: ``PIXELS_NOT_RAW`` with the likely cause.
            UsageError: ``NAMES_COUNT``.
        """
        check_raw(pixels)
        ids = matching_names([str(index) for index in range(len(pixels))], names)
        average = self.average_rows(pixels)
        predictions = as_predictions(average, self.operating_point, self.classes, ids=ids, paths=[""] * len(pixels))
        return with_sets(predictions, average.mean, self.conformal)

    def average_rows(self, pixels: PixelRows | npt.NDArray[Any], *, progress: Progress | None = None) -> Average:
        """Calibrated probabilities of many images, averaged over passes.

        Args:
            pixels: images of the network's size by index, or an (n, h, w, 3) uint8 array of any size.
            progress: called with (done, total) after each batch.

        Raises:
            ModelError: ``PIXELS_NOT_RAW``, ``NONFINITE_OUTPUT``.
        """
        rows = self._rows(pixels)
        n = len(rows)
        self.expect(n)
        empty = np.zeros((0, len(self.classes)))
        batches = [] if n else [Average(self.n_passes, empty, empty)]
        for start in range(0, n, BATCH):
            indices = np.arange(start, min(start + BATCH, n), dtype=np.int64)
            batches.append(self.average(rows.read(indices)))
            if progress is not None:
                progress(int(indices[-1]) + 1, n)
        return joined(batches)

    def average(self, pixels: PixelArray) -> Average:
        """Calibrated probabilities of one batch, averaged over passes.

        Args:
            pixels: (n, h, w, 3) uint8 of the network's size, n at least 1.

        Raises:
            ModelError: ``NONFINITE_OUTPUT``.
        """
        together = max(1, min(BATCH, _PASSES_TOGETHER // self.n_passes))
        return joined(
            [
                Average.of(self._proba_of_passes(pixels[start : start + together]))
                for start in range(0, len(pixels), together)
            ]
        )

    def _proba_of_passes(self, pixels: PixelArray) -> FloatArray:
        """(n, P, C): every view of every image, in batches that mix images and views, and every draw of it."""
        n_views = len(self.views)
        pairs = np.arange(len(pixels) * n_views, dtype=np.int64)
        parts = []
        for start in range(0, len(pairs), BATCH):
            image, view = np.divmod(pairs[start : start + BATCH], n_views)
            pictures = pixels if n_views == 1 else self.views.make(pixels[image], view, self.scorer.device)
            parts.append(self.scorer.forward(pictures) if self.passes.mc is None else self.scorer.draws(pictures))
        logits = np.concatenate(parts)
        proba = self.proba(logits.reshape(-1, logits.shape[-1]))
        return proba.reshape(len(pixels), self.n_passes, logits.shape[-1])

    def expect(self, n_images: int) -> None:
        """Take a faster engine where that many images, in all their views, pay for it."""
        self.scorer.expect(n_images * len(self.views))

    def logits(self, pixels: PixelRows | npt.NDArray[Any], *, progress: Progress | None = None) -> FloatArray:
        """Logits of many images.

        Args:
            pixels: images of the network's size by index, or an (n, h, w, 3) uint8 array of any size.
            progress: called with (done, total) after each batch.

        Returns:
            (N, C) float64. With several passes, those whose calibrated probabilities are the mean over them.

        Raises:
            ModelError: ``PIXELS_NOT_RAW``, ``NONFINITE_OUTPUT``.
        """
        if self.passes.plain:
            return self.scorer.logits(self._rows(pixels), progress=progress)
        return self.logits_of(self.average_rows(pixels, progress=progress).mean)

    def proba(self, logits: FloatArray) -> FloatArray:
        """Calibrated probabilities: softmax(logits / temperature), (N, C) float64."""
        return apply_temperature(logits, self.bundle.temperature)

    def logits_of(self, proba: FloatArray) -> FloatArray:
        """Logits (N, C) whose calibrated probabilities are these; inverse of `proba` up to a constant per row."""
        return self.bundle.temperature * np.log(np.maximum(proba, _SMALLEST))

    def _rows(self, pixels: PixelRows | npt.NDArray[Any]) -> PixelRows:
        return _FittedArray(pixels, self.bundle.preprocess) if isinstance(pixels, np.ndarray) else pixels


def unscored(name: str, path: str, error: DataError, *, classes: tuple[str, ...], passes: int) -> Prediction:
    """The prediction of a file that cannot be read."""
    return Prediction(name, path, classes, error=f"[{error.code}] {error.problem.what}", passes=passes)


def with_sets(predictions: list[Prediction], proba: FloatArray, conformal: Conformal | None) -> list[Prediction]:
    """The same predictions of N images with their sets, and whether to leave them to a person.

    Args:
        predictions: N with a label.
        proba: (N, C) calibrated probabilities.
        conformal: None leaves the predictions as they are.
    """
    if conformal is None:
        return predictions
    sets = conformal.names(proba)
    return [
        replace(one, prediction_set=names, refer=names != (one.label,))
        for one, names in zip(predictions, sets, strict=True)
    ]


def _drawing(bundle: Bundle) -> Classifier:
    classifier = drawing(bundle.classifier)
    if not classifier.head.stochastic:
        raise UsageError(
            "MC_NO_DROPOUT",
            f"the head ({', '.join(bundle.classifier.config.head) or 'no layers'}) has no dropout, so every draw "
            "would be the same",
            where=f"--mc with bundle {bundle.id[:12]}",
            fix="leave --mc out, use --tta, or train with dropout: --set 'model.head=[\"dropout 0.2\"]'",
        )
    return classifier


class _FittedArray:
    """A user's array as rows of the network's size."""

    def __init__(self, pixels: npt.NDArray[Any], preprocess: Preprocess) -> None:
        check_raw(pixels)
        self._pixels = pixels
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, indices: IntArray) -> PixelArray:
        rows = self._pixels[indices]
        if rows.shape[1:3] == self._preprocess.size:
            return rows
        return np.stack([fit(row, self._preprocess) for row in rows])


def check_raw(pixels: npt.NDArray[Any]) -> None:
    """Refuse arrays that are not raw images, naming what was probably done to them.

    Args:
        pixels: should be (n, h, w, 3) uint8.

    Raises:
        ModelError: ``PIXELS_NOT_RAW``.
    """
    cause = _shape_cause(pixels.shape)
    if cause:
        raise not_raw(f"shape {pixels.shape} instead of (n, height, width, 3): {cause}")
    check_raw_pixels(pixels)


def _shape_cause(shape: tuple[int, ...]) -> str:
    if len(shape) == 4 and shape[3] == 3:
        return "images without pixels" if 0 in shape[1:3] else ""
    if len(shape) == 4 and shape[1] == 3:
        return "channels first; use array.transpose(0, 2, 3, 1)"
    if len(shape) == 3 and shape[2] == 3:
        return "one image without the batch axis; use array[None]"
    if len(shape) in (2, 3) or (len(shape) == 4 and shape[3] == 1):
        return "grey images; repeat the grey level in three channels"
    if len(shape) == 4 and shape[3] == 4:
        return "an alpha channel; put the images on a background first"
    return "not the shape of images"
