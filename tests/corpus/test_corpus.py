"""Files and data sets become text exactly as it stands; mistakes become one sentence."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import huggingface_hub.utils
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustness.corpus.corpus import Corpus, load_corpus
from tests.support.checkpoints.shared import shared_data
from tests.support.records import corpus_files
from tests.support.records.corpus_files import PROSE, ROWS, message, write, write_rows

folder = corpus_files.folder


def expected_fingerprint(layout: str, texts: tuple[str, ...]) -> str:
    """The public recipe, written down a second time."""
    encoded = [text.encode() for text in texts]
    framed = [str(len(text)).encode() + b"\n" + text + b"\n" for text in encoded]
    return hashlib.sha256(layout.encode() + b"\n" + b"".join(framed)).hexdigest()


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
from robustness.corpus import blocks, corpus
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
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
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
