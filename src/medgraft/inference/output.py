"""Predictions as a file: CSV for tables, JSON for programs, a submission for competitions."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from medgraft.errors import ResourceError, UsageError
from medgraft.evaluation.scores import harmless, set_text, table_line, yes_no
from medgraft.types import RESEARCH_USE_ONLY, Prediction

Format = Literal["csv", "json", "submission"]
FORMATS: tuple[Format, ...] = ("csv", "json", "submission")


def choose_format(path: Path | None, asked: Format | None = None) -> Format | None:
    """How predictions are written, before there is anything to write.

    Args:
        path: file to write; None writes none.
        asked: None follows the ending of the name.

    Returns:
        The format; None when there is nothing to write.

    Raises:
        UsageError: ``OUTPUT_FORMAT`` for an ending that does not tell, or tells another format; ``OUTPUT_MISSING``
            for a format without a file; ``OUTPUT_NOT_WRITABLE`` when the folder does not exist.
    """
    if asked is not None and asked not in FORMATS:
        raise UsageError(
            "OUTPUT_FORMAT", f"{asked!r} is no format", where="format", fix=f"use one of {', '.join(FORMATS)}"
        )
    if path is None:
        if asked is None:
            return None
        raise UsageError(
            "OUTPUT_MISSING",
            f"the format {asked} needs a file to write",
            where="out",
            fix=f"name one with --out, such as {'predictions.json' if asked == 'json' else asked + '.csv'}",
        )
    ending = path.suffix.lower()
    by_name: Format | None = "csv" if ending == ".csv" else "json" if ending == ".json" else None
    if asked is None and by_name is None:
        raise UsageError(
            "OUTPUT_FORMAT",
            f"predictions are written as .csv or .json, not {ending or 'without ending'!r}",
            where=str(path),
        )
    if asked is not None and by_name is not None and (asked == "json") != (by_name == "json"):
        raise UsageError("OUTPUT_FORMAT", f"a file called {ending} is no {asked} file", where=str(path))
    if not path.absolute().parent.is_dir():
        raise UsageError(
            "OUTPUT_NOT_WRITABLE", "there is no such folder", where=str(path.parent), fix="make it, or name another"
        )
    return asked or by_name


def write_predictions(
    path: Path, predictions: Sequence[Prediction], *, bundle_id: str | Sequence[str] = "", form: Format | None = None
) -> None:
    """Write one row per prediction, in order.

    CSV columns: ``sample_id, path, predicted, status``, one ``proba_CLASS`` per class, ``spread`` when there was
    more than one pass, ``prediction_set`` (classes joined by ``|``, empty for the empty set) and ``refer`` (yes or no)
    when any row has a set, ``error``. Text that a spreadsheet would run as a formula gets a leading apostrophe.

    Args:
        path: an existing file is replaced in one step.
        predictions: of one bundle or ensemble.
        bundle_id: `Bundle.id`, or those of an ensemble; kept in JSON.
        form: csv or json; None follows the ending of the name.

    Raises:
        UsageError: ``OUTPUT_FORMAT``, ``OUTPUT_NOT_WRITABLE``.
        ResourceError: ``DISK_FULL``.
    """
    if choose_format(path, form) == "csv":
        write_output(path, _csv_text(predictions))
    else:
        content = as_json_content(predictions, bundle_id=bundle_id)
        write_output(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_output(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it.

    Raises:
        UsageError: ``OUTPUT_NOT_WRITABLE``.
        ResourceError: ``DISK_FULL``.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        # file names that are not UTF-8 keep their bytes
        partial.write_bytes(text.encode("utf-8", "surrogateescape"))
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceError(
                "DISK_FULL", f"no room for {len(text)} bytes of predictions", where=str(path)
            ) from error
        raise UsageError(
            "OUTPUT_NOT_WRITABLE", f"cannot write predictions: {error.strerror}", where=str(path)
        ) from error


def _csv_text(predictions: Sequence[Prediction]) -> str:
    classes = predictions[0].classes if predictions else ()
    passes = _passes(predictions)
    sets = _have_sets(predictions)
    further = [*(["spread"] if passes > 1 else []), *(["prediction_set", "refer"] if sets else [])]
    lines = [["sample_id", "path", "predicted", "status", *(f"proba_{name}" for name in classes), *further, "error"]]
    for one in predictions:
        numbers = ["" for _ in classes] if one.proba is None else [f"{value:.9g}" for value in one.proba]
        if passes > 1:
            numbers.append("" if one.spread is None else f"{one.spread:.9g}")
        if sets:
            numbers += [set_text(one.prediction_set), yes_no(one.refer)]
        texts = [harmless(text) for text in (one.sample_id, one.path, one.label, one.status)]
        lines.append([*texts, *numbers, harmless(one.error)])
    return "".join(map(table_line, lines))


def as_json_content(predictions: Sequence[Prediction], *, bundle_id: str | Sequence[str] = "") -> dict[str, Any]:
    """What the JSON file holds: notice, bundle_id, classes, and per prediction one of rows.

    With more than one pass also ``passes``, and ``spread`` in every row. Where any row has a set, every row has
    ``prediction_set``, a list of classes, and ``refer``, both null without a prediction. An ensemble has ``bundle_ids``
    in place of ``bundle_id``.
    """
    classes = list(predictions[0].classes) if predictions else []
    passes, sets = _passes(predictions), _have_sets(predictions)
    rows = [
        {
            "sample_id": one.sample_id,
            "path": one.path,
            "predicted": one.label,
            "status": one.status,
            "proba": None if one.proba is None else dict(zip(one.classes, one.proba, strict=True)),
            **({"spread": one.spread} if passes > 1 else {}),
            **({"prediction_set": one.prediction_set, "refer": one.refer} if sets else {}),
            "error": one.error,
        }
        for one in predictions
    ]
    bundles = {"bundle_id": bundle_id} if isinstance(bundle_id, str) else {"bundle_ids": list(bundle_id)}
    many = {"passes": passes} if passes > 1 else {}
    return {"notice": RESEARCH_USE_ONLY, **bundles, "classes": classes, **many, "rows": rows}


def _passes(predictions: Sequence[Prediction]) -> int:
    return predictions[0].passes if predictions else 1


def _have_sets(predictions: Sequence[Prediction]) -> bool:
    return any(one.prediction_set is not None for one in predictions)
