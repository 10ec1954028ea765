"""A planted mark is found, and images without one are not accused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from made_images import checked, noise, phantoms, png_record
from medgraft.checks.baselines import metadata_baseline
from medgraft.checks.images import CheckedImages
from medgraft.checks.judging import Judging
from medgraft.checks.shortcuts import ShortcutReport, border_sources, summarize_shortcuts, surely_above
from medgraft.config.schema import EvaluationConfig
from medgraft.types import Estimate, IntArray

CONFIG = EvaluationConfig(bootstrap=100)


def report(images: CheckedImages, *, scored: IntArray | None = None, seed: int = 0) -> ShortcutReport:
    everything = np.arange(len(images))
    fit = None if scored is None else np.setdiff1d(everything, scored)
    judge = Judging(images, everything if scored is None else scored, fit, seed, 20_000)
    known = images.manifest.patients_known
    return summarize_shortcuts(border_sources(judge), [metadata_baseline(judge)], CONFIG, patients_known=known, seed=0)


def marked(images: CheckedImages, *, side: int = 3) -> CheckedImages:
    """The same with a small white square in the upper right corner, never quite in one place, of all tumors."""
    rng = np.random.default_rng(0)
    pixels = images.pixels.read(np.arange(len(images))).copy()
    for row in np.flatnonzero(images.manifest.class_indices() == 1).tolist():
        down, across = rng.integers(1, 5, 2)
        pixels[row, down : down + side, -across - side : -across] = 255
    table = images.manifest.table
    return checked(pixels, list(table["label"]), patients=list(table["patient_id"]), paths=list(table["path"]))


def test_a_corner_mark_is_found_and_its_corner_named() -> None:
    found = report(marked(phantoms(20)))
    checks = {check.code: check for check in found.checks}
    corner = checks["SHORTCUT_CORNERS"]
    assert corner.severity == "warning" and "the four corners alone predict the label with AUROC" in corner.title
    assert "strongest on its own: top right (1.00)" in corner.title
    assert corner.evidence["auroc"]["value"] > 0.95 and corner.evidence["alone"]["top right"] == 1.0
    assert "remove marks and text" in corner.advice and "as in histopathology, this is no fault" in corner.advice
    assert "strongest on its own: top right corner, " in checks["SHORTCUT_METADATA"].title


def test_a_mark_is_found_on_a_given_split_too() -> None:
    images = marked(phantoms(20))
    found = report(images, scored=np.arange(42, 60))
    assert found.sources["corners"]["protocol"] == "fitted on 42 training images, scored on 18"
    assert "SHORTCUT_CORNERS" in {check.code for check in found.checks}


@pytest.mark.parametrize("seed", range(4))
def test_phantoms_are_not_accused(seed: int) -> None:
    assert report(phantoms(20, seed=seed), seed=seed).checks == ()


@pytest.mark.slow
def test_phantoms_are_not_accused_over_twenty_seeds() -> None:
    for seed in range(20):
        assert report(phantoms(24, slices=4, seed=100 + seed), seed=seed).checks == ()


def test_a_frame_around_one_class_is_a_border() -> None:
    pixels = noise(60, size=64)
    pixels[::2, :, :2] = pixels[::2, :, :2] // 2
    found = report(checked(pixels, ["framed", "plain"] * 30))
    borders = next(check for check in found.checks if check.code == "SHORTCUT_BORDERS")
    assert "strongest on its own: left (" in borders.title and "crop the images" in borders.advice
    assert borders.evidence["n_images"] == 60


def test_files_that_differ_between_classes_are_a_shortcut() -> None:
    pixels = noise(60)
    records = [replace(png_record(image), width=200 + 100 * (at % 2) + at) for at, image in enumerate(pixels)]
    (check,) = report(checked(pixels, ["a", "b"] * 30, records=records)).checks
    assert check.code == "SHORTCUT_METADATA" and "alike in size, format and frame" in check.advice
    assert next(iter(check.evidence["alone"])) in ("width", "aspect", "megapixels", "bytes per pixel")


def test_the_middle_of_an_image_is_no_shortcut() -> None:
    pixels = noise(60, size=64)
    pixels[::2, 16:48, 16:48] = 255
    records = [png_record(pixels[1])] * 60
    images = checked(pixels, ["a", "b"] * 30, records=[replace(records[0], pixel_hash=str(at)) for at in range(60)])
    assert report(images).checks == ()


def test_the_sources_have_the_shape_of_evaluation_json() -> None:
    found = report(phantoms(12, slices=2))
    told = json.loads(json.dumps([found.sources, [check.as_dict() for check in found.checks]], allow_nan=False))
    assert tuple(told[0]) == ("borders", "corners")
    for one in told[0].values():
        assert set(one) == {"protocol", "metrics"} and set(one["metrics"]) == {"auroc", "accuracy", "balanced_accuracy"}


def test_too_few_images_give_nothing() -> None:
    judge = Judging(checked(noise(4), [*"abab"]), np.arange(4), None, 0, 100)
    assert border_sources(judge) == ()
    nothing = summarize_shortcuts((), (), CONFIG, patients_known=False, seed=0)
    assert nothing.sources == {} and nothing.checks == ()


def test_several_questions_ask_for_more() -> None:
    # the quantile at 1 - 0.025 / 3 is 2.394, that at 0.975 is 1.960: the limit lies 1.22 times as far away
    estimate = Estimate(0.8, 0.64, 0.9)
    assert surely_above(estimate, 0.6, questions=3) and not surely_above(estimate, 0.61, questions=3)
    assert surely_above(estimate, 0.639, questions=1) and not surely_above(estimate, 0.641, questions=1)
    assert not surely_above(Estimate(None, None, None, reason="0 cases"), 0.6, questions=3)
