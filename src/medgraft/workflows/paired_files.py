"""What a paired comparison leaves: paired.json, paired.csv, paired.html, and what was found in the data.

Contest, Answers of each model ─► images that none was trained on ─► against_reference ─► paired.json, page
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.checks.leaks import Leaks
from medgraft.config import Config
from medgraft.data.manifest import Manifest
from medgraft.data.pixels import Pixels
from medgraft.evaluation.against_reference import against_reference
from medgraft.evaluation.differences import Answers
from medgraft.evaluation.scores import harmless, table_line
from medgraft.inference.bundle import Bundle
from medgraft.inference.predictor import Predictor
from medgraft.report.paired_page import Disagreement, PairedContent, write_paired_page
from medgraft.types import RESEARCH_USE_ONLY, CheckResult, IntArray
from medgraft.workflows.prepare import Prepared
from medgraft.workflows.run_folder import create_folder, environment, now, write_json, write_text


@dataclass(frozen=True)
class Contest:
    """Models and the N images that all of them can read.

    Attributes:
        models: by name, on a device; the first is the reference.
        configs: how each reads.
        prepared: the declared images, read as the reference reads them.
        errors: why a declared image is not among the N, by sample id.
        scored: the N samples.
        rows: (N,) their positions among the declared ones.
        pixels: of the N images at the size of each model.
    """

    models: dict[str, Predictor]
    configs: dict[str, Config]
    prepared: Prepared
    errors: dict[str, str]
    scored: Manifest
    rows: IntArray
    pixels: dict[str, Pixels]

    @property
    def reference(self) -> Bundle:
        return next(iter(self.models.values())).bundle


def write_paired(
    folder: Path,
    contest: Contest,
    answers: Mapping[str, Answers],
    leaks: Mapping[str, Leaks],
    *,
    title: str,
    began: float,
) -> tuple[Path, dict[str, Any]]:
    """Compare, and write everything a reader needs.

    Args:
        folder: made when missing; receives paired.json, paired.csv, paired.html, checks.json, run.json and plots/.
        contest: the models and their images.
        answers: of each model, to the N images.
        leaks: what each model was trained on of them.
        title: heading of the page; name of the source.
        began: when the verb began, of `time.perf_counter`.

    Returns:
        The page, and the content of paired.json.
    """
    config = next(iter(contest.configs.values()))
    facts = _facts(contest, answers, leaks, config)
    create_folder(folder)
    checks = contest.prepared.checks + _leak_checks(facts)
    write_json(folder / "checks.json", [check.as_dict() for check in checks])
    write_text(folder / "paired.csv", _table(contest, answers, leaks))
    write_json(folder / "paired.json", facts)
    rows = _clean(leaks) if facts["headline"] == "clean" else np.arange(len(contest.scored))
    provenance = _provenance(contest, title, began)
    content = PairedContent(
        title=title,
        facts=facts,
        disagreements=_disagreements(contest, answers, rows, config.evaluation.gallery),
        checks=checks,
        provenance=[(name, _text(value)) for name, value in provenance.items()],
        unscored=list(contest.errors.items()),
    )
    report = write_paired_page(content, folder)
    write_json(folder / "run.json", provenance)
    return report, facts


def describe_paired(facts: Mapping[str, Any]) -> list[str]:
    """One line per metric and model: the difference to the reference with its interval."""
    lines = []
    for one in facts["differences"]:
        for metric, estimate in one["simultaneous"].items():
            said = f"not estimable: {estimate['reason']}"
            if estimate["value"] is not None:
                said = f"{estimate['value']:+.3f} ({estimate['low']:+.3f} to {estimate['high']:+.3f})"
            lines.append(f"{one['model']} - {one['reference']}  {metric.replace('_', ' '):<17}  {said}")
    return lines


def _clean(leaks: Mapping[str, Leaks]) -> IntArray:
    """Positions of the images that no model was trained on, as far as they remember."""
    copied = np.any([one.copied for one in leaks.values()], axis=0)
    return np.flatnonzero(~copied)


def _facts(
    contest: Contest, answers: Mapping[str, Answers], leaks: Mapping[str, Leaks], config: Config
) -> dict[str, Any]:
    """Content of paired.json; numbers are of the images that no model was trained on, unless there are none."""
    point, classes = contest.reference.operating_point, contest.reference.classes

    def compared(rows: IntArray) -> dict[str, Any]:
        return against_reference(
            {name: one.take(rows) for name, one in answers.items()},
            config.evaluation,
            positive=None if point.positive is None else classes.index(point.positive),
            patients_known=contest.scored.patients_known,
            seed=config.training.seed,
        )

    everything, clean = np.arange(len(contest.scored)), _clean(leaks)
    headline = "clean" if 0 < len(clean) < len(everything) else "all"
    facts = compared(clean if headline == "clean" else everything)
    for row, model in zip(facts["models"], contest.models.values(), strict=True):
        row.update(
            backbone=model.bundle.classifier.backbone.name,
            bundle=model.bundle.id,
            operating_point={name: getattr(model.operating_point, name) for name in ("rule", "positive", "threshold")},
        )
    whole = compared(everything) if headline == "clean" else None
    return {
        "task": "paired",
        "classes": list(classes),
        "positive": point.positive,
        "reference": facts["models"][0]["name"],
        "n_declared": len(contest.prepared.manifest),
        "patient_independence": "not verified",
        "headline": headline,
        "seen": _seen_facts(leaks, headline),
        **facts,
        "all": None if whole is None else {name: whole[name] for name in ("n_images", "n_patients", "differences")},
        "notice": RESEARCH_USE_ONLY,
    }


def _seen_facts(leaks: Mapping[str, Leaks], headline: str) -> dict[str, Any]:
    """How many of the images each model was trained on, and what that means for the comparison."""
    counts = {
        name: {"against": one.against, "exact": int(one.exact.sum()), "near": int(one.near.sum())}
        for name, one in leaks.items()
    }
    seen = {name: int(one.copied.sum()) for name, one in leaks.items() if one.found}
    cautions = []
    if seen:
        n_images = len(next(iter(leaks.values())).exact)
        told = ", ".join(f"{name} on {n:,}" for name, n in seen.items())
        left = "the numbers are of the others" if headline == "clean" else "no image is left that none was trained on"
        cautions = [
            {
                "said": f"Of {n_images:,} images models were trained on copies: {told}; {left}.",
                "advice": "A model does better on what it was trained on. Compare on images of other patients.",
            }
        ]
    return {"models": counts, "cautions": cautions}


def _leak_checks(facts: Mapping[str, Any]) -> tuple[CheckResult, ...]:
    return tuple(
        CheckResult("SEEN_IN_TRAINING", "error", one["said"].removesuffix("."), facts["seen"]["models"], one["advice"])
        for one in facts["seen"]["cautions"]
    )


def _disagreements(
    contest: Contest, answers: Mapping[str, Answers], rows: IntArray, count: int
) -> dict[str, list[Disagreement]]:
    """Of each model, the images whose probabilities differ most from those of the reference."""
    if count == 0:
        return {}
    (first, reference), *others = answers.items()
    scores = reference.scores
    found = {}
    for name, model in others:
        distance = np.abs(model.scores.y_proba[rows] - scores.y_proba[rows]).sum(axis=1) / 2
        chosen = rows[np.argsort(-distance, kind="stable")][: min(count, int((distance > 0).sum()))]
        if not len(chosen):
            continue
        truth = scores.y_true[chosen]
        found[name] = [
            Disagreement(
                sample_id=scores.sample_ids[row],
                true=scores.classes[true],
                predicted=scores.classes[model.predicted[row]],
                proba=float(model.scores.y_proba[row, true]),
                reference_predicted=scores.classes[reference.predicted[row]],
                reference_proba=float(scores.y_proba[row, true]),
                image=image,
            )
            for row, true, image in zip(chosen, truth, contest.pixels[first].read(chosen), strict=True)
        ]
    return found


def _table(contest: Contest, answers: Mapping[str, Answers], leaks: Mapping[str, Leaks]) -> str:
    """paired.csv: one row per declared image, and what each model says of it."""
    classes = contest.reference.classes
    columns = [column for name in answers for column in (f"predicted_{name}", *(f"proba_{name}_{c}" for c in classes))]
    lines = [table_line(["sample_id", "patient_id", "label", "status", "trained_on_by", *map(harmless, columns)])]
    place = {row: number for number, row in enumerate(contest.rows.tolist())}
    told = contest.prepared.manifest.table[["sample_id", "patient_id", "label"]].itertuples(index=False)
    for row, names in enumerate(told):
        cells = [harmless(name) for name in names]
        at = place.get(row)
        if at is None:
            error = f"unscored: {contest.errors[str(names[0])]}"
            lines.append(table_line([*cells, error, "", *[""] * len(columns)]))
            continue
        cells += ["ok", "|".join(name for name, one in leaks.items() if one.copied[at])]
        for one in answers.values():
            cells += [harmless(classes[one.predicted[at]]), *map(repr, one.scores.y_proba[at].tolist())]
        lines.append(table_line(cells))
    return "".join(lines)


def _provenance(contest: Contest, source: str, began: float) -> dict[str, Any]:
    bundles = {name: model.bundle for name, model in contest.models.items()}
    return {
        "verb": "evaluate",
        "date": now(),
        "bundles": [bundle.id for bundle in bundles.values()],
        "reference": contest.reference.id,
        "source": source,
        "images": len(contest.scored),
        "patients": contest.scored.patient_source,
        "patient_independence": "not verified",
        "trained": [bundle.provenance for bundle in bundles.values()],
        "environment": environment(),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(_text(item) for item in value) or "none"
    return str(value)
