"""Reading the files a corpus can lie in: text, CSV, TSV, JSON, and what ``datasets`` reads for us.

A measurement needs the text as it stands. Text, CSV, TSV and JSON files are therefore read with the
standard library and not with the builders of ``datasets``: those translate line ends, turn ``007``
into 7, ``NA`` into a missing value and an ISO date into a timestamp, and shift the columns when
every row has one field more than the header.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import lzma
import re
import tempfile
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]

from robustness.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "first_line",
    "kind_of",
    "quiet_datasets",
    "read_json",
    "read_packaged",
    "read_separated",
    "read_text",
]


_COMPRESSED = frozenset({".gz", ".bz2", ".xz", ".zst"})


def kind_of(path: Path) -> str:
    """The extension that says what a file holds: ``.csv`` of ``a.csv`` and of ``A.CSV.gz``."""
    inner = Path(path.stem) if path.suffix.lower() in _COMPRESSED else path
    return inner.suffix.lower()


def _read_bytes(path: Path) -> bytes:
    """The file's bytes, decompressed where its last extension says that they are compressed."""
    suffix = path.suffix.lower()
    try:
        if suffix not in _COMPRESSED:
            return path.read_bytes()
        limit = psutil.virtual_memory().available // 4
        with _decompressed(path, suffix) as stream:
            content: bytes = stream.read(limit + 1)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror or error}") from error
    except (EOFError, lzma.LZMAError) as error:
        raise CorpusError(f"{path} cannot be decompressed: {error}") from error
    if len(content) > limit:
        raise CorpusError(f"{path} decompresses to more than {limit:,} bytes; give a part of it")
    return content


def _decompressed(path: Path, suffix: str) -> Any:
    if suffix == ".xz":
        return lzma.open(path)
    import pyarrow as pa  # type: ignore[import-untyped]

    names = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
    return pa.input_stream(str(path), compression=names[suffix])


def read_text(path: Path) -> str:
    r"""The file's text, character by character.

    Only a leading byte order mark is dropped, and ``\r\n`` becomes ``\n``: how a checkout or a
    download writes line ends must not decide what a model is asked.
    """
    content = _read_bytes(path)
    if b"\0" in content:
        raise CorpusError(f"{path} is a binary file or not in UTF-8; name a text file in UTF-8")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not valid UTF-8 at byte {error.start}; convert it to UTF-8"
        ) from error


_FIELD = r'(?:"(?:[^"]|"")*+"|[^"\t\n]*+)'
_QUOTABLE = re.compile(rf"{_FIELD}(?:[\t\n]{_FIELD})*+")


def read_separated(path: Path) -> dict[str, list[str]]:
    """A CSV file (quoting as in RFC 4180) or a TSV file, by its header.

    In a TSV file, quotation marks are characters like others, as registered with IANA, unless all
    of them stand as a program puts them that quotes fields, such as ``to_csv`` of pandas. A CSV
    file whose header has no comma may be separated by semicolons or tabs.

    Raises:
        CorpusError: the file is broken.
    """
    content = read_text(path)
    first = content.lstrip("\n").partition("\n")[0]
    if kind_of(path) == ".tsv":
        separator, quoted = "\t", _is_quoted(content)
    else:
        separator, quoted = next((sign for sign in ",;\t" if sign in first), ","), True
    reader = csv.reader(
        io.StringIO(content, newline=""),
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    limit = csv.field_size_limit(max(len(content), 1))  # the module's limit is 128 KiB
    try:
        header: list[str] = next((row for row in reader if row), [])
        rows: list[list[str]] = []
        for row in reader:
            if row and len(row) != len(header):
                remedy = "quote fields that hold the separator"
                if not quoted:
                    remedy = (
                        "its quotation marks are not those of quoted fields, so a field cannot "
                        "hold a tab; save it as .csv"
                    )
                raise CorpusError(
                    f"{path} is broken: {len(row)} fields instead of {len(header)} in line "
                    f"{reader.line_num}; {remedy}"
                )
            rows.append(row or [""] * len(header))  # a blank line
    except csv.Error as error:
        raise CorpusError(f"{path} is broken in line {reader.line_num}: {error}") from error
    finally:
        csv.field_size_limit(limit)
    position = {name: header.index(name) for name in header}
    return {name: [row[i] for row in rows] for name, i in position.items()}


def _is_quoted(content: str) -> bool:
    """Whether a program that quotes fields wrote a TSV file.

    Every field is without quotation marks or wholly between them, with only doubled ones inside;
    and those between them need it, or all fields that are no numbers are.
    """
    if '"' not in content or not _QUOTABLE.fullmatch(content):
        return False
    fields = [match[0] for match in re.finditer(_FIELD, content)]
    quoted = [field for field in fields if field.startswith('"')]
    words = (field for field in fields if field and not field.startswith('"'))
    return all(re.search(r'["\t\n]', field[1:-1]) for field in quoted) or not any(
        re.search(r"[^\W\d_]{2}", word) for word in words
    )


def read_json(path: Path, *, lines: bool) -> dict[str, list[Any]]:
    """JSON lines; or one JSON value: a list of objects, or an object of lists (columns)."""
    content = read_text(path)
    records: Any
    try:
        try:
            records = _json_lines(content) if lines else json.loads(content or "[]")
        except json.JSONDecodeError as error:
            if lines or error.msg != "Extra data":
                raise
            records = _json_lines(content)  # many files called .json hold JSON lines
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond all limits
        raise CorpusError(f"{path} is not valid JSON: {error}") from error
    if isinstance(records, dict):
        if records and all(isinstance(values, list) for values in records.values()):
            return records
        records = [records]
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise CorpusError(f"{path} is no table; it must hold a list of objects, or one a line")
    names = list(dict.fromkeys(name for record in records for name in record))
    return {name: [record.get(name) for record in records] for name in names}


def _json_lines(content: str) -> list[Any]:
    records = []
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise json.JSONDecodeError(
                    f"file line {number}: {error.msg}", line, error.pos
                ) from None
    return records


@contextmanager
def quiet_datasets() -> Iterator[Any]:
    """The ``datasets`` library, for a while without progress bars, log lines and warnings."""
    with warnings.catch_warnings(), ExitStack() as restore:
        warnings.simplefilter("ignore")
        import datasets  # type: ignore[import-untyped]
        import huggingface_hub.utils as hub

        library: Any
        for library, log in ((datasets, datasets.utils.logging), (hub, hub.logging)):
            if not library.are_progress_bars_disabled():
                restore.callback(library.enable_progress_bars)
            restore.callback(log.set_verbosity, log.get_verbosity())
            library.disable_progress_bars()
            log.set_verbosity(log.CRITICAL)
        yield datasets


def read_packaged(path: Path, builder: str, **options: Any) -> dict[str, Any]:
    """A file's columns, as lazy sequences, through a builder packaged with ``datasets``."""
    with quiet_datasets() as datasets, tempfile.TemporaryDirectory() as cache:
        data = path.absolute()
        if path.suffix.lower() in _COMPRESSED:
            data = Path(cache, f"decompressed{kind_of(path)}")
            data.write_bytes(_read_bytes(path))
        try:
            table = datasets.load_dataset(
                builder,
                data_files=glob.escape(str(data)),
                split="train",
                cache_dir=cache,
                keep_in_memory=True,
                **options,
            )
        except Exception as error:  # whatever the builder meets in a broken file
            if "corresponds to no data" in str(error):  # no records at all
                raise CorpusError(f"{path} holds no records; name a {builder} file") from error
            reason = first_line(error)
            raise CorpusError(f"{path} cannot be read as {builder}: {reason}") from error
        return {name: table[name] for name in table.column_names}


def first_line(error: BaseException) -> str:
    """The first line of what went wrong; ``datasets`` hides it behind a general message."""
    while type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")
