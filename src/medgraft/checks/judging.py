"""Predictions of a simple model for images whose patient, and whose copies, it has not seen.

    fit rows given:  fit rows ─► model ─► scored rows          as the real model is trained and tested
    no fit rows:     scored rows ─► K folds of whole groups ─► each fold by a model of the others (few images: the
                                                               mean of three partitions, so that luck matters less)

With fit rows the parts are taken as they are: a copy on both sides helps the simple model as it helps the real one,
which is what a comparison on all images has to show. Beyond a cap, rows are left out by whole groups.

BASELINES_TOO_FEW   too few independent images for simple models: no baselines, no shortcuts
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from medgraft.checks.images import CheckedImages
from medgraft.checks.simple_models import Features, Known, SimpleModel
from medgraft.data.grouping import GroupCounts, spread
from medgraft.data.names import listed
from medgraft.errors import DataError
from medgraft.training.crossval import make_folds
from medgraft.types import CheckResult, FloatArray, IntArray, Scores

_REPEATED = 1000  # most images whose folds are made more than once
_REPEATS = 3


@dataclass(frozen=True)
class Judging:
    """Who is judged by whom.

    Attributes:
        images: everything there is, labelled.
        scored: rows to predict.
        fit: rows to fit on, disjoint from ``scored``; None for cross-validation within ``scored``.
        seed: of all random choices.
        cap: most rows to fit on, and most to score; more are left out by whole groups, with each class in its share.
    """

    images: CheckedImages
    scored: IntArray
    fit: IntArray | None
    seed: int
    cap: int

    def __post_init__(self) -> None:
        if self.fit is not None and len(np.intersect1d(self.scored, self.fit)):
            raise ValueError("a row cannot be fitted on and predicted")

    @cached_property
    def rows(self) -> IntArray:
        """(n,) scored rows that are predicted, rising."""
        return self._capped(self.scored, 1)

    @cached_property
    def fit_rows(self) -> IntArray | None:
        """Rows that are fitted on, rising; None in cross-validation."""
        return None if self.fit is None else self._capped(self.fit, 2)

    @cached_property
    def used_rows(self) -> IntArray:
        """Rows whose features are needed: those fitted on, then those predicted."""
        return self.rows if self.fit_rows is None else np.concatenate([self.fit_rows, self.rows])

    @cached_property
    def used(self) -> CheckedImages:
        """The images of `used_rows`."""
        return self.images.take(self.used_rows)

    @cached_property
    def label(self) -> IntArray:
        """Class index of the images in `used`."""
        return self.used.manifest.class_indices()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.manifest.classes

    @cached_property
    def shares(self) -> FloatArray:
        """(C,) share of each class among the rows fitted on; in cross-validation among all."""
        known = self.label[: self._n_fit] if self._n_fit else self.label
        return np.bincount(known, minlength=len(self.classes)) / max(1, len(known))

    @cached_property
    def too_few(self) -> CheckResult | None:
        """Why nothing can be predicted; None when it can."""
        if not len(self.rows):
            return _too_few("there are no images to predict", {"scored": 0})
        if self.fit_rows is None:
            return self._folds if isinstance(self._folds, CheckResult) else None
        lacking = [name for name, share in zip(self.classes, self.shares, strict=True) if not share]
        if len(lacking) > len(self.classes) - 2:
            evidence = {"fitted_on": self._n_fit, "without_images": lacking}
            return _too_few(f"the images to fit on are of one class only, without {listed(lacking)}", evidence)
        return None

    @cached_property
    def protocol(self) -> str:
        """How predictions are made, in words."""
        if self.fit_rows is None:
            kept = "patients and copies" if self.images.manifest.patients_known else "copies"
            folds = () if isinstance(self._folds, CheckResult) else self._folds
            n_folds = int(folds[0].max()) + 1 if folds else 0
            return (
                f"{n_folds}-fold cross-validation{f', {len(folds)} times,' if len(folds) > 1 else ''} over "
                f"{len(self.rows):,}{_of(self.scored, self.rows)} images, {kept} kept together"
                f"{'' if self.images.manifest.patients_known else '; patients unknown'}"
            )
        assert self.fit is not None
        return (
            f"fitted on {len(self.fit_rows):,}{_of(self.fit, self.fit_rows)} training images, "
            f"scored on {len(self.rows):,}{_of(self.scored, self.rows)}"
        )

    def predict(self, model: SimpleModel, features: Features) -> FloatArray:
        """Probabilities of the rows that are predicted.

        Args:
            model: fits and predicts.
            features: (N, D) of the images in `used`.

        Returns:
            (n, C) in the order of ``rows``; rows sum to 1.

        Raises:
            ValueError: there is too little to fit on, as `too_few` says.
        """
        if self.too_few is not None:
            raise ValueError(self.too_few.title)
        if self._n_fit:
            known = np.arange(len(self.label)) < self._n_fit
            return self._fitted(model, features, known)
        assert not isinstance(self._folds, CheckResult)
        proba = np.zeros((len(self.rows), len(self.classes)))
        for fold in self._folds:
            for number in range(int(fold.max()) + 1):
                proba[fold == number] += self._fitted(model, features, fold != number)
        return proba / len(self._folds)

    def scores(self, proba: FloatArray) -> Scores:
        """Probabilities (n, C) of the rows that are predicted, with names, patients and truth."""
        table = self.used.manifest.take(np.arange(self._n_fit, len(self.used)))
        return Scores(tuple(table.table["sample_id"]), table.unit_ids(), self.classes, self.label[self._n_fit :], proba)

    @property
    def _n_fit(self) -> int:
        return 0 if self.fit_rows is None else len(self.fit_rows)

    def _fitted(self, model: SimpleModel, features: Features, known: npt.NDArray[np.bool_]) -> FloatArray:
        data = Known(features[known], self.label[known], self.used.group[known], len(self.classes), self.seed)
        return model(data, features[~known])

    @cached_property
    def _folds(self) -> tuple[IntArray, ...] | CheckResult:
        _, group = np.unique(self.used.group, return_inverse=True)
        repeats = _REPEATS if len(self.rows) <= _REPEATED else 1
        seeds = np.random.SeedSequence(self.seed).generate_state(repeats).tolist()
        try:
            return tuple(
                make_folds(group.astype(np.int64), self.label, classes=self.classes, seed=seed) for seed in seeds
            )
        except DataError as error:
            return _too_few(error.problem.what, {"scored": len(self.rows), "reason": error.code}, error.problem.fix)

    def _capped(self, rows: IntArray, stream: int) -> IntArray:
        """Whole groups of about as many rows as the cap allows."""
        rows = np.unique(rows)
        if len(rows) <= self.cap:
            return rows
        taken = self.images.manifest.take(rows)
        _, group = np.unique(self.images.group[rows], return_inverse=True)
        counts = GroupCounts.of(group.astype(np.int64), taken.class_indices(), n_classes=len(self.classes))
        share = self.cap / len(rows)
        fixed = np.zeros((2, len(self.classes)))
        rng = np.random.default_rng([self.seed, stream])
        side = spread(counts, np.arange(counts.n_groups), [share, 1.0 - share], fixed=fixed, rng=rng)
        kept: IntArray = rows[side[group] == 0]
        return kept


def _of(asked: IntArray, used: IntArray) -> str:
    n_asked = len(np.unique(asked))
    return f" of {n_asked:,}" if n_asked > len(used) else ""


def _too_few(why: str, evidence: dict[str, Any], fix: str = "") -> CheckResult:
    title = f"trivial baselines and shortcuts were not looked for: {why}"
    return CheckResult("BASELINES_TOO_FEW", "note", title, evidence, fix or "add images, or patients, of every class")
