"""Verbs that use a finished model: evaluate, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medgraft.cli.display import DISPLAY, print_evaluation, print_json, shown_progress
from medgraft.cli.options import Asked, Debug, Device, Json, RunFolder, with_settings
from medgraft.types import RESEARCH_USE_ONLY

Part = Literal["all", "train", "val", "test"]
Tta = Annotated[
    str | None,
    typer.Option(help="Test-time augmentation: flips, or affine:8 for 8 views.", show_default=False),
]
Mc = Annotated[int | None, typer.Option(help="Draws of the head's dropout, averaged.", show_default=False)]


@with_settings("data", "strict", "subgroups", device=True, recipe=False)
def evaluate(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="A bundle or run folder, several for an ensemble, then the source.", show_default=False),
    ],
    asked: Asked,
    out: RunFolder = None,
    part: Annotated[Part, typer.Option(help="Part of a source that declares parts.")] = "all",
    paired: Annotated[
        bool, typer.Option("--paired", help="Compare the bundles with each other on the same patients.")
    ] = False,
    tta: Tta = None,
    mc: Mc = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate a bundle on labelled images; classes are matched by name."""
    *bundles, source = inputs
    _require_bundles(bundles, paired=paired, averaged=tta is not None or mc is not None)
    if paired:
        _evaluate_paired(bundles, source, asked, out, part)
        return
    from medgraft.workflows.evaluate import evaluate as run

    with shown_progress() as progress:
        result = run(bundles, source, out=out, part=part, tta=tta, mc=mc, config=asked.load(), progress=progress)
    print_evaluation(result.facts, result.folder, result.report, result.seconds, part="evaluated")


def _require_bundles(bundles: list[Path], *, paired: bool, averaged: bool) -> None:
    """The source is the last of the arguments; before it stand one bundle, or two and more to compare."""
    from medgraft.errors import UsageError

    if not bundles:
        raise UsageError("ARGUMENTS_MISSING", "a bundle and a source are needed", fix="medgraft evaluate BUNDLE SOURCE")
    if paired and len(bundles) < 2:
        raise UsageError("PAIRED_COUNT", "a comparison needs two bundles", fix="medgraft evaluate A B SOURCE --paired")
    if paired and averaged:
        what = "--paired compares plain answers: --tta and --mc do not go with it"
        raise UsageError("OPTION_CONFLICT", what, fix="leave them out")


def _evaluate_paired(bundles: list[Path], source: Path, asked: Asked, out: Path | None, part: Part) -> None:
    from medgraft.workflows.paired import evaluate_paired as run
    from medgraft.workflows.paired_files import describe_paired

    with shown_progress() as progress:
        result = run(bundles, source, out=out, part=part, config=asked.load(), progress=progress)
    if DISPLAY.as_json:
        print_json({**result.facts, "folder": str(result.folder), "report": str(result.report)})
        return
    for line in describe_paired(result.facts):
        print(line)
    print(f"folder  {result.folder}\nreport  {result.report}\n{result.seconds:.0f} s. {RESEARCH_USE_ONLY}")


def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="A bundle or run folder, several for an ensemble, then image files and folders of them.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help=".csv or .json file to write.", show_default=False)] = None,
    format_: Annotated[
        Literal["csv", "json", "submission"] | None,
        typer.Option("--format", help="By the ending of --out; submission: id,label.", show_default=False),
    ] = None,
    sample: Annotated[
        Path | None, typer.Option(help="Sample submission: its ids, in its order.", show_default=False)
    ] = None,
    tta: Tta = None,
    mc: Mc = None,
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict images: one row per input, in input order; unreadable ones with their error."""
    from medgraft.workflows.predict import predict as run
    from medgraft.workflows.predict import split_inputs

    bundles, paths = split_inputs(inputs)
    with shown_progress() as progress:
        predictions = run(
            bundles,
            paths,
            out=out,
            format=format_,
            sample=sample,
            tta=tta,
            mc=mc,
            device=device or "auto",
            progress=progress,
        )
    if DISPLAY.as_json:
        from medgraft.inference.bundle import bundle_id
        from medgraft.inference.output import as_json_content

        ids = [bundle_id(bundle) for bundle in bundles]
        print_json(as_json_content(predictions, bundle_id=ids[0] if len(ids) == 1 else ids))
        return
    unscored = sum(prediction.error is not None for prediction in predictions)
    if out is None:
        for prediction in predictions:
            proba = "" if prediction.proba is None else f"{max(prediction.proba):.3f}"
            spread = "" if prediction.spread is None else f"\t± {prediction.spread:.3f}"
            print(f"{prediction.path}\t{prediction.label or prediction.error}\t{proba}{spread}")
    else:
        print(f"{len(predictions):,} rows, {unscored:,} of them unscored: {out}")
    print(RESEARCH_USE_ONLY)
