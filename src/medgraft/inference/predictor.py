"""The one inference path: predict, evaluate and serve all come through here.

    paths → decode and fit in threads, a bounded distance ahead → batches of 32 → logits
          → softmax(logits / temperature) → label by the operating point → one Prediction per input

An input that cannot be read is a Prediction with an error, at its place. Arithmetic is float32, so an
image gets the same answer alone and among others.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from medgraft.config import DataConfig
from medgraft.data.image import decode
from medgraft.data.resize import fit
from medgraft.errors import DataError, UsageError
from medgraft.evaluation.calibration import apply_temperature
from medgraft.inference.bundle import Bundle
from medgraft.inference.scorer import BATCH, PixelRows, Progress, Scorer
from medgraft.models.pixels import check_raw_pixels, not_raw
from medgraft.types import FloatArray, IntArray, PixelArray, Prediction, Preprocess


class Predictor:
    """A bundle on a device.

    Args:
        bundle: from `open_bundle`; its classifier is moved to the device.
        device: ``auto`` takes the GPU when there is one.
        threads: decoding threads, and torch's threads on the CPU; ``auto`` leaves torch as it is.
        samples: draws of a head with Monte-Carlo dropout; None takes the bundle's (32), 1 is fastest.

    Raises:
        ResourceError: ``DEVICE_MISSING``.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
        threads: int | Literal["auto"] = "auto",
        samples: int | None = None,
    ) -> None:
        self.bundle = bundle
        samples = bundle.samples if samples is None else samples
        self.scorer = Scorer(bundle.classifier, device=device, samples=samples)
        self._threads = min(8, os.cpu_count() or 1) if threads == "auto" else threads
        if threads != "auto" and self.scorer.device.type == "cpu":
            torch.set_num_threads(threads)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.bundle.classes

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
        texts = [Path(path).as_posix() for path in paths]
        ids = _matching_names(texts, names)
        self.scorer.expect(len(paths))
        out: list[Prediction | None] = [None] * len(paths)
        waiting: list[tuple[int, PixelArray]] = []

        def score() -> None:
            if waiting:
                rows = [index for index, _ in waiting]
                scored = self._score(np.stack([pixels for _, pixels in waiting]))
                for index, (proba, label) in zip(rows, scored, strict=True):
                    out[index] = Prediction(ids[index], texts[index], self.classes, proba=proba, label=label)
                waiting.clear()

        for index, result in enumerate(self._decoded(paths, rules or self.bundle.rules)):
            if isinstance(result, DataError):
                out[index] = self._unscored(ids[index], texts[index], result)
            else:
                waiting.append((index, result))
            if len(waiting) == BATCH:
                score()
            if progress is not None and ((index + 1) % BATCH == 0 or index + 1 == len(paths)):
                progress(index + 1, len(paths))
        score()
        return [prediction for prediction in out if prediction is not None]

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
        ids = _matching_names([str(index) for index in range(len(pixels))], names)
        logits = self.logits(pixels)
        proba, labels = self.proba(logits), self._labels(logits)
        return [
            Prediction(name, "", self.classes, proba=_row(values), label=label)
            for name, values, label in zip(ids, proba, labels, strict=True)
        ]

    def logits(self, pixels: PixelRows | npt.NDArray[Any], *, progress: Progress | None = None) -> FloatArray:
        """Logits of many images.

        Args:
            pixels: images of the network's size by index, or an (n, h, w, 3) uint8 array of any size.
            progress: called with (done, total) after each batch.

        Returns:
            (N, C) float64.

        Raises:
            ModelError: ``PIXELS_NOT_RAW``, ``NONFINITE_OUTPUT``.
        """
        rows = _FittedArray(pixels, self.bundle.preprocess) if isinstance(pixels, np.ndarray) else pixels
        return self.scorer.logits(rows, progress=progress)

    def proba(self, logits: FloatArray) -> FloatArray:
        """Calibrated probabilities: softmax(logits / temperature), (N, C) float64."""
        return apply_temperature(logits, self.bundle.temperature)

    def _labels(self, logits: FloatArray) -> list[str]:
        indices = self.bundle.operating_point.predict(self.proba(logits), self.classes)
        return [self.classes[int(index)] for index in indices]

    def _score(self, pixels: PixelArray) -> list[tuple[tuple[float, ...], str]]:
        logits = self.scorer.forward(pixels)
        return [(_row(values), label) for values, label in zip(self.proba(logits), self._labels(logits), strict=True)]

    def _unscored(self, name: str, path: str, error: DataError) -> Prediction:
        return Prediction(name, path, self.classes, error=f"[{error.code}] {error.problem.what}")

    def _decoded(self, paths: Sequence[Path], rules: DataConfig) -> Iterator[PixelArray | DataError]:
        """Fitted pixels or the error of each path, in order, at most two batches ahead."""
        preprocess = self.bundle.preprocess

        def read(path: Path) -> PixelArray | DataError:
            try:
                return fit(decode(Path(path), rules).pixels, preprocess)
            except DataError as error:
                return error

        ahead: deque[Future[PixelArray | DataError]] = deque()
        todo = iter(paths)
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                for path in todo:
                    ahead.append(pool.submit(read, path))
                    if len(ahead) >= 2 * BATCH:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()


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


def _matching_names(own: list[str], names: Sequence[str] | None) -> Sequence[str]:
    if names is None:
        return own
    if len(names) != len(own):
        raise UsageError("NAMES_COUNT", f"{len(names)} names were given for {len(own)} images")
    return names


def _row(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
