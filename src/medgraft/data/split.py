"""Train, validation and test: given parts are honored, missing ones are made out of whole patients and copies.

    no parts given          → groups → train, val, test
    no test part            → made out of train (and of a validation part that is pooled)
    no validation part      → made out of train
    validation too small    → pooled with train and made again (``data.small_validation``)

Every decision comes back as a check result. The fraction of a made part counts from the images it is made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.config.schema import DataConfig
from medgraft.data.grouping import GroupCounts, join_groups, spread
from medgraft.data.labels import require_two_classes
from medgraft.data.manifest import Manifest
from medgraft.data.names import listed
from medgraft.errors import DataError
from medgraft.types import SPLITS, CheckResult, IntArray

MIN_VALIDATION_IMAGES = 50
MIN_VALIDATION_PER_CLASS = 10
"""Fewer cannot carry a decision: at 10 cases one error moves the sensitivity by 10 points."""
MIN_VALIDATION_PATIENTS = 2
ACROSS_PARTS_ADVICE = (
    "scores on them are memory and are told apart from the clean ones; correct the parts, or let medgraft make them "
    "with --set data.given_parts=ignore"
)
_SHARE_TOLERANCE = 0.05
_GIVEN = -1


@dataclass(frozen=True)
class _Rows:
    """What splitting reads of a manifest: part index in `SPLITS` (-1: none), class, group, per row."""

    part: IntArray
    label: IntArray
    group: IntArray
    n_classes: int


def assign_splits(
    manifest: Manifest,
    config: DataConfig,
    *,
    seed: int,
    copy_keys: Sequence[str] | None,
    near_copies: Sequence[tuple[int, int]] = (),
    test_elsewhere: bool = False,
) -> tuple[Manifest, tuple[CheckResult, ...]]:
    """Give every sample its part.

    Args:
        manifest: labelled samples; parts on all of them or on none.
        config: ``val_fraction``, ``test_fraction``, ``small_validation``.
        seed: decides the random choices; the same manifest and seed give the same parts.
        copy_keys: N values, equal for exact copies; ``""`` for none. None when copies are not known.
        near_copies: pairs of rows that show one picture.
        test_elsewhere: the test part is given and not among these samples, so none is made.

    Returns:
        The manifest with parts, and what was decided and noticed.

    Raises:
        DataError: ``ONE_CLASS``, ``LABEL_MISSING``, ``SPLIT_INCOMPLETE``, ``SPLIT_NO_TRAIN``, ``CLASS_TOO_SMALL`` when
            a class has too few patients to stand in training and validation, ``CLASS_NOT_IN_TRAIN``.
    """
    if copy_keys is not None and len(copy_keys) != len(manifest):
        raise ValueError(f"{len(copy_keys)} copy keys for {len(manifest)} samples")
    where = str(manifest.root)
    require_two_classes(manifest.table["label"], where=where)
    patients = manifest.table["patient_id"].tolist()
    group = join_groups(len(manifest), [patients, copy_keys], pairs=near_copies)
    rows = _Rows(_given_parts(manifest, where), manifest.class_indices(), group, len(manifest.classes))
    results: list[CheckResult] = []
    part, made = _make_parts(rows, config, manifest, seed=seed, results=results, test_elsewhere=test_elsewhere)
    results += _describe(rows, part, made, manifest, config, seed=seed)
    results += _missing_classes(rows, part, manifest)
    results += _across_parts(patients, part, manifest, "PATIENTS_ACROSS_PARTS", "patients")
    results += _across_parts(copy_keys, part, manifest, "COPIES_ACROSS_PARTS", "images with exact copies")
    return manifest.with_splits([SPLITS[index] for index in part]), tuple(results)


def _given_parts(manifest: Manifest, where: str) -> IntArray:
    part = np.full(len(manifest), _GIVEN, dtype=np.int64)
    column = manifest.table["split"].to_numpy()
    for index, split in enumerate(SPLITS):
        part[column == split] = index
    n_without = int((part < 0).sum())
    if 0 < n_without < len(part):
        without = manifest.table["sample_id"].to_numpy()[part < 0]
        raise DataError(
            "SPLIT_INCOMPLETE",
            f"{n_without:,} of {len(part):,} samples have no part: {listed(without)}",
            where=where,
            fix="give all samples a part, or none",
        )
    if not n_without and not (part == 0).any():
        given = [split for index, split in enumerate(SPLITS) if (part == index).any()]
        what = f"no training part; given: {', '.join(given)}"
        raise DataError("SPLIT_NO_TRAIN", what, where=where, fix="add a train part, or evaluate instead of training")
    return part


def _make_parts(
    rows: _Rows,
    config: DataConfig,
    manifest: Manifest,
    *,
    seed: int,
    results: list[CheckResult],
    test_elsewhere: bool,
) -> tuple[IntArray, list[int]]:
    """Part of every row, and the parts that were made."""
    part = rows.part.copy()
    if (part < 0).all():
        part[:] = 0
        made = [1, 2]
    else:
        made = [index for index in (1, 2) if not (part == index).any() and not (index == 2 and test_elsewhere)]
        if 1 not in made:
            small = _small_validation(rows, manifest, config, test_made=2 in made)
            if small is not None:
                results.append(small)
                if small.evidence["decision"] == "pool":
                    part[part == 1] = 0
                    made.insert(0, 1)
    if not made:
        return part, made
    fractions = {1: config.val_fraction, 2: config.test_fraction}
    shares = [1.0 - sum(fractions[index] for index in made), *(fractions[index] for index in made)]
    # A group that also stands in a part that stays as given is not cut again: it stays in train.
    crossing = np.isin(rows.group, rows.group[part > 0])
    pool = (part == 0) & ~crossing
    counts = GroupCounts.of(rows.group[part == 0], rows.label[part == 0], n_classes=rows.n_classes)
    fixed = np.zeros((len(shares), rows.n_classes))
    fixed[0] = np.bincount(rows.label[(part == 0) & crossing], minlength=rows.n_classes)
    chosen = spread(counts, np.unique(rows.group[pool]), shares, fixed=fixed, rng=np.random.default_rng(seed))
    part[pool] = np.array([0, *made])[chosen[rows.group[pool]]]
    _require_groups(rows, part, made, manifest)
    return part, made


def _small_validation(rows: _Rows, manifest: Manifest, config: DataConfig, *, test_made: bool) -> CheckResult | None:
    """What to do about a given validation part that cannot carry a decision; None when it can."""
    given = rows.part == 1
    n = int(given.sum())
    per_class = np.bincount(rows.label[given], minlength=rows.n_classes)
    n_patients = len(set(manifest.table["patient_id"].to_numpy()[given]) - {None}) if manifest.patients_known else n
    is_small = n < MIN_VALIDATION_IMAGES or per_class.min() < MIN_VALIDATION_PER_CLASS
    if not is_small and n_patients >= MIN_VALIDATION_PATIENTS:
        return None
    # Pooling a small set would only give as small a part again.
    n_new = round(config.val_fraction * int((rows.part <= 1).sum()))
    decision = "pool" if config.small_validation == "pool" and n_new > n else "keep"
    told = "pooled with train and made again" if decision == "pool" else "kept as given"
    counts = {name: int(count) for name, count in zip(manifest.classes, per_class, strict=True)}
    evidence = {"n_images": n, "per_class": counts, "decision": decision, "n_new": n_new, "test_made": test_made}
    title = f"the given validation part has {n:,} images ({_shown(counts)}), too few to decide on: {told}"
    advice = (
        f"{MIN_VALIDATION_IMAGES} images, {MIN_VALIDATION_PER_CLASS} per class, are the least; data.small_validation"
    )
    return CheckResult("SPLIT_SMALL_VALIDATION", "warning", title, evidence, f"{advice} chooses pool or keep")


def _require_groups(rows: _Rows, part: IntArray, made: list[int], manifest: Manifest) -> None:
    """Refuse made parts without which nothing can be trained or measured."""
    small: dict[str, int] = {}
    for c, name in enumerate(manifest.classes):
        of_class = (rows.label == c) & np.isin(part, [0, *made])
        needed = [0, 1] if 1 in made else [0]
        if of_class.any() and any(not (of_class & (part == index)).any() for index in needed):
            small[name] = len(np.unique(rows.group[of_class]))
    no_test = 2 in made and not (part == 2).any()
    if not small and not no_test:
        return
    unit = "patients or groups of copies" if manifest.patients_known else "independent images"
    parts = ", ".join(SPLITS[index] for index in (0, *made))
    what = f"too few {unit} to make {parts}: {_shown(small)}" if small else f"too few {unit} to make {parts}"
    fix = "a class needs at least 3 of them: one each for train, val and test; add data or leave the class out"
    raise DataError("CLASS_TOO_SMALL", what, where=str(manifest.root), fix=fix)


def _describe(
    rows: _Rows, part: IntArray, made: list[int], manifest: Manifest, config: DataConfig, *, seed: int
) -> list[CheckResult]:
    table = {
        name: {split: int(((rows.label == c) & (part == index)).sum()) for index, split in enumerate(SPLITS)}
        for c, name in enumerate(manifest.classes)
    }
    totals: dict[str, int] = {split: int((part == index).sum()) for index, split in enumerate(SPLITS)}
    evidence = {"images": totals, "per_class": table, "seed": seed, "made": [SPLITS[index] for index in made]}
    if not made:
        return [CheckResult("SPLIT_GIVEN", "note", f"parts as given: {_shown(totals)} images", evidence)]
    n_groups = len(np.unique(rows.group))
    evidence["n_groups"] = n_groups
    unit = "groups (patients joined with copies)" if manifest.patients_known else "groups (copies joined)"
    title = f"{' and '.join(SPLITS[i] for i in made)} made out of {n_groups:,} {unit}: {_shown(totals)} images"
    results = [CheckResult("SPLIT_MADE", "note", title, evidence)]
    n_pool = int(np.isin(part, [0, *made]).sum())
    asked = {"val": config.val_fraction, "test": config.test_fraction}
    for split in (SPLITS[index] for index in made):
        share = totals[split] / n_pool
        if abs(share - asked[split]) > _SHARE_TOLERANCE:
            title = f"{split} has {share:.0%} of the images instead of {asked[split]:.0%}: groups are not cut"
            results.append(CheckResult("SPLIT_UNEVEN", "warning", title, {"share": share, "asked": asked[split]}))
    least = min(table[name]["val"] for name in manifest.classes)
    if 1 in made and (totals["val"] < MIN_VALIDATION_IMAGES or least < MIN_VALIDATION_PER_CLASS):
        counts = {name: table[name]["val"] for name in manifest.classes}
        title = (
            f"the validation part has only {totals['val']:,} images ({_shown(counts)}): decisions made on it are weak"
        )
        results.append(
            CheckResult(
                "SPLIT_SMALL_VALIDATION", "warning", title, {"per_class": counts, "decision": "made"}, "add data"
            )
        )
    return results


def _missing_classes(rows: _Rows, part: IntArray, manifest: Manifest) -> list[CheckResult]:
    """Classes that a part lacks: not allowed in train, said elsewhere."""
    results = []
    for index, split in enumerate(SPLITS):
        held = np.bincount(rows.label[part == index], minlength=rows.n_classes)
        absent = [name for name, n in zip(manifest.classes, held, strict=True) if n == 0]
        if not absent:
            continue
        what = f"{split} has no image of {listed(absent)}"
        if split == "train":
            fix = "add images of the class to train, or leave it out of data.classes"
            raise DataError("CLASS_NOT_IN_TRAIN", what, where=str(manifest.root), fix=fix)
        title = f"{what}: nothing can be estimated for it there"
        results.append(CheckResult("SPLIT_CLASS_MISSING", "warning", title, {"part": split, "classes": absent}))
    return results


def _across_parts(
    keys: Sequence[str | None] | None, part: IntArray, manifest: Manifest, code: str, noun: str
) -> list[CheckResult]:
    """Patients or copies on two sides of given parts."""
    if keys is None:
        return []
    parts_of: dict[str, set[int]] = {}
    for key, index in zip(keys, part.tolist(), strict=True):
        if key:
            parts_of.setdefault(key, set()).add(index)
    crossing = {key for key, parts in parts_of.items() if len(parts) > 1}
    if not crossing:
        return []
    rows = [row for row, key in enumerate(keys) if key in crossing]
    trained = {key for key in crossing if 0 in parts_of[key]}
    leaked: dict[str, int] = {
        split: sum(1 for row in rows if part[row] == index and keys[row] in trained)
        for index, split in enumerate(SPLITS)
        if index
    }
    ids = manifest.table["sample_id"].to_numpy()
    by_key: dict[str, list[str]] = {}
    for row in rows:
        by_key.setdefault(str(keys[row]), []).append(f"{SPLITS[part[row]]}: {ids[row]}")
    title = f"{len(crossing):,} {noun} stand in more than one part; also in train: {_shown(leaked)} images"
    evidence = {"count": len(crossing), "images": len(rows), "also_in_train": leaked}
    examples = [names[:10] for _, names in zip(range(10), by_key.values(), strict=False)]
    return [CheckResult(code, "error", title, {**evidence, "examples": examples}, ACROSS_PARTS_ADVICE)]


def _shown(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {n:,}" for name, n in counts.items())
