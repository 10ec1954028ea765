"""Planted copies of every kind are found and named, and nothing else is."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medgraft.checks.near_copies import CopyPair, check_near_copies, near_copies
from medgraft.config.schema import DataConfig
from medgraft.data.fingerprint import fingerprints
from medgraft.data.grouping import join_groups
from medgraft.data.image import decode
from medgraft.data.manifest import Manifest
from medgraft.data.phantom import draw_patient
from medgraft.data.resize import fit
from medgraft.types import IntArray, PixelArray, Preprocess

SIDE = 128
PREPROCESS = Preprocess((SIDE, SIDE), "squash", "bicubic", (0.5,) * 3, (0.5,) * 3)


class Stored:
    """Images in memory."""

    def __init__(self, images: PixelArray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: IntArray) -> PixelArray:
        return self.images[indices]


def search(natives: list[PixelArray], *, size: tuple[int, int] = (SIDE, SIDE)) -> list[CopyPair]:
    preprocess = Preprocess(size, "squash", "bicubic", (0.5,) * 3, (0.5,) * 3)
    source = Stored(np.stack([fit(np.ascontiguousarray(native), preprocess) for native in natives]))
    sizes = np.array([native.shape[:2] for native in natives])
    return near_copies(fingerprints(source, sizes=sizes), source)


def phantoms(patients: int, slices: int = 4, size: int = 160, seed: int = 0) -> list[PixelArray]:
    drawn = [draw_patient(np.random.default_rng([seed, at]), slices=slices, size=size)[0] for at in range(patients)]
    return [np.repeat(image[:, :, None], 3, axis=2) for patient in drawn for image in patient]


def texture(seed: int, height: int = 120, width: int = 150) -> PixelArray:
    """A colored random texture with detail at all scales."""
    rng = np.random.default_rng(seed)
    layers = [ndimage.gaussian_filter(rng.standard_normal((height, width)), sigma) for sigma in (1.5, 4, 12)]
    gray = sum(layer / layer.std() for layer in layers)
    color = rng.uniform(0.7, 1.0, 3)
    return np.clip((110 + 22 * gray)[:, :, None] * color, 0, 255).astype(np.uint8)


def jpeg(pixels: PixelArray, quality: int) -> PixelArray:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream).convert("RGB"))


def resized(pixels: PixelArray, down: float, across: float) -> PixelArray:
    height, width = pixels.shape[:2]
    return np.array(Image.fromarray(pixels).resize((round(width * across), round(height * down))))


def cropped(pixels: PixelArray, top: float, bottom: float, left: float, right: float) -> PixelArray:
    height, width = pixels.shape[:2]
    return pixels[round(top * height) : round((1 - bottom) * height), round(left * width) : round((1 - right) * width)]


def toned(pixels: PixelArray, gain: float, offset: float) -> PixelArray:
    return np.clip(pixels * gain + offset, 0, 255).astype(np.uint8)


CHANGES: dict[str, tuple[str, Callable[[PixelArray], PixelArray]]] = {
    "equal": ("same", lambda pixels: pixels.copy()),
    "jpeg 30": ("same", lambda pixels: jpeg(pixels, 30)),
    "jpeg 95": ("same", lambda pixels: jpeg(pixels, 95)),
    "half": ("resized", lambda pixels: resized(pixels, 0.5, 0.5)),
    "double": ("resized", lambda pixels: resized(pixels, 2, 2)),
    "other aspect": ("resized", lambda pixels: resized(pixels, 0.9, 0.95)),
    "cropped": ("cropped", lambda pixels: cropped(pixels, 0.02, 0.01, 0.015, 0.03)),
    "cropped on all sides": ("cropped", lambda pixels: cropped(pixels, 0.03, 0.03, 0.03, 0.03)),
    "cropped on one side": ("cropped", lambda pixels: cropped(pixels, 0, 0, 0, 0.03)),
    "darker": ("brightness", lambda pixels: toned(pixels, 0.8, -20)),
    "lighter": ("brightness", lambda pixels: toned(pixels, 1.2, 20)),
    "left-right": ("mirrored left-right", lambda pixels: pixels[:, ::-1]),
    "top-bottom": ("mirrored top-bottom", lambda pixels: pixels[::-1]),
    "turned by 90": ("rotated by 90", lambda pixels: np.rot90(pixels, -1)),
    "turned by 180": ("rotated by 180", lambda pixels: np.rot90(pixels, 2)),
    "turned by 270": ("rotated by 270", lambda pixels: np.rot90(pixels, 1)),
    "turned, cropped, darker, smaller, compressed": (
        "rotated by 90",
        lambda pixels: jpeg(
            resized(toned(cropped(np.rot90(pixels, -1), 0.02, 0.01, 0.01, 0.02), 0.9, -10), 0.8, 0.8), 60
        ),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("pictures", ["phantoms", "textures"])
def test_copies_are_found_named_and_nothing_else(pictures: str, change: str) -> None:
    originals = phantoms(6) if pictures == "phantoms" else [texture(seed) for seed in range(24)]
    kind, make = CHANGES[change]
    pairs = search([*originals, *(make(original) for original in originals)])
    n = len(originals)
    assert [(pair.first, pair.second) for pair in pairs] == [(at, n + at) for at in range(n)]
    assert sum(pair.kind == kind for pair in pairs) >= 0.95 * n
    assert all(0 <= pair.distance < 0.11 for pair in pairs)


def test_slices_of_one_head_and_distinct_heads_are_no_copies() -> None:
    assert search(phantoms(12, slices=8)) == []
    assert search(phantoms(12, slices=4, size=64), size=(64, 64)) == []


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (96, 128), (224, 224)])
def test_any_network_size_will_do(size: tuple[int, int]) -> None:
    originals = [texture(seed) for seed in range(12)]
    copies = [jpeg(np.fliplr(original), 70) for original in originals]
    pairs = search([*originals, *copies], size=size)
    assert [(pair.first, pair.second) for pair in pairs] == [(at, 12 + at) for at in range(12)]
    assert {pair.kind for pair in pairs} == {"mirrored left-right"}


def test_two_images_are_set_enough() -> None:
    for change, (_, make) in CHANGES.items():
        pairs = search([texture(1), make(texture(1))])
        assert [(pair.first, pair.second) for pair in pairs] == [(0, 1)], change
    assert search([texture(1), texture(2)]) == []
    assert search([texture(1)]) == []


def test_flat_images_are_left_aside_and_do_not_hide_others() -> None:
    black = [np.zeros((60, 60, 3), np.uint8)] * 200
    dim = [np.random.default_rng(at).integers(0, 3, (60, 60, 3)).astype(np.uint8) for at in range(50)]
    natives = [*black, *dim, texture(0), texture(1), jpeg(texture(0), 50)]
    source = Stored(np.stack([fit(native, PREPROCESS) for native in natives]))
    prints = fingerprints(source)
    assert prints.flat.tolist() == list(range(250))
    assert [(pair.first, pair.second) for pair in near_copies(prints, source)] == [(250, 252)]


def test_pure_noise_has_no_copies() -> None:
    assert search([np.random.default_rng(at).integers(0, 256, (96, 96, 3)).astype(np.uint8) for at in range(40)]) == []


def test_many_equal_images_give_a_linear_number_of_pairs_in_one_group() -> None:
    natives = [texture(0)] * 60 + [texture(1), jpeg(texture(0), 60)]
    pairs = search(natives)
    assert len(pairs) < 11 * len(natives)
    groups = join_groups(len(natives), [], pairs=[(pair.first, pair.second) for pair in pairs])
    assert len({*groups[:60], groups[61]}) == 1 and groups[60] != groups[0]


def test_pairs_of_equal_images_are_all_there_while_they_are_few() -> None:
    pairs = search([texture(0), texture(1), texture(0), jpeg(texture(0), 60), texture(1)[:, ::-1]])
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 2), (0, 3), (1, 4), (2, 3)]


def test_order_of_the_images_decides_the_direction_only() -> None:
    original, copy = texture(0), np.rot90(texture(0), -1)
    (pair,) = search([original, copy])
    (back,) = search([copy, original])
    assert (pair.kind, back.kind) == ("rotated by 90", "rotated by 270")


def test_the_same_images_give_the_same_pairs() -> None:
    natives = [*phantoms(4), *(jpeg(image[:, ::-1], 40) for image in phantoms(4))]
    assert search(natives) == search(natives)


def test_images_that_could_not_be_read_are_passed_over() -> None:
    source = Stored(np.stack([fit(texture(seed), PREPROCESS) for seed in (0, 0, 1, 0)]))
    pairs = near_copies(fingerprints(source, rows=np.array([0, 2, 3])), source)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 3)]


def test_progress_ends_with_all_candidates() -> None:
    source = Stored(np.stack([fit(texture(seed % 3), PREPROCESS) for seed in range(9)]))
    heard: list[tuple[int, int]] = []
    near_copies(fingerprints(source), source, progress=lambda done, total: heard.append((done, total)))
    assert heard and heard[-1][0] == heard[-1][1]


def test_a_dim_slice_is_no_copy_of_its_smaller_neighbour() -> None:
    """Of half the size, it may carry more noise than the two differ by; but then noise would explain all it shows."""
    common, first, second = (
        ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((256, 256)), width)
        for seed, width in ((2, 5), (0, 6), (1, 6))
    )
    levels = (60 + 8 * common / common.std() + 1.8 * detail / detail.std() for detail in (first, second))
    one, other = (np.repeat(np.clip(each, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2) for each in levels)
    assert search([one, resized(other, 0.5, 0.5)]) == []
    assert len(search([one, resized(one, 0.5, 0.5)])) == 1


def manifest(labels: list[str | None], splits: list[Any]) -> Manifest:
    names = [f"image-{row}" for row in range(len(labels))]
    columns: dict[str, list[Any]] = {"sample_id": names, "path": names, "label": labels, "split": splits}
    return Manifest.from_columns(columns, root=Path("/data"), classes=("a", "b"), patient_source="none")


PAIRS = [
    CopyPair(0, 1, "resized", 0.01),
    CopyPair(0, 2, "mirrored left-right", 0.02),
    CopyPair(1, 2, "mirrored left-right", 0.0),
    CopyPair(3, 4, "cropped", 0.05),
]


def test_pairs_within_and_across_parts_are_told_apart_and_named() -> None:
    within, across = check_near_copies(
        manifest(["a", "a", "a", "b", "b"], ["train", "train", "test", "val", "val"]), PAIRS
    )
    assert (within.code, within.severity, across.code) == ("COPIES_NEAR_WITHIN", "warning", "COPIES_NEAR_ACROSS_PARTS")
    assert within.evidence["pairs"] == 2 and within.evidence["images"] == 4
    assert within.evidence["kinds"] == {"resized": 1, "cropped": 1}
    assert across.evidence["pairs"] == 2 and across.evidence["images"] == 3
    assert across.evidence["examples"][0] == {
        "first": "image-0",
        "second": "image-2",
        "kind": "mirrored left-right",
        "distance": 0.02,
        "parts": ["train", "test"],
        "labels": ["a", "a"],
    }
    assert "2 pairs" in across.title and "test and train: 2" in across.title and "2 mirrored left-right" in across.title
    assert within.advice and across.advice


def test_one_picture_under_two_labels_is_said() -> None:
    found = check_near_copies(manifest(["a", "b", "a", None, "b"], ["train"] * 5), PAIRS)
    within, labels = found
    assert labels.code == "COPIES_NEAR_LABELS" and labels.evidence["pairs"] == 2 and within.evidence["pairs"] == 4
    assert [example["labels"] for example in labels.evidence["examples"]] == [["a", "b"], ["b", "a"]]


def test_exact_copies_are_left_to_the_check_that_names_them() -> None:
    exact = ["x", "x", "y", "", ""]
    (found,) = check_near_copies(manifest(["a"] * 5, [None] * 5), PAIRS, exact=exact)
    assert found.evidence["pairs"] == 3 and "of one part" not in found.title


def test_images_that_show_nothing_are_said() -> None:
    (found,) = check_near_copies(manifest(["a"] * 3, [None] * 3), [], flat=np.array([0, 2]))
    assert (found.code, found.severity) == ("COPIES_NEAR_FLAT", "note")
    assert found.evidence == {"images": 2, "examples": ["image-0", "image-2"]} and "2 images" in found.title
    assert check_near_copies(manifest(["a"], [None]), [], flat=np.array([], np.int64)) == ()


def test_examples_are_few() -> None:
    n = 100
    pairs = [CopyPair(at, at + n, "same", 0.0) for at in range(n)]
    (found,) = check_near_copies(manifest(["a"] * 2 * n, ["train"] * 2 * n), pairs)
    assert found.evidence["pairs"] == n and len(found.evidence["examples"]) == 20


@pytest.mark.slow
def test_neighbouring_slices_are_no_copies_and_known_copies_are_found(shared_data: Path) -> None:
    rules = DataConfig()
    slices = sorted(path for path in (shared_data / "lgg-mri").rglob("*.tif") if not path.stem.endswith("_mask"))
    assert search([decode(path, rules).pixels for path in slices]) == []
    folder = shared_data / "brain-mri-4class" / "no_tumor"
    natives = [decode(path, rules).pixels for path in sorted(folder.glob("*.jpg"))]
    pairs = search(natives)
    equal = {
        (one, other)
        for other in range(len(natives))
        for one in range(other)
        if natives[one].shape == natives[other].shape and np.array_equal(natives[one], natives[other])
    }
    assert len(equal) > 20 and equal <= {(pair.first, pair.second) for pair in pairs}
    assert len(pairs) > len(equal)
