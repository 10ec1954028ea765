"""The page of models compared on the same patients: who is better, by how much, and on which images they part.

PairedContent ──► interval_figure of each difference ──► templates/paired.html.j2 ──► paired.html and plots/*.png
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgraft.report.checks_table import check_rows
from medgraft.report.drawing import Chart, save
from medgraft.report.interval_plots import Mark, interval_figure, said
from medgraft.report.page import write_page
from medgraft.report.wording import SMALL_TEST, Caution, metric_words
from medgraft.types import CheckResult, PixelArray

Facts = Mapping[str, Any]

# higher is better in all of these, so that above 0 always speaks for the other model
COMPARED = ("auroc", "accuracy", "balanced_accuracy", "sensitivity", "specificity")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An image of which a model and the reference say different things.

    Attributes:
        sample_id: what outputs call it.
        true: class it is of.
        predicted: class named by the model.
        proba: the model's probability of the true class.
        reference_predicted: class named by the reference.
        reference_proba: the reference's probability of the true class.
        image: (h, w, 3) uint8.
    """

    sample_id: str
    true: str
    predicted: str
    proba: float
    reference_predicted: str
    reference_proba: float
    image: PixelArray


@dataclass(frozen=True, slots=True)
class PairedContent:
    """All that the page shows.

    Attributes:
        title: heading.
        facts: content of paired.json.
        disagreements: by model, the largest first.
        checks: of the data.
        provenance: (name, value).
        unscored: (sample id, why) of declared images that some model has no score of.
    """

    title: str
    facts: Facts
    disagreements: Mapping[str, Sequence[Disagreement]] = field(default_factory=dict)
    checks: Sequence[CheckResult] = ()
    provenance: Sequence[tuple[str, str]] = ()
    unscored: Sequence[tuple[str, str]] = ()


def write_paired_page(content: PairedContent, folder: Path) -> Path:
    """Write ``paired.html`` and ``plots/*.png`` into a folder.

    Args:
        content: what to show.
        folder: the run's folder; it exists.

    Returns:
        Path of the page. The same content gives the same bytes.
    """
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    facts = content.facts
    differences = facts["differences"]
    metrics = [name for name in COMPARED if name in differences[0]["metrics"]]
    charts = {one["model"]: _chart(one, metrics, plots) for one in differences}
    context = {
        "content": content, "facts": facts, "differences": differences, "metrics": metrics, "charts": charts,
        "multiclass": len(facts["classes"]) > 2, "reference": facts["models"][0]["name"],
        "level": f"{100 * differences[0]['metrics'][metrics[0]]['level']:g} %", "model_metrics": _model_metrics(facts),
        "cautions": _cautions(content), "verdicts": {one["model"]: _verdict(one) for one in differences},
        "said": said, "p_words": p_words, "check_rows": check_rows(content.checks),
    }  # fmt: skip
    return write_page(folder / "paired.html", "paired.html.j2", context)


def p_words(p: float | None) -> str:
    """A p value as it is usually written.

    Example:
        >>> p_words(0.0312), p_words(0.00002), p_words(1.0), p_words(None)
        ('0.031', '< 0.001', '1', '–')
    """
    if p is None:
        return "–"
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}".rstrip("0").rstrip(".") if p < 1 else "1"


def _chart(difference: Facts, metrics: Sequence[str], plots: Path) -> Chart:
    rows = [(metric_words(name).label, difference["simultaneous"][name]) for name in metrics]
    marks: list[Mark] = ["lead" if _decided(estimate) else "plain" for _, estimate in rows]
    model, reference = difference["model"], difference["reference"]
    figure = interval_figure(rows, x=f"{model} less {reference}, above 0 {model} is better", reference=0.0, marks=marks)
    told = "; ".join(f"{name} {said(estimate, signed=True)}" for name, estimate in rows)
    return save(figure, f"differences_{model}", plots, alt=f"Differences, {model} less {reference}: {told}.")


def _decided(estimate: Facts) -> bool:
    """Whether the interval leaves no doubt which one is better."""
    return estimate["value"] is not None and (estimate["low"] > 0 or estimate["high"] < 0)


def _verdict(difference: Facts) -> tuple[str, str]:
    """Kind of sign, and what can be concluded of the ranking, in a sentence."""
    model, reference = difference["model"], difference["reference"]
    estimate = difference["simultaneous"]["auroc"]
    what = "AUROC"
    if estimate["value"] is None:
        estimate, what = difference["simultaneous"]["accuracy"], "accuracy"
    if estimate["value"] is None:
        return "unsure", f"{model} and {reference} cannot be compared on these images: {estimate['reason']}."
    if estimate["low"] == estimate["high"] == 0:
        return "unsure", f"{model} and {reference} give the same answers: {estimate['method']}."
    if not _decided(estimate):
        return "unsure", f"These images cannot tell {model} from {reference}: the interval of the {what} includes 0."
    better, worse = (model, reference) if estimate["value"] > 0 else (reference, model)
    return "good", f"{better} has the higher {what} than {worse}: the interval lies beyond 0."


def _model_metrics(facts: Facts) -> list[str]:
    return [name for name in facts["models"][0]["metrics"] if name != "ece" or len(facts["classes"]) == 2]


def _cautions(content: PairedContent) -> list[Caution]:
    facts = content.facts
    found = [Caution("error", one["said"], one["advice"]) for one in facts["seen"]["cautions"]]
    if facts["n_patients"] is None:
        found.append(
            Caution(
                "warning",
                "Patients are unknown: every image counts as a patient of its own.",
                "If several images show one patient, intervals are too narrow and p values too small. Name the patient "
                "column or a rule for file names.",
            )
        )
    if facts["n_images"] < SMALL_TEST:
        title = f"Very small test set: {facts['n_images']} images. One image more or less moves the numbers visibly."
        found.append(Caution("warning", title, "Read the intervals, not the values."))
    if content.unscored:
        n_declared = facts["n_declared"]
        title = (
            f"{len(content.unscored):,} of {n_declared:,} declared images have no score; every number leaves them out."
        )
        found.append(Caution("warning", title, "They are listed under Images without a score."))
    said_already = {"PATIENTS_UNKNOWN", "SEEN_IN_TRAINING"}
    shown = [check for check in content.checks if check.severity != "note" and check.code not in said_already]
    found += [Caution(check.severity, check.title, check.advice) for check in shown]
    return sorted(found, key=lambda caution: ("error", "warning", "note").index(caution.severity))
