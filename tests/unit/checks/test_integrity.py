"""What the full decode found, as results."""

from __future__ import annotations

from pathlib import Path

from medgraft.checks import integrity
from medgraft.checks.integrity import check_images
from medgraft.data.manifest import Manifest
from medgraft.data.pixels import ImageRecord
from medgraft.errors import Problem
from medgraft.types import CheckResult

DATA = Path(integrity.__file__).parents[1] / "data"


def _found(*records: ImageRecord) -> dict[str, CheckResult]:
    names = [f"a/{index}.png" for index in range(len(records))]
    manifest = Manifest.from_columns(
        {"sample_id": names, "path": names}, root=Path("/data"), classes=("x", "y"), patient_source="none"
    )
    return {result.code: result for result in check_images(manifest, records)}


def test_d1_every_bad_file_has_its_code_and_its_path_below_the_source() -> None:
    error = Problem("IMG_EMPTY", "has 0 bytes", "/home/somebody/data/a/1.png", "copy it again")
    found = _found(ImageRecord(), ImageRecord(error=error))
    assert found["IMAGES_BAD"].severity == "error"
    assert found["IMAGES_BAD"].evidence["files"] == [
        {"code": "IMG_EMPTY", "what": "has 0 bytes", "where": "a/1.png", "fix": "copy it again"}
    ]


def test_scales_that_differ_are_a_warning() -> None:
    twelve, sixteen = ImageRecord(warnings=("IMG_SCALED_12",)), ImageRecord(warnings=("IMG_SCALED_16",))
    assert "IMAGES_MIXED_SCALES" not in _found(twelve, twelve, ImageRecord())
    mixed = _found(twelve, sixteen, sixteen)["IMAGES_MIXED_SCALES"]
    assert mixed.severity == "warning"
    assert mixed.evidence == {"counts": {"IMG_SCALED_12": 1, "IMG_SCALED_16": 2}}


def test_every_remark_has_words() -> None:
    source = "".join(file.read_text("utf-8") for file in DATA.glob("*.py"))
    assert len(integrity._REMARKS) > 20
    assert [code for code in integrity._REMARKS if f'"{code}"' not in source] == []
