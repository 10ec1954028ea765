"""What the full decode of every image found.

IMAGES_BAD       files that cannot be used, each with its code
IMAGES_WARNING   files that were read under a rule worth knowing
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medgraft.data.manifest import Manifest
from medgraft.data.pixels import ImageRecord
from medgraft.types import CheckResult

_SHOWN = 20


def check_images(manifest: Manifest, records: Sequence[ImageRecord]) -> list[CheckResult]:
    """One result for all unreadable images, one per kind of warning.

    Args:
        manifest: N samples.
        records: N records in the same order.
    """
    ids = list(manifest.table["sample_id"])
    bad = [(ids[row], record.error) for row, record in enumerate(records) if record.error is not None]
    found = []
    if bad:
        found.append(
            CheckResult(
                "IMAGES_BAD",
                "error",
                f"{len(bad):,} of {len(records):,} images cannot be used",
                {"files": [{"sample_id": name, **error.as_dict()} for name, error in bad]},
                "repair or remove them, or leave them out of training with --set data.skip_bad=0.05",
            )
        )
    counts = Counter(code for record in records for code in record.warnings)
    for code, count in counts.most_common():
        examples = [ids[row] for row, record in enumerate(records) if code in record.warnings][:_SHOWN]
        found.append(CheckResult(code, "note", f"{count:,} images: {_WORDS.get(code, code)}", {"examples": examples}))
    return found


_WORDS = {
    "IMG_EXT_MISMATCH": "the file ending does not fit the content",
    "IMG_CONSTANT": "one single value everywhere",
    "IMG_TWO_LEVELS": "two grey levels only",
}
