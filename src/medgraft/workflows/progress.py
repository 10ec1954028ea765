"""What the user sees while a verb works: bars in a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """Receives what a verb does."""

    def say(self, line: str) -> None:
        """A line for the user."""

    def advance(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` images of a named piece of work."""

    def close(self) -> None:
        """No more is coming."""


class Silent:
    """Says nothing."""

    def say(self, line: str) -> None:
        pass

    def advance(self, what: str, done: int, total: int) -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """Plain lines: for logs, pipes and notebooks. A long piece of work speaks every ``interval`` seconds."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self._stream = stream or sys.stdout
        self._interval = interval
        self._what = ""
        self._began = 0.0
        self._spoke = 0.0

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def advance(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._spoke = what, now, now
        if now - self._spoke < self._interval or done == 0:
            return
        self._spoke = now
        rate = done / max(now - self._began, 1e-9)
        self.say(f"  {what}: {done:,}/{total:,}, {rate:,.0f} images/s, {(total - done) / rate:.0f} s left")

    def close(self) -> None:
        pass


class Bars:
    """One bar at a time with rate and remaining time, lines above it."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._progress: RichProgress = RichProgress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f} images/s"),
            TimeRemainingColumn(),
            transient=True,
        )
        self._progress.start()
        self._task: TaskID | None = None
        self._what = ""
        self._began = 0.0

    def say(self, line: str) -> None:
        self._progress.console.print(line, highlight=False, markup=False)

    def advance(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what or self._task is None:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._what, self._began = what, now
            self._task = self._progress.add_task(what, total=total, rate=0.0)
        rate = done / max(now - self._began, 1e-9)
        self._progress.update(self._task, completed=done, rate=rate)

    def close(self) -> None:
        self._progress.stop()


def terminal_progress() -> Progress:
    """Bars where standard output is a terminal, lines otherwise."""
    return Bars() if sys.stdout.isatty() else Lines()
