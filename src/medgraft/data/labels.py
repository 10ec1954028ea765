"""Labels as the source has them: missing ones, spellings that look alike, class order, class weights.

LABEL_VARIANTS   names that differ in case, blanks, separators or look-alike letters only: refused
LABEL_SIMILAR    names that are nearly the same: a plural, a number behind, British spelling, one wrong letter
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

from medgraft.data.names import SHOWN, escape, listed, natural_key, nearest
from medgraft.errors import DataError, Problem
from medgraft.types import CheckResult

# Not "none" and not "no": brain MRI sets have classes of these names.
_MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "null"})
_SEPARATORS = re.compile(r"(?<=[^\W\d_])[\s_\-.]+(?=[^\W_])|(?<=[^\W_])[\s_\-.]+(?=[^\W\d_])")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
# Cyrillic and Greek letters that look like Latin ones (after case folding).
_LOOKALIKES = str.maketrans("авсԁеһіјкмнорԛѕтуѵԝхοανικρτυχ", "abcdehijkmhopqstyvwxoavikptux")
_PADDED = re.compile(r"(?<![0-9])0+(?=[0-9])")
_NUMBERED = re.compile(r"(?P<stem>.*[^\W\d_])[\s_\-.]*[(\[]?(?P<number>[0-9]{1,3})[)\]]?")
_BRITISH = (("our", "or"), ("ae", "e"), ("oe", "e"))
# Shorter words differ by a letter and mean something else (stroma, stoma); so do pairs that differ in their first
# or last letter (typical, atypical; bacteria, bacterial; stage IIA, IIB).
_LONG_WORD = 8
# Another letter in the same place makes another word too (inferior, interior), unless it is rare beside it.
_RARE = 10
_MOST_NAMES = 500  # more labels are no names of classes


def is_missing(text: str) -> bool:
    """Whether a cell says that there is no value: blank, NaN, NA, null."""
    return text.strip().casefold() in _MISSING


def spelling_key(label: str) -> str:
    """What stays of a label when case, blanks, separators and look-alike letters of other alphabets do not count.

    ``Glioma`` and ``glioma `` share a key, so do ``no tumor`` and ``no_tumor``, ``1`` and
    ``1.0``; ``1-2`` and ``12``, ``HER2+`` and ``HER2-`` do not.
    """
    text = unicodedata.normalize("NFKC", label).casefold().strip().strip("_")
    if _NUMBER.fullmatch(text):
        whole, _, decimals = text.lstrip("+").partition(".")
        sign, whole = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
        return f"{sign}{whole.lstrip('0') or '0'}.{decimals.rstrip('0')}"
    return _SEPARATORS.sub("", text.translate(_LOOKALIKES))


def clean_labels(labels: Sequence[str | None], *, classes: tuple[str, ...] | None, where: str) -> list[str | None]:
    """Labels without blanks around them, once it is sure that no two spellings mean one class.

    Args:
        labels: as in the source; None when unknown.
        classes: names declared by the user or a bundle: a label that is one of them is meant as written.
        where: source, for the message.

    Raises:
        DataError: ``LABEL_VARIANTS`` listing the suspected merges with their counts.
    """
    counts = Counter(label for label in labels if label is not None)
    declared = frozenset(classes or ())
    by_key: dict[str, list[str]] = {}
    for label in counts:
        by_key.setdefault(spelling_key(label), []).append(label)
    problems = []
    for spellings in by_key.values():
        if len(spellings) > 1 and not declared.issuperset(spellings):
            parts = [f"'{escape(name)}' ({counts[name]:,})" for name in sorted(spellings, key=natural_key)]
            problems.append(Problem("LABEL_VARIANTS", f"one class or several? {', '.join(parts)}"))
    if problems:
        raise DataError(
            "LABEL_VARIANTS",
            f"{len(problems):,} classes are spelled in more than one way",
            where=where,
            fix="correct the labels; if they are different classes, name all classes in data.classes",
            problems=problems,
        )
    # Escaped, so that a class named after a folder with an undecodable name can be written to every output.
    clean = {label: escape(label if label in declared else label.strip()) for label in counts}
    return [None if label is None else clean[label] for label in labels]


def similar_labels(labels: Iterable[str | None], *, classes: tuple[str, ...] | None) -> tuple[CheckResult, ...]:
    """Names of classes that are probably one class spelled in two ways; a matter of judgment, so nothing is refused.

    Args:
        labels: as `clean_labels` gave them.
        classes: declared names: two of these are meant as written.
    """
    counts = Counter(label for label in labels if label is not None)
    declared = frozenset(classes or ())
    names = sorted(counts, key=natural_key)
    series = Counter(match["stem"] for key in map(_plain, names) if (match := _NUMBERED.fullmatch(key)))
    found = [
        (first, second, difference)
        for first, second in combinations(names if len(names) <= _MOST_NAMES else [], 2)
        if not declared.issuperset((first, second)) and (difference := _difference(first, second, counts, series))
    ]
    if not found:
        return ()
    told = "; ".join(
        f"'{first}' ({counts[first]:,}) and '{second}' ({counts[second]:,}), {difference}"
        for first, second, difference in found[:SHOWN]
    )
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    pairs = [
        {"labels": {name: counts[name] for name in (first, second)}, "difference": difference}
        for first, second, difference in found
    ]
    return (
        CheckResult(
            "LABEL_SIMILAR",
            "warning",
            f"one class or two? {told}{more}",
            {"pairs": pairs},
            "correct the labels if they are one class; if not, name all classes in data.classes",
        ),
    )


def _plain(label: str) -> str:
    return unicodedata.normalize("NFKC", label).casefold().strip().strip("_")


def _difference(first: str, second: str, counts: Counter[str], series: Counter[str]) -> str:
    """What tells two names apart that should perhaps be one; nothing when they are plainly two."""
    one, other = sorted((_plain(first), _plain(second)), key=len)
    keys = _SEPARATORS.sub("", one), _SEPARATORS.sub("", other)
    if _PADDED.sub("", keys[0]) == _PADDED.sub("", keys[1]) and not (one.isdigit() or other.isdigit()):
        return "zeros before a number"
    if keys[0][-1:].isalpha() and len(keys[0]) >= 4 and keys[1] in (f"{keys[0]}s", f"{keys[0]}es"):
        return "a plural"
    numbered = _NUMBERED.fullmatch(other)
    # Names that are numbered through mean their numbers: tumor 1, tumor 2.
    if numbered and len(one) >= 4 and numbered["stem"] == one and series[one] == 1:
        return "a number behind"
    words = [_words(name) for name in (one, other)]
    if len(words[0]) != len(words[1]):
        return ""
    differing = [pair for pair in zip(*words, strict=True) if pair[0] != pair[1]]
    if differing and all(_american(a) == _american(b) for a, b in differing):
        return "British and American spelling"
    rare = min(counts[first], counts[second]) * _RARE <= max(counts[first], counts[second])
    return "one letter" if len(differing) == 1 and _one_letter_apart(*differing[0], rare=rare) else ""


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\s_\-.]+", name) if word]


def _american(word: str) -> str:
    for british, american in _BRITISH:
        word = word.replace(british, american)
    return word


def _one_letter_apart(one: str, other: str, *, rare: bool) -> bool:
    """Whether long words differ by a letter too few, two swapped or, where one of them is rare, a wrong one."""
    if max(len(one), len(other)) < _LONG_WORD or abs(len(one) - len(other)) > 1:
        return False
    start = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    a, b = one[start:], other[start:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    within = start > 0 and start + max(len(a), len(b)) < max(len(one), len(other))
    if not within or not (a + b).isalpha():
        return False
    return sorted((len(a), len(b))) == [0, 1] or a == b[::-1] != "" or (rare and len(a) == len(b) == 1)


def order_classes(labels: Iterable[str | None], *, classes: tuple[str, ...] | None, where: str) -> tuple[str, ...]:
    """Class names in index order: as declared, else the labels in natural order.

    Raises:
        DataError: ``LABEL_UNKNOWN`` when a label is not among the declared classes.
    """
    counts = Counter(label for label in labels if label is not None)
    if classes is None:
        return tuple(sorted(counts, key=natural_key))
    unknown = sorted(set(counts).difference(classes), key=natural_key)
    if unknown:
        found, known = listed(unknown, limit=20), listed(classes, limit=20)
        raise DataError(
            "LABEL_UNKNOWN",
            f"{len(unknown):,} labels are not among the classes: found {found}; classes {known}",
            where=where,
            fix="use the exact names of the classes",
            problems=[
                Problem("LABEL_UNKNOWN", f"'{label}' ({counts[label]:,} samples)", fix=nearest(label, classes))
                for label in unknown
            ],
        )
    return classes


def require_two_classes(labels: Iterable[str | None], *, where: str, hint: str = "") -> None:
    """Refuse data from which no classifier can be learned.

    Raises:
        DataError: ``ONE_CLASS`` when fewer than two different labels occur.
    """
    found = sorted({label for label in labels if label is not None}, key=natural_key)
    if len(found) < 2:
        raise DataError(
            "ONE_CLASS",
            f"one class only: {listed(found)}" if found else "no class at all",
            where=where,
            fix=hint or "give images of at least two classes",
        )


def balanced_class_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """total / (classes * count), so that every class carries the same total weight.

    Args:
        counts: C numbers of images per class in the training part; a class without images weighs 0.

    Example:
        >>> [round(w, 3) for w in balanced_class_weights([664, 668, 317, 647])]
        [0.864, 0.859, 1.811, 0.887]
    """
    total = sum(counts)
    return tuple(total / (len(counts) * count) if count else 0.0 for count in counts)
