"""Tables of images as tests change them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

Rows = list[dict[str, str]]


def read_table(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_table(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def spoil(path: Path, kind: int) -> None:
    """Make a file unreadable in one of several ways."""
    content = path.read_bytes()
    if kind % 4 == 0:
        path.write_bytes(b"")
    elif kind % 4 == 1:
        path.write_bytes(content[: len(content) // 2])
    elif kind % 4 == 2:
        path.write_text("no image", encoding="utf-8")
    else:
        Image.new("L", (4, 4)).save(path)  # below data.min_side


def spoil_rows(table: Path, rows: Sequence[int]) -> list[str]:
    """Make the images of these rows of a table unreadable; gives their names."""
    names = [read_table(table)[row]["image"] for row in rows]
    for kind, name in enumerate(names):
        spoil(table.parent / name, kind)
    return names
