"""The search for near copies is done once for the same images, and never kept for others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medgraft.checks.copy_search import CopySearch, search_copies
from medgraft.data.phantom import draw_patient
from medgraft.data.pixels import ImageRecord
from medgraft.types import IntArray, PixelArray


class Counted:
    """Images in memory, in place of the pixel store; counts what is read."""

    def __init__(self, images: PixelArray, name: str) -> None:
        self.images, self.name, self.size = images, name, images.shape[1:3]
        self.read_rows = 0

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: IntArray) -> PixelArray:
        self.read_rows += len(indices)
        return self.images[indices]

    def row_digest(self) -> str:
        return self.name


def images_with_copies() -> PixelArray:
    """Nine slices of three heads, then the second mirrored and the fourth brighter: (11, 96, 96, 3)."""
    heads = [draw_patient(np.random.default_rng([3, at]), slices=3, size=96)[0] for at in range(3)]
    slices = np.concatenate(heads)
    brighter = np.clip(slices[3].astype(np.float64) * 1.1 + 6, 0, 255).astype(np.uint8)
    return np.repeat(np.concatenate([slices, [slices[1][:, ::-1], brighter]])[..., None], 3, axis=3)


def search(pixels: Counted, folder: Path, sides: int = 96) -> CopySearch:
    records = [ImageRecord(pixel_hash=str(row), width=sides, height=sides) for row in range(len(pixels))]
    return search_copies(pixels, records, folder=folder)  # type: ignore[arg-type]


def test_the_second_search_reads_no_pixel(tmp_path: Path) -> None:
    pixels = Counted(images_with_copies(), "digest")
    first = search(pixels, tmp_path)
    assert pixels.read_rows >= 11 and sorted(first.ends()) == [(1, 9), (3, 10)]
    assert [pair.kind for pair in first.pairs] == ["mirrored left-right", "brightness"]
    pixels.read_rows = 0
    again = search(pixels, tmp_path)
    assert pixels.read_rows == 0 and again.pairs == first.pairs
    for name in ("thumbnails", "sizes", "known", "contrast"):
        assert np.array_equal(getattr(again.prints, name), getattr(first.prints, name)), name
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".npy"]


def test_other_images_other_sizes_and_other_network_sizes_are_searched_anew(tmp_path: Path) -> None:
    images = images_with_copies()
    search(Counted(images, "digest"), tmp_path)
    small = np.ascontiguousarray(images[:, ::2, ::2])
    for number, (pixels, sides) in enumerate(
        [(Counted(images, "other"), 96), (Counted(images, "digest"), 200), (Counted(small, "digest"), 96)], start=2
    ):
        search(pixels, tmp_path, sides)
        assert pixels.read_rows >= 11 and len(list(tmp_path.glob("*.npy"))) == number


def test_a_search_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    pixels = Counted(images_with_copies(), "digest")
    first = search(pixels, tmp_path)
    (pairs,) = tmp_path.glob("*.json")
    pairs.unlink()  # killed between the two files
    pixels.read_rows = 0
    assert search(pixels, tmp_path).pairs == first.pairs and pixels.read_rows >= 11


def test_prints_of_some_images_keep_their_order(tmp_path: Path) -> None:
    found = search(Counted(images_with_copies(), "digest"), tmp_path)
    rows = np.array([10, 0, 4])
    taken = found.prints_of(rows)
    assert np.array_equal(taken.thumbnails, found.prints.thumbnails[rows]) and len(taken) == 3
    assert np.array_equal(taken.sizes, found.prints.sizes[rows])


def test_no_image_and_one_image(tmp_path: Path) -> None:
    images = images_with_copies()
    for count in (0, 1):
        found = search(Counted(images[:count], f"{count}"), tmp_path)
        assert found.pairs == () and len(found.prints) == count
        assert search(Counted(images[:count], f"{count}"), tmp_path).pairs == ()
