"""Tables named by a reference: a file with columns, or a split of a data set.

What corpora and tasks have in common: the part of a reference that exists as a path wins, colons
separate the rest.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness.corpus.corpus_files import (
    first_line,
    kind_of,
    quiet_datasets,
    read_json,
    read_packaged,
    read_separated,
)
from robustness.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = [
    "DATASET_ID",
    "TABLES",
    "column_values",
    "existing_path",
    "file_columns",
    "listed",
    "load_split",
    "split_reference",
]

TABLES = frozenset({".csv", ".tsv", ".jsonl", ".json", ".parquet"})
"""Extensions of files with columns; compressed files have one more behind it."""

DATASET_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[^@:]+)?")


def existing_path(reference: str) -> tuple[Path, str] | None:
    """The longest part of the reference, up to a colon or the end, that exists, and the rest."""
    ends = [len(reference), *(m.start() for m in reversed(list(re.finditer(":", reference))))]
    for end in ends:
        try:
            path = Path(reference[:end]).expanduser()
            if reference[:end] and path.exists():
                return path, reference[end + 1 :]
        except (OSError, RuntimeError):  # a name too long for a file, or no home folder
            continue
    return None


def split_reference(text: str) -> list[str]:
    """Splits at colons outside brackets: ``test[:100]`` is one part."""
    return re.split(r":(?![^\[\]]*\])", text)


def listed(names: Collection[str]) -> str:
    """Columns, for a message."""
    return ", ".join(name or "one without a name" for name in names) or "there are none"


def file_columns(path: Path) -> Mapping[str, Any]:
    """The columns of a file whose extension is one of `TABLES`, as sequences.

    Raises:
        CorpusError: it is no such file.
    """
    kind = kind_of(path)
    if kind == ".parquet":
        return read_packaged(path, "parquet")
    if kind in {".csv", ".tsv"}:
        return read_separated(path)
    return read_json(path, lines=kind == ".jsonl")


def column_values(columns: Mapping[str, Any], column: str, where: str) -> list[Any]:
    """A column's values, or those of a part of it: ``translation.en``, ``messages.0.content``.

    Parts are names in objects, or numbers from 0 in lists; where a row lacks one its value is
    ``None``.

    Raises:
        CorpusError: there is no such column, or no row has such a part.
    """
    names = [".".join(column.split(".")[:end]) for end in range(column.count(".") + 1, 0, -1)]
    name = next((name for name in names if name in columns), None)
    if name is None:
        raise CorpusError(f"{where} has no column {column}; choose one of {listed(columns)}")
    values = list(columns[name][:])
    for part in column.removeprefix(name).split(".")[1:]:
        inside = [value for value in values if isinstance(value, dict)]
        values = [_part(value, part) for value in values]
        if all(value is None for value in values):
            known = listed(dict.fromkeys(key for value in inside for key in value))
            raise CorpusError(
                f"no row of {where} has {part!r} in its column {name}, as {column} asks; "
                f"what there is: {known}"
            )
    return values


def _part(value: Any, part: str) -> Any:
    """A member of an object or of a list."""
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
        return value[int(part)]
    return None


def load_split(
    name: str, revision: str | None, config: str | None, split: str | None, *, local: bool
) -> Any:
    """One split of a data set; only what comes from the Hub goes into the user's cache.

    Args:
        name: of the Hub, or a local folder: of data files, or what ``save_to_disk`` wrote.
        revision: of the Hub.
        config: one of several.
        split: its name or a slice of it (``test[:100]``); ``None``: the only one.
        local: whether it is a folder.

    Raises:
        CorpusError: it cannot be found, reached or read.
    """
    with quiet_datasets() as datasets, tempfile.TemporaryDirectory() as cache:
        saved = local and _is_saved(Path(name))
        try:
            if saved:
                loaded = datasets.load_from_disk(name, keep_in_memory=True)
            else:
                loaded = datasets.load_dataset(
                    name,
                    config or None,
                    split=split,
                    revision=revision,
                    cache_dir=cache if local else None,
                    keep_in_memory=True,
                )
        except Exception as error:  # its own errors, the Hub's, the network's, and those of files
            if local:
                raise CorpusError(
                    f"the data set in {name} cannot be loaded: {first_line(error)}"
                ) from error
            raise _hub_error(name, error, offline=datasets.config.HF_HUB_OFFLINE) from error
        return _chosen(loaded, split, name) if saved or split is None else loaded


def _is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote the folder: a data set, or several as splits."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def _chosen(loaded: Any, split: str | None, name: str) -> Any:
    """A split of all that a folder holds.

    Raises:
        CorpusError: it has no such split, or several and none is named.
    """
    splits = loaded if isinstance(loaded, dict) else {str(loaded.split or ""): loaded}
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split not in splits:
        wrong = "several splits" if split is None else f"no split {split!r}"
        split_names = listed([each for each in splits if each])
        raise CorpusError(f"the data set in {name} has {wrong}; its splits: {split_names}")
    return splits[split]


def _hub_error(name: str, error: Exception, *, offline: bool) -> CorpusError:
    """Says in one sentence why a data set of the Hub could not be loaded."""
    reason = first_line(error)
    if not isinstance(error, ConnectionError | FileNotFoundError):
        return CorpusError(f"data set {name} cannot be loaded: {reason}")
    if offline:
        return CorpusError(
            f"data set {name} is not in the local cache and offline mode is on (HF_HUB_OFFLINE or "
            "HF_DATASETS_OFFLINE); load it once without, or name a file"
        )
    return CorpusError(
        f"data set {name} cannot be found or reached ({reason}); check its name and the network, "
        "or name a file"
    )
