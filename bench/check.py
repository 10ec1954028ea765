"""How long `medgraft check` takes, and how much memory, on generated images.

    python bench/check.py slices  [--images 3264] [--threads 2]
    python bench/check.py patches [--images 100000] [--threads 2] [--copies 500]

``slices`` are JPEG of 512x512, ``patches`` PNG of 96x96, both in two class folders and with near copies among them.
The check runs in a process of its own with an empty cache, so that everything is decoded: printed are wall time, the
most memory it held, and what it found. Generating is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from medgraft.types import PixelArray

_SIDES = {"slices": 512, "patches": 96}
_ENDINGS = {"slices": ".jpg", "patches": ".png"}
_IMAGES = {"slices": 3264, "patches": 100_000}


class Textures:
    """Pictures put together from windows of a few large fields of noise, none like another."""

    def __init__(self, side: int, rng: np.random.Generator) -> None:
        self.side, self.rng = side, rng
        large = 4 * side
        frequency = np.hypot(np.fft.fftfreq(large)[:, None], np.fft.rfftfreq(large)) * side
        self.fields = []
        for steep in (1.2, 1.6, 2.0):
            spectrum = rng.standard_normal((*frequency.shape, 2)) @ np.array([1, 1j])
            field = np.fft.irfft2(spectrum / (1 + frequency / 3) ** steep, s=(large, large))
            self.fields.append((field / field.std()).astype(np.float32))

    def draw(self) -> PixelArray:
        gray = np.zeros((self.side, self.side), np.float32)
        for field in self.fields:
            down, across = self.rng.integers(0, 3 * self.side, 2)
            window = field[down : down + self.side, across : across + self.side]
            gray += window[:: self.rng.choice([1, -1]), :: self.rng.choice([1, -1])] * self.rng.uniform(12, 30)
        tint = self.rng.uniform(0.85, 1.0, 3).astype(np.float32)
        return np.clip((125 + gray)[:, :, None] * tint, 0, 255).astype(np.uint8)


def generate(folder: Path, kind: str, n: int, copies: int) -> None:
    """n images, the last of which are mirrored copies of the first."""
    rng = np.random.default_rng(0)
    textures = Textures(_SIDES[kind], rng)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
    for at in range(n):
        path = folder / "ab"[at % 2] / f"{at:06d}{_ENDINGS[kind]}"
        if at < n - copies:
            Image.fromarray(textures.draw()).save(path, quality=90)
            continue
        first = at - (n - copies)
        with Image.open(folder / "ab"[first % 2] / f"{first:06d}{_ENDINGS[kind]}") as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path, quality=70)


def run(kind: str, arguments: argparse.Namespace) -> None:
    n = arguments.images or _IMAGES[kind]
    copies = min(arguments.copies, n // 2)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        began = time.perf_counter()
        generate(work / "images", kind, n, copies)
        made = time.perf_counter() - began
        size = sum(path.stat().st_size for path in (work / "images").rglob("*.*")) / 1e6
        print(f"{n:,} {kind} of {_SIDES[kind]}x{_SIDES[kind]}, {size:,.0f} MB, made in {made:.0f} s", flush=True)
        command = [sys.executable, "-m", "medgraft", "check", str(work / "images"), "--out", str(work / "out")]
        command += ["--set", f"data.cache_dir={work / 'cache'}", "--set", f"training.threads={arguments.threads}"]
        for setting in arguments.set:
            command += ["--set", setting]
        began = time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        done = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True, check=False)
        took = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"  checked in {took:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU, "
            f"most memory {used.ru_maxrss / 1e6:.2f} GB, exit code {done.returncode}"
        )
        results = work / "out" / "checks.json"
        if not results.is_file():
            print(done.stderr, file=sys.stderr)
            raise SystemExit(1)
        found = json.loads(results.read_text(encoding="utf-8"))
        for check in found["checks"] if isinstance(found, dict) else found:
            print(f"  {check['code']:28s} {check['title']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=tuple(_SIDES))
    parser.add_argument("--images", type=int, help="3,264 slices or 100,000 patches by default")
    parser.add_argument("--copies", type=int, default=500, help="how many of them are mirrored copies")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to `medgraft check`")
    arguments = parser.parse_args()
    run(arguments.kind, arguments)


if __name__ == "__main__":
    main()
