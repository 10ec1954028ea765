"""Exact copies: the same decoded picture more than once.

COPIES_EXACT          within one part
COPIES_ACROSS_PARTS   the picture stands in two parts: scores on them are memory (said by the split)
LABEL_CONFLICT        the same picture under two labels
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from medgraft.data.manifest import Manifest
from medgraft.data.pixels import ImageRecord
from medgraft.types import CheckResult

_SHOWN = 20


def check_copies(manifest: Manifest, records: Sequence[ImageRecord]) -> list[CheckResult]:
    """Groups of pixel-identical images and label conflicts among them.

    Args:
        manifest: N samples.
        records: N records of the full decode, in the same order.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        if record.error is None:
            rows_of[record.pixel_hash].append(row)
    groups = [rows for rows in rows_of.values() if len(rows) > 1]
    if not groups:
        return []
    ids, labels = list(manifest.table["sample_id"]), list(manifest.table["label"])
    extra = sum(len(rows) - 1 for rows in groups)
    found = [
        CheckResult(
            "COPIES_EXACT",
            "warning",
            f"{extra:,} images are pixel-identical copies of another one "
            f"({len(groups):,} pictures stand more than once)",
            {
                "copies": extra,
                "groups": len(groups),
                "examples": [[ids[row] for row in rows] for rows in groups[:_SHOWN]],
            },
            "the split keeps copies together; remove them so that they do not count twice",
        )
    ]
    conflicts = [rows for rows in groups if len({labels[row] for row in rows} - {None}) > 1]
    if conflicts:
        examples = [{ids[row]: labels[row] for row in rows} for rows in conflicts[:_SHOWN]]
        found.append(
            CheckResult(
                "LABEL_CONFLICT",
                "error",
                f"{len(conflicts):,} pictures stand under two labels",
                {"pictures": len(conflicts), "examples": examples},
                "at least one label of each is wrong: look at them and correct or remove them",
            )
        )
    return found
