"""Policies: where settings come from, and what is said of those that are wrong.

They come from ``[tool.robustness]`` in ``pyproject.toml`` or from a ``robustness.toml``, and have
one precedence: command line, then policy file, then defaults.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from robustness.checks.limits import Limits
from robustness.errors import PolicyError
from robustness.policy.settings import Settings
from robustness.store.documents import StrictTable

M = TypeVar("M", bound=StrictTable)
C = TypeVar("C", bound=Limits)

RENAMED = {"profile": "expectation"}
"""Keys that had another name."""


class PolicyFile(Settings):
    """What a policy file may hold."""

    confidence: float = Field(
        default=0.99, ge=0.5, lt=1, description="with which all verdicts hold"
    )
    checkpoints: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="settings for checkpoints that match a glob"
    )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A validated policy."""

    confidence: float = 0.99  # with which all verdicts of one run together are right
    source: str | None = None  # the file it came from, for messages; ``None`` for defaults
    # the file's settings as they stand there
    table: Mapping[str, Any] = field(default_factory=dict)
    # settings per glob, in the file's order; later ones win
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # settings from the command line, which win over all others
    options: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, reference: str, label: str = "") -> Settings:
        """Return a checkpoint's settings; globs match the name after ``--model`` or its label.

        Raises:
            PolicyError: if an override and the rest contradict each other.
        """
        merged: dict[str, Any] = dict(self.table)
        for glob, override in self.overrides.items():
            if _matches(glob, reference, label):
                merged = _merged(merged, override)
        return _validated(Settings, _merged(merged, self.options), self.source or "command line")

    def require_overrides_match(self, references: Sequence[str], labels: Sequence[str]) -> None:
        """Refuse an override of no checkpoint of the run: nobody would get what it says."""
        named = list(zip(references, labels, strict=True))
        for glob in self.overrides:
            if not any(_matches(glob, reference, label) for reference, label in named):
                raise PolicyError(
                    f"{self.source}: checkpoints.{glob!r} matches none of this run's checkpoints; "
                    f"they are named {', '.join(labels)}, or as after --model"
                )


def load_policy(
    file: Path | None, *, folders: Sequence[Path] = (), options: Mapping[str, Any] | None = None
) -> Policy:
    """Return the policy of a run.

    Args:
        file: named explicitly; must exist.
        folders: where else to look, one after the other: for ``robustness.toml``, then for
            ``[tool.robustness]`` in ``pyproject.toml``.
        options: settings given on the command line, nested like the file.

    Raises:
        PolicyError: naming the file, the key and what would be right.
    """
    given = dict(options or {})
    confidence = given.pop("confidence", None)
    source, table = _read(file, folders)
    name = source or "command line"
    whole = _validated(PolicyFile, table, name)
    for glob, override in whole.checkpoints.items():
        merged = _merged(_without_run_wide(table), override)
        _validated(Settings, merged, name, prefix=("checkpoints", glob))
    if confidence is not None:
        whole = _validated(
            PolicyFile, {**table, "confidence": confidence}, "--robustness-confidence"
        )
    _validated(Settings, given, "command line")
    return Policy(
        confidence=whole.confidence,
        source=source,
        table=_without_run_wide(table),
        overrides=whole.checkpoints,
        options=given,
    )


def load_check(check: type[C], values: Mapping[str, Any]) -> C:
    """Return the settings of one check as given on the command line, or raise a PolicyError."""
    return _validated(check, values, "command line")


def _matches(glob: str, reference: str, label: str) -> bool:
    return fnmatchcase(reference, glob) or fnmatchcase(label, glob)


def _read(file: Path | None, folders: Sequence[Path]) -> tuple[str | None, dict[str, Any]]:
    if file is not None:
        if not file.exists():
            raise PolicyError(f"policy file {file} does not exist; name an existing TOML file")
        return str(file), _table(file)
    for folder in folders:
        candidate = folder / "robustness.toml"
        if candidate.exists():
            return str(candidate), _table(candidate)
        candidate = folder / "pyproject.toml"
        if candidate.is_file() and (table := _table(candidate)):
            return str(candidate), table
    return None, {}


def _table(file: Path) -> dict[str, Any]:
    """The settings of a TOML file: ``[tool.robustness]``, or in a policy file the top level."""
    if not file.is_file():
        raise PolicyError(f"{file} is not a file; a policy is a TOML file")
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:  # also numbers and nesting beyond limits
        raise PolicyError(f"{file} is not valid TOML: {error}") from None
    tool = data.get("tool", {})
    nested = tool.get("robustness") if isinstance(tool, dict) else None
    if nested is None:
        nested = {} if file.name == "pyproject.toml" else data
    if not isinstance(nested, dict):
        raise PolicyError(f"{file}: tool.robustness must be a table, not {nested!r}")
    return nested


def _without_run_wide(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key in Settings.model_fields}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``, table by table."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _validated(
    model: type[M], data: Mapping[str, Any], source: str, prefix: tuple[str, ...] = ()
) -> M:
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        lines = [_explain(model, dict(problem), source, prefix) for problem in error.errors()]
        raise PolicyError("; ".join(lines)) from None


def _explain(
    model: type[BaseModel], problem: Mapping[str, Any], source: str, prefix: tuple[str, ...]
) -> str:
    path = [str(part) for part in (*prefix, *problem["loc"])]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        keys = _known_keys(model, problem["loc"][:-1])
        close = difflib.get_close_matches(path[-1], keys, n=1)
        close = [RENAMED[path[-1]]] if RENAMED.get(path[-1]) in keys else close
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(keys)}"
        return f"{source}: unknown key {key!r}; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "string_pattern_mismatch":  # a regular expression explains nothing
        message = f"must be {Settings.model_fields[path[-1]].description}"
    given = "" if isinstance(problem["input"], dict) else f", not {problem['input']!r}"
    return f"{source}: {key}: {message[:1].lower()}{message[1:]}{given}"


def _known_keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        annotation = _fields(model)[str(part)].annotation
        options = [annotation, *get_args(annotation)]
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return sorted(_fields(model))


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A table's fields by the keys they have in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}
