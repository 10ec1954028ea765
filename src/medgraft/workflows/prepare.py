"""From SOURCE to images that can be trained on: read, decode all, refuse the bad, split, check.

SOURCE → Manifest → full decode (pixel cache) → policy on bad images → near copies → split → checks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from medgraft.checks.copies import check_copies
from medgraft.checks.copy_search import CopySearch, search_copies
from medgraft.checks.images import CheckedImages
from medgraft.checks.integrity import check_images
from medgraft.checks.near_copies import check_near_copies
from medgraft.checks.patients import check_groups, check_patients
from medgraft.checks.sizes import check_half_width, check_sizes
from medgraft.config import Config
from medgraft.data.image import decode
from medgraft.data.manifest import Manifest
from medgraft.data.pixels import ImageRecord, Pixels, bad_images, ingest_all
from medgraft.data.split import assign_splits
from medgraft.data.store import cache_folder
from medgraft.errors import DataError, Problem
from medgraft.training.plan import DataFacts
from medgraft.types import CheckResult, IntArray, PixelArray, Preprocess, Split
from medgraft.workflows.progress import Progress

Purpose = Literal["train", "select", "folds", "evaluate", "check"]

_PEEK = 48
# Stained tissue: channels differ by more than this many grey levels on average, and next to nothing is dark.
# False-color MRI, whose channels are sequences, stands on black air.
_COLOR = 6.0
_DARK_LEVEL, _DARK_SHARE = 24, 0.1


@dataclass(frozen=True)
class Peek:
    """What a few images tell before all are decoded.

    Attributes:
        side: median shorter side in pixels.
        one_size: whether these images share one size.
        stained: whether they look like stained tissue: color, and hardly any black.
    """

    side: int
    one_size: bool
    stained: bool


@dataclass(frozen=True)
class Prepared:
    """Images read, decoded, split and checked.

    Attributes:
        manifest: all declared samples with their part.
        records: one per sample.
        pixels: one row per sample; rows of bad images must not be read.
        readable: (N,) bool.
        copies: near copies among the readable samples, by their positions among these.
        checks: everything found so far.
    """

    manifest: Manifest
    records: tuple[ImageRecord, ...]
    pixels: Pixels
    readable: np.ndarray[tuple[int], np.dtype[np.bool_]]
    copies: CopySearch
    checks: tuple[CheckResult, ...]

    def part(self, split: Split) -> tuple[Manifest, Pixels]:
        """Readable samples of one part and their pixels, in the same order."""
        rows = np.flatnonzero((self.manifest.table["split"].to_numpy() == split) & self.readable)
        return self.manifest.take(rows), self.pixels.subset(rows)

    def usable(self) -> Manifest:
        """Samples whose image could be read."""
        return self.manifest.take(np.flatnonzero(self.readable))

    def images(self) -> CheckedImages:
        """Readable samples as checks read them."""
        rows = np.flatnonzero(self.readable)
        records = [self.records[row] for row in rows]
        pixels = self.pixels.subset(rows)
        return CheckedImages.of(self.manifest.take(rows), records, pixels, near_copies=self.copies.ends())

    def errors(self) -> dict[str, str]:
        """Why a sample has no pixels, by sample id: ``[CODE] what``, without the path, which may name people."""
        ids = list(self.manifest.table["sample_id"])
        return {
            ids[row]: f"[{record.error.code}] {record.error.what}"
            for row, record in enumerate(self.records)
            if record.error is not None
        }

    def facts(self, peek: Peek, source: Path, config: Config) -> DataFacts:
        """What the planner needs to know."""
        words = (
            source.resolve().name,
            self.manifest.root.name,
            *self.manifest.classes,
            self.manifest.patient_source,
            config.data.patient_preset,
        )
        return DataFacts(
            counts=self.usable().counts(),
            stained=peek.stained,
            side=peek.side,
            one_size=peek.one_size,
            words=words,
        )


def peek_images(manifest: Manifest, config: Config) -> Peek:
    """Decode up to 48 images spread over the manifest; unreadable ones are found later, by the full decode."""
    paths = manifest.image_paths()
    images: list[PixelArray] = []
    sizes: list[tuple[int, int]] = []
    for row in np.unique(np.linspace(0, len(paths) - 1, _PEEK).astype(int)):
        try:
            pixels = decode(paths[row], config.data).pixels
        except DataError:
            continue
        sizes.append((pixels.shape[0], pixels.shape[1]))
        images.append(_thinned(pixels))
    return _peek(images, sizes)


def peek_prepared(prepared: Prepared) -> Peek:
    """What `peek_images` tells, from rows that are decoded already: no file is opened again."""
    readable = np.flatnonzero(prepared.readable)
    rows = readable[np.unique(np.linspace(0, len(readable) - 1, _PEEK).astype(int))]
    sizes = [(prepared.records[row].height, prepared.records[row].width) for row in rows.tolist()]
    return _peek([_thinned(image) for image in prepared.pixels.read(rows)], sizes)


def _thinned(pixels: PixelArray) -> PixelArray:
    """About 64 by 64 pixels of an image."""
    return pixels[:: max(1, pixels.shape[0] // 64), :: max(1, pixels.shape[1] // 64)].copy()


def _peek(images: Sequence[PixelArray], sizes: Sequence[tuple[int, int]]) -> Peek:
    if not images:
        return Peek(side=0, one_size=False, stained=False)
    color = float(np.median([np.ptp(image.astype(np.int16), axis=2).mean() for image in images]))
    dark = float(np.median([(image.max(axis=2) < _DARK_LEVEL).mean() for image in images]))
    sides = [min(size) for size in sizes]
    return Peek(int(np.median(sides)), len(set(sizes)) == 1, color > _COLOR and dark < _DARK_SHARE)


def prepare(
    manifest: Manifest,
    config: Config,
    preprocess: Preprocess,
    *,
    purpose: Purpose,
    progress: Progress,
) -> Prepared:
    """Decode everything, apply the policy on bad images, split and check.

    Args:
        manifest: samples as declared.
        config: reading and splitting rules.
        preprocess: network size and resizing.
        purpose: ``train`` refuses bad images beyond ``data.skip_bad`` and splits; ``select`` does the same
            without opening any image of a given test part, which is left out of the manifest; ``folds`` leaves it
            out too and makes no parts, all others being in train: the rest is divided again and again;
            ``evaluate`` keeps every declared row (bad ones stay unscored); ``check`` reports and splits.
        progress: told how far decoding is.

    Raises:
        DataError: BAD_IMAGES with every bad file, or what splitting refuses.
    """
    return prepare_all(manifest, config, [preprocess], purpose=purpose, progress=progress)[0]


def prepare_all(
    manifest: Manifest,
    config: Config,
    preprocesses: Sequence[Preprocess],
    *,
    purpose: Purpose,
    progress: Progress,
) -> list[Prepared]:
    """`prepare` for several networks: every file is opened once, whatever sizes they want.

    Args:
        manifest: as for `prepare`.
        config: as for `prepare`.
        preprocesses: network size and resizing of each, at least one.
        purpose: as for `prepare`.
        progress: as for `prepare`.

    Returns:
        One per preprocess; they differ in ``pixels`` only.
    """
    test_elsewhere = False
    if purpose in ("select", "folds"):
        given_test = manifest.table["split"].to_numpy() == "test"
        test_elsewhere = bool(given_test.any())
        manifest = manifest.take(np.flatnonzero(~given_test))
        if purpose == "folds" and test_elsewhere:
            manifest = replace(manifest, notes=(*manifest.notes, _test_left(int(given_test.sum()))))
    results = ingest_all(
        manifest.image_paths(),
        preprocesses,
        config.data,
        progress=lambda done, total: progress.advance("reading images", done, total),
    )
    records = results[0].records
    readable = np.array([record.error is None for record in records], dtype=bool)
    checks = [*manifest.notes, *check_images(manifest, records)]
    if purpose in ("train", "select", "folds"):
        _refuse_bad(manifest, records, config.data.skip_bad)
    rows = np.flatnonzero(readable)
    known = [records[row] for row in rows]
    copies = search_copies(
        results[0].pixels.subset(rows),
        known,
        folder=cache_folder(config.data.cache_dir) / "copies",
        progress=progress.advance,
    )
    if purpose == "folds":
        manifest = manifest.with_splits(["train"] * len(manifest))
    elif purpose != "evaluate" and readable.any():
        try:
            manifest, decisions = _split_readable(manifest, rows, known, copies, config, test_elsewhere=test_elsewhere)
        except DataError as error:
            if purpose != "check":
                raise
            problem = error.problem
            decisions = (CheckResult(problem.code, "error", problem.what, advice=problem.fix),)
        checks += decisions
    checks += _checks_of_samples(manifest, rows, known, copies)
    if purpose != "select":  # choosing reads no test image, so the size of that part is no matter
        whole = purpose in ("evaluate", "folds")
        tested = readable if whole else readable & (manifest.table["split"].to_numpy() == "test")
        checks += _checks_of_sizes(manifest.take(np.flatnonzero(tested)), config)
    if purpose in ("train", "check"):
        checks += check_groups(manifest.take(rows))
    return [Prepared(manifest, records, result.pixels, readable, copies, tuple(checks)) for result in results]


def _checks_of_samples(
    manifest: Manifest, rows: IntArray, records: Sequence[ImageRecord], copies: CopySearch
) -> tuple[CheckResult, ...]:
    """Copies and patients, with the parts that samples have by now."""
    readable = manifest.take(rows)
    exact = [record.pixel_hash for record in records]
    near = check_near_copies(readable, copies.pairs, exact=exact, flat=copies.prints.flat)
    return (*check_copies(readable, records), *near, *check_patients(manifest))


def _checks_of_sizes(tested: Manifest, config: Config) -> tuple[CheckResult, ...]:
    """Whether the images that numbers will rest on are enough."""
    width = check_half_width(tested, half_width=config.checks.half_width, level=config.evaluation.level)
    return (*check_sizes(tested), *width)


def _test_left(n_images: int) -> CheckResult:
    return CheckResult(
        "SPLIT_TEST_LEFT",
        "note",
        f"the given test part ({n_images:,} images) is left out and not read; all other images are divided into folds",
        {"test_images": n_images},
        "evaluate the models of all folds on it together: medgraft evaluate RUN/folds/* SOURCE --part test",
    )


def _split_readable(
    manifest: Manifest,
    rows: IntArray,
    records: Sequence[ImageRecord],
    copies: CopySearch,
    config: Config,
    *,
    test_elsewhere: bool,
) -> tuple[Manifest, tuple[CheckResult, ...]]:
    """Split the readable rows; a bad row keeps its given part, or goes to train, where it is left out."""
    part, decisions = assign_splits(
        manifest.take(rows),
        config.data,
        seed=config.training.seed,
        copy_keys=[record.pixel_hash for record in records],
        near_copies=copies.ends(),
        test_elsewhere=test_elsewhere,
    )
    splits: list[Split | None] = [split or "train" for split in manifest.table["split"]]
    for row, split in zip(rows, part.table["split"], strict=True):
        splits[row] = split
    return replace(manifest.with_splits(splits), notes=part.notes), decisions


def _refuse_bad(manifest: Manifest, records: Sequence[ImageRecord], allowed_share: float) -> None:
    problems: list[Problem] = bad_images(records, [Path(path) for path in manifest.table["path"]])
    # 0.29 * 100 is a little less than 29; and something has to be left
    allowed = min(int(allowed_share * len(records) + 1e-9), len(records) - 1)
    if len(problems) > allowed:
        raise DataError(
            "BAD_IMAGES",
            f"{len(problems):,} of {len(records):,} images cannot be used"
            + (f", {allowed:,} are allowed (data.skip_bad)" if allowed else ""),
            fix="repair or remove them, or leave out up to a share of them with --set data.skip_bad=0.05",
            problems=problems,
        )
