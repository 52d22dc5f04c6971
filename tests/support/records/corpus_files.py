"""Text files, tables and data sets that a corpus is read from."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from robustness.corpus.corpus import load_corpus
from robustness.errors import CorpusError

PROSE = "A first line. \n\n = Heading = \n\tand a last one without its end"
ROWS = ["007", "NA", "null", "2024-01-31", 'say "hi", she said', "two\nlines", "naïve 東京 🜂"]


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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local data set with two splits, the current folder being its parent."""
    write_rows(tmp_path / "folder" / "test.jsonl", ["", " = Title = \n", "Text", "", "more"])
    write_rows(tmp_path / "folder" / "train.jsonl", ["train"])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "folder"
