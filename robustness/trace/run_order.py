"""The checkpoints of a run in the order of its steps, and which of them are meant."""

import re
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path

from robustness.errors import CheckpointError, PolicyError

_FOLDER = re.compile(r"checkpoint-\d+")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_UNITS = {"": 1, "k": 1000, "m": 1_000_000}


def in_order(references: Sequence[str]) -> list[tuple[str, int | None]]:
    """Return a run's checkpoints with their steps, ascending; as named where one has no number.

    A quoted pattern stands for what it matches, and a folder that is no checkpoint but holds
    ``checkpoint-9000`` and the like for these.

    Raises:
        CheckpointError: a pattern matches nothing, or two checkpoints have the same step.
    """
    numbered = [
        (reference, step_of(reference)) for text in references for reference in _expanded(text)
    ]
    steps = [step for _, step in numbered]
    if all(step is not None for step in steps):
        numbered.sort(key=lambda one: one[1] or 0)
        twice = [step for step in steps if steps.count(step) > 1]
        if twice:
            raise CheckpointError(
                f"two of the checkpoints are named after step {twice[0]}: name those of one run"
            )
    return numbered


def step_of(reference: str) -> int | None:
    """The step in a checkpoint's name: the last number of ``checkpoint-9000`` or ``x@step_20k``.

    A commit's hash is no step, whatever digits it ends in.
    """
    name = reference.rpartition("@")[2].rstrip("/").rpartition("/")[2]
    if _COMMIT.fullmatch(name) and not name.isdigit():
        return None
    numbers = re.findall(r"(\d+)([kKmM]?)(?![A-Za-z\d])", name)
    if not numbers:
        return None
    digits, unit = numbers[-1]
    return int(digits) * _UNITS[unit.lower()]


def chosen(steps: Sequence[int | None], text: str) -> tuple[int, ...]:
    """Return which of the checkpoints are meant, as their places in the run, ascending.

    The text is ``all``, ``first``, ``last``, ``every:N`` (every N-th, from the first one on) or a
    step like ``9000`` or ``20k``; several with commas between.

    Raises:
        PolicyError: it is none of these, or there is no such step.
    """
    places: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        places.update(_places(steps, part))
    if not places:
        raise PolicyError(f"{text!r} chooses no checkpoint: {_CHOICES}")
    return tuple(sorted(places))


_CHOICES = "say all, first, last, every:N or steps like 9000 or 20k, with commas between"


def _places(steps: Sequence[int | None], part: str) -> Sequence[int]:
    everything = range(len(steps))
    if part in ("all", "first", "last"):
        return {"all": everything, "first": everything[:1], "last": everything[-1:]}[part]
    if match := re.fullmatch(r"every:([1-9]\d{0,8})", part):
        return everything[:: int(match[1])]
    match = re.fullmatch(r"(\d{1,12})([kKmM]?)", part)
    if not match:
        raise PolicyError(f"{part!r} chooses no checkpoint: {_CHOICES}")
    wanted = int(match[1]) * _UNITS[match[2].lower()]
    if wanted not in steps:
        numbers = [str(step) for step in steps if step is not None]
        raise PolicyError(
            f"no checkpoint is named after step {wanted}; the steps here are "
            f"{', '.join(numbers) or 'not in their names: say first, last, every:N or all'}"
        )
    return [place for place, step in enumerate(steps) if step == wanted]


def _expanded(text: str) -> Iterator[str]:
    path = Path(text)
    if has_magic(text) and not path.exists():
        matches = [match for match in glob(text) if Path(match).exists()]  # noqa: PTH207
        if not matches:
            raise CheckpointError(f"nothing matches {text!r}: check the path")
        yield from sorted(matches, key=_by_number)
    elif found := [] if (path / "config.json").exists() else _numbered(path):
        yield from found
    else:
        yield text


def _numbered(folder: Path) -> list[str]:
    """The checkpoints that a Trainer has left in a folder, in order; none of other names."""
    if not folder.is_dir():
        return []
    folders = (one for one in folder.iterdir() if _FOLDER.fullmatch(one.name) and one.is_dir())
    return sorted(map(str, folders), key=_by_number)


def _by_number(text: str) -> tuple[list[tuple[str, int]], str]:
    """Text in the order in which people count: numbers by their value."""
    return [(word, int(n or 0)) for word, n in re.findall(r"(\D*)(\d*)", text)], text
