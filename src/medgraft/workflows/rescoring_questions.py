"""What a finished model is asked again: of which images, and with what blanked.

scored images ─► draw_rows: whole patients ─┬─► corners, borders, text        of all of them
                          masks of lesions ─┴─► lesion removed, lesion only   of those whose lesions are known
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medgraft.checks.blanking import (
    Blanked,
    borders_blanked,
    corners_blanked,
    lesion_only,
    lesion_removed,
    text_blanked,
)
from medgraft.checks.masks import Masks
from medgraft.data.grouping import GroupCounts, spread
from medgraft.data.manifest import Manifest
from medgraft.types import IntArray, PixelArray

VariantName = Literal["corners_blanked", "borders_blanked", "text_blanked", "lesion_removed", "lesion_only"]
Blank = Callable[[PixelArray, IntArray], Blanked]
"""From pixels of n images, and their places among the rows of a question, to changed copies."""


@dataclass(frozen=True)
class Question:
    """A way of blanking, and the images it is asked of.

    Attributes:
        name: of the variant.
        rows: (n,) scored images that are compared.
        fills: ways of filling the region; each later one has to confirm a drop that the ones before show.
    """

    name: VariantName
    rows: IntArray
    fills: tuple[Blank, ...]


def draw_rows(manifest: Manifest, *, limit: int, seed: int) -> IntArray:
    """At most so many rows of a labelled manifest, in order: whole patients, each class in its share.

    Where patients have so many images that whole ones do not fit, single images are drawn.
    """
    n, n_classes = len(manifest), len(manifest.classes)
    if n <= limit:
        return np.arange(n)
    labels = manifest.class_indices()
    _, patient = np.unique(np.array(manifest.unit_ids(), dtype=object), return_inverse=True)
    rng = np.random.default_rng([seed, 31])
    fixed = np.zeros((2, n_classes))
    for group in (patient.astype(np.int64), np.arange(n)):
        counts = GroupCounts.of(group, labels, n_classes=n_classes)
        # a share is met as nearly as whole patients allow, so it may be passed by a part of one
        for less in (1.0, 0.95, 0.85, 0.7):
            share = less * limit / n
            side = spread(counts, np.arange(counts.n_groups), [share, 1.0 - share], fixed=fixed, rng=rng)
            rows = np.flatnonzero(side[group] == 0)
            if limit // 2 <= len(rows) <= limit:
                return rows
    return np.sort(rng.permutation(n)[:limit])


def questions_of_places(rows: IntArray) -> list[Question]:
    """Corners, borders and text of the rows (n,)."""
    return [
        Question(
            "corners_blanked",
            rows,
            (lambda pixels, _: corners_blanked(pixels), lambda pixels, _: corners_blanked(pixels, fill="mirror")),
        ),
        Question(
            "borders_blanked",
            rows,
            (lambda pixels, _: borders_blanked(pixels), lambda pixels, _: borders_blanked(pixels, fill="mirror")),
        ),
        Question("text_blanked", rows, (lambda pixels, _: text_blanked(pixels),)),
    ]


def questions_of_lesions(rows: IntArray, labels: Sequence[str], masks: Masks, *, seed: int) -> list[Question]:
    """Lesions removed and lesions only; nothing where no mask shows a lesion.

    Sources give no mask to images without a lesion. In a class that has lesions, an image without a mask may have one:
    it is left out. "Only" is asked of an image without a lesion through the window of another image's lesion, for a
    window in some images would tell the class by itself.

    Args:
        rows: (n,) scored images.
        labels: n class names.
        masks: of these n.
        seed: of the choice of windows.
    """
    has = masks.shown
    if not has.any():
        return []
    with_lesions = {label for label, own in zip(labels, has, strict=True) if own}
    sure = [known or label not in with_lesions for label, known in zip(labels, masks.known, strict=True)]
    places = np.flatnonzero(sure)
    lesions = masks.lesions[places]
    lent = np.flatnonzero(has[places])
    windows = lesions.copy()
    blank = ~has[places]
    windows[blank] = lesions[np.random.default_rng([seed, 32]).choice(lent, int(blank.sum()))]
    return [
        Question("lesion_removed", rows[places], (lambda pixels, at: lesion_removed(pixels, lesions[at]),)),
        Question("lesion_only", rows[places], (lambda pixels, at: lesion_only(pixels, windows[at]),)),
    ]
