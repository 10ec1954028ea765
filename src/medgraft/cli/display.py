"""What a user sees of a verb: progress, results and errors, as lines or as JSON."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgraft.errors import SHOWN_PROBLEMS, MedgraftError, Problem, ResourceError
from medgraft.types import RESEARCH_USE_ONLY

if TYPE_CHECKING:
    from medgraft.types import CheckResult
    from medgraft.workflows.progress import Progress

_EXAMPLES = 3  # of a check, shown in the terminal
INTERRUPTED = 130  # what typer makes of Ctrl-C


@dataclass
class Display:
    """How errors and results are shown; set by options of any verb."""

    debug: bool = False
    as_json: bool = False


DISPLAY = Display()


def fail(error: MedgraftError) -> None:
    if DISPLAY.debug:
        traceback.print_exc()
    if DISPLAY.as_json:
        print_json({"error": error.problem.as_dict(), "problems": [problem.as_dict() for problem in error.problems]})
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)


def unforeseen(error: Exception) -> MedgraftError:
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
def shown_progress() -> Iterator[Progress]:
    from medgraft.workflows.progress import Silent, terminal_progress

    progress = Silent() if DISPLAY.as_json else terminal_progress()
    try:
        yield progress
    finally:
        progress.close()


def print_json(content: object) -> None:
    print(json.dumps(content, ensure_ascii=False, allow_nan=False, default=str))


def print_checks(checks: Sequence[CheckResult], folder: Path) -> None:
    """Code, severity, what, evidence and what to do; the most severe first."""
    order = ("error", "warning", "note")
    for result in sorted(checks, key=lambda result: order.index(result.severity)):
        print(f"{result.severity:<8} {result.code:<26} {result.title}")
        for line in evidence_lines(result):
            print(f"{'':<8} {'':<26} {line}")
        if result.advice:
            print(f"{'':<8} {'':<26} -> {result.advice}")
        files = result.evidence.get("files", [])
        for file in files[:SHOWN_PROBLEMS]:
            print(f"  {Problem(file['code'], file['what'], file['where'], file['fix'])}")
        if len(files) > SHOWN_PROBLEMS:
            print(f"  and {len(files) - SHOWN_PROBLEMS:,} more in {folder / 'checks.json'}")


def evidence_lines(result: CheckResult) -> Iterator[str]:
    """The first examples of what a check found; all of them are in checks.json."""
    examples = result.evidence.get("examples", [])
    for example in examples[:_EXAMPLES]:
        if isinstance(example, Mapping) and {"first", "second", "kind"} <= example.keys():
            yield f"{example['first']} and {example['second']} ({example['kind']})"
        elif isinstance(example, Mapping):
            yield ", ".join(f"{name} {_short(value)}" for name, value in example.items())
        else:
            yield _short(example)
    if len(examples) > _EXAMPLES:
        yield f"and {len(examples) - _EXAMPLES:,} more in checks.json"


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return " = ".join(_short(item) for item in value)
    return str(value)


def _estimate(estimate: Mapping[str, Any]) -> str:
    from medgraft.types import Estimate

    return str(Estimate(**estimate))


def print_evaluation(
    facts: Mapping[str, Any], folder: Path, report: Path, seconds: float, *, part: str = "test"
) -> None:
    """The leading numbers, and beside them what weakens them.

    Args:
        facts: content of evaluation.json.
        folder: of the run.
        report: the page.
        seconds: wall time.
        part: what was scored, in a word.
    """
    if DISPLAY.as_json:
        print_json({**facts, "folder": str(folder), "report": str(report), "seconds": round(seconds, 1)})
        return
    patients = "patients unknown" if facts["n_patients"] is None else f"{facts['n_patients']:,} patients"
    clean = " that training has not seen" if facts.get("headline") == "clean" and _leaks(facts) else ""
    print(
        f"\n{part}: {facts['n_images']:,} images{clean}, {patients}, "
        f"patient independence {facts['patient_independence']}"
    )
    for name in ("auroc", "accuracy", "sensitivity", "specificity"):
        print(f"  {name:<12} {_estimate(facts['metrics'][name])}")
    for line in trust_lines(facts):
        print(f"  {line}")
    print(f"folder  {folder}\nreport  {report}\n{seconds:.0f} s. {RESEARCH_USE_ONLY}")


def _leaks(facts: Mapping[str, Any]) -> int:
    leaks = facts.get("leaks") or {}
    return int(sum(leaks.get(name, 0) for name in ("exact", "near", "patients")))


def trust_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Copies, trivial baselines and shortcuts, in a line each."""
    if _leaks(facts):
        yield facts["leaks"]["conclusion"]
        whole = facts["subsets"]["all"]
        accuracy = _estimate(whole["metrics"]["accuracy"])
        yield f"on all {whole['n_images']:,} images accuracy reads {accuracy}: in part memory"
    verdict = facts.get("baseline_verdict")
    if verdict:
        yield verdict["text"]
    for check in facts.get("checks") or ():
        if check["code"] == "LESION_NOT_NEEDED" or check["code"].startswith("SHORTCUT_RELIES_ON_"):
            yield check["title"]
