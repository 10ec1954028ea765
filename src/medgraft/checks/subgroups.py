"""Groups of the images in which a model does worse.

SUBGROUP_WORSE  a metric of a group is below that of all other images, by more than the corrected interval allows
"""

from __future__ import annotations

from medgraft.data.names import escape
from medgraft.evaluation.subgroups import Subgroup, Subgroups
from medgraft.types import CheckResult, Estimate


def check_subgroups(subgroups: Subgroups) -> tuple[CheckResult, ...]:
    """A warning for every group whose difference to the rest lies below 0 with its whole corrected interval.

    Limits: the intervals know of chance only. A group may do worse because its images are harder, because it has
    few images in training, or because its labels are less sure; and a group that is not named here may do worse
    all the same, when it has few patients.
    """
    results = []
    for column, groups in subgroups.columns.items():
        for group in groups:
            worse = {name: one for name, one in group.difference.items() if one.high is not None and one.high < 0}
            if worse:
                results.append(_result(column, group, worse, subgroups.multiplicity))
    return tuple(results)


def _result(column: str, group: Subgroup, worse: dict[str, Estimate], multiplicity: str) -> CheckResult:
    told = ", ".join(
        f"{name.replace('_', ' ')} {group.metrics[name].value:.3f}, "
        f"{-(one.value or 0):.3f} ({-(one.high or 0):.3f} to {-(one.low or 0):.3f}) below that of all other images"
        for name, one in worse.items()
    )
    patients = "" if group.n_patients is None else f" of {group.n_patients:,} patients"
    title = f"worse where {escape(column)} is {group.value} ({group.n_images:,} images{patients}): {told}"
    evidence = {
        "column": column,
        "value": group.value,
        "n_images": group.n_images,
        "n_patients": group.n_patients,
        "flagged": group.flagged,
        "difference": {name: one.as_dict() for name, one in worse.items()},
        "multiplicity": multiplicity,
    }
    advice = "look at its errors; report this group by itself, add training images of it, or leave it out of the use"
    return CheckResult("SUBGROUP_WORSE", "warning", title, evidence, advice)
