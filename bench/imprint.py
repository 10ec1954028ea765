"""What an imprint finds again, what it takes for seen though it is not, and what could be rebuilt from it.

    python bench/imprint.py DATA [NAME …] [--images 1500] [--each 100] [--draws 2]

For every real set (folders of DATA as named in ``SETS``) and generated phantoms:
recall by kind of copy, with all images remembered;
false alarms, with a quarter of the patients asked and the others remembered (images, where patients are unknown: then
the pixel search of `medgraft check` says which answers are right), and, for volumes, with a fifth of the slices asked;
the correlation of the best linear reconstruction with the image's own thumbnail and with others'.
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from near_copies import KINDS, SETS, SIDE, Stored, plant

from medgraft.checks.near_copies import near_copies
from medgraft.config.schema import DataConfig
from medgraft.data.fingerprint import Fingerprints, fingerprints
from medgraft.data.image import decode
from medgraft.data.imprint import Imprint, Seen, _signs, _Sums, find_in, take_imprint
from medgraft.data.phantom import draw_patient
from medgraft.data.resize import fit
from medgraft.types import IntArray, PixelArray, Preprocess

_PREPROCESS = Preprocess((SIDE, SIDE), "squash", "bicubic", (0.5,) * 3, (0.5,) * 3)
_CHILD = re.compile(r"(person\d+_[a-z]+|(?:NORMAL2-)?IM-\d+)")
_PENALTIES = 10.0 ** np.arange(-2, 4)


@dataclass(frozen=True)
class Images:
    """Native images, each with its patient: the image itself where patients are unknown."""

    natives: list[PixelArray]
    patients: list[str]
    volumes: bool
    patients_known: bool


def read(data: Path, name: str, n: int, rng: np.random.Generator) -> Images:
    """At most n images of a set."""
    if name == "phantoms":
        drawn = [draw_patient(np.random.default_rng([5, at]), slices=6, size=160)[0] for at in range(n // 6)]
        natives = [np.repeat(image[:, :, None], 3, axis=2) for head in drawn for image in head]
        return Images(natives, [str(at // 6) for at in range(len(natives))], True, True)
    endings = (".jpg", ".jpeg", ".png", ".tif")
    paths = sorted(path for path in (data / name).rglob("*") if path.suffix.lower() in endings)
    paths = [path for path in paths if not path.stem.endswith("_mask")]
    if len(paths) > n:
        paths = [paths[at] for at in np.sort(rng.choice(len(paths), n, replace=False))]
    rules = DataConfig()
    patients = [str(path) for path in paths]
    if name == "lgg-mri":
        patients = [path.parent.name for path in paths]
    if name == "chest-xray":
        patients = [match.group() if (match := _CHILD.match(path.name)) else path.name for path in paths]
    known = name in ("lgg-mri", "chest-xray")
    return Images([decode(path, rules).pixels for path in paths], patients, name == "lgg-mri", known)


def subset(prints: Fingerprints, rows: IntArray) -> Fingerprints:
    return Fingerprints(prints.thumbnails[rows], prints.sizes[rows], prints.known[rows], prints.contrast[rows])


def remember(prints: Fingerprints, rows: IntArray, draw: int) -> Imprint:
    return take_imprint(subset(prints, rows), [str(row) for row in rows], salt=bytes([draw]) * 16)


def ask(imprint: Imprint, prints: Fingerprints, rows: IntArray) -> Seen:
    return find_in(imprint, subset(prints, rows), [f"other {row}" for row in rows])


def tell_recall(prints: Fingerprints, n: int, of: IntArray, kinds: list[str], draw: int) -> None:
    """Copies of images that show something."""
    imprint = remember(prints, np.arange(n), draw)
    shown = np.isin(of, subset(prints, np.arange(n)).comparable)
    least = ", ".join(f"{value:.3f}" for value in imprint.least)
    print(f"  {len(imprint.near):,} remembered; a copy from {least} (above 1: frames are not fitted)")
    for kind in KINDS:
        rows = np.flatnonzero((np.array(kinds) == kind) & shown)
        print(f"    {kind:30s} recall {ask(imprint, prints, n + rows).near.mean():.3f} of {len(rows)}")


def tell_false(prints: Fingerprints, images: Images, pixels: PixelArray, draws: int) -> None:
    """Answers about images that were not remembered."""
    n = len(images.natives)
    patients = np.array(images.patients)
    copies: dict[int, set[int]] = {row: set() for row in range(n)}
    if not images.volumes:
        for pair in near_copies(subset(prints, np.arange(n)), Stored(pixels)):
            copies[pair.first].add(pair.second)
            copies[pair.second].add(pair.first)
    for within in (False, True) if images.volumes else (False,):
        asked, called, right = 0, 0, 0
        for draw in range(draws):
            rng = np.random.default_rng(draw)
            names = rng.permutation(np.unique(patients))
            new = rng.random(n) < 0.2 if within else np.isin(patients, names[: max(1, len(names) // 4)])
            rows = np.flatnonzero(new)
            seen = rows[ask(remember(prints, np.flatnonzero(~new), draw), prints, rows).near]
            asked, called = asked + len(rows), called + len(seen)
            right += sum(any(not new[other] for other in copies[row]) for row in seen.tolist())
        unit = "slices of the same volumes" if within else "other patients" if images.patients_known else "other images"
        print(f"  {asked:,} {unit} asked: {called} called copies, {right} of which the pixel search confirms")


def tell_reconstruction(prints: Fingerprints, images: Images, rng: np.random.Generator) -> None:
    """Thumbnails predicted from signs by someone who owns the images of two patients of three: ridge regression."""
    patients = np.array(images.patients)
    rows = subset(prints, np.arange(len(patients))).comparable
    names = rng.permutation(np.unique(patients))
    is_owned = np.isin(patients[rows], names[: 2 * len(names) // 3])
    owned, rows = rows[is_owned], np.concatenate([rows[is_owned], rows[~is_owned]])
    signs, thumbnails = signs_of(prints, rows, 7), prints.thumbnails[rows].astype(np.float64).reshape(len(rows), -1)
    thumbnails = thumbnails - thumbnails.mean(axis=1, keepdims=True)
    thumbnails /= thumbnails.std(axis=1, keepdims=True)
    thumbnails -= thumbnails[: len(owned)].mean(axis=0)
    known, target = signs[: len(owned)], thumbnails[: len(owned)]
    best = (-1.0, 0.0)
    for penalty in _PENALTIES * len(owned):
        weights = np.linalg.solve(known.T @ known + penalty * np.eye(signs.shape[1]), known.T @ target)
        rebuilt = signs[len(owned) :] @ weights
        own = correlation(rebuilt, thumbnails[len(owned) :])
        # Half the set further on is another patient.
        others = np.roll(thumbnails[len(owned) :], len(rebuilt) // 2, axis=0)
        best = max(best, (own, correlation(rebuilt, others)))
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in np.split(thumbnails, [len(owned)])]
    nearest = float((unit[1] @ unit[0].T).max(axis=1).mean())
    print(f"  rebuilt from signs by the owner of {len(owned):,} others: r {best[0]:.2f}, with another's {best[1]:.2f};")
    print(f"    the most alike of the others' own images: r {nearest:.2f}")


def signs_of(prints: Fingerprints, rows: IntArray, draw: int) -> np.ndarray:
    """(n, 256) the signs kept of each image, in the order of rows."""
    thumbnails = prints.thumbnails[rows]
    sums = _Sums.of(bytes([draw]) * 16, thumbnails)(thumbnails.astype(np.float32), np.zeros((1, 4), np.float32))
    return _signs(np.packbits(sums > 0, axis=1)).astype(np.float64)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over rows of the correlation of each."""
    one, other = (values - values.mean(axis=1, keepdims=True) for values in (one, other))
    length = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / np.maximum(length, 1e-9)).mean())


def run(data: Path, name: str, arguments: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    images = read(data, name, arguments.images, rng)
    n = len(images.natives)
    pixels = np.stack([fit(native, _PREPROCESS) for native in images.natives])
    planted, sizes, of, kinds = plant(lambda at: images.natives[at], n, arguments.each, SIDE, rng)
    native = np.array([image.shape[:2] for image in images.natives])
    prints = fingerprints(Stored(np.concatenate([pixels, planted])), sizes=np.concatenate([native, sizes]))
    print(f"{name}: {n:,} images and {len(of):,} copies, made in {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    tell_recall(prints, n, of, kinds, draw=0)
    print(f"    asked in {time.perf_counter() - start:.1f} s")
    tell_false(prints, images, pixels, arguments.draws)
    tell_reconstruction(prints, images, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", help="data sets; all by default")
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--draws", type=int, default=2)
    arguments = parser.parse_args()
    for name in (*SETS, "phantoms"):
        if not arguments.names or name in arguments.names:
            run(arguments.data, name, arguments)


if __name__ == "__main__":
    main()
