"""Compressed files, quoted TSV, semicolons, and parts of nested columns."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import string
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustness.corpus.corpus import load_corpus
from robustness.corpus.corpus_files import read_separated
from tests.support.records.corpus_files import message, write, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


def compress(path: Path, suffix: str) -> Path:
    return write(path.with_name(path.name + suffix), COMPRESS[suffix](path.read_bytes()))


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("kind", [".csv", ".TSV", ".jsonl", ".parquet", ".txt", ".fa"])
def test_a_compressed_file_is_the_same_corpus(tmp_path: Path, kind: str, suffix: str) -> None:
    if kind in {".txt", ".fa"}:
        plain = write(tmp_path / f"a{kind}", ">a\nACGT\nAC\n")
        column = ""
    else:
        rows = write_rows(tmp_path / f"a{kind.lower()}", ["one", "two"])
        plain, column = rows.rename(tmp_path / f"a{kind}"), ":text"
    wanted, found = (load_corpus(f"{p}{column}") for p in (plain, compress(plain, suffix)))
    assert found.fingerprint == wanted.fingerprint
    assert found.layout == wanted.layout


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("content", [b"no such format", b""])
def test_what_is_not_compressed_is_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    text = message(write(tmp_path / f"a.txt{suffix}", content))
    assert any(said in text for said in ("cannot be decompressed", "cannot be read", "no text"))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    whole = compress(write(tmp_path / "a.txt", "some text " * 1000), suffix).read_bytes()
    text = message(write(tmp_path / f"b.txt{suffix}", whole[: len(whole) // 2]))
    assert "cannot be" in text


def test_a_file_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        available = 400

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    path = compress(write(tmp_path / "a.txt", "x" * 101), ".gz")
    assert "decompresses to more than 100 bytes" in message(path)


# --- quotes in TSV


ROWS = ['He said "hello" to her', '"Quoted" start', "a\tb", "two\nlines", "plain"]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_a_tsv_file_is_read_as_a_program_that_quotes_wrote_it(tmp_path: Path, quoting: int) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", quoting=quoting, lineterminator="\n")  # type: ignore[arg-type]
    writer.writerows([("text", "n"), *((row, n) for n, row in enumerate(ROWS))])
    path = write(tmp_path / "a.tsv", stream.getvalue())
    assert read_separated(path)["text"] == ROWS


def test_a_tsv_file_of_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"text": ROWS}).to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    assert load_corpus(f"{tmp_path / 'a.tsv'}:text").texts == tuple(ROWS)


@pytest.mark.parametrize(
    "field",
    ['"Title"', '"open', 'said "so"', '"so" he said', '"a ""b"" c" d', '5"'],
)
def test_quotes_that_no_program_would_write_are_text(tmp_path: Path, field: str) -> None:
    path = write(tmp_path / "a.tsv", f"text\tn\n{field}\t1\nother words\t2\n")
    assert read_separated(path)["text"] == [field, "other words"]


@given(st.lists(st.text(string.ascii_letters + " \t\n\"'", min_size=1), min_size=1))
def test_every_text_survives_a_quoted_tsv_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str]
) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    writer.writerows([("text", "n"), *((row, "x") for row in rows)])
    path = write(tmp_path_factory.mktemp("tsv") / "a.tsv", stream.getvalue())
    assert read_separated(path)["text"] == rows


def test_a_tab_in_a_field_that_is_not_quoted_says_what_to_do(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'text\na\nb\tsaid "c"\n')
    text = message(f"{path}:text")
    assert "2 fields instead of 1 in line 3" in text
    assert "save it as .csv" in text


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_file_may_be_separated_otherwise(tmp_path: Path, separator: str) -> None:
    content = f'text{separator}n\nhello, you{separator}1\n"x{separator}y"{separator}2\n'
    path = write(tmp_path / "a.csv", content)
    assert read_separated(path) == {"text": ["hello, you", f"x{separator}y"], "n": ["1", "2"]}


# --- parts of columns


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_a_part_of_a_column_is_a_column(tmp_path: Path, kind: str) -> None:
    rows = [{"translation": {"en": f"dog {n}", "de": f"Hund {n}"}} for n in range(3)]
    path = tmp_path / f"a{kind}"
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write(path, "\n".join(str(row).replace("'", '"') for row in rows))
    assert load_corpus(f"{path}:translation.de").texts == ("Hund 0", "Hund 1", "Hund 2")
    assert "has 'fr' in its column translation, as translation.fr asks; what there is: en, de" in (
        message(f"{path}:translation.fr")
    )
    assert "holds dict, not text, in row 1" in message(f"{path}:translation")


def test_a_part_may_lie_deeper_and_be_numbered(tmp_path: Path) -> None:
    rows = [
        '{"chat": [{"content": "hello"}, {"content": "you"}]}',
        '{"chat": [{"content": "alone"}]}',
        '{"chat": null}',
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(rows))
    assert load_corpus(f"{path}:chat.1.content").texts == ("you",)
    assert load_corpus(f"{path}:chat.0.content").texts == ("hello", "alone")


def test_a_column_with_a_full_stop_in_its_name_comes_first(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": {"b": "part"}, "a.b": "whole"}')
    assert load_corpus(f"{path}:a.b").texts == ("whole",)
