"""What a page says of whether its numbers can be trusted, as rows and sentences.

evaluation.json ─┬─ subsets, leaks ──────────► Headline, Seen       what training has seen
                 ├─ baselines ───────────────► Versus               what almost nothing reaches
                 ├─ shortcuts ───────────────► Shortcuts            what the answer rests on
                 └─ subgroups ───────────────► Subgroup, …          for whom

Keys that are absent or null give None: the section is left out. Escaping belongs to the template.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medgraft.report.interval_plots import Mark
from medgraft.report.wording import estimate_text, lacking_classes, leak_count, nothing_known, sentence

Facts = Mapping[str, Any]
Sign = Literal["good", "bad", "unsure"]

LEADING = ("auroc", "accuracy", "balanced_accuracy")
_OF_SUBSETS = ("auroc", "accuracy", "balanced_accuracy", "sensitivity", "specificity")
_SUBSETS: dict[str, tuple[str, Mark]] = {
    "clean": ("Not seen in training", "lead"),
    "copied": ("Copies of training images", "doubtful"),
    "same_patient": ("Patients seen in training", "doubtful"),
    "all": ("All images", "doubtful"),
}
_BASELINES = {
    "majority": ("Most frequent class", "always the most frequent class of training"),
    "thumbnail_1nn": ("Nearest thumbnail", "the class of the most alike training image at 32x32 pixels"),
    "thumbnail_logistic": ("Thumbnails, linear", "logistic regression on 32x32 pixels"),
    "metadata": ("Facts of the files", "size, format, bytes, brightness of borders and corners; no content"),
    "position": ("Position of the slice", "where in the stack the slice lies; no content"),
}
_SOURCES = {"borders": ("Borders alone", ""), "corners": ("Corners alone", ""), "metadata": _BASELINES["metadata"]}
_RESCORED = {
    "corners_blanked": "Corners blanked",
    "borders_blanked": "Borders blanked",
    "text_blanked": "Text blanked",
    "lesion_removed": "Lesion removed",
    "lesion_only": "Only the lesion kept",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table of estimates.

    Attributes:
        name: what the numbers are of.
        note: a few words beneath it.
        n_images: images; None where there are no estimates.
        n_patients: patients; None when unknown.
        estimates: one per metric of the table; None where there is none.
        others: further estimates of the same row, such as differences, by the same or other metrics.
        mark: how the row is drawn.
    """

    name: str
    note: str
    n_images: int | None
    n_patients: int | None
    estimates: tuple[Facts | None, ...]
    others: tuple[Facts | None, ...] = ()
    mark: Mark = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows with the same metrics; ``others`` names the second group of columns, ``protocol`` how all were made."""

    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    others: tuple[str, ...] = ()
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class Caveat:
    """What the number over all images would read, and why it is not believed.

    Attributes:
        before: the sentence up to the number.
        value: the number, which the page strikes out.
        after: the rest of it.
    """

    before: str
    value: str
    after: str


@dataclass(frozen=True, slots=True)
class Headline:
    """The leading number and what stands around it.

    Attributes:
        metric: its name.
        estimate: its value.
        n_images: images it is of.
        n_patients: patients; None when unknown.
        of: what is special about the images, such as ``that training has not seen``; or empty.
        caveat: of the number over all images; None where none was left out.
        remarks: (sign, sentence) that make the number better or worse.
        distrusted: whether it must not be believed as it stands: the page turns red.
    """

    metric: str
    estimate: Facts
    n_images: int
    n_patients: int | None
    of: str
    caveat: Caveat | None
    remarks: tuple[tuple[Sign, str], ...]
    distrusted: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """Scores apart by what training has seen; ``classes`` counts images by class and subset."""

    conclusion: str
    against: str
    table: Table
    classes: tuple[tuple[str, tuple[int, ...]], ...]
    lacking: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Versus:
    """The model beside trivial baselines; the first row is the model where there is one."""

    table: Table
    gain_of: str
    best: str
    sign: Sign | None
    text: str


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """What parts of the image alone tell, and what the model loses without them; either may be None."""

    sources: Table | None
    rescored: Table | None


def headline(evaluation: Facts, metric: str) -> Headline:
    """The leading number with all that decides whether it is believed.

    Args:
        evaluation: content of evaluation.json.
        metric: the leading one.
    """
    subsets, found = evaluation.get("subsets") or {}, leak_count(evaluation) > 0
    clean = evaluation.get("headline") == "clean" and found
    own = subsets.get("clean" if clean else "all") or evaluation
    verdict = evaluation.get("baseline_verdict") or {}
    remarks: list[tuple[Sign, str]] = []
    leaks = evaluation.get("leaks") or {}
    if leaks and not found and not nothing_known(evaluation):
        remarks.append(("good", sentence(str(leaks.get("conclusion") or ""))))
    if found and not clean:
        remarks.append(("bad", sentence(f"{_seen_words(evaluation)}, which makes this number memory, not skill")))
    if verdict.get("text"):
        remarks.append((_verdict_sign(verdict), sentence(str(verdict["text"]))))
    return Headline(
        metric=metric,
        estimate=evaluation["metrics"][metric],
        n_images=int(own["n_images"]),
        n_patients=own.get("n_patients"),
        of="that training has not seen" if clean else "",
        caveat=_caveat(evaluation, metric) if clean else None,
        remarks=tuple(remark for remark in remarks if remark[1]),
        distrusted=any(sign == "bad" for sign, _ in remarks),
    )


def _caveat(evaluation: Facts, metric: str) -> Caveat | None:
    whole = (evaluation.get("subsets") or {}).get("all")
    estimate = None if whole is None else whole["metrics"].get(metric)
    if whole is None or estimate is None or estimate.get("value") is None:
        return None
    own = evaluation["metrics"][metric].get("value")
    flattered = own is None or estimate["value"] > own
    after = "memory, not skill." if flattered else "that is no measure of skill."
    before = f"On all {whole['n_images']:,} images, which include {_seen_words(evaluation, noun=False)}, it would read"
    return Caveat(before, estimate_text(estimate), after)


def _seen_words(evaluation: Facts, *, noun: bool = True) -> str:
    """How many copies and images of known patients there are; with ``noun`` as the begin of a sentence."""
    subsets, leaks = evaluation.get("subsets") or {}, evaluation["leaks"]
    copies = (subsets.get("copied") or {}).get("n_images", int(leaks.get("exact") or 0) + int(leaks.get("near") or 0))
    shared = (subsets.get("same_patient") or {}).get("n_images", int(leaks.get("patients") or 0))
    told = []
    if copies:
        told.append(f"{copies:,} {'copy' if copies == 1 else 'copies'} of training images")
    if shared:
        told.append(f"{shared:,} {'image' if shared == 1 else 'images'} of patients that training has seen")
    return ("these images include " if noun else "") + " and ".join(told)


def _verdict_sign(verdict: Facts) -> Sign:
    return "good" if verdict.get("verdict") == "beats" else "bad"


def seen(evaluation: Facts) -> Seen | None:
    """Scores apart by what training has seen; None where nothing was seen."""
    subsets = evaluation.get("subsets") or {}
    if not leak_count(evaluation) or not subsets:
        return None
    names = [name for name in _SUBSETS if subsets.get(name)]
    metrics = _present(_OF_SUBSETS, (subsets[name]["metrics"] for name in names))
    rows = tuple(
        Row(
            _SUBSETS[name][0],
            "",
            int(subsets[name]["n_images"]),
            subsets[name].get("n_patients"),
            tuple(subsets[name]["metrics"].get(metric) for metric in metrics),
            mark=_SUBSETS[name][1],
        )
        for name in names
    )
    classes = evaluation["classes"]
    columns = [_class_counts(subsets[name], len(classes)) for name in names]
    counts = tuple((label, tuple(column[index] for column in columns)) for index, label in enumerate(classes))
    leaks = evaluation["leaks"]
    return Seen(
        sentence(str(leaks.get("conclusion") or "")), str(leaks.get("against") or ""), Table(metrics, rows), counts,
        tuple(lacking_classes(evaluation)),
    )  # fmt: skip


def _class_counts(subset: Facts | None, n_classes: int) -> list[int]:
    confusion = (subset or {}).get("confusion") or []
    return [sum(row) for row in confusion] if len(confusion) == n_classes else [0] * n_classes


def versus(
    baselines: Mapping[str, Facts] | None, *, verdict: Facts | None = None, model: Facts | None = None
) -> Versus | None:
    """Baselines in the order from best to worst, below the model.

    Args:
        baselines: of evaluation.json or of a check.
        verdict: whether the model beats the best of them; or None.
        model: its metrics, or None.
    """
    baselines = _given(baselines)
    metrics = _present(LEADING, (facts.get("metrics") or {} for facts in baselines.values()))
    if not metrics:
        return None
    lead = str((verdict or {}).get("metric") or metrics[0])
    by = lead if lead in metrics else metrics[0]
    ranked = sorted(baselines, key=lambda name: -_rank((baselines[name].get("metrics") or {}).get(by)))
    gains = _present(LEADING, (facts.get("gain") or {} for facts in baselines.values()))
    rows = [_baseline_row(name, baselines[name], metrics, gains) for name in ranked]
    if model is not None:
        own = tuple(model.get(metric) for metric in metrics)
        rows.insert(0, Row("This model", "", _n(own), None, own, (None,) * len(gains), "lead"))
    best = str((verdict or {}).get("best") or ranked[0])
    return Versus(
        Table(metrics, tuple(rows), gains, _protocol(baselines.values())), by, _BASELINES.get(best, (_words(best),))[0],
        _verdict_sign(verdict) if verdict else None, sentence(str((verdict or {}).get("text") or "")),
    )  # fmt: skip


def _baseline_row(name: str, facts: Facts, metrics: Sequence[str], gains: Sequence[str]) -> Row:
    label, meaning = _BASELINES.get(name, (_words(name), ""))
    found, gained = facts.get("metrics") or {}, facts.get("gain") or {}
    estimates = tuple(found.get(metric) for metric in metrics)
    return Row(label, meaning, _n(estimates), None, estimates, tuple(gained.get(metric) for metric in gains))


def source_table(sources: Mapping[str, Facts] | None, baselines: Mapping[str, Facts] | None) -> Table | None:
    """What parts of the image and facts of its file tell of the label without the rest; None without any."""
    given = _given(sources)
    if given and (baselines or {}).get("metadata"):
        given["metadata"] = (baselines or {})["metadata"]
    metrics = _present(LEADING, (facts.get("metrics") or {} for facts in given.values()))
    if not given or not metrics:
        return None
    rows = []
    for name, facts in given.items():
        label, meaning = _SOURCES.get(name, (_words(name), ""))
        estimates = tuple((facts.get("metrics") or {}).get(metric) for metric in metrics)
        rows.append(Row(label, meaning, _n(estimates), None, estimates))
    return Table(metrics, tuple(rows), protocol=_protocol(given.values()))


def shortcuts(evaluation: Facts) -> Shortcuts | None:
    """What the answer may rest on beside the disease; None where it was not looked for."""
    facts = evaluation.get("shortcuts") or {}
    sources = source_table(facts.get("sources"), evaluation.get("baselines"))
    rescored = _given(facts.get("rescored"))
    metrics = _present(LEADING, (row.get("metrics") or {} for row in rescored.values()))
    drops = _present(LEADING, (row.get("drop") or {} for row in rescored.values()))
    table = None
    if rescored and metrics:
        order = sorted(rescored, key=lambda name: list(_RESCORED).index(name) if name in _RESCORED else len(_RESCORED))
        table = Table(metrics, tuple(_rescored_row(name, rescored[name], metrics, drops) for name in order), drops)
    return Shortcuts(sources, table) if sources or table else None


def _rescored_row(name: str, facts: Facts, metrics: Sequence[str], drops: Sequence[str]) -> Row:
    found, lost = facts.get("metrics") or {}, facts.get("drop") or {}
    changed = facts.get("n_changed")
    return Row(
        _RESCORED.get(name, _words(name)), "" if changed is None else f"{changed:,} of them changed by it",
        facts.get("n_images"), None,
        tuple(found.get(metric) for metric in metrics), tuple(lost.get(metric) for metric in drops),
        "doubtful" if facts.get("flagged") else "plain",
    )  # fmt: skip


def subgroups(evaluation: Facts) -> list[tuple[str, Table]]:
    """A table per column, in the order given; empty without any."""
    columns = (evaluation.get("subgroups") or {}).get("columns") or {}
    found = []
    for column, groups in columns.items():
        metrics = _present(_OF_SUBSETS, (group.get("metrics") or {} for group in groups))[:4]
        lead = metrics[:1]
        others = _present(lead, (group.get("difference") or {} for group in groups))
        rows = tuple(
            Row(
                str(group["value"]), str(group.get("flagged") or ""), group.get("n_images"), group.get("n_patients"),
                tuple((group.get("metrics") or {}).get(metric) for metric in metrics),
                tuple((group.get("difference") or {}).get(metric) for metric in others),
                "quiet" if group.get("flagged") else "plain",
            )
            for group in groups
        )  # fmt: skip
        if rows and metrics:
            found.append((str(column), Table(metrics, rows, others)))
    return found


def _given(facts: Mapping[str, Facts | None] | None) -> dict[str, Facts]:
    """Entries that are not null."""
    return {name: entry for name, entry in (facts or {}).items() if entry}


def _protocol(given: Iterable[Facts]) -> str:
    """How the rows were made; each way once."""
    return "; ".join(sentence(str(said)) for said in dict.fromkeys(facts.get("protocol") for facts in given) if said)


def _present(wanted: Sequence[str], found: Iterable[Facts]) -> tuple[str, ...]:
    """Those of the wanted metrics that any row has."""
    names = {name for row in found for name, estimate in row.items() if estimate}
    return tuple(name for name in wanted if name in names)


def _n(estimates: Iterable[Facts | None]) -> int | None:
    return next((int(e["n"]) for e in estimates if e is not None and e.get("n")), None)


def _rank(estimate: Facts | None) -> float:
    value = None if estimate is None else estimate.get("value")
    return float("-inf") if value is None else float(value)


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
