"""Made-up answers of several models to the same images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medgraft.evaluation.differences import Answers
from medgraft.types import FloatArray, IntArray, Scores


def answers(
    skills: Sequence[float], *, patients: int = 100, images: int = 1, n_classes: int = 2, seed: int = 0
) -> list[Answers]:
    """Models of some skill whose errors are related; images of a patient share their class and half their luck."""
    rng = np.random.default_rng(seed)
    y = np.repeat(rng.permutation(np.arange(patients) % n_classes), images)

    def noise() -> FloatArray:
        own = rng.normal(size=(patients * images, n_classes))
        return np.repeat(rng.normal(size=(patients, n_classes)), images, axis=0) + own

    shared, made = noise(), []
    owner = [f"p{number // images}" for number in range(len(y))]
    for skill in skills:
        logits = skill * np.eye(n_classes)[y] + 0.6 * shared + 0.4 * noise()
        made.append(answer(y, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), patients=owner))
    return made


def answer(
    y: IntArray | Sequence[int],
    proba: FloatArray,
    *,
    patients: Sequence[str] | None = None,
    predicted: IntArray | Sequence[int] | None = None,
) -> Answers:
    """One model; of two classes ``proba`` (N,) may be that of the second, and 0.5 the threshold."""
    if proba.ndim == 1:
        proba = np.stack([1 - proba, proba], axis=1)
    ids = tuple(f"image{number}" for number in range(len(proba)))
    classes = tuple("abcdefgh"[: proba.shape[1]])
    owners = ids if patients is None else tuple(patients)
    scores = Scores(ids, owners, classes, np.asarray(y, dtype=np.int64), proba)
    return Answers(scores, proba.argmax(axis=1) if predicted is None else np.asarray(predicted))
