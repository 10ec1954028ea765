"""Every figure of an evaluation that its content allows, written as PNG and returned as SVG for the page.

ReportContent ──► plots, use_plots, history, trust_figures ──► drawing.save ──► Chart by name
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medgraft.evaluation.calibration import calibration_event
from medgraft.report import plots, use_plots, wording
from medgraft.report.drawing import Chart, plot_text, save
from medgraft.report.evaluation_content import ReportContent
from medgraft.report.history import Quantity, best_rows, training_figure
from medgraft.types import EpochRow

CURVES = 8


def evaluation_charts(content: ReportContent, folder: Path) -> dict[str, Chart]:
    """Curves and counts of one evaluation, by the name under which the page finds them."""
    charts: dict[str, Chart] = {}
    if content.history:
        quantities: tuple[Quantity, ...] = ("loss", "accuracy")
        for quantity in quantities:
            figure = training_figure(content.history, quantity)
            charts[quantity] = save(
                figure, f"training_{quantity}", folder, alt=_training_alt(content.history, quantity)
            )
    charts |= _curve_charts(content, folder) | _use_charts(content, folder)
    evaluation, classes, scores = content.evaluation, content.scores.classes, content.scores
    confusion = evaluation["confusion"]
    alt = "Confusion matrix. " + " ".join(
        f"True {name}: " + ", ".join(f"{n} called {other}" for other, n in zip(classes, row, strict=True)) + "."
        for name, row in zip(classes, confusion, strict=True)
    )
    charts["confusion"] = save(plots.confusion_figure(classes, confusion), "confusion_matrix", folder, alt=alt)
    n_wrong = int((content.predicted != scores.y_true).sum())
    figure = plots.probability_figure(scores, content.predicted, positive=content.positive, threshold=content.threshold)
    said = f"Histogram of probabilities: {len(scores) - n_wrong} right and {n_wrong} wrong predictions"
    said += f", threshold {content.threshold:.3f}." if content.threshold is not None else "."
    charts["probabilities"] = save(figure, "probabilities", folder, alt=said)
    if n_wrong:
        alt = f"One dot per wrong prediction, {n_wrong} in all, by true class and probability of the class named."
        charts["wrong"] = save(plots.wrong_figure(scores, content.predicted), "wrong_predictions", folder, alt=alt)
    return charts


def _training_alt(history: Sequence[EpochRow], quantity: Quantity) -> str:
    parts = []
    for phase, i in best_rows(history).items():
        row = history[i]
        train, val = getattr(row, f"train_{quantity}"), getattr(row, f"val_{quantity}")
        values = ", ".join(f"{name} {v:.3f}" for name, v in (("train", train), ("validation", val)) if v is not None)
        parts.append(f"phase {phase}, best epoch {row.epoch}: {values}")
    return f"{quantity.capitalize()} per epoch on train and validation; " + ("; ".join(parts) or "no best epoch") + "."


def _curve_charts(content: ReportContent, folder: Path) -> dict[str, Chart]:
    """ROC, precision and recall, calibration."""
    scores, evaluation, positive = content.scores, content.evaluation, content.positive
    shown = (
        [positive]
        if positive is not None
        else list(np.argsort(-np.bincount(scores.y_true, minlength=len(scores.classes)), kind="stable")[:CURVES])
    )
    texts: dict[str, list[tuple[int, str]]] = {}
    for name in ("auroc", "auprc"):
        texts[name] = [(int(i), _curve_text(content, name, int(i))) for i in shown]
    roc_point, pr_point = _operating(content)
    validation = content.validation_scores if positive is not None else None
    roc = plots.roc_figure(scores, texts["auroc"], validation=validation, operating=roc_point)
    pr = plots.pr_figure(scores, texts["auprc"], validation=validation, operating=pr_point)
    event, proba = calibration_event(scores.y_true, scores.y_proba, positive)
    x = f"stated probability of {'the positive' if positive is not None else 'the most probable'} class"
    y = "share that really are" if positive is not None else "share that is right"
    before = None if content.uncalibrated is None else calibration_event(scores.y_true, content.uncalibrated, positive)
    reliability = plots.reliability_figure(event, proba, x=x, y=y, before=before)
    ece = wording.estimate_text(wording.find_estimate(evaluation, "ece"))
    return {
        "roc": save(roc, "roc", folder, alt="ROC curve. " + _plain("; ".join(t for _, t in texts["auroc"]))),
        "pr": save(
            pr,
            "precision_recall",
            folder,
            alt="Precision-recall curve. " + _plain("; ".join(t for _, t in texts["auprc"])),
        ),
        "calibration": save(reliability, "calibration", folder, alt=f"Reliability diagram, calibration error {ece}."),
    }


def _use_charts(content: ReportContent, folder: Path) -> dict[str, Chart]:
    """Net benefit of two classes, risk and coverage."""
    charts: dict[str, Chart] = {}
    decision, risk = content.decision, content.risk
    if decision is not None and decision.positive is not None and not decision.reason:
        figure = use_plots.decision_figure(decision, threshold=content.threshold)
        said = "Net benefit of acting on the model, on every image and on none. " + "; ".join(
            f"from {100 * point['threshold']:.0f} %: model {point['model']:.3f}, all {point['treat_all']:.3f}"
            for point in decision.as_dict()["points"][2:11:4]
        )
        charts["decision"] = save(figure, "decision_curve", folder, alt=f"{said}.")
    if risk is not None and len(risk.error):
        said = ", ".join(f"{100 * risk.error[c - 1]:.1f} % among the surest {c} %" for c in (20, 50, 80, 100))
        charts["risk"] = save(use_plots.risk_figure(risk), "risk_coverage", folder, alt=f"Wrong answers: {said}.")
    return charts


def _plain(text: str) -> str:
    return text.replace(r"\$", "$")


def _curve_text(content: ReportContent, name: str, index: int) -> str:
    """Key of one curve: the estimate, after the class where there are many."""
    label = content.scores.classes[index]
    if content.positive is None:
        estimate = wording.find_estimate(content.evaluation, name, label)
        value = None if estimate is None else estimate.get("value")
        return f"{plot_text(label, limit=18)}  {'not estimable' if value is None else format(value, '.3f')}"
    estimate = wording.find_estimate(content.evaluation, name) or wording.find_estimate(content.evaluation, name, label)
    return f"{name.upper()} {wording.estimate_text(estimate).partition(':')[0]}"


def _operating(content: ReportContent) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """(sensitivity, specificity) and (recall, precision) at the operating point; None where not estimable."""
    if content.positive is None:
        return None, None
    true, named = content.scores.y_true == content.positive, content.predicted == content.positive
    if not true.any():
        return None, None
    sensitivity = float(named[true].mean())
    pr_point = (sensitivity, float(true[named].mean())) if named.any() else None
    return (None if true.all() else (sensitivity, float((~named[~true]).mean()))), pr_point
