"""Verbs that look without training: check, explore, summary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgraft.cli.display import DISPLAY, print_checks, print_json, shown_progress
from medgraft.cli.options import Asked, Debug, Json, RunFolder, Source, with_settings
from medgraft.types import RESEARCH_USE_ONLY


@with_settings("data", device=True, recipe=False)
def check(
    source: Source,
    asked: Asked,
    out: RunFolder = None,
    against: Annotated[
        Path | None, typer.Option(help="Another source to compare this one with.", show_default=False)
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look for copies, leaks, wrong labels, shortcuts and shift, before any training. Exit code 3 on errors."""
    from medgraft.workflows.check import check as run

    with shown_progress() as progress:
        report = run(source, out=out, against=against, config=asked.load(), progress=progress)
    if DISPLAY.as_json:
        print_json([result.as_dict() for result in report.checks])
    else:
        for name, row in ({} if report.manifest is None else report.manifest.counts()).items():
            print(f"{name}: " + ", ".join(f"{count:,} {part}" for part, count in row.items()))
        print_checks(report.checks, report.folder)
        print(f"folder  {report.folder}\npage    {report.page}\n{report.seconds:.0f} s. {RESEARCH_USE_ONLY}")
    if not report.usable:
        raise typer.Exit(3)


@with_settings("data")
def explore(
    source: Source,
    asked: Asked,
    out: RunFolder = None,
    grid: Annotated[int, typer.Option(help="Sample images per class.", min=1, max=200)] = 50,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at the data: classes, sizes, modes, gray values and sample images, as one page and one picture."""
    from medgraft.workflows.explore import explore as run

    with shown_progress() as progress:
        result = run(source, out=out, config=asked.load(), grid=grid, progress=progress)
    if DISPLAY.as_json:
        print_json({**result.facts, "folder": str(result.folder)})
        return
    for line in result.summary:
        print(line)
    print(f"page    {result.page}\npicture {result.picture}\n{RESEARCH_USE_ONLY}")


@with_settings("data", "network")
def summary(
    asked: Asked,
    target: Annotated[
        Path | None,
        typer.Argument(help="Bundle, run folder or data source; none: as configured.", show_default=False),
    ] = None,
    classes: Annotated[int, typer.Option(help="Number of classes where no target tells it.", min=2)] = 2,
    phase: Annotated[
        str | None, typer.Option(help="Phase whose trainable layers are marked; the last one.", show_default=False)
    ] = None,
    blocks: Annotated[bool, typer.Option("--blocks", help="One line per block instead of one per layer.")] = False,
    svg: Annotated[Path | None, typer.Option(help="SVG file to draw the network to.", show_default=False)] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Layers, shapes, parameters, what trains, and multiply-adds of a network. Needs no weights."""
    from medgraft.workflows.summary import as_text, draw
    from medgraft.workflows.summary import summary as run

    result = run(target, config=asked.load(), classes=classes, phase=phase)
    if svg is not None:
        draw(result, svg)
    if DISPLAY.as_json:
        print_json(result.as_dict())
        return
    print(as_text(result, layers=not blocks))
    if svg is not None:
        print(f"drawing {svg}")
