"""What the full decode of every image found.

IMAGES_BAD            files that cannot be used, each with its code and path
IMAGES_MIXED_SCALES   images of more than 8 bits scaled by different rules: one grey level means different things
IMG_*, DICOM_*        files that were read under a rule worth knowing, one result per rule
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medgraft.data.manifest import Manifest
from medgraft.data.pixels import ImageRecord, bad_images
from medgraft.types import CheckResult, Severity

_SHOWN = 20
_SCALES = ("IMG_SCALED_8", "IMG_SCALED_12", "IMG_SCALED_16", "IMG_SCALED_MINMAX")


def check_images(manifest: Manifest, records: Sequence[ImageRecord]) -> list[CheckResult]:
    """One result for all unreadable images, one per kind of remark.

    Args:
        manifest: N samples.
        records: N records in the same order.
    """
    ids = list(manifest.table["sample_id"])
    paths = list(manifest.table["path"])
    bad = bad_images(records, [Path(path) for path in paths])
    found = []
    if bad:
        found.append(
            CheckResult(
                "IMAGES_BAD",
                "error",
                f"{len(bad):,} of {len(records):,} images cannot be used",
                {"files": [problem.as_dict() for problem in bad]},
                "repair or remove them, or leave them out of training with --set data.skip_bad=0.05",
            )
        )
    found += _mixed_scales(records)
    counts = Counter(code for record in records for code in record.warnings)
    for code, count in counts.most_common():
        severity, words = _REMARKS.get(code, ("note", code))
        examples = [ids[row] for row, record in enumerate(records) if code in record.warnings][:_SHOWN]
        found.append(CheckResult(code, severity, f"{count:,} images: {words}", {"examples": examples}))
    return found


def _mixed_scales(records: Sequence[ImageRecord]) -> list[CheckResult]:
    """Images stored in more than 8 bits are scaled one by one; said when not all by the same rule."""
    counts = Counter(code for record in records for code in record.warnings if code in _SCALES)
    if len(counts) < 2:
        return []
    told = ", ".join(f"{count:,} x {code}" for code, count in counts.most_common())
    return [
        CheckResult(
            "IMAGES_MIXED_SCALES",
            "warning",
            f"images of more than 8 bits were scaled by different rules: {told}",
            {"counts": dict(counts)},
            "the same tissue may differ in brightness between them; data.sixteen_bit sets one rule for all",
        )
    ]


_REMARKS: dict[str, tuple[Severity, str]] = {
    "IMG_ALPHA": ("note", "transparency was put on the grey level data.background"),
    "IMG_ALPHA_IGNORED": ("note", "one grey level is declared transparent, which was not followed"),
    "IMG_CONSTANT": ("warning", "one single value everywhere"),
    "IMG_EXIF_BAD": ("note", "orientation in the metadata cannot be read; taken as upright"),
    "IMG_EXTRA_PICTURES": ("note", "further pictures in the file were left aside"),
    "IMG_EXT_MISMATCH": ("note", "the file ending does not fit the content"),
    "IMG_HIGH_BYTE": ("note", "16-bit color, of which the high byte is read"),
    "IMG_ICC_BROKEN": ("note", "a damaged color profile, which is not applied"),
    "IMG_ICC_IGNORED": ("note", "a color profile other than sRGB, which is not applied"),
    "IMG_LOW_RANGE": ("warning", "values fill less than a quarter of the scale"),
    "IMG_ORIENTED": ("note", "turned upright as the metadata say"),
    "IMG_SCALED_8": ("note", "16-bit storage of values up to 255, taken as 8 bits"),
    "IMG_SCALED_12": ("note", "16-bit storage of values up to 4095, 0..4095 became 0..255"),
    "IMG_SCALED_16": ("note", "full range of 16 or the stored bits became 0..255"),
    "IMG_SCALED_DECLARED": ("note", "data.float_range (0..1 by default) became 0..255"),
    "IMG_SCALED_MINMAX": ("note", "the image's own range became 0..255"),
    "IMG_SCALED_PERCENTILE": ("note", "the image's 0.5th..99.5th percentile became 0..255"),
    "IMG_TWO_LEVELS": ("warning", "two grey levels only; masks among the images?"),
    "DICOM_BURNED_IN": ("warning", "declare burned-in annotation, which may name the patient"),
    "DICOM_BURNED_IN_UNKNOWN": ("note", "of a kind that often has burned-in text do not say whether they do"),
    "DICOM_MODALITY_LUT": ("note", "the modality table was applied"),
    "DICOM_MONO1_INVERTED": ("note", "MONOCHROME1, inverted so that white is high"),
    "DICOM_NO_WINDOW": ("note", "more than 8 bits and no window"),
    "DICOM_PREAMBLE": ("note", "bytes before the DICOM mark, which are not read"),
    "DICOM_RESCALED": ("note", "slope and intercept were applied"),
    "DICOM_VOI_LUT": ("note", "the display table was applied"),
    "DICOM_WINDOWED": ("note", "the display window was applied"),
    "DICOM_WINDOWS_SEVERAL": ("note", "several display windows, of which the first was applied"),
    "DICOM_WINDOW_IGNORED": ("note", "a display window of impossible width, which was ignored"),
}
