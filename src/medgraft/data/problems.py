"""Many problems of one source, raised as one error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medgraft.errors import DataError, Problem


def raise_problems(problems: Sequence[Problem], *, what: str, where: str, fix: str = "") -> None:
    """Raise one `DataError` that carries all problems, if there are any.

    Its code is that of the problems when they share one, else ``ROWS_INVALID``.
    """
    if not problems:
        return
    counts = Counter(problem.code for problem in problems)
    code = problems[0].code if len(counts) == 1 else "ROWS_INVALID"
    summary = ", ".join(f"{n:,} x {name}" for name, n in counts.items())
    raise DataError(code, f"{what}: {summary}", where=where, fix=fix, problems=problems)
