"""Train with default settings on a folder of data sets and print the table of docs/results.md.

    python bench/results.py DATA --runs DIR [NAME …]

DATA holds ``chest-xray``, ``brain-mri-4class``, ``brain-mri-yesno``, ``histopathology`` and ``lgg-mri`` as
published. Each run starts with an empty cache, so its time includes reading every image.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataSet:
    """A data set and how it is named on the command line."""

    name: str
    source: str
    options: tuple[str, ...] = ()


SETS = (
    DataSet("chest-xray", "chest-xray"),
    DataSet("brain-mri-4class", "brain-mri-4class"),
    DataSet("brain-mri-yesno", "brain-mri-yesno"),
    DataSet("histopathology", "histopathology/train_labels.csv"),
    DataSet("lgg-mri", "lgg-mri/data_mask.csv"),
)


def run(data: Path, data_set: DataSet, runs: Path) -> str:
    """Train on one set; returns its line of the table."""
    out = runs / data_set.name
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=runs) as cache:
        command = [sys.executable, "-m", "medgraft", "train", str(data / data_set.source), "--out", str(out)]
        command += ["--set", f"data.cache_dir={cache}", "--json", *data_set.options]
        finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(finished.stdout.splitlines()[-1])
    images = json.loads((out / "run.json").read_text())["images"]
    auroc = result["metrics"]["auroc"]
    patients = "unknown" if result["n_patients"] is None else f"{result['n_patients']:,}"
    cells = [
        data_set.name,
        " / ".join(f"{images[part]:,}" for part in ("train", "val", "test")),
        patients,
        result["patient_independence"],
        f"{auroc['value']:.3f} ({auroc['low']:.3f}-{auroc['high']:.3f})",
        f"{result['metrics']['accuracy']['value']:.3f}",
        f"{result['seconds']:.0f} s",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", help="data sets; all by default")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    arguments = parser.parse_intermixed_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    header = ("data set", "train / val / test", "test patients", "patient independence", "AUROC", "accuracy", "time")
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for data_set in SETS:
        if not arguments.names or data_set.name in arguments.names:
            print(run(arguments.data, data_set, arguments.runs), flush=True)


if __name__ == "__main__":
    main()
