"""The README's Python runs as it stands, on phantoms in the place of the reader's images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medgraft.data.phantom import write_phantoms

README = Path(__file__).resolve().parents[1] / "README.md"


def test_first_words_hold_a_real_run() -> None:
    opening = README.read_text(encoding="utf-8").split("```")
    assert len(opening[0].split()) < 80
    assert "medgraft train" in opening[1] or "make demo" in opening[1]
    assert "AUROC" in opening[1] or "auroc" in opening[1]


def test_python_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    write_phantoms(tmp_path / "brain-mri", patients=14, slices=4, size=64, seed=0)
    write_phantoms(tmp_path / "new-patients", patients=6, slices=4, size=64, seed=1)
    monkeypatch.chdir(tmp_path)
    # one thread: two that share a busy machine with others wait for each other, for minutes
    monkeypatch.setattr("medgraft.workflows.machine.os.sched_getaffinity", lambda _: {0}, raising=False)
    names: dict[str, object] = {}
    for block in blocks:
        code = compile(block, str(README), "exec")
        exec(code, names)
    assert (tmp_path / "runs" / "brain-mri" / "report.html").is_file()
    assert "0." in capsys.readouterr().out
