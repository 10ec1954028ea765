"""Verbs that train: train, compare, tune, find-lr, demo."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medgraft.cli.display import DISPLAY, print_evaluation, print_json, shown_progress
from medgraft.cli.options import Asked, Debug, Json, RunFolder, Source, with_settings
from medgraft.types import RESEARCH_USE_ONLY


@with_settings("data", "network", "training", "strict", "subgroups")
def train(
    source: Source,
    asked: Asked,
    sensitivity: Annotated[
        float | None, typer.Option(help="Operating point: at least this sensitivity on validation.", show_default=False)
    ] = None,
    specificity: Annotated[
        float | None, typer.Option(help="Operating point: at least this specificity on validation.", show_default=False)
    ] = None,
    cost: Annotated[
        float | None,
        typer.Option(help="Operating point: what a missed case costs, in false alarms.", show_default=False),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate with so many folds of whole patients.", show_default=False)
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(help="Cross-validations with new folds; 1.", show_default=False)
    ] = None,
    out: RunFolder = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a classifier; ends with a bundle, per-image scores and a report. With --folds, cross-validate that."""
    asked = _with_operating_point(asked, {"sensitivity": sensitivity, "specificity": specificity, "cost": cost})
    if folds is not None or repeats is not None:
        from medgraft.workflows.crossval import cross_validate_training

        _require_folds(folds)
        with shown_progress() as progress:
            pooled = cross_validate_training(
                source, folds=folds or 0, repeats=repeats or 1, out=out, config=asked.load(), progress=progress
            )
        print_evaluation(pooled.facts, pooled.folder, pooled.report, pooled.seconds, part="out of fold")
        return
    from medgraft.workflows.train import train as run

    with shown_progress() as progress:
        result = run(source, out=out, config=asked.load(), progress=progress)
    print_evaluation(result.facts, result.folder, result.report, result.seconds)


def _with_operating_point(asked: Asked, rules: dict[str, float | None]) -> Asked:
    """At most one rule; which values it may have is said by the configuration."""
    given = {name: value for name, value in rules.items() if value is not None}
    if len(given) > 1:
        from medgraft.errors import UsageError

        raise UsageError(
            "OPTION_CONFLICT",
            f"there is one operating point, but {' and '.join(f'--{name}' for name in given)} ask for several",
            fix="give one of them",
        )
    for name, value in given.items():
        asked = asked.and_value("evaluation.operating_point", f"{name}:{value:g}")
    return asked


def _require_folds(folds: int | None) -> None:
    if folds is None:
        from medgraft.errors import UsageError

        raise UsageError("OPTION_MISSING", "--repeats repeats a cross-validation", fix="add --folds 5")


@with_settings("data", "training")
def compare(
    source: Source,
    asked: Asked,
    backbones: Annotated[
        str,
        typer.Option(
            help="Names with commas, each with @WEIGHTS if need be; all-local: all whose weights are here.",
        ),
    ] = "all-local",
    finetune: Annotated[int, typer.Option(help="Fine-tune that many of the leaders too.", min=0)] = 0,
    out: RunFolder = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare backbones by probes trained on their features; the test part is not read."""
    from medgraft.workflows.compare import compare as run

    with shown_progress() as progress:
        result = run(source, backbones, out=out, finetune=finetune, config=asked.load(), progress=progress)
    if DISPLAY.as_json:
        print_json({**result.comparison, "folder": str(result.folder), "report": str(result.report)})
        return
    print(f"folder  {result.folder}\nreport  {result.report}\n{result.seconds:.0f} s. {RESEARCH_USE_ONLY}")


@with_settings("data", "network", "training")
def tune(
    source: Source,
    asked: Asked,
    trials: Annotated[
        int | None,
        typer.Option(help="Trials in all, those of an earlier start included; 20.", min=1, show_default=False),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Time limit of this start, such as 20m or 1h30m.", show_default=False)
    ] = None,
    head_only: Annotated[
        bool, typer.Option("--head-only", help="Search the head on cached features: seconds per trial.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget a study that is in the folder.")] = False,
    out: RunFolder = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Search hyper-parameters on the validation part; started again with the same --out, it goes on."""
    from medgraft.workflows.tune import parse_duration
    from medgraft.workflows.tune import tune as run

    limit = None if time is None else parse_duration(time)
    with shown_progress() as progress:
        result = run(
            source,
            trials=trials,
            time_limit=limit,
            head_only=head_only,
            fresh=fresh,
            out=out,
            config=asked.load(),
            progress=progress,
        )
    if DISPLAY.as_json:
        print_json(asdict(result))
        return
    print(f"config  {result.best_config}\nreport  {result.report}\n{result.seconds:.0f} s. {RESEARCH_USE_ONLY}")


@with_settings("data", "network", "training")
def find_lr(
    source: Source,
    asked: Asked,
    phase: Annotated[
        str | None, typer.Option(help="Phase to test; the first that takes gradient steps.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps from the lowest to the highest rate.", min=20)] = 150,
    lowest: Annotated[float, typer.Option(help="First learning rate of the head.")] = 1e-7,
    highest: Annotated[float, typer.Option(help="Last learning rate of the head.")] = 10.0,
    out: RunFolder = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learning-rate range test on a copy of the network, with its plot."""
    from medgraft.workflows.find_lr import find_lr as run

    with shown_progress() as progress:
        result = run(
            source,
            phase=phase,
            steps=steps,
            lowest=lowest,
            highest=highest,
            out=out,
            config=asked.load(),
            progress=progress,
        )
    if DISPLAY.as_json:
        print_json(asdict(result))
        return
    print(f"config  {result.config}\nreport  {result.report}\n{RESEARCH_USE_ONLY}")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("demo"), debug: Debug = False
) -> None:
    """The main job on generated brain MRI phantoms: check, train, evaluate, predict."""
    from medgraft.workflows.demo import demo as run

    with shown_progress() as progress:
        result = run(out, progress=progress)
    print_evaluation(result.facts, result.folder, result.report, result.seconds)
