"""Files and data sets become text exactly as it stands; mistakes become one sentence."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import huggingface_hub.utils
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustness.corpus import Corpus, load_corpus
from robustness.errors import CorpusError
from tests.shared import shared_data

PROSE = "A first line. \n\n = Heading = \n\tand a last one without its end"
ROWS = ["007", "NA", "null", "2024-01-31", 'say "hi", she said', "two\nlines", "naïve 東京 🜂"]


def expected_fingerprint(layout: str, texts: tuple[str, ...]) -> str:
    """The public recipe, written down a second time."""
    encoded = [text.encode() for text in texts]
    framed = [str(len(text)).encode() + b"\n" + text + b"\n" for text in encoded]
    return hashlib.sha256(layout.encode() + b"\n" + b"".join(framed)).hexdigest()


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_rows(path: Path, rows: list[str]) -> Path:
    """The rows as column ``text`` beside a column ``n``, in the format of the path's extension."""
    records = [{"n": n, "text": row} for n, row in enumerate(rows)]
    match path.suffix:
        case ".csv":
            quoted = ['"' + row.replace('"', '""') + '"' for row in rows]
            lines = ["n,text", *(f"{n},{row}" for n, row in enumerate(quoted))]
            return write(path, "\n".join(lines) + "\n")
        case ".tsv":
            return write(
                path, "".join(f"{n}\t{row}\n" for n, row in [("n", "text"), *enumerate(rows)])
            )
        case ".jsonl":
            return write(path, "".join(json.dumps(record) + "\n" for record in records))
        case ".json":
            return write(path, json.dumps(records, indent=1, ensure_ascii=False))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(records), path)
            return path
    raise AssertionError(path)


def message(reference: str | Path, **options: Any) -> str:
    """The message of the error that the reference raises, which must be a single sentence."""
    with pytest.raises(CorpusError) as caught:
        load_corpus(str(reference), **options)
    text = str(caught.value)
    assert "\n" not in text
    assert not text.endswith(".")
    return text


# --- running text


@pytest.mark.parametrize("suffix", [".txt", ".text", ".raw", ".md", ".TXT"])
def test_running_text_is_kept_character_by_character(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"prose{suffix}", PROSE)
    corpus = load_corpus(str(path))
    assert corpus == Corpus(
        reference=str(path),
        description=f"prose{suffix} (13 words)",
        layout="packed",
        texts=(PROSE,),
        fingerprint=expected_fingerprint("packed", (PROSE,)),
    )


def test_wikitext_is_kept_character_by_character_but_for_its_line_ends() -> None:
    path = shared_data("wikitext-2-raw/wiki.test.raw")
    corpus = load_corpus(str(path))
    assert corpus.texts[0].encode() == path.read_bytes().replace(b"\r\n", b"\n")
    assert corpus.description == "wiki.test.raw (241,211 words)"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    assert load_corpus(str(write(tmp_path / "a.txt", b"\xef\xbb\xbfabc"))).texts == ("abc",)


def test_layout_lines_takes_every_line_that_is_not_blank_as_an_example(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", " one\x0btwo \r\n\n  \nthree\u2028four\n")
    corpus = load_corpus(str(path), layout="lines")
    assert corpus.layout == "lines"
    assert corpus.texts == ("one\x0btwo", "three\u2028four")
    assert corpus.description == "a.txt (2 examples)"


def test_the_builtin_corpus_can_be_taken_line_by_line() -> None:
    packed, lines = load_corpus("builtin"), load_corpus("builtin", layout="lines")
    assert "\n".join(lines.texts).split() == packed.texts[0].split()


# --- tables


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_a_column_of_a_table_gives_its_cells_unchanged(tmp_path: Path, suffix: str) -> None:
    rows = [row for row in ROWS if suffix != ".tsv" or "\n" not in row]
    path = write_rows(tmp_path / f"table{suffix}", rows)
    corpus = load_corpus(f"{path}:text")
    assert corpus.layout == "lines"
    assert corpus.texts == tuple(rows)
    assert corpus.description == f"table{suffix}, column text ({len(rows)} examples)"
    assert load_corpus(f"{path}:text", layout="packed").texts == ("\n".join(rows),)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_a_missing_or_blank_cell_is_no_example_but_a_blank_line(
    tmp_path: Path, suffix: str
) -> None:
    path = write_rows(tmp_path / f"table{suffix}", ["one ", "", "two\n", " ", "three"])
    assert load_corpus(f"{path}:text").texts == ("one", "two", "three")
    assert load_corpus(f"{path}:text", layout="packed").texts == ("one \n\ntwo\n \nthree",)


def test_a_null_or_absent_value_in_json_is_an_empty_cell(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": "x"}\n\n{"a": null}\n{"b": 1}\n{"a": "y"}')
    assert load_corpus(f"{path}:a", layout="packed").texts == ("x\n\n\ny",)


@pytest.mark.parametrize(
    "content",
    ['{"a": "x"}\n{"a": "y"}\n', '{"a": ["x", "y"], "b": [1, 2]}', '[{"a": "x"},\n {"a": "y"}]'],
    ids=["lines", "columns", "records"],
)
def test_json_files_may_hold_lines_columns_or_records(tmp_path: Path, content: str) -> None:
    assert load_corpus(f"{write(tmp_path / 'a.json', content)}:a").texts == ("x", "y")


def test_a_json_file_of_one_object_is_one_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '{"a": "x"}')
    assert load_corpus(f"{path}:a").texts == ("x",)


def test_a_csv_cell_may_be_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ["x" * 200_000])
    assert load_corpus(f"{path}:text").texts == ("x" * 200_000,)


def test_quotes_in_a_tab_separated_file_are_characters_like_others(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'a\tb\n1\t"open\n2\tand "closed"\n')
    assert load_corpus(f"{path}:b").texts == ('"open', 'and "closed"')


def test_columns_and_paths_may_hold_colons_and_brackets(tmp_path: Path) -> None:
    folder = tmp_path / "a:b [1] *"
    path = write(folder / "a.csv", "x:y,z\nP,Q\n")
    assert load_corpus(f"{path}:x:y").texts == ("P",)
    assert load_corpus(str(write(folder / "a[2].fa", ">a\nAC\n"))).texts == ("AC",)


def test_reactions_are_read_from_a_csv_file() -> None:
    corpus = load_corpus(f"{shared_data('rxnmapper_example_rxns.csv')}:rxn")
    assert len(corpus.texts) == 996
    assert all(">>" in text for text in corpus.texts)


# --- FASTA


@pytest.mark.parametrize("suffix", [".fa", ".fasta", ".faa"])
def test_sequences_are_joined_over_lines_and_headers_dropped(tmp_path: Path, suffix: str) -> None:
    path = write(
        tmp_path / f"a{suffix}", ">one first\nACD\nEFG\n\n>two\r\nHIK\r\n>empty\n>three\nLMN"
    )
    corpus = load_corpus(str(path))
    assert corpus.layout == "lines"
    assert corpus.texts == ("ACDEFG", "HIK", "LMN")


def test_light_chains_are_read_from_a_fasta_file() -> None:
    path = shared_data("antibody-light.fa")
    corpus = load_corpus(str(path))
    lines = path.read_text().splitlines()
    assert len(corpus.texts) == sum(line.startswith(">") for line in lines)
    assert "".join(corpus.texts) == "".join(line for line in lines if not line.startswith(">"))


# --- data sets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local data set with two splits, the current folder being its parent."""
    write_rows(tmp_path / "folder" / "test.jsonl", ["", " = Title = \n", "Text", "", "more"])
    write_rows(tmp_path / "folder" / "train.jsonl", ["train"])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "folder"


@pytest.mark.parametrize(
    "reference",
    ["./folder:default:test:text", "folder:test:text", "folder::test:text", "folder:test[:5]:text"],
)
def test_a_data_set_is_packed_like_wikitext(folder: Path, reference: str) -> None:
    corpus = load_corpus(reference)
    assert corpus.layout == "packed"
    assert corpus.texts == ("\n = Title = \nText\n\nmore",)
    assert corpus.description.startswith(folder.name)


def test_a_data_set_can_be_taken_row_by_row(folder: Path) -> None:
    corpus = load_corpus(f"{folder}:test:text", layout="lines")
    assert corpus.texts == ("= Title =", "Text", "more")


def test_a_slice_of_a_split_can_be_named(folder: Path) -> None:
    assert load_corpus(f"{folder}:default:test[1:3]:text", layout="lines").texts == (
        "= Title =",
        "Text",
    )


@pytest.mark.parametrize(
    ("reference", "asked"),
    [
        ("org/name:config:test:text", ("org/name", "config", "test", None)),
        ("org/name@v1.0:config:test:text", ("org/name", "config", "test", "v1.0")),
        ("org/name:test:text", ("org/name", None, "test", None)),
        ("name@refs/pr/3::test[:10%]:text", ("name", None, "test[:10%]", "refs/pr/3")),
    ],
)
def test_a_hub_reference_becomes_one_request(
    monkeypatch: pytest.MonkeyPatch, reference: str, asked: tuple[str | None, ...]
) -> None:
    def load_dataset(path: str, name: str | None, **options: Any) -> datasets.Dataset:
        assert set(options) == {"split", "revision", "cache_dir", "keep_in_memory"}
        assert options["cache_dir"] is None, "what the Hub sends belongs into the user's cache"
        assert (path, name, options["split"], options["revision"]) == asked
        return datasets.Dataset.from_dict({"text": ["one", None, "two"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = load_corpus(reference)
    assert corpus.texts == ("one\n\ntwo",)
    assert corpus.description.endswith(" (2 words)")


def test_an_existing_path_wins_over_a_data_set_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "org" / "name" / "test.jsonl", ["local"])
    assert load_corpus("org/name:test:text").texts == ("local",)


@pytest.mark.parametrize("bars", [True, False])
def test_reading_leaves_the_settings_of_the_libraries_alone(
    folder: Path, request: pytest.FixtureRequest, bars: bool
) -> None:
    hub: Any = huggingface_hub.utils

    def settings() -> tuple[bool, bool, int, int]:
        return (
            datasets.are_progress_bars_disabled(),
            hub.are_progress_bars_disabled(),
            datasets.utils.logging.get_verbosity(),
            hub.logging.get_verbosity(),
        )

    library: Any
    for library in (datasets, hub):
        if not bars and not library.are_progress_bars_disabled():
            library.disable_progress_bars()
            request.addfinalizer(library.enable_progress_bars)
    before = settings()
    load_corpus(f"{folder}:test:text")
    message(f"{folder}:other:text")
    assert settings() == before


def test_reading_prints_nothing_and_writes_nothing_and_imports_late(folder: Path) -> None:
    write(folder.parent / "a.fa", ">a\nACD\n")
    write_rows(folder.parent / "a.parquet", ["x"])
    script = """
import sys
from robustness import blocks, corpus
corpus.load_corpus("builtin")
heavy = {"torch", "transformers", "datasets", "pandas", "pyarrow", "huggingface_hub"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
for reference in ("folder:test:text", "a.fa", "a.parquet:text"):
    corpus.load_corpus(reference)
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder.parent,
        env={
            "HOME": str(folder.parent / "home"),
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
            "TMPDIR": str(folder.parent),
        },
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert sorted(p.name for p in folder.parent.iterdir()) == ["a.fa", "a.parquet", "folder"]


# --- the fingerprint


def fingerprint_of(text: str, name: str = "a.txt") -> str:
    with tempfile.TemporaryDirectory() as where:
        return load_corpus(str(write(Path(where) / name, text))).fingerprint


# What reading changes: line ends of another system, a byte order mark; and what is no text at all.
PLAIN = st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff")


@given(text=st.text(PLAIN, min_size=1).filter(str.strip), data=st.data())
def test_the_fingerprint_depends_on_every_character_and_not_on_the_path(
    text: str, data: st.DataObject
) -> None:
    text += "x"
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(PLAIN.filter(lambda character: character != text[place]))
    changed = text[:place] + other + text[place + 1 :]
    assert fingerprint_of(text) == fingerprint_of(text, "elsewhere.md")
    assert fingerprint_of(text) == expected_fingerprint("packed", (text,))
    assert fingerprint_of(text) != fingerprint_of(changed)


def test_the_fingerprint_tells_layouts_and_the_division_into_examples_apart(tmp_path: Path) -> None:
    one = str(write(tmp_path / "one.txt", "ab c\n"))
    two = str(write(tmp_path / "two.txt", "ab\nc\n"))
    found = [load_corpus(path, layout="lines").fingerprint for path in (one, two)]
    found += [load_corpus(path).fingerprint for path in (one, two)]
    assert len(set(found)) == 4
    assert found[1] == expected_fingerprint("lines", ("ab", "c"))


def test_the_same_examples_have_the_same_fingerprint_whatever_file_they_are_in(
    tmp_path: Path,
) -> None:
    suffixes = [".csv", ".jsonl", ".json", ".parquet"]
    paths = [write_rows(tmp_path / f"table{suffix}", ROWS) for suffix in suffixes]
    assert len({load_corpus(f"{path}:text").fingerprint for path in paths}) == 1


# --- mistakes


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


@pytest.mark.parametrize("name", ["model.bin", "noextension", "text.txt.gz"])
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
