"""Who trains, who decides and who is held out, in every fit of a cross-validation.

    groups (patients joined with copies) ─► K folds, every class in its share     once per repeat, with its own seed
    each fold:  held out = test;  of the rest a share of whole groups = val, all else = train

All divisions are made, and refused where they cannot be, before the first fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.config.schema import DataConfig
from medgraft.data.grouping import GroupCounts, spread
from medgraft.data.manifest import Manifest
from medgraft.data.split import assign_splits
from medgraft.errors import DataError, UsageError
from medgraft.types import CheckResult, IntArray, Split

FEWEST_GROUPS = 3  # of a class: one each to train, to validate and to score


@dataclass(frozen=True)
class Fold:
    """One fit of a cross-validation.

    Attributes:
        repeat: 1, 2, …
        number: 1, 2, … within the repeat.
        seed: of its division and its training.
        split: part of each of N images; ``test`` is held out.
    """

    repeat: int
    number: int
    seed: int
    split: tuple[Split, ...]

    @property
    def name(self) -> str:
        """Folder of the fit."""
        return f"r{self.repeat}-f{self.number}"

    @property
    def held_out(self) -> IntArray:
        """Positions of the images that are scored."""
        return np.flatnonzero(np.array(self.split) == "test")


def require_counts(folds: int, repeats: int) -> None:
    """Refuse numbers that are none of a cross-validation.

    Raises:
        UsageError: FOLDS_RANGE, REPEATS_RANGE.
    """
    if folds < 2:
        what = f"cross-validation needs at least 2 folds, got {folds}"
        raise UsageError("FOLDS_RANGE", what, where="--folds", fix="use --folds 5")
    if repeats < 1:
        what = f"cross-validation is done at least once, got {repeats} repeats"
        raise UsageError("REPEATS_RANGE", what, where="--repeats", fix="use --repeats 1 or more")


def make_folds(
    manifest: Manifest, group: IntArray, config: DataConfig, *, folds: int, repeats: int, seed: int
) -> tuple[tuple[Fold, ...], tuple[CheckResult, ...]]:
    """Divide the images for every fit.

    Args:
        manifest: N readable samples; their parts are not looked at.
        group: (N,) 0.., images that must stay together.
        config: ``val_fraction``, of the images that are not held out.
        folds: K, at least 2.
        repeats: R, at least 1.
        seed: of the first repeat; each further one adds 1.

    Returns:
        K x R fits, repeat after repeat, and what is to be said of the division.

    Raises:
        DataError: FOLDS_TOO_MANY and FOLDS_TOO_FEW naming class, groups and a number that works; what `assign_splits`
            refuses.
    """
    label = manifest.class_indices()
    counts = GroupCounts.of(group, label, n_classes=len(manifest.classes))
    groups_with = {name: len(counts.with_class(c)) for c, name in enumerate(manifest.classes)}
    unit = "patients" if manifest.patients_known else "independent images"
    _require_groups(groups_with, folds, unit)
    made: list[Fold] = []
    remarks: list[CheckResult] = []
    for repeat in range(1, repeats + 1):
        own_seed = (seed + repeat - 1) % 2**32
        of_group = spread(
            counts,
            np.arange(counts.n_groups),
            [1.0 / folds] * folds,
            fixed=np.zeros((folds, len(manifest.classes))),
            rng=np.random.default_rng(own_seed),
        )
        _require_rest(counts, of_group, groups_with, folds, unit)
        for number in range(folds):
            split, said = _parts(manifest, group, of_group[group] == number, config, own_seed)
            made.append(Fold(repeat, number + 1, own_seed, split))
            remarks += said
    return tuple(made), (_described(made, counts.n_groups, manifest), *_once(remarks, len(made)))


def _parts(
    manifest: Manifest, group: IntArray, held_out: np.ndarray, config: DataConfig, seed: int
) -> tuple[tuple[Split, ...], tuple[CheckResult, ...]]:
    """Parts of one fit: validation is made out of what is not held out, by the rules of every other training."""
    rest = np.flatnonzero(~held_out)
    divided, said = assign_splits(
        manifest.take(rest).with_splits(["train"] * len(rest)),
        config,
        seed=seed,
        copy_keys=[str(number) for number in group[rest]],
        test_elsewhere=True,
    )
    split: list[Split] = ["test"] * len(manifest)
    for row, part in zip(rest.tolist(), divided.table["split"], strict=True):
        split[row] = part
    return tuple(split), said


def _require_groups(groups_with: dict[str, int], folds: int, unit: str) -> None:
    few = [f"{name} ({n:,})" for name, n in groups_with.items() if n < max(folds, FEWEST_GROUPS)]
    if not few:
        return
    largest = min(groups_with.values())
    possible = largest >= FEWEST_GROUPS
    at_most = f"at most {largest} folds are possible" if possible else "no cross-validation is possible"
    needed = max(folds, FEWEST_GROUPS)
    raise DataError(
        "FOLDS_TOO_MANY",
        f"{folds} folds need at least {needed} {unit} of every class; there are fewer of {', '.join(few)}: {at_most}",
        where="--folds",
        fix=f"use --folds {largest} or fewer" if possible else "add data, or leave the class out",
    )


def _require_rest(counts: GroupCounts, of_group: IntArray, groups_with: dict[str, int], folds: int, unit: str) -> None:
    """Outside every fold each class is left to train and to validate."""
    held = counts.held(of_group, folds, groups=True)
    few = [f"{name} ({n:,})" for c, (name, n) in enumerate(groups_with.items()) if n - held[:, c].max() < 2]
    if few:
        raise DataError(
            "FOLDS_TOO_FEW",
            f"with {folds} folds some fit has fewer than two {unit} of a class to train and validate: {', '.join(few)}",
            where="--folds",
            fix=f"use --folds {min(groups_with.values())}",
        )


def _described(folds: Sequence[Fold], n_groups: int, manifest: Manifest) -> CheckResult:
    sizes = [{part: fold.split.count(part) for part in ("train", "val", "test")} for fold in folds]
    held_out = [size["test"] for size in sizes]
    repeats, n_folds = folds[-1].repeat, folds[-1].number
    unit = "groups (patients joined with copies)" if manifest.patients_known else "groups (copies joined)"
    return CheckResult(
        "SPLIT_FOLDS",
        "note",
        f"{n_folds} folds{f' x {repeats} repeats' if repeats > 1 else ''} made out of {n_groups:,} {unit}: "
        f"{min(held_out):,} to {max(held_out):,} images are held out at a time",
        {"n_groups": n_groups, "seeds": sorted({fold.seed for fold in folds}), "images": sizes},
    )


def _once(remarks: Sequence[CheckResult], n_fits: int) -> list[CheckResult]:
    """One result for each kind of remark about fits, in the words of the first.

    That the rest has no test part is no remark: the held-out images are one.
    """
    found = []
    told = [check for check in remarks if check.severity != "note" and check.evidence.get("part") != "test"]
    for code in dict.fromkeys(check.code for check in told):
        alike = [check for check in told if check.code == code]
        title = f"in {len(alike)} of {n_fits} fits: {alike[0].title}"
        evidence = {"fits": len(alike), "first": alike[0].evidence}
        found.append(CheckResult(code, alike[0].severity, title, evidence, alike[0].advice))
    return found
