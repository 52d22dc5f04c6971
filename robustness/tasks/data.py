"""Task references: what ``--robustness-task=`` accepts, and how it becomes labelled examples.

A reference is one of

* ``glue/NAME``: a task of GLUE from the Hub, with its own columns and validation split
  (``glue/mrpc``, ``glue/sst2:train``);
* a file with columns: ``FILE:text:label`` or, for pairs, ``FILE:text,text:label`` (``.csv``,
  ``.tsv``, ``.jsonl``, ``.json``, ``.parquet``, also compressed; ``pair.en`` names a part of a
  column);
* a data set of the Hub: ``id:config:split:text,text:label`` or ``id:split:text,text:label``, with
  an optional ``@revision`` behind the id;
* a local folder of data files, or one that ``save_to_disk`` of ``datasets`` wrote, in the same way,
  or ``FOLDER:text,text:label`` where it holds one split only.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from robustness.corpus.corpus_files import kind_of
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
from robustness.errors import CorpusError, TaskError
from robustness.runtime.plain import plain
from robustness.store.store import digest
from robustness.tasks.settings import Metric

MIN_EXAMPLES = 32
"""With fewer, nothing can be decided."""

Label = str | int | float


class _Glue(NamedTuple):
    columns: str
    metric: Metric = "accuracy"
    split: str = "validation"


# Wang et al. 2019; of two metrics the one that the follow-up papers' tables print.
_GLUE: Mapping[str, _Glue] = {
    "cola": _Glue("sentence", "matthews"),
    "mnli": _Glue("premise,hypothesis", split="validation_matched"),
    "mrpc": _Glue("sentence1,sentence2"),
    "qnli": _Glue("question,sentence"),
    "qqp": _Glue("question1,question2"),
    "rte": _Glue("sentence1,sentence2"),
    "sst2": _Glue("sentence"),
    "stsb": _Glue("sentence1,sentence2", "spearman"),
    "wnli": _Glue("sentence1,sentence2"),
}


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Labelled examples, of one or two texts each.

    Attributes:
        name: a short name for reports.
        numbers: those of the labels, where the data set numbers them itself.
        metric: the task's own, where it is known.
        texts_fingerprint: identifies the texts and their order, wherever they lie.
    """

    name: str
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[Label, ...]
    numbers: tuple[int, ...] | None = None
    metric: Metric | None = None
    texts_fingerprint: str

    @property
    def n_examples(self) -> int:
        """How many there are."""
        return len(self.texts)

    @property
    def pairs(self) -> bool:
        """Whether an example is a pair of texts."""
        return len(self.texts[0]) == 2

    @property
    def description(self) -> str:
        """What a header says of it."""
        return f"{self.name} ({self.n_examples:,} examples)"

    def classes(self, names: Mapping[int, str]) -> list[int]:
        """The examples' labels as numbers of a classifier's outputs, called ``names``.

        By name where both sides have names (two data sets may number the same labels differently),
        else by number; ``true`` and ``false`` are 1 and 0. A TaskError names one that is neither.
        """
        by_name = {_bare(name): number for number, name in names.items()}
        unknown = [label for label in dict.fromkeys(self.labels) if _bare(label) not in by_name]
        if not unknown:
            return [by_name[_bare(label)] for label in self.labels]
        own = ", ".join(map(str, names.values()))
        named = any(_whole(label) is None for label in self.labels)
        if named and not all(re.fullmatch(r"(label_?)?\d+", _bare(name)) for name in by_name):
            raise TaskError(
                f"{self.name}: {len(unknown)} of its labels, such as {unknown[0]!r}, are none of "
                f"the checkpoint's ({own}): name the data it was fine-tuned for, or set id2label "
                "in its config.json"
            )
        numbers = self.numbers or [_whole(label) for label in self.labels]
        for place, number in enumerate(numbers):
            if number is None or not 0 <= number < len(names):
                raise TaskError(
                    f"{self.name}: the label {self.labels[place]!r} of example {place + 1} is none "
                    f"of the checkpoint's ({own}) and no number from 0 to {len(names) - 1}: "
                    "name the data it was fine-tuned for, a split with labels, or set id2label in "
                    "its config.json"
                )
        return [int(number) for number in numbers if number is not None]

    def values(self) -> list[float]:
        """The examples' labels as numbers on a scale; a TaskError names one that is none."""
        values = []
        for place, label in enumerate(self.labels, start=1):
            try:
                value = float(label)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise TaskError(
                    f"{self.name}: the label {label!r} of example {place} is no number, which "
                    "regression and similarity need"
                )
            values.append(value)
        return values


def load_task(reference: str) -> TaskData:
    """Read the examples that a reference names; a TaskError says why it names none."""
    try:
        return _read(reference)
    except CorpusError as error:
        raise TaskError(f"task {reference}: {error}") from error


def _read(reference: str) -> TaskData:
    existing = existing_path(reference)
    if existing is not None and existing[0].is_file():
        path, rest = existing
        if kind_of(path) not in TABLES:
            suffixes = ", ".join(sorted(TABLES))
            raise TaskError(f"task file {path} has no columns; use one of {suffixes}")
        parts = split_reference(rest)
        columns = file_columns(path)
        if len(parts) != 2:
            raise TaskError(
                f"task file {path} needs its columns, as in {path.name}:text:label or "
                f"{path.name}:text,text:label ({listed(columns)})"
            )
        return _task(path.name, columns, *parts)
    if existing is None:
        name, *parts = split_reference(reference)
    else:
        name, parts = str(existing[0]), split_reference(existing[1]) if existing[1] else []
    if existing is None and name.startswith("glue/"):
        return _read_glue(reference, name.removeprefix("glue/"), parts)
    if existing is None and kind_of(Path(name)) in TABLES:
        raise TaskError(f"there is no task file {name}; check its path")
    if existing is not None and len(parts) == 2:
        return _read_split(name, None, None, *parts, local=True)
    if len(parts) not in (3, 4) or (existing is None and not DATASET_ID.fullmatch(name)):
        raise TaskError(
            f"task {reference!r} is none that is known; name glue/NAME, FILE:text,text:label, "
            "FOLDER:split:text,text:label, or a data set as id:config:split:text,text:label"
        )
    *config, split, texts, label = parts
    named = "".join(config) or None
    return _read_split(name, named, split, texts, label, local=existing is not None)


def _read_glue(reference: str, task: str, parts: Sequence[str]) -> TaskData:
    glue_task = _GLUE.get(task)
    if glue_task is None or len(parts) > 1:
        raise TaskError(
            f"task {reference!r} is none of GLUE; name one of "
            f"{', '.join(f'glue/{name}' for name in _GLUE)}, with a split behind a colon"
        )
    split = parts[0] if parts else glue_task.split
    return _read_split(
        "nyu-mll/glue",
        task,
        split,
        glue_task.columns,
        "label",
        local=False,
        metric=glue_task.metric,
    )


def _read_split(
    dataset: str,
    config: str | None,
    split: str | None,
    texts: str,
    label: str,
    *,
    local: bool,
    metric: Metric | None = None,
) -> TaskData:
    identity, _, revision = dataset.partition("@") if not local else (dataset, "", "")
    table = load_split(identity, revision or None, config, split, local=local)
    columns: dict[str, Any] = {name: table[name] for name in table.column_names}
    name = " ".join(part for part in (identity.rstrip("/").split("/")[-1], config, split) if part)
    names = getattr(table.features.get(label), "names", None)
    return _task(name, columns, texts, label, class_names=names, metric=metric)


def _task(
    name: str,
    columns: Mapping[str, Any],
    text_columns: str,
    label_column: str,
    *,
    class_names: Sequence[str] | None = None,
    metric: Metric | None = None,
) -> TaskData:
    # Names between commas, unless one column is called just that.
    wanted = [text_columns] if text_columns in columns else text_columns.split(",")
    if len(wanted) > 2:
        raise TaskError(f"{name}: an example is one text or a pair, not {len(wanted)} texts")
    rows = list(zip(*(column_values(columns, column, name) for column in wanted), strict=True))
    for place, row in enumerate(rows, start=1):
        if not all(isinstance(text, str) and text.strip() for text in row):
            raise TaskError(f"{name}: example {place} lacks a text in {text_columns!r}")
    labels = _labels(name, columns, label_column)
    if len(rows) < MIN_EXAMPLES:
        raise TaskError(
            f"{name} has {len(rows)} examples; nothing can be decided on fewer than {MIN_EXAMPLES}"
        )
    numbers = None
    if class_names is not None:
        numbers = tuple(map(int, labels))
        classes = range(len(class_names))
        labels = [class_names[n] if n in classes else n for n in numbers]
    return TaskData(
        name=plain(name, limit=120),
        texts=tuple(tuple(row) for row in rows),
        labels=tuple(labels),
        numbers=numbers,
        metric=metric,
        texts_fingerprint=digest([list(row) for row in rows]),
    )


def _labels(name: str, columns: Mapping[str, Any], column: str) -> list[Label]:
    labels = column_values(columns, column, name)
    for place, value in enumerate(labels, start=1):
        if not isinstance(value, str | int | float) or value == "":
            raise TaskError(f"{name}: example {place} has no label in {column!r}")
    return labels


def _bare(name: object) -> str:
    """A class's name without what writers vary: capitals, spaces, hyphens, underscores."""
    return re.sub(r"[\s_-]+", "_", str(name).strip().casefold())


def _whole(label: Label) -> int | None:
    """The whole number that a label is, if it is one."""
    try:
        value = float({"true": 1, "false": 0}.get(str(label).casefold(), label))
    except ValueError:
        return None
    return int(value) if value.is_integer() else None
