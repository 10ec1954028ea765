"""The command line: arguments in, lines and exit codes out. What is done lives in `medgraft.workflows`.

Imports inside the functions keep ``medgraft --help`` free of torch, pandas and matplotlib.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medgraft.errors import SHOWN_PROBLEMS, MedgraftError, Problem, ResourceError, Stopped
from medgraft.types import RESEARCH_USE_ONLY

if TYPE_CHECKING:
    from medgraft.evaluation.evaluate import Evaluation
    from medgraft.types import CheckResult
    from medgraft.workflows.progress import Progress

app = typer.Typer(
    name="medgraft",
    help=f"Fast transfer learning on medical images whose numbers can be trusted.\n\n{RESEARCH_USE_ONLY}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
weights_app = typer.Typer(help="Pretrained weights: what is here, fetch, verify.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")


@dataclass
class _Display:
    """How errors are shown; set by options of any verb."""

    debug: bool = False
    as_json: bool = False


_display = _Display()
_INTERRUPTED = 130  # what typer makes of Ctrl-C


def _set_debug(value: bool) -> bool:
    # what a callback returns is what the verb gets
    _display.debug = value or _display.debug
    return value


def _set_json(value: bool) -> bool:
    _display.as_json = value or _display.as_json
    return value


Source = Annotated[Path, typer.Argument(help="Folder of class folders, or a CSV/TSV table.", show_default=False)]
BundlePath = Annotated[Path, typer.Argument(help="Bundle folder, or a run folder that holds one.", show_default=False)]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.", show_default=False)]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Setting as section.field=value; repeatable.", show_default=False)
]
Label = Annotated[str | None, typer.Option(help="Table column with the class.", show_default=False)]
Image = Annotated[str | None, typer.Option(help="Table column with the file or image id.", show_default=False)]
Patient = Annotated[str | None, typer.Option(help="Table column with the patient.", show_default=False)]
SplitColumn = Annotated[
    str | None, typer.Option("--split", help="Table column with train, val or test.", show_default=False)
]
Images = Annotated[Path | None, typer.Option(help="Folder where the table's images live.", show_default=False)]
Preset = Annotated[
    str | None, typer.Option(help="Named rule for patients in file names, such as chest-xray.", show_default=False)
]
Regex = Annotated[
    str | None,
    typer.Option(help="Regular expression on the file path; its groups are the patient.", show_default=False),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"] | None, typer.Option(help="Where to compute.", show_default=False)
]
Debug = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", callback=_set_json, help="Print the result, or the error, as JSON.")]


def _print_version(asked: bool) -> None:
    if asked:
        from medgraft import __version__

        print(f"medgraft {__version__}")
        raise typer.Exit


@app.callback()
def _any_verb(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    source: Source,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; runs/DATE-NAME by default.", show_default=False)
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Catalogue, Keras or timm name.", show_default=False)] = None,
    weights: Annotated[
        str | None, typer.Option(help="auto, none (from scratch), hub, or a .safetensors file.", show_default=False)
    ] = None,
    label: Label = None,
    image: Image = None,
    patient: Patient = None,
    split: SplitColumn = None,
    images: Images = None,
    patient_preset: Preset = None,
    patient_regex: Regex = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same result.", show_default=False)] = None,
    device: Device = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a classifier; ends with a bundle, per-image scores and a report."""
    from medgraft.workflows.settings import load_settings
    from medgraft.workflows.train import train as run

    values = _data_values(label, image, patient, split, images, patient_preset, patient_regex)
    values |= {
        "model.backbone": backbone,
        "model.weights": weights,
        "training.seed": seed,
        "training.device": device,
    }
    settings = load_settings(config, set_ or (), _given(values))
    with _progress() as progress:
        result = run(source, out=out, config=settings, progress=progress)
    _print_evaluation(result.evaluation, result.folder, result.report, result.seconds)


@app.command()
def evaluate(
    bundle: BundlePath,
    source: Source,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; runs/DATE-NAME by default.", show_default=False)
    ] = None,
    part: Annotated[
        Literal["all", "train", "val", "test"], typer.Option(help="Part of a source that declares parts.")
    ] = "all",
    label: Label = None,
    image: Image = None,
    patient: Patient = None,
    split: SplitColumn = None,
    images: Images = None,
    patient_preset: Preset = None,
    patient_regex: Regex = None,
    device: Device = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate a bundle on labelled images; classes are matched by name."""
    from medgraft.workflows.evaluate import evaluate as run
    from medgraft.workflows.settings import load_settings

    values = _data_values(label, image, patient, split, images, patient_preset, patient_regex)
    values["training.device"] = device
    settings = load_settings(config, set_ or (), _given(values))
    with _progress() as progress:
        result = run(bundle, source, out=out, part=part, config=settings, progress=progress)
    _print_evaluation(result.evaluation, result.folder, result.report, result.seconds)


@app.command()
def predict(
    bundle: BundlePath,
    paths: Annotated[list[Path], typer.Argument(help="Image files and folders of them.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help=".csv or .json file to write.", show_default=False)] = None,
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict images: one row per input, in input order; unreadable ones with their error."""
    from medgraft.workflows.predict import predict as run

    with _progress() as progress:
        predictions = run(bundle, paths, out=out, device=device or "auto", progress=progress)
    if as_json:
        from medgraft.inference.output import as_json_content

        _print_json(as_json_content(predictions))
        return
    unscored = sum(prediction.error is not None for prediction in predictions)
    if out is None:
        for prediction in predictions:
            proba = "" if prediction.proba is None else f"{max(prediction.proba):.3f}"
            print(f"{prediction.path}\t{prediction.label or prediction.error}\t{proba}")
    else:
        print(f"{len(predictions):,} rows, {unscored:,} of them unscored: {out}")
    print(RESEARCH_USE_ONLY)


@app.command()
def check(
    source: Source,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.", show_default=False)] = None,
    label: Label = None,
    image: Image = None,
    patient: Patient = None,
    split: SplitColumn = None,
    images: Images = None,
    patient_preset: Preset = None,
    patient_regex: Regex = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Read and decode everything as training would, and say what is wrong with it. Exit code 3 on errors."""
    from medgraft.workflows.check import check as run
    from medgraft.workflows.settings import load_settings

    values = _data_values(label, image, patient, split, images, patient_preset, patient_regex)
    settings = load_settings(config, set_ or (), _given(values))
    with _progress() as progress:
        report = run(source, out=out, config=settings, progress=progress)
    if as_json:
        _print_json([result.as_dict() for result in report.checks])
    else:
        counts = report.manifest.counts()
        for name, row in counts.items():
            print(f"{name}: " + ", ".join(f"{count:,} {part}" for part, count in row.items()))
        _print_checks(report.checks)
    if not report.usable:
        raise typer.Exit(3)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("demo"), debug: Debug = False
) -> None:
    """The main job on generated brain MRI phantoms: check, train, evaluate, predict."""
    from medgraft.workflows.demo import demo as run

    with _progress() as progress:
        result = run(out, progress=progress)
    _print_evaluation(result.evaluation, result.folder, result.report, result.seconds)


@weights_app.command("list")
def weights_list(as_json: Json = False, debug: Debug = False) -> None:
    """Backbones by our name and Keras's, and where their weights are."""
    from medgraft.models.weights import list_weights

    rows = list_weights()
    if as_json:
        _print_json(
            [
                {"name": row.name, "keras": row.keras_names, "weights": row.weights_name, "where": row.where}
                for row in rows
            ]
        )
        return
    print(f"{'NAME':<20} {'KERAS':<24} {'WHERE':<9} DESCRIPTION")
    for row in rows:
        print(f"{row.name:<20} {', '.join(row.keras_names):<24} {row.where:<9} {row.description}")


@weights_app.command("pull")
def weights_pull(
    name: Annotated[str, typer.Argument(help="Catalogue, Keras or timm name.", show_default=False)],
    to: Annotated[Path, typer.Option("--to", help="Folder to write the .safetensors file to.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Download weights, for this machine or to carry to one without network."""
    from medgraft.models.catalogue import find_backbone
    from medgraft.models.weights import pull

    path = pull(find_backbone(name), to=to)
    print(f"{path}\nuse it with: medgraft train SOURCE --backbone {name} --weights {path}")


@weights_app.command("verify")
def weights_verify(
    target: Annotated[str, typer.Argument(help="A .safetensors file, or a backbone whose local weights to verify.")],
    backbone: Annotated[str | None, typer.Option(help="Backbone the file belongs to.", show_default=False)] = None,
    debug: Debug = False,
) -> None:
    """Check the hash of weights, and that they fit their network."""
    from medgraft.models.weights import verify

    source = verify(target, backbone=backbone)
    print(f"ok: {source.description}, sha256 {source.sha256}")


def main() -> None:
    """Entry point; every failure becomes lines and an exit code, a traceback only with ``--debug``."""
    try:
        app()
    except MedgraftError as error:
        _fail(error)
    except SystemExit as exit_:
        if exit_.code == _INTERRUPTED:
            _fail(Stopped("STOPPED", "stopped on request"))
        raise
    except Exception as error:  # nothing may end in a traceback
        _fail(_unforeseen(error))


def _fail(error: MedgraftError) -> None:
    if _display.debug:
        traceback.print_exc()
    if _display.as_json:
        _print_json({"error": error.problem.as_dict(), "problems": [problem.as_dict() for problem in error.problems]})
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)


def _unforeseen(error: Exception) -> MedgraftError:
    """A failure that no function named, in the form of those that are named."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the second one is torch's
        fix = "close other programs, or lower batch_size of the phases or model.size"
        return ResourceError("OUT_OF_MEMORY", "there is not enough memory", fix=fix)
    if isinstance(error, OSError):
        what, where = error.strerror or type(error).__name__, str(error.filename or "")
        return ResourceError("SYSTEM", what, where=where, fix="check the path, its permissions and the free space")
    lines = str(error).splitlines() or [""]
    fix = "this is a defect of medgraft: please report it with what --debug prints"
    return MedgraftError("INTERNAL", f"{type(error).__name__}: {lines[0][:200]}", fix=fix)


@contextmanager
def _progress() -> Iterator[Progress]:
    from medgraft.workflows.progress import Silent, terminal_progress

    progress = Silent() if _display.as_json else terminal_progress()
    try:
        yield progress
    finally:
        progress.close()


def _data_values(
    label: str | None,
    image: str | None,
    patient: str | None,
    split: str | None,
    images: Path | None,
    preset: str | None,
    regex: str | None,
) -> dict[str, object]:
    return {
        "data.label": label,
        "data.image": image,
        "data.patient": patient,
        "data.split": split,
        "data.images": images,
        "data.patient_preset": preset,
        "data.patient_regex": regex,
    }


def _given(values: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _print_json(content: object) -> None:
    print(json.dumps(content, ensure_ascii=False, allow_nan=False, default=str))


def _print_checks(checks: tuple[CheckResult, ...]) -> None:
    for result in checks:
        print(f"{result.severity:<8} {result.code:<24} {result.title}")
        if result.advice:
            print(f"{'':<8} {'':<24} -> {result.advice}")
        files = result.evidence.get("files", [])
        for file in files[:SHOWN_PROBLEMS]:
            print(f"  {Problem(file['code'], file['what'], file['where'], file['fix'])}")
        if len(files) > SHOWN_PROBLEMS:
            print(f"  and {len(files) - SHOWN_PROBLEMS:,} more; --out FILE.json lists all")


def _print_evaluation(evaluation: Evaluation, folder: Path, report: Path, seconds: float) -> None:
    if _display.as_json:
        _print_json(
            {**evaluation.as_dict(), "folder": str(folder), "report": str(report), "seconds": round(seconds, 1)}
        )
        return
    patients = "patients unknown" if evaluation.n_patients is None else f"{evaluation.n_patients:,} patients"
    print(f"\ntest: {evaluation.n_images:,} images, {patients}, patient independence {evaluation.patient_independence}")
    for name in ("auroc", "accuracy", "sensitivity", "specificity"):
        print(f"  {name:<12} {evaluation.metrics[name]}")
    print(f"folder  {folder}\nreport  {report}\n{seconds:.0f} s. {RESEARCH_USE_ONLY}")
