"""Escaping of names and natural order."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgraft.data.names import cell, escape, listed, natural_key, unescape

any_text = st.text(st.characters(exclude_categories=()))


@given(any_text)
def test_escape_reads_back_and_fits_utf8_on_one_line(text: str) -> None:
    for escaped in (escape(text), cell(text)):
        assert unescape(escaped) == text
        assert len(escaped.encode("utf-8").splitlines()) <= 1


@given(st.binary(max_size=50))
def test_any_file_name_bytes_read_back(name: bytes) -> None:
    assert os.fsencode(unescape(escape(os.fsdecode(name)))) == name


@pytest.mark.parametrize("text", ["p (1).jpg", "ä/日本.png", "🧠.jpg", "-1", "+0.5"])
def test_ordinary_names_stay_as_they_are(text: str) -> None:
    assert cell(text) == text


@pytest.mark.parametrize("text", ["=cmd()", "+x", "-x", "@x"])
def test_cells_do_not_begin_a_formula(text: str) -> None:
    assert cell(text)[0] == "\\"


def test_natural_order() -> None:
    names = ["10", "2", "1", "b", "A", "a10", "a9", "9" * 5000]
    assert sorted(names, key=natural_key) == ["1", "2", "10", "9" * 5000, "A", "a9", "a10", "b"]


def test_listed_says_how_many_more() -> None:
    assert listed(["a", "b\n", "c"], limit=2) == r"'a', 'b\u000a' and 1 more"
