"""Attributes of a DICOM file, read so that a damaged value is a named error and its text is never shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medgraft.errors import DataError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def attribute(dataset: Dataset, keyword: str) -> Any:
    """The value; None when there is none.

    Raises:
        DataError: ``DICOM_BAD_ATTR``.
    """
    try:
        return dataset.get(keyword)
    except Exception:  # values are converted on access, and conversion of anything may fail
        raise bad_attribute(keyword, "cannot be read") from None


def whole(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """A whole number; the default when it is missing or empty.

    Raises:
        DataError: ``DICOM_BAD_ATTR``, also for a missing one without default.
    """
    value = attribute(dataset, keyword)
    if value is None or value == "":
        if default is None:
            raise bad_attribute(keyword, "is missing")
        return default
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise bad_attribute(keyword, "is not one whole number") from None


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """All numbers of an attribute; empty when it is missing.

    Raises:
        DataError: ``DICOM_BAD_ATTR`` for text or numbers that are not finite.
    """
    value = attribute(dataset, keyword)
    if value is None or value == "":
        return ()
    many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        found = tuple(float(number) for number in many)
    except (TypeError, ValueError, OverflowError):
        raise bad_attribute(keyword, "is not a number") from None
    if not all(math.isfinite(number) for number in found):
        raise bad_attribute(keyword, "is not finite")
    return found


def filled(dataset: Dataset, sequence: str) -> bool:
    """Whether a sequence is there and has an item.

    Raises:
        DataError: ``DICOM_BAD_ATTR``.
    """
    items = attribute(dataset, sequence)
    return isinstance(items, Sequence) and not isinstance(items, str | bytes) and len(items) > 0


def bad_attribute(keyword: str, what: str) -> DataError:
    return DataError("DICOM_BAD_ATTR", f"attribute {keyword} {what}", fix="export it again or convert it")


def cut_short(what: str) -> DataError:
    return DataError("DICOM_TRUNCATED", what, fix="copy or export it again")


def undecodable(what: str) -> DataError:
    return DataError("DICOM_CORRUPT", what, fix="export it again")
