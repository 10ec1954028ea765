"""All that the page of an evaluation shows: values, pictures and tables, handed over by a workflow.

    evaluation.json, Scores, CheckResult, pictures ──► ReportContent ──► evaluation_page.write_report

What is empty is left out of the page, never invented.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medgraft.evaluation.decision_curve import DecisionCurve
from medgraft.evaluation.risk_coverage import RiskCoverage
from medgraft.report.checks_table import PicturedExample
from medgraft.types import CheckResult, EpochRow, FloatArray, IntArray, PixelArray, Scores


@dataclass(frozen=True, slots=True)
class Thumb:
    """A sample image of the data.

    Attributes:
        label: its class.
        image: (h, w, 3) uint8.
        caption: a few words beneath it, such as the split.
    """

    label: str
    image: PixelArray
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One scored test image.

    Attributes:
        sample_id: as in the manifest.
        true: class name.
        predicted: class name at the operating point.
        proba: probability of the predicted class, 0..1.
        image: (h, w, 3) uint8.
        overlay: (h, w, 3) uint8, the image with the Grad-CAM of the predicted class; None without one.
    """

    sample_id: str
    true: str
    predicted: str
    proba: float
    image: PixelArray
    overlay: PixelArray | None = None


@dataclass(frozen=True, slots=True)
class BlankedPair:
    """An image as it is and as the model was asked again.

    Attributes:
        caption: what was blanked, and what the model answered before and after.
        image: (h, w, 3) uint8.
        blanked: the same with a region blanked.
    """

    caption: str
    image: PixelArray
    blanked: PixelArray


@dataclass(frozen=True, slots=True)
class FoldRow:
    """One fold of a cross-validation.

    Attributes:
        repeat: 1, 2, …
        fold: 1, 2, … within the repeat.
        n_images: images that were held out.
        auroc: estimate on them, as in evaluation.json.
        accuracy: the same for the share of right answers.
        threshold: of the operating point, chosen without them; None for more than two classes.
    """

    repeat: int
    fold: int
    n_images: int
    auroc: Mapping[str, Any] | None
    accuracy: Mapping[str, Any] | None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class ReportContent:
    """All that a report shows.

    Attributes:
        title: heading of the page.
        evaluation: content of evaluation.json.
        scores: the images that the leading numbers are of, N images.
        predicted: (N,) class indices at the operating point.
        history: epochs in the order they ran; empty when nothing was trained.
        validation_scores: the validation part of two classes, drawn beside the test part in ROC and PR.
        class_counts: images by class and split; empty shows the scored images alone.
        sample_grid: images of the data, by class.
        errors: wrong predictions to show.
        typical: right predictions to show.
        checks: all results; errors and warnings also stand at the top.
        check_pictures: examples of a check, by its code.
        blanked: images before and after a region was blanked.
        folds: of a cross-validation, beside what evaluation.json says of it.
        plan_rows: (setting, value, reason).
        parts: content of evaluation.json by part, test among them; empty shows no comparison of parts.
        uncalibrated: (N, C) probabilities before the temperature; None draws those after it alone.
        decision: net benefit of two classes; None leaves the figure out.
        risk: error against the share answered; None leaves the figure out.
        provenance: (name, value).
        n_declared: images that were to be scored; None means exactly the scored ones.
        unscored: (sample id, reason) of each declared image without a score.
    """

    title: str
    evaluation: Mapping[str, Any]
    scores: Scores
    predicted: IntArray
    history: Sequence[EpochRow] = ()
    validation_scores: Scores | None = None
    class_counts: Mapping[str, Mapping[str, int]] | None = None
    sample_grid: Sequence[Thumb] = ()
    errors: Sequence[Case] = ()
    typical: Sequence[Case] = ()
    checks: Sequence[CheckResult] = ()
    check_pictures: Mapping[str, Sequence[PicturedExample]] = field(default_factory=dict)
    blanked: Sequence[BlankedPair] = ()
    folds: Sequence[FoldRow] = ()
    plan_rows: Sequence[tuple[str, str, str]] = ()
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    uncalibrated: FloatArray | None = None
    decision: DecisionCurve | None = None
    risk: RiskCoverage | None = None
    provenance: Sequence[tuple[str, str]] = ()
    n_declared: int | None = None
    unscored: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        n_classes = len(self.scores.classes)
        if tuple(self.evaluation["classes"]) != self.scores.classes:
            raise ValueError(f"classes differ: {self.evaluation['classes']} and {self.scores.classes}")
        if self.predicted.shape != (len(self.scores),):
            raise ValueError(f"predicted must be ({len(self.scores)},), got {self.predicted.shape}")
        if len(self.predicted) and not 0 <= self.predicted.min() <= self.predicted.max() < n_classes:
            raise ValueError(f"predicted must be in 0..{n_classes - 1}")

    @property
    def positive(self) -> int | None:
        """Index of the positive class of two, the second by default; None for more classes."""
        if len(self.scores.classes) != 2:
            return None
        name = self.evaluation["operating_point"].get("positive")
        return self.scores.classes.index(name) if name in self.scores.classes else 1

    @property
    def threshold(self) -> float | None:
        """On the positive's probability; None for more than two classes."""
        value = self.evaluation["operating_point"].get("threshold")
        return float(value) if value is not None and self.positive is not None else None

    @property
    def trained(self) -> bool:
        """Whether the page tells of a training, of which the scored images are the test part."""
        return bool(self.history or self.plan_rows or self.class_counts)
