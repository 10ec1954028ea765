"""Parts and classes too small for a number that means something.

SIZE_TEST_CLASS   fewer than 30 test images of a class: the 95 % interval of its sensitivity spans
                  more than about 0.2 (Wilson, at 0.9)
SIZE_HALF_WIDTH   how many patients of each class the half-width that is wanted needs, and how many there are
"""

from __future__ import annotations

import math
from statistics import NormalDist

from medgraft.checks.patients import FEWEST_PATIENTS_PER_CLASS
from medgraft.data.manifest import Manifest
from medgraft.types import CheckResult

SMALLEST_CLASS = 30
_LOUD = 4  # fewer than one in so many of the cases needed is worth a warning


def check_sizes(tested: Manifest) -> list[CheckResult]:
    """Classes with too few test images.

    Args:
        tested: the readable samples that numbers will rest on.
    """
    counts = tested.table["label"].value_counts()
    small = {name: int(counts[name]) for name in tested.classes if 0 < counts.get(name, 0) < SMALLEST_CLASS}
    if not small:
        return []
    listed = ", ".join(f"{name} ({count})" for name, count in small.items())
    return [
        CheckResult(
            "SIZE_TEST_CLASS",
            "warning",
            f"few test images: {listed}; intervals are wide",
            {"test_images": small, "wanted": SMALLEST_CLASS},
            "read the intervals, not the values; collect more cases before drawing conclusions",
        )
    ]


def cases_needed(expected: float, half_width: float, level: float = 0.95) -> int:
    """Fewest independent cases with which the Wilson interval of a share has this half-width.

    Args:
        expected: share that will be seen, 0..1, such as a sensitivity of 0.9.
        half_width: half of high less low, above 0 and below 0.5.
        level: coverage of the interval, above 0 and below 1.

    Source:
        Wilson, JASA 1927, solved for n: with z the normal quantile and v = expected (1 - expected), the positive root
        of h^2 n^2 + (2 h^2 - v) z^2 n + (h^2 - 1/4) z^4.

    Example:
        >>> cases_needed(0.9, 0.05)
        141
    """
    if not (0 <= expected <= 1 and 0 < half_width < 0.5 and 0 < level < 1):
        raise ValueError(f"no such interval: expected {expected}, half-width {half_width}, level {level}")
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
    h2, variance = half_width**2, expected * (1 - expected)
    linear, constant = (2 * h2 - variance) * z2, (h2 - 0.25) * z2 * z2
    # Stable for either sign of the linear term: the constant is negative, so one root is positive.
    spread = math.sqrt(linear**2 - 4 * h2 * constant)
    root = (spread - linear) / (2 * h2) if linear < 0 else -2 * constant / (spread + linear)
    return max(1, math.ceil(root - 1e-9))


def check_half_width(
    tested: Manifest, *, half_width: float, level: float = 0.95, expected: float = 0.9
) -> tuple[CheckResult, ...]:
    """How many cases of each class the half-width that is wanted needs, and how many there are.

    Several images of one patient are counted as one case: how alike they are is not known before there are
    answers, and if they stand and fall together they carry no more (a design effect of images per patient, the largest
    there is). The number of images is the other bound. Where patients are unknown, images have to do.

    Args:
        tested: the readable samples that numbers will rest on.
        half_width: of the interval of a class's sensitivity, ``checks.half_width``.
        level: of the interval, ``evaluation.level``.
        expected: sensitivity to plan for.

    Returns:
        One result: a note, or a warning where a class has less than a quarter of what is needed and neither
        SIZE_TEST_CLASS nor GROUPS_TOO_FEW warns of it. Nothing when no class has images.
    """
    needed = cases_needed(expected, half_width, level)
    labels = tested.table["label"].to_numpy()
    units = tested.table["patient_id"].to_numpy() if tested.patients_known else tested.table["sample_id"].to_numpy()
    classes = {}
    for name in tested.classes:
        images = int((labels == name).sum())
        if images:
            cases = len(set(units[labels == name]))
            classes[name] = {"cases": cases, "images": images, "design_effect": round(images / cases, 2)}
    if not classes:
        return ()
    unit = "patients" if tested.patients_known else "independent images"
    short = {name: of["cases"] for name, of in classes.items() if of["cases"] < needed}
    loud = any(
        of["cases"] * _LOUD < needed and of["images"] >= SMALLEST_CLASS and of["cases"] >= FEWEST_PATIENTS_PER_CLASS
        for of in classes.values()
    )
    have = ", ".join(f"{name} ({count:,})" for name, count in short.items())
    title = f"a sensitivity of {expected:g} known to ± {half_width:g} needs {needed:,} {unit} of the class; " + (
        f"fewer are tested of {have}" if short else "every class has as many"
    )
    evidence = {
        "needed": needed,
        "expected": expected,
        "half_width": half_width,
        "level": level,
        "unit": unit,
        "classes": classes,
    }
    advice = "test more cases of these classes, or be content with a wider interval (checks.half_width)"
    return (CheckResult("SIZE_HALF_WIDTH", "warning" if loud else "note", title, evidence, advice if short else ""),)
