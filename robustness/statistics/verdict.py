"""What the user gets: a verdict, with the numbers it rests on.

How it is reached is in `looks` and `precision`, whose functions are
offered here too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from robustness.runtime.plain import plain
from robustness.statistics.decisions import (
    CHUNK,
    Decision,
    FactorDecision,
    MedianDecision,
    Side,
    decide_factor,
    decide_median,
    decide_ratio,
)
from robustness.statistics.precision import Precision, reduced_precision, reduced_precision_of_draws
from robustness.statistics.sequential import alpha_for, blind_share

__all__ = [
    "CHUNK",
    "SCHEMA",
    "Decision",
    "FactorDecision",
    "MedianDecision",
    "Outcome",
    "Precision",
    "Side",
    "Verdict",
    "alpha_for",
    "blind_share",
    "decide_factor",
    "decide_median",
    "decide_ratio",
    "reduced_precision",
    "reduced_precision_of_draws",
]

SCHEMA = 1
"""Version of a stored verdict."""

Outcome: TypeAlias = Literal["pass", "fail", "inconclusive", "error", "not applicable"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Verdict:
    """The answer to one statement about a checkpoint; true only if it passes.

    Attributes:
        outcome: what it came to.
        statement: what was asked, as a sentence that is true if the verdict passes.
        ratio: what was measured; may be infinite. ``None`` if nothing was.
        interval: of the ratio; ``None`` if it is exact, or nothing was measured.
        threshold: what the ratio was compared with.
        passes: the side of the threshold on which the verdict passes, which the threshold itself
            belongs to if it is ``above``; ``None`` without a threshold.
        text_blocks: text blocks it rests on.
        tokens: scored tokens it rests on.
        exact: whether the ratio is an evaluation of the whole corpus and not an estimate.
        details: further numbers, of JSON types.
        reason: why it came to this, where the numbers do not say it.
        course: the looks that led to it (see `course`); the last is its own ratio
            and interval.
    """

    outcome: Outcome
    statement: str
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    threshold: float | None = None
    passes: Side | None = None
    text_blocks: int = 0
    tokens: int = 0
    exact: bool = False
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
    reason: str = ""
    course: Sequence[Mapping[str, Any]] = field(default=(), hash=False)

    def __post_init__(self) -> None:
        """Refuse what a gate or a report could misread.

        Raises:
            ValueError: if there is no such outcome, or no such side of a threshold.
        """
        if self.outcome not in get_args(Outcome):
            raise ValueError(f"{self.outcome!r} is no outcome; one of {get_args(Outcome)} is")
        if self.passes not in (None, *get_args(Side)):
            raise ValueError(f"{self.passes!r} is no side; one of {get_args(Side)} is")

    @classmethod
    def of(
        cls,
        look: Decision,
        outcome: Outcome,
        *,
        statement: str,
        threshold: float,
        passes: Side,
        details: Mapping[str, Any],
        reason: str = "",
        course: Sequence[Mapping[str, Any]] = (),
    ) -> "Verdict":
        """The verdict on a degradation that a last look has decided, with its numbers."""
        return cls(
            outcome=outcome,
            statement=statement,
            ratio=look.ratio,
            interval=look.interval,
            threshold=threshold,
            passes=passes,
            text_blocks=look.text_blocks,
            tokens=look.tokens,
            exact=look.exact,
            details=details,
            reason=reason,
            course=course,
        )

    def __bool__(self) -> bool:
        """Whether it passes a gate: only ``pass`` does."""
        return self.outcome == "pass"

    def __repr__(self) -> str:
        """One line, as an assertion shows it."""
        parts = [f"{self.outcome.upper()}: {self.statement}", self._measured(), self.reason]
        return f"<{'; '.join(plain(' '.join(part.split())) for part in parts if part)}>"

    def explain(self) -> str:
        """Two or three lines for people: the statement, the numbers, and the reason if any."""
        lines = [f"{self.outcome.upper()}: {self.statement}"]
        if self.ratio is not None:
            lines.append(f"{self._measured()}{self._basis()}{self._blindness()}")
        if self.reason:
            lines.append(self.reason)
        return "\n".join(map(plain, lines))

    def _measured(self) -> str:
        if self.ratio is None:
            return ""
        text = f"measured {_number(self.ratio)}"
        if self.interval is not None:
            low, high = map(_number, self.interval)
            text += f" ({low} to {high})"
        return text if self.threshold is None else f"{text} against {_number(self.threshold)}"

    def _basis(self) -> str:
        if not self.text_blocks:
            return ""
        extent = f"{self.text_blocks:,} text blocks with {self.tokens:,} scored tokens"
        if "task" in self.details:
            extent = f"{self.text_blocks:,} examples"
            if self.exact:
                return f", exactly, on all {extent} of the task"
        if not self.exact:
            return f", estimated from {extent}"
        if self.ratio == math.inf:
            return f", whatever follows, from {extent}"
        if "baseline_text_blocks" in self.details:
            return f", exactly, on all {extent} that the baseline holds"
        return f", exactly, on the whole corpus of {extent}"

    def _blindness(self) -> str:
        share = self.details.get("blind_share")
        if share is None:
            return ""
        unit = "examples" if "task" in self.details else "text blocks"
        return f"; blind to effects in fewer than {100 * share:.2g} % of {unit}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; infinity becomes ``"inf"``."""
        values = {part.name: _plain(getattr(self, part.name)) for part in fields(self)}
        return {"schema": SCHEMA, **values}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Verdict":
        """The inverse of :meth:`to_dict`; those within ``details`` and ``course`` stay text.

        Raises:
            ValueError: if the schema is another one.
        """
        values = dict(data)
        if values.pop("schema", None) != SCHEMA:
            raise ValueError(f"a verdict of schema {data.get('schema')!r} cannot be read")
        for name in ("ratio", "threshold"):
            values[name] = None if values[name] is None else float(values[name])
        if values["interval"] is not None:
            low, high = map(float, values["interval"])
            values["interval"] = (low, high)
        values["course"] = tuple(values.get("course", ()))
        return cls(**values)


def _number(value: float) -> str:
    """Four significant digits, all digits before the point, and infinity in words."""
    if math.isinf(value):
        return "infinity" if value > 0 else "minus infinity"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def _plain(value: object) -> Any:
    """A value as exactly the types that JSON and a worker's channel take."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} {value!r} cannot be part of a verdict")
