"""One bundle, or several that answer together.

    each member: own reading rules, size, temperature, passes → Average, its classes put in the order of the first
    all members: mean of their mean probabilities → label by a common operating point

`predict` and `evaluate` always come through here; of one member the answer is that member's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medgraft.data.names import listed
from medgraft.errors import ModelError, Problem, UsageError
from medgraft.evaluation.conformal import Conformal
from medgraft.evaluation.operating_point import OperatingPoint, choose_positive
from medgraft.inference.average import Average, as_predictions, mean_of_members
from medgraft.inference.bundle import Bundle, open_bundle
from medgraft.inference.files import Reading, predict_files
from medgraft.inference.passes import Passes
from medgraft.inference.predictor import Predictor, unscored, with_sets
from medgraft.inference.scorer import PixelRows, Progress
from medgraft.types import FloatArray, PixelArray, Prediction

Folders = str | Path | Sequence[str | Path]


class Ensemble:
    """Bundles on a device, answering together.

    Args:
        bundles: at least one; of the same classes, in any order. Backbones, sizes and reading rules may differ.
        device: ``auto`` takes the GPU when there is one.
        passes: views and draws of every member.

    Attributes:
        members: one predictor per bundle.
        classes: in the order of the first bundle.
        operating_point: from mean probability to label, see `common_point`.

    Raises:
        UsageError: ``ENSEMBLE_EMPTY``, ``ENSEMBLE_TWICE``, ``MC_NO_DROPOUT``.
        ModelError: ``ENSEMBLE_CLASSES`` naming the differences.
        ResourceError: ``DEVICE_MISSING``.
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        *,
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
        passes: Passes | None = None,
    ) -> None:
        _check_members(bundles)
        self.passes = passes or Passes()
        self.members = tuple(Predictor(bundle, device=device, passes=self.passes) for bundle in bundles)
        self.classes = bundles[0].classes
        self.operating_point = common_point(bundles)
        self._orders = [[one.classes.index(name) for name in self.classes] for one in bundles]

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the bundles."""
        return tuple(member.bundle.id for member in self.members)

    @property
    def conformal(self) -> Conformal | None:
        """Prediction sets of the only member in one pass; None for several.

        Each member's threshold promises something of its own probabilities. How often the truth lies above any
        threshold of their mean was never measured, and cannot be worked out from the thresholds.
        """
        return self.members[0].conformal if len(self.members) == 1 else None

    @property
    def n_passes(self) -> int:
        """Probabilities averaged for an image: members x views x draws."""
        return sum(member.n_passes for member in self.members)

    @property
    def summary(self) -> dict[str, Any] | None:
        """The entry ``inference`` of evaluation.json; None for one pass."""
        return self.passes.summary(members=len(self.members), passes=self.n_passes)

    def described(self) -> list[str]:
        """What is averaged, as lines for the user; none for one pass."""
        if self.n_passes == 1:
            return []
        lines = list(dict.fromkeys(member.views.said for member in self.members if member.views.said))
        if self.passes.mc is not None:
            lines.append(f"{self.passes.mc} draws of the head's dropout")
        if len(self.members) > 1:
            point = self.operating_point
            threshold = "" if point.threshold is None else f": {point.positive} from {point.threshold:.3f}"
            lines.append(f"{len(self.members)} bundles, label by {point.rule}{threshold}")
        return [*lines, f"probabilities are means over {self.n_passes:,} passes"]

    def as_one(self) -> Predictor:
        """What a report needs of the members: the only one, or the first under the common operating point.

        Its temperature is 1, since the mean probability is not scaled again; its maps are those of the first member. It
        has neither prediction sets nor a memory of training images, which are those of each of ``members``.
        """
        first = self.members[0]
        if len(self.members) == 1:
            return first
        return Predictor(
            replace(first.bundle, operating_point=self.operating_point, temperature=1.0, conformal=None, imprint=None),
            device=first.scorer.device.type,  # type: ignore[arg-type]  # cpu, cuda or mps
        )

    def predict_paths(self, paths: Sequence[Path], *, progress: Progress | None = None) -> list[Prediction]:
        """One prediction per path, in order; each member reads the file by its own rules.

        Args:
            paths: image files.
            progress: called with (done, total) after each batch.

        Returns:
            As many predictions as paths. A file that some member's rules refuse has ``error`` set and no label.

        Raises:
            ModelError: ``NONFINITE_OUTPUT``.
        """
        for member in self.members:
            member.expect(len(paths))

        def answer(batches: Sequence[PixelArray], ids: Sequence[str], texts: Sequence[str]) -> list[Prediction]:
            average = self._together([member.average(own) for member, own in zip(self.members, batches, strict=True)])
            predictions = as_predictions(average, self.operating_point, self.classes, ids=ids, paths=texts)
            return with_sets(predictions, average.mean, self.conformal)

        return predict_files(
            paths,
            [Reading(member.bundle.rules, member.bundle.preprocess) for member in self.members],
            answer,
            lambda name, path, error: unscored(name, path, error, classes=self.classes, passes=self.n_passes),
            names=None,
            threads=self.members[0].threads,
            progress=progress,
        )

    def score(
        self, rows: Sequence[PixelRows | npt.NDArray[Any]], *, progress: Progress | None = None
    ) -> tuple[FloatArray, FloatArray | None]:
        """Logits and spread of many images.

        Args:
            rows: the same N images for each member, at that member's size.
            progress: called with (done, total) after each batch; the total counts every member.

        Returns:
            (N, C) logits of `as_one`, so that its ``proba`` gives the mean over passes; and the spread (N,), or
            None for one pass.

        Raises:
            ModelError: ``NONFINITE_OUTPUT``.
        """
        first = self.members[0]
        if self.n_passes == 1:
            return first.logits(rows[0], progress=progress), None
        averages = []
        for number, (member, own) in enumerate(zip(self.members, rows, strict=True)):
            averages.append(member.average_rows(own, progress=_shifted(progress, number, len(self.members))))
        average = self._together(averages)
        predicted = self.operating_point.predict(average.mean, self.classes)
        return self.as_one().logits_of(average.mean), average.spread(predicted)

    def _together(self, averages: Sequence[Average]) -> Average:
        return mean_of_members([one.of_columns(order) for one, order in zip(averages, self._orders, strict=True)])


def open_ensemble(
    folders: Folders, *, device: Literal["auto", "cpu", "cuda", "mps"] = "auto", passes: Passes | None = None
) -> Ensemble:
    """Open one bundle or several.

    Args:
        folders: a bundle or run folder, or a sequence of them.
        device: ``auto`` takes the GPU when there is one.
        passes: views and draws of every member.

    Raises:
        MedgraftError: those of `open_bundle` and `Ensemble`.
    """
    several = [folders] if isinstance(folders, (str, Path)) else folders
    return Ensemble([open_bundle(Path(folder)) for folder in several], device=device, passes=passes)


def common_point(bundles: Sequence[Bundle]) -> OperatingPoint:
    """The rule from mean probability to label.

    One bundle: its own. Two classes with the same positive class everywhere: the mean of the thresholds. Else the
    most probable class, which for two classes is a threshold of 0.5.

    Args:
        bundles: of the same classes.
    """
    points = [bundle.operating_point for bundle in bundles]
    if len(points) == 1:
        return points[0]
    thresholds = [point.threshold for point in points if point.threshold is not None]
    facts: dict[str, Any] = {
        "members": [
            {"bundle": bundle.id, "rule": point.rule, "positive": point.positive, "threshold": point.threshold}
            for bundle, point in zip(bundles, points, strict=True)
        ]
    }
    classes = bundles[0].classes
    if len(classes) != 2:
        return OperatingPoint("argmax", None, None, facts)
    if len(thresholds) == len(points) and len({point.positive for point in points}) == 1:
        return OperatingPoint("mean of the members' thresholds", points[0].positive, float(np.mean(thresholds)), facts)
    facts["note"] = "the members do not agree on the positive class: the most probable class is predicted"
    return OperatingPoint("argmax", choose_positive(classes), 0.5, facts)


def _check_members(bundles: Sequence[Bundle]) -> None:
    if not bundles:
        raise UsageError("ENSEMBLE_EMPTY", "no bundle was given", where="bundle", fix="name one bundle or more")
    folders: dict[str, Path] = {}
    for bundle in bundles:
        if bundle.id in folders:
            raise UsageError(
                "ENSEMBLE_TWICE",
                f"the bundle {bundle.id[:12]} is given twice, which would count it twice in the mean",
                where=", ".join(dict.fromkeys(str(folder) for folder in (folders[bundle.id], bundle.folder))),
                fix="name each bundle once",
            )
        folders[bundle.id] = bundle.folder
    expected = bundles[0].classes
    problems = []
    for bundle in bundles[1:]:
        missing = [name for name in expected if name not in bundle.classes]
        extra = [name for name in bundle.classes if name not in expected]
        parts = [f"{word} {listed(names)}" for word, names in (("lacks", missing), ("adds", extra)) if names]
        if parts:
            problems.append(Problem("ENSEMBLE_CLASSES", " and ".join(parts), str(bundle.folder)))
    if problems:
        raise ModelError(
            "ENSEMBLE_CLASSES",
            f"the bundles know different classes; the first one's are {listed(expected, limit=20)}",
            where=str(bundles[0].folder),
            fix="use bundles trained on the same classes",
            problems=problems,
        )


def _shifted(progress: Progress | None, number: int, members: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, members * total)
