"""What is remembered of images: copies are known again, other images are not, and nothing else is told."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medgraft.config.schema import DataConfig
from medgraft.data.fingerprint import Fingerprints, fingerprints
from medgraft.data.image import decode
from medgraft.data.imprint import Imprint, find_in, take_imprint
from medgraft.data.phantom import draw_patient
from medgraft.data.resize import fit
from medgraft.types import IntArray, PixelArray, Preprocess

SIDE = 128
SALT = bytes(range(16))
PREPROCESS = Preprocess((SIDE, SIDE), "squash", "bicubic", (0.5,) * 3, (0.5,) * 3)


class Stored:
    """Images in memory."""

    def __init__(self, images: PixelArray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: IntArray) -> PixelArray:
        return self.images[indices]


def printed(natives: list[PixelArray]) -> Fingerprints:
    return fingerprints(Stored(np.stack([fit(np.ascontiguousarray(native), PREPROCESS) for native in natives])))


def named(n: int, prefix: str = "image") -> list[str]:
    return [f"{prefix} {row}" for row in range(n)]


def texture(seed: int, side: int = SIDE) -> PixelArray:
    rng = np.random.default_rng(seed)
    layers = [ndimage.gaussian_filter(rng.standard_normal((side, side)), sigma) for sigma in (2, 5, 12)]
    gray = sum(layer / layer.std() for layer in layers)
    return np.repeat(np.clip(115 + 22 * gray, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def phantoms(patients: int, slices: int = 4, seed: int = 0) -> list[PixelArray]:
    drawn = [draw_patient(np.random.default_rng([seed, at]), slices=slices, size=SIDE)[0] for at in range(patients)]
    return [np.repeat(image[:, :, None], 3, axis=2) for patient in drawn for image in patient]


def jpeg(pixels: PixelArray, quality: int) -> PixelArray:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream).convert("RGB"))


def toned(pixels: PixelArray, gain: float, offset: float) -> PixelArray:
    return np.clip(pixels * gain + offset, 0, 255).astype(np.uint8)


UNMOVED = {
    "jpeg 30": lambda pixels: jpeg(pixels, 30),
    "half": lambda pixels: np.array(Image.fromarray(pixels).resize((64, 64))),
    "double": lambda pixels: np.array(Image.fromarray(pixels).resize((256, 260))),
    "darker": lambda pixels: toned(pixels, 0.85, -10),
    "lighter": lambda pixels: toned(pixels, 1.1, 10),
    "left-right": lambda pixels: pixels[:, ::-1],
    "top-bottom": lambda pixels: pixels[::-1],
    "turned by 90": lambda pixels: np.rot90(pixels, -1),
    "turned by 180": lambda pixels: np.rot90(pixels, 2),
    "turned by 270": lambda pixels: np.rot90(pixels, 1),
    "mirrored along a diagonal": lambda pixels: pixels.swapaxes(0, 1),
}
MOVED = {
    "cropped on all sides": lambda pixels: pixels[4:-4, 4:-4],
    "cropped unevenly": lambda pixels: pixels[1:-3, 4:-2],
    "cropped on one side": lambda pixels: pixels[:, 4:],
    "turned, cropped, darker, compressed": lambda pixels: jpeg(toned(np.rot90(pixels)[2:-3, 3:-1], 0.9, 0), 60),
}
TEXTURES = [texture(seed) for seed in range(160)]
REMEMBERED = take_imprint(printed(TEXTURES), named(160), salt=SALT)


@pytest.mark.parametrize("kind", [*UNMOVED, *MOVED])
def test_near_copies_are_known_again_and_other_images_are_not(kind: str) -> None:
    change = (UNMOVED | MOVED)[kind]
    natives = [change(texture(seed)) for seed in range(0, 160, 4)]
    natives += [change(texture(seed)) for seed in range(1000, 1040)]
    seen = find_in(REMEMBERED, printed(natives), named(80, "other"))
    assert seen.near[:40].mean() >= 0.95 and not seen.near[40:].any() and not seen.exact.any()


def test_what_was_cropped_may_also_be_the_remembered_one() -> None:
    remembered = [*TEXTURES[1:], TEXTURES[0][3:-3, 3:-3]]
    imprint = take_imprint(printed(remembered), named(160), salt=SALT)
    assert find_in(imprint, printed([TEXTURES[0], texture(1000)]), named(2, "other")).near.tolist() == [True, False]


def test_the_same_pixels_are_exact_and_not_near() -> None:
    hashes = ["image 3", "other", "image 5", ""]
    seen = find_in(REMEMBERED, printed([TEXTURES[3], TEXTURES[4], texture(1000), texture(1001)]), hashes)
    assert seen.exact.tolist() == [True, False, True, False] and seen.near.tolist() == [False, True, False, False]


@pytest.mark.parametrize("patients", [12, 40])
def test_other_slices_and_other_heads_are_no_copies(patients: int) -> None:
    images = phantoms(patients, slices=6)
    imprint = take_imprint(printed(images[::2]), named(len(images) // 2), salt=SALT)
    others = printed([*images[1::2], *phantoms(15, seed=9)])
    assert not find_in(imprint, others, named(len(others), "other")).near.any()
    copies = printed([jpeg(image[:, ::-1], 60) for image in images[::2]])
    assert find_in(imprint, copies, named(len(copies), "copy")).near.mean() >= 0.95


def test_a_few_images_are_remembered_without_telling_their_mean() -> None:
    imprint = take_imprint(printed(TEXTURES[:20]), named(20), salt=SALT)
    assert not imprint.centre.any() and (imprint.spread == 1).all() and REMEMBERED.centre.any()
    natives = [*(jpeg(native, 50) for native in TEXTURES[:20]), *(texture(seed) for seed in range(1000, 1020))]
    seen = find_in(imprint, printed(natives), named(40, "other"))
    assert seen.near[:20].all() and not seen.near[20:].any()


def test_many_copies_of_few_pictures_do_not_tell_their_mean_either() -> None:
    prints = printed(TEXTURES[:5] * 30)
    assert not take_imprint(prints, named(150), salt=SALT).centre.any()


def test_copies_within_the_set_do_not_make_it_careless() -> None:
    twice = [*TEXTURES, *(jpeg(native, 70) for native in TEXTURES[:60])]
    imprint = take_imprint(printed(twice), named(len(twice)), salt=SALT)
    np.testing.assert_allclose(imprint.least, REMEMBERED.least, atol=0.02)


def test_flat_and_unread_images_leave_no_signs_and_are_never_near() -> None:
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    source = Stored(np.stack([fit(native, PREPROCESS) for native in (black, texture(1), texture(2))]))
    imprint = take_imprint(fingerprints(source, rows=np.array([0, 1])), named(3), salt=SALT)
    assert len(imprint.near) == 1 and len(imprint.exact) == 3
    assert find_in(imprint, fingerprints(source), named(3, "other")).near.tolist() == [False, True, False]


def test_nothing_to_remember_and_nothing_to_ask() -> None:
    none = fingerprints(Stored(np.zeros((0, 32, 32, 3), np.uint8)))
    empty = take_imprint(none, [], salt=SALT)
    assert empty.exact.shape == (0, 16) and empty.near.shape == (0, 32)
    assert not find_in(empty, printed([TEXTURES[0]]), ["a"]).near.any()
    assert find_in(REMEMBERED, none, []).exact.shape == (0,)


def test_rows_tell_neither_order_nor_pairs() -> None:
    order = np.random.default_rng(0).permutation(160).tolist()
    names = named(160)
    shuffled = take_imprint(printed([TEXTURES[at] for at in order]), [names[at] for at in order], salt=SALT)
    np.testing.assert_array_equal(shuffled.exact, REMEMBERED.exact)
    assert {row.tobytes() for row in shuffled.near} == {row.tobytes() for row in REMEMBERED.near}
    for rows in (REMEMBERED.exact, REMEMBERED.near):
        assert rows.tolist() == sorted(rows.tolist())


def test_the_salt_decides_all_hashes_and_is_random_by_default() -> None:
    prints, names = printed(TEXTURES[:3]), named(3)
    one, again = (take_imprint(prints, names, salt=SALT) for _ in range(2))
    np.testing.assert_array_equal(one.near, again.near)
    first, second = take_imprint(prints, names), take_imprint(prints, names)
    assert first.salt != second.salt and len(first.salt) == 16
    assert not set(map(bytes, first.exact)) & set(map(bytes, second.exact))
    # Signs under two salts are no more alike than those of two images.
    differing = np.bitwise_count(first.near[:, None] ^ second.near[None]).sum(axis=2)
    assert (differing > 80).all()
    assert names[0].encode() not in one.exact.tobytes()
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        take_imprint(prints, names, salt=b"abc")


def test_signs_stay_the_same_over_versions() -> None:
    """A bundle of today is asked by a medgraft of tomorrow."""
    ramp = np.add.outer(np.arange(SIDE) ** 2 // 90, np.arange(SIDE) // 2 + (np.arange(SIDE) // 20 % 2) * 60)
    native = np.repeat(np.clip(ramp, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    imprint = take_imprint(printed([native]), ["a"], salt=SALT)
    assert imprint.exact.tobytes().hex() == "7448381366d4960be168a31ac6c187c2"
    kept = np.frombuffer(
        bytes.fromhex("3183c82f9a5c1715daaa948a4384823257dca2a5a924b088fd714fe7282473d8"), dtype=np.uint8
    )
    # The smallest sums may round to the other sign on another machine.
    assert np.bitwise_count(imprint.near[0] ^ kept).sum() <= 2


def test_an_imprint_survives_as_arrays() -> None:
    arrays = {name: np.array(array) for name, array in REMEMBERED.as_arrays().items()}
    again = Imprint.from_arrays(arrays)
    assert again.salt == SALT
    for name, array in again.as_arrays().items():
        np.testing.assert_array_equal(array, arrays[name])
    seen = find_in(again, printed([jpeg(TEXTURES[0], 80)]), ["other"])
    assert seen.near.tolist() == [True]


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("near", None, "an imprint has the arrays"),
        ("more", np.zeros(1), "an imprint has the arrays"),
        ("salt", np.zeros(8, np.uint8), r"salt of an imprint is uint8 \(16\), not uint8 \(8,\)"),
        ("exact", np.zeros((3, 8), np.uint8), r"exact of an imprint is uint8 \(any, 16\)"),
        ("near", np.zeros((3, 32), np.int64), "near of an imprint is uint8"),
        ("centre", np.zeros(3, np.float32), "centre of an imprint is float32"),
        ("spread", np.full_like(REMEMBERED.spread, np.nan), "spread of an imprint has values that are not finite"),
        ("spread", np.zeros_like(REMEMBERED.spread), "must be above 0"),
        ("least", np.array([-1, 1], np.float32), "must be above 0"),
    ],
)
def test_damaged_arrays_are_refused(name: str, array: np.ndarray | None, words: str) -> None:
    arrays = dict(REMEMBERED.as_arrays())
    if array is None:
        del arrays[name]
    else:
        arrays[name] = array
    with pytest.raises(ValueError, match=words):
        Imprint.from_arrays(arrays)


def test_hashes_must_be_of_the_images() -> None:
    with pytest.raises(ValueError, match="1 fingerprints and 2 pixel hashes"):
        take_imprint(printed(TEXTURES[:1]), named(2))
    with pytest.raises(ValueError, match="1 fingerprints and 2 pixel hashes"):
        find_in(REMEMBERED, printed(TEXTURES[:1]), named(2))


def test_more_remembered_than_one_block_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    from medgraft.data import imprint as module

    natives = [jpeg(TEXTURES[at], 50) for at in range(0, 160, 8)] + [texture(1000)]
    together = find_in(REMEMBERED, printed(natives), named(21, "other"))
    monkeypatch.setattr(module, "_MEMBERS", 50)
    monkeypatch.setattr(module, "_QUERIES", 7)
    in_blocks = find_in(REMEMBERED, printed(natives), named(21, "other"))
    np.testing.assert_array_equal(in_blocks.near, together.near)


@pytest.mark.slow
def test_slices_of_real_volumes_are_no_copies_of_their_neighbours(shared_data: Path) -> None:
    rules = DataConfig()
    paths = sorted(path for path in (shared_data / "lgg-mri").rglob("*.tif") if not path.stem.endswith("_mask"))
    natives = [decode(path, rules).pixels for path in paths]
    imprint = take_imprint(printed(natives[::2]), named(len(natives[::2])), salt=SALT)
    assert find_in(imprint, printed(natives[1::2]), named(len(natives[1::2]), "other")).near.sum() == 0
    copies = printed([jpeg(native[::-1], 70) for native in natives[::2]])
    assert find_in(imprint, copies, named(len(copies), "copy")).near[copies.comparable].mean() >= 0.95
