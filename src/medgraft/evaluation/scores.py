"""The table of every declared image: what is true, what was predicted, or why there is no prediction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_HEADER = ("sample_id", "path", "patient_id", "label", "predicted", "correct", "status")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One declared image.

    Attributes:
        sample_id: unique identifier.
        path: file as the manifest names it.
        patient_id: patient, or None when unknown.
        label: true class, or None when unknown.
        predicted: class at the operating point, or None when not scored.
        proba: C calibrated probabilities in class order, or None when not scored.
        error: ``[CODE] what`` when the image could not be scored.
        spread: standard deviation over the passes of the probability of the predicted class; None when there was
            one pass, or no score.
        prediction_set: classes of its prediction set, perhaps none; None without prediction sets or score.
        refer: whether it is left to a person, the set not being exactly the predicted class; None likewise.
        subset: ``clean``, ``copied`` or ``same_patient``, as training images show it; empty when unknown.
    """

    sample_id: str
    path: str
    patient_id: str | None = None
    label: str | None = None
    predicted: str | None = None
    proba: tuple[float, ...] | None = None
    error: str | None = None
    spread: float | None = None
    prediction_set: tuple[str, ...] | None = None
    refer: bool | None = None
    subset: str = ""

    def __post_init__(self) -> None:
        scored = self.error is None
        if (self.predicted is not None) != scored or (self.proba is not None) != scored:
            raise ValueError(f"{self.sample_id}: a row has either a prediction with probabilities or an error")


def write_scores_csv(path: Path, rows: Iterable[ScoreRow], *, classes: Sequence[str]) -> None:
    """Write scores.csv (UTF-8): one row per declared image, in order, none left out.

    Probabilities keep full precision, so every metric can be recomputed from the file. ``correct``
    is ``true`` or ``false``, empty without label or prediction. ``status`` is ``ok`` or
    ``unscored: [CODE] what``. A text that a spreadsheet would run as a formula gets a leading
    apostrophe. Further columns where any row has them: ``spread``; ``prediction_set``, its classes joined by ``|``
    and empty for the empty set, with ``refer``, ``yes`` or ``no``; ``subset``.

    Args:
        path: file to write; replaced.
        rows: the declared images.
        classes: C class names, in the order of the probabilities.
    """
    rows = list(rows)
    further = _further(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(table_line([*_HEADER, *(f"proba_{name}" for name in classes), *further]))
        file.writelines(table_line(_cells(row, len(classes), further)) for row in rows)


def _further(rows: Sequence[ScoreRow]) -> list[str]:
    """Names of the columns that only some tables have."""
    spread = ["spread"] if any(row.spread is not None for row in rows) else []
    sets = ["prediction_set", "refer"] if any(row.prediction_set is not None for row in rows) else []
    return [*spread, *sets, *(["subset"] if any(row.subset for row in rows) else [])]


def _cells(row: ScoreRow, n_classes: int, further: Sequence[str]) -> list[str]:
    if row.proba is not None and len(row.proba) != n_classes:
        raise ValueError(f"{row.sample_id}: {len(row.proba)} probabilities for {n_classes} classes")
    texts = [harmless(value) for value in (row.sample_id, row.path, row.patient_id, row.label, row.predicted)]
    known = row.predicted is not None and row.label is not None
    correct = ("true" if row.predicted == row.label else "false") if known else ""
    status = "ok" if row.error is None else f"unscored: {row.error}"
    proba = [""] * n_classes if row.proba is None else [repr(float(p)) for p in row.proba]
    last = {
        "spread": "" if row.spread is None else repr(float(row.spread)),
        "prediction_set": set_text(row.prediction_set),
        "refer": yes_no(row.refer),
        "subset": row.subset,
    }
    return [*texts, correct, status, *proba, *(last[name] for name in further)]


def set_text(names: Sequence[str] | None) -> str:
    """A prediction set in one cell: its classes joined by ``|``; empty for the empty set and for None."""
    return "" if names is None else harmless("|".join(names))


def yes_no(value: bool | None) -> str:
    """``yes`` or ``no``; empty for None."""
    return "" if value is None else "yes" if value else "no"


def table_line(cells: Sequence[str]) -> str:
    """One line of a CSV table, quoted where needed."""
    # Not csv.writer: with "\n" line ends it leaves a carriage return unquoted, and readers break the row there.
    quoted = ('"' + cell.replace('"', '""') + '"' if any(c in cell for c in ',"\r\n') else cell for cell in cells)
    return ",".join(quoted) + "\n"


def harmless(text: str | None) -> str:
    """Text for a cell, empty for None; a leading apostrophe keeps a spreadsheet from running it as a formula."""
    if text is None:
        return ""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
