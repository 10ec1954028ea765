"""The manifest: access, counts and the round trip through CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgraft.data.manifest import COLUMNS, Manifest
from medgraft.errors import DataError

words = st.text(st.characters(exclude_categories=()), min_size=1, max_size=12)
rows = st.tuples(
    words,
    words,
    st.none() | words,
    st.none() | words,
    st.sampled_from([None, "train", "val", "test"]),
    st.none() | words,
)


def _manifest(**columns: list[str | None]) -> Manifest:
    labels = {label for label in columns.get("label", []) if label is not None}
    source = "column p" if columns.get("patient_id") else "none"
    return Manifest.from_columns(columns, root=Path("/data"), classes=tuple(sorted(labels)), patient_source=source)


@given(st.lists(rows, max_size=8, unique_by=lambda row: row[0]))
def test_csv_reads_back_any_unicode(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str | None, ...]]
) -> None:
    manifest = _manifest(**{name: [row[i] for row in values] for i, name in enumerate(COLUMNS)})
    path = tmp_path_factory.mktemp("m") / "manifest.csv"
    manifest.write_csv(path)
    path.read_bytes().decode("utf-8")
    back = Manifest.read_csv(path, root=Path("/data"), classes=manifest.classes, patient_source=manifest.patient_source)
    assert back.table.to_dict("list") == manifest.table.to_dict("list")
    assert (back.root, back.classes, back.patient_source) == (manifest.root, manifest.classes, manifest.patient_source)


def test_access() -> None:
    manifest = _manifest(
        sample_id=["a", "b", "c"],
        path=["x/a.png", "/other/b.png", "c.png"],
        patient_id=["p", None, "p"],
        label=["cat", "dog", "cat"],
        split=["train", "test", None],
        mask=[None, None, "m.png"],
    )
    assert len(manifest) == 3
    assert manifest.image_paths() == [Path("/data/x/a.png"), Path("/other/b.png"), Path("/data/c.png")]
    assert manifest.class_indices().tolist() == [0, 1, 0]
    assert manifest.class_indices().dtype == np.int64
    assert manifest.unit_ids() == ("p", "b", "p")
    assert not manifest.patients_known
    assert manifest.take([0, 2]).patients_known
    assert manifest.counts()["cat"] == {"train": 1, "val": 0, "test": 0, "unsplit": 1}
    assert manifest.part("test").table["sample_id"].tolist() == ["b"]
    assert len(manifest.part("val")) == 0
    sample = list(manifest.samples())[2]
    assert (sample.image, sample.mask, sample.split) == ("/data/c.png", "/data/m.png", None)
    moved = manifest.with_splits(["val", "val", "val"])
    assert moved.counts()["dog"] == {"train": 0, "val": 1, "test": 0}
    assert manifest.table["split"].tolist() == ["train", "test", None]


def test_labels_without_an_index_are_errors() -> None:
    manifest = _manifest(sample_id=["a", "b"], path=["a", "b"], label=["x", None])
    with pytest.raises(DataError, match="LABEL_MISSING"):
        manifest.class_indices()
    other = Manifest(manifest.root, manifest.table.iloc[:1], ("y",), "none")
    with pytest.raises(DataError, match="LABEL_UNKNOWN"):
        other.class_indices()


def test_invalid_values_are_refused() -> None:
    with pytest.raises(ValueError, match="unique"):
        _manifest(sample_id=["a", "a"], path=["a", "b"])
    with pytest.raises(ValueError, match="absolute"):
        Manifest.from_columns({"sample_id": []}, root=Path("x"), classes=(), patient_source="none")


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", ",".join(COLUMNS) + "\na,b\n", ",".join(COLUMNS) + "\na,b,,,dev,\n", '"'], ids=range(5)
)
def test_a_file_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text(text)
    with pytest.raises(DataError, match="MANIFEST_INVALID"):
        Manifest.read_csv(path)
