"""Any change of a sealed folder is refused and the file named (T5, S6, F4, F5, F7, F11, F20)."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path

import pytest

from medgraft.errors import ModelError
from medgraft.inference.seal import BUNDLE_FILES, MANIFEST, SEEN, canonical_json, check_seal, write_seal

FILES = (*BUNDLE_FILES, SEEN)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    generator = random.Random(0)
    for name in FILES:
        (folder / name).write_bytes(generator.randbytes(997))
    write_seal(folder)
    return folder


def _refused(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        check_seal(folder)
    assert caught.value.exit_code == 4
    return caught.value


def test_an_untouched_folder_gives_its_id(sealed: Path) -> None:
    assert check_seal(sealed) == hashlib.sha256((sealed / MANIFEST).read_bytes()).hexdigest()


def test_every_single_flipped_byte_of_the_manifest_is_refused(sealed: Path) -> None:
    path = sealed / MANIFEST
    data = path.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(bytes(changed))
        assert MANIFEST in str(_refused(sealed))
    path.write_bytes(data)
    check_seal(sealed)


@pytest.mark.parametrize("name", FILES)
def test_flips_and_truncations_of_any_file_are_refused_and_named(sealed: Path, name: str) -> None:
    path = sealed / name
    data = path.read_bytes()
    generator = random.Random(name)
    for _ in range(60):
        changed = bytearray(data)
        changed[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(bytes(changed))
        error = _refused(sealed)
        assert error.code == "MODEL_HASH_MISMATCH" and name in str(error)
    for _ in range(15):
        path.write_bytes(data[: generator.randrange(1, len(data))])
        error = _refused(sealed)
        assert error.code == "MODEL_TRUNCATED" and name in str(error)
    path.write_bytes(data + b"x")
    assert _refused(sealed).code == "MODEL_HASH_MISMATCH"
    path.write_bytes(b"")
    assert _refused(sealed).code == "MODEL_EMPTY"


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_removed_or_renamed_file_is_named(sealed: Path, name: str) -> None:
    (sealed / name).rename(sealed / "renamed")
    error = _refused(sealed)
    assert error.code == "BUNDLE_FILE_MISSING" and name in str(error)
    (sealed / "renamed").unlink()
    error = _refused(sealed)
    assert error.code == "BUNDLE_FILE_MISSING" and name in str(error)


def test_a_memory_is_optional_but_not_added_later(sealed: Path) -> None:
    memory = (sealed / SEEN).read_bytes()
    with_memory = check_seal(sealed)
    (sealed / SEEN).unlink()
    assert write_seal(sealed) == check_seal(sealed) != with_memory
    (sealed / SEEN).write_bytes(memory)
    error = _refused(sealed)
    assert error.code == "BUNDLE_FILE_UNLISTED" and SEEN in str(error)


def test_added_files_folders_and_links_are_named(sealed: Path) -> None:
    (sealed / ".hidden").write_text("x")
    error = _refused(sealed)
    assert error.code == "BUNDLE_FILE_UNLISTED" and ".hidden" in str(error)
    (sealed / ".hidden").unlink()
    (sealed / "sub").mkdir()
    error = _refused(sealed)
    assert error.code == "BUNDLE_FILE_NOT_PLAIN" and "sub" in str(error)
    (sealed / "sub").rmdir()
    outside = sealed.parent / "outside"
    (sealed / "README.md").rename(outside)
    (sealed / "README.md").symlink_to(outside)
    error = _refused(sealed)
    assert error.code == "BUNDLE_FILE_NOT_PLAIN" and "README.md" in str(error)


def test_a_manifest_that_is_a_fifo_does_not_hang(sealed: Path) -> None:
    (sealed / MANIFEST).unlink()
    os.mkfifo(sealed / MANIFEST)
    assert _refused(sealed).code == "BUNDLE_FILE_NOT_PLAIN"


def test_all_damaged_files_are_listed(sealed: Path) -> None:
    for name in ("README.md", "bundle.json"):
        (sealed / name).write_bytes(b"x" * 997)
    text = str(_refused(sealed))
    assert "README.md" in text and "bundle.json" in text


def test_a_newer_format_is_named_and_another_folder_is_no_bundle(sealed: Path, tmp_path: Path) -> None:
    values = json.loads((sealed / MANIFEST).read_bytes())
    (sealed / MANIFEST).write_bytes(canonical_json({**values, "format_version": 2}))
    error = _refused(sealed)
    assert error.code == "BUNDLE_FORMAT" and "version 2" in str(error)
    other = tmp_path / "photos"
    other.mkdir()
    assert _refused(other).code == "BUNDLE_NOT_BUNDLE"


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "extra.bin"])
def test_a_manifest_cannot_name_files_of_its_own_choice(sealed: Path, name: str) -> None:
    values = json.loads((sealed / MANIFEST).read_bytes())
    del values["digest"]
    values["files"][name] = values["files"]["README.md"]
    digest = hashlib.sha256(canonical_json(values)).hexdigest()
    (sealed / MANIFEST).write_bytes(canonical_json({**values, "digest": digest}))
    assert _refused(sealed).code == "BUNDLE_MANIFEST"


def test_deeply_nested_or_huge_manifests_are_refused(sealed: Path) -> None:
    for data in (b"[" * 60_000, b" " * 10_000_000, b"[]", b"\xff\xfe"):
        (sealed / MANIFEST).write_bytes(data)
        assert _refused(sealed).code == "BUNDLE_MANIFEST"
