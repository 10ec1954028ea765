"""What a report says in words: numbers with intervals, plain readings, and what to read first.

Everything here is text and small integers; escaping belongs to the template. "Of 100 images" is how
people read risks best (Gigerenzer and Edwards, BMJ 2003;327:741), so shares are said as counts of 100.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from medgraft.types import CheckResult, Severity

SMALL_TEST = 100
SMALL_CLASS = 20

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class MetricWords:
    """Name and meaning of a metric; ``chance`` is what guessing reaches, where that is a constant."""

    label: str
    meaning: str
    better: Better = "higher"
    chance: float | None = None
    unit_scale: bool = True


METRICS: dict[str, MetricWords] = {
    "auroc": MetricWords(
        "AUROC", "how well the probability tells cases from the rest; 0.5 is guessing, 1 is perfect", chance=0.5
    ),
    "auprc": MetricWords("AUPRC", "area under precision and recall; guessing reaches the share of cases"),
    "sensitivity": MetricWords("Sensitivity", "share of the cases that are found"),
    "specificity": MetricWords("Specificity", "share of the non-cases rightly left alone"),
    "ppv": MetricWords("PPV", "share of the flagged that are cases; depends on how common cases are"),
    "npv": MetricWords("NPV", "share of the not flagged that are no cases; depends on how common cases are"),
    "accuracy": MetricWords("Accuracy", "share of images called right"),
    "balanced_accuracy": MetricWords("Balanced accuracy", "mean over the classes of the share found"),
    "f1": MetricWords("F1", "harmonic mean of sensitivity and PPV"),
    "brier": MetricWords("Brier score", "mean squared error of the probabilities", "lower"),
    "ece": MetricWords("Calibration error", "mean distance of stated probability and observed share", "lower"),
    "ece_debiased": MetricWords("Calibration error, debiased", "the same less what chance alone adds to it", "lower"),
    "log_loss": MetricWords("Log loss", "mean surprise at the truth; 0 is none", "lower", unit_scale=False),
    "uncertainty": MetricWords("Uncertainty", "what always stating the share of each class would score", "lower"),
    "resolution": MetricWords("Resolution", "gained by telling images apart"),
    "reliability": MetricWords("Reliability", "lost to stated probabilities that are off", "lower"),
    "within_bin": MetricWords("Within bins", "what the bins cannot see", unit_scale=False),
}
OF_TASK = ("accuracy", "balanced_accuracy", "ece", "ece_debiased", "log_loss")  # one meaning for any number of classes


def metric_words(name: str, *, multiclass: bool = False) -> MetricWords:
    """Words for a metric of the whole task; one without an entry keeps its own name.

    Args:
        name: key in evaluation.json.
        multiclass: the value is a mean over more than two classes, each against the rest.
    """
    words = METRICS.get(name) or MetricWords(name.replace("_", " ").capitalize(), "", unit_scale=False)
    if not multiclass or name in OF_TASK or not words.meaning:
        return words
    if name == "brier":
        return replace(
            words, meaning="squared error of the probabilities, summed over classes, 0 to 2", unit_scale=False
        )
    return replace(words, meaning=f"mean over classes: {words.meaning}")


def estimate_text(estimate: Mapping[str, Any] | None, *, digits: int = 3) -> str:
    """``0.982 (0.971–0.990)``, or why there is no value."""
    if estimate is None or estimate.get("value") is None:
        reason = (estimate or {}).get("reason")
        return f"not estimable: {reason}" if reason else "not estimable"
    text = f"{estimate['value']:z.{digits}f}"
    if estimate.get("low") is None or estimate.get("high") is None:
        return f"{text} (no interval)"
    return f"{text} ({estimate['low']:z.{digits}f}–{estimate['high']:z.{digits}f})"


def of_hundred(share: float, *, digits: int = 0) -> str:
    """A share as a count of 100; 99.7 never becomes a reassuring 100, nor 0.3 a zero.

    Example:
        >>> of_hundred(0.961), of_hundred(0.9971), of_hundred(1.0), of_hundred(0.9999)
        ('96', '99.7', '100', '99.9')
    """
    percent = 100 * share
    if percent in (0.0, 100.0):
        return f"{percent:.0f}"
    if digits or round(percent) in (0, 100):
        return f"{min(max(percent, 0.1), 99.9):.1f}"
    return f"{percent:.0f}"


def range_of_hundred(estimate: Mapping[str, Any]) -> str:
    """The interval as counts of 100, with as many digits as the value has; or an empty text."""
    if estimate.get("low") is None or estimate.get("high") is None:
        return ""
    digits = 1 if "." in of_hundred(estimate["value"]) else 0
    return f"{of_hundred(estimate['low'], digits=digits)}–{of_hundred(estimate['high'], digits=digits)}"


@dataclass(frozen=True, slots=True)
class Reading:
    """One number in plain words; the sentence begins with ``number`` of 100.

    Attributes:
        number: of 100, such as ``96``.
        dots: how many of 100 dots are filled.
        text: how the sentence goes on.
        basis: interval and n.
    """

    number: str
    dots: int
    text: str
    basis: str


def _reading(estimate: Mapping[str, Any] | None, text: str) -> Reading | None:
    """``{rest}`` in the text becomes what is missing to 100."""
    if estimate is None or estimate.get("value") is None:
        return None
    value, interval = float(estimate["value"]), range_of_hundred(estimate)
    basis = (f"{interval} of 100, " if interval else "") + f"n = {estimate['n']:,}"
    dots = min(100, max(0, math.floor(100 * value + 0.5)))
    return Reading(of_hundred(value), dots, text.replace("{rest}", of_hundred(1 - value)), basis)


def find_estimate(evaluation: Mapping[str, Any], name: str, of: str | None = None) -> Mapping[str, Any] | None:
    """An estimate of the whole, or of one class; for two classes the whole's values are the positive's."""
    found = evaluation["metrics"].get(name) if of is None else None
    if found is None and of is not None:
        found = evaluation["per_class"].get(of, {}).get(name)
    return found if isinstance(found, Mapping) else None


def binary_readings(evaluation: Mapping[str, Any], positive: str, negative: str) -> list[Reading]:
    """Sensitivity, specificity and precision as counts of 100 images."""
    texts = {
        "sensitivity": f"images of {positive} are found. {{rest}} are missed.",
        "specificity": f"images of {negative} are rightly left alone. {{rest}} raise a false alarm.",
        "ppv": f"images called {positive} really are. {{rest}} are false alarms.",
    }
    found = [
        _reading(find_estimate(evaluation, name) or find_estimate(evaluation, name, positive), text)
        for name, text in texts.items()
    ]
    return [reading for reading in found if reading is not None]


def multiclass_readings(evaluation: Mapping[str, Any]) -> list[Reading]:
    """Accuracy, then the class found worst and the class found best."""
    found = [_reading(find_estimate(evaluation, "accuracy"), "images are called right. {rest} get another class.")]
    by_class = [(name, find_estimate(evaluation, "sensitivity", name)) for name in evaluation["classes"]]
    known = sorted((e["value"], name, e) for name, e in by_class if e is not None and e.get("value") is not None)
    for (_, name, estimate), rank in zip(
        (known[:1] + known[-1:]) if len(known) > 1 else known, ("least", "most"), strict=False
    ):
        found.append(
            _reading(estimate, f"images of {name} are found, the class found {rank} often. {{rest}} get another class.")
        )
    return [reading for reading in found if reading is not None]


def sentences(evaluation: Mapping[str, Any], positive: str | None) -> list[str]:
    """What the rest of the numbers mean, one sentence each."""
    said: list[str] = []
    auroc = find_estimate(evaluation, "auroc")
    if auroc is not None and auroc.get("value") is not None:
        pair = f"one image of {positive} and one without it" if positive else "one image of a class and one of another"
        whose = "the first" if positive else "the first the higher probability of its class, averaged over classes,"
        gives = f"gives {whose} the higher probability" if positive else f"gives {whose}"
        said.append(
            f"Shown {pair}, drawn at random, the model {gives} in {of_hundred(auroc['value'])} of 100 such pairs "
            f"({range_of_hundred(auroc)}). Guessing reaches 50."
        )
    rows = [sum(row) for row in evaluation["confusion"]]
    if (total := sum(rows)) > 0:
        common = evaluation["classes"][rows.index(max(rows))]
        right = sum(row[i] for i, row in enumerate(evaluation["confusion"]))
        said.append(
            f"The model is right on {right:,} of {total:,} images ({of_hundred(right / total)} of 100). "
            f"Always answering {common} would be right on {of_hundred(max(rows) / total)} of 100."
        )
        if positive:
            share = of_hundred(rows[list(evaluation["classes"]).index(positive)] / total)
            said.append(
                f"How many alarms are right depends on how common {positive} is: here, {share} of 100 images. "
                "Where it is rarer, more of the alarms are false."
            )
    ece = find_estimate(evaluation, "ece")
    if ece is not None and ece.get("value") is not None:
        said.append(
            f"Stated probabilities are off by {100 * ece['value']:.1f} percentage points on average"
            + (f" ({100 * ece['low']:.1f}–{100 * ece['high']:.1f})." if ece.get("low") is not None else ".")
        )
    level = next((e["level"] for e in evaluation["metrics"].values() if e.get("level")), 0.95)
    units = "patients" if evaluation.get("n_patients") is not None else "images (patients are unknown)"
    said.append(
        f"The range behind each number is its {100 * level:.0f} % interval: how far the number could move if other "
        f"{units} of the same kind had been tested. It says nothing about other hospitals, devices or populations."
    )
    return said


@dataclass(frozen=True, slots=True)
class Caution:
    """Something the reader must know before believing a number."""

    severity: Severity
    title: str
    advice: str = ""


def cautions(
    evaluation: Mapping[str, Any], checks: Sequence[CheckResult], *, n_declared: int, n_unscored: int
) -> list[Caution]:
    """All that weakens the numbers, errors first; what a number's own caveat or one caution says is not said again.

    Args:
        evaluation: content of evaluation.json.
        checks: all results; notes are left out here.
        n_declared: images that were to be scored.
        n_unscored: those without a score.
    """
    leaked = leak_caution(evaluation, checks)
    found = [] if leaked is None else [leaked]
    shared = leaked is not None and bool((evaluation["leaks"] or {}).get("patients"))
    found += [] if shared else _patient_cautions(evaluation.get("patient_independence"))
    # what is not known of patients was just said
    quiet = {"PATIENTS_UNKNOWN"} | (_LEAK_CODES if leaked is not None else set())
    if (evaluation.get("baseline_verdict") or {}).get("text"):
        quiet.add("BASELINE_NOT_BEATEN")  # stands with the leading number
    said = [check for check in checks if check.severity != "note" and check.code not in quiet]
    found += [Caution(check.severity, check.title, check.advice) for check in said]
    missing = max(n_unscored, n_declared - _n_scored(evaluation))
    if missing:
        found.append(
            Caution(
                "warning",
                f"{missing:,} of {n_declared:,} declared images have no score; every number leaves them out.",
                "They are listed under Images without a score." if n_unscored else "",
            )
        )
    told = lacking_classes(evaluation) if leaked is not None else []
    sized = any(check.code == "SIZE_TEST_CLASS" for check in said)
    sized = sized or (leaked is not None and leaked.severity == "error")
    found += _size_cautions(evaluation, told=told, sized=sized)
    return sorted(found, key=lambda caution: ("error", "warning", "note").index(caution.severity))


# checks that say what the conclusion about leaks says
_LEAK_CODES = {
    "COPIES_ACROSS_PARTS",
    "COPIES_NEAR_ACROSS_PARTS",
    "PATIENTS_ACROSS_PARTS",
    "SEEN_IN_TRAINING",
    "LEAK_NOTHING_CLEAN",
    "LEAK_CLEAN_SMALL",
}


def leak_count(evaluation: Mapping[str, Any]) -> int:
    """Scored images that training has seen, themselves or their patient; 0 where nothing is known."""
    leaks = evaluation.get("leaks") or {}
    return sum(int(leaks.get(kind) or 0) for kind in ("exact", "near", "patients"))


def lacking_classes(evaluation: Mapping[str, Any]) -> list[str]:
    """Classes of the scored images of which training has seen every one."""
    counts = [_class_counts((evaluation.get("subsets") or {}).get(name)) for name in ("all", "clean")]
    return [name for name, n, left in zip(evaluation["classes"], *counts, strict=False) if n and not left]


def leak_caution(evaluation: Mapping[str, Any], checks: Sequence[CheckResult]) -> Caution | None:
    """What can and cannot be concluded where training has seen scored images, or nobody knows; None where it has not.

    An error when the clean images are none, few or lack a class: then no number answers the question.
    """
    leaks = evaluation.get("leaks") or {}
    conclusion = sentence(str(leaks.get("conclusion") or ""))
    if not conclusion or not (leak_count(evaluation) or nothing_known(evaluation)):
        return None
    weak = any(check.code.startswith("LEAK_") for check in checks) or lacking_classes(evaluation)
    if leak_count(evaluation) and (weak or evaluation.get("headline") != "clean"):
        return Caution("error", conclusion, "Test on images of other patients, which training has not seen.")
    return Caution("warning", conclusion)


def nothing_known(evaluation: Mapping[str, Any]) -> bool:
    """Whether it was asked what training has seen, and nobody knows."""
    return str((evaluation.get("leaks") or {}).get("against") or "").startswith("nothing")


def sentence(text: str) -> str:
    """With a capital and a full stop; nothing stays nothing.

    Example:
        >>> sentence("of 12 images 3 are copies")
        'Of 12 images 3 are copies.'
    """
    text = text.strip()
    return "" if not text else text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def _class_counts(subset: Mapping[str, Any] | None) -> list[int]:
    return [sum(row) for row in (subset or {}).get("confusion") or []]


def _n_scored(evaluation: Mapping[str, Any]) -> int:
    """All scored images, also where the leading numbers are of the clean ones alone."""
    whole = (evaluation.get("subsets") or {}).get("all") or evaluation
    return int(whole["n_images"])


def _patient_cautions(independence: str | None) -> list[Caution]:
    if independence == "verified":
        return []
    if independence == "violated":
        return [
            Caution(
                "error",
                "Patient independence is violated: patients stand on both sides of the split.",
                "The numbers below are too good. Split by patient and run again.",
            )
        ]
    return [
        Caution(
            "warning",
            "Patient independence is NOT verified: training and test may show the same patients.",
            "If they do, the numbers are too good and the intervals too narrow. "
            "Name the patient column or a rule for file names.",
        )
    ]


def _size_cautions(evaluation: Mapping[str, Any], *, told: Sequence[str], sized: bool) -> list[Caution]:
    """Too few images, and classes without any but those already told; ``sized``: small classes are told too."""
    found: list[Caution] = []
    counts = {name: sum(row) for name, row in zip(evaluation["classes"], evaluation["confusion"], strict=True)}
    empty = [name for name, n in counts.items() if n == 0 and name not in told]
    few = [f"{name} ({n})" for name, n in counts.items() if 0 < n < SMALL_CLASS]
    n_images = int(evaluation["n_images"])
    if n_images < SMALL_TEST:
        found.append(
            Caution(
                "warning",
                f"Very small test set: {n_images} images. One image more or less moves the numbers visibly.",
                "Read the intervals, not the values.",
            )
        )
    if empty:
        found.append(
            Caution("warning", f"The test set has no case of {', '.join(empty)}; what needs one is not estimable.")
        )
    if few and not sized:
        found.append(Caution("warning", f"Fewer than {SMALL_CLASS} test images of {', '.join(few)}."))
    return found
