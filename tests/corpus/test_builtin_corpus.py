"""The packaged prose is fit to be measured on."""

from __future__ import annotations

import importlib.resources
import re
import unicodedata
from typing import TYPE_CHECKING

import pytest

from robustness.corpus.corpus import BUILTIN_VERSION, load_corpus

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

FILES: list[Traversable] = sorted(
    (
        path
        for path in (importlib.resources.files("robustness.corpus") / "data" / "builtin").iterdir()
        if path.name.endswith(".txt")
    ),
    key=lambda path: path.name,
)
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def test_the_corpus_has_at_least_twenty_thousand_words() -> None:
    assert len(load_corpus("builtin").texts[0].split()) >= 20_000


def test_the_description_names_the_version_and_the_size() -> None:
    corpus = load_corpus("builtin")
    words = len(corpus.texts[0].split())
    assert corpus.description == f"builtin v{BUILTIN_VERSION} ({words:,} words)"
    assert corpus.layout == "packed"


def test_the_corpus_is_all_files_in_order_with_a_blank_line_between() -> None:
    texts = [file.read_text(encoding="utf-8") for file in FILES]
    assert len(texts) >= 1
    assert load_corpus("builtin").texts == ("\n".join(texts),)


@each_file
def test_a_file_is_utf8_and_composed_without_a_byte_order_mark(file: Traversable) -> None:
    text = file.read_bytes().decode("utf-8")
    assert not text.startswith("\ufeff")
    assert text == unicodedata.normalize("NFC", text)


@each_file
def test_a_file_holds_letters_and_punctuation_of_ordinary_prose(file: Traversable) -> None:
    text = file.read_text(encoding="utf-8")
    odd = {c for c in text if c != "\n" and unicodedata.category(c)[0] in "CZ" and c != " "}
    assert not odd, f"control or odd space characters: {sorted(map(ascii, odd))}"
    assert sum(not c.isascii() for c in text) / len(text) < 0.005


@each_file
def test_a_file_ends_with_one_line_end_and_no_line_with_a_blank(file: Traversable) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert not re.search(r"[ \t]$", text, flags=re.MULTILINE)


@each_file
def test_no_line_is_longer_than_a_paragraph_should_be(file: Traversable) -> None:
    assert max(map(len, file.read_text(encoding="utf-8").splitlines())) <= 2_000


def test_no_paragraph_appears_twice() -> None:
    found = paragraphs(load_corpus("builtin").texts[0])
    repeated = {paragraph[:80] for paragraph in found if found.count(paragraph) > 1}
    assert not repeated


def test_hardly_any_run_of_twelve_words_appears_twice() -> None:
    words = load_corpus("builtin").texts[0].lower().split()
    runs = [tuple(words[i : i + 12]) for i in range(len(words) - 11)]
    assert 1 - len(set(runs)) / len(runs) < 0.002
