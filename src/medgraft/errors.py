"""Every failure a user can cause, as one tree.

    MedgraftError
    ├── UsageError      exit 2   wrong arguments, options or configuration
    ├── DataError       exit 3   tables, folders, images, labels, splits
    ├── ModelError      exit 4   weights, bundles, checkpoints and other artefacts
    ├── TrainingError   exit 5   training cannot go on (loss not finite, …)
    ├── ResourceError   exit 6   memory, disk, device
    └── Stopped         exit 143 stopped on request, state saved

An error is data: a stable code, what happened, where (file, row, field) and how to fix it. The
command line prints ``error[CODE]: what; where; fix`` and never a traceback without ``--debug``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

SHOWN_PROBLEMS = 20
"""Problems printed with an error; ``MedgraftError.problems`` holds all of them."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, in the words the user will read."""

    code: str
    what: str
    where: str = ""
    fix: str = ""

    @property
    def text(self) -> str:
        """What, where and fix in one line."""
        return "; ".join(part for part in (self.what, self.where, self.fix) if part)

    def __str__(self) -> str:
        return f"[{self.code}] {self.text}"

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "what": self.what, "where": self.where, "fix": self.fix}


class MedgraftError(Exception):
    """Base of the tree.

    Args:
        code: stable upper-case identifier, such as ``IMG_TRUNCATED``.
        what: what happened.
        where: file, row, field or option, as the user knows it.
        fix: the way out.
        problems: when one failure has many causes (ten bad files), all of them.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        code: str,
        what: str,
        *,
        where: str = "",
        fix: str = "",
        problems: Sequence[Problem] = (),
    ) -> None:
        self.problem = Problem(code=code, what=what, where=where, fix=fix)
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(code, what, where, fix)

    @property
    def code(self) -> str:
        return self.problem.code

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.problem.text}"]
        lines += [f"  {problem}" for problem in self.problems[:SHOWN_PROBLEMS]]
        if len(self.problems) > SHOWN_PROBLEMS:
            lines.append(f"  and {len(self.problems) - SHOWN_PROBLEMS:,} more")
        return "\n".join(lines)


class UsageError(MedgraftError):
    """Wrong arguments, options or configuration."""

    exit_code = 2


class DataError(MedgraftError):
    """Tables, folders, images, labels or splits that cannot be used as they are."""

    exit_code = 3


class ModelError(MedgraftError):
    """Weights, bundles and other artefacts that are missing, damaged or of the wrong kind."""

    exit_code = 4


class TrainingError(MedgraftError):
    """Training cannot go on."""

    exit_code = 5


class ResourceError(MedgraftError):
    """Not enough memory or disk, or no such device."""

    exit_code = 6


class Stopped(MedgraftError):
    """Stopped on request; what was reached is saved."""

    exit_code = 143
