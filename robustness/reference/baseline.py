"""Profiles: what was measured of checkpoints, kept in a file to compare later ones with.

A profile holds numbers per text block, in the seeded order of measurement, so that another
checkpoint can be compared *paired*: on the same text blocks with the same masks. What has to be
equal for that is in an entry's ``conditions``; what the numbers came from is in its ``provenance``.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    with_config,
)

from robustness.errors import BaselineError
from robustness.statistics.figures import Number
from robustness.store.documents import first_fault, read_document
from robustness.store.files import write_atomically

SCHEMA: Literal[2] = 2
"""Version of a profile; part of the public interface."""

KIND: Literal["robustness profile"] = "robustness profile"
MOST_NATS = 1e12
"""The most that a text block may have: sums of what is read cannot overflow."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must hold printable characters only")
    return text


def _sane(value: float) -> float:
    if not (abs(value) <= MOST_NATS or value == math.inf):
        raise ValueError("must be a number of nats, or inf")
    return value


Text = Annotated[str, Field(max_length=4096), AfterValidator(_printable)]
Index = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Nats = Annotated[float, Field(ge=-MOST_NATS, le=MOST_NATS, allow_inf_nan=False)]
AblatedNats = Annotated[Number, AfterValidator(_sane)]
T = TypeVar("T")
_STRICT = ConfigDict(extra="forbid", strict=True)


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class Flagged:
    """An outlier dimension, and the layers (0-based) in which the rule flags it."""

    dim: Index
    layers: tuple[Index, ...]


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class AblationBaseline:
    """The model under one ablation, ``dim308``; NLLs per text block may be infinite."""

    name: Text
    ablation: dict[str, JsonValue]
    nll_nats: tuple[AblatedNats, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        """The dimensions that are ablated."""
        dims: Any = self.ablation["dims"]
        return tuple(dims)


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class CheckpointBaseline:
    """One checkpoint as it was measured.

    Attributes:
        reference: the checkpoint as it was named; its ``revision`` is the resolved one.
        text_blocks: of the corpus; the profile may hold fewer.
        conditions: what has to be equal for numbers to be compared.
        provenance: what else the numbers depend on: hashes, versions, device.
        outliers: ascending by dimension.
        tokens: scored tokens per text block, in the order of measurement, shape (n,).
        nll_nats: the intact model's, shape (n,).
        ablations: each outlier dimension's, and that of all together.
        failed: the checks that it did not pass when it was saved.
    """

    label: Text
    reference: Text
    revision: Text
    architecture: Text
    corpus: Text
    text_blocks: Count
    layers: Count
    hidden_size: Count
    conditions: dict[str, JsonValue]
    provenance: dict[str, JsonValue]
    outliers: tuple[Flagged, ...]
    tokens: tuple[Index, ...]
    nll_nats: tuple[Nats, ...]
    ablations: tuple[AblationBaseline, ...]
    failed: tuple[Text, ...]

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other, by a ValueError that names them."""
        held = len(self.nll_nats)
        if len(self.tokens) != held or not 0 < held <= self.text_blocks or not sum(self.tokens):
            raise ValueError("needs one NLL and one token count for each of its text blocks")
        dims = [flagged.dim for flagged in self.outliers]
        if sorted(set(dims)) != dims or any(dim >= self.hidden_size for dim in dims):
            raise ValueError("outlier dimensions must ascend and lie within the hidden size")
        if len({ablated.name for ablated in self.ablations}) < len(self.ablations):
            raise ValueError("an ablation is there twice")
        for ablated in self.ablations:
            _require_ablation(ablated, self.hidden_size)
            if not 0 < len(ablated.nll_nats) <= held:
                raise ValueError(f"ablation {ablated.name} needs NLLs of the same text blocks")

    @property
    def dims(self) -> tuple[int, ...]:
        """The outlier dimensions, ascending."""
        return tuple(flagged.dim for flagged in self.outliers)

    @property
    def held(self) -> int:
        """How many text blocks have numbers."""
        return len(self.nll_nats)

    @property
    def whole(self) -> bool:
        """Whether it holds all text blocks of the corpus, of every ablation, too."""
        lengths = {self.held, *(len(ablated.nll_nats) for ablated in self.ablations)}
        return lengths == {self.text_blocks}

    @property
    def perplexity(self) -> float:
        """The intact model's, on the text blocks held."""
        return float(np.exp(min(math.fsum(self.nll_nats) / sum(self.tokens), 700.0)))

    def summary(self) -> dict[str, Any]:
        """What reports say of it, in JSON types."""
        return {
            "label": self.label,
            "reference": self.reference,
            "revision": self.revision,
            "text_blocks": self.held,
            "perplexity": self.perplexity,
            "dims": list(self.dims),
            "failed": list(self.failed),
        }

    def name_of(self, ablation: Mapping[str, Any]) -> str | None:
        """The name of an ablation that it holds, by where, how and what it switches off."""
        return self.names_by_ablation.get(json.dumps(ablation, sort_keys=True))

    @cached_property
    def names_by_ablation(self) -> dict[str, str]:
        """Names of the ablations by where, how and what they switch off, as text."""
        return {json.dumps(a.ablation, sort_keys=True): a.name for a in self.ablations}

    def ablated(self, name: str) -> AblationBaseline:
        """The ablation of this name."""
        return next(ablated for ablated in self.ablations if ablated.name == name)

    def delta_nll(self, name: str) -> NDArray[np.float64]:
        """Ablated minus intact, in nats per text block, shape (n,)."""
        ablated = np.array(self.ablated(name).nll_nats)
        delta: NDArray[np.float64] = ablated - np.array(self.nll_nats[: len(ablated)])
        return delta

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; infinity becomes ``"inf"``."""
        return _plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "CheckpointBaseline":
        """The inverse of :meth:`to_dict`; a BaselineError says what is wrong."""
        text = json.dumps(data).encode()
        return _checked(TypeAdapter(cls), text, "the profile of a checkpoint")


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A file of them: when it was created (ISO 8601), and by which version of robustness."""

    kind: Literal["robustness profile"] = KIND
    schema: Literal[2] = SCHEMA
    robustness: Text
    created: Text
    checkpoints: tuple[CheckpointBaseline, ...]

    def __post_init__(self) -> None:
        """Refuse a profile of nothing, or of two checkpoints under one name."""
        labels = {entry.label for entry in self.checkpoints}
        if not labels or len(labels) < len(self.checkpoints):
            raise ValueError("needs checkpoints with different labels")

    def entry(self, label: str, *, source: str, alone: bool = True) -> CheckpointBaseline:
        """The checkpoint with this label, or the only one if an ``alone`` one may have another.

        A BaselineError says that the profile, read from ``source``, has none.
        """
        for entry in self.checkpoints:
            if entry.label == label or (alone and len(self.checkpoints) == 1):
                return entry
        labels = ", ".join(entry.label for entry in self.checkpoints)
        raise BaselineError(
            f"{source} holds no checkpoint {label!r}, but {labels}: vet a checkpoint of that name, "
            "or name another baseline"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return _plain(self)


@with_config(ConfigDict(strict=True, extra="ignore"))
@dataclass(frozen=True, kw_only=True)
class _Head:
    kind: Literal["robustness profile"]
    schema: int


def read_baseline(file: Path) -> Baseline:
    """Read a profile, whatever the file is; a BaselineError says why it cannot be read."""
    text = read_document(
        file, kind="profile", name="a profile that a run has saved", error=BaselineError
    )
    head = _checked(TypeAdapter(_Head), text, str(file))
    if head.schema != SCHEMA:
        raise BaselineError(
            f"{file} has schema {head.schema}, and this version reads schema {SCHEMA}: save the "
            "baseline again"
        )
    return _checked(TypeAdapter(Baseline), text, str(file))


def write_baseline(profile: Baseline, file: Path) -> None:
    """Write a profile, all of it or nothing (OSError)."""
    write_atomically(file, json.dumps(profile.to_dict(), allow_nan=False) + "\n")


def _require_ablation(ablated: AblationBaseline, hidden_size: int) -> None:
    from robustness.ablation.ablation import Ablation
    from robustness.errors import UnsupportedSite

    try:
        ablation = Ablation.from_dict(ablated.ablation)
    except (KeyError, TypeError, ValueError, UnsupportedSite):
        raise ValueError(f"ablation {ablated.name} is none") from None
    if ablation.to_dict() != ablated.ablation or max(ablation.dims) >= hidden_size:
        raise ValueError(f"ablation {ablated.name} is not of the model's dimensions")


def _plain(profile: Baseline | CheckpointBaseline) -> dict[str, Any]:
    plain: dict[str, Any] = TypeAdapter(type(profile)).dump_python(profile, mode="json")
    return plain


def _checked(kind: TypeAdapter[T], text: bytes, source: str) -> T:
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        fault = first_fault(error)
        raise BaselineError(f"{source} is not a profile that can be read: {fault}") from None
