"""Whether the label can be read where no disease is shown: at the border, in the corners, off the file.

    Judging ─┬─ outer 6 % of each side ─► borders ┐
             ├─ corners of 15 %        ─► corners ├─► AUROC with interval ─► alarm
             └─ metadata baseline ────────────────┘

An alarm asks that the AUROC is above 0.6 beyond doubt. As several questions are asked of every set, the lower limit
is taken further from the value by the ratio that Bonferroni's correction asks for, so that a set without shortcut is
rarely accused.

SHORTCUT_BORDERS    the border alone tells the classes apart
SHORTCUT_CORNERS    the corners alone do: marks, letters, burned-in text
SHORTCUT_METADATA   size, format or brightness of the border do
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

from medgraft.checks.baselines import Baseline, estimate_metrics, leading, make_baseline
from medgraft.checks.judging import Judging
from medgraft.checks.regions import Region, borders, corners
from medgraft.checks.simple_models import forest
from medgraft.config.schema import EvaluationConfig
from medgraft.types import CheckResult, Estimate

LEAST = 0.6
"""AUROC that the corrected lower limit of a source exceeds when it is called a shortcut."""
_QUESTIONS = 3
_WHERE_DISEASE_REACHES = "where tissue or disease reaches that far, as in histopathology, this is no fault; elsewhere "
_ADVICE = {
    "borders": _WHERE_DISEASE_REACHES
    + "crop the images to what should be read, and see the scores with borders blanked",
    "corners": _WHERE_DISEASE_REACHES + "remove marks and text from the files, and see the scores with corners blanked",
    "metadata": "make the files of all classes alike in size, format and frame, or take them from one source; "
    "bytes also depend on what a compressed image shows, the rest should not",
}
_CALLED = {
    "borders": "the outermost 6 % of each side alone",
    "corners": "the four corners alone",
    "metadata": "size, format, border and corner brightness alone",
}


@dataclass(frozen=True)
class ShortcutReport:
    """What evaluation.json says of places where the label should not stand.

    Attributes:
        sources: by name (``borders``, ``corners``) ``protocol`` and ``metrics``.
        checks: one for each shortcut.
    """

    sources: dict[str, dict[str, Any]]
    checks: tuple[CheckResult, ...]


def border_sources(judge: Judging) -> tuple[Baseline, ...]:
    """The label predicted from borders and from corners only.

    Args:
        judge: who is predicted, and from whom.

    Returns:
        ``borders`` and ``corners``; nothing where there is too little to fit on, as ``judge.too_few`` says.
    """
    if judge.too_few is not None:
        return ()
    pixels = judge.used.pixels
    return (_source("borders", judge, borders(pixels)), _source("corners", judge, corners(pixels)))


def summarize_shortcuts(
    sources: Sequence[Baseline],
    baselines: Sequence[Baseline],
    config: EvaluationConfig,
    *,
    patients_known: bool,
    seed: int,
) -> ShortcutReport:
    """Numbers of the sources, and which of them, or of the metadata, tell the label.

    Args:
        sources: of `border_sources`, or a part of each (`Baseline.take`).
        baselines: of `trivial_baselines`, of which ``metadata`` is looked at; may be empty.
        config: level, resamples and kind of interval.
        patients_known: whether the patients of the images are known.
        seed: of the resamples.
    """
    told, checks = {}, []
    for one in (*sources, *(baseline for baseline in baselines if baseline.name == "metadata")):
        metrics = estimate_metrics(one.answers, config, patients_known=patients_known, seed=seed)
        if one.name != "metadata":
            in_json = {name: estimate.as_dict() for name, estimate in metrics.items()}
            told[one.name] = {"protocol": one.protocol, "metrics": in_json}
        if surely_above(metrics["auroc"], LEAST, questions=_QUESTIONS):
            checks.append(_shortcut(one, metrics["auroc"]))
    return ShortcutReport(told, tuple(checks))


def surely_above(estimate: Estimate, least: float, *, questions: int) -> bool:
    """Whether a value is above a bound when several questions are asked at once.

    Args:
        estimate: with its interval.
        least: the bound.
        questions: how many are asked; the lower limit moves away from the value by the ratio of the normal quantiles.
    """
    if estimate.value is None or estimate.low is None:
        return False
    share = (1.0 - estimate.level) / 2.0
    ratio = NormalDist().inv_cdf(share / questions) / NormalDist().inv_cdf(share)
    return estimate.value - ratio * (estimate.value - estimate.low) > least


def _source(name: str, judge: Judging, region: Region) -> Baseline:
    found = make_baseline(name, judge, forest, region.features, described=_CALLED[name])
    return replace(found, leading=leading(region.features, region.places, judge.label))


def _shortcut(source: Baseline, auroc: Estimate) -> CheckResult:
    most = "; strongest on its own: {} ({:.2f})".format(*source.leading[0]) if source.leading else ""
    return CheckResult(
        f"SHORTCUT_{source.name.upper()}",
        "warning",
        f"{_CALLED[source.name]} predict the label with AUROC {auroc}{most}",
        {
            "auroc": auroc.as_dict(),
            "n_images": len(source),
            "protocol": source.protocol,
            "alone": {name: round(area, 3) for name, area in source.leading},
        },
        _ADVICE[source.name],
    )
