"""Corpora that cannot be found or read: one sentence on what is wrong, and where."""

from __future__ import annotations

from pathlib import Path

import datasets  # type: ignore[import-untyped]
import pytest

from tests.support.records import corpus_files
from tests.support.records.corpus_files import message, write, write_rows

folder = corpus_files.folder


@pytest.mark.parametrize("name", ["gone.txt", "gone.csv:rxn", "gone.fa", "/gone/away.parquet:a:b"])
def test_a_missing_file_is_named(name: str) -> None:
    assert f"there is no file {name.split(':')[0]}" in message(name)


@pytest.mark.parametrize(
    "reference", ["", "wikitext", "a:b", "a:b:c:d:e", "./gone:test:text", "x" * 5000, "a\0b"]
)
def test_a_reference_that_is_nothing_says_what_would_be_something(reference: str) -> None:
    assert "name a file, 'builtin', or a data set as id:config:split:column" in message(reference)


@pytest.mark.parametrize("parts", ["", ":test", ":a:b:c:d"])
def test_a_folder_is_no_file(tmp_path: Path, parts: str) -> None:
    assert "is a folder; name a file in it" in message(f"{tmp_path}{parts}")


@pytest.mark.parametrize("parts", ["default::text", "test:"])
def test_a_data_set_needs_a_split_and_a_column(folder: Path, parts: str) -> None:
    assert "needs a split and a column" in message(f"{folder}:{parts}")


@pytest.mark.parametrize("name", ["model.bin", "noextension", "text.gz", "text.txt.zip"])
def test_an_unknown_extension_lists_the_known_ones(tmp_path: Path, name: str) -> None:
    text = message(write(tmp_path / name, "text"))
    assert all(suffix in text for suffix in (".txt", ".csv", ".parquet", ".fasta"))


@pytest.mark.parametrize("name", ["a.txt", "a.fa"])
def test_a_column_of_a_file_without_columns_is_refused(tmp_path: Path, name: str) -> None:
    assert "has no columns; leave :text away" in message(f"{write(tmp_path / name, 'x')}:text")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_a_column_that_is_left_out_or_unknown_lists_the_columns(
    tmp_path: Path, suffix: str
) -> None:
    path = write_rows(tmp_path / f"table{suffix}", ["x"])
    assert message(path).endswith(f"as in table{suffix}:COLUMN (n, text)")
    assert message(f"{path}:txet").endswith("has no column txet; choose one of n, text")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_column_of_numbers_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write_rows(tmp_path / f"table{suffix}", ["x"])
    assert "holds int, not text, in row 1" in message(f"{path}:n")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"\x80abc", "not valid UTF-8 at byte 0"),
        ("a.csv", b"a,b\n1,\xe4\n", "not valid UTF-8 at byte 6"),
        ("a.txt", b"GIF89a\0\1", "binary"),
        ("a.txt", "text".encode("utf-16"), "not valid UTF-8|binary"),
        ("a.csv", b"a,b\n1,2\n3,4,5\n", "3 fields instead of 2 in line 3"),
        ("a.csv", b"a,b\n1,x,y\n2,z,w\n", "3 fields instead of 2 in line 2"),
        ("a.csv", b"a,b\n1\n", "1 fields instead of 2 in line 2"),
        ("a.csv", b'a,b\n1,"open\n', "broken in line 2"),
        ("a.jsonl", b'{"a": "x"}\n{"a": \n', "file line 2"),
        ("a.json", b'[{"a": "x"}', "not valid JSON"),
        ("a.json", b"[1, 2]", "no table"),
        ("a.json", b'"text"', "no table"),
        ("a.json", b"[" * 100_000, "not valid JSON"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        ("a.json", rb'[{"a": "\ud800"}]', "is no character"),
        ("a.parquet", b"PAR1 not really", "cannot be read as parquet"),
        ("a.parquet", b"", "cannot be read as parquet"),
        ("a.fa", b"ACDEF\n", "no records"),
        ("a.fa", b">a\n\x80\n", "cannot be read as fasta"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = write(tmp_path / name, content)
    text = message(path if name in {"a.txt", "a.fa"} else f"{path}:a")
    assert any(part in text for part in said.split("|")), text
    assert str(path) in text


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", ""), ("a.txt", " \n\t\n"), ("a.csv:a", "a\n\n"), ("a.fa", ">a\n>b\n")],
)
@pytest.mark.parametrize("layout", ["packed", "lines"])
def test_a_corpus_without_text_is_refused(
    tmp_path: Path, name: str, content: str, layout: str
) -> None:
    write(tmp_path / name.split(":")[0], content)
    assert "holds no text" in message(tmp_path / name, layout=layout)


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl"])
def test_an_empty_table_has_no_columns(tmp_path: Path, name: str) -> None:
    assert "there are none" in message(f"{write(tmp_path / name, '')}:a")


def test_an_unreadable_file_is_reported_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    path = write(tmp_path / "a.txt", "text")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert message(path) == f"{path} cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("nope:test:text", "Available: ['default']"),
        ("nope:text", "['train', 'test']|['test', 'train']"),
        ("test:txet", "has no column txet; choose one of n, text"),
        ("test:n", "holds int, not text, in row 1"),
    ],
)
def test_a_wrong_config_split_or_column_of_a_data_set_lists_what_exists(
    folder: Path, parts: str, said: str
) -> None:
    text = message(f"{folder}:{parts}")
    assert any(part in text for part in said.split("|")), text


def test_a_broken_file_in_a_data_set_is_reported_with_the_cause(folder: Path) -> None:
    write(folder / "test.jsonl", '{"text": "x"}\n{"text": \n')
    text = message(f"{folder}:test:text")
    assert "JSON parse error" in text


def test_a_folder_with_code_or_nothing_is_never_run(tmp_path: Path) -> None:
    write(tmp_path / "data" / "data.py", "raise SystemExit('the code of the data set was run')\n")
    assert "cannot be loaded" in message(f"{tmp_path / 'data'}:test:text")


def test_a_data_set_that_is_not_cached_says_that_offline_mode_is_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    text = message("org/never-seen:config:test:text")
    assert "offline mode is on (HF_HUB_OFFLINE or HF_DATASETS_OFFLINE)" in text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (datasets.exceptions.DatasetNotFoundError("It doesn't exist.\nSorry."), "doesn't exist)"),
        (ConnectionError("Couldn't reach it"), "check its name and the network"),
        (ValueError("BuilderConfig 'x' not found. Available: ['a', 'b']"), "Available: ['a', 'b']"),
        (RuntimeError(""), "cannot be loaded: RuntimeError"),
    ],
)
def test_what_the_hub_answers_is_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert said in message("org/name:test:text")
