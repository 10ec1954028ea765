"""Which images a report shows, and what it shows of them."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from medgraft.checks.copy_search import CopySearch
from medgraft.checks.images import CheckedImages
from medgraft.checks.label_errors import LabelErrors
from medgraft.data.manifest import Manifest
from medgraft.data.pixels import Pixels
from medgraft.inference.explain import gradcam, overlay
from medgraft.inference.predictor import Predictor
from medgraft.report.checks_table import PicturedExample
from medgraft.report.evaluation_content import Case, Thumb
from medgraft.types import IntArray, Scores

_GRID_PER_CLASS = 6
_SHOWN = 12  # examples of a check


def choose_cases(scores: Scores, predicted: IntArray, count: int) -> tuple[IntArray, IntArray]:
    """Rows for the galleries: the most confident errors, and right answers at the class's median confidence.

    Typical cases are spread over the classes; the most confident ones would show the easiest images only.
    """
    confidence = scores.y_proba[np.arange(len(scores)), predicted]
    wrong = np.flatnonzero(predicted != scores.y_true)
    errors = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    typical: list[int] = []
    per_class = max(count // len(scores.classes), 1)
    for number in range(len(scores.classes)):
        right = np.flatnonzero((scores.y_true == number) & (predicted == number))
        if right.size:
            distance = np.abs(confidence[right] - np.median(confidence[right]))
            typical += [int(row) for row in right[np.argsort(distance, kind="stable")][:per_class]]
    return errors, np.array(typical[:count], dtype=np.int64)


def explained_cases(
    predictor: Predictor, pixels: Pixels, scores: Scores, predicted: IntArray, rows: IntArray
) -> list[Case]:
    """Some of the scored images, each with what spoke for the class that was named."""
    if not len(rows):
        return []
    images = pixels.read(rows)
    maps = gradcam(predictor.bundle.classifier, images, predicted[rows])
    return [
        Case(
            sample_id=scores.sample_ids[row],
            true=scores.classes[scores.y_true[row]],
            predicted=scores.classes[predicted[row]],
            proba=float(scores.y_proba[row, predicted[row]]),
            image=image,
            overlay=overlay(image, cam),
        )
        for row, image, cam in zip(rows, images, maps, strict=True)
    ]


def sample_grid(manifest: Manifest, pixels: Pixels) -> list[Thumb]:
    """A few images of each class, spread over the samples."""
    labels = manifest.table["label"].to_numpy()
    thumbs = []
    for name in manifest.classes:
        rows = np.flatnonzero(labels == name)
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, _GRID_PER_CLASS).astype(int))] if len(rows) else rows
        thumbs += [Thumb(name, image) for image in pixels.read(chosen)]
    return thumbs


def copy_pictures(images: CheckedImages, copies: CopySearch) -> dict[str, list[PicturedExample]]:
    """Near copies side by side, by the code of the check that tells of them; those of two parts first."""
    table = images.manifest.table
    ids, parts, labels = (table[name].tolist() for name in ("sample_id", "split", "label"))
    found: dict[str, list[PicturedExample]] = defaultdict(list)
    for pair in copies.pairs:
        ends = (pair.first, pair.second)
        first, second = ends
        if images.records[first].pixel_hash == images.records[second].pixel_hash:
            code = "LABEL_CONFLICT" if labels[first] != labels[second] else ""
        elif labels[first] != labels[second]:
            code = "COPIES_NEAR_LABELS"
        else:
            code = "COPIES_NEAR_WITHIN" if parts[first] == parts[second] else "COPIES_NEAR_ACROSS_PARTS"
        if code and len(found[code]) < _SHOWN:
            named = [f"{ids[row]} ({', '.join(filter(None, (labels[row], parts[row])))})" for row in ends]
            caption = f"{pair.kind}: {named[0]} and {named[1]}"
            found[code].append(PicturedExample(caption, tuple(images.pixels.read(np.array(ends)))))
    return dict(found)


def suspect_pictures(images: CheckedImages, labels: LabelErrors | None) -> dict[str, list[PicturedExample]]:
    """Images whose labels are doubted, the surest first."""
    if labels is None or not labels.suspects:
        return {}
    ids, classes = images.manifest.table["sample_id"].tolist(), images.manifest.classes
    examples = []
    for suspect in labels.suspects[:_SHOWN]:
        caption = (
            f"{ids[suspect.row]}: labelled {classes[suspect.given]}, looks like {classes[suspect.suggested]} "
            f"({suspect.proba_suggested:.2f})"
        )
        examples.append(PicturedExample(caption, tuple(images.pixels.read(np.array([suspect.row])))))
    return {"LABEL_SUSPECTED": examples}
