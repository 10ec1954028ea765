"""Predictions as a file: CSV for tables, JSON for programs."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medgraft.errors import ResourceError, UsageError
from medgraft.evaluation.scores import harmless, table_line
from medgraft.types import RESEARCH_USE_ONLY, Prediction


def check_output(path: Path) -> None:
    """Refuse a file that `write_predictions` cannot write, before there is anything to write.

    Raises:
        UsageError: ``OUTPUT_FORMAT``; ``OUTPUT_NOT_WRITABLE`` when its folder does not exist.
    """
    ending = path.suffix.lower()
    if ending not in (".csv", ".json"):
        raise UsageError(
            "OUTPUT_FORMAT",
            f"predictions are written as .csv or .json, not {ending or 'without ending'!r}",
            where=str(path),
        )
    if not path.absolute().parent.is_dir():
        raise UsageError(
            "OUTPUT_NOT_WRITABLE", "there is no such folder", where=str(path.parent), fix="make it, or name another"
        )


def write_predictions(path: Path, predictions: Sequence[Prediction], *, bundle_id: str = "") -> None:
    """Write one row per prediction, in order; the ending of the name chooses the format.

    CSV columns: ``sample_id, path, predicted, status``, one ``proba_CLASS`` per class, ``error``. Text that a
    spreadsheet would run as a formula gets a leading apostrophe.

    Args:
        path: ends in .csv or .json; an existing file is replaced in one step.
        predictions: of one bundle.
        bundle_id: `Bundle.id`, kept in JSON.

    Raises:
        UsageError: ``OUTPUT_FORMAT``, ``OUTPUT_NOT_WRITABLE``.
        ResourceError: ``DISK_FULL``.
    """
    check_output(path)
    if path.suffix.lower() == ".csv":
        text = _csv_text(predictions)
    else:
        text = json.dumps(as_json_content(predictions, bundle_id=bundle_id), indent=1, allow_nan=False) + "\n"
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
    lines = [["sample_id", "path", "predicted", "status", *(f"proba_{name}" for name in classes), "error"]]
    for one in predictions:
        proba = ["" for _ in classes] if one.proba is None else [f"{value:.9g}" for value in one.proba]
        texts = [harmless(text) for text in (one.sample_id, one.path, one.label, one.status)]
        lines.append([*texts, *proba, harmless(one.error)])
    return "".join(map(table_line, lines))


def as_json_content(predictions: Sequence[Prediction], *, bundle_id: str = "") -> dict[str, Any]:
    """What the JSON file holds: notice, bundle_id, classes, and per prediction one of rows."""
    classes = list(predictions[0].classes) if predictions else []
    rows = [
        {
            "sample_id": one.sample_id,
            "path": one.path,
            "predicted": one.label,
            "status": one.status,
            "proba": None if one.proba is None else dict(zip(one.classes, one.proba, strict=True)),
            "error": one.error,
        }
        for one in predictions
    ]
    return {"notice": RESEARCH_USE_ONLY, "bundle_id": bundle_id, "classes": classes, "rows": rows}
