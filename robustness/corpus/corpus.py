"""Corpus references: what ``--robustness-corpus=`` accepts, and how it becomes text.

A reference is one of

* ``builtin``: the prose packaged with the plugin;
* a file: ``.txt``, ``.text``, ``.raw`` and ``.md`` as running text; ``.csv``, ``.tsv``, ``.jsonl``,
  ``.json`` and ``.parquet`` with the column behind the path (``reactions.csv:rxn``, or a part of
  one as in ``pairs.jsonl:translation.en``); ``.fa``, ``.fasta`` and ``.faa`` as one sequence per
  record; each also compressed: ``.gz``, ``.bz2``, ``.xz``, ``.zst``;
* a data set: ``id:config:split:column`` or ``id:split:column``, with an optional ``@revision``
  behind the id (``Salesforce/wikitext:wikitext-2-raw-v1:test:text``). The id is one of the Hub or a
  local folder. An existing path wins over an id of the same name.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robustness.corpus.corpus_files import kind_of, read_packaged, read_text
from robustness.corpus.tables import (
    DATASET_ID,
    TABLES,
    column_values,
    existing_path,
    file_columns,
    listed,
    load_split,
    split_reference,
)
from robustness.errors import CorpusError
from robustness.runtime.plain import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BUILTIN_VERSION", "Corpus", "load_corpus"]

BUILTIN_VERSION = "1"
"""Version of the packaged prose; it changes whenever a character of that prose does."""

Layout = Literal["packed", "lines"]

_TEXT = frozenset({".txt", ".text", ".raw", ".md"})
_FASTA = frozenset({".fa", ".fasta", ".faa"})


@dataclass(frozen=True, kw_only=True)
class Corpus:
    r"""Text to measure on.

    Attributes:
        reference: The reference as it was given.
        description: A short phrase for people: what it is and how much of it.
        layout: ``packed`` for running text that is cut into text blocks without regard to lines,
            ``lines`` for examples that are kept whole.
        texts: One string if packed, else the examples, stripped, without the empty ones.
        fingerprint: Identifies the content wherever it lies: the hexadecimal SHA-256 of the layout
            and ``"\n"``, followed for each text by the length of its UTF-8 encoding in bytes as a
            decimal number, ``"\n"``, the encoding, and ``"\n"``.
    """

    reference: str
    description: str
    layout: Layout
    texts: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What a reader found: running text is a single row."""

    name: str
    rows: Sequence[str]
    layout: Layout  # what "auto" means for this source
    running: bool = False


def load_corpus(reference: str, *, layout: Literal["auto", "packed", "lines"] = "auto") -> Corpus:
    """Reads the corpus that a reference names.

    Args:
        reference: ``builtin``, a file, or a data set; see the module's docstring.
        layout: ``packed`` joins rows by line ends into running text; ``lines`` keeps every row, or
            every non-empty line of running text, as an example. ``auto`` packs running text and
            data sets, and keeps the rows of tables and the sequences of FASTA files whole.

    Raises:
        CorpusError: The reference names nothing that can be read as text, or nothing but blanks.
    """
    source = _read(reference)
    chosen = source.layout if layout == "auto" else layout
    texts: tuple[str, ...]
    if chosen == "packed":
        text = _join(source.rows)
        texts = (text,) if text.strip() else ()
        count = f"{len(text.split()):,} words"
    else:
        rows = source.rows[0].split("\n") if source.running else source.rows
        texts = tuple(stripped for row in rows if (stripped := row.strip()))
        count = f"{len(texts):,} example{'s' if len(texts) != 1 else ''}"
    if not texts:
        raise CorpusError(f"corpus {reference} holds no text; name one that does")
    return Corpus(
        reference=reference,
        description=plain(f"{source.name} ({count})"),
        layout=chosen,
        texts=texts,
        fingerprint=_fingerprint(reference, chosen, texts),
    )


def _fingerprint(reference: str, layout: Layout, texts: Sequence[str]) -> str:
    """See ``Corpus.fingerprint``: the recipe is public and never changes."""
    digest = hashlib.sha256(f"{layout}\n".encode())
    for text in texts:
        try:
            encoded = text.encode()
        except UnicodeEncodeError as error:  # an escaped half of a surrogate pair in JSON
            raise CorpusError(
                f"corpus {reference} holds {text[error.start]!r}, which is no character; "
                "mend the text"
            ) from error
        digest.update(b"%d\n%b\n" % (len(encoded), encoded))
    return digest.hexdigest()


def _join(rows: Sequence[str]) -> str:
    """Rows as running text: a line end between two rows unless the first brings its own."""
    ended = [row if row.endswith("\n") else f"{row}\n" for row in rows[:-1]]
    return "".join([*ended, *rows[-1:]])


def _read(reference: str) -> _Source:
    if reference == "builtin":
        return _read_builtin()
    existing = existing_path(reference)
    if existing is None:
        return _read_named_dataset(reference)
    path, rest = existing
    if path.is_dir():
        parts = split_reference(rest) if rest else []
        if len(parts) not in (2, 3):
            raise CorpusError(
                f"corpus {reference} is a folder; name a file in it, or the data set as "
                "folder:config:split:column"
            )
        return _read_dataset(str(path), None, parts, local=True)
    return _read_file(path, rest)


def _read_named_dataset(reference: str) -> _Source:
    name, *parts = split_reference(reference)
    if kind_of(Path(name)) in _TEXT | _FASTA | TABLES:
        raise CorpusError(f"there is no file {name}; check the path of the corpus")
    if len(parts) not in (2, 3) or not DATASET_ID.fullmatch(name):
        raise CorpusError(
            f"corpus {reference!r} is neither an existing file nor a data set; name a file, "
            "'builtin', or a data set as id:config:split:column"
        )
    name, _, revision = name.partition("@")
    return _read_dataset(name, revision or None, parts, local=False)


def _read_file(path: Path, column: str) -> _Source:
    suffix = kind_of(path)
    if suffix in _TEXT | _FASTA and column:
        raise CorpusError(f"{path} has no columns; leave :{column} away")
    if suffix in _TEXT:
        return _Source(name=path.name, rows=[read_text(path)], layout="packed", running=True)
    if suffix in _FASTA:
        sequences = read_packaged(path, "fasta", columns=["sequence"])
        return _Source(name=path.name, rows=sequences["sequence"][:], layout="lines")
    if suffix not in TABLES:
        suffixes = ", ".join(sorted(_TEXT | _FASTA | TABLES))
        raise CorpusError(
            f"{path} has an extension that says nothing; use one of {suffixes}, with .gz, .bz2, "
            ".xz or .zst behind it if compressed"
        )
    columns = file_columns(path)
    if not column:
        raise CorpusError(
            f"{path} is a table; name a column behind it, as in {path.name}:COLUMN "
            f"({listed(columns)})"
        )
    values = column_values(columns, column, str(path))
    rows = _texts(values, f"column {column} of {path}")
    return _Source(name=f"{path.name}, column {column}", rows=rows, layout="lines")


def _texts(values: Sequence[Any], where: str) -> list[str]:
    """The values as strings, a missing one as the empty string."""
    for number, value in enumerate(values, start=1):
        if value is not None and not isinstance(value, str):
            raise CorpusError(
                f"{where} holds {type(value).__name__}, not text, in row {number}; "
                "name a column of strings"
            )
    return [value or "" for value in values]


def _read_builtin() -> _Source:
    folder = importlib.resources.files("robustness.corpus").joinpath("data", "builtin")
    files = [file for file in folder.iterdir() if file.name.endswith(".txt")]
    files.sort(key=lambda file: file.name)
    # A checkout may have translated the line ends; the fingerprint must not depend on that.
    texts = [file.read_bytes().decode().replace("\r\n", "\n") for file in files]
    return _Source(
        name=f"builtin v{BUILTIN_VERSION}",
        rows=["\n".join(texts)],  # every file ends with a line end: a blank line between files
        layout="packed",
        running=True,
    )


def _read_dataset(name: str, revision: str | None, parts: Sequence[str], *, local: bool) -> _Source:
    """One column of one split; only what comes from the Hub goes into the user's cache."""
    *config, split, column = parts
    if not split or not column:
        raise CorpusError(f"data set {name} needs a split and a column, as in {name}:test:text")
    table = load_split(name, revision, (config or [""])[0], split, local=local)
    columns = {header: table[header] for header in table.column_names}
    values = column_values(columns, column, f"data set {name}")
    rows = _texts(values, f"column {column} of data set {name}")
    label = [Path(name).resolve().name if local else name, *config, split]
    return _Source(name=" ".join(part for part in label if part), rows=rows, layout="packed")
