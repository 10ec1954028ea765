"""How many planted copies are found, how many pairs are none, and how long it takes.

    python bench/near_copies.py images DATA [NAME …] [--images 2000] [--each 100]
    python bench/near_copies.py patches [--images 100000]

``images`` plants copies of every kind among real images of DATA (folders as named in ``SETS``) and prints recall by
kind and what the pairs were called; pairs of copies of two originals that are no pair themselves are listed.
``patches`` writes generated 96x96 patches to a temporary file and prints time and memory.
"""

from __future__ import annotations

import argparse
import io
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from medgraft.checks.near_copies import CopyPair, near_copies
from medgraft.config.schema import DataConfig
from medgraft.data.fingerprint import fingerprints
from medgraft.data.grouping import join_groups
from medgraft.data.image import decode
from medgraft.data.resize import fit
from medgraft.types import IntArray, PixelArray, Preprocess

SETS = ("brain-mri-4class", "chest-xray", "histopathology", "lgg-mri")
SIDE = 224
PATCH = 96
_CHUNK = 250


class Stored:
    """Images in memory."""

    def __init__(self, images: PixelArray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: IntArray) -> PixelArray:
        return self.images[indices]


class OnDisk:
    """Images of one size in a file, read one by one as the pixel store does."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path = path
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, indices: IntArray) -> PixelArray:
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)
        with self.path.open("rb", buffering=0) as file:
            for image, index in zip(images, indices.tolist(), strict=True):
                file.seek(index * image.nbytes)
                file.readinto(image.data.cast("B"))
        return images


def jpeg(pixels: PixelArray, quality: int) -> PixelArray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream).convert("RGB"))


def resized(pixels: PixelArray, down: float, across: float) -> PixelArray:
    height, width = pixels.shape[:2]
    size = max(8, round(width * across)), max(8, round(height * down))
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def cropped(pixels: PixelArray, low: float, high: float, rng: np.random.Generator) -> PixelArray:
    height, width = pixels.shape[:2]
    top, bottom = (max(1, round(share * height)) for share in rng.uniform(low, high, 2))
    left, right = (max(1, round(share * width)) for share in rng.uniform(low, high, 2))
    return pixels[top : height - bottom, left : width - right]


def toned(pixels: PixelArray, gain: float, offset: float) -> PixelArray:
    return np.clip(pixels * gain + offset + 0.5, 0, 255).astype(np.uint8)


def several(pixels: PixelArray, rng: np.random.Generator) -> PixelArray:
    pixels = np.rot90(pixels, rng.integers(4))[:, :: rng.choice([1, -1])]
    pixels = toned(cropped(pixels, 0.01, 0.02, rng), rng.uniform(0.9, 1.1), rng.uniform(-10, 10))
    return jpeg(resized(pixels, *[rng.uniform(0.7, 1.4)] * 2), int(rng.integers(50, 96)))


KINDS: dict[str, Callable[[PixelArray, np.random.Generator], PixelArray]] = {
    "JPEG 30": lambda pixels, rng: jpeg(pixels, 30),
    "JPEG 30-95": lambda pixels, rng: jpeg(pixels, int(rng.integers(30, 96))),
    "half size": lambda pixels, rng: resized(pixels, 0.5, 0.5),
    "double size": lambda pixels, rng: resized(pixels, 2.0, 2.0),
    "size 0.5-2, aspect 0.95-1.05": lambda pixels, rng: resized(
        pixels, *(rng.uniform(0.5, 2.0) * np.array([1.0, rng.uniform(0.95, 1.05)]))
    ),
    "cropped 1-3 % per side": lambda pixels, rng: cropped(pixels, 0.01, 0.03, rng),
    "cropped 3 % per side": lambda pixels, rng: cropped(pixels, 0.03, 0.03, rng),
    "gain 0.8-1.2, offset +-20": lambda pixels, rng: toned(pixels, rng.uniform(0.8, 1.2), rng.uniform(-20, 20)),
    "gain 0.8, offset -20": lambda pixels, rng: toned(pixels, 0.8, -20),
    "gain 1.2, offset +20": lambda pixels, rng: toned(pixels, 1.2, 20),
    "left-right": lambda pixels, rng: pixels[:, ::-1],
    "top-bottom": lambda pixels, rng: pixels[::-1],
    "rotated by 90": lambda pixels, rng: np.rot90(pixels, -1),
    "rotated by 180": lambda pixels, rng: np.rot90(pixels, 2),
    "rotated by 270": lambda pixels, rng: np.rot90(pixels, 1),
    "several at once": several,
}


def plant(
    originals: Callable[[int], PixelArray], n: int, each: int, size: int, rng: np.random.Generator
) -> tuple[PixelArray, IntArray, IntArray, list[str]]:
    """Copies of every kind: fitted pixels, native sizes, what each is a copy of, and its kind."""
    preprocess = Preprocess((size, size), "squash", "bicubic", (0.5,) * 3, (0.5,) * 3)
    pixels, sizes, of, kinds = [], [], [], []
    for kind, change in KINDS.items():
        for original in rng.choice(n, min(each, n), replace=False).tolist():
            copy = np.ascontiguousarray(change(originals(original), rng))
            pixels.append(fit(copy, preprocess))
            sizes.append(copy.shape[:2])
            of.append(original)
            kinds.append(kind)
    return np.stack(pixels), np.array(sizes), np.array(of), kinds


def tell(pairs: list[CopyPair], n: int, of: IntArray, kinds: list[str]) -> list[CopyPair]:
    """Print recall by kind; give the pairs that join what no pair of originals joins."""
    found = {(pair.first, pair.second): pair for pair in pairs}
    names: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for row, (original, kind) in enumerate(zip(of.tolist(), kinds, strict=True)):
        pair = found.get((original, n + row))
        names[kind][pair.kind if pair else "not found"] += 1
    for kind, counts in names.items():
        recall = 1 - counts["not found"] / max(1, counts.total())
        print(f"  {kind:30s} recall {recall:.3f}  {dict(counts.most_common(4))}")
    among = [pair for pair in pairs if pair.second < n]
    group = join_groups(n, [], pairs=[(pair.first, pair.second) for pair in among])[np.concatenate([np.arange(n), of])]
    wrong = [pair for pair in pairs if group[pair.first] != group[pair.second]]
    print(f"  {len(pairs):,} pairs, {len(among):,} among originals, {len(wrong):,} of copies of different originals")
    return wrong


def run_images(data: Path, name: str, images: int, each: int) -> None:
    """One real set."""
    endings = (".jpg", ".jpeg", ".png", ".tif")
    paths = sorted(path for path in (data / name).rglob("*") if path.suffix.lower() in endings)
    paths = [path for path in paths if not path.stem.endswith("_mask")]
    rng = np.random.default_rng(0)
    if len(paths) > images:
        paths = [paths[at] for at in np.sort(rng.choice(len(paths), images, replace=False))]
    rules = DataConfig()
    preprocess = Preprocess((SIDE, SIDE), "squash", "bicubic", (0.5,) * 3, (0.5,) * 3)
    start = time.perf_counter()
    native = [decode(path, rules).pixels for path in paths]
    pixels = np.stack([fit(image, preprocess) for image in native])
    sizes = np.array([image.shape[:2] for image in native])
    read = time.perf_counter()
    near_copies(fingerprints(Stored(pixels), sizes=sizes), Stored(pixels))
    searched = time.perf_counter()
    print(f"{name}: {len(paths):,} images, read in {read - start:.1f} s, searched in {searched - read:.1f} s")
    planted, planted_sizes, of, kinds = plant(lambda at: native[at], len(paths), each, SIDE, rng)
    source = Stored(np.concatenate([pixels, planted]))
    start = time.perf_counter()
    prints = fingerprints(source, sizes=np.concatenate([sizes, planted_sizes]))
    pairs = near_copies(prints, source)
    took = time.perf_counter() - start
    print(f"  with {len(of):,} copies searched in {took:.1f} s; {len(prints.flat):,} flat images")
    for pair in tell(pairs, len(paths), of, kinds):
        ends = [paths[row] if row < len(paths) else paths[of[row - len(paths)]] for row in (pair.first, pair.second)]
        print(f"    {pair.kind} {pair.distance:.3f}: {ends[0].name}, {ends[1].name}")


def patches(n: int, rng: np.random.Generator) -> PixelArray:
    """Stained-looking patches: nuclei out of one noise field, tissue and holes out of two others."""
    frequency = np.hypot(np.fft.fftfreq(PATCH)[:, None], np.fft.rfftfreq(PATCH)) * PATCH
    steep = rng.uniform(1.2, 2.2, (n, 3, 1, 1))
    spectrum = rng.standard_normal((n, 3, *frequency.shape, 2)) @ np.array([1, 1j])
    fields = np.fft.irfft2(spectrum / (1.0 + frequency / 3.0) ** steep, s=(PATCH, PATCH))
    fields /= fields.std(axis=(2, 3), keepdims=True)
    nuclei, tissue, holes = (np.clip(fields[:, at, :, :, None] * 0.8 + 0.3, 0, 1) for at in range(3))
    color = rng.uniform(-15, 15, (n, 1, 1, 3))
    image = 235 - np.array([60, 120, 60]) * tissue - np.array([90, 70, 40]) * nuclei * tissue
    mixed: PixelArray = np.clip(image * (1 - holes * 0.3) + 70 * holes + color, 0, 255).astype(np.uint8)
    return mixed


def run_patches(n: int, each: int) -> None:
    """Generated patches on disk."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        source = OnDisk(Path(folder) / "patches.bin", (n + min(each, n) * len(KINDS), PATCH, PATCH, 3))
        with source.path.open("wb") as file:
            for start in range(0, n, _CHUNK):
                file.write(patches(min(_CHUNK, n - start), rng).tobytes())
        planted, sizes, of, kinds = plant(lambda at: source.read(np.array([at]))[0], n, each, PATCH, rng)
        with source.path.open("ab") as file:
            file.write(planted.tobytes())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        native = np.concatenate([np.full((n, 2), PATCH), sizes])
        start_time = time.perf_counter()
        prints = fingerprints(source, sizes=native)
        printed = time.perf_counter()
        pairs = near_copies(prints, source)
        took = time.perf_counter() - printed
        kept = (prints.thumbnails.nbytes + prints.sizes.nbytes + prints.contrast.nbytes) / 1e6
        print(
            f"{len(source):,} patches: read in {printed - start_time:.1f} s ({kept:.0f} MB kept), search {took:.1f} s"
        )
        tell(pairs, n, of, kinds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"  peak memory {peak:.2f} GB, before the search {before:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="what", required=True)
    real = commands.add_parser("images")
    real.add_argument("data", type=Path)
    real.add_argument("names", nargs="*", help="data sets; all by default")
    real.add_argument("--images", type=int, default=2000)
    real.add_argument("--each", type=int, default=100)
    made = commands.add_parser("patches")
    made.add_argument("--images", type=int, default=100_000)
    made.add_argument("--each", type=int, default=50)
    arguments = parser.parse_args()
    if arguments.what == "patches":
        run_patches(arguments.images, arguments.each)
        return
    for name in SETS:
        if not arguments.names or name in arguments.names:
            run_images(arguments.data, name, arguments.images, arguments.each)


if __name__ == "__main__":
    main()
