"""What can be asked: the typed configuration, section by section.

Every field has a default that works, a range and a description; ``"auto"`` is a literal that only
the planner resolves (`medgraft.training.plan`). Nothing here imports torch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=10.0)]
Auto = Literal["auto"]

HEAD_LAYER = re.compile(r"^(dropout|mc_dropout|dense)\s+([0-9.]+)(\*classes)?$|^(relu|batch_norm|flatten)$")


class Section(BaseModel):
    """Base of every section: unknown keys refused, values frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=True)


class DataConfig(Section):
    """Where images, labels and patients come from, how they are read and split."""

    label: str | None = Field(None, description="table column with the class")
    image: str | None = Field(None, description="table column with the file or image id")
    patient: str | None = Field(None, description="table column with the patient")
    split: str | None = Field(None, description="table column with train, val or test")
    mask: str | None = Field(None, description="table column with the mask file")
    images: Path | None = Field(None, description="folder in which the ids or relative paths of the table live")
    encoding: str | None = Field(None, description="text encoding of the table, detected when not given")
    patient_preset: str = Field("auto", description="named rule for patients in file names; auto, none or a name")
    patient_regex: str | None = Field(
        None, description="regular expression on the file path; its groups joined are the patient"
    )
    classes: tuple[str, ...] | None = Field(None, description="class names in index order; default natural sort")
    positive: str | None = Field(None, description="positive class of a two-class task")
    modality: Literal["auto", "brain-mri", "chest-xray", "histopathology", "other"] = Field(
        "auto", description="decides which augmentations anatomy allows"
    )
    val_fraction: Annotated[float, Field(ge=0.01, le=0.6)] = Field(0.15, description="share of images for validation")
    test_fraction: Annotated[float, Field(ge=0.01, le=0.6)] = Field(0.15, description="share of images for test")
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0,
        description="share of the images that is used at all, spread by class, in whole patients; a given test part "
        "stays whole",
    )
    given_parts: Literal["keep", "ignore"] = Field(
        "keep", description="parts that a table or folders give; ignore: make them anew, of whole patients and copies"
    )
    small_validation: Literal["pool", "keep"] = Field(
        "pool", description="a given validation part too small to decide on: pool with train and re-split, or keep"
    )
    skip_bad: Fraction = Field(0.0, description="largest share of unreadable images that training may leave out")
    allow_outside: bool = Field(False, description="allow images outside the source folder")
    sixteen_bit: Literal["auto", "full", "percentile"] = Field(
        "auto",
        description="16-bit to 8-bit: auto takes 8, 12 or 16 bits as full range by the largest value; "
        "full range / 257; or 0.5-99.5 percentile of each image",
    )
    float_range: tuple[float, float] | None = Field(
        None, description="value range of float images; 0..1 when not given"
    )
    background: Annotated[int, Field(ge=0, le=255)] = Field(0, description="grey level put behind transparent pixels")
    frame: Annotated[int, Field(ge=0)] | None = Field(None, description="frame of multi-frame files, counted from 0")
    max_megapixels: Annotated[float, Field(gt=0, le=1000)] = Field(
        50.0, description="largest image, in millions of pixels"
    )
    min_side: Annotated[int, Field(ge=1)] = Field(8, description="smallest side in pixels")
    max_side: Annotated[int, Field(ge=8)] = Field(16384, description="largest side in pixels")
    max_aspect: Annotated[float, Field(ge=1)] = Field(20.0, description="largest ratio of the sides")
    max_file_mb: Annotated[float, Field(gt=0)] = Field(200.0, description="largest file in megabytes")
    refuse_burned_in: bool = Field(False, description="refuse DICOM files that declare burned-in annotation")
    cache_dir: Path | None = Field(None, description="pixel and feature cache; default the user's cache folder")
    workers: Annotated[int, Field(ge=1, le=64)] | Auto = Field("auto", description="decoding threads")

    @field_validator("patient_regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if groups < 1:
            raise ValueError("needs at least one (group) that captures the patient")
        return value

    @field_validator("float_range")
    @classmethod
    def _range_rises(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError("needs a smaller number, then a larger one")
        return value

    @model_validator(mode="after")
    def _fractions_leave_train(self) -> DataConfig:
        if self.val_fraction + self.test_fraction > 0.8:
            raise ValueError("val_fraction + test_fraction must leave at least 0.2 for training")
        return self


class ModelConfig(Section):
    """Backbone, its weights, input size and head."""

    backbone: str = Field("efficientnet-lite0", description="catalogue name, Keras name or timm model name")
    weights: str = Field("auto", description="auto, none, hub, or a .safetensors file")
    size: Annotated[int, Field(ge=32, le=2048)] | Auto = Field("auto", description="input side in pixels")
    resize: Literal["squash", "pad", "crop"] = Field("squash", description="how images take the input size")
    pool: Literal["avg", "max"] = Field("avg", description="pooling between backbone and head")
    pool_size: Annotated[int, Field(ge=1, le=32)] | Literal["global", "none"] = Field(
        "global", description="global, a window side in feature cells, or none"
    )
    head: tuple[str, ...] = Field(
        ("dropout 0.2",),
        description="layers before the output: 'dropout P', 'mc_dropout P', 'dense N', 'dense N*classes', 'relu', "
        "'batch_norm', 'flatten'",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="rate of every dropout of the head, in place of the rates given there"
    )
    output: Literal["softmax", "sigmoid"] = Field("softmax", description="sigmoid: one output for a two-class task")

    @field_validator("head")
    @classmethod
    def _known_layers(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        for layer in layers:
            match = HEAD_LAYER.match(layer)
            if match is None:
                raise ValueError(f"{layer!r} is not a head layer; use 'dropout 0.2', 'dense 64', 'relu', 'batch_norm'")
            kind, number, per_class = match.group(1), match.group(2), match.group(3)
            if per_class and kind != "dense":
                raise ValueError(f"{layer!r}: only a dense layer has a width that follows the classes")
            if kind in ("dropout", "mc_dropout") and not 0 <= float(number) < 1:
                raise ValueError(f"{layer!r}: dropout must be in [0, 1)")
            if kind == "dense" and not (number.isdigit() and 1 <= int(number) <= 65536):
                raise ValueError(f"{layer!r}: width must be a whole number in 1..65536")
        return layers


class PhaseConfig(Section):
    """One stage of training: what trains, at which rates, for how long."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")] = Field(description="name in metrics and plots")
    trains: Literal["head", "all", "last-block"] | Annotated[float, Field(gt=0.0, le=1.0)] | tuple[str, ...] = Field(
        "head",
        description="head; all; last-block: the backbone's last block and what follows it; the last fraction of its "
        "layers; or names of its modules",
    )
    epochs: Annotated[int, Field(ge=1, le=10000)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=8192)] | Auto = "auto"
    optimizer: Literal["sgd", "adam", "adamw", "lbfgs"] = Field(
        "adamw", description="lbfgs: a linear head on frozen features, fitted exactly along a path of penalties"
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    head_lr: Rate = Field(1e-3, description="peak learning rate of the head")
    backbone_lr: Rate = Field(1e-4, description="peak learning rate of the backbone")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    schedule: Literal["constant", "inverse_time", "cosine", "one_cycle", "plateau"] = "cosine"
    decay: Annotated[float, Field(ge=0, le=1)] = Field(0.01, description="inverse_time: rate / (1 + decay * step)")
    warmup: Fraction = Field(0.1, description="cosine: share of steps with a rising rate")
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.2
    plateau_patience: Annotated[int, Field(ge=1)] = Field(
        2, description="plateau: epochs without a lower validation loss after which the rate falls"
    )
    min_lr: Annotated[float, Field(ge=0)] = 1e-6
    patience: Annotated[int, Field(ge=1)] | Literal["none"] = Field(
        5, description="early stopping: epochs without a better value of what is monitored"
    )
    monitor: Literal["refined_loss", "val_loss", "val_auroc"] = Field(
        "refined_loss",
        description="decides which epoch is kept and when to stop; refined_loss: validation loss at the temperature "
        "that fits best",
    )
    freeze_norm: bool = Field(True, description="keep the backbone's normalisation statistics")
    freeze_depthwise: bool = Field(False, description="keep the backbone's depthwise filters")
    averaging: Literal["none", "ema", "interpolate"] = Field(
        "none", description="ema: average of the steps; interpolate: between start and end of the phase"
    )

    @model_validator(mode="after")
    def _exact_fit_is_of_the_head(self) -> PhaseConfig:
        if self.optimizer == "lbfgs" and self.trains != "head":
            raise ValueError("optimizer lbfgs fits a head on frozen features; set trains to head")
        return self


class TrainingConfig(Section):
    """Phases and what they share."""

    phases: tuple[PhaseConfig, ...] | Auto = "auto"
    loss: Literal["cross_entropy", "bce", "focal"] | Auto = "auto"
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: Literal["balanced", "none"] = "balanced"
    views: Annotated[int, Field(ge=0, le=1000)] | Auto = Field(
        "auto", description="augmented views per image in the feature cache, beside the clean one"
    )
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"

    @field_validator("phases")
    @classmethod
    def _phases_named_once(cls, phases: tuple[PhaseConfig, ...] | Auto) -> tuple[PhaseConfig, ...] | Auto:
        if phases == "auto":
            return phases
        names = [phase.name for phase in phases]
        if not names:
            raise ValueError("needs at least one phase")
        if len(set(names)) != len(names):
            raise ValueError(f"phase names must differ, got {names}")
        return phases

    @model_validator(mode="after")
    def _exact_fit_is_plain(self) -> TrainingConfig:
        exact = self.phases != "auto" and any(phase.optimizer == "lbfgs" for phase in self.phases)
        if exact and (self.label_smoothing or self.loss not in ("auto", "cross_entropy")):
            raise ValueError("optimizer lbfgs minimizes plain cross-entropy; use adamw with another loss or smoothing")
        return self


class AugmentConfig(Section):
    """Random changes of training images; ranges are symmetric around no change."""

    preset: Literal["auto", "none", "custom"] = Field(
        "auto", description="auto: by modality; none: off; custom: the values below as they are"
    )
    strength: Annotated[float, Field(ge=0, le=4)] = Field(1.0, description="factor on all ranges; 0 turns them off")
    rotation: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="degrees")
    shift_x: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the width")
    shift_y: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the height")
    shear: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="tangent of the angle")
    zoom: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="scale in 1-zoom .. 1+zoom")
    horizontal_flip: bool = False
    vertical_flip: bool = False
    quarter_turns: bool = Field(False, description="rotation by 0, 90, 180 or 270 degrees")
    brightness: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="added, share of full scale")
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="factor in 1-contrast .. 1+contrast")
    noise: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="largest standard deviation, share of full scale"
    )
    blur: Annotated[float, Field(ge=0, le=10)] = Field(0.0, description="largest Gaussian sigma in pixels")

    @property
    def is_identity(self) -> bool:
        """Whether nothing is changed, so that all views of an image would be copies."""
        return not any(self.changes().values())

    def changes(self) -> dict[str, float | bool]:
        """Ranges and flips by name, without preset and strength."""
        return self.model_dump(exclude={"preset", "strength"})

    def scaled(self) -> AugmentConfig:
        """The same changes with ``strength`` multiplied in: ranges grow as far as is allowed, 0 ends flips too."""
        if self.strength == 0:
            return AugmentConfig(preset="none")
        limits = {"rotation": 180.0, "blur": 10.0, "brightness": 1.0, "noise": 1.0}
        ranges = {
            name: min(value * self.strength, limits.get(name, 0.95))
            for name, value in self.changes().items()
            if not isinstance(value, bool)
        }
        return self.model_copy(update={**ranges, "strength": 1.0})


class EvaluationConfig(Section):
    """Operating point and intervals."""

    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    bootstrap: Annotated[int, Field(ge=100, le=100000)] = 1000
    interval: Literal["percentile", "bca"] = Field(
        "percentile", description="limits of the bootstrap; bca corrects bias and skew, for more time"
    )
    operating_point: str = Field(
        "youden",
        description="youden, argmax, sensitivity:VALUE, specificity:VALUE, or cost:RATIO of a missed case to a "
        "false alarm; chosen on validation",
    )
    gallery: Annotated[int, Field(ge=0, le=100)] = Field(12, description="images per gallery of the report")
    parts: tuple[Literal["train", "val"], ...] = Field(
        ("val",), description="parts scored beside test, for parts.csv; they are no estimate of anything"
    )
    by: tuple[str, ...] = Field((), description="columns of the table whose values become subgroups, such as sex, site")
    coverage: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        0.9, description="share of new patients whose prediction sets hold the truth; chosen on validation"
    )

    @field_validator("operating_point")
    @classmethod
    def _known_rule(cls, rule: str) -> str:
        if rule in ("youden", "argmax"):
            return rule
        name, _, number = rule.partition(":")
        try:
            if name in ("sensitivity", "specificity") and 0 < float(number) < 1:
                return rule
            if name == "cost" and 0 < float(number) < float("inf"):
                return rule
        except ValueError:
            pass
        raise ValueError("use youden, argmax, sensitivity:0.95, specificity:0.95 or cost:5")


class ChecksConfig(Section):
    """How hard the data are looked at."""

    deep: bool = Field(True, description="trivial baselines, shortcuts, suspected labels and shift, beside the copies")
    strict: bool = Field(False, description="refuse data with copies or patients on both sides of a given split")
    half_width: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.05, description="half-width of an interval that is wanted; says how many cases it needs"
    )
    images: Annotated[int, Field(ge=100)] = Field(
        20000, description="most images that baselines, suspected labels and shift are fitted on; a share by patient"
    )
    rescored: Annotated[int, Field(ge=20)] = Field(
        200, description="most test images that are scored again with corners, borders or text blanked"
    )
    permutations: Annotated[int, Field(ge=99)] = Field(199, description="of the test for a shift between parts")


class SearchedKey(Section):
    """One key of the configuration that `tune` varies: a range of numbers, or a list of values."""

    key: str = Field(description="dotted key, such as training.phases.finetune.backbone_lr")
    low: float | None = Field(None, description="smallest number of a range")
    high: float | None = Field(None, description="largest number of a range")
    log: bool = Field(False, description="even on the logarithm: for rates")
    choices: tuple[str, ...] | None = Field(
        None, description="values in place of a range, each written as after --set key="
    )

    @model_validator(mode="after")
    def _range_or_choices(self) -> SearchedKey:
        if self.choices is not None:
            if self.low is not None or self.high is not None or not self.choices:
                raise ValueError(f"{self.key} needs low and high, or at least one of choices, not both")
        elif self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"{self.key} needs choices, or low and a larger high")
        elif self.log and self.low <= 0:
            raise ValueError(f"{self.key}: a logarithmic range begins above 0")
        return self


class TuneConfig(Section):
    """What `tune` searches, and by which rule."""

    trials: Annotated[int, Field(ge=1, le=100000)] = Field(20, description="how many, those of earlier starts included")
    space: tuple[SearchedKey, ...] | Auto = Field("auto", description="keys to vary; auto: see docs/tuning.md")
    sampler: Literal["tpe", "random"] = Field("tpe", description="tpe learns from earlier trials; random does not")
    objective: Literal["val_loss", "refined_loss", "val_auroc"] = Field(
        "val_loss", description="of the best epoch of a trial, on the whole validation part"
    )
    pruning: bool = Field(True, description="end a trial early whose validation is worse than the median of the others")
    startup: Annotated[int, Field(ge=1, le=1000)] = Field(5, description="trials before tpe and pruning begin")


class Config(Section):
    """All that can be asked of a run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    augment: AugmentConfig = AugmentConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checks: ChecksConfig = ChecksConfig()
    tune: TuneConfig = TuneConfig()
