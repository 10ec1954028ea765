"""A part of the data and what a model said of it: what evaluation, checks of the model and report start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medgraft.checks.images import CheckedImages
from medgraft.checks.leaks import Leaks
from medgraft.data.manifest import Manifest
from medgraft.data.pixels import Pixels
from medgraft.data.subgroups import group_values
from medgraft.types import CheckResult, FloatArray, IntArray, PatientIndependence, Scores


@dataclass(frozen=True)
class ScoredPart:
    """A declared part of the data and what the model said of it.

    Attributes:
        declared: every row that was to be scored.
        scored: the N rows that could be read, in order.
        logits: (N, C).
        pixels: N images at network size.
        errors: why a declared row has no score, by sample id.
        checks: everything found in the data.
        leaks: what training has seen of the N rows; None where it is of no matter, as for training images.
        groups: by column, the subgroup of each of the N rows; empty where none was asked for.
        spread: (N,) standard deviation over the passes of the probability of the predicted class; None for one
            pass.
        inference: what was averaged, as evaluation.json records it; None for one pass.
    """

    declared: Manifest
    scored: Manifest
    logits: FloatArray
    pixels: Pixels
    errors: Mapping[str, str]
    checks: tuple[CheckResult, ...]
    leaks: Leaks | None = None
    groups: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    spread: FloatArray | None = None
    inference: dict[str, Any] | None = None

    def take(self, rows: IntArray) -> ScoredPart:
        """Some of the N rows; what was declared stays, and nothing is said of leaks."""
        return replace(
            self,
            scored=self.scored.take(rows),
            logits=self.logits[rows],
            pixels=self.pixels.subset(rows),
            leaks=None,
            groups={name: [values[row] for row in rows.tolist()] for name, values in self.groups.items()},
            spread=None if self.spread is None else self.spread[rows],
        )


def subgroups_of(images: CheckedImages, names: Sequence[str]) -> dict[str, Sequence[str | None]]:
    """The subgroup of each image by the columns of ``evaluation.by``.

    Raises:
        DataError: columns that make no subgroups, see `medgraft.data.subgroups`.
    """
    sizes = [(record.height, record.width) for record in images.records]
    return dict(group_values(images.manifest, names, sizes=sizes))


def scores_of(manifest: Manifest, proba: FloatArray, classes: tuple[str, ...]) -> Scores:
    """Scores of labelled samples; class indices follow the model's classes."""
    index = {name: number for number, name in enumerate(classes)}
    y_true = np.array([index[label] for label in manifest.table["label"]], dtype=np.int64)
    return Scores(tuple(manifest.table["sample_id"]), manifest.unit_ids(), classes, y_true, proba)


def patient_independence(manifest: Manifest, checks: Sequence[CheckResult]) -> PatientIndependence:
    """Verified when patients are known and none stands in two parts."""
    if any(check.code == "PATIENTS_ACROSS_PARTS" for check in checks):
        return "violated"
    return "verified" if manifest.patients_known else "not verified"
