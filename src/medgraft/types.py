"""Values that cross layers: frozen, validated at the border, arrays read-only.

Nothing here imports torch. Shapes use N images, C classes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Resize = Literal["squash", "pad", "crop"]
Interpolation = Literal["bilinear", "bicubic"]
Severity = Literal["error", "warning", "note"]
PatientIndependence = Literal["verified", "not verified", "violated"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
PixelArray = npt.NDArray[np.uint8]

RESEARCH_USE_ONLY = "Research use only. Not a medical device, not for clinical use."


@dataclass(frozen=True, slots=True)
class Sample:
    """One declared image.

    Attributes:
        sample_id: unique within a manifest; what outputs call the image.
        image: absolute path of the image file.
        label: class name, or None when unknown.
        patient_id: unit of splitting and resampling, or None when unknown.
        mask: absolute path of the mask file, or None.
        split: part the sample belongs to, or None before splitting.
    """

    sample_id: str
    image: str
    label: str | None = None
    patient_id: str | None = None
    mask: str | None = None
    split: Split | None = None


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How decoded pixels become network input; belongs to the weights.

    Attributes:
        size: (height, width) in pixels of the network input.
        resize: ``squash`` scales both sides independently, ``pad`` keeps the aspect and fills with
            black, ``crop`` keeps the aspect and cuts the centre.
        interpolation: filter used for resizing (antialiased).
        mean: per channel RGB, on the 0..1 scale.
        std: per channel RGB, on the 0..1 scale.
    """

    size: tuple[int, int]
    resize: Resize
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"size must be positive, got {self.size}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Inverse of :meth:`as_dict`, after a round trip through JSON (lists for tuples)."""
        height, width = values["size"]
        mean, std = (tuple(float(x) for x in values[key]) for key in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3:
            raise ValueError("mean and std need three values each")
        return cls((int(height), int(width)), values["resize"], values["interpolation"], mean, std)


@dataclass(frozen=True, slots=True)
class Scores:
    """All that evaluation reads: who, what is true, what the model said.

    Attributes:
        sample_ids: N unique identifiers.
        patient_ids: N resampling units; the sample id where the patient is unknown.
        classes: C class names in index order.
        y_true: (N,) int64 class indices.
        y_proba: (N, C) float64, rows sum to 1.
    """

    sample_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    classes: tuple[str, ...]
    y_true: IntArray
    y_proba: FloatArray

    def __post_init__(self) -> None:
        y_true = np.array(self.y_true, dtype=np.int64)
        y_proba = np.array(self.y_proba, dtype=np.float64)
        n, n_classes = len(self.sample_ids), len(self.classes)
        if len(set(self.classes)) != n_classes or n_classes < 2:
            raise ValueError(f"classes must be at least two different names, got {self.classes}")
        if len(self.patient_ids) != n or y_true.shape != (n,) or y_proba.shape != (n, n_classes):
            raise ValueError(
                f"lengths differ: {n} samples, {len(self.patient_ids)} patients, "
                f"y_true {y_true.shape}, y_proba {y_proba.shape} for {n_classes} classes"
            )
        if len(set(self.sample_ids)) != n:
            raise ValueError("sample_ids must be unique")
        if n and (y_true.min() < 0 or y_true.max() >= n_classes):
            raise ValueError(f"y_true must be in 0..{n_classes - 1}")
        if not np.isfinite(y_proba).all() or (n and (y_proba.min() < 0 or y_proba.max() > 1)):
            raise ValueError("y_proba must be finite and within 0..1")
        if n and not np.allclose(y_proba.sum(axis=1), 1.0, atol=1e-4):
            raise ValueError("rows of y_proba must sum to 1")
        y_true.setflags(write=False)
        y_proba.setflags(write=False)
        object.__setattr__(self, "y_true", y_true)
        object.__setattr__(self, "y_proba", y_proba)

    def __len__(self) -> int:
        return len(self.sample_ids)

    def take(self, rows: IntArray) -> Scores:
        """The images at these positions, in this order."""
        ids, patients = (tuple(own[row] for row in rows.tolist()) for own in (self.sample_ids, self.patient_ids))
        return Scores(ids, patients, self.classes, self.y_true[rows], self.y_proba[rows])

    @property
    def n_patients(self) -> int:
        return len(set(self.patient_ids))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval; ``value`` is None when it cannot be estimated.

    Attributes:
        value: point estimate, or None ("not estimable").
        low: lower limit of the interval, or None.
        high: upper limit of the interval, or None.
        level: nominal coverage, 0.95 by default.
        n: number of images the estimate rests on.
        method: how the interval was made, such as ``wilson`` or ``patient bootstrap``.
        reason: why there is no value, when there is none.
    """

    value: float | None
    low: float | None
    high: float | None
    level: float = 0.95
    n: int = 0
    method: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{name} must be finite or None, got {number}")

    def __str__(self) -> str:
        if self.value is None:
            return f"not estimable ({self.reason})" if self.reason else "not estimable"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One epoch of training: a line of metrics.csv, a point of the curves.

    Attributes:
        phase: name of the stage of training.
        epoch: 1, 2, … within the phase.
        train_loss: mean loss on the training part, while it was trained on; None when not measured.
        train_accuracy: 0..1, or None.
        val_loss: mean loss on the validation part, never augmented; or None.
        val_accuracy: 0..1, or None.
        val_auroc: 0..1, or None where it is not estimable.
        refined_loss: ``val_loss`` at the temperature that fits validation best: what decides which epoch is
            kept, since a temperature is fitted in the end anyway; or None.
        head_lr: learning rate of the head at the last step.
        backbone_lr: learning rate of the backbone at the last step; 0 when it is frozen.
        seconds: wall time, validation included.
        images_per_second: training images per second of that time.
        best: whether its weights were the best so far; the last such row of a phase is the one kept.
    """

    phase: str
    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    val_auroc: float | None = None
    refined_loss: float | None = None
    head_lr: float = 0.0
    backbone_lr: float = 0.0
    seconds: float = 0.0
    images_per_second: float = 0.0
    best: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """One output per input, in order; an unreadable input is a prediction with an error.

    Attributes:
        sample_id: identifier of the input.
        path: the input as the user named it.
        classes: C class names.
        proba: C calibrated probabilities, or None when there is an error.
        label: predicted class at the operating point, or None when there is an error.
        error: ``[CODE] what`` when the input could not be scored.
        spread: standard deviation over the passes of the probability of the predicted class; None when there
            was one pass or an error.
        passes: probabilities averaged for each input (members x views x draws); 1 without any of these.
        prediction_set: classes that hold the truth as often as the bundle promises; empty where none is as probable
            as true classes usually are; None without a promise for these passes or with an error.
        refer: whether to leave the input to a person, its set not being exactly the label; None likewise.
    """

    sample_id: str
    path: str
    classes: tuple[str, ...]
    proba: tuple[float, ...] | None = None
    label: str | None = None
    error: str | None = None
    spread: float | None = None
    passes: int = 1
    prediction_set: tuple[str, ...] | None = None
    refer: bool | None = None

    @property
    def status(self) -> Literal["ok", "unscored"]:
        return "ok" if self.error is None else "unscored"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check of the data says.

    Attributes:
        code: stable identifier, such as ``COPIES_EXACT``.
        severity: ``error`` makes numbers untrue, ``warning`` stands in every report, ``note`` informs.
        title: one sentence with the counts in it.
        evidence: JSON-ready facts: counts, file pairs.
        advice: what to do.
    """

    code: str
    severity: Severity
    title: str
    evidence: dict[str, Any] = field(default_factory=dict)
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
