"""The case of docs/trust.md: 253 brain MRI images, split by image as is usual, and judged as they should be.

    python bench/trust.py DATA --runs DIR

DATA holds ``brain-mri-yesno`` as published. Prints every number of the page and leaves its figures, which show
no patient's image, in DIR/figures.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ENDINGS = {".jpg", ".jpeg", ".png"}
FIGURES = {"split-by-image": ("seen", "baselines"), "made-by-medgraft": ("baselines", "sources", "blanked")}


def write_table(source: Path, table: Path, *, seed: int = 0) -> None:
    """A table that splits the images at random, 70 / 10 / 20, as tutorials do: by image."""
    images = sorted(path for path in source.rglob("*") if path.suffix.lower() in ENDINGS)
    random.Random(seed).shuffle(images)
    n_train, n_val = round(0.7 * len(images)), round(0.1 * len(images))
    parts = ["train"] * n_train + ["val"] * n_val + ["test"] * (len(images) - n_train - n_val)
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "split"])
        for path, part in zip(images, parts, strict=True):
            writer.writerow([path.relative_to(source).as_posix(), path.parent.name, part])


def medgraft(*arguments: str, accept: tuple[int, ...] = (0,)) -> Any:
    """Run a verb; returns what it prints as JSON."""
    finished = subprocess.run(
        [sys.executable, "-m", "medgraft", *arguments, "--json"], check=False, stdout=subprocess.PIPE, text=True
    )
    if finished.returncode not in accept:
        raise SystemExit(f"medgraft {arguments[0]} ended with {finished.returncode}")
    return json.loads(finished.stdout.splitlines()[-1])


def shown(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return "not estimable"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}-{estimate['high']:.3f})"


def tell(name: str, result: dict[str, Any]) -> None:
    """Every number of one run that the page uses."""
    print(f"\n== {name}: {result['n_images']} images, {result.get('seconds', 0):.0f} s ==")
    for subset, of in (result.get("subsets") or {}).items():
        if of["metrics"]:
            auroc, accuracy = (shown(of["metrics"][metric]) for metric in ("auroc", "accuracy"))
            print(f"{subset:<8} n = {of['n_images']:<4} AUROC {auroc}  accuracy {accuracy}")
    if "leaks" in result:
        print(result["leaks"]["conclusion"])
    for baseline, of in (result.get("baselines") or {}).items():
        print(f"baseline {baseline:<20} AUROC {shown(of['metrics']['auroc'])}")
    if result.get("baseline_verdict"):
        print(result["baseline_verdict"]["text"])
    if "subsets" not in result:
        print(f"AUROC {shown(result['metrics']['auroc'])}  accuracy {shown(result['metrics']['accuracy'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    arguments = parser.parse_args()
    source, runs = arguments.data / "brain-mri-yesno", arguments.runs
    runs.mkdir(parents=True, exist_ok=True)
    table = runs / "split-by-image.csv"
    write_table(source, table)
    named = (str(table), "--images", str(source))
    for check in medgraft("check", *named, "--out", str(runs / "check"), accept=(0, 3)):
        print(f"{check['severity']:<8} {check['code']:<26} {check['title']}")
    tell("split by image", medgraft("train", *named, "--out", str(runs / "split-by-image")))
    whole = ("--set", "data.given_parts=ignore")
    tell("made by medgraft", medgraft("train", *named, *whole, "--out", str(runs / "made-by-medgraft")))
    folds = ("--folds", "5", "--repeats", "2")
    tell("cross-validation", medgraft("train", *named, *whole, *folds, "--out", str(runs / "folds")))
    (runs / "figures").mkdir(exist_ok=True)
    for run, figures in FIGURES.items():
        for figure in figures:
            shutil.copy(runs / run / "plots" / f"{figure}.png", runs / "figures" / f"{run}-{figure}.png")


if __name__ == "__main__":
    main()
