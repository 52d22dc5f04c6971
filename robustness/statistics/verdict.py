"""What the user gets: a verdict, with the numbers it rests on."""

import math
from typing import Any, Literal, TypeAlias

from robustness.runtime.plain import plain
from robustness.statistics.decisions import Decision, Side
from robustness.statistics.details import Details
from robustness.statistics.figures import Figures, HistoryEntry, Interval, Number

Outcome: TypeAlias = Literal["pass", "fail", "inconclusive", "error", "not applicable"]
Measure: TypeAlias = Literal["ratio", "factor", "drop", "share", "divergence"]
"""What a verdict's number is: a ratio of perplexities, a factor between two effects, the drop of a
task's score, a share of predictions, or a KL divergence in nats per scored position."""
Unit: TypeAlias = Literal["text blocks", "examples"]


class Verdict(Figures):
    """The answer to one question about a checkpoint; true only if it passes.

    Attributes:
        outcome: what it came to.
        statement: a sentence that is true if the verdict passes.
        measured: the number that was measured; may be infinite. ``None`` if nothing was.
        measure: what that number is.
        interval: of the number; ``None`` if it is exact, or nothing was measured.
        threshold: what the number was compared with.
        passes: the side of the threshold on which the verdict passes (``above`` includes the
            threshold itself); ``None`` without a threshold.
        seen: text blocks or examples it rests on, over all passes.
        unit: which of the two.
        tokens: scored tokens it rests on.
        exact: whether the number is an evaluation of the whole corpus and not an estimate.
        details: further numbers.
        reason: why it came to this, where the numbers do not say it.
        history: the decisions on the way; the last has the verdict's own number and interval.
    """

    outcome: Outcome
    statement: str
    measured: Number | None = None
    measure: Measure = "ratio"
    interval: Interval | None = None
    threshold: float | None = None
    passes: Side | None = None
    seen: int = 0
    unit: Unit = "text blocks"
    tokens: int = 0
    exact: bool = False
    details: Details = Details()
    reason: str = ""
    history: tuple[HistoryEntry, ...] = ()

    def __bool__(self) -> bool:
        """Whether it passes a gate: only ``pass`` does."""
        return self.outcome == "pass"

    def __repr__(self) -> str:
        """One line, as an assertion shows it."""
        parts = [f"{self.outcome.upper()}: {self.statement}", self._measured(), self.reason]
        return f"<{'; '.join(plain(' '.join(part.split())) for part in parts if part)}>"

    __str__ = __repr__

    def explain(self) -> str:
        """Two or three lines for people: the statement, the numbers, and the reason if any."""
        lines = [f"{self.outcome.upper()}: {self.statement}"]
        if self.measured is not None:
            lines.append(f"{self._measured()}{self._basis()}{self._blindness()}")
        if self.reason:
            lines.append(self.reason)
        return "\n".join(map(plain, lines))

    def _measured(self) -> str:
        if self.measured is None:
            return ""
        text = f"measured {_number(self.measured)}"
        if self.interval is not None:
            low, high = map(_number, self.interval)
            text += f" ({low} to {high})"
        return text if self.threshold is None else f"{text} against {_number(self.threshold)}"

    def _basis(self) -> str:
        if not self.seen:
            return ""
        extent = f"{self.seen:,} text blocks with {self.tokens:,} scored tokens"
        if self.unit == "examples":
            extent = f"{self.seen:,} examples"
            if self.exact:
                return f", exactly, on all {extent} of the task"
        if not self.exact:
            return f", estimated from {extent}"
        if self.measured == math.inf:
            return f", whatever follows, from {extent}"
        if self.details.reference is not None:
            return f", exactly, on all {extent} that both have"
        return f", exactly, on the whole corpus of {extent}"

    def _blindness(self) -> str:
        share = self.details.blind_share
        return (
            ""
            if share is None
            else f"; blind to effects in fewer than {100 * share:.2g} % of {self.unit}"
        )


def verdict_of(
    decision: Decision, statement: str, *, passes: Side | None, **fields: Any
) -> Verdict:
    """The verdict that a decision amounts to; ``fields`` add to what it says, or replace it.

    It passes on one side of the threshold, or in any case where there is none (``None``).
    """
    outcome: Outcome = "pass" if passes is None else "inconclusive"
    if passes is not None and decision.side is not None:
        outcome = "pass" if decision.side == passes else "fail"
    said = {
        "measured": float(decision.measured),
        "interval": decision.ends,
        "seen": decision.seen,
        "tokens": decision.tokens,
        "exact": decision.exact,
    }
    fields = {**said, **fields}
    return Verdict(outcome=outcome, statement=statement, passes=passes, **fields)


def _number(value: float) -> str:
    """Four significant digits, all digits before the point, and infinity in words."""
    if math.isinf(value):
        return "infinity" if value > 0 else "minus infinity"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
