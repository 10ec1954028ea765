"""Parts and classes too small for a number that means something.

SIZE_TEST_CLASS   fewer than 30 test images of a class: the 95 % interval of its sensitivity spans
                  more than about 0.2 (Wilson, at 0.9)
"""

from __future__ import annotations

from medgraft.data.manifest import Manifest
from medgraft.types import CheckResult

SMALLEST_CLASS = 30


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
