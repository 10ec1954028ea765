"""How a model does in groups of the images, and against all others.

    column: value of each image ─► groups (numbers cut at quartiles, missing values a group of their own)
    group, rest ─► metrics in closed form, each with the share every patient has in it
                ─► difference, its interval corrected for how many differences are looked at

Whoever looks at many groups finds one that looks bad by chance. Intervals of differences therefore hold for all of
them at once (Bonferroni); those of a group's own metrics are plain ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medgraft.config.schema import EvaluationConfig
from medgraft.data.names import natural_key
from medgraft.data.subgroups import numbers
from medgraft.evaluation.bootstrap import Bootstrap, Mask
from medgraft.evaluation.differences import Answers
from medgraft.evaluation.estimates import share_limits
from medgraft.evaluation.intervals import Limits, auroc_pulls, delong, mean_delong, newcombe_auroc
from medgraft.evaluation.paired_limits import NO_VARIANCE, combine_limits
from medgraft.types import Estimate, FloatArray, IntArray

OF_TWO = ("auroc", "accuracy", "sensitivity", "specificity")
OF_MORE = ("auroc", "accuracy", "balanced_accuracy")
FEW = 10  # cases of a class, or patients, below which a group is flagged
MOST_NUMBERS = 8  # more different numbers are cut at quartiles
MISSING = "(missing)"


@dataclass(frozen=True)
class Subgroup:
    """Images with one value of a column.

    Attributes:
        value: as the column has it, ``52 to 61`` for a range of numbers, or ``(missing)``.
        n_images: images scored.
        n_patients: patients of these, or None when unknown.
        flagged: why the group says little; empty when it does not.
        metrics: by name, each with the plain interval.
        difference: by name, the group less all other images, with the corrected interval.
    """

    value: str
    n_images: int
    n_patients: int | None
    flagged: str
    metrics: dict[str, Estimate]
    difference: dict[str, Estimate]

    def as_dict(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "n_images": self.n_images,
            "n_patients": self.n_patients,
            "flagged": self.flagged,
            "metrics": {name: one.as_dict() for name, one in self.metrics.items()},
            "difference": {name: one.as_dict() for name, one in self.difference.items()},
        }


@dataclass(frozen=True)
class Subgroups:
    """All groups of all columns.

    Attributes:
        level: at which all intervals of differences hold together, and each other interval alone.
        multiplicity: how the differences were corrected, as a sentence.
        columns: groups by column, in natural order of their values, a missing value last.
    """

    level: float
    multiplicity: str
    columns: dict[str, tuple[Subgroup, ...]]

    @property
    def n_subgroups(self) -> int:
        return sum(len(groups) for groups in self.columns.values())

    def as_dict(self) -> dict[str, Any]:
        """``subgroups`` of evaluation.json."""
        return {
            "level": self.level,
            "n_subgroups": self.n_subgroups,
            "multiplicity": self.multiplicity,
            "columns": {name: [group.as_dict() for group in groups] for name, groups in self.columns.items()},
        }


def subgroup_estimates(
    answers: Answers,
    groups: Mapping[str, Sequence[str | None]],
    config: EvaluationConfig,
    *,
    positive: int | None,
    patients_known: bool,
) -> Subgroups:
    """Metrics of every group of every column, and their differences to all other images.

    Args:
        answers: to N images.
        groups: by column, the value of each of the N images; None where it is missing.
        config: level of the intervals.
        positive: index of the positive class when there are two classes, else None.
        patients_known: whether ``patient_ids`` are patients.

    Returns:
        Of two classes AUROC, accuracy, sensitivity and specificity; of more the mean AUROC, accuracy and balanced
        accuracy. No resampling, so a seed changes nothing.

    Source:
        AUROC: DeLong's components on the logit scale, by patient. Shares: Wilson, by patient. Differences: limits of
        both values combined (Zou and Donner 2008) at a level of 1 - (1 - level) / number of differences, with the
        correlation that patients with images in both make.
    """
    kind = "patient" if patients_known else "image"
    masks = {name: group_masks(values) for name, values in groups.items()}
    for name, found in masks.items():
        if found and len(found[0][1]) != len(answers.scores):
            raise ValueError(f"{len(found[0][1])} values of {name!r} for {len(answers.scores)} images")
    metrics = OF_TWO if positive is not None else OF_MORE
    n_differences = len(metrics) * sum(len(found) - (len(found) == 2) for found in masks.values() if len(found) > 1)
    corrected = 1 - (1 - config.level) / max(1, n_differences)
    measure = _Measure(answers, metrics, positive, kind)
    columns = {
        name: tuple(measure.group(value, mask, level=config.level, corrected=corrected) for value, mask in found)
        for name, found in masks.items()
    }
    return Subgroups(config.level, _multiplicity(n_differences, len(metrics), config.level, corrected), columns)


def group_masks(values: Sequence[str | None]) -> list[tuple[str, Mask]]:
    """Groups of a column: name and (N,) True for its images.

    More than 8 different numbers become up to four ranges of about equally many images; the name of a range has
    the smallest and the largest number that is in it.
    """
    given = np.array([value is not None for value in values], dtype=np.bool_)
    different = {value for value in values if value is not None}
    found: list[tuple[str, Mask]]
    parsed = numbers(values) if len(different) > MOST_NUMBERS else None
    if parsed is not None and len(set(parsed) - {None}) > MOST_NUMBERS:
        found = _ranges(np.array([math.nan if number is None else number for number in parsed]), given)
    else:
        every = np.array(values, dtype=object)
        found = [(value, np.equal(every, value).astype(np.bool_)) for value in sorted(different, key=natural_key)]
    return found if given.all() else [*found, (MISSING, ~given)]


def _ranges(number: FloatArray, given: Mask) -> list[tuple[str, Mask]]:
    inner = np.unique(np.quantile(number[given], [0.25, 0.5, 0.75]))
    place = np.searchsorted(inner, number, side="left")
    found = []
    for at in range(len(inner) + 1):
        mask = given & (place == at)
        if mask.any():
            low, high = (f"{limit:.10g}" for limit in (number[mask].min(), number[mask].max()))
            found.append((low if low == high else f"{low} to {high}", mask))
    return found


def _multiplicity(n_differences: int, n_metrics: int, level: float, corrected: float) -> str:
    if n_differences == 0:
        return "No differences: no column has two groups."
    return (
        f"Intervals of differences hold for all {n_differences} differences ({n_metrics} metrics) at once with "
        f"{100 * level:g} % confidence: each is made at {100 * corrected:.4g} % (Bonferroni). "
        "Intervals of a group's own metrics are not corrected."
    )


@dataclass(frozen=True)
class _Measured:
    """A metric of some images: value, its limits at two levels, and what each patient adds to it (U,)."""

    value: float
    plain: Limits
    wide: Limits
    pull: FloatArray
    n: int
    method: str
    classes: tuple[int, ...] = ()


class _Measure:
    """Measures groups of the images of some answers."""

    def __init__(self, answers: Answers, metrics: Sequence[str], positive: int | None, kind: str) -> None:
        self.answers, self.metrics, self.positive, self.kind = answers, metrics, positive, kind
        names, unit = np.unique(np.array(answers.scores.patient_ids, dtype=object), return_inverse=True)
        self.unit, self.n_units = unit.astype(np.int64), len(names)

    def group(self, value: str, mask: Mask, *, level: float, corrected: float) -> Subgroup:
        inside, rest = (_Images(self, one, (level, corrected)) for one in (mask, ~mask))
        metrics, difference = {}, {}
        for name in self.metrics:
            own, other = inside.measure(name), rest.measure(name)
            metrics[name] = _estimate(own, level, inside.n)
            difference[name] = _difference(own, other, corrected, len(mask))
        n_patients = len(np.unique(self.unit[mask])) if self.kind == "patient" else None
        return Subgroup(value, inside.n, n_patients, self._flag(mask, n_patients), metrics, difference)

    def _flag(self, mask: Mask, n_patients: int | None) -> str:
        counts = np.bincount(self.answers.scores.y_true[mask], minlength=len(self.answers.scores.classes))
        few = [
            f"{count} of {name}"
            for name, count in zip(self.answers.scores.classes, counts.tolist(), strict=True)
            if count < FEW
        ]
        reasons = [f"fewer than {FEW} images of a class: {', '.join(few)}"] if few else []
        if n_patients is not None and n_patients < FEW:
            reasons.append(f"fewer than {FEW} patients: {n_patients}")
        return "; ".join(reasons)


class _Images:
    """A part of the images, and its metrics at two levels."""

    def __init__(self, whole: _Measure, mask: Mask, levels: tuple[float, float]) -> None:
        rows = np.flatnonzero(mask)
        answers = whole.answers.take(rows)
        self.scores, self.right, self.n = answers.scores, answers.right, len(rows)
        self.positive, self.unit, self.n_units = whole.positive, whole.unit[rows], whole.n_units
        config = EvaluationConfig()
        self.bootstraps = [
            Bootstrap(self.scores, config.model_copy(update={"level": level}), seed=0, kind=whole.kind)
            for level in levels
        ]
        self.singles, self.kind = self.bootstraps[0].singles, whole.kind

    def measure(self, metric: str) -> _Measured | str:
        """The metric, or why there is none."""
        if self.n == 0:
            return "0 images"
        y_true = self.scores.y_true
        if metric == "auroc":
            return self._ranking()
        if metric == "balanced_accuracy":
            return self._balanced()
        if metric == "accuracy":
            return self._share(np.ones(self.n, dtype=np.bool_))
        case = y_true == self.positive
        group = case if metric == "sensitivity" else ~case
        return self._share(group) if group.any() else ("0 cases" if metric == "sensitivity" else "0 non-cases")

    def _by_patient(self, pull: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(self.unit, weights=pull, minlength=self.n_units), dtype=np.float64)

    def _share(self, group: Mask) -> _Measured:
        value, n = float(self.right[group].mean()), int(group.sum())
        pull = np.where(group, self.right - value, 0.0) / n
        (plain, method), (wide, _) = (share_limits(self.right, group, one) for one in self.bootstraps)
        return _Measured(value, plain, wide, self._by_patient(pull), n, method)

    def _balanced(self) -> _Measured:
        """Mean of the classes' shares, whose limits are combined as those of independent values."""
        present = tuple(np.unique(self.scores.y_true).tolist())
        shares = [self._share(self.scores.y_true == k) for k in present]
        value = float(np.mean([one.value for one in shares]))
        both = []
        for name in ("plain", "wide"):
            limits = [(one.value - getattr(one, name)[0], getattr(one, name)[1] - one.value) for one in shares]
            low, high = (math.hypot(*side) / len(shares) for side in zip(*limits, strict=True))
            both.append((max(0.0, value - low), min(1.0, value + high)))
        pull = np.mean([one.pull for one in shares], axis=0)
        method = f"{shares[0].method.split(',')[0]}, combined over classes"
        return _Measured(value, both[0], both[1], pull, self.n, method, present)

    def _ranking(self) -> _Measured | str:
        y_true, proba = self.scores.y_true, self.scores.y_proba
        present = tuple(np.unique(y_true).tolist())
        if len(present) < 2:
            return f"all images are {self.scores.classes[present[0]]}"
        ranked = present if self.positive is None else (self.positive,)
        cases, scores = [(y_true == k).astype(np.int64) for k in ranked], [proba[:, k] for k in ranked]
        found = [auroc_pulls(case, score) for case, score in zip(cases, scores, strict=True)]
        value = float(np.mean([area for area, _ in found]))
        limits = [self._ranking_limits(value, cases, scores, one) for one in self.bootstraps]
        pull = np.mean([pulls for _, pulls in found], axis=0)
        return _Measured(value, limits[0][0], limits[1][0], self._by_patient(pull), self.n, limits[0][1], ranked)

    def _ranking_limits(
        self, value: float, cases: Sequence[IntArray], scores: Sequence[FloatArray], bootstrap: Bootstrap
    ) -> tuple[Limits, str]:
        level = bootstrap.level
        if self.singles and len(cases) == 1:
            limits, method = delong(cases[0], scores[0], level=level), "delong, logit scale"
        else:
            limits = mean_delong(cases, scores, bootstrap.unit, level=level)
            method = f"delong, logit scale, by {self.kind}"
        if limits is not None:
            return limits, method
        counts = [(bootstrap.count(case == 1), bootstrap.count(case == 0)) for case in cases]
        exact = [newcombe_auroc(value, n_cases, n_rest, level=level) for n_cases, n_rest in counts]
        low, high = (float(np.mean(side)) for side in zip(*exact, strict=True))
        return (low, high), f"newcombe, n = {self.kind}s"


def _estimate(own: _Measured | str, level: float, n: int) -> Estimate:
    if isinstance(own, str):
        return Estimate(None, None, None, level, n, "", own)
    return Estimate(own.value, own.plain[0], own.plain[1], level, own.n, own.method)


def _difference(own: _Measured | str, other: _Measured | str, level: float, n: int) -> Estimate:
    for part, name in ((own, "the group"), (other, "the rest")):
        if isinstance(part, str):
            return Estimate(None, None, None, level, n, "", f"{name}: {part}")
    assert isinstance(own, _Measured) and isinstance(other, _Measured)
    if own.classes != other.classes:
        return Estimate(None, None, None, level, n, "", "the group and the rest do not have images of the same classes")
    product = math.sqrt(float((own.pull @ own.pull) * (other.pull @ other.pull)))
    correlation = float(own.pull @ other.pull) / product if product > NO_VARIANCE else 0.0
    limits = combine_limits(own.value, other.value, own.wide, other.wide, correlation=correlation)
    method = "limits of both combined" + (", patients in both" if (own.pull * other.pull).any() else "")
    return Estimate(own.value - other.value, limits[0], limits[1], level, own.n + other.n, method)
